"""The controller's doors for people's tools: HTTP on a unix socket (``DATA/api.sock``, mode 0600),
and on TCP where the operator wants it (`tcp_api.py`).

Importing the HTTP library takes longer than beginning a term: `server` imports this module, in a
thread, when the agents are served already.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from litestar.types import ASGIApp

from segue.controller.api import make_api
from segue.controller.controller import Controller
from segue.controller.tcp_api import TcpDoor, with_token

API_STOP_S = 2
API_CONNECTIONS = 256
"""At once at each door; one more is answered with HTTP status 503."""


class _Uvicorn(uvicorn.Server):
    """uvicorn within our loop: signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpApi:
    """The API of a controller; may be made in any thread."""

    def __init__(self, controller: Controller, door: TcpDoor | None) -> None:
        app = make_api(controller)
        self._door = door
        self._unix = _Uvicorn(_config(app, None))
        self._tcp = _Uvicorn(_config(with_token(app, door.token), door)) if door else None
        self._serving: list[asyncio.Task[None]] = []

    def begin(self, listener: socket.socket) -> None:
        """Serve on this unix socket, and at the TCP door, until `stop`."""
        loop = asyncio.get_running_loop()
        self._serving.append(loop.create_task(self._unix.serve(sockets=[listener])))
        if self._tcp is not None and self._door is not None:
            self._serving.append(loop.create_task(self._tcp.serve(sockets=self._door.listeners)))

    async def stop(self) -> None:
        """Finish what was asked, and close."""
        for server in (self._unix, self._tcp):
            if server is not None:
                server.should_exit = True
        await asyncio.gather(*self._serving)


def _config(app: ASGIApp, door: TcpDoor | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        limit_concurrency=API_CONNECTIONS,
        timeout_graceful_shutdown=API_STOP_S,
        ssl_certfile=door.certificate or None if door else None,
        ssl_keyfile=door.key or None if door else None,
    )
