"""Completing an incomplete extent whose source is zero (rules 6, 11, 12).

1. Piece by piece, zero the blocks that no bit is set for and nobody holds: the extent shared, the
   piece's blocks exclusively, from before the zeroing until the bits are set in memory.
2. When every block is set: flush the container once, without error.
3. Take disk shared, segment and extent exclusively, and commit that the record ends.

The record named location and purpose before anything was written (rule 11).  Zeroed bits decide
reads at once: the zeroes they stand for are what the source reads, so a lost bit only repeats work.
They are stored nowhere, for nothing has flushed those zeroes: after a loss of power the location
may hold what it held before.

Interleavings.  A faulted write that finds its blocks taken waits for one piece at most; the piece
skips blocks that are set or taken, so a write under way makes another round necessary, not a wait.
While the record stands every agent's entry is invalid, so step 3 needs no restriction, and it
grants nothing: the next fault does.  A discard that comes first removes the record under the
segment's exclusive lock; the completion then finds it gone and stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import Completed
from segue.controller.procedures.flush_failed import copier_flush
from segue.controller.table import Disk, Record, container_of, run_bits, segment_of

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.complete")

RETRY_S = 1.0
"""Pause before work that failed at a container is tried again."""


async def complete_zero(c: Controller, extent: int) -> None:
    """Completes the extent, or finds it gone; tries again for as long as its container fails."""
    known: Record | None = None
    while (record := c.table.records.get(extent)) is not None:
        disk = c.table.disks[record.disk]
        # The extent may have become free and another's since: everything is asked anew.
        number = container_of(c.table.extents.get(extent))
        if record is not known:
            known, failures = record, c.copier_failures.get(number, 0)
        try:
            if await _zero_rest(c, extent, record, disk):
                await copier_flush(c, number, failures)
            else:
                continue
        except OSError as error:
            log.warning("event=zeroing_failed extent=%d disk=%s error=%s", extent, disk.name, error)
            # A kernel may have dropped what a failed flush was for: none of it counts.
            record.zeroed = 0
            failures = c.copier_failures.get(number, 0)
            await asyncio.sleep(RETRY_S)
            continue
        failpoints.hit("complete.zeroed")
        await _end_record(c, extent, record)


async def _zero_rest(c: Controller, extent: int, record: Record, disk: Disk) -> bool:
    """One round over the blocks not yet here; True when all are."""
    piece_blocks = max(1, c.settings.copy_piece_bytes // disk.block_bytes)
    row = c.table.containers[container_of(c.table.extents.get(extent))].row
    unit = disk.unit_blocks(row.write_unit_bytes)
    for first, count in runs_of(record.all & ~record.here, piece_blocks):
        async with c.locks.hold(("extent", extent), exclusive=False):
            if c.table.records.get(extent) is not record:
                return False
            taken = outward(c.blocks.taken(extent), unit)
            bits = run_bits(first, count) & record.all & ~record.here & ~taken
            for piece_first, piece_count in runs_of(bits, piece_blocks):
                await _zero_piece(c, extent, record, disk, piece_first, piece_count)
    if record.here != record.all:
        # What is missing is held by writes under way: wait for them.
        async with c.blocks.hold(extent, record.all & ~record.here, exclusive=True):
            pass
    return record.here == record.all


async def _zero_piece(
    c: Controller, extent: int, record: Record, disk: Disk, first: int, count: int
) -> None:
    bits = run_bits(first, count)
    async with c.blocks.hold(extent, bits, exclusive=True):
        if bits & record.here:
            return
        location = c.table.extents.get(extent)
        start = segment_of(location) * disk.segment_bytes + first * disk.block_bytes
        await c.copier_may_write()
        with c.waits.on("storage", c.name_of_container(container_of(location))):
            await c.storage.zero(container_of(location), start, count * disk.block_bytes)
        record.zeroed |= bits


async def _end_record(c: Controller, extent: int, record: Record) -> None:
    async with (
        c.locks.hold(("disk", record.disk), exclusive=False),
        c.locks.hold((record.disk, record.segment), exclusive=True),
        c.locks.hold(("extent", extent), exclusive=True),
    ):
        if c.table.records.get(extent) is record:
            await c.commit(Completed(extent))


def outward(bits: int, unit: int) -> int:
    """The bitmap, rounded outward to groups of `unit` blocks."""
    if unit == 1:
        return bits
    rounded = 0
    for first, count in runs_of(bits, bits.bit_length()):
        start = first // unit * unit
        rounded |= run_bits(start, -(-(first + count - start) // unit) * unit)
    return rounded


def runs_of(bits: int, longest: int) -> Iterator[tuple[int, int]]:
    """The runs of set bits, lowest first, none longer than that: (first, count)."""
    first = 0
    while bits:
        skip = (bits & -bits).bit_length() - 1
        bits >>= skip
        first += skip
        count = min(longest, ((~bits & (bits + 1)).bit_length() - 1))
        yield first, count
        bits >>= count
        first += count
