"""Completing an incomplete extent, whatever its source (rules 5, 6, 11, 12).

1. Where the source is a location: flush its container without error, once in this term.  The
   record was committed after every agent had answered no_write, so whatever is there is durable
   now, or its loss was told; before that no copy counts.
2. Piece by piece, copy (or zero) the blocks that no bit is set for and nobody holds: the extent
   shared, the piece's blocks exclusively at the extent's own location and shared at the source,
   from before the read until the write has ended and the bits are set in memory.
3. Every so often, flush the extent's own container without error and commit the bits that it
   covers: hints, from which a next term resumes.
4. When every block is here: flush, as in 3.
5. Take disk shared, segment and extent exclusively.  Where the source is a location: make the
   segment invalid, blocking, at every agent, for they may read the source.
6. Commit that the record ends.  Only now is the source free, or in quarantine while a lost agent
   may still have I/O under way there (rule 5).  Nothing is granted: the next fault does that.

The record named location and purpose before anything was written (rule 11).  Bits that no flush
has covered (`fresh`) decide reads at once, for they stand for what the source reads; they are
stored nowhere, and a failed flush takes them all back, since a kernel may have dropped what it was
for.

Who holds what.  A faulted write that finds its blocks taken waits for one piece at most; the piece
skips blocks that are set or taken, so a write under way makes another round necessary, not a wait.
No lock is held while a flush runs or the job's bandwidth is used up.  A discard or delete removes
the record under exclusive locks; the completion then finds it gone and stops.

A crash in 1 to 4 loses the fresh bits: those blocks are copied again, over what is there.  Before
6 the record stands with all it knew, and agents that were made invalid are told the source again
if no host has written meanwhile; after 6 the extent lies at its own location alone.

A piece that cannot be read or written leaves its blocks where they are, and is tried again after a
pause, for as long as the record stands; `trouble` says so.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import AnyChange, Completed, Copied, MovementAbandoned, MovementEnded
from segue.controller.procedures.flush_failed import copier_flush
from segue.controller.record import Record, container_of, is_location, run_bits
from segue.controller.restrict import agents_reached, invalidate
from segue.controller.table import Disk

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.complete")

RETRY_S = 1.0
"""First pause before work that failed at a container is tried again; doubles."""
LONGEST_RETRY_S = 8.0


async def complete(c: Controller, extent: int) -> None:
    """Completes the extent, or finds it gone; tries again for as long as a container fails."""
    run: _Run | None = None
    pause_s = RETRY_S
    while (record := c.table.records.get(extent)) is not None:
        if run is None or run.record is not record:
            # The extent may have become free and another's since: everything is asked anew.
            run, pause_s = _Run(c, extent, record), RETRY_S
        try:
            if not await run.copy_rest():
                continue
            await run.harden()
        except OSError as error:
            log.warning("event=copy_failed extent=%d disk=%d error=%s", extent, record.disk, error)
            c.background.trouble[extent] = str(error)
            if c.jobs.given_up(record.job) and run.revertible:
                await run.abandon()
                continue
            await c.background.before_trying_again(pause_s)
            pause_s = min(LONGEST_RETRY_S, pause_s * 2)
            continue
        c.background.trouble.pop(extent, None)
        failpoints.hit("complete.copied")
        await run.end()
    c.background.trouble.pop(extent, None)


class _Run:
    """One term's work on one record."""

    def __init__(self, c: Controller, extent: int, record: Record) -> None:
        self.c = c
        self.extent = extent
        self.record = record
        self.disk: Disk = c.table.disks[record.disk]
        self.location = c.table.extents.get(extent)
        self.container = container_of(self.location)
        self.failures = c.copier_failures.get(self.container, 0)
        self.source_flushed = not is_location(record.source)

    @property
    def over(self) -> bool:
        """The record is gone, whatever became of the extent."""
        return self.c.table.records.get(self.extent) is not self.record

    @property
    def revertible(self) -> bool:
        """Nothing that a host has written, or may have, was ever read at the new location."""
        record = self.record
        return is_location(record.source) and not record.written and not record.doubted

    async def copy_rest(self) -> bool:
        """Steps 1 to 3, one round over the blocks not yet here; True when all are.

        Raises the last `OSError` if what is missing could not be copied.
        """
        c, record = self.c, self.record
        if not self.source_flushed:
            number = container_of(record.source)
            await copier_flush(c, number, c.copier_failures.get(number, 0))
            self.source_flushed = True
            failpoints.hit("complete.source_flushed")
        failed: OSError | None = None
        left = record.all & ~record.here
        while left:
            longest = c.copier.piece_blocks(self.location, record, self.disk)
            first, count = next(runs_of(left, longest))
            left &= ~run_bits(first, count)
            await c.pacing.take(record.job, count * self.disk.block_bytes)
            if self.over:
                return False
            try:
                await self._piece(first, count)
            except OSError as error:
                failed = error
            if record.fresh.bit_count() * self.disk.block_bytes >= c.settings.copy_hint_bytes:
                await self.harden()
        if not self.over and record.here != record.all:
            # What is missing is held by writes under way (wait for them), or has failed.
            missing = record.all & ~record.here
            async with c.blocks.hold(self.location, missing, exclusive=True):
                pass
            if failed is not None:
                raise failed
        return not self.over and record.here == record.all

    async def _piece(self, first: int, count: int) -> None:
        """What of the run is neither here nor taken, so that nobody waits for it but new faults."""
        c, record = self.c, self.record
        unit = self.disk.unit_blocks(c.table.containers[self.container].row.write_unit_bytes)
        async with self._slot_and_extent():
            if self.over:
                return
            left = run_bits(first, count) & record.all
            while free := left & ~record.here & ~outward(c.blocks.taken(self.location), unit):
                piece_first, piece_count = next(runs_of(free, count))
                bits = run_bits(piece_first, piece_count)
                left &= ~bits
                async with (
                    c.blocks.hold(self.location, bits, exclusive=True),
                    c.blocks.hold(record.source, bits, exclusive=False),
                ):
                    await c.copier.piece(self.location, record, self.disk, piece_first, piece_count)
                    record.fresh |= bits
                    failpoints.hit("complete.piece_copied")

    @asynccontextmanager
    async def _slot_and_extent(self) -> AsyncIterator[None]:
        """Holds one of the container's slots and then the extent, shared, and neither while it
        waits for the other: who wants the extent exclusively would wait for other extents' pieces,
        and the slot stay taken for as long as somebody has the extent, who may wait for an agent.
        """
        locks, key = self.c.locks, ("extent", self.extent)
        while True:
            async with self.c.copier.slots(self.container).one():
                if locks.try_acquire(key, exclusive=False):
                    try:
                        yield
                    finally:
                        locks.release(key, exclusive=False)
                    return
            async with locks.hold(key, exclusive=False):
                pass

    async def harden(self) -> None:
        """Flushes the extent's container and commits the bits that this covers."""
        c, record = self.c, self.record
        covered = record.fresh
        try:
            await copier_flush(c, self.container, self.failures)
        except OSError:
            # A kernel may have dropped what a failed flush was for: none of it counts.
            record.fresh = 0
            self.failures = c.copier_failures.get(self.container, 0)
            raise
        async with c.locks.hold(("extent", self.extent), exclusive=False):
            # What a `do_write` has taken back meanwhile may be anything.
            covered &= record.fresh & record.all
            if not self.over and covered and record.here != record.all:
                failpoints.hit("complete.hints_flushed")
                hints: list[AnyChange] = [
                    Copied(self.extent, first, count)
                    for first, count in runs_of(covered, record.blocks)
                ]
                record.hinted = covered
                await c.commit(*hints)
                record.hinted = 0

    async def end(self) -> None:
        """Steps 5 and 6."""
        c, record = self.c, self.record
        await agents_reached(c, record.disk)
        async with self._alone():
            if self.over or record.here != record.all:
                return
            if not is_location(record.source):
                await c.commit(Completed(self.extent))
                return
            lost = await invalidate(c, record.disk, record.segment, 1)
            record.closed = True
            failpoints.hit("complete.restricted")
            await c.commit(MovementEnded(self.extent, c.still_holders(lost)))
            failpoints.hit("complete.committed")
        c.background.work_appeared()

    async def abandon(self) -> None:
        """Gives up a movement that is `revertible`: the extent stays at its source.

        Holding it exclusively, no `do_*`, lost ones included, and no piece is under way.
        """
        c = self.c
        async with self._alone():
            if not self.over and self.revertible:
                await c.commit(MovementAbandoned(self.extent))
                failpoints.hit("complete.abandoned")
        c.background.work_appeared()

    def _alone(self) -> AbstractAsyncContextManager[None]:
        """Holds what changing the entry takes."""
        return self.c.locks.hold_each(
            (("disk", self.record.disk), False),
            ((self.record.disk, self.record.segment), True),
            (("extent", self.extent), True),
        )


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
