"""What is derived in bulk is what a look at every entry says, and a lie is never called sound."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from segue.controller.changes import (
    AgentKnown,
    Allocated,
    Attached,
    CleaningBegun,
    ContainerAdded,
    Discarded,
    DiskDeleted,
    DiskMade,
    DiskResized,
    InstallationMade,
    MovementBegun,
    TermBegun,
    encode_changes,
)
from segue.controller.derived import derive
from segue.controller.record import Record, container_of, is_location, location_of
from segue.controller.soundness import problems
from segue.controller.space import FREE, SOURCE, USED
from segue.controller.table import Table
from segue.sim.replica import facts
from segue.store.contract import LogRecord
from tests.unit.controller.test_table import reloaded

SEGMENT = 1 << 16
SEGMENTS = 12
DISKS, CONTAINERS = (1, 2), (1, 2)


def sound_table(rng: random.Random) -> Table:
    """Two disks over two containers; some extents move, locations in quarantine, being cleaned."""
    table = Table()
    table.apply([InstallationMade(b"i" * 16), TermBegun(1, 5), AgentKnown(1, "a", 30)])
    for number in CONTAINERS:
        row = ContainerAdded(
            number, f"c{number}", "file:///c", b"c" * 16, SEGMENT, 20, "page", 1, number == 1
        )
        table.apply([row])
    for number in DISKS:
        disk = DiskMade(number, f"d{number}", SEGMENTS * SEGMENT, SEGMENT, 4096, [1, 2])
        table.apply([disk, Attached(number, 1, 55)])
    free = [location_of(number, at) for number in CONTAINERS for at in range(20)]
    rng.shuffle(free)
    for _ in range(30):
        at, segment = rng.choice(DISKS), rng.randrange(SEGMENTS)
        extent = table.disks[at].map.get(segment)
        if not extent:
            made = Allocated(at, segment, table.take_extent(), free.pop(), rng.random() < 0.3)
            table.apply([made])
        elif extent not in table.records and rng.random() < 0.3:
            source = table.extents.get(extent)
            table.apply([MovementBegun(extent, at, segment, source, free.pop(), 1)])
        else:
            freed = table.extents.get(extent)
            table.apply([Discarded(at, segment, 1, [55] if rng.random() < 0.5 else [])])
            if freed not in table.quarantine and rng.random() < 0.5:
                table.apply([CleaningBegun([freed], 5)])
    return table


def spoil(table: Table, rng: random.Random) -> None:
    """One thing that no commit says; it may be harmless, where it was so already."""
    disk = table.disks[rng.choice(DISKS)]
    number, at = rng.choice((1, 2, 3)), rng.randrange(22)
    space = rng.choice(list(table.containers.values())).space
    extent = rng.randrange(1, 26)
    spoils: list[Callable[[], object]] = [
        lambda: disk.map.set(rng.randrange(SEGMENTS + 1), rng.randrange(26)),
        lambda: table.extents.set(extent, rng.choice([0, location_of(number, at)])),
        lambda: space.move(at % 20, rng.choice([FREE, USED, SOURCE])),
        lambda: space.set_clean(at % 20, not space.is_clean(at % 20)),
        lambda: table.quarantine.update({location_of(number, at): [55]}),
        lambda: table.cleaning.update({location_of(number, at): 5}),
        lambda: table.records.update({extent: Record(0, disk.disk, 1, 16)}),
        lambda: table.records.update({extent: Record(location_of(number, at), disk.disk, 1, 16)}),
        disk.containers.clear,
        lambda: table.containers.pop(2, None),
    ]
    rng.choice(spoils)()


def entries(table: Table) -> list[tuple[int, int, int, int]]:
    """(disk, segment, extent, location) of all that is mapped."""
    return [
        (disk.disk, *entry)
        for disk in table.disks.values()
        for entry in table.mapped_segments(disk)
    ]


def forget(table: Table) -> None:
    """All that is derived from entries."""
    table.lying = {}
    for record in table.records.values():
        record.disk = record.segment = 0


@given(st.integers(0, 2**32))
def test_what_is_derived_is_what_the_entries_say(seed: int) -> None:
    table = sound_table(random.Random(seed))
    lying = dict(table.lying)
    forget(table)
    assert derive(table), "a sound table"
    mapped = entries(table)
    counted = Counter((disk, container_of(location)) for disk, _, _, location in mapped)
    for disk, segment, extent, _ in mapped:
        record = table.records.get(extent)
        if record is not None:
            assert (record.disk, record.segment) == (disk, segment)
            if is_location(record.source):
                counted[disk, container_of(record.source)] += 1
    assert table.lying == lying == counted
    used = {extent for _, _, extent, _ in mapped}
    highest = max(used, default=0)
    unused = [table.take_extent() for _ in range(highest - len(used))]
    assert sorted(unused) == sorted(set(range(1, highest)) - used)
    assert table.take_extent() == highest + 1


@given(st.integers(0, 2**32), st.integers(0, SEGMENTS), st.booleans())
def test_what_is_unmapped_in_bulk_is_what_segments_one_by_one_are(
    seed: int, kept: int, held: bool
) -> None:
    """Deleting and shrinking, beside discarding each segment first, and replayed from a log."""
    bulk, single = sound_table(random.Random(seed)), sound_table(random.Random(seed))
    holders = [77] if held else []
    for segment in range(kept, SEGMENTS):
        single.apply([Discarded(1, segment, 1, holders)])
    gone = DiskResized(1, kept * SEGMENT, holders) if kept else DiskDeleted(1, holders)
    log = [LogRecord(9, bulk.number + 1, encode_changes([gone]))]
    replayed = reloaded(bulk, log)
    bulk.apply([gone])
    single.apply([gone])
    assert facts(replayed) == facts(bulk)
    single.number = bulk.number
    assert facts(bulk) == facts(single)
    assert problems(bulk) == []
    for table in (bulk, single, replayed):
        for container in table.containers.values():
            container.space.self_check()
    taken = [sorted(t.take_extent() for _ in range(30)) for t in (bulk, single, replayed)]
    assert taken[0] == taken[1] == taken[2]


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_no_lie_is_called_sound(seed: int, lies: int) -> None:
    rng = random.Random(seed)
    table = sound_table(rng)
    for _ in range(lies):
        spoil(table, rng)
    forget(table)
    sound = derive(table)
    assert problems(table, entries_are_sound=sound) == problems(table)
