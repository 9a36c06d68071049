"""Simulated hosts: random I/O over simulated NBD connections, judged by the oracle.

A `Connection` stands for one NBD connection: ordered each way, cut at any moment, with requests
and answers in flight.  A `Host` keeps some I/Os outstanding on one disk through one agent or
another.  When its connection ends it comes back, and sends an unanswered write again only when the
old attempt has provably ended (what a client of an NBD server must do); else it gives the write up,
and the oracle counts it as possible until its attempt is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from segue.sim.agent import Agent, Machine
from segue.sim.containers import SECTOR_BYTES
from segue.sim.loop import MS, SECOND, US, Process, World
from segue.sim.oracle import Disk, Ticket, Write, WrongRead
from segue.sim.plane import FAST_ZERO, FUA, NO_HOLE, REQ_ONE, HostIo

EIO, ENOSPC, ESHUTDOWN = 5, 28, 108
STATUS_ZERO = 2


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


class Watch:
    """What hosts tell the scenario; counts of I/O by kind and end."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.errors_expected = False
        self.full_expected = False
        self.lingering: list[tuple[Disk, Write]] = []
        """Unacknowledged discards: a fault of them may still wait at a controller."""

    def count(self, what: str) -> None:
        """One more of these."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def settle(self, now: int) -> None:
        """Everything is idle: what lingers has ended."""
        for oracle, write in self.lingering:
            oracle.end(now, write)
        self.lingering.clear()

    def bad_errno(self, errno: int) -> bool:
        """Whether nothing in this world explains that errno."""
        if errno == EIO:
            return not self.errors_expected
        if errno == ENOSPC:
            return not self.full_expected
        return errno != ESHUTDOWN


class Host:
    """One host with some I/Os outstanding on one disk."""

    def __init__(
        self,
        world: World,
        name: str,
        disk_name: str,
        oracle: Disk,
        segment_sectors: int,
        block_sectors: int,
        machines: list[Machine],
        hot: list[int],
        depth: int,
        watch: Watch,
    ) -> None:
        self.world = world
        self.name = name
        self.disk_name = disk_name
        self.oracle = oracle
        self.segment_sectors = segment_sectors
        self.block_sectors = block_sectors
        self.machines = machines
        self.home = machines[0]
        self.whole_blocks = False
        """Issues whole blocks only: what hosts of a disk must do that several agents serve on
        containers with a write unit (agents merge blocks, each for itself)."""
        self.watch = watch
        self.process = world.process(name)
        self.rng = world.rng
        self.left = 0
        """I/Os still to issue."""
        self.think_ns = 0
        self.busy = 0
        self.connection: Connection | None = None
        self.disk = 0
        self.hot = hot
        self._connecting: asyncio.Task[None] | None = None
        for _ in range(depth):
            self.process.run(self._worker())

    def ask(self, ios: int, think_ns: int) -> None:
        """Lets it issue so many I/Os more."""
        self.left += ios
        self.think_ns = think_ns

    @property
    def idle(self) -> bool:
        """Nothing to issue and nothing outstanding."""
        return not self.left and not self.busy

    def cut(self) -> None:
        """Its connection ends."""
        if self.connection is not None:
            self.connection.cut()

    async def _worker(self) -> None:
        while True:
            if self.left:
                self.left -= 1
                self.busy += 1
                await self._one()
                self.busy -= 1
            await asyncio.sleep(self.rng.random() * max(self.think_ns, MS) / SECOND)

    # Connecting ----------------------------------------------------------------------------------

    async def _connected(self) -> Connection:
        while self.connection is None or self.connection.lost:
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.get_running_loop().create_task(self._connect())
            await asyncio.wait([self._connecting])
        return self.connection

    async def _connect(self) -> None:
        while True:
            machine = self.home if self.rng.random() < 0.8 else self.rng.choice(self.machines)
            agent = machine.agent
            if agent is not None and agent.process.alive:
                connection = Connection(self.world, self.process, agent)
                self.connection = connection
                opened = await connection.open(self.disk_name)
                if opened is not None and not opened.errno:
                    assert opened.size_bytes == self.oracle.sectors * SECTOR_BYTES
                    self.disk = opened.disk
                    self.watch.count("opened")
                    return
                if opened is not None:
                    connection.cut()
                self.connection = None
            await asyncio.sleep(self.rng.uniform(0.002, 0.05))

    async def read_all(self) -> None:
        """Reads the whole disk once."""
        at, step = 0, self.segment_sectors // 2
        while at < self.oracle.sectors:
            count = min(step, self.oracle.sectors - at)
            if await self._ask("read", at, count, 0):
                at += count
        self.cut()

    # One I/O -------------------------------------------------------------------------------------

    async def _one(self) -> None:
        op = self.rng.choices(
            ("read", "write", "zero", "trim", "flush", "status"), (34, 38, 7, 8, 7, 6)
        )[0]
        first, count = (0, 0) if op == "flush" else self._place(op)
        flags = self._flags(op)
        if op in ("write", "zero", "trim"):
            await self._change(op, first, count, flags)
        else:
            await self._ask(op, first, count, flags)

    def _flags(self, op: str) -> int:
        rng = self.rng
        flags = 0
        if op in ("write", "zero", "trim") and rng.random() < 0.2:
            flags |= FUA
        if op == "zero":
            flags |= (NO_HOLE if rng.random() < 0.4 else 0) | (
                FAST_ZERO if rng.random() < 0.2 else 0
            )
        if op == "status" and rng.random() < 0.3:
            flags |= REQ_ONE
        return flags

    def _place(self, op: str) -> tuple[int, int]:
        """Where: mostly near hot spots, mostly small; now and then whole segments."""
        rng, sectors, segment = self.rng, self.oracle.sectors, self.segment_sectors
        blocks = self.block_sectors
        whole = 0.5 if op in ("trim", "zero") else 0.06
        if rng.random() < whole:
            first = rng.randrange(sectors) // segment * segment
            count = min(segment * rng.choice((1, 1, 1, 2, 3)), sectors - first)
            if rng.random() < 0.2 and count > 2 and not self.whole_blocks:
                first, count = first + 1, count - 1
            return first, count
        spot = rng.choice(self.hot) if rng.random() < 0.7 else rng.randrange(sectors)
        first = min(sectors - 1, max(0, spot + rng.randint(-24, 24)))
        count = rng.choice((1, 1, 2, 3, 7, 8, 8, 16, 24))
        if self.whole_blocks or rng.random() < 0.5:
            first -= first % blocks
            count += -count % blocks
        return first, min(count, sectors - first)

    def _io(self, op: str, first: int, count: int, flags: int, base: int = 0) -> HostIo:
        tokens = range(base, base + count) if op == "write" else ()
        return HostIo(op, self.disk, first, count, flags, tokens, lambda errno, payload: None)

    async def _ask(self, op: str, first: int, count: int, flags: int) -> bool:
        """A read, flush or block status; False if it failed."""
        connection = await self._connected()
        ticket = self.oracle.begin(self.world.now_ns, first, count)
        answer = await connection.request(self._io(op, first, count, flags))
        now = self.world.now_ns
        if answer is None or ticket.begin_ns <= self.oracle.power_ns:
            self.watch.count("lost")
            self.oracle.give_up(ticket)
            return False
        errno, payload = answer
        if errno:
            self.oracle.give_up(ticket)
            self._failed(op, errno, connection)
            return False
        self.watch.count(op)
        try:
            if op == "read":
                self.oracle.read(now, ticket, payload)
            elif op == "flush":
                self.oracle.flushed(now, ticket)
            else:
                self._status(now, ticket, payload)
        except WrongRead as error:
            self.world.blame(f"rule 1: {self.name}: {error}")
        return True

    def _status(self, now: int, ticket: Ticket, extents: list[tuple[int, int]]) -> None:
        """Extents said to be zero must read so."""
        self.oracle.give_up(ticket)
        sector, end = ticket.first, ticket.first + ticket.count
        if not extents:
            self.world.blame("block status without an extent")
        for length, flags in extents:
            count = min(length // SECTOR_BYTES, end - sector)
            if length <= 0 or length % SECTOR_BYTES:
                self.world.blame(f"block status extent of {length} bytes")
            if flags & STATUS_ZERO:
                part = self.oracle.begin(ticket.begin_ns, sector, count)
                self.oracle.read(now, part, [0] * count)
            sector += count

    async def _change(self, op: str, first: int, count: int, flags: int) -> None:
        """A write of some kind, with its attempts."""
        connection = await self._connected()
        base = self.world.next_base(count) if op == "write" else 0
        fua = bool(flags & FUA) and op != "trim"
        write = self.oracle.issue_write(self.world.now_ns, first, count, base, fua)
        while True:
            io = self._io(op, first, count, flags, base)
            over = asyncio.get_running_loop().create_future()
            io.over = self._over(over)
            answer = await connection.request(io)
            if write.issued_ns <= self.oracle.power_ns:
                return None  # everything went dark: whatever came of it, it has ended
            if answer is not None:
                return self._change_answered(op, write, io, answer, connection)
            self.watch.count("lost")
            if self.rng.random() < 0.4 or self._discards(io):
                self.watch.count("given up")
                return self._give_up(write, io)
            await over
            connection = await self._connected()
            if write.issued_ns <= self.oracle.power_ns:
                return None
            self.watch.count("sent again")

    def _over(self, over: asyncio.Future[None]) -> Callable[[], None]:
        def finish() -> None:
            if not over.done():
                over.set_result(None)

        return lambda: self.process.post(finish)

    def _discards(self, io: HostIo) -> bool:
        """Whether the controller itself may carry it out, seconds after the agent forgot it."""
        if io.op == "write" or (io.op == "zero" and io.flags & NO_HOLE):
            return False
        return io.count >= self.segment_sectors or io.first + io.count == self.oracle.sectors

    def _give_up(self, write: Write, io: HostIo) -> None:
        """Nobody will say what became of it; it has ended when its attempt is over."""
        if self._discards(io):
            self.watch.lingering.append((self.oracle, write))
        elif io.over is None:
            self.oracle.end(self.world.now_ns, write)
        else:
            io.over = lambda: self.oracle.end(self.world.now_ns, write)

    def _change_answered(
        self, op: str, write: Write, io: HostIo, answer: tuple[int, Any], connection: Connection
    ) -> None:
        errno, _ = answer
        if errno:
            self._give_up(write, io)
            return self._failed(op, errno, connection)
        self.watch.count(op)
        if not io.finished:
            self.world.blame(f"{op} acknowledged while pieces of it run")
        if op == "trim":
            self.oracle.end(self.world.now_ns, write)
        else:
            self.oracle.acknowledge(self.world.now_ns, write)
        return None

    def _failed(self, op: str, errno: int, connection: Connection) -> None:
        self.watch.count(f"errno {errno}")
        self.world.log("host-error", self.name, op, errno)
        if self.watch.bad_errno(errno):
            self.world.blame(f"{self.name}: {op} got errno {errno} and nothing explains it")
        if errno == ESHUTDOWN:
            connection.cut()
