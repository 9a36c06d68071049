"""The locks of the controller: disks, segments, extents, and blocks of incomplete extents.

Order: disk, segment ascending, extent, blocks (design, section 5).  All are fair: who asked first
goes first, so a stream of shared holders cannot starve an exclusive one.  A lock exists only while
somebody holds or wants it, so a table of millions of segments costs nothing.

A task that is cancelled while it waits leaves the queue; one that has been given the lock at that
very moment gives it back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from segue.controller.waits import Waits, note_held, note_released


class _Lock:
    __slots__ = ("exclusive", "shared", "waiters")

    def __init__(self) -> None:
        self.shared = 0
        self.exclusive = False
        self.waiters: deque[tuple[asyncio.Future[None], bool]] = deque()

    def __str__(self) -> str:
        mode = "exclusive" if self.exclusive else f"shared by {self.shared}"
        return f"{mode}, {len(self.waiters)} waiting"


class Locks:
    """Shared and exclusive locks by key."""

    def __init__(self, waits: Waits | None = None) -> None:
        self._waits = waits or Waits()
        self._locks: dict[Hashable, _Lock] = {}

    def is_free(self, key: Hashable) -> bool:
        """Whether nobody holds or waits for it."""
        return key not in self._locks

    def exclusively_held(self, key: Hashable) -> bool:
        """Whether somebody holds it exclusively, or waits to: its entry is about to change."""
        lock = self._locks.get(key)
        return lock is not None and (lock.exclusive or bool(lock.waiters))

    def try_acquire(self, key: Hashable, exclusive: bool) -> bool:
        """Takes the lock if that needs no waiting."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = _Lock()
        elif lock.waiters or lock.exclusive or (exclusive and lock.shared):
            return False
        if exclusive:
            lock.exclusive = True
        else:
            lock.shared += 1
        note_held(key)
        return True

    async def acquire(self, key: Hashable, exclusive: bool) -> None:
        """Takes the lock, after all who asked before."""
        if self.try_acquire(key, exclusive):
            return
        lock = self._locks[key]
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (turn, exclusive)
        lock.waiters.append(waiter)
        try:
            with self._waits.on("lock", key):
                await turn
            note_held(key)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(key, exclusive)
            elif waiter in lock.waiters:
                lock.waiters.remove(waiter)
                self._hand_on(key, lock)
            raise

    @contextmanager
    def claim(self, key: Hashable) -> Iterator[None]:
        """Holds the lock shared for what is under way already, whoever else holds or wants it."""
        self._locks.setdefault(key, _Lock()).shared += 1
        note_held(key)
        try:
            yield
        finally:
            self.release(key, exclusive=False)

    def release(self, key: Hashable, exclusive: bool) -> None:
        """Gives it back and hands it on."""
        note_released(key)
        lock = self._locks[key]
        if exclusive:
            lock.exclusive = False
        else:
            lock.shared -= 1
        self._hand_on(key, lock)

    def _hand_on(self, key: Hashable, lock: _Lock) -> None:
        while lock.waiters and not lock.exclusive:
            turn, exclusive = lock.waiters[0]
            if exclusive and lock.shared:
                return
            lock.waiters.popleft()
            if turn.cancelled():
                continue
            if exclusive:
                lock.exclusive = True
            else:
                lock.shared += 1
            turn.set_result(None)
        if not lock.waiters and not lock.exclusive and not lock.shared:
            del self._locks[key]

    @asynccontextmanager
    async def hold_each(self, *locks: tuple[Hashable, bool]) -> AsyncIterator[None]:
        """Holds several locks, (key, exclusive), taken in the order given."""
        taken: list[tuple[Hashable, bool]] = []
        try:
            for key, exclusive in locks:
                await self.acquire(key, exclusive)
                taken.append((key, exclusive))
            yield
        finally:
            for key, exclusive in reversed(taken):
                self.release(key, exclusive)

    def hold(self, *keys: Hashable, exclusive: bool) -> AbstractAsyncContextManager[None]:
        """Holds several locks in the same mode, taken in the order given."""
        return self.hold_each(*((key, exclusive) for key in keys))

    def held(self) -> Iterator[tuple[Hashable, str]]:
        """Every lock that exists, and how it stands (`segue status`, the simulator)."""
        for key, lock in self._locks.items():
            yield key, str(lock)

    def state(self, key: Hashable) -> str | None:
        """How the lock stands, for people; None: nobody holds or wants it."""
        lock = self._locks.get(key)
        return None if lock is None else str(lock)


@dataclass(slots=True, eq=False)
class _Range:
    key: int
    bits: int
    exclusive: bool
    turn: asyncio.Future[None] | None = field(default=None)

    def conflicts(self, other: _Range) -> bool:
        return (self.exclusive or other.exclusive) and bool(self.bits & other.bits)


class BlockRanges:
    """Blocks at locations of incomplete extents, held shared or exclusive (rule 12).

    Exclusively where something is written, shared where something is read: a copy holds a range at
    either end.  The range at an extent's own location guards its bits as well, so a faulted I/O
    holds all its blocks there and then, shared, those that it reads from the source; whoever holds
    both takes them in that order.  The copier takes only what nobody has at the location it writes.
    Fair: a range waits for every earlier one that it conflicts with, held or waiting.
    """

    def __init__(self, waits: Waits | None = None) -> None:
        self._waits = waits or Waits()
        self._ranges: dict[int, list[_Range]] = {}

    def taken(self, location: int) -> int:
        """Bitmap of all blocks that are held or wanted there."""
        bits = 0
        for other in self._ranges.get(location, ()):
            bits |= other.bits
        return bits

    @asynccontextmanager
    async def hold(self, location: int, bits: int, exclusive: bool) -> AsyncIterator[None]:
        """Holds the blocks of a bitmap, after all earlier conflicting holders have let go.

        At location 0, zeroes, there is nothing to hold.
        """
        if not location or not bits:
            yield
            return
        mine = _Range(location, bits, exclusive)
        queue = self._ranges.setdefault(location, [])
        blocked = any(other.conflicts(mine) for other in queue)
        queue.append(mine)
        try:
            if blocked:
                mine.turn = asyncio.get_running_loop().create_future()
                with self._waits.on("blocks", location):
                    await mine.turn
            yield
        finally:
            self._let_go(mine)

    @contextmanager
    def claim(self, location: int, bits: int, exclusive: bool) -> Iterator[None]:
        """Holds the blocks for I/O that is under way already, whoever else does."""
        if not location or not bits:
            yield
            return
        mine = _Range(location, bits, exclusive)
        self._ranges.setdefault(location, []).append(mine)
        try:
            yield
        finally:
            self._let_go(mine)

    def _let_go(self, mine: _Range) -> None:
        queue = self._ranges[mine.key]
        queue.remove(mine)
        for at, other in enumerate(queue):
            if other.turn is None or other.turn.done():
                continue
            if not any(earlier.conflicts(other) for earlier in queue[:at]):
                other.turn.set_result(None)
        if not queue:
            del self._ranges[mine.key]

    def held(self) -> Iterator[tuple[int, int]]:
        """(location, bitmap) of everything held or wanted."""
        for location in self._ranges:
            yield location, self.taken(location)
