"""Disks: their routes, and rows to structs."""

from __future__ import annotations

from typing import Any

from litestar import delete, get, post

from segue.api.disks import CreateDisk, DiskInfo
from segue.controller.controller import Controller
from segue.controller.procedures import verbs
from segue.controller.table import Disk


def disk_routes(c: Controller) -> list[Any]:
    """``/v1/disks`` and what is under it."""

    @get("/disks")
    async def list_disks() -> list[DiskInfo]:
        return [_disk_info(c, c.table.disks[n]) for n in sorted(c.table.disks)]

    @get("/disks/{name:str}")
    async def show_disk(name: str) -> DiskInfo:
        return _disk_info(c, verbs.disk_called(c, name))

    @post("/disks")
    async def create_disk(data: CreateDisk) -> DiskInfo:
        disk = await verbs.create_disk(c, data.name, data.size_bytes, data.block_bytes)
        return _disk_info(c, disk)

    @delete("/disks/{name:str}")
    async def delete_disk(name: str) -> None:
        await verbs.delete_disk(c, name)

    @post("/disks/{name:str}/clear-error")
    async def clear_error(name: str) -> DiskInfo:
        await verbs.clear_error(c, name)
        return _disk_info(c, verbs.disk_called(c, name))

    return [list_disks, show_disk, create_disk, delete_disk, clear_error]


def _disk_info(c: Controller, disk: Disk) -> DiskInfo:
    names = {number: c.table.containers[number].row.name for number in c.table.containers}
    holders = c.table.attached.get(disk.disk, {})
    return DiskInfo(
        disk=disk.disk,
        name=disk.name,
        size_bytes=disk.size_bytes,
        block_bytes=disk.block_bytes,
        segment_bytes=disk.segment_bytes,
        segments=disk.segments,
        mapped_segments=disk.map.count,
        containers=[names[number] for number in disk.containers],
        agents=sorted(c.table.agents[agent].name for agent in holders.values()),
        failed={names[number]: errno for number, errno in disk.failed.items()},
    )
