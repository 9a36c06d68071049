"""The simulated data plane: the real mapping engine, carried out on simulated containers.

`Plane` has the methods and events of ``segue._native.DataPlane`` that a session uses, with the
real `Engine` inside: what the data thread does in Rust (take effects in order, do them, give pieces
back, open containers before a table that names them) is done here on `Medium`s.  Between the
session and the engine lies a queue each way, and each item takes its own time in it, in order.

What must never be here: a decision about a table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from segue import _native
from segue.sim.containers import EIO, ENOENT, SECTOR_BYTES, Holder, Medium, Request, medium_at
from segue.sim.host_io import HostIo
from segue.sim.latency import Latencies
from segue.sim.loop import US, Handle, Process, World
from segue.wire.messages import (
    ContainerSpec,
    Message,
    NewTable,
    Outcome,
    ResizeTable,
    SetContainers,
)

PIECES_AT_ONCE = 3
"""Of one host I/O: few, so that the rest has to wait now and then."""


@dataclass(eq=False, slots=True)
class Part:
    """The tag of a container request made for a host I/O."""

    plane: Plane
    io: HostIo
    segment: int
    """Of the disk."""
    commanded: bool
    """Part of a `do_write` or `do_split_read`, as far as can be told."""


class Watch(Protocol):
    """What checkers want to know of a plane."""

    def host_io(self, plane: Plane, io: HostIo) -> None:
        """Before a host I/O is given to the engine."""

    def host_io_taken(self) -> None:
        """After it."""

    def engine_called(self, plane: Plane, changed: bool) -> None:
        """After every call of the engine; `changed`: its tables may have."""

    def effect(self, plane: Plane, effect: tuple[Any, ...]) -> None:
        """Before an effect is carried out."""

    def event(self, plane: Plane, event: tuple[Any, ...]) -> None:
        """When the engine has told something."""


class Plane:
    """One incarnation's data plane, in the agent's process."""

    def __init__(
        self,
        process: Process,
        incarnation: int,
        media: dict[str, Medium],
        watch: Watch,
        park_limit_bytes: int,
        host_timeout_ns: int | None,
    ) -> None:
        self.process = process
        self.world: World = process.world
        self.incarnation = incarnation
        self.media = media
        self.watch = watch
        self.engine = _native.Engine(
            park_limit_bytes=park_limit_bytes,
            host_timeout_ns=host_timeout_ns,
            pieces_at_once=PIECES_AT_ONCE,
        )
        self.holder = Holder(process, incarnation, process.name)
        self.opened: dict[int, Medium] = {}
        self.segment_bytes: dict[int, int] = {}
        self.segments: dict[int, int] = {}
        self.sectors: dict[int, int] = {}
        """Sizes of the tables, by disk."""
        """Of every disk that has had a table here."""
        self.ios: dict[int, HostIo] = {}
        """By token, until the engine's last word."""
        self.events: deque[tuple[Any, ...]] = deque()
        """For the session."""
        self.on_event: Callable[[], None] = lambda: None
        self.exports: dict[int, Callable[[int, int, int, int, bool], None]] = {}
        self.lists: dict[int, Callable[[list[str]], None]] = {}
        self.latencies = Latencies()
        self.users: dict[int, int] = {}
        """Open connections of each disk."""
        self.given: dict[int, int] = {}
        """How often hosts were given each disk."""
        self.commanding = False
        """A `do_*` is being delivered."""
        self.ticking = False
        """Nothing but time is being delivered."""
        self.opening = False
        """Containers are being opened for a table."""
        self.merging = 0
        """Read-merge-writes under way."""
        self._lease_until_ns = 0
        self._leases = 0
        """Counts leases: one that was renewed in time is the same."""
        self._next_token = 1
        self._inbox: deque[Callable[[], None]] = deque()
        self._busy = False
        self._timer: Handle | None = None
        self._timer_ns: int | None = None
        self._calls = 0
        self._stopped_readers: dict[int, list[Callable[[], None]]] = {}
        process.on_kill.append(self._died)

    # The session's side -------------------------------------------------------------------------

    def deliver(self, message: Message, /) -> None:
        """A command or a fault answer."""
        self._enqueue(lambda: self._deliver(message))

    def set_lease(self, until_ns: int, /) -> None:
        """See ``agent.session.Plane``."""
        self._enqueue(lambda: self._set_lease(until_ns))

    def end_lease(self) -> None:
        """See ``agent.session.Plane``."""
        self._enqueue(lambda: self._set_lease(0))

    def _set_lease(self, until_ns: int) -> None:
        """Until then; 0: it ends now."""
        if not until_ns or self.process.now_ns() >= self._lease_until_ns:
            self._leases += 1
        self._lease_until_ns = until_ns
        if until_ns:
            self._call(self.engine.set_lease, until_ns, changed=True)
        else:
            self._call(self.engine.end_lease, changed=True)

    def list_faults(self) -> None:
        """See ``agent.session.Plane``."""
        self._enqueue(self._list_faults)

    def ask_latency(self, request: int, disk: int) -> None:
        """See ``agent.session.Plane``."""
        self._enqueue(lambda: self._tell(("latency", request, self.latencies.rows(disk))))

    def export_answer(
        self, token: int, errno: int, disk: int, size_bytes: int, block_bytes: int, read_only: bool
    ) -> None:
        """See ``agent.session.Plane``."""
        answer = self.exports.pop(token, None)
        if not errno:
            self.given[disk] = self.given.get(disk, 0) + 1
        if answer is not None:
            answer(errno, disk, size_bytes, block_bytes, read_only)

    def list_answer(self, token: int, names: list[str]) -> None:
        """See ``agent.session.Plane``."""
        answer = self.lists.pop(token, None)
        if answer is not None:
            answer(names)

    def _enqueue(self, work: Callable[[], None]) -> None:
        self._inbox.append(work)
        self._next_work()

    def _next_work(self) -> None:
        if self._inbox and not self._busy:
            self._busy = True
            delay_ns = self.world.rng.randrange(20 * US)
            self.world.call_in(delay_ns, self.process.post, self._work)

    def _work(self) -> None:
        self._busy = False
        if self._inbox:
            self._inbox.popleft()()
            self._next_work()

    def _list_faults(self) -> None:
        self.engine.list_faults()
        self._drain(False)

    def _deliver(self, message: Message) -> None:
        if isinstance(message, NewTable | SetContainers):
            self._open_all(message)
        else:
            self.commanding = type(message).__name__.startswith("Do")
            if isinstance(message, ResizeTable):
                self._has_size(message.disk, message.size_bytes)
            self._call(self.engine.deliver, message, changed=True)
            self.commanding = False

    def _has_size(self, disk: int, size_bytes: int) -> None:
        if disk in self.segment_bytes:
            self.segments[disk] = -(-size_bytes // self.segment_bytes[disk])
            self.sectors[disk] = size_bytes // SECTOR_BYTES

    def _open_all(self, message: NewTable | SetContainers) -> None:
        """Opens what is not open yet, off the data thread; then the engine may know."""
        self._busy = self.opening = True
        errno = 0
        for spec in message.containers:
            errno = errno or self._open(spec)

        def applied() -> None:
            self._busy = self.opening = False
            if errno:
                refusal: tuple[Any, ...] = (
                    "answer",
                    message.command,
                    int(Outcome.FAILED),
                    errno,
                    [],
                    False,
                )
                self._tell(refusal)
            else:
                if isinstance(message, NewTable):
                    self.segment_bytes[message.disk] = message.segment_bytes
                    self._has_size(message.disk, message.size_bytes)
                self._call(self.engine.deliver, message, changed=True)
            self._next_work()

        delay_ns = self.world.rng.randrange(400 * US)
        self.world.call_in(delay_ns, self.process.post, applied)

    def _open(self, spec: ContainerSpec) -> int:
        medium = medium_at(self.media, spec.uri)
        if medium is None or not medium.identity:
            return ENOENT
        if medium.is_missing and spec.container not in self.opened:
            return ENOENT
        if medium.identity != spec.identity:
            return EIO
        medium.lock(self.holder)
        self.opened[spec.container] = medium
        return 0

    # The hosts' side ------------------------------------------------------------------------------

    def want_export(self, name: str, answer: Callable[[int, int, int, int, bool], None]) -> None:
        """A host asks for a disk; `answer(errno, disk, size, block, read_only)`."""
        token = self._token()
        self.exports[token] = answer
        self._tell(("want_export", token, name))

    def use(self, disk: int) -> None:
        """A connection of the disk has opened."""
        self.users[disk] = self.users.get(disk, 0) + 1

    def leave(self, disk: int) -> None:
        """A connection of the disk has closed."""
        self.users[disk] -= 1
        self.pass_over(disk)

    def pass_over(self, disk: int) -> None:
        """The disk was given to a host that has gone: says so if nobody else uses it."""
        if not self.users.get(disk):
            self._tell(("unused", disk, self.given[disk]))

    def accepts(self, disk: int, when_it_does: Callable[[], None]) -> bool:
        """Whether the disk's connections may be read; if not, calls back when to ask again."""
        if self.engine.accepts(disk):
            return True
        self._stopped_readers.setdefault(disk, []).append(when_it_does)
        return False

    def host_io(self, io: HostIo) -> None:
        """A host I/O arrives."""
        io.token = self._token()
        self.ios[io.token] = io
        io.begun_ns = self.process.now_ns()
        if io.op in ("read", "write"):
            io.buffer = list(io.tokens) if io.op == "write" else [-1] * io.count
        offset, length = io.first * SECTOR_BYTES, io.count * SECTOR_BYTES
        self.watch.host_io(self, io)
        self._call(self.engine.host_io, io.token, io.disk, io.op, offset, length, io.flags)
        self.watch.host_io_taken()

    def host_gone(self, io: HostIo) -> None:
        """Its connection has ended."""
        if io.token in self.ios:
            self.engine.host_gone(io.token)
            self._drain(False)

    # The data thread ------------------------------------------------------------------------------

    def _call(self, method: Callable[..., None], *args: Any, changed: bool = False) -> None:
        method(self.process.now_ns(), *args)
        self._drain(changed)

    def _drain(self, changed: bool) -> None:
        """Takes effects and events until there are none, and sets the timer."""
        engine = self.engine
        for token, cause in engine.notes():
            self.ios[token].cause = max(self.ios[token].cause, cause)
        for effect in engine.effects():
            self.watch.effect(self, effect)
            _EFFECTS[effect[0]](self, effect)
        for event in engine.events():
            self.watch.event(self, event)
            self._tell(event)
        self._calls += 1
        if changed or self._calls % 16 == 0:
            engine.self_check()
        self._set_timer()
        if self._stopped_readers:
            self._let_readers_go()
        self.watch.engine_called(self, changed)

    def _set_timer(self) -> None:
        due_ns = self.engine.deadline()
        if due_ns == self._timer_ns:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = due_ns
        self._timer = None
        if due_ns is not None:
            self._timer = self.process.call_at_clock(due_ns, self._tick)

    def _tick(self) -> None:
        self._timer = self._timer_ns = None
        self.tick_now()

    def _let_readers_go(self) -> None:
        for disk in list(self._stopped_readers):
            if self.engine.accepts(disk):
                for callback in self._stopped_readers.pop(disk):
                    self.process.post(callback)

    def _tell(self, event: tuple[Any, ...]) -> None:
        self.events.append(event)
        self.world.log("event", self.process.name, event)
        self.world.call_in(self.world.rng.randrange(20 * US), self.process.post, self.on_event)

    def _token(self) -> int:
        self._next_token += 1
        return self._next_token

    def _died(self) -> None:
        ios, self.ios = self.ios, {}
        for io in ios.values():
            io.finished = True
            io.settle()

    # The checkers' side -------------------------------------------------------------------------

    def tick_now(self) -> None:
        """Lets the engine see the time, so that `probe` may be used."""
        self.ticking = True
        self._call(self.engine.tick, changed=True)
        self.ticking = False

    def probe(self, message: Message) -> tuple[Any, ...]:
        """Gives the engine a command that nobody sent; its answer, which the session never sees.

        To be used only when the engine was called at this very moment.
        """
        self.engine.deliver(self.process.now_ns(), message)
        answers: list[tuple[Any, ...]]
        answers = [event for event in self.engine.events() if event[0] == "answer"]
        assert len(answers) == 1
        assert not self.engine.effects()
        return answers[0]

    def pending_faults(self) -> list[tuple[Any, ...]]:
        """The engine's unanswered faults."""
        self.engine.list_faults()
        found: list[tuple[Any, ...]] = []
        for event in self.engine.events():
            if event[0] == "faults":
                found = [fault for fault, *_ in event[2]]
        return found

    # Effects --------------------------------------------------------------------------------------

    def _part(self, io: HostIo, buf_off: int) -> Part:
        at_bytes = io.first * SECTOR_BYTES + buf_off
        return Part(self, io, at_bytes // self.segment_bytes[io.disk], self.commanding)

    def _request(
        self,
        io: HostIo,
        part: Part,
        kind: str,
        container: int,
        offset_bytes: int,
        count: int,
        done: Callable[[int, Sequence[int]], None],
        tokens: Sequence[int] = (),
        fua: bool = False,
    ) -> Request:
        assert offset_bytes % SECTOR_BYTES == 0
        medium = self.opened[container]

        def came_back(errno: int, found: Sequence[int]) -> None:
            if errno and (kind == "flush" or fua):
                medium.leave_note(self.holder, errno)
            done(errno, found)

        def ended() -> None:
            io.under_way -= 1
            io.settle()

        io.under_way += 1
        return medium.submit(
            kind,
            self.holder,
            offset_bytes // SECTOR_BYTES,
            count,
            came_back,
            tokens,
            fua,
            part,
            ended,
        )

    def _done(self, piece: int, errno: int) -> None:
        self._call(self.engine.piece_done, piece, errno)

    def _do_io(self, effect: tuple[Any, ...]) -> None:
        _, piece, token, kind, container, offset, length, buf_off, fua, _no_hole, _fast = effect
        io = self.ios[token]
        count, at = length // SECTOR_BYTES, buf_off // SECTOR_BYTES
        part = self._part(io, buf_off)
        if kind == "read":

            def read(errno: int, tokens: Sequence[int]) -> None:
                if not errno:
                    io.buffer[at : at + count] = tokens
                self._done(piece, errno)

            self._request(io, part, "read", container, offset, count, read)
            return
        if kind == "trim":
            # Whole units only: the rest of a trim may be left undone.
            unit = max(1, self.opened[container].write_unit_bytes // SECTOR_BYTES) * SECTOR_BYTES
            first, end = -(-offset // unit) * unit, (offset + length) // unit * unit
            offset, count = (first, (end - first) // SECTOR_BYTES) if first < end else (offset, 0)
        tokens = io.buffer[at : at + count] if kind == "write" else [0] * count

        def wrote(errno: int, _: Sequence[int]) -> None:
            self._done(piece, errno)

        self._request(io, part, "write", container, offset, count, wrote, tokens, fua)

    def _do_rmw(self, effect: tuple[Any, ...]) -> None:
        """Reads what is missing of the first and last unit, merges, writes once."""
        (_, piece, token, container, offset, length, buf_off, skip, data_len, zeroes) = effect[:10]
        head, tail, fua, unit = effect[10:14]
        io = self.ios[token]
        part = self._part(io, buf_off)
        count, unit = length // SECTOR_BYTES, unit // SECTOR_BYTES
        begin = skip // SECTOR_BYTES
        end = begin + data_len // SECTOR_BYTES
        at = buf_off // SECTOR_BYTES
        merged = [0] * count
        if not zeroes:
            merged[begin:end] = io.buffer[at : at + end - begin]
        missing: list[tuple[tuple[int, int], int, int, int]] = []
        if begin and head is not None:
            missing.append((head, 0, 0, begin))
        if end < count and tail is not None:
            last = count - unit
            missing.append((tail, last, end - last, unit))
        waiting = len(missing)
        failed = 0
        self.merging += 1
        lease = self._leases

        def write() -> None:
            # The lease is asked again before the write, as by the thread that carries it out.
            over = lease != self._leases or self.process.now_ns() >= self._lease_until_ns
            if failed or over:
                self.merging -= 1
                if failed:
                    self._call(self.engine.piece_refused, piece, failed)
                else:
                    self._call(self.engine.piece_not_begun, piece)
                return

            def wrote(errno: int, _: Sequence[int]) -> None:
                self.merging -= 1
                self._done(piece, errno)

            self._request(io, part, "write", container, offset, count, wrote, merged, fua)

        def got(place: int, first: int, stop: int) -> Callable[[int, Sequence[int]], None]:
            def take(errno: int, tokens: Sequence[int]) -> None:
                nonlocal waiting, failed
                failed = failed or errno
                if not errno:
                    merged[place + first : place + stop] = tokens[first:stop]
                waiting -= 1
                if not waiting:
                    write()

            return take

        if not missing:
            write()
        for (source, source_offset), place, first, stop in missing:
            self._request(io, part, "read", source, source_offset, unit, got(place, first, stop))

    def _do_flush(self, effect: tuple[Any, ...]) -> None:
        _, piece, token, container = effect
        io = self.ios[token]

        def flushed(errno: int, _: Sequence[int]) -> None:
            self._done(piece, errno)

        self._request(io, Part(self, io, -1, False), "flush", container, 0, 0, flushed)

    def _do_fill(self, effect: tuple[Any, ...]) -> None:
        _, token, buf_off, length = effect
        io = self.ios[token]
        at, count = buf_off // SECTOR_BYTES, length // SECTOR_BYTES
        io.buffer[at : at + count] = [0] * count

    def _do_reply(self, effect: tuple[Any, ...]) -> None:
        _, token, errno, in_use = effect
        io = self.ios[token]
        if not in_use:
            del self.ios[token]
            io.finished = True
        io.answered = True
        took_ns = self.process.now_ns() - io.begun_ns
        self.latencies.count(io.disk, io.op, io.cause, took_ns)
        io.replied(errno, list(io.buffer) if io.op == "read" and not errno else None)
        io.settle()

    def _do_status(self, effect: tuple[Any, ...]) -> None:
        _, token, extents = effect
        io = self.ios.pop(token)
        io.finished = io.answered = True
        io.replied(0, extents)
        io.settle()

    def _do_release(self, effect: tuple[Any, ...]) -> None:
        io = self.ios.pop(effect[1])
        io.finished = True
        io.settle()


_EFFECTS: dict[str, Callable[[Plane, tuple[Any, ...]], None]] = {
    "io": Plane._do_io,
    "rmw": Plane._do_rmw,
    "flush": Plane._do_flush,
    "fill": Plane._do_fill,
    "reply": Plane._do_reply,
    "status": Plane._do_status,
    "release": Plane._do_release,
}
