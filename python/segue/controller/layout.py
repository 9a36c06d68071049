"""Where the segments of a disk lie: as runs, and summed up in cells for a drawing.

Both go over the mapped pages only, so a thin disk of 64 TiB costs what is on it, and yield now
and then (`Steps`): the caller lets other work go on between, and closes the generator.  They look
at clones, so what they say is of one instant.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from segue.controller.record import container_of, segment_of
from segue.controller.table import Disk, Table
from segue.store.page_format import LEAF_WORDS
from segue.store.pages import PageTree

T = TypeVar("T")
Words = npt.NDArray[np.uint64]
Steps = Generator[None, None, T]
LEAVES_PER_STEP = 32
"""About 2 ms of work."""
FEW_PAGES = 16
"""Extents of one leaf on so many pages are looked up page by page, on more one by one."""


@dataclass(slots=True)
class Run:
    """Segments that follow each other here and where they lie; container 0: zero."""

    segment: int
    count: int
    container: int = 0
    at: int = 0
    """The first one's segment number in the container."""
    incomplete: bool = False


@dataclass(slots=True)
class Cell:
    """A part of the disk: how many of its segments lie where."""

    containers: dict[int, int] = field(default_factory=dict)
    incomplete: int = 0


def runs(table: Table, disk: Disk, first: int, limit: int) -> Steps[tuple[list[Run], int | None]]:
    """The runs from segment `first` on, zero ones included, `limit` at most.

    Returns them and the segment after the last one; None at the disk's end.
    """
    found: list[Run] = []
    end = first
    for pieces in _mapped(table, disk, first):
        for piece in pieces or ():
            if piece.segment > end:
                found.append(Run(end, piece.segment - end))
            if found and _follows(found[-1], piece):
                found[-1].count += piece.count
            else:
                found.append(piece)
            end = piece.segment + piece.count
        if len(found) > limit:
            del found[limit:]
            return found, found[-1].segment + found[-1].count
        yield
    if end < disk.segments and len(found) < limit:
        found.append(Run(end, disk.segments - end))
        end = disk.segments
    return found, None if end >= disk.segments else end


def cells(table: Table, disk: Disk, segments_per_cell: int) -> Steps[dict[int, Cell]]:
    """Cell number -> what is there, of the cells that are not all zero."""
    found: dict[int, Cell] = {}
    for pieces in _mapped(table, disk, 0):
        for piece in pieces or ():
            first, end = piece.segment, piece.segment + piece.count
            while first < end:
                number = first // segments_per_cell
                count = min(end, (number + 1) * segments_per_cell) - first
                cell = found.setdefault(number, Cell())
                cell.containers[piece.container] = cell.containers.get(piece.container, 0) + count
                cell.incomplete += count if piece.incomplete else 0
                first += count
        yield
    return found


def _follows(run: Run, piece: Run) -> bool:
    return (
        run.container == piece.container
        and run.incomplete == piece.incomplete
        and run.segment + run.count == piece.segment
        and run.at + run.count == piece.at
    )


def _mapped(table: Table, disk: Disk, first: int) -> Iterator[list[Run]]:
    """Runs of what is mapped from `first` on, ascending, so many leaves at a time."""
    segments, extents = disk.map.clone(), table.extents.clone()
    incomplete = np.fromiter(table.records, np.uint64, len(table.records))
    pieces: list[Run] = []
    try:
        for number, (start, words) in enumerate(segments.leaves(), start=1):
            if start + LEAF_WORDS > first:
                pieces += _leaf_runs(start, first, words, extents, incomplete)
            if number % LEAVES_PER_STEP == 0:
                yield pieces
                pieces = []
        yield pieces
    finally:
        segments.drop()
        extents.drop()


def _leaf_runs(
    start: int, first: int, words: array[int], extents: PageTree, incomplete: Words
) -> list[Run]:
    leaf = np.frombuffer(words, np.uint64)
    slots = np.flatnonzero(leaf)
    slots = slots[slots >= first - start]
    if not len(slots):
        return []
    ids = leaf[slots]
    locations = _locations(extents, ids)
    unfinished = np.isin(ids, incomplete)
    breaks = (np.diff(slots) != 1) | (np.diff(locations) != 1) | np.diff(unfinished)
    begins = [0, *(np.flatnonzero(breaks) + 1).tolist()]
    return [
        Run(
            segment=start + int(slots[begin]),
            count=end - begin,
            container=container_of(int(locations[begin])),
            at=segment_of(int(locations[begin])),
            incomplete=bool(unfinished[begin]),
        )
        for begin, end in zip(begins, [*begins[1:], len(slots)], strict=True)
    ]


def _locations(extents: PageTree, ids: Words) -> Words:
    """The location word of each extent."""
    pages = np.unique(ids // LEAF_WORDS)
    if len(pages) > FEW_PAGES:
        return np.fromiter((extents.get(int(extent)) for extent in ids), np.uint64, len(ids))
    out = np.zeros_like(ids)
    for page in pages.tolist():
        here = ids // LEAF_WORDS == page
        words = np.frombuffer(extents.slice(page * LEAF_WORDS, LEAF_WORDS), np.uint64)
        out[here] = words[ids[here] % LEAF_WORDS]
    return out
