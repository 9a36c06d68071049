"""Agents in the HTTP API."""

from __future__ import annotations

import msgspec


class AgentInfo(msgspec.Struct, frozen=True):
    """One incarnation of an agent."""

    agent: int
    name: str
    incarnation: str
    """Hexadecimal: it has 61 bits, and JSON numbers are not exact."""
    state: str
    lease_s: float
    """Seconds the controller still counts its lease for; 0: none."""
    listens: list[str]
    """Where hosts reach it: NBD URIs without an export."""
    disks: list[str]


class DeclaredDead(msgspec.Struct, frozen=True):
    """POST /v1/agents/NAME/declare-dead: what was lost and is now taken for dead."""

    incarnations: list[str]
    """Hexadecimal."""
