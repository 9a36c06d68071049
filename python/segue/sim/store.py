"""A simulated store: `store.contract.Store` on a disk that outlives its users and can lose power.

`StoreDisk` is what lies on the platter; `SimStore` is one process's way to it.  Every call takes
time, *takes effect* at one instant of it (checked against terms and numbers there), and is
*durable* when it returns.  A process that dies leaves calls behind that may still take effect, or
not.  Loss of power keeps a prefix of what took effect, at least all that was durable.  A call may
be made to fail with `StoreFailed`: its effect may have happened, or not.  While the disk is full
what writes to it waits for its effect; one whose process dies meanwhile has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from segue.sim.loop import MS, SECOND, US, Process, World
from segue.store.contract import (
    Loaded,
    LogRecord,
    NoRoom,
    StoreCorrupt,
    StoreFailed,
    Superseded,
)


class StoreDisk:
    """The durable half: terms, a checkpoint and a log.

    `log` holds all that took effect; `durable_number` and `durable_term` say how much of it power
    loss cannot take.  `watchers` are told of every record as it takes effect, and of `None` after
    a loss of power, when `log` may have become shorter.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.term = 0
        self.durable_term = 0
        self.number = 0
        self.durable_number = 0
        self.checkpoint_number = 0
        self.root = b""
        self.pages: dict[int, bytes] = {}
        self.log: list[LogRecord] = []
        self.history: list[LogRecord] = []
        """Every record since the beginning, also those a checkpoint dropped (for checkers)."""
        self.watchers: list[Callable[[LogRecord | None], None]] = []
        self.watch_checkpoint: Callable[[Loaded], None] | None = None
        """Told of every checkpoint: what a new term would load now."""
        self.fail_until_ns = 0
        """Until then calls may fail."""
        self.slow_until_ns = 0
        self.full_until_ns = 0
        """Until then nothing can be written."""
        self.in_flight: dict[str, int] = {}
        """Calls under way by kind, of anybody (for crash points)."""
        self.checkpoints = 0
        self.epoch = 0
        """Counts losses of power: a call of an earlier epoch does nothing any more."""

    def open(self, process: Process) -> SimStore:
        """A process's connection to it."""
        return SimStore(self, process)

    def lose_power(self) -> None:
        """What was not durable may be gone; of the log always a suffix."""
        self.epoch += 1
        self.in_flight.clear()
        keep = self.world.rng.randint(self.durable_number, self.number)
        lost = self.number - keep
        while self.log and self.log[-1].number > keep:
            self.log.pop()
        while self.history and self.history[-1].number > keep:
            self.history.pop()
        self.number = self.durable_number = keep
        self.term = self.world.rng.randint(self.durable_term, self.term)
        if self.log:
            self.term = max(self.term, self.log[-1].term)
        self.durable_term = self.term
        self.world.log("store-power", f"lost {lost} commits")
        for watch in self.watchers:
            watch(None)

    def take_term(self) -> Loaded:
        """Effect of `begin_term`."""
        self.term += 1
        return self.loaded()

    def loaded(self) -> Loaded:
        """The table as it stands."""
        pages = dict(self.pages)
        return Loaded(
            term=self.term,
            number=self.number,
            checkpoint_number=self.checkpoint_number,
            root=self.root,
            log=list(self.log),
            read_pages=lambda ids: [_page(pages, page) for page in ids],
        )

    def take_record(self, record: LogRecord) -> None:
        """Effect of `append`."""
        if record.term != self.term or record.number != self.number + 1:
            raise Superseded(f"commit {record.number} of term {record.term}")
        self.number = record.number
        self.log.append(record)
        self.history.append(record)
        self.world.log("commit", record.term, record.number, record.body)
        for watch in self.watchers:
            watch(record)

    def take_checkpoint(
        self,
        term: int,
        number: int,
        root: bytes,
        pages: Mapping[int, bytes],
        freed: Sequence[int],
    ) -> None:
        """Effect of `checkpoint`; a broken contract is the caller's fault and fails the seed."""
        if term != self.term:
            raise Superseded(f"checkpoint of term {term}")
        if not self.checkpoint_number <= number <= self.number:
            self.world.blame(f"checkpoint {number} outside {self.checkpoint_number}-{self.number}")
        if any(page in self.pages for page in pages):
            self.world.blame("a checkpoint writes over a page of the one before")
        if any(page not in self.pages for page in freed):
            self.world.blame("a checkpoint frees a page that does not exist")
        for page in freed:
            self.pages.pop(page, None)
        self.pages.update(pages)
        self.root = root
        self.checkpoint_number = number
        self.log = [record for record in self.log if record.number > number]
        # A checkpoint that took effect is written through: it keeps what it includes.
        self.durable_number = max(self.durable_number, number)
        self.checkpoints += 1
        self.world.log("checkpoint", term, number, len(pages), len(freed))
        if self.watch_checkpoint is not None:
            self.watch_checkpoint(self.loaded())


class SimStore:
    """One process's store."""

    def __init__(self, disk: StoreDisk, process: Process) -> None:
        self.disk = disk
        self.process = process
        self._failed = False
        self._last_effect_ns = 0
        self.held: list[_Call] = []
        """What waits for room."""
        self.full_since_ns = 0

    async def begin_term(self) -> Loaded:
        """See the contract."""
        loaded: Loaded = await self._call("begin_term", self.disk.take_term)
        return loaded

    async def newest_term(self) -> int:
        """See the contract."""
        term: int = await self._call("newest_term", lambda: self.disk.term)
        return term

    async def append(self, term: int, number: int, body: bytes) -> None:
        """See the contract."""
        record = LogRecord(term, number, bytes(body))
        await self._call("append", self.disk.take_record, record)

    async def checkpoint(
        self,
        term: int,
        number: int,
        root: bytes,
        pages: Mapping[int, bytes],
        freed: Sequence[int],
    ) -> None:
        """See the contract."""
        pages, freed = dict(pages), list(freed)
        await self._call("checkpoint", self.disk.take_checkpoint, term, number, root, pages, freed)

    def no_room(self) -> NoRoom | None:
        """See the contract."""
        if not self.held:
            return None
        return NoRoom("store", (self.disk.world.now_ns - self.full_since_ns) / SECOND)

    def hold(self, call: _Call) -> None:
        """It waits for room, behind those that do."""
        if not self.held:
            self.full_since_ns = self.disk.world.now_ns
            self.disk.world.call_in(ROOM_NS, self._try_again)
        self.held.append(call)

    def _try_again(self) -> None:
        if self.disk.world.now_ns < self.disk.full_until_ns:
            self.disk.world.call_in(ROOM_NS, self._try_again)
            return
        held, self.held = self.held, []
        for call in held:
            call.take_effect()

    async def close(self) -> None:
        """Nothing is held."""

    async def _call(self, kind: str, effect: Callable[..., Any], *args: Any) -> Any:
        if self._failed:
            raise StoreFailed("the store failed before")
        call = _Call(self, kind, effect, args)
        return await call.answer


class _Call:
    """One call under way: effect, then durability, then the answer."""

    def __init__(
        self, store: SimStore, kind: str, effect: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self.store = store
        self.kind = kind
        self.effect = effect
        self.args = args
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        disk, world = store.disk, store.disk.world
        self.epoch = disk.epoch
        rng = world.rng
        took_ns = 40 * US + int(400 * US * rng.random())
        if world.now_ns < disk.slow_until_ns and rng.random() < 0.5:
            took_ns += rng.randrange(400 * MS)
        self.fails = world.now_ns < disk.fail_until_ns and rng.random() < 0.1
        effect_ns = max(world.now_ns + int(took_ns * rng.random()), store._last_effect_ns)
        store._last_effect_ns = effect_ns
        self.return_ns = max(world.now_ns + took_ns, effect_ns)
        self.died_before = False
        disk.in_flight[kind] = disk.in_flight.get(kind, 0) + 1
        store.process.on_kill.append(self._killed)
        world.call_in(effect_ns - world.now_ns, self._begin)

    def _killed(self) -> None:
        """Its process is dead: what had not taken effect by now may, or not."""
        self.died_before = self.store.disk.world.rng.random() < 0.5 or self in self.store.held

    def _begin(self) -> None:
        full = self.store.disk.world.now_ns < self.store.disk.full_until_ns
        if self.kind != "newest_term" and (full or self.store.held):
            self.store.hold(self)
        else:
            self.take_effect()

    def take_effect(self) -> None:
        """Its instant has come."""
        disk, world = self.store.disk, self.store.disk.world
        if self.epoch != disk.epoch:
            return None
        if self.died_before or self.store._failed or (self.fails and world.rng.random() < 0.5):
            return self._return(None, StoreFailed(f"{self.kind}: outcome unknown"))
        try:
            result = self.effect(*self.args)
        except Superseded as error:
            return self._return(None, error)
        except StoreCorrupt as error:
            return self._return(None, error)
        world.call_in(max(0, self.return_ns - world.now_ns), self._return, result, None)
        return None

    def _return(self, result: Any, error: Exception | None) -> None:
        disk = self.store.disk
        if self.epoch != disk.epoch:
            return
        disk.in_flight[self.kind] -= 1
        if error is None:
            if self.kind == "append":
                disk.durable_number = max(
                    disk.durable_number, min(self.args[0].number, disk.number)
                )
            elif self.kind == "begin_term":
                disk.durable_term = max(disk.durable_term, min(result.term, disk.term))
                disk.durable_number = max(disk.durable_number, min(result.number, disk.number))
            if self.fails or self.store._failed:
                error = StoreFailed(f"{self.kind}: outcome unknown")
        if isinstance(error, StoreFailed):
            self.store._failed = True
            disk.world.log("store-fails", self.kind)
        if self.store.process.alive:
            if self._killed in self.store.process.on_kill:
                self.store.process.on_kill.remove(self._killed)
            self.store.process.post(_answer, self.answer, result, error)


def _answer(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _page(pages: dict[int, bytes], page: int) -> bytes:
    try:
        return pages[page]
    except KeyError:
        raise StoreCorrupt(f"page {page} is missing") from None


ROOM_NS = 50 * MS
"""Between two tries of what waits for room."""
ANSWER_LIMIT_NS = 2 * SECOND
"""No call takes longer than this (for liveness checks)."""
