"""Containers: their routes, and rows to structs."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from segue import _native
from segue.api.containers import AddContainer, ContainerInfo, SetLinger
from segue.controller import fences
from segue.controller.controller import Controller
from segue.controller.ports import Room
from segue.controller.procedures import verbs
from segue.controller.procedures.declare_dead import set_linger
from segue.controller.procedures.remove_container import remove_container
from segue.controller.table import Container
from segue.sizes import format_size

LITTLE_SHARE = 0.05
LITTLE_BYTES = 1 << 30
"""Less than both left on a file system is little."""


def container_routes(c: Controller) -> list[Any]:
    """``/v1/containers`` and what is under it."""

    @get("/containers")
    async def list_containers() -> list[ContainerInfo]:
        """All containers, by number."""
        containers = [c.table.containers[n] for n in sorted(c.table.containers)]
        return await asyncio.gather(*(shown(c, container) for container in containers))

    @get("/containers/{name:str}")
    async def show_container(name: FromPath[str]) -> ContainerInfo:
        """The container of that name."""
        return await shown(c, verbs.container_called(c, name))

    @post("/containers")
    async def add_container(data: JSONBody[AddContainer]) -> ContainerInfo:
        """Make storage at a URI into a container."""
        row = await verbs.add_container(
            c,
            data.name,
            data.uri,
            data.size_bytes,
            data.cache,
            data.segment_bytes,
            erase=data.erase,
        )
        return await shown(c, c.table.containers[row.container])

    @delete("/containers/{name:str}")
    async def delete_container(
        name: FromPath[str], lost: Annotated[bool, QueryParameter()] = False
    ) -> None:
        """Take an empty container out of its pool; a file that Segue made is deleted.

        `lost`: its storage is away for good, nothing is asked of it.
        """
        await remove_container(c, name, lost=lost)

    @post("/containers/{name:str}/linger", status_code=200)
    async def set_container_linger(name: FromPath[str], data: JSONBody[SetLinger]) -> ContainerInfo:
        """Say how long after its lease a lost agent's I/O can still be under way there."""
        return await shown(c, await set_linger(c, name, data.linger_s))

    return [
        set_container_linger,
        list_containers,
        show_container,
        add_container,
        delete_container,
    ]


async def shown(c: Controller, container: Container) -> ContainerInfo:
    """A container as it stands now, and what the file system under it has left."""
    info = container_info(c, container)
    room = await c.storage.room(container.row.uri)
    if room is None:
        return info
    header_bytes = room.file_bytes - info.size_bytes
    in_use_bytes = header_bytes + (info.used_segments + info.held_segments) * info.segment_bytes
    unused_bytes = max(0, room.allocated_bytes - in_use_bytes)
    return msgspec.structs.replace(
        info,
        free_bytes=min(info.free_bytes, unused_bytes + room.free_bytes),
        file_system_free_bytes=room.free_bytes,
        file_system_short_bytes=max(0, wanted_bytes(room) - room.free_bytes),
    )


async def little_room(c: Controller) -> list[str]:
    """File systems under containers that may soon have none, one sentence each."""
    containers = [c.table.containers[n] for n in sorted(c.table.containers)]
    rooms = await asyncio.gather(*(c.storage.room(each.row.uri) for each in containers))
    found: dict[int, list[tuple[Container, Room]]] = {}
    for container, room in zip(containers, rooms, strict=True):
        if room is not None:
            found.setdefault(room.file_system, []).append((container, room))
    said = []
    for under in found.values():
        room = under[0][1]
        wanted = sum(wanted_bytes(each) for _, each in under)
        if room.free_bytes < min(LITTLE_SHARE * room.total_bytes, LITTLE_BYTES, wanted):
            names = ", ".join(container.row.name for container, _ in under)
            which = f"containers {names}" if len(under) > 1 else f"container {names}"
            said.append(
                f"the file system under {which} has {format_size(room.free_bytes)} left, less than "
                f"the {format_size(wanted)} that may still be written there: writes get ENOSPC "
                f"when it is full; make room on it, or add a container elsewhere"
            )
    return said


def wanted_bytes(room: Room) -> int:
    """What a container's file would take of its file system if all of it were written."""
    return max(0, room.file_bytes - room.allocated_bytes)


def container_info(c: Controller, container: Container) -> ContainerInfo:
    """A container as it stands now, without a look at what is under it."""
    row, space = container.row, container.space
    policy = _native.container_policy(row.uri)
    fail_after_s = policy["fail_after_s"] if policy is not None else None
    return ContainerInfo(
        container=row.container,
        name=row.name,
        uri=row.uri,
        cache=row.cache,
        segment_bytes=row.segment_bytes,
        segments=row.segments,
        size_bytes=row.segments * row.segment_bytes,
        used_segments=space.used,
        free_segments=space.free,
        clean_segments=space.free_clean,
        held_segments=row.segments - space.used - space.free,
        linger_s=container.linger_s,
        write_unit_bytes=row.write_unit_bytes,
        leaving=container.leaving,
        draining=container.draining,
        disks=sorted(d.name for d in c.table.disks.values() if row.container in d.containers),
        away_s=c.away_s(row.container),
        away_why=c.unreached.get(row.container, (0, ""))[1],
        fence=_fence(c, container),
        flush="sync" if policy is None else "nothing",
        when_away="" if policy is None else "wait" if fail_after_s is None else "fail",
        fail_after_s=fail_after_s,
        free_bytes=space.free * row.segment_bytes,
    )


def _fence(c: Controller, container: Container) -> str:
    """See `ContainerInfo.fence`."""
    if not fences.is_remote(container.row.uri):
        return "locks"
    has_fence = c.storage.has_fence(container.row.container)
    if has_fence:
        return "server"
    if fences.linger_ns(container):
        return "linger"
    return "unknown" if has_fence is None else "none"
