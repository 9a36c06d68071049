"""First touch: the agent does not have the entry, the table does (design, section 5).

Answers at once, with the entry and the neighbours likely next.  The caller holds disk and segment
shared; neighbours that somebody holds exclusively are about to change and are skipped, as are those
whose entry is invalid: incomplete ones, unless their source is still open to reads.  The answer is
built from the table and queued on the link with no await between, and what it grants is noted in
the same breath.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.controller.peer import Fault, Peer
from segue.controller.table import ZERO_WORD, Disk
from segue.wire.messages import EntryRun, Retry

if TYPE_CHECKING:
    from segue.controller.controller import Controller


def first_touch(c: Controller, fault: Fault, disk: Disk) -> None:
    """Answers with the entries of the faulted run and of what follows it."""
    message = fault.message
    count = message.segments + c.settings.prefetch_segments
    count = min(count, disk.segments - message.segment)
    runs = entry_runs(c, fault.peer, disk, message.segment, count)
    fault.answer(Retry(message.request, disk.disk, runs))


def entry_runs(
    c: Controller, peer: Peer, disk: Disk, first: int, count: int, own: int = 1
) -> list[EntryRun]:
    """The entries an agent may hold of a run, as few runs as they make; noted as granted.

    Segments that are held exclusively, or whose entry is invalid, are left out; the first `own`
    are the caller's, who holds them.
    """
    runs: list[EntryRun] = []
    extents, records, location = disk.map.slice(first, count), c.table.records, c.table.extents.get
    grants, held = peer.grants(disk.disk), c.locks.exclusively_held
    start = length = word = step = 0
    for at, extent in enumerate(extents):
        segment = first + at
        if at >= own and held((disk.disk, segment)):
            continue
        record = records.get(extent)
        if record is None:
            entry = location(extent) if extent else ZERO_WORD
        elif not (entry := record.granted):
            continue
        if length and segment == start + length:
            if length == 1 and entry - word in (0, 1):
                step = entry - word
            if entry == word + length * step:
                length += 1
                continue
        if length:
            runs.append(EntryRun(start, length, word, step))
            grants.mark(start, length)
        start, length, word, step = segment, 1, entry, 0
    if length:
        runs.append(EntryRun(start, length, word, step))
        grants.mark(start, length)
    return runs
