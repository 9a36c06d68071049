"""What follows from a table and is stored nowhere, derived in bulk when a table is loaded.

A table may have 67 million entries (64 TiB in 1 MiB segments): here they are numpy arrays, and
never objects.  While a table serves, `Table.apply` keeps what is derived; where `derive` finds
entries that are not plainly sound, `soundness.py` says in words what is wrong.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from segue.controller.record import (
    CONTAINER_SHIFT,
    NO_WRITE,
    SEGMENT_MASK,
    VALID,
    container_of,
    is_location,
    segment_of,
)
from segue.controller.soundness import exists
from segue.controller.space import CLEANING, QUARANTINED, SOURCE
from segue.controller.table import Disk, Table
from segue.store.page_format import Words

CONTAINERS = 1 << 16
_INCOMPLETE = np.uint64(NO_WRITE)
"""In a copy of the locations: a flag that no location has says that there is a record."""


def occupy(table: Table) -> None:
    """After the trees of a checkpoint are loaded: every extent's own location is in use.

    Those that do not exist are left to `derive` to notice and `soundness.py` to name.
    """
    uses = _Uses(table)
    for _, locations in table.extents.arrays():
        uses.add(locations)
    for number, container in table.containers.items():
        container.space.load_used(uses.of(number))


def derive(table: Table) -> bool:
    """Gives a table what is derived from its entries; whether all of these are plainly sound.

    That is: the free extent ids, where incomplete extents are mapped, and how many locations each
    disk has in each container.
    """
    extents, uses = _Extents(table), _Uses(table)
    table.number_extents(extents.highest + 1, extents.unused())
    table.lying = {}
    sound = True
    for disk in table.disks.values():
        for segments, ids in disk.map.arrays():
            sound &= int(segments[-1]) < disk.segments
            sound &= uses.add(extents.map(disk, segments, ids), disk)
    entries = sum(disk.map.count for disk in table.disks.values())
    return sound and extents.are_all_mapped() and uses.are_plain(entries)


class _Extents:
    """The location of every extent, by id, until an entry is found that maps it; then 0.

    So one that two entries map has none the second time, and what is left is mapped by nobody.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._locations = table.extents.flat()
        backwards = self._locations[::-1] != 0
        self.highest = len(backwards) - 1 - int(backwards.argmax()) if backwards.any() else 0
        """The highest id with a location."""
        for extent in table.records:
            self._reach(extent)
            self._locations[extent] |= _INCOMPLETE

    def _reach(self, highest: int) -> None:
        """There are ids up to there; those beyond the tree of extents have no location."""
        more = highest + 1 - len(self._locations)
        if more > 0:
            self._locations = np.concatenate([self._locations, np.zeros(more, np.uint64)])

    def unused(self) -> array[int]:
        """The ids below the highest one that have no location, ascending; to be asked first."""
        free = np.flatnonzero(self._locations[1 : self.highest + 1] == 0) + 1
        return array("Q", free.astype(np.uint64).tobytes())

    def map(self, disk: Disk, segments: Words, ids: Words) -> Words:
        """Takes in some entries of a disk; where they lie."""
        self._reach(int(ids.max()))
        locations = self._locations[ids]
        self._locations[ids] = 0
        for at in np.flatnonzero(locations & _INCOMPLETE).tolist():
            record = self._table.records.get(int(ids[at]))
            if record is None:
                continue
            record.disk, record.segment = disk.disk, int(segments[at])
            if is_location(record.source):
                self._table.count(disk.disk, container_of(record.source), 1)
        return locations

    def are_all_mapped(self) -> bool:
        """Whether no extent and no record is left that no entry maps."""
        return not self._locations.any()


class _Uses:
    """Which segments of all containers are used: laid end to end, one flag each."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._first: npt.NDArray[np.uint64] = np.zeros(CONTAINERS, np.uint64)
        self._segments: npt.NDArray[np.uint64] = np.zeros(CONTAINERS, np.uint64)
        end = 0
        for number, container in table.containers.items():
            self._first[number], self._segments[number] = end, container.row.segments
            end += container.row.segments
        self._used = np.zeros(end, np.bool_)

    def add(self, locations: Words, disk: Disk | None = None) -> bool:
        """These locations are used, by the disk; whether all exist, and in its flush set."""
        numbers = (locations >> np.uint64(CONTAINER_SHIFT) & np.uint64(CONTAINERS - 1)).astype(
            np.intp
        )
        segments = locations & np.uint64(SEGMENT_MASK)
        there = (locations & np.uint64(VALID) != 0) & (segments < self._segments[numbers])
        at = self._first[numbers] + segments
        sound = bool(there.all())
        self._used[at if sound else at[there]] = True
        if disk is not None:
            counts = np.bincount(numbers)
            for number in np.flatnonzero(counts).tolist():
                self._table.count(disk.disk, number, int(counts[number]))
                sound &= number in disk.containers
        return sound

    def of(self, container: int) -> npt.NDArray[np.bool_]:
        """Which segments of a container are used."""
        first = int(self._first[container])
        return self._used[first : first + int(self._segments[container])]

    def are_plain(self, uses: int) -> bool:
        """Whether so many uses are all of different locations, and counted as such."""
        table = self._table
        return (
            int(np.count_nonzero(self._used)) == uses
            and all(c.space.is_used_by(self.of(number)) for number, c in table.containers.items())
            and all(_is(table, location, QUARANTINED) for location in table.quarantine)
            and all(_is(table, location, CLEANING) for location in table.cleaning)
            and all(_is(table, r.source, SOURCE) for r in table.records.values() if r.source)
        )


def _is(table: Table, location: int, state: int) -> bool:
    """Whether the location exists and is counted so."""
    if not exists(table, location):
        return False
    return table.containers[container_of(location)].space.state(segment_of(location)) == state
