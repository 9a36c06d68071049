"""Containers: their routes, and rows to structs."""

from __future__ import annotations

from typing import Any

from litestar import delete, get, post

from segue.api.containers import AddContainer, ContainerInfo, SetLinger
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
        return [_container_info(c.table.containers[n]) for n in sorted(c.table.containers)]

    @get("/containers/{name:str}")
    async def show_container(name: str) -> ContainerInfo:
        """The container of that name."""
        return _container_info(verbs.container_called(c, name))

    @post("/containers")
    async def add_container(data: AddContainer) -> ContainerInfo:
        """Make storage at a URI into a container."""
        row = await verbs.add_container(
            c, data.name, data.uri, data.size_bytes, data.cache, data.segment_bytes
        )
        return _container_info(c.table.containers[row.container])

    @delete("/containers/{name:str}")
    async def delete_container(name: str) -> None:
        """Take an empty container out of its pool; a file that Segue made is deleted."""
        await remove_container(c, name)

    @post("/containers/{name:str}/linger", status_code=200)
    async def set_container_linger(name: str, data: SetLinger) -> ContainerInfo:
        """Say how long after its lease a lost agent's I/O can still be under way there."""
        return _container_info(await set_linger(c, name, data.linger_s))

    return [
        set_container_linger,
        list_containers,
        show_container,
        add_container,
        delete_container,
    ]


def _container_info(container: Container) -> ContainerInfo:
    row, space = container.row, container.space
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
    )
