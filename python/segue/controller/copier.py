"""The copier: pieces of incomplete extents, one after another, several extents at once.

A piece is bounded by size and by time: so much as the containers at its two ends have lately done
in `PIECE_NS`, for a faulted write waits for one piece at the most (rule 12).  While hosts' I/O
waits for the controller at a container, one piece at a time goes there, or what the I/O writes and
flushes would stand behind several of them in the device.  How much is copied in all is bounded by
what the record's job allows (`pacing.py`).

What holds which range, and when a copy counts, is `procedures/complete.py`'s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from segue.controller.record import Record, container_of, is_location, segment_of

if TYPE_CHECKING:
    from segue.controller.controller import Controller
    from segue.controller.table import Disk

PIECE_NS = 5_000_000
"""What a piece may take."""
SMALLEST_PIECE = 128 << 10
"""Bytes; below it what a request costs by itself would decide how fast a movement is."""
CALM_NS = 50_000_000
"""After so long without a host that waits, more than one piece may be under way again."""
_WEIGHT = 0.25
"""Of the newest piece in the measured rate."""


class Slots:
    """How many pieces may be under way to one container: `most`, but one while hosts wait there."""

    def __init__(self, c: Controller, most: int) -> None:
        self._clock = c.clock
        self._most = most
        self._under_way = 0
        self._turns: deque[asyncio.Future[None]] = deque()
        self._hosts = 0
        self._calm_ns = 0

    @contextmanager
    def host_waits(self) -> Iterator[None]:
        """A host's I/O waits for what happens inside."""
        self._hosts += 1
        try:
            yield
        finally:
            self._hosts -= 1
            self._calm_ns = self._clock.now_ns() + CALM_NS

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """One of them, after all who asked before."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        self._hand_on()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._under_way -= 1
            elif turn in self._turns:
                self._turns.remove(turn)
            self._hand_on()

    def _hand_on(self) -> None:
        # One is under way whenever somebody waits: its end comes here again.
        calm = not self._hosts and self._clock.now_ns() >= self._calm_ns
        while self._turns and self._under_way < (self._most if calm else 1):
            turn = self._turns.popleft()
            if not turn.cancelled():
                self._under_way += 1
                turn.set_result(None)


class Copier:
    """Carries out pieces, and remembers how fast containers are."""

    def __init__(self, c: Controller) -> None:
        self._c = c
        self._slots: dict[int, Slots] = {}
        self._bytes_per_ns: dict[tuple[int, int], float] = {}
        """(container read, or 0 for zeroes; container written) -> measured rate."""

    def slots(self, container: int) -> Slots:
        """Those of that container; one is to be taken before any range is held.

        A container that hangs keeps only its own.
        """
        slots = self._slots.get(container)
        if slots is None:
            most = self._c.settings.copy_pieces_at_once
            slots = self._slots[container] = Slots(self._c, most)
        return slots

    def piece_blocks(self, location: int, record: Record, disk: Disk) -> int:
        """Blocks of a piece now: whole write units of the container written, at least one."""
        row = self._c.table.containers[container_of(location)].row
        unit = disk.unit_blocks(row.write_unit_bytes)
        most = self._c.settings.copy_piece_bytes
        rate = self._bytes_per_ns.get(_ends(record.source, location))
        if rate is not None:
            most = min(most, max(SMALLEST_PIECE, int(rate * PIECE_NS)))
        return max(1, most // disk.block_bytes // unit) * unit

    async def piece(
        self, location: int, record: Record, disk: Disk, first: int, count: int
    ) -> None:
        """Makes a run of blocks at the location what the source says; raises `OSError`.

        The caller holds it at both ends, and one of `slots`.  Whole write units are written: behind
        the disk's end lies nothing that anybody reads.
        """
        c = self._c
        row = c.table.containers[container_of(location)].row
        unit = disk.unit_blocks(row.write_unit_bytes)
        start, length = first * disk.block_bytes, -(-count // unit) * unit * disk.block_bytes
        target = segment_of(location) * disk.segment_bytes + start
        await c.copier_may_write()
        began_ns = c.clock.now_ns()
        with c.waits.on("storage", c.name_of_container(container_of(location))):
            if is_location(record.source):
                source = segment_of(record.source) * disk.segment_bytes + start
                await c.storage.copy(
                    container_of(record.source), source, container_of(location), target, length
                )
            else:
                await c.storage.zero(container_of(location), target, length)
        self._measured(_ends(record.source, location), length, c.clock.now_ns() - began_ns)

    def _measured(self, ends: tuple[int, int], length: int, took_ns: int) -> None:
        rate = length / max(1, took_ns)
        old = self._bytes_per_ns.get(ends, rate)
        self._bytes_per_ns[ends] = old + _WEIGHT * (rate - old)


def _ends(source: int, location: int) -> tuple[int, int]:
    return container_of(source) if is_location(source) else 0, container_of(location)
