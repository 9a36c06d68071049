"""The installation at a glance."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from litestar import get

import segue
from segue.api.status import Status
from segue.controller import fences
from segue.controller.api.containers import container_info, little_room
from segue.controller.api.jobs import waiting_jobs
from segue.controller.api.waits import stuck, waits
from segue.controller.controller import Controller
from segue.controller.table import Container, Disk

SECOND_NS = 1_000_000_000
LITTLE_ROOM = 0.1
"""Of a pool: less free than that is worth a word."""


def status_routes(c: Controller) -> list[Any]:
    """GET /v1/status."""
    begun_ns = c.clock.now_ns()

    @get("/status")
    async def status() -> Status:
        """The installation at a glance, and what waits for what."""
        room = await little_room(c)
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
            problems=[*_problems(c), *room],
            waits=waits(c),
        )

    return [status]


def _failed_flushes(c: Controller) -> Iterator[str]:
    """Flushes that failed: those of one container and error together, and what to do."""
    found: dict[tuple[int, int], list[str]] = {}
    for disk in c.table.disks.values():
        for number, errno in disk.failed.items():
            found.setdefault((number, errno), []).append(disk.name)
    for (number, errno), names in sorted(found.items()):
        yield (
            f"disk{'s' * (len(names) > 1)} {', '.join(names)}: a flush failed at "
            f"{c.name_of_container(number)} ({os.strerror(errno)}): what was not flushed may be "
            f"lost; when you have checked it, `segue disk clear-error {' '.join(names)}`"
        )


def _away(c: Controller, disk: Disk | None = None) -> Iterator[str]:
    """Containers that are away and that disks need, or this one; of others their state says so."""
    for number in sorted(c.table.containers):
        info = container_info(c, c.table.containers[number])
        if info.away_s is None or not info.disks or (disk and disk.name not in info.disks):
            continue
        why = f" ({info.away_why})" if info.away_why else ""
        name, disks = c.name_of_container(number), ", ".join(info.disks)
        if c.missing(number):
            yield f"{name} has been missing for {info.away_s:.0f} s{why}: {disks} cannot be opened"
            continue
        io = "waits" if info.when_away == "wait" else "fails"
        waiting = sum(
            any(wait.kind == "storage" and wait.what == name for wait in work.waits)
            for work in c.waits.works
        )
        own = f"; {waiting} of the controller's own work waits" if waiting else ""
        yield (
            f"{name} is away for {info.away_s:.0f} s{why}: I/O that needs it {io}, of {disks}{own}"
        )


def _full_pools(c: Controller) -> Iterator[str]:
    """Pools (containers of one segment size) where first writes find no room, or soon will."""
    pools: dict[int, list[Container]] = {}
    for number in sorted(c.table.containers):
        if c.may_allocate(number):
            container = c.table.containers[number]
            pools.setdefault(container.row.segment_bytes, []).append(container)
    for containers in pools.values():
        free = sum(container.space.free for container in containers)
        share = free / sum(container.row.segments for container in containers)
        names = ", ".join(container.row.name for container in containers)
        which = f"containers {names} are" if len(containers) > 1 else f"container {names} is"
        if not free:
            yield f"{which} full: a write to what is still zero gets ENOSPC"
        elif share < LITTLE_ROOM:
            yield f"{which} {1 - share:.0%} full"


def store_without_room(c: Controller) -> Iterator[str]:
    """Commits find no room: since when, and how much waits for them."""
    full = c.store.no_room()
    if full is None:
        return
    waiting = sum(any(wait.kind == "commit" for wait in work.waits) for work in c.waits.works)
    yield (
        f"the file system of the store ({full.path}) has been full for {full.for_s:.0f} s: "
        f"{waiting} thing{'s' * (waiting != 1)} wait{'s' * (waiting == 1)} for a commit, other "
        f"I/O goes on; free some space there and what waits goes on by itself"
    )


def _agents_away(c: Controller, disk: Disk | None = None) -> Iterator[str]:
    """Agents that are away and may have I/O under way on disks, or on this one."""
    for peer in c.peers.values():
        disks = [c.table.disks[d] for d in c.table.disks_of(peer.incarnation)]
        if disk is not None and disk not in disks:
            continue
        if peer.state.value in ("absent", "lost") and disks:
            containers = {number for disk in disks for number in disk.containers}
            yield (
                f"agent {peer.name} ({peer.incarnation:x}) is {peer.state.value} and may still "
                f"have I/O under way on {', '.join(disk.name for disk in disks)}: "
                f"{fences.ends_when(c, peer.incarnation, containers)}; if you know that it has "
                f"ended, `segue agent declare-dead {peer.incarnation:x}` says so"
            )


def disk_problems(c: Controller, disk: Disk) -> list[str]:
    """Those of `Status.problems` that may keep the disk from being opened."""
    return [*store_without_room(c), *_agents_away(c, disk), *_away(c, disk)]


def _problems(c: Controller) -> list[str]:
    """What an operator should look at, one sentence each."""
    said = [*store_without_room(c), *_agents_away(c), *_failed_flushes(c), *_away(c)]
    said += [*_full_pools(c), *waiting_jobs(c)]
    for extent, error in sorted(c.background.trouble.items()):
        record = c.table.records.get(extent)
        if record is not None:
            disk = c.table.disks[record.disk]
            said.append(f"disk {disk.name} segment {record.segment}: cannot be copied: {error}")
    return [*said, *stuck(c)]
