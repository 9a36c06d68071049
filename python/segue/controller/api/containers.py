"""Containers: their routes, and rows to structs."""

from __future__ import annotations

from typing import Any

from litestar import delete, get, post
from litestar.params import FromPath, JSONBody

from segue import _native
from segue.api.containers import AddContainer, ContainerInfo, SetLinger
from segue.controller import fences
from segue.controller.controller import Controller
from segue.controller.procedures import verbs
from segue.controller.procedures.declare_dead import set_linger
from segue.controller.procedures.remove_container import remove_container
from segue.controller.table import Container


def container_routes(c: Controller) -> list[Any]:
    """``/v1/containers`` and what is under it."""

    @get("/containers")
    async def list_containers() -> list[ContainerInfo]:
        """All containers, by number."""
        return [container_info(c, c.table.containers[n]) for n in sorted(c.table.containers)]

    @get("/containers/{name:str}")
    async def show_container(name: FromPath[str]) -> ContainerInfo:
        """The container of that name."""
        return container_info(c, verbs.container_called(c, name))

    @post("/containers")
    async def add_container(data: JSONBody[AddContainer]) -> ContainerInfo:
        """Make storage at a URI into a container."""
        row = await verbs.add_container(
            c, data.name, data.uri, data.size_bytes, data.cache, data.segment_bytes
        )
        return container_info(c, c.table.containers[row.container])

    @delete("/containers/{name:str}")
    async def delete_container(name: FromPath[str]) -> None:
        """Take an empty container out of its pool; a file that Segue made is deleted."""
        await remove_container(c, name)

    @post("/containers/{name:str}/linger", status_code=200)
    async def set_container_linger(name: FromPath[str], data: JSONBody[SetLinger]) -> ContainerInfo:
        """Say how long after its lease a lost agent's I/O can still be under way there."""
        return container_info(c, await set_linger(c, name, data.linger_s))

    return [
        set_container_linger,
        list_containers,
        show_container,
        add_container,
        delete_container,
    ]


def container_info(c: Controller, container: Container) -> ContainerInfo:
    """A container as it stands now."""
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
