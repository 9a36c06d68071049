"""The HTTP API of the controller: operator verbs in, JSON out (design, section 10).

Handlers turn a request into one verb of `procedures/verbs.py`, and rows of the table into the
structs of `segue.api.types`; they decide nothing.  Litestar validates bodies against those structs
and derives the OpenAPI document from them, served at ``/v1/schema/openapi.json``.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from litestar import Litestar, Request, Response, Router, delete, get, post
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig

import segue
from segue.api.types import (
    AddContainer,
    AgentInfo,
    ContainerInfo,
    CreateDisk,
    DiskInfo,
    ErrorBody,
    Status,
)
from segue.controller.commits import TermEnded
from segue.controller.controller import Controller
from segue.controller.peer import Peer
from segue.controller.procedures import verbs
from segue.controller.procedures.verbs import Refusal
from segue.controller.table import Container, Disk

log = logging.getLogger("segue.controller.api")

SECOND_NS = 1_000_000_000


def make_api(c: Controller) -> Litestar:
    """The ASGI application over one controller."""
    return Litestar(
        route_handlers=[
            Router("/v1", route_handlers=[*_status(c), *_containers(c), *_disks(c), *_agents(c)])
        ],
        exception_handlers={
            Refusal: _refused,
            TermEnded: _term_ended,
            HTTPException: _http_error,
            Exception: _unexpected,
        },
        openapi_config=OpenAPIConfig(title="Segue", version=segue.__version__, path="/v1/schema"),
        logging_config=None,
    )


def _status(c: Controller) -> list[Any]:
    begun_ns = c.clock.now_ns()

    @get("/status")
    async def status() -> Status:
        return Status(
            version=segue.__version__,
            installation=c.table.installation.hex(),
            term=c.term,
            commit=c.table.number,
            pid=os.getpid(),
            up_s=(c.clock.now_ns() - begun_ns) / SECOND_NS,
            containers=len(c.table.containers),
            disks=len(c.table.disks),
            agents=sum(peer.state.value == "present" for peer in c.peers.values()),
            incomplete_extents=len(c.table.records),
            faults_answered=c.faults_answered,
            problems=_problems(c),
        )

    return [status]


def _problems(c: Controller) -> list[str]:
    """What an operator should look at, one sentence each."""
    said = []
    for peer in c.peers.values():
        disks = [c.table.disks[d].name for d in c.table.disks_of(peer.incarnation)]
        if peer.state.value in ("absent", "lost") and disks:
            said.append(
                f"agent {peer.name} ({peer.incarnation:x}) is {peer.state.value} and may still "
                f"have I/O under way on {', '.join(disks)}"
            )
    for disk in c.table.disks.values():
        names = [c.table.containers[number].row.name for number in disk.failed]
        if names:
            said.append(f"disk {disk.name}: a flush failed at {', '.join(names)}")
    for container in c.table.containers.values():
        if container.space.free == 0:
            said.append(f"container {container.row.name} is full")
    return said


def _containers(c: Controller) -> list[Any]:
    @get("/containers")
    async def list_containers() -> list[ContainerInfo]:
        return [_container_info(c.table.containers[n]) for n in sorted(c.table.containers)]

    @get("/containers/{name:str}")
    async def show_container(name: str) -> ContainerInfo:
        number = c.table.container_names.get(name)
        if number is None:
            raise Refusal(f"no container is called {name}", missing=True)
        return _container_info(c.table.containers[number])

    @post("/containers")
    async def add_container(data: AddContainer) -> ContainerInfo:
        row = await verbs.add_container(c, data.name, data.uri, data.size_bytes, data.cache)
        return _container_info(c.table.containers[row.container])

    return [list_containers, show_container, add_container]


def _disks(c: Controller) -> list[Any]:
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


def _agents(c: Controller) -> list[Any]:
    @get("/agents")
    async def list_agents() -> list[AgentInfo]:
        peers = sorted(c.peers.values(), key=lambda peer: (peer.name, peer.incarnation))
        return [_agent_info(c, peer) for peer in peers]

    return [list_agents]


# Rows to structs ----------------------------------------------------------------------------------


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
    )


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


def _agent_info(c: Controller, peer: Peer) -> AgentInfo:
    left_ns = peer.lease_until_ns - c.clock.now_ns()
    return AgentInfo(
        agent=peer.agent,
        name=peer.name,
        incarnation=f"{peer.incarnation:x}",
        state=peer.state.value,
        lease_s=max(0, left_ns) / SECOND_NS,
        listens=peer.listens,
        disks=[c.table.disks[disk].name for disk in c.table.disks_of(peer.incarnation)],
    )


# Errors -------------------------------------------------------------------------------------------


def _refused(_: Request[Any, Any, Any], error: Refusal) -> Response[ErrorBody]:
    return Response(ErrorBody(str(error)), status_code=404 if error.missing else 409)


def _term_ended(_: Request[Any, Any, Any], error: TermEnded) -> Response[ErrorBody]:
    return Response(
        ErrorBody("the controller's term has ended; whether this was done is unknown"),
        status_code=503,
    )


def _http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorBody]:
    """Litestar's own: no such route, a body that is not what the verb takes."""
    details = error.extra if isinstance(error.extra, list) else []
    said = [
        f"{item['key']}: {item['message']}" if item.get("key") else str(item.get("message"))
        for item in details
        if isinstance(item, dict)
    ]
    return Response(ErrorBody("; ".join(said) or error.detail), status_code=error.status_code)


def _unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    """Our own mistake: that request fails, nothing else."""
    log.error(
        "event=request_failed method=%s path=%s", request.method, request.url.path, exc_info=error
    )
    return Response(ErrorBody("the controller failed at this, its log says why"), status_code=500)
