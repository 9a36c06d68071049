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
   every agent.
2. Commit a record for its extent, if it has none (`GrowthBegun`): nothing is read otherwise by it,
   but it names the location about to be written (rule 11).
3. Zero that rest, and flush it without error.  While the segment moves, what lies behind the end at
   its source stays as it is: the block that the end cuts is copied now, and counts as written from
   then on, like all behind it, for the source reads otherwise.
4. Commit the new size, with that block's written bit or the end of the record of 2.
5. Tell every agent: new segments are invalid there and read as zeroes when they fault.

A crash before that commit leaves the old size: bytes beyond the end are nobody's.  But zeroes may
still be on their way there, and with them, where the end lies within a write unit, what had been
read of that.  So the record keeps away hosts, another growth and the location's next user until the
older copier's fence has ended; then the new term ends it (`background.py`, `complete.py`).

After the commit, agents hear of the size with their next session.  Hosts learn it when they connect
again: NBD has no message for it.

No piece is copied and no `do_*` is under way while the rest is zeroed: the extent is held.  (With
shared extents growing must first have one of its own.)
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import AnyChange, Completed, DiskResized, GrowthBegun, Written
from segue.controller.procedures.discard import incomplete_held
from segue.controller.procedures.flush_failed import copier_flush
from segue.controller.procedures.verbs import (
    Refusal,
    check_disk_size,
    disk_called,
    disk_still,
    still_asked,
)
from segue.controller.record import Record, container_of, is_location, run_bits, segment_of
from segue.controller.restrict import invalidate, resize_tables
from segue.controller.table import Disk
from segue.sizes import format_size

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.resize")


async def resize_disk(c: Controller, name: str, size_bytes: int, force: bool = False) -> Disk:
    """Gives a disk another size; shrinking over data is refused unless `force`."""
    check_disk_size(size_bytes)
    number = disk_called(c, name).disk
    if c.background.is_away(c.background.inherited_of(number)):
        raise _away(name)  # with the disk taken by I/O that waits for it, perhaps
    async with c.locks.hold(("disk", number), exclusive=True):
        disk = disk_still(c, name, number)
        if not await c.background.taken_over(number):
            raise _away(name)
        still_asked()
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


def _away(name: str) -> Refusal:
    return Refusal(
        f"disk {name} has segments that an older controller left unfinished on storage that is "
        f"away (segue status): try again when it is back"
    )


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
            f"disk {disk.name} has data beyond {format_size(size_bytes)}, in {data} "
            f"segments of {format_size(disk.segment_bytes)}: shrinking would lose it (--force does)"
        )


async def _grow(c: Controller, disk: Disk, size_bytes: int) -> None:
    segment, used_bytes = divmod(disk.size_bytes, disk.segment_bytes)
    extent = disk.map.get(segment) if used_bytes else 0
    if not extent:
        await c.commit(DiskResized(disk.disk, size_bytes, []))
    else:
        await _forbid(c, disk, segment)
        async with c.locks.hold(("extent", extent), exclusive=True):
            try:
                ends = await _zero_rest(c, disk, extent, used_bytes)
            except OSError as error:
                # The size stays, so nothing else ends the record.
                c.background.complete_later(extent)
                raise Refusal(
                    f"the rest of the last segment of disk {disk.name} cannot be zeroed: "
                    f"{error.strerror or error}"
                ) from error
            failpoints.hit("resize.zeroed")
            await c.commit(*ends, DiskResized(disk.disk, size_bytes, []))
    failpoints.hit("resize.committed")


async def _forbid(c: Controller, disk: Disk, segment: int) -> None:
    lost = await invalidate(c, disk.disk, segment, 1)
    if c.still_holders(lost):
        raise Refusal(
            f"a lost agent may still write to the last segment of disk {disk.name} (segue status): "
            f"it must be back, or have ended"
        )


async def _zero_rest(c: Controller, disk: Disk, extent: int, used_bytes: int) -> list[AnyChange]:
    """Steps 2 and 3 of growing, with the extent held; what is to be committed with the size.

    Raises `OSError`.
    """
    location, record = c.table.extents.get(extent), c.table.records.get(extent)
    number = container_of(location)
    failures = c.copier_failures.get(number, 0)
    ends: list[AnyChange] = []
    if record is None:
        await c.commit(GrowthBegun(extent, disk.disk, disk.segments - 1))
        failpoints.hit("resize.recorded")
        ends = [Completed(extent)]
    elif is_location(record.source):
        ends = [await _copy_cut_block(c, disk, extent, record)]
    start = segment_of(location) * disk.segment_bytes
    for at in range(used_bytes, disk.segment_bytes, c.settings.copy_piece_bytes):
        length = min(c.settings.copy_piece_bytes, disk.segment_bytes - at)
        await c.copier_may_write()
        await c.storage.zero(number, start + at, length)
    await copier_flush(c, number, failures)
    return ends


async def _copy_cut_block(c: Controller, disk: Disk, extent: int, record: Record) -> Written:
    """Copies the write unit that the disk's end lies in, if it is not durably here.

    It counts as written, like the blocks behind it: the source reads otherwise from now on.
    """
    location = c.table.extents.get(extent)
    unit = disk.unit_blocks(c.table.containers[container_of(location)].row.write_unit_bytes)
    first = (record.blocks - 1) // unit * unit
    count = record.blocks - first
    # A fresh copy may be lost already, by a flush whose failure its run has not heard of.
    if not (record.written | record.copied) & run_bits(first, count):
        source = container_of(record.source)
        await copier_flush(c, source, c.copier_failures.get(source, 0))
        await c.copier.piece(location, record, disk, first, count)
    return Written(extent, first, count)
