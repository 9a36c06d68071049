"""Movement: an extent gets another location while hosts read and write it (Figs. 6A, 6B).

Fig. 6A, step by step, for one extent:

1. Take disk shared, segment and extent exclusively; reserve a destination (unclean ones first: all
   of it is written anyway), in a container of the disk's flush set, extended if need be.
2. no_write, blocking, at every agent (step 610).  An incarnation that is lost but has not ended may
   still have a write under way at the old location: then nothing is begun, and the extent's turn
   comes again when it has ended or is back.
3. Commit the record: own location new, source old (`MovementBegun`).
4. Let go of the locks.  Pieces are copied (step 620, `complete.py`), agents read the old location.
   A write fault closes it (Fig. 6B, step 730, `do_write.close_source`), goes on as a `do_write`;
   from then on reads are `do_split_read`s.
5. When all blocks are at the new location, durably: invalid, blocking, everywhere; commit
   (`MovementEnded`, step 630); the old location is free (`complete.py`, step 5 and 6).

What a crash leaves.  Before 3: agents that may not write what the table grants; their next write
faults and is granted.  The reservation was volatile.  Between 3 and 5: a record; the next term goes
on from its bits when the old copier's fence has ended and every agent has said what it has under
way.  After 5: nothing.

Who excludes whom.  Locks are held in steps 1 to 3 and in 5, never while data is copied: a discard
or delete between them takes the record away, and both locations are free.  Between 1 and 3 nobody
else is granted anything of the segment.  A first touch between 3 and 5 grants the old location
read-only; once a host has written (or may have: `Record.closed`) it grants nothing.  An extent that
has a record already is passed over: movement comes back to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import MovementBegun
from segue.controller.placement import NoPlace, give_back, may_hold, take_destination
from segue.controller.procedures.flush_set import extend_set
from segue.controller.record import container_of
from segue.controller.restrict import agents_reached, forbid_writes
from segue.controller.table import Disk

if TYPE_CHECKING:
    from segue.controller.controller import Controller


class Begun(Enum):
    """What came of trying to begin the movement of one extent."""

    BEGUN = "begun"
    GONE = "gone"
    """Nothing lies there any more, or not where it was to be taken from."""
    INCOMPLETE = "its extent is incomplete"
    FULL = "no location is free"
    LOST_WRITER = "an agent that is lost may still write there"
    AWAY = "its destination is away"
    REFUSED = "new segments of the disk may not be put there"


async def begin_movement(
    c: Controller, job: int, number: int, segment: int, origin: int, targets: Sequence[int]
) -> Begun:
    """Begins to move one extent from the container `origin` to the first of `targets` with room.

    `number` is the disk's.
    """
    await agents_reached(c, number)
    async with c.locks.hold(("disk", number), exclusive=False):
        disk = c.table.disks.get(number)
        if disk is None or segment >= disk.segments:
            return Begun.GONE
        async with c.locks.hold((number, segment), exclusive=True):
            extent = disk.map.get(segment)
            async with c.locks.hold(("extent", extent), exclusive=True):
                if extent == 0 or container_of(c.table.extents.get(extent)) != origin:
                    return Begun.GONE
                if extent in c.table.records:
                    return Begun.INCOMPLETE
                return await _begin(c, job, disk, segment, extent, targets)


async def _begin(
    c: Controller, job: int, disk: Disk, segment: int, extent: int, targets: Sequence[int]
) -> Begun:
    found = take_destination(c, disk, targets)
    if found is None:
        rows = [c.table.containers.get(number) for number in targets]
        if any(may_hold(c, disk, n) and c.storage.is_away(n) for n in targets):
            return Begun.AWAY
        draining = all(row is not None and row.draining for row in rows)
        return Begun.FULL if draining or may_hold(c, disk, targets[0]) else Begun.REFUSED
    location, recycled = found
    try:
        if container_of(location) not in disk.containers:
            await extend_set(c, disk, container_of(location))
        if recycled:
            await c.stamps.before_reuse(container_of(location))
        lost = await forbid_writes(c, disk.disk, segment, 1)
    except NoPlace:
        give_back(c, location)
        return Begun.REFUSED
    except BaseException:
        give_back(c, location)
        raise
    if c.still_holders(lost):
        give_back(c, location)
        return Begun.LOST_WRITER
    failpoints.hit("movement.restricted")
    source = c.table.extents.get(extent)
    await c.commit(MovementBegun(extent, disk.disk, segment, source, location, job))
    failpoints.hit("movement.begun")
    c.background.complete_later(extent)
    return Begun.BEGUN
