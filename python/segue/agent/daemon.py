"""The agent process: a data plane, a session, and the link between session and controller.

Everything here runs on one event loop that wakes for the plane's eventfd, for the link, and for
the session's deadline; an idle agent wakes for its lease alone.  Host I/O never passes through
here: it is served by the data plane's own thread, which also ends the lease by itself.

An exception nobody expected ends the process: the incarnation is then gone, cleanly, and the
next start is a new one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
from typing import Any
from urllib.parse import quote

from segue import _native
from segue.agent.config import AgentConfig
from segue.agent.session import Phase, Session
from segue.agent.trace import Trace
from segue.controller.ports import LinkClosed
from segue.limits import allow_descriptors
from segue.wire.incarnation import Place
from segue.wire.link import Address, Link, connect
from segue.wire.messages import ControllerMessage, decode_from_controller

log = logging.getLogger("segue.agent")

SECOND_NS = 1_000_000_000
CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0
"""Between attempts to reach the controller: back at work within 2 s (promise P8)."""


OTHER_DESCRIPTORS = 512
"""Beside hosts': handshakes under way (256 at most), containers, the link."""


class AgentRefused(Exception):
    """The controller will never take this agent; its reason, in one sentence."""


class Agent:
    """One agent, from start to stop; `run` is its life."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config
        allow_descriptors(config.connections + OTHER_DESCRIPTORS)
        self._place = Place(config.name, config.controller)
        if not self._place.is_own:
            log.warning("event=place_taken name=%s: another agent of that name lives", config.name)
        incarnation = self._place.incarnation()
        timeout_ns = round(config.host_timeout_s * SECOND_NS)
        self._plane = _native.DataPlane(
            incarnation=incarnation,
            park_limit_bytes=config.park_limit_bytes,
            host_timeout_ns=timeout_ns or None,
            handshake_timeout_ns=round(config.handshake_timeout_s * SECOND_NS),
            connections_max=config.connections,
            disk_connections_max=config.disk_connections,
        )
        listens = [self._listen(Address.parse(text)) for text in config.listen]
        self._trace = Trace(config.name, incarnation) if log.isEnabledFor(logging.DEBUG) else None
        if self._trace is not None:
            self._plane.trace_io()
        self._session = Session(self._plane, config.name, incarnation, listens)
        self._link: Link[ControllerMessage] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns: int | None = None
        self._refused = ""
        """Why the last session was not welcomed."""
        log.info("event=started name=%s incarnation=%x", config.name, incarnation)
        for uri in listens:
            log.info("event=listening uri=%s", uri)

    def _listen(self, address: Address) -> str:
        """Serve NBD at `address`; its URI, without an export."""
        try:
            return self._listen_at(address)
        except OSError as error:
            raise OSError(error.errno, f"{address}: {error.strerror}") from None

    def _listen_at(self, address: Address) -> str:
        if address.path:
            self._plane.listen_unix(address.path)
            return f"nbd+unix:///?socket={quote(os.path.abspath(address.path))}"
        port = self._plane.listen_tcp(address.host, address.port)
        host = f"[{address.host}]" if ":" in address.host else address.host
        return f"nbd://{host}:{port}"

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; raises `AgentRefused`, or what nobody expected."""
        loop = asyncio.get_running_loop()
        end: asyncio.Future[None] = loop.create_future()

        def failed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
            log.error("event=failed what=%r", context["message"], exc_info=context.get("exception"))
            if not end.done():
                end.set_exception(context.get("exception") or RuntimeError(context["message"]))

        loop.set_exception_handler(failed)
        loop.add_reader(self._plane.fileno(), self._plane_events)
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        tasks: list[asyncio.Task[Any]] = [
            loop.create_task(self._links()),
            loop.create_task(stop.wait()),
        ]
        try:
            ends: list[asyncio.Future[Any]] = [*tasks, end]
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for finished in done:
                finished.result()
            log.info("event=stopping")
            await self._stop()
        finally:
            for task in tasks:
                task.cancel()
            loop.remove_reader(self._plane.fileno())

    async def _stop(self) -> None:
        """Let host I/O under way finish, while the controller still answers its faults."""
        drain_ns = round(self._config.drain_s * SECOND_NS)
        await asyncio.to_thread(self._plane.shutdown, drain_ns)
        # What could not be flushed at the end is said before the link goes.
        self._plane_events()
        if self._link is not None:
            self._link.close("the agent stops")

    # The link ---------------------------------------------------------------------------------

    async def _links(self) -> None:
        """One link after another, for ever."""
        address = Address.parse(self._config.controller)
        pause_s = FIRST_PAUSE_S
        said = ""
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    self._link = await connect(address, decode_from_controller)
            except OSError as error:  # TimeoutError is one
                reason = str(error) or "no answer"
                if reason != said:
                    log.warning(
                        "event=controller_unreachable address=%s reason=%r", address, reason
                    )
                said = reason
            else:
                said = ""
                if await self._converse(self._link):
                    pause_s = FIRST_PAUSE_S
            # Jitter: agents cut off together must not come back in step.
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _converse(self, link: Link[ControllerMessage]) -> bool:
        """One session; True if the controller welcomed it.  Raises `AgentRefused`."""
        session = self._session
        session.connected(_native.boottime_ns())
        welcomed = False
        try:
            while True:
                self._flush()
                for message in await link.receive_batch():
                    if self._trace is not None:
                        self._trace.received(message)
                    session.handle(message, _native.boottime_ns())
                if not welcomed and session.phase is Phase.UP:
                    welcomed = True
                    log.info("event=session term=%d session=%d", session.newest[0], session.session)
        except LinkClosed:
            reason = session.hang_up or link.reason
            if welcomed or reason != self._refused:
                log.warning("event=link_closed reason=%r", reason)
            # One that waits for another agent of its name to go is refused every second.
            self._refused = "" if welcomed else reason
        session.disconnected(_native.boottime_ns())
        self._link = None
        self._arm()
        if session.final:
            raise AgentRefused(session.hang_up)
        return welcomed

    def _plane_events(self) -> None:
        now = _native.boottime_ns()
        for event in self._plane.events():
            if event[0] == "lease_ended":
                log.warning("event=lease_ended")
            if self._trace is not None:
                self._trace.told(event)
            self._session.plane_event(event, now)
        self._flush()

    def _flush(self) -> None:
        """Send what the session has to say, hang up if it wants that, set its timer."""
        messages = self._session.poll_messages()
        if self._link is not None:
            for message in messages:
                self._link.send(message)
            if self._session.hang_up is not None:
                self._link.close(self._session.hang_up)
        self._arm()

    def _arm(self) -> None:
        deadline_ns = self._session.deadline()
        if deadline_ns == self._timer_ns:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_ns = deadline_ns
        if deadline_ns is not None:
            left_s = max(0, deadline_ns - _native.boottime_ns()) / SECOND_NS
            self._timer = asyncio.get_running_loop().call_later(left_s, self._tick)

    def _tick(self) -> None:
        self._timer_ns = None
        self._session.tick(_native.boottime_ns())
        self._flush()


async def run_agent(config: AgentConfig) -> None:
    """The whole life of an agent process; raises `AgentRefused`, ValueError, OSError."""
    await Agent(config).run()
