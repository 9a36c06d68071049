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
from segue.controller.changes import Allocated
from segue.controller.peer import Fault
from segue.controller.placement import NoPlace, give_back, may_hold, take_location
from segue.controller.procedures.first_touch import entry_runs
from segue.controller.procedures.flush_set import extend_set
from segue.controller.record import container_of
from segue.controller.restrict import invalidate
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
            if any(may_hold(c, disk, number) for number in c.background.cleaning()):
                await c.background.batch_cleaned()
            else:
                fault.answer(Failure(message.request, ENOSPC))
            return
        location, clean, recycled = found
        try:
            await _prepare(c, fault, disk, location, clean)
            if recycled:
                await c.stamps.before_reuse(container_of(location))
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
