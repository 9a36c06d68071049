"""A table as a checkpoint's root and pages, and back (design, section 3, Central store).

The root is everything but the page trees: a few rows per disk, container, agent, incomplete
extent.  The trees (segment -> extent, extent -> location, clean marks) are pages, each checked by
its parent, the topmost by the root.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, cast

import msgspec

from segue.controller.changes import AgentKnown, ContainerAdded, JobMade
from segue.controller.derived import derive, occupy
from segue.controller.record import Record, container_of, is_location, segment_of
from segue.controller.soundness import exists, problems
from segue.controller.space import CLEANING, QUARANTINED, SOURCE, Space
from segue.controller.table import Container, Disk, Job, Table
from segue.store.contract import Loaded, ReadPages, StoreCorrupt, StoreTooNew
from segue.store.pages import PageSpace, PageTree

TABLE_VERSION = 2
READABLE = (1, 2)
"""Version 1 knew no movement: its rows lack the fields that have a default here."""


class ContainerRow(msgspec.Struct, array_like=True):
    """A container and the root of its marks."""

    row: ContainerAdded
    marks: bytes
    leaving: bool = False
    draining: bool = False
    linger_s: float = 0.0


class DiskRow(msgspec.Struct, array_like=True):
    """A disk and the root of its map."""

    disk: int
    name: str
    size_bytes: int
    segment_bytes: int
    block_bytes: int
    containers: list[int]
    failed: dict[int, int]
    map: bytes


class RecordRow(msgspec.Struct, array_like=True):
    """A record; bitmaps little-endian, block 0 the lowest bit."""

    extent: int
    source: int
    blocks: int
    written: bytes
    copied: bytes
    job: int = 0


class JobRow(msgspec.Struct, array_like=True):
    """A job and how it stands."""

    row: JobMade
    outcome: str
    reason: str
    bandwidth: int
    cancelled: bool
    moved: int = 0
    moved_bytes: int = 0


class Encoded(NamedTuple):
    """What `Store.checkpoint` takes."""

    root: bytes
    pages: dict[int, bytes]
    """Those that are new since the last checkpoint."""
    freed: list[int]


class Root(msgspec.Struct, array_like=True):
    """All of a table that is no page."""

    version: int
    installation: bytes
    next_page: int
    last_disk: int
    containers: list[ContainerRow]
    disks: list[DiskRow]
    extents: bytes
    records: list[RecordRow]
    agents: list[AgentKnown]
    attached: dict[int, dict[int, int]]
    locked: dict[int, list[int]]
    fences: dict[int, int]
    quarantine: dict[int, list[int]]
    cleaning: dict[int, int]
    last_container: int = 0
    jobs: list[JobRow] = []
    last_job: int = 0


def encode_table(table: Table) -> Encoded:
    """A checkpoint of the table, at once."""
    steps = checkpoint_steps(table)
    while (encoded := next_step(steps)) is None:
        pass
    return encoded


def next_step(steps: Generator[None, None, Encoded]) -> Encoded | None:
    """Takes a step of `checkpoint_steps`; what it has made, after the last one."""
    try:
        next(steps)
    except StopIteration as end:
        return cast(Encoded, end.value)
    return None


def checkpoint_steps(table: Table) -> Generator[None, None, Encoded]:
    """A checkpoint of the table as it is now, in steps of half a millisecond.

    The table may change between steps, but only one checkpoint may be under way; the result must
    be given to the store with no await after the last step.
    """
    root = _root_without_trees(table)
    marks = {number: c.marks.clone() for number, c in table.containers.items()}
    maps = {number: disk.map.clone() for number, disk in table.disks.items()}
    extents = table.extents.clone()
    pages: dict[int, bytes] = {}
    for container in root.containers:
        container.marks = yield from marks[container.row.container].flush_steps(pages)
    for disk in root.disks:
        disk.map = yield from maps[disk.disk].flush_steps(pages)
    root.extents = yield from extents.flush_steps(pages)
    root.next_page = table.pages.next_id
    encoded = Encoded(msgspec.msgpack.encode(root), pages, table.pages.take_freed())
    # What only they still held is freed with the next checkpoint.
    for tree in (*marks.values(), *maps.values(), extents):
        tree.drop()
    return encoded


def _root_without_trees(table: Table) -> Root:
    """A copy of all that is no page: it does not change with the table."""
    containers = [
        ContainerRow(c.row, b"", c.leaving, c.draining, c.linger_s)
        for c in table.containers.values()
    ]
    disks = [
        DiskRow(
            d.disk,
            d.name,
            d.size_bytes,
            d.segment_bytes,
            d.block_bytes,
            d.containers,
            d.failed,
            b"",
        )
        for d in table.disks.values()
    ]
    records = [
        RecordRow(
            extent,
            r.source,
            r.blocks,
            _bits(r.written, r.blocks),
            _bits(r.copied, r.blocks),
            r.job,
        )
        for extent, r in table.records.items()
    ]
    root = Root(
        version=TABLE_VERSION,
        installation=table.installation,
        next_page=0,
        last_disk=table.last_disk,
        containers=containers,
        disks=disks,
        extents=b"",
        records=records,
        agents=list(table.agents.values()),
        attached=table.attached,
        locked=table.locked,
        fences=table.fences,
        quarantine=table.quarantine,
        cleaning=table.cleaning,
        last_container=table.last_container,
        jobs=[
            JobRow(
                job.row,
                job.outcome,
                job.reason,
                job.bandwidth,
                job.cancelled,
                job.moved,
                job.moved_bytes,
            )
            for job in table.jobs.values()
        ],
        last_job=table.last_job,
    )
    return msgspec.msgpack.decode(msgspec.msgpack.encode(root), type=Root)


def load_table(loaded: Loaded) -> Table:
    """The table of a store, ready to be served.

    Raises `StoreCorrupt` for whatever is damaged or contradicts itself, `StoreTooNew`.
    """
    table, found = fold(loaded)
    if found:
        raise StoreCorrupt("; ".join(found[:5]))
    return table


def fold(loaded: Loaded) -> tuple[Table, list[str]]:
    """The table of a checkpoint and the log since, and every contradiction in it.

    Raises `StoreCorrupt` where no table can be made of them, `StoreTooNew`.
    """
    table = decode_table(loaded.root, loaded.read_pages) if loaded.root else Table()
    table.number = loaded.checkpoint_number
    for record in loaded.log:
        try:
            table.replay(record.body)
        except (msgspec.MsgspecError, LookupError, AssertionError) as error:
            raise StoreCorrupt(f"commit {record.number} cannot be applied: {error!r}") from error
    entries_are_sound = derive(table)
    return table, problems(table, entries_are_sound=entries_are_sound)


def tree_roots(data: bytes) -> list[bytes]:
    """The roots of all page trees that a checkpoint's root names; raises like `decode_table`."""
    root = _decode_root(data)
    marks = [container.marks for container in root.containers]
    return [root.extents, *(disk.map for disk in root.disks), *marks]


def decode_table(data: bytes, read_pages: ReadPages) -> Table:
    """The table of a checkpoint.

    A location that does not exist is left to `soundness.problems` to name.
    """
    root = _decode_root(data)
    table = Table(PageSpace(root.next_page))
    table.installation = root.installation
    table.last_disk = root.last_disk
    table.last_container = root.last_container
    for container in root.containers:
        _load_container(table, container, read_pages)
    table.extents = PageTree.load(table.pages, root.extents, read_pages)
    occupy(table)
    for record in root.records:
        table.records[record.extent] = Record(
            record.source,
            0,
            0,
            record.blocks,
            int.from_bytes(record.written, "little"),
            int.from_bytes(record.copied, "little"),
            record.job,
        )
        if is_location(record.source):
            _occupy(table, record.source, SOURCE)
    for row in root.disks:
        _load_disk(table, row, read_pages)
    table.agents = {row.agent: row for row in root.agents}
    table.attached = root.attached
    table.locked = root.locked
    table.fences = root.fences
    table.quarantine = root.quarantine
    table.cleaning = root.cleaning
    for job in root.jobs:
        table.jobs[job.row.job] = Job(
            job.row,
            job.outcome,
            job.reason,
            job.bandwidth,
            job.cancelled,
            job.moved,
            job.moved_bytes,
        )
    table.last_job = root.last_job
    for locations, state in ((root.quarantine, QUARANTINED), (root.cleaning, CLEANING)):
        for location in locations:
            _occupy(table, location, state)
    return table


def _decode_root(data: bytes) -> Root:
    try:
        version = msgspec.msgpack.decode(data)[0]
        if version not in READABLE:
            raise StoreTooNew(f"table format {version}, this Segue knows {TABLE_VERSION}")
        return msgspec.msgpack.decode(data, type=Root)
    except (msgspec.MsgspecError, IndexError, TypeError, KeyError) as error:
        raise StoreCorrupt(f"root of the checkpoint: {error}") from error


def _occupy(table: Table, location: int, state: int) -> None:
    if exists(table, location):
        table.containers[container_of(location)].space.move(segment_of(location), state)


def _load_container(table: Table, stored: ContainerRow, read_pages: ReadPages) -> None:
    row = stored.row
    space = Space(row.segments, row.clean)
    marks = PageTree.load(table.pages, stored.marks, read_pages)
    for words, bits in marks.arrays():
        space.load_marks(words, bits)
    table.containers[row.container] = Container(
        row, space, marks, stored.leaving, stored.draining, stored.linger_s
    )
    table.last_container = max(table.last_container, row.container)
    table.container_names[row.name] = row.container


def _load_disk(table: Table, row: DiskRow, read_pages: ReadPages) -> None:
    disk = Disk(
        row.disk,
        row.name,
        row.size_bytes,
        row.segment_bytes,
        row.block_bytes,
        row.containers,
        PageTree.load(table.pages, row.map, read_pages),
        row.failed,
    )
    table.disks[row.disk] = disk
    table.disk_names[row.name] = row.disk


def _bits(bitmap: int, blocks: int) -> bytes:
    return bitmap.to_bytes(-(-blocks // 8), "little")
