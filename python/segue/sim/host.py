"""Simulated hosts: random I/O over simulated NBD connections, judged by the oracle.

A `Host` keeps some I/Os outstanding on one disk through one agent or another.  When its connection
ends it comes back, under the name that its disk has by then, and sends an unanswered write again
only when the old attempt has provably ended (what a client of an NBD server must do); else it gives
the write up, and the oracle counts it as possible until its attempt is over.  When its disk is gone
it gives up: whatever is called so by then is another disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from segue.sim.agent import Machine
from segue.sim.connection import Connection, Opened
from segue.sim.containers import SECTOR_BYTES
from segue.sim.host_io import FAST_ZERO, FUA, NO_HOLE, REQ_ONE, HostIo
from segue.sim.loop import MS, SECOND, World
from segue.sim.oracle import Disk, Ticket, Write, WrongRead

ENOENT, EIO, EINVAL, ENOSPC, ESHUTDOWN = 2, 5, 22, 28, 108
STATUS_ZERO = 2
WEIGHTS = {"read": 34, "write": 38, "zero": 7, "trim": 8, "flush": 7, "status": 6}
"""How often a host issues what."""
LOST = -1
"""Instead of an errno: the connection ended first, and the I/O was given up."""


class Watch:
    """What hosts tell the scenario; counts of I/O by kind and end."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.errors_expected = False
        self.full_expected = False
        self.lingering: list[tuple[Disk, Write]] = []
        """Unacknowledged discards: a fault of them may still wait at a controller."""
        self.disks: list[Disk] = []
        """The oracles of all disks that are, were, or may be."""

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
        oracle: Disk,
        segment_sectors: int,
        machines: list[Machine],
        hot: list[int],
        depth: int,
        watch: Watch,
    ) -> None:
        self.world = world
        self.name = name
        self.oracle = oracle
        self.segment_sectors = segment_sectors
        self.block_sectors = oracle.block_sectors
        self.machines = machines
        self.home = machines[0]
        self.whole_blocks = False
        """Issues whole blocks only: what hosts of a disk must do that several agents serve on
        containers with a write unit (agents merge blocks, each for itself)."""
        self.watch = watch
        self.process = world.process(name)
        self.rng = world.rng
        self.weights = dict(WEIGHTS)
        self.gives_up = 0.4
        """How often it gives a write up when its connection ends, instead of sending it again."""
        self.left = 0
        """I/Os still to issue."""
        self.think_ns = 0
        self.busy = 0
        self.connection: Connection | None = None
        self.gone = False
        """It has found its disk gone."""
        self.disk = 0
        self.sectors = oracle.sectors
        """The disk's size as it was said when the connection was opened."""
        self.hot = hot
        self._work = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        for _ in range(depth):
            self.process.run(self._worker())

    def ask(self, ios: int, think_ns: int) -> None:
        """Lets it issue so many I/Os more."""
        self.left += ios
        self.think_ns = think_ns
        self.process.post(self._work.set)

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
            if not self.left:
                self._work.clear()
                await self._work.wait()
                continue
            self.left -= 1
            self.busy += 1
            await self._one()
            self.busy -= 1
            await asyncio.sleep(self.rng.random() * max(self.think_ns, MS) / SECOND)

    # Connecting ----------------------------------------------------------------------------------

    async def _connected(self) -> Connection | None:
        """None: its disk is gone."""
        while self.connection is None or self.connection.lost:
            if self.gone:
                return None
            if self._connecting is None or self._connecting.done():
                self._connecting = asyncio.get_running_loop().create_task(self._connect())
            await asyncio.wait([self._connecting])
        return self.connection

    async def _connect(self) -> None:
        """Returns when it is connected, or its disk is gone."""
        while not self.gone:
            machine = self.home if self.rng.random() < 0.8 else self.rng.choice(self.machines)
            agent = machine.agent
            if agent is not None and agent.process.alive:
                connection = Connection(self.world, self.process, agent)
                self.connection = connection
                begun_ns = self.world.now_ns
                names = self.oracle.possible_names()
                name = names[0] if len(names) == 1 else self.rng.choice(names)
                opened = await connection.open(name)
                if opened is not None and self._is_its_own(name, begun_ns, opened):
                    self.sectors = opened.size_bytes // SECTOR_BYTES
                    if self.sectors not in self.oracle.sizes_since(begun_ns):
                        self.world.blame(f"{self.name} is told of {self.sectors} sectors")
                    self.disk = opened.disk
                    self.watch.count("opened")
                    return
                if opened is not None:
                    connection.cut()
                self.connection = None
            await asyncio.sleep(self.rng.uniform(0.002, 0.05))

    def _is_its_own(self, name: str, begun_ns: int, opened: Opened) -> bool:
        """Whether what was opened is its disk; sees to it that the answer was a true one."""
        oracle = self.oracle
        if opened.errno:
            if opened.errno == ENOENT and oracle.surely_called(name, begun_ns):
                self.world.blame(f"rule 3: {self.name} is told that there is no disk {name}")
        elif not any(
            disk.number in (0, opened.disk) and disk.was_called(name, begun_ns)
            for disk in self.watch.disks
        ):
            self.world.blame(f"rule 3: {self.name} gets disk {opened.disk} as {name}")
        if not opened.errno and opened.disk == oracle.number:
            return True
        if not opened.errno:
            self.watch.count("opened another disk")
        if oracle.gone_ns is not None and oracle.gone_ns < begun_ns:
            self.watch.count("found its disk gone")
            self.gone, self.left = True, 0
        return False

    async def read_all(self) -> None:
        """Reads the whole disk once."""
        at, step = 0, self.segment_sectors // 2
        while at < self.oracle.sectors:
            count = min(step, self.oracle.sectors - at)
            if await self._ask("read", at, count, 0) == 0:
                at += count
        self.cut()

    # One I/O -------------------------------------------------------------------------------------

    def do(self, op: str, first: int = 0, count: int = 0, flags: int = 0) -> asyncio.Task[int]:
        """Issues one I/O now; the task's result is 0, an errno, or `LOST`."""
        change = op in ("write", "zero", "trim")
        io = self._change if change else self._ask
        return self.process.run(io(op, first, count, flags))

    def trim_segment(self, segment: int) -> None:
        """Discards a whole segment, beside whatever it does."""
        first = segment * self.segment_sectors
        count = min(self.segment_sectors, self.sectors - first)
        if count > 0:
            self._beside("trim", first, count)

    def burst(self, segment: int) -> None:
        """Small reads and writes of one segment, many at once, beside whatever it does."""
        first = segment * self.segment_sectors
        length = min(self.segment_sectors, self.sectors - first)
        if length <= 0:
            return
        for op in ("write", "read", "read", "write", "read", "read"):
            at = self.rng.randrange(length) // self.block_sectors * self.block_sectors
            self._beside(op, first + at, min(self.block_sectors, length - at))

    def _beside(self, op: str, first: int, count: int) -> None:
        """Issues one I/O beside whatever it does."""

        def ended(_: asyncio.Task[int]) -> None:
            self.busy -= 1

        self.busy += 1
        self.do(op, first, count).add_done_callback(ended)

    async def _one(self) -> None:
        op = self.rng.choices(list(self.weights), list(self.weights.values()))[0]
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
        rng, sectors, segment = self.rng, self.sectors, self.segment_sectors
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

    async def _ask(self, op: str, first: int, count: int, flags: int) -> int:
        """A read, flush or block status."""
        connection = await self._connected()
        if connection is None:
            return LOST
        ticket = self.oracle.begin(self.world.now_ns, first, count)
        answer = await connection.request(self._io(op, first, count, flags))
        now = self.world.now_ns
        if answer is None or ticket.begin_ns <= self.oracle.power_ns:
            self.watch.count("lost")
            self.oracle.give_up(ticket)
            return LOST
        errno, payload = answer
        if errno:
            self.oracle.give_up(ticket)
            return self._failed(op, errno, connection, ticket)
        self.watch.count(op)
        self._within(op, ticket.begin_ns, first + count)
        try:
            if op == "read":
                self.oracle.read(now, ticket, payload)
            elif op == "flush":
                self.oracle.flushed(now, ticket)
            else:
                self._status(now, ticket, payload)
        except WrongRead as error:
            self.world.blame(f"rule 1: {self.name}: {error}")
        return 0

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

    async def _change(self, op: str, first: int, count: int, flags: int) -> int:
        """A write of some kind, with its attempts."""
        connection = await self._connected()
        if connection is None:
            return LOST
        base = self.world.next_base(count) if op == "write" else 0
        fua = bool(flags & FUA) and op != "trim"
        write = self.oracle.issue_write(self.world.now_ns, first, count, base, fua)
        while True:
            io = self._io(op, first, count, flags, base)
            over = asyncio.get_running_loop().create_future()
            io.over = self._over(over)
            answer = await connection.request(io)
            if write.issued_ns <= self.oracle.power_ns:
                return LOST  # everything went dark: whatever came of it, it has ended
            if answer is not None:
                return self._change_answered(op, write, io, answer[0], connection)
            self.watch.count("lost")
            if self.rng.random() < self.gives_up or self._discards(io):
                self.watch.count("given up")
                self._give_up(write, io)
                return LOST
            await over
            connection = await self._connected()
            if write.issued_ns <= self.oracle.power_ns:
                return LOST
            if connection is None:
                self._give_up(write, io)
                return LOST
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
        ends = (size.sectors for size in self.oracle.sizes)
        return io.count >= self.segment_sectors or io.first + io.count in ends

    def _give_up(self, write: Write, io: HostIo) -> None:
        """Nobody will say what became of it; it has ended when its attempt is over."""
        discards = self._discards(io)
        if discards:
            self.watch.lingering.append((self.oracle, write))

        def over() -> None:
            now_ns = self.world.now_ns
            if discards:
                write.over_ns = now_ns
            else:
                self.oracle.end(now_ns, write)

        if io.over is None:
            over()
        else:
            io.over = over
        if discards and self.rng.random() < 0.5:
            self._reuse(io)

    def _reuse(self, io: HostIo) -> None:
        """Writes into what it has given up discarding, as a filesystem may at once."""
        blocks = self.block_sectors
        at = (io.first + self.rng.randrange(io.count)) // blocks * blocks
        if at < self.sectors:
            self._beside("write", at, min(blocks, self.sectors - at))

    def _change_answered(
        self, op: str, write: Write, io: HostIo, errno: int, connection: Connection
    ) -> int:
        if errno:
            self._give_up(write, io)
            return self._failed(op, errno, connection, write)
        self.watch.count(op)
        self._within(op, write.issued_ns, write.first + write.count)
        if not io.finished:
            self.world.blame(f"{op} acknowledged while pieces of it run")
        if op == "trim":
            self.oracle.end(self.world.now_ns, write)
        else:
            self.oracle.acknowledge(self.world.now_ns, write)
        return 0

    def _within(self, op: str, begin_ns: int, end: int) -> None:
        """What was done must lie within the disk, and that must have been there."""
        gone_ns = self.oracle.gone_ns
        if gone_ns is not None and gone_ns < begin_ns and op not in ("flush", "trim"):
            self.world.blame(f"rule 3: {self.name}: {op} was done of a disk that is deleted")
        if end > max(self.oracle.sizes_since(begin_ns)):
            self.world.blame(f"{self.name}: {op} up to sector {end} was done beyond the end")

    def _failed(self, op: str, errno: int, connection: Connection, io: Ticket | Write) -> int:
        self.watch.count(f"errno {errno}")
        self.world.log("host-error", self.name, op, errno)
        begin_ns = io.begin_ns if isinstance(io, Ticket) else io.issued_ns
        sizes = self.oracle.sizes_since(begin_ns)
        agent = connection.agent
        if agent.process.now_ns() >= agent.lease_until_ns:
            # One that is cut off refuses by the size it knows, lease or not.
            sizes = [size.sectors for size in self.oracle.sizes]
        if errno in (EINVAL, ENOSPC) and io.first + io.count > min(sizes):
            # The client asks again for the size when it connects again.
            self.watch.count("beyond the end")
            connection.cut()
            return errno
        if self.watch.bad_errno(errno):
            self.world.blame(f"{self.name}: {op} got errno {errno} and nothing explains it")
        if errno == ESHUTDOWN:
            connection.cut()
        return errno
