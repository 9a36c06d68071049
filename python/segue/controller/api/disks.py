"""Disks: their routes, and rows to structs."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypeVar, cast

from litestar import delete, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from segue.api.disks import (
    CreateDisk,
    DiskDrawing,
    DiskInfo,
    DiskMap,
    DiskProblems,
    DrawnCell,
    MapRun,
    RenameDisk,
    ResizeDisk,
)
from segue.api.explain import Explanation
from segue.controller import layout
from segue.controller.api.explain import explain
from segue.controller.api.status import disk_problems
from segue.controller.controller import Controller
from segue.controller.procedures import verbs
from segue.controller.procedures.resize import resize_disk
from segue.controller.table import Disk

T = TypeVar("T")
MAX_RUNS = 10_000
MAX_CELLS = 10_000


def disk_routes(c: Controller) -> list[Any]:
    """``/v1/disks`` and what is under it."""

    @get("/disks")
    async def list_disks() -> list[DiskInfo]:
        """All disks, by number."""
        return [_disk_info(c, c.table.disks[n]) for n in sorted(c.table.disks)]

    @get("/disks/{name:str}")
    async def show_disk(name: FromPath[str]) -> DiskInfo:
        """The disk of that name."""
        return _disk_info(c, verbs.disk_called(c, name))

    @post("/disks")
    async def create_disk(data: JSONBody[CreateDisk]) -> DiskInfo:
        """Make a thin disk, all zero."""
        disk = await verbs.create_disk(
            c, data.name, data.size_bytes, data.block_bytes, data.segment_bytes, data.container
        )
        return _disk_info(c, disk)

    @post("/disks/{name:str}/resize", status_code=200)
    async def resize(name: FromPath[str], data: JSONBody[ResizeDisk]) -> DiskInfo:
        """Give a disk another size; hosts see it when they connect again."""
        return _disk_info(c, await resize_disk(c, name, data.size_bytes, data.force))

    @post("/disks/{name:str}/rename", status_code=200)
    async def rename(name: FromPath[str], data: JSONBody[RenameDisk]) -> DiskInfo:
        """Give a disk another name; hosts that have it go on."""
        return _disk_info(c, await verbs.rename_disk(c, name, data.name))

    @delete("/disks/{name:str}")
    async def delete_disk(
        name: FromPath[str], force: Annotated[bool, QueryParameter()] = False
    ) -> None:
        """Delete a disk and what is on it; refused while hosts use it, unless `force`.

        They get ESHUTDOWN then.
        """
        await verbs.delete_disk(c, name, force)

    @post("/disks/{name:str}/clear-error", status_code=200)
    async def clear_error(name: FromPath[str]) -> DiskInfo:
        """Take note of the disk's flush errors, and end them."""
        await verbs.clear_error(c, name)
        return _disk_info(c, verbs.disk_called(c, name))

    @get("/disks/{name:str}/map")
    async def map_disk(
        name: FromPath[str],
        first_segment: Annotated[int, QueryParameter(ge=0)] = 0,
        max_runs: Annotated[int, QueryParameter(ge=1, le=MAX_RUNS)] = 1000,
    ) -> DiskMap:
        """Where the disk's segments lie, from one on, a bounded number of runs."""
        return await _disk_map(c, verbs.disk_called(c, name), first_segment, max_runs)

    @get("/disks/{name:str}/drawing")
    async def draw_disk(
        name: FromPath[str], cells: Annotated[int, QueryParameter(ge=1, le=MAX_CELLS)] = 1000
    ) -> DiskDrawing:
        """Where the disk's segments lie, summed up in equal cells."""
        return await _disk_drawing(c, verbs.disk_called(c, name), cells)

    @get("/disks/{name:str}/problems")
    async def problems_of_disk(name: FromPath[str]) -> DiskProblems:
        """What may keep the disk from being opened, as the status says it."""
        return DiskProblems(disk_problems(c, verbs.disk_called(c, name)))

    @get("/disks/{name:str}/explain")
    async def explain_offset(
        name: FromPath[str], offset: Annotated[int, QueryParameter(ge=0)]
    ) -> Explanation:
        """One byte of the disk: which entry, where, why, and who is at it."""
        return explain(c, verbs.disk_called(c, name), offset)

    return [
        map_disk,
        explain_offset,
        problems_of_disk,
        draw_disk,
        list_disks,
        show_disk,
        create_disk,
        resize,
        rename,
        delete_disk,
        clear_error,
    ]


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


async def _disk_map(c: Controller, disk: Disk, first: int, limit: int) -> DiskMap:
    names = {number: container.row.name for number, container in c.table.containers.items()}
    found, next_segment = await _in_steps(layout.runs(c.table, disk, first, limit))
    runs = [
        MapRun(run.segment, run.count, names.get(run.container), run.at, run.incomplete)
        for run in found
    ]
    return DiskMap(disk.name, disk.segment_bytes, disk.segments, runs, next_segment)


async def _disk_drawing(c: Controller, disk: Disk, cells: int) -> DiskDrawing:
    names = {number: container.row.name for number, container in c.table.containers.items()}
    fewest = -(-disk.segments // cells)
    per_cell = 1 << (fewest - 1).bit_length()  # a power of two: cells begin at round offsets
    found = await _in_steps(layout.cells(c.table, disk, per_cell))
    drawn = [
        DrawnCell(
            number,
            {names[container]: count for container, count in cell.containers.items()},
            cell.incomplete,
        )
        for number, cell in sorted(found.items())
    ]
    return DiskDrawing(disk.name, disk.segment_bytes, disk.segments, per_cell, drawn)


async def _in_steps(steps: layout.Steps[T]) -> T:
    """The outcome; faults are answered between the steps."""
    try:
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                return cast(T, stop.value)
            await asyncio.sleep(0)
    finally:
        steps.close()
