"""The controller process: store, storage, one term of a `Controller`, and its two doors.

Agents come through the link's sockets, people's tools through the HTTP API (``DATA/api.sock``,
mode 0600).  Crash-only: when the term has failed the process ends with it, at once and without
tidying; the next start begins a new term.  SIGTERM and SIGINT stop cleanly.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from segue import _native
from segue.controller import tcp_api
from segue.controller.commits import TermEnded
from segue.controller.config import (
    ConfigError,
    ControllerConfig,
    check_settings,
    make_data_folder,
)
from segue.controller.controller import Controller
from segue.controller.storage import NativeStorage
from segue.store.contract import StoreFailed, StoreFull
from segue.store.mark import make_mark, read_mark
from segue.store.sqlite import ROOM_S, SqliteStore
from segue.wire.link import Address, Link, serve, unix_listener
from segue.wire.messages import AgentMessage, decode_from_agent

if TYPE_CHECKING:
    from segue.controller.http import HttpApi

log = logging.getLogger("segue.controller.server")

_T = TypeVar("_T")


class BootClock:
    """CLOCK_BOOTTIME: goes on while the machine sleeps, and never back."""

    def now_ns(self) -> int:
        """Nanoseconds since boot."""
        return _native.boottime_ns()


class TermFailed(Exception):
    """The term has ended by failure; the process must exit and may be started again."""


class _Stopped(Exception):
    """Told to stop while there was no room for the store."""


class Server:
    """One controller process, from start to stop; `run` is its life."""

    def __init__(self, config: ControllerConfig) -> None:
        check_settings(config.settings)
        try:
            self._addresses = [Address.parse(text) for text in config.addresses]
        except ValueError as error:
            raise ConfigError(str(error)) from None
        for address in self._addresses:
            if not address.local and not config.insecure:
                raise ConfigError(
                    f"{address} can be reached from other machines: there is no TLS yet, "
                    f"--insecure allows it"
                )
        self._api_addresses = tcp_api.check(config)
        self._config = config
        self._links: dict[asyncio.Task[None], None] = {}
        self._controller: Controller | None = None

    async def run(self) -> bool:
        """Serve until SIGTERM or SIGINT; raises `TermFailed`, `StoreError`, `OSError`.

        True if nothing is under way any more; else the process is to end without waiting for it.

        Where the store finds no room, to begin with or for the term's first commit, that is waited
        for like later on.

        A controller that cannot serve changes nothing but, at the most, the number of the term:
        what only the table can tell, containers above all, is known when the term is claimed, and
        a term more or less means nothing.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        make_data_folder(self._config.data)
        made = read_mark(self._config.data)
        try:
            return await self._serve(made, stop)
        except _Stopped:
            log.info("event=stopped")
            return True

    async def _serve(self, made: bytes, stop: asyncio.Event) -> bool:
        loop = asyncio.get_running_loop()
        path = self._config.store_path
        store = await _with_room(lambda: SqliteStore(path, must_exist=bool(made)), stop)
        stopping = loop.create_task(stop.wait())
        # Who waits for room has a commit under way, which nothing else ends.
        stopping.add_done_callback(lambda _: store.stop_waiting())
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(store.close)
            servers = [await self._bind(address, undo) for address in self._addresses]
            api_socket = undo.enter_context(unix_listener(self._config.api_path))
            door = self._open_door(undo)
            storage = NativeStorage()
            undo.callback(storage.close)
            controller = Controller(
                store, storage, BootClock(), self._config.settings, random.SystemRandom()
            )
            try:
                await controller.start(made)
            except (TermEnded, StoreFailed) as error:
                if stop.is_set():
                    raise _Stopped from error
                if isinstance(error, StoreFailed):
                    raise
                raise TermFailed(f"the term ended before it began: {error}") from error
            if not made:
                identity = controller.table.installation
                await _with_room(lambda: make_mark(self._config.data, identity), stop)
            undo.pop_all()
        # A procedure that fails where nobody awaits it must not leave half a term in service.
        loop.set_exception_handler(lambda _, context: _unexpected(controller, context))
        doors = contextlib.AsyncExitStack()
        await self._open_links(controller, servers, doors)
        opening = loop.create_task(self._open_api(controller, api_socket, door, doors))
        ends: list[asyncio.Future[Any]] = [stopping, controller.failed]
        await asyncio.wait([opening, *ends], return_when=asyncio.FIRST_COMPLETED)
        if not controller.failed.done():
            await opening
            log.info("event=ready pid=%d term=%d", os.getpid(), controller.term)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if controller.failed.done() and not stop.is_set():
            raise TermFailed(f"the term has ended: {controller.failed.result()}")
        log.info("event=stopping")
        await doors.aclose()
        with contextlib.suppress(TermEnded):  # no room to say what the last flush has met
            await controller.stop()
        ended = storage.close()
        await store.close()
        log.info("event=stopped ended=%s", ended)
        return ended

    async def _bind(self, address: Address, undo: contextlib.AsyncExitStack) -> asyncio.Server:
        """Takes the address; agents are let in when the term serves."""
        server = await serve(address, decode_from_agent, self._on_link, start_serving=False)
        undo.callback(server.close)
        return server

    def _open_door(self, undo: contextlib.AsyncExitStack) -> tcp_api.TcpDoor | None:
        """Takes the API's TCP addresses, if there are any."""
        if not self._api_addresses:
            return None
        door = tcp_api.open_door(self._config, self._api_addresses)
        for listener in door.listeners:
            undo.callback(listener.close)
        return door

    def _on_link(self, link: Link[AgentMessage]) -> None:
        assert self._controller is not None, "agents come in when the term serves"
        task = asyncio.get_running_loop().create_task(self._controller.serve(link))
        self._links[task] = None
        task.add_done_callback(self._links.pop)

    async def _open_links(
        self,
        controller: Controller,
        servers: list[asyncio.Server],
        doors: contextlib.AsyncExitStack,
    ) -> None:
        self._controller = controller
        for server, address in zip(servers, self._addresses, strict=True):
            await server.start_serving()
            doors.callback(server.close)
            log.info("event=listening address=%s", address)

    async def _open_api(
        self,
        controller: Controller,
        listener: socket.socket,
        door: tcp_api.TcpDoor | None,
        doors: contextlib.AsyncExitStack,
    ) -> None:
        """Serves the API when it is ready to; agents are served meanwhile."""

        def prepared() -> HttpApi:
            from segue.controller.http import HttpApi  # noqa: PLC0415

            return HttpApi(controller, door)

        api = await asyncio.to_thread(prepared)
        api.begin(listener)
        for tcp in door.listeners if door is not None else []:
            host, port = tcp.getsockname()[:2]
            log.info("event=api_listening address=%s", Address(host=host, port=port))
        doors.push_async_callback(api.stop)


async def _with_room(do: Callable[[], _T], stop: asyncio.Event) -> _T:
    """Does it again until there is room for it; raises `_Stopped`."""
    full = False
    while not stop.is_set():
        try:
            done = do()
        except StoreFull as error:
            if not full:
                log.warning(
                    "event=store_full error=%r: its file system has no room; it is waited for",
                    str(error),
                )
            full = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ROOM_S):
                    await stop.wait()
        else:
            if full:
                log.warning("event=store_has_room")
            return done
    raise _Stopped


def _unexpected(controller: Controller, context: dict[str, Any]) -> None:
    """Ends the term, but for what one connection, or the lack of a descriptor for it, brought."""
    error = context.get("exception") or RuntimeError(context["message"])
    log.error("event=unexpected what=%r", context["message"], exc_info=error)
    if not context.keys() & {"transport", "protocol", "socket"}:
        controller.fail(error)


async def run_controller(config: ControllerConfig) -> None:
    """The whole life of a controller process; does not return when the term fails.

    The process then ends at once, whatever its threads are doing (exit status 1): they hold the
    fence's lock until they are gone.
    """
    try:
        if not await Server(config).run():
            os._exit(0)
    except TermFailed as error:
        log.critical("event=exit cause=%r", str(error))
        os._exit(1)
