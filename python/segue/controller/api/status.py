"""The installation at a glance."""

from __future__ import annotations

import os
from typing import Any

from litestar import get

import segue
from segue.api.status import Status
from segue.controller.api.waits import stuck, waits
from segue.controller.controller import Controller

SECOND_NS = 1_000_000_000


def status_routes(c: Controller) -> list[Any]:
    """GET /v1/status."""
    begun_ns = c.clock.now_ns()

    @get("/status")
    async def status() -> Status:
        """The installation at a glance, and what waits for what."""
        return Status(
            version=segue.__version__,
            installation=c.table.installation.hex(),
            term=c.term,
            commit=c.table.number,
            pid=os.getpid(),
            up_s=(c.clock.now_ns() - begun_ns) / SECOND_NS,
            containers=len(c.table.containers),
            disks=len(c.table.disks),
            agents=sum(peer.state.value == "present" for peer in c.peers.values()),
            incomplete_extents=len(c.table.records),
            faults_answered=c.faults_answered,
            problems=_problems(c),
            waits=waits(c),
        )

    return [status]


def _problems(c: Controller) -> list[str]:
    """What an operator should look at, one sentence each."""
    said = []
    for peer in c.peers.values():
        disks = [c.table.disks[d].name for d in c.table.disks_of(peer.incarnation)]
        if peer.state.value in ("absent", "lost") and disks:
            said.append(
                f"agent {peer.name} ({peer.incarnation:x}) is {peer.state.value} and may still "
                f"have I/O under way on {', '.join(disks)}"
            )
    for disk in c.table.disks.values():
        names = [c.table.containers[number].row.name for number in disk.failed]
        if names:
            said.append(f"disk {disk.name}: a flush failed at {', '.join(names)}")
    for container in c.table.containers.values():
        if container.space.free == 0:
            said.append(f"container {container.row.name} is full")
    for extent, error in sorted(c.background.trouble.items()):
        record = c.table.records.get(extent)
        if record is not None:
            disk = c.table.disks[record.disk]
            said.append(f"disk {disk.name} segment {record.segment}: cannot be copied: {error}")
    return [*said, *stuck(c)]
