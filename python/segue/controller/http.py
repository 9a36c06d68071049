"""The controller's door for people's tools: HTTP on a unix socket (``DATA/api.sock``, mode 0600).

Importing the HTTP library takes longer than beginning a term: `server` imports this module, in a
thread, when the agents are served already.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from segue.controller.api import make_api
from segue.controller.controller import Controller

API_STOP_S = 2
API_CONNECTIONS = 256
"""At once; one more is answered with HTTP status 503."""


class _Uvicorn(uvicorn.Server):
    """uvicorn within our loop: signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpApi:
    """The API of a controller; may be made in any thread."""

    def __init__(self, controller: Controller) -> None:
        config = uvicorn.Config(
            make_api(controller),
            lifespan="off",
            log_config=None,
            access_log=False,
            limit_concurrency=API_CONNECTIONS,
            timeout_graceful_shutdown=API_STOP_S,
        )
        self._server = _Uvicorn(config)
        self._serving: asyncio.Task[None] | None = None

    def begin(self, listener: socket.socket) -> None:
        """Serve on this socket, until `stop`."""
        serving = self._server.serve(sockets=[listener])
        self._serving = asyncio.get_running_loop().create_task(serving)

    async def stop(self) -> None:
        """Finish what was asked, and close."""
        self._server.should_exit = True
        if self._serving is not None:
            await self._serving
