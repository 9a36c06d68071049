"""A job's work: one extent after another, some at once, until nothing is left to move (section 5).

The job walks over the segments it is for, ascending, and begins the movement of each that does not
lie where it should (`movement.py`), `extents_at_once` at the most, and no more than its rate needs;
`complete.py` copies and ends them.  What has to be passed over (an incomplete extent, a lost agent
that may still write there, a full destination) is met again on the next round, when something has
changed.  A round that finds nothing left is the end: containers that a disk has left go from its
flush set, the job is over.
Where a container fails, what is under way is tried again for as long as that lasts, no more than
`extents_at_once` are begun, and the job says what it waits for.

Cancel begins nothing new; what cannot be finished (its container fails) and was not written by a
host meanwhile goes back to where it was, and what was written stays incomplete, and is named.

A crash at any moment leaves the job and its records; the next term does the same again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from segue import failpoints
from segue.controller.placement import NoPlace, may_hold
from segue.controller.procedures.flush_set import extend_set, shrink_set
from segue.controller.procedures.movement import Begun, begin_movement
from segue.controller.record import container_of
from segue.controller.table import Disk

if TYPE_CHECKING:
    from segue.controller.controller import Controller
    from segue.controller.jobs import JobRun

log = logging.getLogger("segue.controller.jobs")

LOOK_AGAIN_S = 1.0
"""Longest wait before what was passed over is tried again."""
CHUNK = 1024
"""Segments looked at without letting others run."""


async def run_job(c: Controller, run: JobRun) -> None:
    """Runs the job to its end."""
    _log_begin(c, run)
    for extent, record in list(c.table.records.items()):
        if record.job == run.row.job:
            _spawn(c, run, _follow(c, run, extent))
    if run.row.kind == "move" and run.row.count:
        begun = c.table.jobs[run.row.job].moved + len(run.under_way)
        run.total = begun + await _count(c, run)
    failure = ""
    while not run.cancelled and not failure:
        begun, passed = await _round(c, run)
        while run.under_way and not run.cancelled and not _stuck(c, run):
            await something_changed(c, run)
        failure = _failure(c, run, passed)
        if not begun and not passed and not run.under_way:
            break
        if not begun and not failure:
            await something_changed(c, run)
    while run.under_way and not (run.cancelled and _stuck(c, run) and _written(c, run)):
        await something_changed(c, run)
    if not failure and not run.cancelled:
        await _join_container(c, run)
        await _leave_containers(c, run)
    outcome = "cancelled" if run.cancelled else "failed" if failure else "done"
    failpoints.hit("job.ending")
    await c.jobs.end(run, outcome, failure)
    log.info("event=job_ended job=%d outcome=%s reason=%r", run.row.job, outcome, failure)


def _log_begin(c: Controller, run: JobRun) -> None:
    row = run.row
    disk, container = c.table.disks.get(row.disk), c.table.containers.get(row.container)
    log.info(
        "event=job_runs job=%d kind=%s disk=%s container=%s",
        row.job,
        row.kind,
        disk.name if disk is not None else "-",
        container.row.name if container is not None else "-",
    )


async def _round(c: Controller, run: JobRun) -> tuple[int, set[Begun]]:
    """One walk over all that is to be moved: (how many begun, why others were passed over)."""
    run.left, run.begun, run.passed = 0, 0, set()
    async for disk, segment, origin, targets in _candidates(c, run):
        while not run.cancelled and not _has_room(c, run):
            if run.begun or _stuck(c, run):
                run.wait_for(_troubles(c, run) if _stuck(c, run) else "", c.clock.now_ns())
            await something_changed(c, run)
        await _lagging(c, run, disk.segment_bytes)
        if run.cancelled or run.passed & {Begun.FULL, Begun.AWAY}:
            break
        run.pending[origin] -= 1
        run.pending[targets[0]] += 1
        _spawn(c, run, _move_one(c, run, disk.disk, segment, origin, targets))
    while run.beginning and not run.cancelled:
        await something_changed(c, run)
    why = "; ".join(sorted(why.value for why in run.passed)) or _troubles(c, run)
    run.wait_for(why, c.clock.now_ns())
    return run.begun, run.passed


def _has_room(c: Controller, run: JobRun) -> bool:
    """Whether another extent may be begun: what fails again and again must not pile up."""
    most = c.settings.extents_at_once
    stuck = len(run.extents & c.background.trouble.keys())
    return stuck < most and len(run.under_way) - stuck < most


async def _lagging(c: Controller, run: JobRun, segment_bytes: int) -> None:
    """Returns when those under way do not use up the job's rate.

    An extent under way makes hosts' writes to it wait for the controller; what is not begun yet
    costs them nothing.  Those of which nothing is copied yet are about to use up as much as they
    are large.
    """
    while run.under_way and not run.cancelled:
        records = [c.table.records.get(extent) for extent in run.extents]
        untouched = sum(record is not None and not record.here for record in records)
        ahead_s = c.pacing.ahead_s(run.row.job, (run.beginning + untouched) * segment_bytes)
        if ahead_s <= 0:
            return
        await something_changed(c, run, min(ahead_s, LOOK_AGAIN_S))


def _spawn(c: Controller, run: JobRun, work: Coroutine[Any, Any, None]) -> None:
    """Runs one extent's work as a task of the job."""

    def over(_: asyncio.Task[None]) -> None:
        del run.under_way[task]
        run.wake.set()

    task = c.spawn(work)
    run.under_way[task] = None
    task.add_done_callback(over)


async def _move_one(
    c: Controller, run: JobRun, number: int, segment: int, origin: int, targets: list[int]
) -> None:
    run.beginning += 1
    try:
        begun = await begin_movement(c, run.row.job, number, segment, origin, targets)
    finally:
        run.beginning -= 1
        run.pending[origin] += 1
        run.pending[targets[0]] -= 1
        run.wake.set()
    if begun is Begun.BEGUN:
        run.begun += 1
        await _follow(c, run, c.table.disks[number].map.get(segment))
    elif begun is not Begun.GONE:
        run.passed.add(begun)
        run.left += 1


async def _follow(c: Controller, run: JobRun, extent: int) -> None:
    """Waits until an extent under movement has its new location, or its disk let go of it."""
    record = c.table.records[extent]
    run.extents.add(extent)
    while extent in c.inherited:
        await c.background.inherited_changed()
    if c.table.records.get(extent) is record:
        await asyncio.wait([c.background.complete_later(extent)])
    run.extents.discard(extent)


def _failure(c: Controller, run: JobRun, passed: set[Begun]) -> str:
    """Why the job can never end as it was asked for; empty if it can."""
    row = run.row
    if row.kind == "move" and row.disk not in c.table.disks:
        return "its disk was deleted"
    if row.container and row.container not in c.table.containers:
        return "its container was removed"
    return Begun.REFUSED.value if Begun.REFUSED in passed else ""


def _troubles(c: Controller, run: JobRun) -> str:
    """What fails again and again, in words."""
    found = [c.background.trouble[e] for e in sorted(run.extents & c.background.trouble.keys())]
    return f"{len(found)} segments cannot be copied: {found[0]}" if found else ""


def _written(c: Controller, run: JobRun) -> bool:
    """Whether hosts have written to all that is under way: then none of it can be given up."""
    records = [c.table.records.get(extent) for extent in run.extents]
    return all(record is not None and record.written for record in records)


def _stuck(c: Controller, run: JobRun) -> bool:
    """Whether all that is under way fails again and again."""
    return len(run.under_way) == len(run.extents & c.background.trouble.keys())


async def _candidates(
    c: Controller, run: JobRun
) -> AsyncIterator[tuple[Disk, int, int, list[int]]]:
    """What is not where it should be: (disk, segment, container it lies in, where it may go)."""
    for number in sorted(c.table.disks):
        first, end = run.segments
        if run.row.kind == "move" and number != run.row.disk:
            continue
        while (disk := c.table.disks.get(number)) is not None and first < min(end, disk.segments):
            count = min(CHUNK, end - first, disk.segments - first)
            for at, mapped in enumerate(disk.map.slice(first, count)):
                # Others run while a candidate is being looked at: ask again what is mapped there.
                extent = disk.map.get(first + at) if mapped and number in c.table.disks else 0
                if not extent:
                    continue
                origin = container_of(c.table.extents.get(extent))
                targets = _targets(c, run, disk, origin)
                if targets:
                    yield disk, first + at, origin, targets
            first += count
            await asyncio.sleep(0)


async def _count(c: Controller, run: JobRun) -> int:
    count = 0
    async for _ in _candidates(c, run):
        count += 1
    return count


def _targets(c: Controller, run: JobRun, disk: Disk, origin: int) -> list[int]:
    """Where an extent in that container is to go; nowhere if it may stay."""
    row, containers = run.row, c.table.containers
    if row.kind == "move":
        return [row.container] if origin != row.container else []
    if row.kind == "drain" and origin != row.container:
        return []
    others = [n for n in containers if n != origin and may_hold(c, disk, n)]
    if row.kind == "rebalance":
        share = _share(c, run, origin, -1)
        others = [n for n in others if _share(c, run, n, 1) <= share]
        return sorted(others, key=lambda n: (_share(c, run, n), n))
    # A drain that has no place to go waits for one: its own container takes nothing.
    return sorted(others, key=lambda n: (_share(c, run, n), n)) or [origin]


def _share(c: Controller, run: JobRun, number: int, more: int = 0) -> float:
    """Which part of the container is in use, with what is being begun and so many more."""
    container = c.table.containers[number]
    return (container.space.used + run.pending[number] + more) / container.row.segments


async def something_changed(c: Controller, run: JobRun, longest_s: float = LOOK_AGAIN_S) -> None:
    """Returns when work of it has ended, space appeared, it was cancelled, or after a while."""
    run.wake.clear()
    idle, since_ns = c.jobs.is_idle(run), c.clock.now_ns()
    waiting = [
        asyncio.ensure_future(run.wake.wait()),
        asyncio.ensure_future(c.background.space_changed()),
    ]
    try:
        await asyncio.wait(waiting, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
        run.idle_ns += c.clock.now_ns() - since_ns if idle else 0


async def _join_container(c: Controller, run: JobRun) -> None:
    """A disk that had nothing to move goes along: what it writes first is put there."""
    row = run.row
    if row.kind != "move" or row.count:
        return
    async with c.locks.hold(("disk", row.disk), exclusive=False):
        disk = c.table.disks.get(row.disk)
        if disk is None or row.container in disk.containers or not may_hold(c, disk, row.container):
            return
        with suppress(NoPlace):
            await extend_set(c, disk, row.container)


async def _leave_containers(c: Controller, run: JobRun) -> None:
    """Takes containers that disks have left out of their flush sets."""
    row = run.row
    for number in [row.disk] if row.kind == "move" else sorted(c.table.disks):
        disk = c.table.disks.get(number)
        for container in list(disk.containers) if disk is not None else []:
            if row.kind == "drain" and container != row.container:
                continue
            try:
                while not run.cancelled and not await shrink_set(c, number, container):
                    if not _left(c, number, container):
                        break
                    await asyncio.sleep(LOOK_AGAIN_S / 20)
            except OSError as error:
                log.warning("event=not_left container=%d error=%s", container, error)


def _left(c: Controller, number: int, container: int) -> bool:
    disk = c.table.disks.get(number)
    return (
        disk is not None
        and len(disk.containers) > 1
        and container not in disk.failed
        and (number, container) not in c.table.lying
    )
