"""What an operator sets of an agent process."""

from __future__ import annotations

import math
import re

import msgspec

from segue.limits import HANDSHAKE_S, LONGEST_TIMEOUT_S, check_limits
from segue.wire.link import Address

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Of an agent, as of a disk: it becomes part of a socket's path."""
MIN_PARK_LIMIT_BYTES = 1 << 20


class AgentConfigError(Exception):
    """The configuration makes no sense; one clear sentence."""


class AgentConfig(msgspec.Struct, frozen=True):
    """What an operator sets of an agent."""

    name: str
    controller: str
    """``unix:///PATH`` or ``tcp://HOST:PORT``."""
    listen: list[str]
    """Where hosts are served: addresses of the same two kinds."""
    park_limit_bytes: int = 64 << 20
    """Parked writes held per disk before its connections are not read (design, section 4)."""
    host_timeout_s: float = 0.0
    """Hosts get EIO when their I/O has waited so long; 0: they wait."""
    handshake_timeout_s: float = HANDSHAKE_S
    """A client's own time from connecting until its disk is agreed on; then it is cut off."""
    connections: int = 1024
    """Connections that disks are served over at once; more are refused."""
    disk_connections: int = 128
    """The same, of one disk."""
    insecure: bool = False
    """Allows addresses that other machines reach, without TLS."""
    drain_s: float = 2.0
    """How long a clean stop waits for host I/O under way."""


def check_agent(config: AgentConfig) -> None:
    """Raises `AgentConfigError` for what no agent can run with."""
    if not NAME.fullmatch(config.name):
        raise AgentConfigError(
            f"{config.name!r} is no name for an agent: letters, digits, '.', '_' and '-', "
            f"63 at most, beginning with a letter or a digit"
        )
    try:
        Address.parse(config.controller)
        addresses = [Address.parse(text) for text in config.listen]
    except ValueError as error:
        raise AgentConfigError(str(error)) from None
    for address in addresses:
        if not address.local and not config.insecure:
            raise AgentConfigError(
                f"{address} can be reached from other machines: there is no TLS yet, "
                f"--insecure allows it"
            )
    if config.park_limit_bytes < MIN_PARK_LIMIT_BYTES:
        raise AgentConfigError("parked writes of 1 MiB a disk at least must be allowed")
    timeout_s = config.host_timeout_s
    if not math.isfinite(timeout_s) or not 0 <= timeout_s <= LONGEST_TIMEOUT_S:
        raise AgentConfigError(
            f"hosts time out after 0 to {LONGEST_TIMEOUT_S:.0f} s, not {timeout_s:g}"
        )
    try:
        check_limits(config.handshake_timeout_s, config.connections, config.disk_connections)
    except ValueError as error:
        raise AgentConfigError(str(error)) from None
