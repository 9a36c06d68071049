"""The table is the fold of its commits, a checkpoint is that same table, lies in it are named."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from segue.controller.changes import (
    AgentKnown,
    Allocated,
    AnyChange,
    Attached,
    Cleaned,
    CleaningBegun,
    Completed,
    ContainerAdded,
    Discarded,
    DiskContainers,
    DiskDeleted,
    DiskMade,
    DiskResized,
    FenceEnded,
    GrowthBegun,
    InstallationMade,
    JobMade,
    MovementAbandoned,
    MovementBegun,
    MovementEnded,
    Returned,
    TermBegun,
    Written,
    encode_changes,
)
from segue.controller.checkpoint import JobRow, encode_table, load_table
from segue.controller.record import location_of, run_bits
from segue.controller.soundness import problems
from segue.controller.space import FREE, QUARANTINED
from segue.controller.table import ZERO_WORD, Table
from segue.store.contract import Loaded, LogRecord, StoreCorrupt

SEGMENT = 1 << 16
CONTAINER = ContainerAdded(1, "c", "file:///c", b"i" * 16, SEGMENT, 100, "page", 1, True)
DISK = DiskMade(1, "d", 10 * SEGMENT - 512, SEGMENT, 4096, [1])


def table_after(*changes: AnyChange) -> Table:
    table = Table()
    for change in (InstallationMade(b"x" * 16), CONTAINER, DISK, *changes):
        table.replay(encode_changes([change]))
    assert problems(table) == []
    return table


def reloaded(table: Table, log: list[LogRecord] | None = None) -> Table:
    root, pages, _ = encode_table(table)
    number = table.number + len(log or [])

    def read_pages(ids: Sequence[int]) -> list[bytes]:
        return [pages[page_id] for page_id in ids]

    return load_table(Loaded(9, number, table.number, root, log or [], read_pages))


def test_the_word_of_an_entry_is_derived() -> None:
    table = table_after(
        Allocated(1, 2, 1, location_of(1, 7), incomplete=False),
        Allocated(1, 3, 2, location_of(1, 8), incomplete=True),
    )
    disk = table.disks[1]
    assert table.word(disk, 1) == ZERO_WORD
    assert table.word(disk, 2) == location_of(1, 7)
    assert table.word(disk, 3) == 0, "incomplete: invalid"
    assert disk.blocks_of(9) == 16, "a last block that is cut short is still a block"


def test_a_record_gathers_bits_until_it_ends() -> None:
    table = table_after(
        Allocated(1, 3, 1, location_of(1, 8), incomplete=True), Written(1, 0, 2), Written(1, 5, 1)
    )
    assert table.records[1].here == run_bits(0, 2) | run_bits(5, 1)
    table.apply([Completed(1)])
    assert table.word(table.disks[1], 3) == location_of(1, 8)


def test_an_extent_is_incomplete_while_its_disk_grows_into_its_rest() -> None:
    table = table_after(
        Allocated(1, 9, 1, location_of(1, 8), incomplete=False), GrowthBegun(1, 1, 9)
    )
    disk = table.disks[1]
    assert table.word(disk, 9) == 0
    assert table.records[1].here == table.records[1].all
    assert reloaded(table).records == table.records
    table.apply([Completed(1), DiskResized(1, 10 * SEGMENT, [])])
    assert table.word(disk, 9) == location_of(1, 8)
    assert problems(table) == []


def test_a_freed_location_waits_for_its_holders_and_comes_back_unclean() -> None:
    table = table_after(
        Allocated(1, 2, 1, location_of(1, 7), incomplete=False), Discarded(1, 2, 1, [55, 66])
    )
    space = table.containers[1].space
    assert space.state(7) == QUARANTINED
    table.apply([Returned(55)])
    assert space.state(7) == QUARANTINED
    table.apply([FenceEnded(66)])
    assert space.state(7) == FREE
    assert not space.is_clean(7)
    table.apply([CleaningBegun([location_of(1, 7)], 5), Cleaned([location_of(1, 7)])])
    assert space.is_clean(7)


def test_a_fence_that_ended_frees_what_its_copier_was_cleaning() -> None:
    table = table_after(
        TermBegun(1, 5),
        Allocated(1, 2, 1, location_of(1, 7), incomplete=False),
        Discarded(1, 2, 1, []),
        CleaningBegun([location_of(1, 7)], 5),
    )
    assert table.containers[1].space.take(clean=False) is None
    table.apply([FenceEnded(5)])
    assert table.fences == {}
    assert table.containers[1].space.take(clean=False) == (7, True)


def test_what_a_job_has_moved_is_counted_where_its_movements_end() -> None:
    """The same from a checkpoint; one of an earlier version has no such fields, and counts on."""
    move = JobMade(1, "move", 1, 2, 0, 0, 0)
    other = msgspec.structs.replace(CONTAINER, container=2, name="o", uri="file:///o")
    segments = [(n, n + 1, location_of(1, n), location_of(2, n)) for n in range(3)]
    begun = [
        change
        for segment, extent, source, location in segments
        for change in (
            Allocated(1, segment, extent, source, False),
            MovementBegun(extent, 1, segment, source, location, 1),
        )
    ]
    table = table_after(
        other, DiskContainers(1, [1, 2]), move, *begun, MovementEnded(1, []), MovementAbandoned(2)
    )
    job = table.jobs[1]
    assert (job.moved, job.moved_bytes) == (1, SEGMENT)
    again = reloaded(
        table, [LogRecord(9, table.number + 1, encode_changes([MovementEnded(3, [])]))]
    )
    assert (again.jobs[1].moved, again.jobs[1].moved_bytes) == (2, 2 * SEGMENT)
    row = msgspec.msgpack.encode([move, "", "", 0, False])
    assert msgspec.msgpack.decode(row, type=JobRow).moved == 0


def test_a_deleted_disk_leaves_nothing() -> None:
    table = table_after(
        AgentKnown(1, "a", 1),
        Attached(1, 1, 55),
        Allocated(1, 2, 1, location_of(1, 7), incomplete=True),
        DiskDeleted(1, []),
    )
    assert (table.disks, table.records, table.attached) == ({}, {}, {})
    assert table.extents.count == 0
    assert table.last_disk == 1, "its number is not used again"


def test_checkpoint_and_log_give_the_same_table() -> None:
    table = table_after(
        AgentKnown(1, "a", 30),
        Attached(1, 1, 55),
        TermBegun(3, 5),
        Allocated(1, 2, 1, location_of(1, 7), incomplete=False),
        Allocated(1, 3, 2, location_of(1, 8), incomplete=True),
        Written(2, 4, 3),
        Allocated(1, 4, 3, location_of(1, 9), incomplete=False),
        Discarded(1, 4, 1, [55]),
    )
    change = Allocated(1, 9, 3, location_of(1, 10), incomplete=False)
    loaded = reloaded(table, [LogRecord(3, table.number + 1, encode_changes([change]))])
    table.apply([change])
    for read in (
        lambda t: [t.word(t.disks[1], s) for s in range(10)],
        lambda t: (t.records, t.quarantine, t.fences, t.attached, t.agents, t.number),
        lambda t: [t.containers[1].space.state(s) for s in range(100)],
        lambda t: [t.containers[1].space.is_clean(s) for s in range(100)],
        lambda t: t.installation,
    ):
        assert read(loaded) == read(table)
    loaded.containers[1].space.self_check()
    assert loaded.take_extent() == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (Allocated(1, 4, 3, location_of(1, 7), False), "is also used by disk d segment 2"),
        (Allocated(1, 4, 3, location_of(2, 1), False), "#2 segment 1 does not exist"),
        (Allocated(1, 4, 3, location_of(1, 100), False), "segment 100 does not exist"),
    ],
)
def test_a_table_that_contradicts_itself_is_named_and_refused(
    change: Allocated, named: str
) -> None:
    table = table_after(Allocated(1, 2, 1, location_of(1, 7), incomplete=False))
    disk = table.disks[1]
    disk.map.set(change.segment, change.extent)
    table.extents.set(change.extent, change.location)
    assert any(named in problem for problem in problems(table)), problems(table)
    with pytest.raises(StoreCorrupt):
        reloaded(table)


def test_a_record_without_a_disk_is_named() -> None:
    table = table_after(Allocated(1, 2, 1, location_of(1, 7), incomplete=True))
    table.records[5] = table.records[1]
    assert problems(table) == ["extent 5: has a record, no disk refers to it"]
