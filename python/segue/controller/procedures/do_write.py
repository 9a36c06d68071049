"""A write to an incomplete extent, by `do_write` (Fig. 6B, steps 720-745; rules 3, 6, 12).

The caller holds disk and segment shared, and agents hold no entry for the segment: for a source
that they may still read, `close_source` comes first.

1. Take the extent shared, and the I/O's blocks exclusively at the extent's own location: the copier
   is not writing them, their bits stand still.  Fresh bits of theirs are taken back: they may only
   stand for what the source says, and this write may fail half done, or be done and lost from
   sight.  Then, shared at the source, the blocks that still read from there: a first and last one
   that is partly written needs its rest.
2. Command `do_write` at the extent's own location, with where the rest of a partly written first
   or last block reads from; the agent answers done only when all of it is durable.
3. Commit the written bits.
4. Answer complete_to_host.

`close_source` (step 730): the old location holds no usable version of a block once a write of it is
acknowledged.  With the segment and the extent held exclusively it makes the segment invalid,
blocking, at every agent, and notes in the record, for this term, that the source is closed; the
first written bit says so durably.

Interleavings.  A crash between `close_source` and 3 leaves a record without written bits.  If it
has no copied ones either, the next term lets agents read the old location again: no write was
acknowledged, and nobody reads the bytes at the new location that no bit speaks of.  The host has no
answer, and the fault comes again.  If it has copied bits, this write may have gone over one of
their blocks: they are *doubted*, and the next term lets them be read where the bits say only, by
`do_split_read`.  With one agent at the source beside another at the new location the write would be
seen and then not.  The same holds of a movement that is given up.

If the session is cut, the agent's list says whether the command is running or done (then this
procedure goes on) or never came (then it gives up: the fault is listed and starts anew).  If the
agent is lost, its write may still land: the blocks stay held until it has provably ended (rule 12).
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from errno import EIO
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import Written
from segue.controller.peer import Fault, PeerLost, SessionLost
from segue.controller.procedures.do_split_read import keep_until_drained
from segue.controller.record import container_of, run_bits
from segue.controller.restrict import invalidate
from segue.controller.table import Disk
from segue.wire.messages import CompleteToHost, DoWrite, Failure, MapFault, Outcome

if TYPE_CHECKING:
    from segue.controller.controller import Controller


async def close_source(c: Controller, fault: Fault, disk: Disk) -> None:
    """Takes the right to read the old location from every agent; the caller holds the disk shared.

    Does nothing if that has become needless meanwhile: the caller decides again.
    """
    segment = fault.message.segment
    async with c.locks.hold((disk.disk, segment), exclusive=True):
        extent = disk.map.get(segment)
        async with c.locks.hold(("extent", extent), exclusive=True):
            record = c.table.records.get(extent)
            if record is None or not record.is_open or not fault.current or extent in c.inherited:
                return
            await invalidate(c, disk.disk, segment, 1)
            failpoints.hit("do_write.closed")
            record.closed = True


async def do_write(c: Controller, fault: Fault, disk: Disk, extent: int) -> None:
    """Carries out the faulted write; `extent` has a record whose source agents cannot read."""
    message = fault.message
    location = c.table.extents.get(extent)
    record = c.table.records[extent]
    first, count = whole_units(c, disk, extent, message)
    bits = run_bits(first, count)
    async with AsyncExitStack() as held:
        await held.enter_async_context(c.locks.hold(("extent", extent), exclusive=False))
        await held.enter_async_context(c.blocks.hold(location, bits, exclusive=True))
        record.fresh &= ~bits
        record.doubted |= bits & (record.copied | record.hinted)
        elsewhere = bits & ~record.here
        await held.enter_async_context(c.blocks.hold(record.source, elsewhere, exclusive=False))
        if not fault.current:
            return
        command = c.next_command()
        order = DoWrite(
            command=command,
            request=message.request,
            location=location,
            head=record.reads_from(first, location),
            tail=record.reads_from(first + count - 1, location),
        )
        try:
            answer = await fault.peer.do(command, order)
        except SessionLost:
            return
        except PeerLost:
            kept = f"the blocks of {fault}"
            c.spawn(keep_until_drained(held.pop_all(), fault), kept)
            return
        if answer.outcome == Outcome.DONE:
            failpoints.hit("do_write.done")
            await c.commit(Written(extent, first, count))
            failpoints.hit("do_write.committed")
            fault.answer(CompleteToHost(message.request))
        elif answer.outcome == Outcome.FAILED:
            fault.answer(Failure(message.request, answer.errno or EIO))
        else:
            fault.peer.gave_up(fault)
    if record.here == record.all:
        c.background.complete_later(extent)


def whole_units(c: Controller, disk: Disk, extent: int, message: MapFault) -> tuple[int, int]:
    """The blocks that a `do_write` writes: outward to the container's units: (first, count)."""
    record = c.table.records[extent]
    row = c.table.containers[container_of(c.table.extents.get(extent))].row
    unit = disk.unit_blocks(row.write_unit_bytes)
    first = message.first_block // unit * unit
    end = -(-(message.first_block + message.count_blocks) // unit) * unit
    return first, min(end, record.blocks) - first
