"""Agents: their routes, and rows to structs."""

from __future__ import annotations

from typing import Any

from litestar import get, post
from litestar.params import FromPath

from segue.api.agents import AgentInfo, DeclaredDead
from segue.controller.controller import Controller
from segue.controller.peer import Peer
from segue.controller.procedures.declare_dead import declare_dead

SECOND_NS = 1_000_000_000


def agent_routes(c: Controller) -> list[Any]:
    """``/v1/agents`` and what is under it."""

    @get("/agents")
    async def list_agents() -> list[AgentInfo]:
        """All incarnations that live or are not known to have ended."""
        peers = sorted(c.peers.values(), key=lambda peer: (peer.name, peer.incarnation))
        return [_agent_info(c, peer) for peer in peers]

    @post("/agents/{name:str}/declare-dead", status_code=200)
    async def declare_agent_dead(name: FromPath[str]) -> DeclaredDead:
        """Take the lost incarnations of an agent (or one, in hexadecimal) for dead."""
        return DeclaredDead([f"{ended:x}" for ended in await declare_dead(c, name)])

    return [list_agents, declare_agent_dead]


def _agent_info(c: Controller, peer: Peer) -> AgentInfo:
    left_ns = peer.lease_until_ns - c.clock.now_ns()
    return AgentInfo(
        agent=peer.agent,
        name=peer.name,
        incarnation=f"{peer.incarnation:x}",
        state=peer.state.value,
        lease_s=max(0, left_ns) / SECOND_NS,
        listens=peer.listens,
        disks=[c.table.disks[disk].name for disk in c.table.disks_of(peer.incarnation)],
    )
