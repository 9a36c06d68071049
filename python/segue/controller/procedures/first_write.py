"""First write to zero: a new extent on a clean location (design, section 5; rules 3, 6, 11).

1. Take the segment exclusively, a clean location and an extent; both are volatile until step 3.
2. Make the segment invalid, blocking, at every agent that may hold it as zero.
3. Commit: the segment is this extent at this location, the location is not clean any more.
4. Answer retry with the new entry: every block there already reads as zeroes, durably.

Only if no clean location is left, an unclean one, with a record whose source is zero: then the
faulting agent is made invalid too in step 2, nothing is granted in step 4, and the fault goes on as
a `do_write`; the copier zeroes the rest behind it.

Interleavings.  Between 1 and 4 nobody else is granted anything of this segment: its lock is held.
A crash before 3 leaves nothing (reservations are volatile); between 3 and 4 an extent that reads
as zeroes (clean), or one whose record says zeroes (unclean): the fault comes again and finds it.
A location in a container that is not yet in the disk's flush set is granted only after every
agent of the disk has answered `set_containers` (section 3, FLUSH).
"""

from __future__ import annotations

from errno import ENOSPC
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import Allocated, DiskContainers
from segue.controller.peer import Fault
from segue.controller.procedures.first_touch import entry_runs
from segue.controller.record import container_of, location_of, segment_of
from segue.controller.restrict import extend_containers, invalidate
from segue.controller.space import FREE, RESERVED
from segue.controller.table import Disk
from segue.wire.messages import Failure, Retry

if TYPE_CHECKING:
    from segue.controller.controller import Controller


async def first_write(c: Controller, fault: Fault, disk: Disk) -> None:
    """Allocates; answers the fault if the location is clean, else leaves it to be decided again."""
    message = fault.message
    key = (disk.disk, message.segment)
    await c.locks.acquire(key, exclusive=True)
    try:
        if disk.map.get(message.segment) != 0 or not fault.current:
            return
        found = take_location(c, disk, message.segment)
        if found is None:
            if c.background.cleaning:
                await c.background.batch_cleaned()
            else:
                fault.answer(Failure(message.request, ENOSPC))
            return
        location, clean, recycled = found
        try:
            await _prepare(c, fault, disk, location, clean)
            if recycled:
                await c.stamp_before_reuse()
        except NoPlace:
            # A second agent was attached since the location was taken: look again.
            give_back(c, location)
            return
        except BaseException:
            give_back(c, location)
            raise
        failpoints.hit("first_write.restricted")
        extent = c.table.take_extent()
        await c.commit(
            Allocated(disk.disk, message.segment, extent, location, incomplete=not clean)
        )
        failpoints.hit("first_write.committed")
        if clean:
            runs = entry_runs(c, fault.peer, disk, message.segment, 1)
            fault.answer(Retry(message.request, disk.disk, runs))
        else:
            c.background.complete_later(extent)
    finally:
        c.locks.release(key, exclusive=True)


async def _prepare(c: Controller, fault: Fault, disk: Disk, location: int, clean: bool) -> None:
    container = container_of(location)
    if container not in disk.containers:
        await extend_set(c, disk, container)
    await invalidate(c, disk.disk, fault.message.segment, 1, spare=fault.peer if clean else None)


async def extend_set(c: Controller, disk: Disk, container: int) -> None:
    """Takes the container into the disk's flush set; raises `NoPlace`."""
    async with c.locks.hold(("containers", disk.disk), exclusive=True):
        if container in disk.containers:
            return
        if not may_share(c, disk, container) and len(c.peers_of(disk.disk)) > 1:
            raise NoPlace
        # Durable means told: a new term grants there at once (every commit is all it knows).
        c.extending[disk.disk] = [container]
        try:
            await extend_containers(c, disk.disk)
            await c.commit(DiskContainers(disk.disk, [*disk.containers, container]))
        finally:
            del c.extending[disk.disk]


class NoPlace(Exception):
    """The container may not be added to the flush set of a disk that several agents serve."""


def may_share(c: Controller, disk: Disk, container: int) -> bool:
    """Several agents need a block no smaller than the container's write unit (section 2)."""
    return c.table.containers[container].row.write_unit_bytes <= disk.block_bytes


def may_hold(c: Controller, disk: Disk, number: int) -> bool:
    """Whether new segments of the disk may be put into that container."""
    container = c.table.containers.get(number)
    if container is None or not c.may_allocate(number):
        return False
    if container.row.segment_bytes != disk.segment_bytes:
        return False
    return (
        number in disk.containers or len(c.peers_of(disk.disk)) <= 1 or may_share(c, disk, number)
    )


def take_location(c: Controller, disk: Disk, segment: int) -> tuple[int, bool, bool] | None:
    """Reserves a location for the disk: (location, clean, used before), None if the pool is full.

    Where a job moves the segment to, then in the disk's own containers, then in others; in a clean
    segment before an unclean one, in the emptiest container first (decision 0010).
    """
    aim = [n for n in c.jobs.targets(disk.disk, segment) if may_hold(c, disk, n)]
    own = [n for n in disk.containers if may_hold(c, disk, n)]
    others = [n for n in c.table.containers if n not in disk.containers and may_hold(c, disk, n)]
    return _take(c, aim) or _take(c, own) or _take(c, others)


def _take(c: Controller, numbers: list[int]) -> tuple[int, bool, bool] | None:
    spaces = [(number, c.table.containers[number].space) for number in numbers]
    spaces.sort(key=lambda item: -item[1].free / item[1].segments)
    for clean in (True, False):
        for number, space in spaces:
            found = space.take(clean)
            if found is not None:
                if not space.default_clean:
                    c.background.clean_ahead(space)
                segment, recycled = found
                return location_of(number, segment), clean, recycled
    return None


def give_back(c: Controller, location: int) -> None:
    """The reservation is not used after all."""
    space = c.table.containers[container_of(location)].space
    assert space.state(segment_of(location)) == RESERVED, "given back twice"
    space.move(segment_of(location), FREE)
