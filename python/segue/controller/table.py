"""The central mapping table: disk -> segment -> extent -> location (design, section 3).

`Table` is the fold of all commits: `apply` is the only thing that changes it, so a checker, a new
term and the running controller hold the same table after the same records.  What can be derived
(free space, sharers, who is attached where) is derived here and stored nowhere.

It must never do I/O, wait, or decide: procedures decide, `commits.py` makes durable.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segue import _native
from segue.controller.changes import (
    AgentKnown,
    Allocated,
    AnyChange,
    Attached,
    Cleaned,
    CleaningBegun,
    Completed,
    ContainerAdded,
    ContainerDraining,
    ContainerGone,
    ContainerLeaving,
    ContainerLinger,
    Copied,
    Detached,
    Discarded,
    DiskContainers,
    DiskDeleted,
    DiskMade,
    DiskRenamed,
    DiskResized,
    FenceEnded,
    FlushCleared,
    FlushFailed,
    GrowthBegun,
    InstallationMade,
    JobChanged,
    JobEnded,
    JobMade,
    MovementAbandoned,
    MovementBegun,
    MovementEnded,
    Returned,
    TableMade,
    TermBegun,
    Written,
    decode_changes,
)
from segue.controller.record import (
    CONTAINER_SHIFT,
    SEGMENT_MASK,
    ZEROES,
    Record,
    container_of,
    is_location,
    run_bits,
    segment_of,
)
from segue.controller.space import CLEANING, FREE, QUARANTINED, SOURCE, USED, Space
from segue.store.pages import PageSpace, PageTree
from segue.wire.messages import ContainerSpec

ZERO_WORD: int = _native.ENTRY_VALID | _native.ENTRY_ZERO
MARKS_PER_WORD = 64
ENDED_JOBS = 64
"""So many ended jobs are remembered."""


@dataclass(slots=True)
class Container:
    """A row of the pool and the state of its segments."""

    row: ContainerAdded
    space: Space
    marks: PageTree
    """Durable marks, 64 segments a word: bit set where `Space` holds a mark."""
    leaving: bool = False
    """Empty, out of use, to be given back."""
    draining: bool = False
    """Nothing new is put here."""
    linger_s: float = 0.0
    """So long after a lease no I/O under it is under way here any more; 0: nobody says so."""


@dataclass(slots=True)
class Job:
    """Long work that goes on after any crash: as it was asked for, and how it ended."""

    row: JobMade
    outcome: str = ""
    """Empty while it is not over; else done, cancelled or failed."""
    reason: str = ""
    """Why it failed."""
    bandwidth: int = 0
    cancelled: bool = False
    moved: int = 0
    """Segments whose movement for it has ended, in whatever term."""
    moved_bytes: int = 0
    """The same in bytes, a disk's short last segment as a whole one."""


@dataclass(slots=True)
class Disk:
    """A virtual disk: its row and its map of segment -> extent (0: zero)."""

    disk: int
    name: str
    size_bytes: int
    segment_bytes: int
    block_bytes: int
    containers: list[int]
    map: PageTree
    failed: dict[int, int] = field(default_factory=dict)
    """Containers whose flush failed for this disk -> errno (promise P5)."""

    @property
    def segments(self) -> int:
        """How many segments the disk has; the last one may be short."""
        return -(-self.size_bytes // self.segment_bytes)

    def unit_blocks(self, write_unit_bytes: int) -> int:
        """Blocks that an incomplete extent takes together: a container's write unit of them.

        An agent cannot write less (section 2), so their bits are always the same.
        """
        return max(1, write_unit_bytes // self.block_bytes)

    @property
    def blocks_per_segment(self) -> int:
        """Blocks of a whole segment."""
        return self.segment_bytes // self.block_bytes

    def blocks_of(self, segment: int) -> int:
        """Blocks of this segment that lie within the disk."""
        length = min(self.segment_bytes, self.size_bytes - segment * self.segment_bytes)
        return -(-length // self.block_bytes)


def container_spec(row: ContainerAdded, failed: bool = False) -> ContainerSpec:
    """A container as an agent or the copier must open it."""
    return ContainerSpec(
        container=row.container,
        uri=row.uri,
        identity=row.identity,
        segment_bytes=row.segment_bytes,
        segments=row.segments,
        cache=row.cache,
        write_unit_bytes=row.write_unit_bytes,
        failed=failed,
    )


class Table:
    """The durable table, as of commit `number`."""

    def __init__(self, pages: PageSpace | None = None) -> None:
        self.pages = pages or PageSpace()
        self.number = 0
        self.installation = b""
        self.containers: dict[int, Container] = {}
        self.disks: dict[int, Disk] = {}
        self.disk_names: dict[str, int] = {}
        self.container_names: dict[str, int] = {}
        self.agents: dict[int, AgentKnown] = {}
        self.attached: dict[int, dict[int, int]] = {}
        """Disk -> incarnation -> agent: who may hold a table of it."""
        self.locked: dict[int, list[int]] = {}
        """Incarnation -> disks at whose containers it has had its locks (`TableMade`)."""
        self.fences: dict[int, int] = {}
        """Copier fence -> term, of every term whose copier may still have I/O under way."""
        self.extents = PageTree(self.pages)
        self.records: dict[int, Record] = {}
        self.quarantine: dict[int, list[int]] = {}
        """Location -> holders that may have I/O under way there (rule 5)."""
        self.cleaning: dict[int, int] = {}
        """Location -> fence of the copier that zeroes it (rule 11)."""
        self.jobs: dict[int, Job] = {}
        """All that are not over, and the newest `ENDED_JOBS` of those that are."""
        self.last_job = 0
        self.lying: dict[tuple[int, int], int] = {}
        """(disk, container) -> how many locations there are the disk's, sources included."""
        self.last_disk = 0
        self.last_container = 0
        """Ids are not used twice: an agent may still know an old one."""
        self._next_extent = 1
        self._free_extents = array("Q")

    # Reading ------------------------------------------------------------------------------------

    def word(self, disk: Disk, segment: int) -> int:
        """The most an agent may hold for this segment now (rule 3): its entry word.

        Incomplete extents give what their record says; invalid (0): I/O goes through `do_*`.
        """
        extent = disk.map.get(segment)
        if extent == 0:
            return ZERO_WORD
        record = self.records.get(extent)
        return self.extents.get(extent) if record is None else record.word

    def disks_of(self, incarnation: int) -> list[int]:
        """The disks this incarnation may hold tables of, ascending."""
        return sorted(disk for disk, holders in self.attached.items() if incarnation in holders)

    def quarantined_at(self, holder: int) -> set[int]:
        """The containers where locations wait for this holder."""
        return {container_of(at) for at, holders in self.quarantine.items() if holder in holders}

    def take_extent(self) -> int:
        """An extent id not in use; given back by `give_extent` if no commit named it."""
        if self._free_extents:
            return self._free_extents.pop()
        self._next_extent += 1
        return self._next_extent - 1

    def give_extent(self, extent: int) -> None:
        """The commit that would have named it was not made."""
        self._free_extents.append(extent)

    def number_extents(self, following: int, free: array[int]) -> None:
        """After a load: new ids begin with `following`; `free` are those below not in use."""
        self._next_extent = following
        self._free_extents = free

    def mapped_segments(self, disk: Disk) -> Iterator[tuple[int, int, int]]:
        """(segment, extent, location) of everything mapped, ascending."""
        for segment, extent in disk.map.items():
            yield segment, extent, self.extents.get(extent)

    # Changing -----------------------------------------------------------------------------------

    def replay(self, body: bytes) -> None:
        """Applies one commit's record; used by a new term and by checkers."""
        self.apply(decode_changes(body))

    def apply(self, changes: Iterable[AnyChange]) -> None:
        """Takes in one commit that is durable."""
        for change in changes:
            _APPLY[type(change)](self, change)
        self.number += 1

    def _installation_made(self, change: InstallationMade) -> None:
        self.installation = change.installation

    def _term_begun(self, change: TermBegun) -> None:
        self.fences[change.fence] = change.term

    def _fence_ended(self, change: FenceEnded) -> None:
        self.fences.pop(change.holder, None)
        self._end_holder(change.holder)
        self.locked.pop(change.holder, None)
        for holders in self.attached.values():
            holders.pop(change.holder, None)
        for location in [at for at, fence in self.cleaning.items() if fence == change.holder]:
            del self.cleaning[location]
            self._space(location).move(segment_of(location), FREE)

    def _returned(self, change: Returned) -> None:
        self._end_holder(change.holder)

    def _end_holder(self, holder: int) -> None:
        for location in [at for at, holders in self.quarantine.items() if holder in holders]:
            left = [other for other in self.quarantine[location] if other != holder]
            if left:
                self.quarantine[location] = left
            else:
                del self.quarantine[location]
                self._space(location).move(segment_of(location), FREE)

    def _container_added(self, change: ContainerAdded) -> None:
        self.containers[change.container] = Container(
            change, Space(change.segments, change.clean), PageTree(self.pages)
        )
        self.container_names[change.name] = change.container
        self.last_container = max(self.last_container, change.container)

    def _container_linger(self, change: ContainerLinger) -> None:
        self.containers[change.container].linger_s = change.linger_s

    def _container_leaving(self, change: ContainerLeaving) -> None:
        self.containers[change.container].leaving = True
        for disk in self.disks.values():
            disk.containers = [n for n in disk.containers if n != change.container]

    def _container_gone(self, change: ContainerGone) -> None:
        container = self.containers.pop(change.container)
        container.marks.drop()
        del self.container_names[container.row.name]
        for waiting in (self.quarantine, self.cleaning):
            for location in [at for at in waiting if container_of(at) == change.container]:
                del waiting[location]

    def _disk_made(self, change: DiskMade) -> None:
        self.disks[change.disk] = Disk(
            change.disk,
            change.name,
            change.size_bytes,
            change.segment_bytes,
            change.block_bytes,
            change.containers,
            PageTree(self.pages),
        )
        self.disk_names[change.name] = change.disk
        self.last_disk = max(self.last_disk, change.disk)

    def _disk_deleted(self, change: DiskDeleted) -> None:
        disk = self.disks[change.disk]
        self._unmap_from(disk, 0, change.holders)
        disk.map.drop()
        del self.disks[change.disk]
        del self.disk_names[disk.name]
        self.attached.pop(change.disk, None)
        for incarnation in list(self.locked):
            self._unlocked(change.disk, incarnation)

    def _disk_resized(self, change: DiskResized) -> None:
        disk = self.disks[change.disk]
        kept = min(disk.size_bytes, change.size_bytes)
        disk.size_bytes = change.size_bytes
        self._unmap_from(disk, disk.segments, change.holders)
        last = (kept - 1) // disk.segment_bytes
        record = self.records.get(disk.map.get(last))
        if record is not None:
            record.resize(disk.blocks_of(last))

    def _growth_begun(self, change: GrowthBegun) -> None:
        disk = self.disks[change.disk]
        assert disk.map.get(change.segment) == change.extent, "grows an extent that is elsewhere"
        assert change.extent not in self.records, "begins to grow an incomplete extent"
        blocks = disk.blocks_of(change.segment)
        self.records[change.extent] = Record(
            ZEROES, change.disk, change.segment, blocks, written=run_bits(0, blocks)
        )

    def _disk_renamed(self, change: DiskRenamed) -> None:
        disk = self.disks[change.disk]
        del self.disk_names[disk.name]
        disk.name = change.name
        self.disk_names[disk.name] = disk.disk

    def _disk_containers(self, change: DiskContainers) -> None:
        self.disks[change.disk].containers = change.containers

    def _flush_failed(self, change: FlushFailed) -> None:
        disk = self.disks.get(change.disk)
        # Else disk or container went while this was being committed.
        if disk is not None and change.container in disk.containers:
            disk.failed[change.container] = change.errno

    def _flush_cleared(self, change: FlushCleared) -> None:
        self.disks[change.disk].failed.clear()

    def _agent_known(self, change: AgentKnown) -> None:
        self.agents[change.agent] = change

    def _attached(self, change: Attached) -> None:
        self.attached.setdefault(change.disk, {})[change.incarnation] = change.agent

    def _detached(self, change: Detached) -> None:
        self.attached.get(change.disk, {}).pop(change.incarnation, None)
        self._unlocked(change.disk, change.incarnation)

    def _unlocked(self, disk: int, incarnation: int) -> None:
        left = [other for other in self.locked.get(incarnation, []) if other != disk]
        if left:
            self.locked[incarnation] = left
        else:
            self.locked.pop(incarnation, None)

    def _table_made(self, change: TableMade) -> None:
        disks = self.locked.setdefault(change.incarnation, [])
        if change.disk not in disks:
            disks.append(change.disk)

    def _allocated(self, change: Allocated) -> None:
        disk = self.disks[change.disk]
        assert disk.map.get(change.segment) == 0, "allocated over a mapped segment"
        disk.map.set(change.segment, change.extent)
        self.extents.set(change.extent, change.location)
        self.count(change.disk, container_of(change.location), 1)
        segment = segment_of(change.location)
        self._space(change.location).move(segment, USED)
        self._mark(change.location, clean=False)
        if change.incomplete:
            self.records[change.extent] = Record(
                0, change.disk, change.segment, disk.blocks_of(change.segment)
            )

    def _discarded(self, change: Discarded) -> None:
        disk = self.disks[change.disk]
        for segment in range(change.first, change.first + change.count):
            extent = disk.map.get(segment)
            if extent:
                self._unmap(disk, segment, extent, change.holders)

    def _unmap_from(self, disk: Disk, first: int, holders: list[int]) -> None:
        """Unmaps all segments from `first` on, in bulk: there may be 67 million of them."""
        found = [ids[segments >= first] for segments, ids in disk.map.arrays()]
        extents = np.concatenate([*found, np.zeros(0, np.uint64)])
        if not len(extents):
            return
        disk.map.clear(first, 1 << 56)
        # Where a record is mapped is not known yet while a log is replayed.
        incomplete = np.fromiter(self.records, np.uint64)
        for extent in incomplete[np.isin(incomplete, extents)].tolist():
            record = self.records.pop(extent)
            if is_location(record.source):
                self._free(disk.disk, record.source, holders)
        locations = self.extents.take(extents)
        numbers = locations >> np.uint64(CONTAINER_SHIFT) & np.uint64(0xFFFF)
        for number in np.unique(numbers).tolist():
            segments = locations[numbers == number] & np.uint64(SEGMENT_MASK)
            self.containers[number].space.give_back(segments, QUARANTINED if holders else FREE)
            self.count(disk.disk, number, -len(segments))
        if holders:
            self.quarantine.update((at, list(holders)) for at in locations.tolist())
        self._free_extents.frombytes(extents.tobytes())

    def _unmap(self, disk: Disk, segment: int, extent: int, holders: list[int]) -> None:
        self._free(disk.disk, self.extents.get(extent), holders)
        disk.map.set(segment, 0)
        self.extents.set(extent, 0)
        record = self.records.pop(extent, None)
        if record is not None and is_location(record.source):
            self._free(disk.disk, record.source, holders)
        self._free_extents.append(extent)

    def _free(self, disk: int, location: int, holders: list[int]) -> None:
        self.count(disk, container_of(location), -1)
        if holders:
            self.quarantine[location] = list(holders)
        self._space(location).move(segment_of(location), QUARANTINED if holders else FREE)

    def _written(self, change: Written) -> None:
        record = self.records[change.extent]
        record.written |= run_bits(change.first_block, change.count_blocks)

    def _copied(self, change: Copied) -> None:
        record = self.records[change.extent]
        bits = run_bits(change.first_block, change.count_blocks)
        record.copied |= bits
        record.fresh &= ~bits

    def _completed(self, change: Completed) -> None:
        del self.records[change.extent]

    def _movement_begun(self, change: MovementBegun) -> None:
        disk = self.disks[change.disk]
        assert disk.map.get(change.segment) == change.extent, "moves an extent that is elsewhere"
        assert self.extents.get(change.extent) == change.source, "moves from where it is not"
        assert change.extent not in self.records, "moves an incomplete extent"
        self.extents.set(change.extent, change.location)
        self.count(change.disk, container_of(change.location), 1)
        self._space(change.source).move(segment_of(change.source), SOURCE)
        self._space(change.location).move(segment_of(change.location), USED)
        self._mark(change.location, clean=False)
        self.records[change.extent] = Record(
            change.source,
            change.disk,
            change.segment,
            disk.blocks_of(change.segment),
            job=change.job,
        )

    def _movement_ended(self, change: MovementEnded) -> None:
        record = self.records.pop(change.extent)
        assert is_location(record.source), "ends a movement that has no source"
        self._free(record.disk, record.source, change.holders)
        job = self.jobs.get(record.job)
        if job is not None:
            job.moved += 1
            job.moved_bytes += self.containers[container_of(record.source)].row.segment_bytes

    def _movement_abandoned(self, change: MovementAbandoned) -> None:
        record = self.records.pop(change.extent)
        assert is_location(record.source), "abandons a movement that has no source"
        assert not record.written, "abandons what hosts wrote"
        self._free(record.disk, self.extents.get(change.extent), [])
        self.extents.set(change.extent, record.source)
        self._space(record.source).move(segment_of(record.source), USED)

    def _container_draining(self, change: ContainerDraining) -> None:
        self.containers[change.container].draining = change.draining

    def _job_made(self, change: JobMade) -> None:
        self.jobs[change.job] = Job(change, bandwidth=change.bandwidth)
        self.last_job = max(self.last_job, change.job)

    def _job_changed(self, change: JobChanged) -> None:
        job = self.jobs[change.job]
        job.bandwidth, job.cancelled = change.bandwidth, change.cancelled

    def _job_ended(self, change: JobEnded) -> None:
        job = self.jobs.pop(change.job)
        job.outcome, job.reason = change.outcome, change.reason
        self.jobs[change.job] = job  # behind all that ended before
        ended = [number for number, job in self.jobs.items() if job.outcome]
        for number in ended[:-ENDED_JOBS]:
            del self.jobs[number]

    def _cleaning_begun(self, change: CleaningBegun) -> None:
        for location in change.locations:
            self.cleaning[location] = change.fence
            self._space(location).move(segment_of(location), CLEANING)

    def _cleaned(self, change: Cleaned) -> None:
        for location in change.locations:
            del self.cleaning[location]
            self._mark(location, clean=True)
            self._space(location).move(segment_of(location), FREE)

    def _space(self, location: int) -> Space:
        return self.containers[container_of(location)].space

    def _mark(self, location: int, clean: bool) -> None:
        container = self.containers[container_of(location)]
        segment = segment_of(location)
        if container.space.is_clean(segment) != clean:
            container.space.set_clean(segment, clean)
            word = segment // MARKS_PER_WORD
            container.marks.set(word, container.marks.get(word) ^ 1 << segment % MARKS_PER_WORD)

    def count(self, disk: int, container: int, change: int) -> None:
        """So many locations more there are the disk's (see `lying`)."""
        key = (disk, container)
        self.lying[key] = self.lying.get(key, 0) + change
        if not self.lying[key]:
            del self.lying[key]

    def name_of(self, location: int) -> str:
        """A location for people."""
        container = self.containers.get(container_of(location))
        name = container.row.name if container else f"#{container_of(location)}"
        return f"container {name} segment {segment_of(location)}"


_APPLY: dict[type, Callable[[Table, Any], None]] = {
    InstallationMade: Table._installation_made,
    TermBegun: Table._term_begun,
    FenceEnded: Table._fence_ended,
    ContainerAdded: Table._container_added,
    ContainerLeaving: Table._container_leaving,
    ContainerLinger: Table._container_linger,
    ContainerGone: Table._container_gone,
    DiskMade: Table._disk_made,
    DiskDeleted: Table._disk_deleted,
    DiskResized: Table._disk_resized,
    GrowthBegun: Table._growth_begun,
    DiskRenamed: Table._disk_renamed,
    DiskContainers: Table._disk_containers,
    FlushFailed: Table._flush_failed,
    FlushCleared: Table._flush_cleared,
    AgentKnown: Table._agent_known,
    Attached: Table._attached,
    Detached: Table._detached,
    TableMade: Table._table_made,
    Allocated: Table._allocated,
    Discarded: Table._discarded,
    Written: Table._written,
    Copied: Table._copied,
    Completed: Table._completed,
    CleaningBegun: Table._cleaning_begun,
    Cleaned: Table._cleaned,
    Returned: Table._returned,
    ContainerDraining: Table._container_draining,
    MovementBegun: Table._movement_begun,
    MovementEnded: Table._movement_ended,
    MovementAbandoned: Table._movement_abandoned,
    JobMade: Table._job_made,
    JobChanged: Table._job_changed,
    JobEnded: Table._job_ended,
}
