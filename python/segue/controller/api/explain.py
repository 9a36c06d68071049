"""One byte of a disk, explained from the central table and what is under way (`disk explain`).

Nothing is asked of agents or containers, so an explanation is of one instant and always at hand:
when everything waits is when it is needed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from litestar.exceptions import ClientException

from segue import _native
from segue.api.explain import BlockRecord, Decision, Explanation, Holding, LockInfo, Place
from segue.api.status import FaultInfo
from segue.controller.api.waits import MOST, fault_info, lock_name, unanswered, work_info
from segue.controller.controller import Controller
from segue.controller.peer import PeerState
from segue.controller.procedures.fault import Way, way_of
from segue.controller.record import Record, container_of, is_location, segment_of
from segue.controller.table import ZERO_WORD, Disk
from segue.wire.messages import Operation

THEN = {
    Way.FIRST_TOUCH: "the controller answers with the entry",
    Way.FIRST_WRITE: "the controller gives the segment a location",
    Way.CLOSE_SOURCE: "the controller takes the old location from every agent; "
    "the write is done at the new one (do_write)",
    Way.SPLIT_READ: "each block is read from where it is now (do_split_read)",
    Way.DO_WRITE: "the write is done at the extent's own location (do_write)",
    Way.DISCARD: "the segment becomes zero and its location free",
}


def explain(c: Controller, disk: Disk, offset_bytes: int) -> Explanation:
    """The byte at that offset; HTTP status 400 beyond the disk's end."""
    if offset_bytes >= disk.size_bytes:
        raise ClientException(
            f"disk {disk.name} has {disk.size_bytes} bytes: there is none at {offset_bytes}"
        )
    segment, within = divmod(offset_bytes, disk.segment_bytes)
    block = within // disk.block_bytes
    extent = disk.map.get(segment)
    location, record = c.table.extents.get(extent), c.table.records.get(extent)
    if record is None:
        word = location if extent else ZERO_WORD
        reads_from = location
    else:
        word = record.granted
        reads_from = record.reads_from(block, location)
    entry, line = _native.entry_decisions(word)
    return Explanation(
        disk=disk.name,
        offset_bytes=offset_bytes,
        segment=segment,
        segment_bytes=disk.segment_bytes,
        block=block,
        block_bytes=disk.block_bytes,
        extent=extent,
        entry=entry,
        why=list(_why(c, disk, extent, record)),
        lies_at=_place(c, location, within),
        reads_from=_place(c, reads_from, within),
        record=None if record is None else _record(c, record, block, within),
        decisions=[Decision(io, does, _then(c, extent, record, does)) for io, does in line],
        agents=_holdings(c, disk, segment),
        locks=list(_locks(c, disk, segment, extent)),
        blocks_taken=bool((c.blocks.taken(location) | _taken_at_source(c, record)) >> block & 1),
        faults=_faults(c, disk, segment),
    )


def _why(c: Controller, disk: Disk, extent: int, record: Record | None) -> Iterator[str]:
    """What led to the entry, one sentence each."""
    if extent == 0:
        yield "nothing was written here, or it was discarded: it takes no room"
    elif record is None:
        yield "the extent is complete and no other disk's"
    elif record.granted:
        yield (
            "the extent is under movement and no host has written it since: "
            "the old location may be read"
        )
    elif is_location(record.source):
        yield (
            "the extent is under movement and a host wrote to it, or tried to: "
            "its blocks lie at both ends"
        )
    else:
        yield (
            "the extent's location is being zeroed, for it was not clean or the disk grows: "
            "what is not written yet reads as zeroes"
        )
    if extent in c.inherited:
        yield "an older term left it incomplete: agents have yet to say what they have under way"
    if extent in c.background.trouble:
        yield f"it cannot be completed: {c.background.trouble[extent]}"
    for number, errno in disk.failed.items():
        yield (
            f"a flush of the disk failed at {c.name_of_container(number)} (errno {errno}): "
            "every flush fails until clear-error"
        )


def _place(c: Controller, location: int, within: int) -> Place | None:
    if not is_location(location):
        return None
    row = c.table.containers[container_of(location)].row
    at = _native.CONTAINER_DATA_AT + segment_of(location) * row.segment_bytes + within
    return Place(row.name, segment_of(location), row.uri, at, c.away_s(row.container))


def _record(c: Controller, record: Record, block: int, within: int) -> BlockRecord:
    source = _place(c, record.source, within)
    copied = record.here & ~record.written
    word = "source"
    if record.here >> block & 1:
        word = "written" if record.written >> block & 1 else "copied"
    return BlockRecord(
        purpose="movement" if source is not None else "zeroing",
        job=record.job,
        sources=[source] if source is not None else [],
        block=word,
        blocks=record.blocks,
        written_blocks=record.written.bit_count(),
        copied_blocks=copied.bit_count(),
    )


def _then(c: Controller, extent: int, record: Record | None, does: str) -> str:
    """How a fault that the truth table names is answered."""
    kind, _, operation = does.partition(" ")
    if kind != "fault":
        return ""
    way = way_of(extent, record, Operation[operation])
    waits = extent in c.inherited and way is not Way.FIRST_TOUCH
    return f"{'when an older term is taken over, ' if waits else ''}{THEN[way]}"


def _holdings(c: Controller, disk: Disk, segment: int) -> list[Holding]:
    return [
        Holding(
            agent=peer.name,
            incarnation=f"{peer.incarnation:x}",
            state=peer.state.value,
            may_hold=not peer.gone and peer.grants(disk.disk).any(segment, 1),
        )
        for peer in c.peers_of(disk.disk)
        if peer.state is not PeerState.ENDED
    ]


def _locks(c: Controller, disk: Disk, segment: int, extent: int) -> Iterator[LockInfo]:
    """Those that exist: somebody holds or wants them."""
    keys: list[Hashable] = [("disk", disk.disk), (disk.disk, segment)]
    if extent:
        keys.append(("extent", extent))
    for key in keys:
        state = c.locks.state(key)
        if state is not None:
            yield LockInfo(
                lock=lock_name(c, key),
                state=state,
                held_by=[work_info(c, work) for work in c.waits.holders(key)[:MOST]],
                waiting=[work_info(c, work) for work in c.waits.waiters(key)[:MOST]],
            )


def _taken_at_source(c: Controller, record: Record | None) -> int:
    return c.blocks.taken(record.source) if record is not None and record.source else 0


def _faults(c: Controller, disk: Disk, segment: int) -> list[FaultInfo]:
    return [
        fault_info(c, fault, work)
        for fault, work in unanswered(c)
        if fault.message.disk == disk.disk
        and fault.message.segment <= segment < fault.message.segment + fault.message.segments
    ][:MOST]
