"""What an operator asks for (design, section 10): the verbs behind the API.

Each checks everything first and changes nothing if it refuses: `Refusal`, with one clear sentence
(rule 10).  What was changed stands in the log, in a line each.
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING
from urllib.parse import quote

from segue.controller.changes import (
    ContainerAdded,
    DiskDeleted,
    DiskMade,
    DiskRenamed,
    FlushCleared,
)
from segue.controller.config import MIN_SEGMENT_BYTES, is_segment_size
from segue.controller.peer import PeerState
from segue.controller.procedures.discard import incomplete_held
from segue.controller.procedures.flush_failed import take_note
from segue.controller.restrict import (
    delete_table_when_back,
    delete_tables,
    extend_containers,
)
from segue.controller.table import container_spec
from segue.sizes import format_exact, format_size

if TYPE_CHECKING:
    from segue.controller.controller import Controller
    from segue.controller.table import Container, Disk

log = logging.getLogger("segue.controller.verbs")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
MAX_DISK_SEGMENTS = 1 << 32
_MAX_CONTAINERS = 1 << 16
MAX_CONTAINER_SEGMENTS = 1 << 28
"""Two bytes of memory each."""
CACHES = ("page", "direct")
REFUSED_PARAMETER = re.compile(r'cannot take "([^="]*)')
PARAMETERS = {
    "socket": "an absolute path",
    "on-loss": "stall or fail",
    "loss-ms": "a number of milliseconds",
    "timeout-ms": "a number of milliseconds, 1 at least",
    "linger-ms": "a number of milliseconds",
    "connections": "1 to 16",
}
"""What a container's URI across the network may say (`address.rs` of segue-io), for people."""
BLOCK_SIZES = (512, 4096)
SECTOR = 512
LET_GO_S = 2.0
"""How long a disk that is to be deleted may take to be given back: its last host has just gone."""


class Refusal(Exception):
    """The request is wrong, or cannot be done now; nothing was changed.

    `missing`: it names something that does not exist.
    """

    def __init__(self, sentence: str, *, missing: bool = False) -> None:
        super().__init__(sentence)
        self.missing = missing


class Asker:
    """Whoever asked for a verb over the API: `gone`, when he no longer waits for the answer."""

    def __init__(self) -> None:
        self.gone = False


ASKER: ContextVar[Asker | None] = ContextVar("segue_asker", default=None)
"""Of the request that is being answered."""


def still_asked() -> None:
    """A `Refusal` if the asker has gone; what nobody on the API's other side asked for goes on.

    Asked by verbs that have waited and begun nothing: he may have asked for the opposite since.
    """
    asker = ASKER.get()
    if asker is not None and asker.gone:
        raise Refusal("whoever asked for this has gone; nothing was begun")


def _check_name(kind: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise Refusal(
            f"{name!r} is no name for a {kind}: letters, digits, '.', '_' and '-', 63 at most, "
            f"beginning with a letter or a digit"
        )


def disk_called(c: Controller, name: str) -> Disk:
    """The disk of that name, or a `Refusal`."""
    number = c.table.disk_names.get(name)
    if number is None:
        raise Refusal(f"no disk is called {name}", missing=True)
    return c.table.disks[number]


def disk_still(c: Controller, name: str, number: int) -> Disk:
    """That disk, whose lock is held by now, if its name is the same and somebody still asks."""
    still_asked()
    if c.table.disk_names.get(name) != number:
        raise Refusal(f"no disk is called {name} any more", missing=True)
    return c.table.disks[number]


def container_called(c: Controller, name: str) -> Container:
    """The container of that name, or a `Refusal`."""
    number = c.table.container_names.get(name)
    if number is None:
        raise Refusal(f"no container is called {name}", missing=True)
    return c.table.containers[number]


async def add_container(
    c: Controller,
    name: str,
    uri: str,
    size_bytes: int = 0,
    cache: str | None = None,
    segment_bytes: int | None = None,
    *,
    erase: bool = False,
) -> ContainerAdded:
    """Makes storage at `uri` into a container of the pool of that segment size.

    Refused where something lies; with `erase`, a device or export is taken all the same.
    `size_bytes` 0: all of a device.  `cache` None: files go through the page cache, whatever else
    past it.  `segment_bytes` None: what the controller was set to.
    """
    _check_name("container", name)
    if uri.startswith("/"):
        scheme = "block" if uri.startswith("/dev/") else "file"
        raise Refusal(f"{uri} is a path, no URI: write {scheme}://{quote(uri)}")
    async with c.locks.hold(("containers",), exclusive=True):
        still_asked()
        if name in c.table.container_names:
            raise Refusal(f"a container called {name} exists already")
        if any(other.row.uri == uri for other in c.table.containers.values()):
            raise Refusal(f"{uri} is a container already")
        number = c.table.last_container + 1
        if number >= _MAX_CONTAINERS:
            raise Refusal("no more containers can be numbered")
        identity = c.rng.randbytes(16)
        cache = cache or ("page" if "file://" in uri or "://" not in uri else "direct")
        segment_bytes = segment_bytes or c.settings.segment_bytes
        _check_carving(size_bytes, segment_bytes, cache)
        await c.copier_may_write()
        try:
            made = await c.storage.create(
                uri, size_bytes, segment_bytes, identity, c.table.installation, c.term, cache, erase
            )
        except OSError as error:
            raise Refusal(f"cannot make {_why(error)}") from error
        row = ContainerAdded(
            container=number,
            name=name,
            uri=uri,
            identity=identity,
            segment_bytes=segment_bytes,
            segments=made.segments,
            cache=cache,
            write_unit_bytes=made.write_unit_bytes,
            clean=made.clean,
        )
        try:
            await c.storage.open(container_spec(row), c.table.installation, c.fence)
        except OSError as error:
            raise Refusal(f"cannot open {error.strerror or error}") from error
        await c.commit(row)
        log.info("event=container_added container=%s uri=%s segments=%d", name, uri, made.segments)
        c.open_containers.add(number)
        c.background.work_appeared()
        return row


def _why(error: OSError) -> str:
    """What an error of storage says; of a parameter that was refused, what it takes."""
    said = error.strerror or str(error)
    refused = REFUSED_PARAMETER.search(said)
    if refused is None:
        return said
    takes = PARAMETERS.get(refused[1])
    if takes is not None:
        return f"{said}: {refused[1]} takes {takes}"
    return f"{said}: the parameters are {', '.join(PARAMETERS)}"


def _check_carving(size_bytes: int, segment_bytes: int, cache: str) -> None:
    """A `Refusal` for numbers that no storage could take."""
    if cache not in CACHES:
        raise Refusal(f"a container goes through the {' or '.join(CACHES)} cache, not {cache!r}")
    if not is_segment_size(segment_bytes):
        raise Refusal("a segment is a power of two from 64 KiB to 64 MiB")
    if not 0 <= size_bytes <= MAX_CONTAINER_SEGMENTS * segment_bytes:
        raise Refusal(
            f"a container of segments of {format_size(segment_bytes)} has "
            f"{format_size(MAX_CONTAINER_SEGMENTS * segment_bytes)} at most, "
            f"not {format_exact(size_bytes)}"
        )


def check_disk_size(size_bytes: int) -> None:
    """A `Refusal` for what no disk can have."""
    if size_bytes <= 0 or size_bytes % SECTOR or size_bytes > MAX_DISK_SEGMENTS * MIN_SEGMENT_BYTES:
        most = format_size(MAX_DISK_SEGMENTS * MIN_SEGMENT_BYTES)
        raise Refusal(
            f"a disk has a multiple of 512 bytes, {most} at most, not {format_exact(size_bytes)}"
        )


async def create_disk(
    c: Controller,
    name: str,
    size_bytes: int,
    block_bytes: int = 4096,
    segment_bytes: int | None = None,
    container: str | None = None,
) -> Disk:
    """Makes a thin disk, all zero, in the pool of that segment size (None: see `_pool`).

    Its data begins to lie in that container (None: where most room is left), and goes on in others
    of the pool when it is full.
    """
    _check_name("disk", name)
    if block_bytes not in BLOCK_SIZES:
        raise Refusal(f"a block has 512 or 4096 bytes, not {block_bytes}")
    check_disk_size(size_bytes)
    async with c.locks.hold(("disks",), exclusive=True):
        still_asked()
        if name in c.table.disk_names:
            raise Refusal(f"a disk called {name} exists already")
        pool = (
            _pool(c, segment_bytes) if container is None else [_named(c, container, segment_bytes)]
        )
        found = [each for each in pool if not c.missing(each.row.container)]
        if not found:
            names = ", ".join(each.row.name for each in pool)
            raise Refusal(f"nobody could open the disk: container {names} is missing")
        first = max(
            found, key=lambda each: (not c.storage.is_away(each.row.container), _room(c, each))
        )
        number = c.table.last_disk + 1
        await c.commit(
            DiskMade(
                number,
                name,
                size_bytes,
                first.row.segment_bytes,
                block_bytes,
                [first.row.container],
            )
        )
        log.info("event=disk_created disk=%s size_bytes=%d", name, size_bytes)
        return c.table.disks[number]


def _named(c: Controller, name: str, segment_bytes: int | None) -> Container:
    """The container of that name, if something new may be put there; or a `Refusal`."""
    container = container_called(c, name)
    row = container.row
    if not c.may_allocate(row.container):
        raise Refusal(f"container {name} is being drained or removed: nothing new is put there")
    if segment_bytes not in (None, row.segment_bytes):
        raise Refusal(
            f"container {name} has segments of {format_size(row.segment_bytes)}, "
            f"not {format_exact(segment_bytes)}"
        )
    return container


def _pool(c: Controller, segment_bytes: int | None) -> list[Container]:
    """The containers of a segment size; None: of the controller's own, or of the only one."""
    usable = [container for n, container in c.table.containers.items() if c.may_allocate(n)]
    if not usable:
        raise Refusal("there is no container yet: add one first")
    sizes = sorted({container.row.segment_bytes for container in usable})
    wanted = segment_bytes or c.settings.segment_bytes
    if segment_bytes is None and len(sizes) == 1:
        wanted = sizes[0]
    if wanted not in sizes:
        raise Refusal(
            f"no container has segments of {format_exact(wanted)}; there are pools of "
            f"{', '.join(map(format_size, sizes))}"
        )
    return [container for container in usable if container.row.segment_bytes == wanted]


def _room(c: Controller, container: Container) -> float:
    """The share of a container that were left if every disk that began there were full.

    Disks are thin: by free space alone many new ones would begin on one container (decision 0010).
    """
    number, space = container.row.container, container.space
    promised = sum(
        disk.segments - disk.map.count
        for disk in c.table.disks.values()
        if disk.containers[:1] == [number]
    )
    return (space.free - promised) / space.segments


async def rename_disk(c: Controller, name: str, new: str) -> Disk:
    """Gives a disk another name; hosts that have it go on."""
    _check_name("disk", new)
    number = disk_called(c, name).disk
    async with c.locks.hold_each((("disk", number), False), (("disks",), True)):
        disk = disk_still(c, name, number)
        if new in c.table.disk_names:
            raise Refusal(f"a disk called {new} exists already")
        await c.commit(DiskRenamed(number, new))
        log.info("event=disk_renamed disk=%s to=%s", name, new)
        return disk


async def delete_disk(c: Controller, name: str, force: bool = False) -> None:
    """Deletes a disk: its tables everywhere (blocking), then the table's rows; no data is touched.

    Refused while an agent has it for hosts, unless `force`: their I/O gets ESHUTDOWN then.

    A crash before the commit leaves the disk whole: agents ask for its table again.  An agent that
    is lost is not waited for: it has a table without entries, until it is back.

    Nor are older terms' copiers, where storage is away on which they left the disk incomplete: if
    it is gone for good, nobody will ever know.  What is freed waits for them in quarantine.
    """
    number = disk_called(c, name).disk
    if not force:
        await _let_go(c, number)
        # Now as well: the lock may be had by I/O that waits for what is away.
        _must_be_unused(c, disk_still(c, name, number))
        await _delete(c, name, number, force)
    else:
        c.background.deleting[number] += 1
        c.background.look_again()
        try:
            await _delete(c, name, number, force)
        finally:
            c.background.deleting[number] -= 1
    for peer in c.peers.values():
        if number in peer.tables:
            c.spawn(delete_table_when_back(c, peer, number))
    log.info("event=disk_deleted disk=%s", name)
    c.background.work_appeared()


async def _delete(c: Controller, name: str, number: int, force: bool) -> None:
    async with c.locks.hold(("disk", number), exclusive=True):
        disk = disk_still(c, name, number)
        if not force:
            _must_be_unused(c, disk)
        if not await c.background.taken_over(number):
            for peer in c.peers_of(number):
                while not (peer.listed or peer.gone):
                    await peer.changed()
        still_asked()
        async with incomplete_held(c, disk, 0, disk.segments):
            holders = c.still_holders(await delete_tables(c, number))
            # Ids of extents are used again: nobody must wait for one on account of this disk.
            holders += c.background.let_go(c.background.inherited_of(number))
            await c.commit(DiskDeleted(number, holders))


async def _let_go(c: Controller, disk: int) -> None:
    """Returns when no agent has the disk for hosts; after `LET_GO_S` all the same.

    An agent gives a disk back when the last host's connection has ended.  That takes the disk's
    lock, so whoever waits for it must not hold that.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(LET_GO_S):
            while peers := c.peers_of(disk):
                await peers[0].changed()


def _must_be_unused(c: Controller, disk: Disk) -> None:
    """A `Refusal` that names the agents which have the disk for hosts."""
    peers = c.peers_of(disk.disk)
    serving = sorted({peer.name for peer in peers if peer.state is PeerState.PRESENT})
    others = sorted({str(peer) for peer in peers if peer.state is not PeerState.PRESENT})
    uses = []
    if serving:
        uses.append(f"hosts have it open at agent {', '.join(serving)}")
    if others:
        uses.append(f"hosts had it open at {', '.join(others)}")
    if uses:
        raise Refusal(
            f"disk {disk.name} is in use: {'; '.join(uses)} (--force deletes it all the same)"
        )


async def clear_error(c: Controller, name: str) -> None:
    """Ends the flush errors of a disk (promise P5): the operator has taken note.

    Notes of what he was told go first: they would make it a failure again.
    """
    number = disk_called(c, name).disk
    async with c.locks.hold(("disk", number), exclusive=False):
        for container in list(disk_still(c, name, number).failed):
            for marked in await take_note(c, container):
                c.spawn(extend_containers(c, marked))
        if disk_still(c, name, number).failed:
            c.flushes.clearing[number] += 1
            try:
                await c.commit(FlushCleared(number))
            finally:
                c.flushes.clearing[number] -= 1
            log.info("event=error_cleared disk=%s", name)
            await extend_containers(c, number)
