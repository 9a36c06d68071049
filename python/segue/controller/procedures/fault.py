"""A map fault, answered (design, section 5): which procedure it needs, and the locks it takes.

`way_of` is this table:

    entry in the durable table    read           write            discard (whole segments)
    zero                          first touch    first write      first touch
    complete extent               first touch    first touch      discard
    incomplete, source open       first touch    close source     discard
    incomplete extent             split read     do_write         discard

A source is open while agents may hold the old location: no host has written since it became one.
Shared holders of disk and segment look and answer; whatever changes an entry holds the segment
exclusively.  A first write finds out only under the shared lock that it needs the exclusive one:
it lets go and looks again, since the locks cannot be upgraded.  A fault on an incomplete extent
holds disk, segment and extent shared, and its blocks, from its decision to the commit of its bits.

An extent that an older term left incomplete is touched only after every agent it had attached has
said what it has under way, or is lost (section 4, Terms); a `do_*` of that older term that is still
running holds its blocks here from before that moment until its answer, and is then done again.
Reads of an open source need not wait for that.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager, ExitStack, suppress
from enum import Enum
from errno import EINVAL, ESHUTDOWN
from typing import TYPE_CHECKING

from segue.controller.peer import Fault, PeerLost, SessionLost
from segue.controller.procedures.discard import discard
from segue.controller.procedures.do_split_read import do_split_read
from segue.controller.procedures.do_write import close_source, do_write, whole_units
from segue.controller.procedures.first_touch import first_touch
from segue.controller.procedures.first_write import first_write
from segue.controller.record import Record, container_of, run_bits
from segue.controller.table import Disk
from segue.controller.waits import current_work
from segue.wire.messages import Answer, Failure, Operation, Outcome

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.fault")

MOST_READ_SEGMENTS = 4096
"""An agent asks for the status of no more at once."""


class Way(Enum):
    """The procedure that a fault needs."""

    FIRST_TOUCH = "first touch"
    FIRST_WRITE = "first write"
    CLOSE_SOURCE = "close source"
    SPLIT_READ = "split read"
    DO_WRITE = "do_write"
    DISCARD = "discard"


def way_of(extent: int, record: Record | None, operation: Operation) -> Way:
    """See the module's table; `extent` 0: zero, `record`: the extent's if it is incomplete."""
    if operation == Operation.DISCARD:
        return Way.DISCARD if extent else Way.FIRST_TOUCH
    if operation == Operation.READ:
        return Way.FIRST_TOUCH if record is None or record.granted else Way.SPLIT_READ
    if extent == 0:
        return Way.FIRST_WRITE
    if record is None:
        return Way.FIRST_TOUCH
    return Way.CLOSE_SOURCE if record.is_open else Way.DO_WRITE


async def answer_fault(c: Controller, fault: Fault) -> None:
    """Answers one fault, exactly once."""
    message = fault.message
    key = ("disk", message.disk)
    await c.locks.acquire(key, exclusive=False)
    try:
        disk = c.table.disks.get(message.disk)
        errno = _errno(c, fault, disk)
        if disk is None or errno:
            fault.answer(Failure(message.request, errno or ESHUTDOWN))
            return
        await _decide(c, fault, disk)
    finally:
        c.locks.release(key, exclusive=False)
    c.faults_answered += 1
    took_ns = c.clock.now_ns() - fault.begun_ns
    if took_ns >= c.settings.slow_fault_ns:
        _log_slow(c, fault, took_ns)


def _log_slow(c: Controller, fault: Fault, took_ns: int) -> None:
    """Where the time of a slow fault went: one line, waits in milliseconds."""
    message, work = fault.message, current_work()
    spent_ns = dict(work.spent_ns) if work is not None else {}
    if work is not None:
        spent_ns["lease"] = work.begun_ns - fault.begun_ns
    spent = " ".join(f"{kind}_ms={ns / 1e6:.1f}" for kind, ns in spent_ns.items() if ns)
    log.info(
        "event=slow_fault %s segment=%d operation=%s took_ms=%.1f %s commit=%d command=%x",
        fault.ids,
        message.segment,
        message.operation.name,
        took_ns / 1e6,
        spent,
        work.commit if work is not None else 0,
        work.command if work is not None else 0,
    )


def _errno(c: Controller, fault: Fault, disk: Disk | None) -> int:
    """What is wrong with the fault itself (rule 10); 0 if nothing."""
    message = fault.message
    if disk is None or fault.peer.incarnation not in c.table.attached.get(message.disk, {}):
        return ESHUTDOWN
    if message.segments < 1 or message.segment + message.segments > disk.segments:
        return EINVAL
    blocks = disk.blocks_per_segment * (message.segments - 1)
    blocks += disk.blocks_of(message.segment + message.segments - 1)
    if message.count_blocks < 1 or message.first_block + message.count_blocks > blocks:
        return EINVAL
    if message.first_block >= disk.blocks_of(message.segment):
        return EINVAL
    most = {Operation.READ: MOST_READ_SEGMENTS, Operation.WRITE: 1, Operation.DISCARD: blocks}
    return EINVAL if message.segments > most[message.operation] else 0


async def _decide(c: Controller, fault: Fault, disk: Disk) -> None:
    message = fault.message
    if message.operation == Operation.DISCARD:
        await discard(c, fault, disk)
        return
    while fault.current:
        extent = disk.map.get(message.segment)
        if _untouchable(c, extent, message.operation):
            if c.background.in_vain(message.disk, [extent]):
                fault.answer(Failure(message.request, ESHUTDOWN))
                return
            await c.background.inherited_changed()
            continue
        if extent == 0 and message.operation == Operation.WRITE:
            await first_write(c, fault, disk)
            continue
        async with c.locks.hold((disk.disk, message.segment), exclusive=False):
            if await _answer_shared(c, fault, disk):
                return
        # What it takes to go on needs the segment exclusively, or is decided again.
        with _host_waits(c, extent):
            await close_source(c, fault, disk)


def _untouchable(c: Controller, extent: int, operation: Operation) -> bool:
    """Whether an older term's I/O may be under way there, and this operation minds."""
    if extent not in c.inherited:
        return False
    record = c.table.records.get(extent)
    return operation != Operation.READ or record is None or not record.granted


async def _answer_shared(c: Controller, fault: Fault, disk: Disk) -> bool:
    """What can be done with the segment held shared; False if it must be decided again."""
    message = fault.message
    extent = disk.map.get(message.segment)
    way = way_of(extent, c.table.records.get(extent), message.operation)
    if _untouchable(c, extent, message.operation):
        return False
    if way is Way.FIRST_TOUCH:
        first_touch(c, fault, disk)
    elif way in (Way.SPLIT_READ, Way.DO_WRITE):
        carry_out = do_split_read if way is Way.SPLIT_READ else do_write
        with _host_waits(c, extent):
            await carry_out(c, fault, disk, extent)
    else:
        return False
    return True


def _host_waits(c: Controller, extent: int) -> AbstractContextManager[None]:
    """While a host's I/O waits for the controller, the copier sends little to where it lies."""
    return c.copier.slots(container_of(c.table.extents.get(extent))).host_waits()


def claim_running(c: Controller, fault: Fault) -> ExitStack:
    """Takes extent and blocks of a `do_*` that is still running, an older term's or one that this
    term counted lost, at once: the agent is about to count as listed, and whoever holds the disk or
    the segment may be waiting for that.
    """
    held = ExitStack()
    message = fault.message
    disk = c.table.disks.get(message.disk)
    if disk is None or _errno(c, fault, disk):
        return held
    extent = disk.map.get(message.segment)
    first = message.first_block
    count = min(message.count_blocks, disk.blocks_of(message.segment) - first)
    write = message.operation == Operation.WRITE
    location, record = c.table.extents.get(extent), c.table.records.get(extent)
    if write and record is not None:
        first, count = whole_units(c, disk, extent, message)
    bits, source = run_bits(first, count), record.source if record is not None else 0
    if extent:
        held.enter_context(c.locks.claim(("extent", extent)))
    held.enter_context(c.blocks.claim(location, bits, exclusive=write))
    held.enter_context(c.blocks.claim(source, bits, exclusive=False))
    return held


async def answer_running(
    c: Controller, fault: Fault, running: asyncio.Future[Answer], held: ExitStack
) -> None:
    """Answers a fault whose `do_*` an older term sent, when that has ended; `held`: what it holds.

    That is all, and it waits for nobody here, not for a lock either: who holds disk or segment may
    wait for this `do_*`'s end.  If the agent knows nothing of the fault any more, as one that was
    lost does, there is nothing to answer: a `do_*` that is ordered anew might not even be sent.
    """
    with held:
        try:
            with suppress(SessionLost):
                if (await running).outcome == Outcome.GONE:
                    fault.peer.gave_up(fault)
                    return
        except PeerLost:
            await fault.peer.drained(fault.message.disk)
    await answer_fault(c, fault)
