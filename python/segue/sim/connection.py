"""A simulated NBD connection: ordered each way, cut at any moment, with requests and answers on it.

Requests are read by the agent in order while its disk takes more; answers come back in the order
the agent gives them.  When the connection is cut, or the agent dies, each side learns of it in its
own time, and what is under way is lost.  A request's `HostIo` is settled when nothing of it can
take effect any more, whoever knows of that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from segue.sim.agent import Agent
from segue.sim.host_io import HostIo
from segue.sim.loop import SECOND, US, Process, World


@dataclass(slots=True)
class Opened:
    """What opening an export gave."""

    errno: int
    disk: int
    size_bytes: int


class Connection:
    """One NBD connection of a host at an agent."""

    def __init__(self, world: World, host: Process, agent: Agent) -> None:
        self.world = world
        self.host = host
        self.agent = agent
        self.lost = False
        """The host knows that it is over."""
        self.cut_off = False
        """Nothing passes any more."""
        self.disk: int | None = None
        self.pending: dict[HostIo, asyncio.Future[tuple[int, Any] | None]] = {}
        self._sent: dict[HostIo, None] = {}
        """Requests that the agent has not answered."""
        self._queue: deque[HostIo] = deque()
        self._to_agent_ns = 0
        self._to_host_ns = 0
        self._opening: asyncio.Future[Opened | None] | None = None
        agent.process.on_kill.append(self._agent_died)

    async def open(self, name: str) -> Opened | None:
        """Asks for an export; None if the connection ended first."""
        self._opening = asyncio.get_running_loop().create_future()
        plane = self.agent.plane
        await asyncio.sleep(self._delay_ns() / SECOND)
        if not self.lost:
            self.agent.process.post(plane.want_export, name, self._export_answer)
        return await self._opening

    def _export_answer(self, errno: int, disk: int, size: int, _block: int, _ro: bool) -> None:
        if self.cut_off:
            if not errno:
                self.agent.plane.pass_over(disk)
            return
        if not errno:
            self.disk = disk
            self.agent.plane.use(disk)
        self.world.call_in(
            self._delay_ns(), self.host.post, self._opened, Opened(errno, disk, size)
        )

    def _opened(self, opened: Opened | None) -> None:
        if self._opening is not None and not self._opening.done():
            self._opening.set_result(opened)

    async def request(self, io: HostIo) -> tuple[int, Any] | None:
        """Sends a request; its answer (errno, payload), or None if the connection ended first."""
        if self.lost:
            io.finished = True
            io.settle()
            return None
        self.world.log("io", self.host.name, io.op, io.disk, f"{io.first}+{io.count}", io.flags)
        answer: asyncio.Future[tuple[int, Any] | None]
        answer = asyncio.get_running_loop().create_future()
        self.pending[io] = answer
        self._sent[io] = None
        io.replied = lambda errno, payload: self._reply(io, errno, payload)
        self._to_agent_ns = max(self._to_agent_ns, self.world.now_ns + self._delay_ns())
        self.world.call_in(self._to_agent_ns - self.world.now_ns, self._arrive, io)
        return await answer

    # In the agent --------------------------------------------------------------------------------

    def _arrive(self, io: HostIo) -> None:
        if self.cut_off or not self.agent.process.alive:
            io.finished = True
            io.settle()
        else:
            self._queue.append(io)
            self.agent.process.post(self._read)

    def _read(self) -> None:
        """Takes requests in while the disk may park more."""
        plane = self.agent.plane
        while self._queue and not self.cut_off:
            if not plane.accepts(self._queue[0].disk, self._read):
                self.world.log("stop-reading", self.agent.process.name)
                return
            plane.host_io(self._queue.popleft())

    def _reply(self, io: HostIo, errno: int, payload: Any) -> None:
        self._sent.pop(io, None)
        if self.cut_off:
            return
        self._to_host_ns = max(self._to_host_ns, self.world.now_ns + self._delay_ns())
        self.world.call_in(
            self._to_host_ns - self.world.now_ns, self._reply_arrives, io, errno, payload
        )

    def _reply_arrives(self, io: HostIo, errno: int, payload: Any) -> None:
        if not self.lost:
            self.host.post(self._answered, io, (errno, payload))

    def _answered(self, io: HostIo, answer: tuple[int, Any]) -> None:
        self.world.log("io-done", self.host.name, io.op, f"{io.first}+{io.count}", answer[0])
        waiting = self.pending.pop(io, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    # Its end -------------------------------------------------------------------------------------

    def cut(self) -> None:
        """Ends it: both sides learn of it, each in its time."""
        if self.cut_off:
            return
        self.cut_off = True
        self.world.log("host-cut", self.host.name, self.agent.process.name)
        if self.agent.process.alive:
            self.world.call_in(self._delay_ns() * 5, self.agent.process.post, self._agent_sees_end)
        self.world.call_in(self._delay_ns() * 5, self._host_sees_end)

    def _agent_sees_end(self) -> None:
        plane = self.agent.plane
        self._queue.clear()
        for io in self._sent:
            self._drop(io)
            plane.host_gone(io)
        if self.disk is not None:
            plane.leave(self.disk)
            self.disk = None

    def _drop(self, io: HostIo) -> None:
        """It has not reached the engine, and will not."""
        if io.token == 0:
            io.finished = True
            io.settle()

    def _agent_died(self) -> None:
        self.cut_off = True
        for io in self._sent:
            self._drop(io)
        self.world.call_in(self._delay_ns() * 3, self._host_sees_end)

    def _host_sees_end(self) -> None:
        if not self.lost:
            self.lost = True
            self.host.post(self._fail_all)

    def _fail_all(self) -> None:
        self._opened(None)
        pending, self.pending = self.pending, {}
        for answer in pending.values():
            if not answer.done():
                answer.set_result(None)

    def _delay_ns(self) -> int:
        return 5 * US + int(60 * US * self.world.rng.random())
