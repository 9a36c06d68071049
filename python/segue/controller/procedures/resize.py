"""Giving a disk another size, while hosts use it (design, section 5, Resize; rules 1, 3, 5).

Both ways hold the disk exclusively: no fault of it is answered meanwhile, clean I/O goes on.

Shrinking:

1. Make the segments that lose bytes invalid, blocking, at every agent: I/O there waits.
2. Commit the new size: the extents beyond it are gone, their locations free, or in quarantine while
   a lost agent may still have I/O under way there.
3. Tell every agent; I/O beyond the end, the waiting one included, gets EINVAL (a write: ENOSPC).

Growing:

1. If the last segment is short and has data, the rest of its location may hold anything: another
   disk's old bytes, or this one's from before it shrank.  Make the segment invalid, blocking, at
   every agent, zero that rest, and flush it without error.
2. Commit the new size.
3. Tell every agent: new segments are invalid there and read as zeroes when they fault.

A crash before the commit leaves the old size: what was made invalid is asked for again, and bytes
beyond the end are nobody's.  After it, agents hear of the size with their next session.  Hosts
learn the new size when they connect again: NBD has no message for it.

The rest of a short segment is zeroed under no record: the extent itself names its location, and
is the disk's alone.  (With shared extents growing must first have one of its own.)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import DiskResized
from segue.controller.procedures.discard import incomplete_held
from segue.controller.procedures.flush_failed import copier_flush
from segue.controller.procedures.verbs import Refusal, check_disk_size, disk_called
from segue.controller.record import container_of, segment_of
from segue.controller.restrict import invalidate, resize_tables
from segue.controller.table import Disk

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.resize")


async def resize_disk(c: Controller, name: str, size_bytes: int, force: bool = False) -> Disk:
    """Gives a disk another size; shrinking over data is refused unless `force`."""
    check_disk_size(size_bytes)
    number = disk_called(c, name).disk
    async with c.locks.hold(("disk", number), exclusive=True):
        disk = disk_called(c, name)
        while any(c.table.records[extent].disk == number for extent in c.inherited):
            await c.background.inherited_changed()
        if size_bytes < disk.size_bytes:
            await _shrink(c, disk, size_bytes, force)
        elif size_bytes > disk.size_bytes:
            await _grow(c, disk, size_bytes)
        await resize_tables(c, number)
    log.info("event=disk_resized disk=%s size_bytes=%d", name, size_bytes)
    # What was incomplete may be complete by now.
    for extent in [e for e, record in c.table.records.items() if record.disk == number]:
        c.background.complete_later(extent)
    c.background.work_appeared()
    return disk


async def _shrink(c: Controller, disk: Disk, size_bytes: int, force: bool) -> None:
    first = size_bytes // disk.segment_bytes
    count = disk.segments - first
    if not force:
        _must_hold_nothing(disk, first, size_bytes)
    async with incomplete_held(c, disk, first, count):
        lost = await invalidate(c, disk.disk, first, count)
        failpoints.hit("resize.restricted")
        holders = c.still_holders(lost)
        await c.commit(DiskResized(disk.disk, size_bytes, holders))
    failpoints.hit("resize.committed")


def _must_hold_nothing(disk: Disk, first: int, size_bytes: int) -> None:
    data = sum(segment >= first for segment, _ in disk.map.items())
    if data:
        raise Refusal(
            f"disk {disk.name} has data beyond {size_bytes} bytes, in {data} segments of "
            f"{disk.segment_bytes}: shrinking would lose it (--force does)"
        )


async def _grow(c: Controller, disk: Disk, size_bytes: int) -> None:
    segment, used_bytes = divmod(disk.size_bytes, disk.segment_bytes)
    extent = disk.map.get(segment) if used_bytes else 0
    if extent:
        await _zero_rest(c, disk, segment, extent, used_bytes)
        failpoints.hit("resize.zeroed")
    await c.commit(DiskResized(disk.disk, size_bytes, []))
    failpoints.hit("resize.committed")


async def _zero_rest(c: Controller, disk: Disk, segment: int, extent: int, used_bytes: int) -> None:
    """Step 1 of growing."""
    record = c.table.records.get(extent)
    if record is not None and record.source:
        raise Refusal(f"the last segment of disk {disk.name} is being copied: try again later")
    lost = await invalidate(c, disk.disk, segment, 1)
    if c.still_holders(lost):
        raise Refusal(
            f"a lost agent may still write to the last segment of disk {disk.name} (segue status): "
            f"it must be back, or have ended"
        )
    async with c.locks.hold(("extent", extent), exclusive=True):
        location = c.table.extents.get(extent)
        number = container_of(location)
        failures = c.copier_failures.get(number, 0)
        start = segment_of(location) * disk.segment_bytes
        try:
            for at in range(used_bytes, disk.segment_bytes, c.settings.copy_piece_bytes):
                length = min(c.settings.copy_piece_bytes, disk.segment_bytes - at)
                await c.copier_may_write()
                await c.storage.zero(number, start + at, length)
            await copier_flush(c, number, failures)
        except OSError as error:
            raise Refusal(
                f"the rest of the last segment of disk {disk.name} cannot be zeroed: "
                f"{error.strerror or error}"
            ) from error
