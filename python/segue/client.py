"""Python client of the HTTP API, over the installation's unix socket; the command line uses it.

HTTP is the standard library's; the client keeps no connection between calls.
"""

from __future__ import annotations

import http.client
import os
import socket
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from segue.api.types import (
    AddContainer,
    AgentInfo,
    ContainerInfo,
    CreateDisk,
    DiskInfo,
    ErrorBody,
    Status,
)

T = TypeVar("T")
SOCKET_NAME = "api.sock"
TIMEOUT_S = 60.0


class ApiError(Exception):
    """The request failed; its text is one clear sentence.

    `status` is the HTTP status, 0 if the controller was not reached.
    """

    def __init__(self, sentence: str, status: int = 0) -> None:
        super().__init__(sentence)
        self.status = status


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Client:
    """An installation, by its data folder; every method raises `ApiError`."""

    def __init__(self, data: str) -> None:
        self._socket = os.path.join(data, SOCKET_NAME)

    def status(self) -> Status:
        """The installation at a glance."""
        return self._call("GET", "status", Status)

    def containers(self) -> list[ContainerInfo]:
        """All containers, by number."""
        return self._call("GET", "containers", list[ContainerInfo])

    def container(self, name: str) -> ContainerInfo:
        """The container of that name."""
        return self._call("GET", f"containers/{quote(name, safe='')}", ContainerInfo)

    def add_container(
        self, name: str, uri: str, size_bytes: int, cache: str = "page"
    ) -> ContainerInfo:
        """Make storage at `uri` into a container."""
        body = AddContainer(name, uri, size_bytes, cache)
        return self._call("POST", "containers", ContainerInfo, body)

    def disks(self) -> list[DiskInfo]:
        """All disks, by number."""
        return self._call("GET", "disks", list[DiskInfo])

    def disk(self, name: str) -> DiskInfo:
        """The disk of that name."""
        return self._call("GET", f"disks/{quote(name, safe='')}", DiskInfo)

    def create_disk(self, name: str, size_bytes: int, block_bytes: int = 4096) -> DiskInfo:
        """Make a thin disk, all zero."""
        return self._call("POST", "disks", DiskInfo, CreateDisk(name, size_bytes, block_bytes))

    def delete_disk(self, name: str) -> None:
        """Delete a disk and what is on it."""
        self._call("DELETE", f"disks/{quote(name, safe='')}", type(None))

    def clear_error(self, name: str) -> DiskInfo:
        """Take note of the disk's flush errors, and end them."""
        return self._call("POST", f"disks/{quote(name, safe='')}/clear-error", DiskInfo)

    def agents(self) -> list[AgentInfo]:
        """All agents' incarnations that are known to live or not known to have ended."""
        return self._call("GET", "agents", list[AgentInfo])

    def disk_uris(self, name: str, agent: str | None = None) -> list[str]:
        """NBD URIs of the disk, at the agents that are there (or the one named)."""
        self.disk(name)
        uris = [
            _with_export(uri, name)
            for info in self.agents()
            if info.state == "present" and agent in (None, info.name)
            for uri in info.listens
        ]
        if not uris:
            who = "no agent" if agent is None else f"no agent called {agent}"
            raise ApiError(f"{who} is there to serve {name}")
        return uris

    def _call(self, method: str, path: str, kind: type[T], body: Any = None) -> T:
        connection = _UnixConnection(self._socket)
        try:
            data = None if body is None else msgspec.json.encode(body)
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, f"/v1/{path}", data, headers)
            response = connection.getresponse()
            status, answer = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ApiError(f"cannot reach the controller at {self._socket}: {reason}") from error
        finally:
            connection.close()
        if status >= 300:
            raise ApiError(_sentence(answer, status), status)
        try:
            return msgspec.json.decode(answer or b"null", type=kind)
        except msgspec.MsgspecError as error:
            raise ApiError(f"the controller's answer makes no sense: {error}") from error


def _sentence(answer: bytes, status: int) -> str:
    try:
        return msgspec.json.decode(answer, type=ErrorBody).error
    except msgspec.MsgspecError:
        return f"the controller answered with HTTP status {status}"


def _with_export(uri: str, export: str) -> str:
    """``nbd://h:p`` or ``nbd+unix:///?socket=S`` with the export put in its place."""
    base, question, query = uri.partition("?")
    return f"{base}{'' if base.endswith('/') else '/'}{export}{question}{query}"
