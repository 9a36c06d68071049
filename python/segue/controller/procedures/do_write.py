"""A write to an incomplete extent, by `do_write` (Fig. 6B, steps 740-745; rules 6, 12).

The caller holds disk and segment shared.

1. Take the extent shared, and the I/O's blocks exclusively: the copier is not writing them.
2. Command `do_write` at the extent's own location, with where the rest of a partly written first
   or last block reads from; the agent answers done only when all of it is durable.
3. Commit the written bits.
4. Answer complete_to_host.

Interleavings.  A crash after 2 leaves bytes at the location that no bit speaks of: reads take the
source, the host has no answer, and the fault comes again.  If the session is cut, the agent's list
says whether the command is running or done (then this procedure goes on) or never came (then it
gives up: the fault is listed and starts anew).  If the agent is lost, its write may still land:
the blocks stay held until it has provably ended (rule 12).
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from errno import EIO
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import Written
from segue.controller.peer import Fault, PeerLost, SessionLost
from segue.controller.procedures.do_split_read import keep_until_drained
from segue.controller.table import Disk, Record, container_of, run_bits
from segue.wire.messages import CompleteToHost, DoWrite, Failure, MapFault, Outcome

if TYPE_CHECKING:
    from segue.controller.controller import Controller


async def do_write(c: Controller, fault: Fault, disk: Disk, extent: int) -> None:
    """Carries out the faulted write; `extent` has a record."""
    message = fault.message
    location = c.table.extents.get(extent)
    record = c.table.records[extent]
    first, count = whole_units(c, disk, extent, message)
    bits = run_bits(first, count)
    async with AsyncExitStack() as held:
        await held.enter_async_context(c.locks.hold(("extent", extent), exclusive=False))
        await held.enter_async_context(c.blocks.hold(extent, bits, exclusive=True))
        if not fault.current:
            return
        command = c.next_command()
        order = DoWrite(
            command=command,
            request=message.request,
            location=location,
            head=_reads_from(record, location, first),
            tail=_reads_from(record, location, first + count - 1),
        )
        try:
            answer = await fault.peer.do(command, order)
        except SessionLost:
            return
        except PeerLost:
            kept = f"the blocks of {fault}"
            c.spawn(keep_until_drained(held.pop_all(), fault.peer), kept)
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


def _reads_from(record: Record, location: int, block: int) -> int:
    """Where a block reads from: the extent's own location, or 0 for its source, zeroes."""
    return location if record.here >> block & 1 else 0
