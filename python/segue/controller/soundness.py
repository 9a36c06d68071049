"""What a sound table never says: every contradiction in it, named (`segue check`, promise P7).

Asked of every table before it is served, and of every state the simulator makes durable.  One
function for each part of the table; each yields one sentence for each thing that is wrong, naming
the disk, extent or location, and goes on with the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from segue.controller.record import Record, container_of, is_location, segment_of
from segue.controller.space import CLEANING, FREE, QUARANTINED, RESERVED, SOURCE, USED
from segue.controller.table import MARKS_PER_WORD, Disk, Table

_STATES = {
    FREE: "free",
    USED: "used",
    RESERVED: "reserved",
    QUARANTINED: "in quarantine",
    CLEANING: "being cleaned",
    SOURCE: "a source",
}

Owners = dict[int, tuple[int, int]]
"""Location -> (disk, segment) of the entry that uses it, or (0, extent) of the record."""


def problems(table: Table, *, entries_are_sound: bool = False) -> list[str]:
    """Every contradiction in the table, one sentence each; empty for a sound one.

    With `entries_are_sound` (`derived.derive` found them so) none of them is looked at: nobody
    uses a location in two ways, and nothing is mapped that is no extent, or the other way round.
    """
    owners: Owners = {}
    found = list(_names(table))
    for disk in table.disks.values():
        found += _disk(table, disk)
        if not entries_are_sound:
            found += _entries(table, disk, owners)
    found += _marks(table)
    if not entries_are_sound:
        found += _extents(table)
    found += _records(table, owners)
    found += _jobs(table)
    found += _unused(table, "in quarantine", table.quarantine, owners)
    found += _unused(table, "being cleaned", table.cleaning, owners)
    found += _holders(table)
    found += _agents(table)
    return found


def _entries(table: Table, disk: Disk, owners: Owners) -> Iterator[str]:
    """All entries of a disk; those that are plainly sound cost no words (there may be millions)."""
    segments = disk.segments
    pool = table.containers
    spaces = {number: pool[number].space for number in disk.containers if number in pool}
    for segment, extent, location in table.mapped_segments(disk):
        space, at = spaces.get(container_of(location)), segment_of(location)
        if (
            location
            and segment < segments
            and space is not None
            and at < space.segments
            and location not in owners
            and space.state(at) == USED
            and not space.is_clean(at)
        ):
            owners[location] = disk.disk, segment
        else:
            yield from _entry(table, disk, segment, extent, location, owners)


def _owner(table: Table, owner: tuple[int, int]) -> str:
    number, segment = owner
    if number:
        return f"disk {table.disks[number].name} segment {segment}"
    return f"the record of extent {segment}"


def exists(table: Table, location: int) -> bool:
    """Whether there is such a container, and it has so many segments."""
    container = table.containers.get(container_of(location))
    return container is not None and segment_of(location) < container.row.segments


def _names(table: Table) -> Iterator[str]:
    for kind, numbers, rows in (
        ("disk", table.disk_names, {d.disk: d.name for d in table.disks.values()}),
        ("container", table.container_names, {n: c.row.name for n, c in table.containers.items()}),
    ):
        for number, name in rows.items():
            if numbers.get(name) != number:
                yield f"{kind} {name}: another {kind} has the same name"


def _disk(table: Table, disk: Disk) -> Iterator[str]:
    where = f"disk {disk.name}"
    for what, numbers in (("flush set", disk.containers), ("flush errors", disk.failed)):
        for number in numbers:
            container = table.containers.get(number)
            if container is None:
                yield f"{where}: container #{number} of its {what} does not exist"
            elif container.row.segment_bytes != disk.segment_bytes:
                yield f"{where}: container {container.row.name} has another segment size"
    if disk.disk > table.last_disk:
        yield f"{where}: its number {disk.disk} was never given"


def _entry(
    table: Table, disk: Disk, segment: int, extent: int, location: int, owners: Owners
) -> Iterator[str]:
    where = f"disk {disk.name} segment {segment}"
    if segment >= disk.segments:
        yield f"{where}: beyond the end of the disk"
        return
    if location == 0:
        yield f"{where}: extent {extent} has no location"
        return
    name = table.name_of(location)
    if not exists(table, location):
        yield f"{where}: {name} does not exist"
        return
    if location in owners:
        yield f"{where}: {name} is also used by {_owner(table, owners[location])}"
    owners[location] = disk.disk, segment
    if container_of(location) not in disk.containers:
        yield f"{where}: {name} is not in the disk's flush set"
    space = table.containers[container_of(location)].space
    if space.is_clean(segment_of(location)):
        yield f"{where}: {name} is in use and marked clean"
    state = space.state(segment_of(location))
    if state != USED:
        yield f"{where}: {name} is in use and counted {_STATES[state]}"


def _marks(table: Table) -> Iterator[str]:
    for container in table.containers.values():
        row = container.row
        end = 0
        for words, bits in container.marks.arrays():
            end = int(words[-1]) * MARKS_PER_WORD + int(bits[-1]).bit_length()
        if end > row.segments:
            yield f"container {row.name}: clean marks beyond its {row.segments} segments"


def _extents(table: Table) -> Iterator[str]:
    mapped = {extent for disk in table.disks.values() for _, extent in disk.map.items()}
    for extent, location in table.extents.items():
        if extent not in mapped:
            yield f"extent {extent}: no disk refers to it ({table.name_of(location)})"
    for extent in table.records:
        if extent not in mapped:
            yield f"extent {extent}: has a record, no disk refers to it"


def _records(table: Table, owners: Owners) -> Iterator[str]:
    for extent, record in table.records.items():
        if record.source:
            yield from _source(table, extent, record, owners)
        if (record.written | record.copied) & ~record.all:
            yield f"extent {extent}: its record has bits beyond its {record.blocks} blocks"
        disk = table.disks.get(record.disk)
        if disk is None or disk.map.get(record.segment) != extent:
            continue
        blocks = disk.blocks_of(record.segment)
        if record.blocks != blocks:
            yield (
                f"extent {extent}: its record has {record.blocks} blocks, "
                f"disk {disk.name} segment {record.segment} has {blocks}"
            )


def _source(table: Table, extent: int, record: Record, owners: Owners) -> Iterator[str]:
    """A location that is a source is nobody's own and no other record's source (rule 4)."""
    where = f"extent {extent}"
    if not is_location(record.source):
        yield f"{where}: its record's source, extent {record.source}, is of no known kind"
        return
    name = table.name_of(record.source)
    if not exists(table, record.source):
        yield f"{where}: its source, {name}, does not exist"
        return
    if record.source in owners:
        yield f"{where}: its source, {name}, is also used by {_owner(table, owners[record.source])}"
    owners[record.source] = 0, extent
    disk = table.disks.get(record.disk)
    if disk is not None and container_of(record.source) not in disk.containers:
        yield f"{where}: its source, {name}, is not in the flush set of disk {disk.name}"
    space = table.containers[container_of(record.source)].space
    if space.is_clean(segment_of(record.source)):
        yield f"{where}: its source, {name}, is marked clean"
    state = space.state(segment_of(record.source))
    if state != SOURCE:
        yield f"{where}: its source, {name}, is counted {_STATES[state]}"


def _jobs(table: Table) -> Iterator[str]:
    for number in table.jobs:
        if number > table.last_job:
            yield f"job {number}: its number was never given"


def _unused(table: Table, state: str, locations: Iterable[int], owners: Owners) -> Iterator[str]:
    """Locations that are nobody's for now."""
    for location in locations:
        name = table.name_of(location)
        if not exists(table, location):
            yield f"{name}: {state}, does not exist"
        elif location in owners:
            yield f"{name}: {state}, used by {_owner(table, owners[location])}"
        elif state == _STATES[QUARANTINED] and location in table.cleaning:
            yield f"{name}: in quarantine and being cleaned"


def _holders(table: Table) -> Iterator[str]:
    for location, holders in table.quarantine.items():
        if not holders:
            yield f"{table.name_of(location)}: in quarantine for nobody"
    for location, fence in table.cleaning.items():
        if fence not in table.fences:
            yield f"{table.name_of(location)}: being cleaned by a copier whose fence has ended"


def _agents(table: Table) -> Iterator[str]:
    for number, holders in table.attached.items():
        disk = table.disks.get(number)
        name = f"disk {disk.name}" if disk else f"disk #{number}"
        if disk is None and holders:
            yield f"{name}: is attached and does not exist"
        for incarnation, agent in holders.items():
            if agent not in table.agents:
                yield f"{name}: is attached by agent #{agent} ({incarnation:x}), which is unknown"
