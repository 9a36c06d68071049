"""What an operator may set of an agent."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from segue.agent.config import AgentConfig, AgentConfigError, check_agent

GOOD = AgentConfig("one", "unix:///run/controller", ["unix:///run/nbd", "tcp://127.0.0.1:0"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "../../etc"}, "no name for an agent"),
        ({"name": ""}, "no name for an agent"),
        ({"name": "a" * 64}, "no name for an agent"),
        ({"name": "a\n"}, "no name for an agent"),
        ({"controller": "nowhere"}, "is no address"),
        ({"listen": ["tcp://x"]}, "HOST:PORT"),
        ({"listen": ["tcp://0.0.0.0:10809"]}, "--insecure"),
        ({"park_limit_bytes": 0}, "1 MiB"),
        ({"park_limit_bytes": -1}, "1 MiB"),
        ({"host_timeout_s": float("nan")}, "time out"),
        ({"host_timeout_s": float("inf")}, "time out"),
        ({"host_timeout_s": -1.0}, "time out"),
        ({"handshake_timeout_s": 0.0}, "handshake may take"),
        ({"handshake_timeout_s": float("nan")}, "handshake may take"),
        ({"connections": 0}, "connections are served"),
        ({"disk_connections": 1 << 20}, "connections are served"),
    ],
)
def test_what_no_agent_can_run_with_is_refused(change: dict[str, Any], sentence: str) -> None:
    check_agent(GOOD)
    with pytest.raises(AgentConfigError, match=sentence):
        check_agent(msgspec.structs.replace(GOOD, **change))
