"""What peers may take of a process that serves them over NBD (promise P9).

An agent and ``segue serve`` have the same settings for it, and the same bounds of those.
"""

from __future__ import annotations

import logging
import resource

log = logging.getLogger("segue.limits")

HANDSHAKE_S = 10.0
"""A client's own time for its handshake, if nothing else is set."""
MIN_HANDSHAKE_S = 0.1
LONGEST_TIMEOUT_S = 86_400.0
MOST_CONNECTIONS = 65_536


def check_limits(handshake_timeout_s: float, *connections: int) -> None:
    """Raises `ValueError`, with one clear sentence, for what makes no sense."""
    if not MIN_HANDSHAKE_S <= handshake_timeout_s <= LONGEST_TIMEOUT_S:
        raise ValueError(
            f"a handshake may take {MIN_HANDSHAKE_S:g} to {LONGEST_TIMEOUT_S:.0f} s, "
            f"not {handshake_timeout_s:g}"
        )
    for count in connections:
        if not 1 <= count <= MOST_CONNECTIONS:
            raise ValueError(f"1 to {MOST_CONNECTIONS} connections are served, not {count}")


def allow_descriptors(wanted: int) -> None:
    """Each connection needs a descriptor; with fewer than `wanted`, some wait to be taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning("event=few_descriptors limit=%d wanted=%d", hard, wanted)
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
