"""Whole segments become zero again: trim, and write-zeroes without NO_HOLE (section 3; rules 3, 5).

1. Take the segments exclusively, ascending; nobody reads, writes or copies their extents now.
2. Make them invalid, blocking, at every agent of the disk, and then at the faulting one.
3. Commit: the run is zero, its locations are free, or in quarantine while a lost agent may still
   have I/O under way there.
4. Answer retry with zero entries; the agent then has it done at once.

A host that waits no longer may write there, and what it writes must not be undone by what it asked
before (rule 1): so before 3 it is asked once more whether the fault stands.  A write that came
after the agent had dropped the fault was done, wherever that was, before the faulting agent is
asked, as the last one; and its link says that the fault is gone before it says the answer.  Any
later write waits for the segments.  Nothing is carried out of a session that has ended, nor for an
incarnation that is lost: what is still wanted is listed again.  (It is asked though it has been
granted nothing there: its machine may be gone with nobody told, and its host be writing elsewhere.)

A crash before 3 leaves the data as it was, and the host without an answer: nothing is lost; after
3 the segments read as zeroes, which the host asked for.  A flush need not cover it: the commit is
durable.  What is zero already is not touched: a run of zeroes costs no commit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from errno import ESHUTDOWN
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import Discarded
from segue.controller.peer import Fault, PeerLost, SessionLost
from segue.controller.procedures.first_touch import entry_runs
from segue.controller.restrict import invalidate, invalidate_last
from segue.controller.table import Disk
from segue.wire.messages import Failure, Retry

if TYPE_CHECKING:
    from segue.controller.controller import Controller

RUN_SEGMENTS = 4096
"""The most that is done for one fault, under one set of locks."""


async def discard(c: Controller, fault: Fault, disk: Disk) -> None:
    """Makes the faulted run zero, `RUN_SEGMENTS` of it at the most: the agent faults for more."""
    first = fault.message.segment
    count = min(RUN_SEGMENTS, whole_segments(fault, disk))
    if not count:
        fault.answer(Retry(fault.message.request, disk.disk, []))
        return
    keys = [(disk.disk, segment) for segment in range(first, first + count)]
    while older := [extent for extent in disk.map.slice(first, count) if extent in c.inherited]:
        if c.background.in_vain(disk.disk, older):
            fault.answer(Failure(fault.message.request, ESHUTDOWN))
            return
        await c.background.inherited_changed()
    async with c.locks.hold(*keys, exclusive=True), incomplete_held(c, disk, first, count):
        if not await discard_run(c, disk, first, count, fault):
            return
        runs = entry_runs(c, fault.peer, disk, first, count, own=count)
        fault.answer(Retry(fault.message.request, disk.disk, runs))


def whole_segments(fault: Fault, disk: Disk) -> int:
    """How many segments of the run it names as a whole.

    The disk may have grown since: what was its short last segment is more than was asked for.  The
    agent, which knows that by now, decides again.
    """
    message = fault.message
    last = message.segment + message.segments - 1
    blocks = disk.blocks_per_segment * (message.segments - 1) + disk.blocks_of(last)
    return message.segments - (message.first_block + message.count_blocks < blocks)


@asynccontextmanager
async def incomplete_held(c: Controller, disk: Disk, first: int, count: int) -> AsyncIterator[None]:
    """Holds the incomplete extents of the run exclusively: no copier writes to what is freed."""
    incomplete = sorted(
        (record.segment, extent)
        for extent, record in c.table.records.items()
        if record.disk == disk.disk and first <= record.segment < first + count
    )
    extents = [extent for _, extent in incomplete]
    async with c.locks.hold(*(("extent", e) for e in extents), exclusive=True):
        yield


async def discard_run(c: Controller, disk: Disk, first: int, count: int, fault: Fault) -> bool:
    """Steps 2 and 3; the caller holds the segments exclusively.  False: not wanted any more."""
    if not fault.still_asked:
        return False
    if not any(disk.map.slice(first, count)):
        return True
    lost = await invalidate(c, disk.disk, first, count)
    with suppress(SessionLost, PeerLost):
        await fault.peer.present_in(fault.session)
        await invalidate_last(c, fault.peer, disk.disk, first, count)
    failpoints.hit("discard.restricted")
    if not fault.still_asked:
        return False
    holders = c.still_holders(lost)
    await c.commit(Discarded(disk.disk, first, count, holders))
    failpoints.hit("discard.committed")
    c.background.work_appeared()
    return True
