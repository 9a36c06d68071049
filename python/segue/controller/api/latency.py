"""How long hosts' I/O took: its routes.  Agents are asked when somebody wants to know."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import get
from litestar.params import FromPath

from segue.api.latency import DiskLatency, LatencyInfo
from segue.controller.controller import Controller
from segue.controller.latency import Histogram, Kind, ask, merged
from segue.controller.peer import Peer, PeerState
from segue.controller.procedures import verbs
from segue.controller.procedures.verbs import Refusal
from segue.controller.table import Disk

PEOPLE_WAIT_S = 1.0
"""An agent answers within milliseconds; one that is stopped counts as present until its lease ends.
"""


def latency_routes(c: Controller) -> list[Any]:
    """``latency`` of a disk and of an agent."""

    @get("/disks/{name:str}/latency")
    async def disk_latency(name: FromPath[str]) -> DiskLatency:
        """How long the disk's hosts waited, by operation and cause, at all agents together."""
        disk = verbs.disk_called(c, name)
        peers = sorted(c.peers.values(), key=lambda peer: (peer.name, peer.incarnation))
        mine = [p for p in peers if p.state is PeerState.PRESENT or p in c.peers_of(disk.disk)]
        return await latency_of(c, disk, mine)

    @get("/agents/{name:str}/latency")
    async def agent_latency(name: FromPath[str]) -> list[DiskLatency]:
        """How long hosts of the agent that is there waited, disk by disk."""
        if all(row.name != name for row in c.table.agents.values()):
            raise Refusal(f"no agent is called {name}", missing=True)
        peers = [p for p in c.peers.values() if p.name == name and p.state is PeerState.PRESENT]
        asked = [(disk, peer) for peer in peers for disk in c.table.disks_of(peer.incarnation)]
        # The rows, not their numbers: a disk may be deleted before its turn.
        told = (latency_of(c, c.table.disks[disk], [peer]) for disk, peer in asked)
        return list(await asyncio.gather(*told))

    return [disk_latency, agent_latency]


async def latency_of(c: Controller, disk: Disk, peers: list[Peer]) -> DiskLatency:
    """What these agents have counted of a disk, and which of them did not answer."""
    answers = await asyncio.gather(*(ask(c, peer, disk.disk, PEOPLE_WAIT_S) for peer in peers))
    told = [answer for answer in answers if answer is not None]
    kinds = sorted({kind for answer in told for kind in answer})
    agents: list[str] = []
    silent: list[str] = []
    for peer, answer in zip(peers, answers, strict=True):
        if answer is None:
            silent.append(peer.name)
        elif answer or peer in c.peers_of(disk.disk):
            agents.append(peer.name)
    rows = [_row(kind, merged(answer[kind] for answer in told if kind in answer)) for kind in kinds]
    return DiskLatency(disk.name, agents, silent, rows)


def _row(kind: Kind, histogram: Histogram) -> LatencyInfo:
    def percentile_us(percent: float) -> float:
        return (histogram.percentile_ns(percent) or 0) / 1000

    return LatencyInfo(
        operation=kind.operation.name.lower(),
        cause=kind.cause.name.lower(),
        count=histogram.count,
        mean_us=histogram.sum_ns / max(1, histogram.count) / 1000,
        p50_us=percentile_us(50),
        p99_us=percentile_us(99),
        p999_us=percentile_us(99.9),
        p9999_us=percentile_us(99.99),
        max_us=histogram.max_ns / 1000,
    )
