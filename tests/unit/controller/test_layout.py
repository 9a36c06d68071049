"""Runs and cells of a disk, beside a slow reading of the same table."""

from __future__ import annotations

import random
from collections import Counter
from typing import TypeVar

import pytest

from segue.controller import layout
from segue.controller.changes import Allocated, ContainerAdded, DiskMade
from segue.controller.layout import Run, Steps
from segue.controller.record import container_of, location_of, segment_of
from segue.controller.soundness import problems
from segue.controller.table import Disk, Table

SEGMENT = 1 << 16
SEGMENTS = 3000
"""Six pages of the map."""


def made(allocated: list[tuple[int, int, int, int, bool]], segments: int = SEGMENTS) -> Table:
    """A disk with (segment, extent, container, at, incomplete) of these."""
    table = Table()
    table.apply(
        ContainerAdded(n, name, f"file:///{name}", bytes([n]) * 16, SEGMENT, 5000, "page", 1, True)
        for n, name in ((1, "a"), (2, "b"))
    )
    table.apply([DiskMade(1, "d", segments * SEGMENT, SEGMENT, 4096, [1, 2])])
    table.apply(
        Allocated(1, segment, extent, location_of(container, at), incomplete)
        for segment, extent, container, at, incomplete in allocated
    )
    return table


T = TypeVar("T")


def finish(steps: Steps[T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


def slow(table: Table, disk: Disk) -> list[Run]:
    """Segment by segment."""
    found: list[Run] = []
    for segment in range(disk.segments):
        extent = disk.map.get(segment)
        location = table.extents.get(extent) if extent else 0
        here = Run(segment, 1)
        if extent:
            here = Run(
                segment,
                1,
                container_of(location),
                segment_of(location),
                extent in table.records,
            )
        last = found[-1] if found else None
        step = last.count if last and last.container else 0
        if last and (last.container, last.incomplete, last.at + step) == (
            here.container,
            here.incomplete,
            here.at,
        ):
            last.count += 1
        else:
            found.append(here)
    return found


def scattered(seed: int, share: float) -> Table:
    """Stretches and single segments, extents and locations in order and not."""
    rng = random.Random(seed)
    extents = list(range(1, SEGMENTS + 1))
    if seed % 2:
        rng.shuffle(extents)
    allocated, segment, at = [], 0, {1: 0, 2: 0}
    while segment < SEGMENTS:
        length = min(rng.choice((1, 1, 2, 40, 700)), SEGMENTS - segment)
        container = rng.choice((1, 2))
        if rng.random() < share:
            for step in range(length):
                there = at[container]
                at[container] += 1 if rng.random() < 0.95 else 2
                incomplete = rng.random() < 0.02
                allocated.append((segment + step, extents.pop(0), container, there, incomplete))
        segment += length
    return made(allocated)


@pytest.mark.parametrize("seed", range(6))
def test_runs_are_those_of_a_slow_reading(seed: int) -> None:
    table = scattered(seed, share=(0.1, 0.5, 1.0)[seed // 2])
    disk = table.disks[1]
    expected = slow(table, disk)
    assert finish(layout.runs(table, disk, 0, 10_000)) == (expected, None)
    asked: list[Run] = []
    at: int | None = 0
    while at is not None:
        part, after = finish(layout.runs(table, disk, at, 7))
        assert len(part) <= 7
        assert after is None or after > at
        asked, at = asked + part, after
    assert asked == expected


@pytest.mark.parametrize("per_cell", [1, 64, 1000, 4096])
def test_cells_add_up(per_cell: int) -> None:
    table = scattered(3, 0.5)
    disk = table.disks[1]
    found = finish(layout.cells(table, disk, per_cell))
    for number in range(-(-SEGMENTS // per_cell)):
        here: Counter[int] = Counter()
        incomplete = 0
        for segment, extent, location in table.mapped_segments(disk):
            if segment // per_cell == number:
                here[container_of(location)] += 1
                incomplete += extent in table.records
        cell = found.get(number)
        assert (cell is None) is (not here)
        if cell is not None:
            assert (cell.containers, cell.incomplete) == (here, incomplete)


def test_a_wide_thin_disk_costs_what_is_on_it() -> None:
    segments = 1 << 26  # 64 TiB of 1 MiB
    table = made([(0, 1, 1, 0, False), (segments - 1, 2, 2, 9, False)], segments)
    disk = table.disks[1]
    found, after = finish(layout.runs(table, disk, 0, 10))
    assert after is None
    assert found == [
        Run(0, 1, 1, 0),
        Run(1, segments - 2),
        Run(segments - 1, 1, 2, 9),
    ]
    assert sorted(finish(layout.cells(table, disk, 1 << 16))) == [0, 1023]


def test_what_is_changed_meanwhile_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "LEAVES_PER_STEP", 1)
    table = scattered(2, 0.5)
    disk = table.disks[1]
    expected = slow(table, disk)
    steps = layout.runs(table, disk, 0, 10_000)
    next(steps)
    free = next(run.segment for run in expected if run.container == 0)
    table.apply([Allocated(1, free, 9999, location_of(1, 4999), False)])
    assert finish(steps)[0] == expected
    assert problems(table) == []
