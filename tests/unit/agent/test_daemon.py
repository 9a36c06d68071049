"""The agent's process around its session: links, timers, the plane's eventfd, its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segue.agent import daemon
from segue.agent.config import AgentConfig
from segue.agent.daemon import Agent, AgentRefused
from segue.wire.link import Address, Link, serve
from segue.wire.messages import (
    AgentMessage,
    GetEntry,
    Hello,
    Lease,
    LeaseRequest,
    OpenExport,
    Refused,
    Welcome,
    decode_from_agent,
)

MS = 1_000_000


class FakePlane:
    """A data plane without hosts: lists no faults, keeps what it is told."""

    def __init__(self, **_: Any) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK)
        self._events: list[tuple[Any, ...]] = []
        self.delivered: list[Any] = []
        self.leases: list[int] = []
        self.stopped = False

    def tell(self, *event: Any) -> None:
        self._events.append(event)
        os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        return self._fd

    def events(self) -> list[tuple[Any, ...]]:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        events, self._events = self._events, []
        return events

    def list_faults(self) -> None:
        self.tell("faults", [], [])

    def deliver(self, message: Any, /) -> None:
        self.delivered.append(message)
        self.tell("answer", message.command, 0, 0, [], False)

    def set_lease(self, until_ns: int, /) -> None:
        self.leases.append(until_ns)

    def listen_unix(self, path: str) -> None:
        pass

    def shutdown(self, drain_ns: int) -> None:
        self.stopped = True


class World:
    """An agent in this process, and the controller's end of its links."""

    def __init__(self, folder: Path) -> None:
        self.address = Address(path=str(folder / "c"))
        self.links: asyncio.Queue[Link[AgentMessage]] = asyncio.Queue()
        config = AgentConfig("one", str(self.address), [f"unix://{folder}/nbd"])
        self.agent = Agent(config)
        self.plane: Any = self.agent._plane
        self.life = asyncio.get_running_loop().create_task(self.agent.run())
        self.server: asyncio.Server | None = None

    async def listen(self) -> None:
        self.server = await serve(self.address, decode_from_agent, self.links.put_nowait)

    async def session(self) -> tuple[Link[AgentMessage], Hello]:
        """The next link, welcomed, with its first lease request taken."""
        link = await self.links.get()
        hello = await link.receive()
        assert isinstance(hello, Hello)
        link.send(Welcome(1, 1, 1, b"i" * 16, False))
        return link, hello


def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, body: Callable[[World], Awaitable[None]]
) -> None:
    native = SimpleNamespace(
        DataPlane=FakePlane, boottime_ns=lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    )
    monkeypatch.setattr(daemon, "_native", native)

    async def main() -> None:
        async with asyncio.timeout(30):
            world = World(folder)
            await body(world)
            world.life.cancel()
            if world.server is not None:
                world.server.close()

    asyncio.run(main())


def test_it_waits_for_a_controller_and_says_hello(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(world: World) -> None:
        await asyncio.sleep(0)
        await world.listen()
        link, hello = await world.session()
        assert hello.listens == [f"nbd+unix:///?socket={tmp_path}/nbd"]
        assert isinstance(await link.receive(), LeaseRequest)

    run(tmp_path, monkeypatch, body)


def test_it_comes_back_after_the_link_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(world: World) -> None:
        await world.listen()
        link, first = await world.session()
        link.close()
        _, second = await world.session()
        assert second.incarnation == first.incarnation
        assert second.term == 1

    run(tmp_path, monkeypatch, body)


def test_the_lease_is_asked_for_again_by_the_agents_own_timer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(world: World) -> None:
        await world.listen()
        link, _ = await world.session()
        asked = []
        for _ in range(3):
            request = await link.receive()
            assert isinstance(request, LeaseRequest)
            asked.append(request.sent_ns)
            link.send(Lease(request.sent_ns, 900 * MS, 0))
        assert all(later - earlier >= 300 * MS for earlier, later in itertools.pairwise(asked))
        assert world.plane.leases == [sent + 900 * MS for sent in asked[:2]]

    run(tmp_path, monkeypatch, body)


def test_commands_go_to_the_plane_and_its_events_to_the_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(world: World) -> None:
        await world.listen()
        link, _ = await world.session()
        await link.receive()
        link.send(GetEntry(5, 1, 0, 1))
        answer: Any = await link.receive()
        assert answer.command == 5
        assert world.plane.delivered == [GetEntry(5, 1, 0, 1)]
        world.plane.tell("want_export", 9, "disk")
        assert await link.receive() == OpenExport(1, "disk")

    run(tmp_path, monkeypatch, body)


def test_a_final_refusal_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(world: World) -> None:
        await world.listen()
        link = await world.links.get()
        await link.receive()
        link.send(Refused("another agent has this name", True))
        link.close()
        with pytest.raises(AgentRefused, match="another agent has this name"):
            await world.life

    run(tmp_path, monkeypatch, body)


def test_sigterm_stops_the_plane_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(world: World) -> None:
        await world.listen()
        await world.session()
        os.kill(os.getpid(), signal.SIGTERM)
        await world.life
        assert world.plane.stopped

    run(tmp_path, monkeypatch, body)


def test_an_exception_in_a_callback_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(world: World) -> None:
        await world.listen()
        await world.session()
        world.plane.tell("answer", "too", "short")
        with pytest.raises(ValueError, match="not enough values"):
            await world.life

    run(tmp_path, monkeypatch, body)
