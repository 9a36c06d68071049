"""What an operator asks of movement: move, drain, rebalance, cancel (design, sections 5 and 10).

Each checks everything first and changes nothing if it refuses.  Two jobs that want the same
segments elsewhere would move them to and fro for ever: the second one is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.controller.changes import ContainerDraining
from segue.controller.jobs import DRAIN, MOVE, REBALANCE, JobRun
from segue.controller.pacing import FASTEST
from segue.controller.placement import may_share
from segue.controller.procedures.verbs import Refusal, container_called, disk_called
from segue.sizes import format_size

if TYPE_CHECKING:
    from segue.controller.controller import Controller

LONGEST_US = 60_000_000


async def move_disk(
    c: Controller,
    name: str,
    to: str,
    *,
    first: int = 0,
    count: int = 0,
    bandwidth: int = 0,
    latency_us: int = 0,
) -> JobRun:
    """Moves a disk, or `count` segments of it from `first` (0: to its end), to a container."""
    _check_pace(bandwidth, latency_us)
    async with c.locks.hold(("jobs",), exclusive=True):
        _check_move(c, name, to, first, count)
        return await c.jobs.make(
            MOVE,
            disk=disk_called(c, name).disk,
            container=container_called(c, to).row.container,
            first=first,
            count=count,
            bandwidth=bandwidth,
            latency_us=latency_us,
        )


def _check_move(c: Controller, name: str, to: str, first: int, count: int) -> None:
    disk, container = disk_called(c, name), container_called(c, to)
    if container.row.segment_bytes != disk.segment_bytes:
        raise Refusal(
            f"container {to} has segments of {format_size(container.row.segment_bytes)}, disk "
            f"{name} of {format_size(disk.segment_bytes)}: they are not of one pool"
        )
    if not c.may_allocate(container.row.container):
        raise Refusal(f"container {to} is being drained or removed")
    if len(c.peers_of(disk.disk)) > 1 and not may_share(c, disk, container.row.container):
        raise Refusal(
            f"several agents serve disk {name}, whose blocks of {disk.block_bytes} bytes are "
            f"smaller than what container {to} can write"
        )
    end = first + count if count else disk.segments
    if not 0 <= first < end <= disk.segments:
        raise Refusal(f"disk {name} has segments 0 to {disk.segments - 1}")
    for run in c.jobs.running.values():
        if run.row.kind == REBALANCE:
            raise Refusal(f"job {run.row.job} rebalances: cancel it first, or let it end")
        if run.row.kind == MOVE and run.row.disk == disk.disk:
            begin, stop = run.segments
            if begin < end and first < stop:
                raise Refusal(f"job {run.row.job} moves these segments of disk {name} already")


def _check_pace(bandwidth: int, latency_us: int) -> None:
    if not 0 <= bandwidth < FASTEST:
        raise Refusal(f"a bandwidth is a number of bytes a second, 0 for no limit, not {bandwidth}")
    if not 0 <= latency_us < LONGEST_US:
        raise Refusal(
            f"a bound on latency is less than {LONGEST_US // 1000} ms, 0 for none, "
            f"not {latency_us / 1000:g} ms"
        )


async def drain_container(
    c: Controller, name: str, *, bandwidth: int = 0, latency_us: int = 0
) -> JobRun:
    """Moves everything out of a container; nothing new is put there from now on.

    The job that does so already, if there is one.
    """
    _check_pace(bandwidth, latency_us)
    async with c.locks.hold(("jobs",), exclusive=True):
        number = container_called(c, name).row.container
        if (run := _drains(c, number)) is not None:
            _check_repeated(name, run, bandwidth, latency_us)
            return run
        _check_drain(c, name)
        return await c.jobs.make(
            DRAIN, container=number, bandwidth=bandwidth, latency_us=latency_us
        )


def _drains(c: Controller, number: int) -> JobRun | None:
    """The job that drains the container and is not over."""
    runs = c.jobs.running.values()
    return next((r for r in runs if r.row.kind == DRAIN and r.row.container == number), None)


def _check_goes_on(name: str, run: JobRun) -> None:
    if run.cancelled:
        raise Refusal(
            f"job {run.row.job}, which drains container {name}, is being cancelled: "
            f"with its end the container is used again"
        )


def _check_repeated(name: str, run: JobRun, bandwidth: int, latency_us: int) -> None:
    _check_goes_on(name, run)
    if bandwidth not in (0, run.bandwidth) or latency_us not in (0, run.row.latency_us):
        raise Refusal(
            f"job {run.row.job} drains container {name} already, at another pace: "
            f"`segue job limit {run.row.job}` gives it another bandwidth"
        )


def _check_drain(c: Controller, name: str) -> None:
    row = container_called(c, name).row
    if c.is_leaving(row.container):
        raise Refusal(f"container {name} is being removed")
    others = [
        number
        for number, other in c.table.containers.items()
        if number != row.container
        and other.row.segment_bytes == row.segment_bytes
        and c.may_allocate(number)
    ]
    if not others:
        size = format_size(row.segment_bytes)
        raise Refusal(f"there is no other container with segments of {size} that takes data")
    for run in c.jobs.running.values():
        if run.row.kind == MOVE and run.row.container == row.container:
            raise Refusal(f"job {run.row.job} moves a disk to container {name}: cancel it first")


async def fill_container(c: Controller, name: str) -> None:
    """Lets a container that was drained be used again."""
    async with c.locks.hold(("jobs",), exclusive=True):
        container = container_called(c, name)
        number = container.row.container
        if container.leaving:
            raise Refusal(f"container {name} is being removed")
        if (run := _drains(c, number)) is not None:
            _check_goes_on(name, run)
            raise Refusal(
                f"job {run.row.job} drains container {name}: `segue job cancel "
                f"{run.row.job}` ends it, and the container is used again"
            )
        if not container.draining:
            raise Refusal(f"container {name} was not drained")
        await c.commit(ContainerDraining(number, False))
    c.background.work_appeared()


async def rebalance(c: Controller, *, bandwidth: int = 0, latency_us: int = 0) -> JobRun:
    """Moves segments until all containers of a pool are about equally full."""
    _check_pace(bandwidth, latency_us)
    async with c.locks.hold(("jobs",), exclusive=True):
        for run in c.jobs.running.values():
            if run.row.kind in (REBALANCE, MOVE):
                raise Refusal(f"job {run.row.job} ({run.row.kind}) is not over yet")
        return await c.jobs.make(REBALANCE, bandwidth=bandwidth, latency_us=latency_us)


async def cancel_job(c: Controller, number: int) -> None:
    """Begins nothing new for the job; what is under way is finished."""
    if number not in c.table.jobs:
        raise Refusal(f"there is no job {number}", missing=True)
    if number not in c.jobs.running:
        raise Refusal(f"job {number} is over: {c.table.jobs[number].outcome}")
    await c.jobs.cancel(number)


async def limit_job(c: Controller, number: int, bandwidth: int) -> None:
    """Gives a job another bandwidth, in bytes a second; 0: no limit."""
    _check_pace(bandwidth, 0)
    if number not in c.jobs.running:
        raise Refusal(f"no job {number} is running", missing=True)
    await c.jobs.limit(number, bandwidth)
