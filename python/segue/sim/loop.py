"""Simulated time: one world, and in it processes with an event loop each.

The `World` owns the only clock, the only random source and the only heap of what happens next.
A `Process` is what can be killed, stopped and woken: its callbacks run on its own `VirtualLoop`,
on which asyncio's tasks, futures, locks, events, queues, timeouts and sleeps work unchanged.
What belongs to no process (a network, a disk, a kernel) calls `World.call_in` itself.

Rules of it:

* One handle at a time.  Which process runs next is drawn from the seed; within a process handles
  run in the order asyncio asks for.  Every handle costs some time, drawn as well, and now and
  then a process is held up for longer, so that things happen between any two awaits.
* Killing a process: none of its callbacks ever runs again, and its loop takes no new ones.  What
  it leaves behind (suspended coroutines) may be finalized at any time without effect on others.
* Stopping a process keeps its timers; they are late when it is woken.
* Nothing here may depend on hashing, addresses or wall clocks: the same seed gives the same trace
  in any interpreter process.  Tasks hash by serial number, for sets of tasks are common.
"""

from __future__ import annotations

import asyncio
import asyncio.events
import contextvars
import hashlib
import random
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000

HANDLE_COST_NS = 4 * US
"""Most that one handle takes; drawn evenly below it."""
STALL_ODDS = 0.004
"""How often a process is held up after a handle, as a busy machine does."""
STALL_NS = 8 * MS
"""Longest such hold-up; short ones are much more likely."""


class Handle:
    """A callback waiting to run; what `call_soon`, `call_at` and `World.call_in` return."""

    __slots__ = ("args", "callback", "context", "process", "when_ns")

    def __init__(
        self,
        process: Process | None,
        when_ns: int,
        callback: Callable[..., object] | None,
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> None:
        self.process = process
        self.when_ns = when_ns
        self.callback = callback
        self.args = args
        self.context = context

    def cancel(self) -> None:
        """Never run it (nothing happens if it has run)."""
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        """Whether it has run, or was cancelled."""
        return self.callback is None

    def when(self) -> float:
        """In seconds of the loop's clock, as `asyncio.TimerHandle.when`."""
        assert self.process is not None
        return self.process.clock_ns(self.when_ns) / SECOND


class SimTask(asyncio.Task[T]):
    """A task whose place in a set does not depend on its address."""

    def __init__(self, coro: Coroutine[Any, Any, T], *, loop: VirtualLoop, **kwargs: Any) -> None:
        self.serial = loop.process.world.next_serial()
        super().__init__(coro, loop=loop, **kwargs)

    def __hash__(self) -> int:
        return self.serial

    def __eq__(self, other: object) -> bool:
        return self is other


class Process:
    """Something that can crash: a controller, an agent, a host.

    Its clock has an offset and a drift (parts per million) of its own.
    """

    def __init__(self, world: World, name: str, offset_ns: int = 0, drift_ppm: int = 0) -> None:
        self.world = world
        self.name = name
        self.offset_ns = offset_ns
        self.drift_ppm = drift_ppm
        self.alive = True
        self.paused = False
        self.stalled = False
        self.loop = VirtualLoop(self)  # type: ignore[abstract]
        self.ready: deque[Handle] = deque()
        self.queued = False
        """Whether it is in the world's list of runnable processes."""
        self.on_kill: list[Callable[[], None]] = []
        """The world's own reactions to its death (kernel closes its sockets, frees its locks)."""

    def now_ns(self) -> int:
        """Its CLOCK_BOOTTIME; satisfies `controller.ports.Clock`."""
        return self.clock_ns(self.world.now_ns)

    def clock_ns(self, world_ns: int) -> int:
        """What its clock shows at that moment of the world."""
        return world_ns + world_ns * self.drift_ppm // 1_000_000 + self.offset_ns

    def world_ns(self, clock_ns: int) -> int:
        """The first moment of the world at which its clock shows at least that."""
        rate = 1_000_000 + self.drift_ppm
        guess = -((self.offset_ns - clock_ns) * 1_000_000 // rate)
        while self.clock_ns(guess) < clock_ns:
            guess += 1
        return guess

    def run(self, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts a task in this process, from outside."""
        return self.loop.create_task(coro)

    def post(self, callback: Callable[..., object], *args: Any) -> None:
        """Runs a callback in this process when its turn comes; nothing if it is dead."""
        if self.alive:
            self.ready.append(Handle(self, 0, callback, args, None))
            if not self.queued and not self.paused and not self.stalled:
                self.queued = True
                self.world.runnable.append(self)

    def call_at_clock(self, clock_ns: int, callback: Callable[..., object], *args: Any) -> Handle:
        """Runs a callback when this process's clock shows `clock_ns` (late if it is stopped)."""
        return self.world._push(
            Handle(self, max(self.world_ns(clock_ns), self.world.now_ns), callback, args, None)
        )

    def kill(self) -> None:
        """Ends it here and now (kill -9); again: nothing."""
        if not self.alive:
            return
        self.alive = False
        self.world.log("kill", self.name)
        self._unqueue()
        self.world.graveyard.append((self.ready, self.loop))
        self.ready = deque()
        for react in self.on_kill:
            react()
        self.on_kill = []

    def pause(self) -> None:
        """Stops it (SIGSTOP): it keeps its locks and sockets, and runs nothing."""
        if self.alive and not self.paused:
            self.paused = True
            self.world.log("pause", self.name)
            self._unqueue()

    def resume(self) -> None:
        """Wakes it; everything that became due meanwhile is ready at once."""
        if self.alive and self.paused:
            self.paused = False
            self.world.log("resume", self.name)
            self._requeue()

    def _stall(self, for_ns: int) -> None:
        self.stalled = True
        self._unqueue()
        self.world.call_in(for_ns, self._unstall)

    def _unstall(self) -> None:
        self.stalled = False
        if self.alive and not self.paused:
            self._requeue()

    def _unqueue(self) -> None:
        if self.queued:
            self.queued = False
            self.world.runnable.remove(self)

    def _requeue(self) -> None:
        if self.ready and not self.queued and not self.stalled:
            self.queued = True
            self.world.runnable.append(self)


class VirtualLoop(asyncio.AbstractEventLoop):
    """As much of an event loop as code without sockets, files and threads can ask for."""

    def __init__(self, process: Process) -> None:
        self.process = process

    def time(self) -> float:
        """Seconds of the process's own clock."""
        return self.process.now_ns() / SECOND

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """Runs it after what is ready already."""
        process = self.process
        handle = Handle(process, 0, callback, args, context)
        if process.alive:
            process.ready.append(handle)
            if not process.queued and not process.paused and not process.stalled:
                process.queued = True
                process.world.runnable.append(process)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """Runs it `delay` seconds of the process's clock from now."""
        process = self.process
        due_ns = process.now_ns() + max(0, int(delay * SECOND))
        return self._timer(due_ns, callback, args, context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """Runs it when `time` shows `when`."""
        return self._timer(-int(-when * SECOND // 1), callback, args, context)

    def _timer(
        self,
        due_ns: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> Handle:
        process, world = self.process, self.process.world
        when_ns = max(process.world_ns(due_ns), world.now_ns)
        handle = Handle(process, when_ns, callback, args, context)
        if process.alive:
            world._push(handle)
        return handle

    def call_soon_threadsafe(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """There are no threads: the same as `call_soon`."""
        return self.call_soon(callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        """A future of this loop."""
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """A task of this loop."""
        kwargs: dict[str, Any] = {"name": name or getattr(coro, "__qualname__", "task")}
        if context is not None:
            kwargs["context"] = context
        return SimTask(coro, loop=self, **kwargs)

    def get_debug(self) -> bool:
        """Off: debugging asyncio reads the wall clock."""
        return False

    def is_running(self) -> bool:
        """Until its process dies."""
        return self.process.alive

    def is_closed(self) -> bool:
        """When its process is dead."""
        return not self.process.alive

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """An exception nobody took: in a live process, a failure of the seed."""
        if self.process.alive:
            self.process.world.blame(
                f"{self.process.name}: {context.get('message')}", context.get("exception")
            )

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> NoReturn:
        """Threads have no place in the simulator."""
        raise NotImplementedError("the simulator has no threads")


class Blame(Exception):
    """A rule was broken, or the code under test failed; the message says how."""


class World:
    """Time, chance and order; `step` makes one thing happen."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now_ns = 0
        self.steps = 0
        self.runnable: list[Process] = []
        self.current: Process | None = None
        """The one whose handle runs."""
        self.graveyard: list[object] = []
        """What dead processes leave: kept to the end, so that nothing is finalized early."""
        self.lines: list[tuple[Any, ...]] = []
        """The trace: (time, event, details...)."""
        self.echo: Callable[[str], None] | None = None
        self.after_step: Callable[[], None] | None = None
        self.countdowns: list[tuple[Process, int, Callable[[], None]]] = []
        self._heap: list[tuple[int, int, Handle]] = []
        self._serial = 0
        self._base = 1
        self._failure: Blame | None = None
        self._random = self.rng.random

    # What happens ----------------------------------------------------------------------------

    def call_in(self, delay_ns: int, callback: Callable[..., object], *args: Any) -> Handle:
        """Calls back after `delay_ns`, in no process: for networks, kernels, disks and fate."""
        return self._push(Handle(None, self.now_ns + delay_ns, callback, args, None))

    def process(self, name: str, offset_ns: int = 0, drift_ppm: int = 0) -> Process:
        """Starts a process; give it work with `Process.run`."""
        return Process(self, name, offset_ns, drift_ppm)

    def after_handles(self, process: Process, count: int, action: Callable[[], None]) -> None:
        """Does something right after the process has run so many more handles.

        Awaits end at handles' ends, so this is how to strike at any await.
        """
        self.countdowns = [item for item in self.countdowns if item[0].alive]
        self.countdowns.append((process, count, action))

    def step(self) -> bool:
        """Runs one handle, or moves on to the next timer; False if nothing will ever happen."""
        heap = self._heap
        runnable = self.runnable
        if heap and (not runnable or heap[0][0] <= self.now_ns):
            when_ns, _, handle = heappop(heap)
            if handle.callback is None:
                return True
            self.now_ns = max(self.now_ns, when_ns)
            process = handle.process
            if process is None:
                callback, args = handle.callback, handle.args
                handle.callback = None
                callback(*args)
            elif process.alive:
                process.ready.append(handle)
                if not process.paused:
                    process._requeue()
                return True
            else:
                return True
        elif runnable:
            count = len(runnable)
            self._run(runnable[int(self._random() * count)] if count > 1 else runnable[0])
        else:
            return False
        self.steps += 1
        if self.after_step is not None:
            self.after_step()
        if self._failure is not None:
            raise self._failure
        return True

    def run_until(self, done: Callable[[], bool], limit_ns: int, every: int = 1) -> bool:
        """Steps until `done()`; False if it was not within `limit_ns`, or nothing is left.

        `done` is asked after every so many steps.
        """
        end_ns = self.now_ns + limit_ns
        while not done():
            for _ in range(every):
                if self.now_ns > end_ns or not self.step():
                    return done()
        return True

    def run_for(self, for_ns: int) -> None:
        """Steps through so much time, and arrives at its end even if nothing happens."""
        over: list[bool] = []
        self.call_in(for_ns, over.append, True)
        while not over:
            self.step()

    def _run(self, process: Process) -> None:
        handle = process.ready.popleft()
        if not process.ready:
            process._unqueue()
        callback = handle.callback
        if callback is not None:
            args = handle.args
            handle.callback = None
            events._set_running_loop(process.loop)
            self.current = process
            try:
                if handle.context is None:
                    callback(*args)
                else:
                    handle.context.run(callback, *args)
            except (Blame, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # a panic of the native engine is no Exception
                self.blame(f"{process.name}: {callback!r} raised", error)
            finally:
                events._set_running_loop(None)
                self.current = None
            if self.countdowns:
                self._count_down(process)
        chance = self._random()
        self.now_ns += int(chance * HANDLE_COST_NS)
        if chance < STALL_ODDS and process.alive and not process.paused and not process.stalled:
            process._stall(int(STALL_NS * self._random() ** 4) + 1)

    def _count_down(self, process: Process) -> None:
        due = []
        rest = []
        for item in self.countdowns:
            if item[0] is not process:
                rest.append(item)
            elif item[1] <= 1:
                due.append(item[2])
            else:
                rest.append((process, item[1] - 1, item[2]))
        self.countdowns = rest
        for action in due:
            action()

    def _push(self, handle: Handle) -> Handle:
        self._serial += 1
        heappush(self._heap, (handle.when_ns, self._serial, handle))
        return handle

    # What is known of it -----------------------------------------------------------------------

    def next_serial(self) -> int:
        """A number that no other call has returned."""
        self._serial += 1
        return self._serial

    def next_base(self, count: int) -> int:
        """Tokens ``base .. base + count - 1`` that no other call has returned; never 0."""
        base, self._base = self._base, self._base + count
        return base

    def log(self, event: str, *details: Any) -> None:
        """A line of the trace.  Details must print the same in every interpreter process."""
        line = (self.now_ns, event, *details)
        self.lines.append(line)
        if self.echo is not None:
            self.echo(trace_line(line))

    def digest(self) -> str:
        """Of the whole trace and how far the world came."""
        sum_ = hashlib.blake2b(digest_size=16)
        for line in self.lines:
            sum_.update(repr(line).encode())
        sum_.update(f"{self.now_ns} {self.steps}".encode())
        return sum_.hexdigest()

    def blame(self, what: str, cause: BaseException | None = None) -> None:
        """Fails the seed at the end of this step (the first blame counts)."""
        if self._failure is None:
            self._failure = Blame(what)
            self._failure.__cause__ = cause


def trace_line(line: tuple[Any, ...]) -> str:
    """A line of the trace for people."""
    now_ns, event, *details = line
    return f"{now_ns / SECOND:13.6f} {event:<10} {' '.join(str(d) for d in details)}"
