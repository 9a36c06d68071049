"""A read of an incomplete extent, by `do_split_read` (Fig. 6B, steps 750-790; rule 12).

The caller holds disk and segment shared.

1. Take the extent shared, and the I/O's blocks shared at the extent's own location: their bits
   stand still.  Then, shared, the blocks that are not there yet at the source.
2. Command `do_split_read`, with where each run of blocks lies.
3. Answer complete_to_host.

Nothing overwrites, copies over or frees what this read was told to read before the agent has
answered.  Bits decide reads as soon as they are in the table; copied ones earlier, when the copier
has written the block (rule 6).  A crash anywhere leaves nothing: the fault comes again.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from errno import EIO
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.peer import Fault, PeerLost, SessionLost
from segue.controller.record import Record, run_bits
from segue.controller.table import Disk
from segue.wire.messages import BlockRun, CompleteToHost, DoSplitRead, Failure, Outcome

if TYPE_CHECKING:
    from segue.controller.controller import Controller


async def do_split_read(c: Controller, fault: Fault, disk: Disk, extent: int) -> None:
    """Carries out the faulted read; `extent` has a record."""
    message = fault.message
    count = min(message.count_blocks, disk.blocks_of(message.segment) - message.first_block)
    bits = run_bits(message.first_block, count)
    location, record = c.table.extents.get(extent), c.table.records[extent]
    async with AsyncExitStack() as held:
        await held.enter_async_context(c.locks.hold(("extent", extent), exclusive=False))
        await held.enter_async_context(c.blocks.hold(location, bits, exclusive=False))
        elsewhere = bits & ~record.here
        await held.enter_async_context(c.blocks.hold(record.source, elsewhere, exclusive=False))
        if not fault.current:
            return
        runs = split(record, location, message.first_block, count)
        command = c.next_command()
        try:
            answer = await fault.peer.do(command, DoSplitRead(command, message.request, runs))
        except SessionLost:
            return
        except PeerLost:
            kept = f"the blocks of {fault}"
            c.spawn(keep_until_drained(held.pop_all(), fault), kept)
            return
        failpoints.hit("split_read.done")
        if answer.outcome == Outcome.DONE:
            fault.answer(CompleteToHost(message.request))
        elif answer.outcome == Outcome.FAILED:
            fault.answer(Failure(message.request, answer.errno or EIO))
        else:
            fault.peer.gave_up(fault)


async def keep_until_drained(held: AsyncExitStack, fault: Fault) -> None:
    """Keeps the blocks of a lost agent's `do_*` until its I/O has provably ended (rule 12).

    Only they stay held: other agents go on with the rest of the segment.
    """
    async with held:
        await fault.peer.drained(fault.message.disk)


def split(record: Record, location: int, first_block: int, count_blocks: int) -> list[BlockRun]:
    """The runs that cover these blocks in order, each where its blocks read from."""
    runs: list[BlockRun] = []
    here = record.here
    block, end = first_block, first_block + count_blocks
    while block < end:
        start, at_home = block, here >> block & 1
        while block < end and here >> block & 1 == at_home:
            block += 1
        runs.append(BlockRun(start, block - start, location if at_home else record.source))
    return runs
