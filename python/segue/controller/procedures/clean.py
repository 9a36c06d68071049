"""Making freed locations clean again, so that first writes need no record (rule 11).

1. Take free unclean locations, a batch; commit that this copier is about to zero them: from now on
   they are nobody else's.
2. Zero them, flush their container.
3. Commit that they are clean and free.

A crash anywhere leaves them named with the old copier's fence; the new term frees them, unclean,
when that fence has provably ended, and they are cleaned again.  A batch whose zeroing fails is set
aside, still named, and tried again after a pause, whole: its server may be back by then.

Each container has a cleaner of its own, so one that hangs keeps no other waiting.  It gathers a
batch for a while before it begins (`Settings.clean_linger_s`), unless clean segments are few.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.changes import Cleaned, CleaningBegun
from segue.controller.procedures.flush_failed import copier_flush
from segue.controller.record import location_of, segment_of
from segue.controller.settings import SECOND_NS

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.clean")

RETRY_S = 1.0
"""First pause before a batch that failed is tried again; doubles."""
LONGEST_RETRY_S = 30.0
ASIDE_MOST = 4
"""Batches set aside at one container, beyond which no further one is begun there."""


class Cleaner:
    """Cleans what is freed in one container, for as long as the term lasts."""

    def __init__(self, c: Controller, number: int) -> None:
        self._c = c
        self._number = number
        self.work = asyncio.Event()
        self.busy = False
        """A batch is being zeroed: space is about to appear."""
        self._aside: list[list[int]] = []

    async def run(self) -> None:
        """Ends with the container."""
        c, pause_s = self._c, RETRY_S
        await c.background.fences_past({self._number})
        while True:
            if self._aside:
                await c.background.before_trying_again(pause_s)
                pause_s = min(LONGEST_RETRY_S, 2 * pause_s)
            else:
                await self.work.wait()
                await self._gather()
                pause_s = RETRY_S
            self.work.clear()
            if self._number not in c.table.containers:
                return
            self.busy = True
            with c.waits.work(f"cleaning freed segments of {c.name_of_container(self._number)}"):
                await self._round()
            self.busy = False
            c.background.wake_waiters()

    async def _gather(self) -> None:
        """Returns when there is a batch, clean segments are few, or after a while.

        What moves is freed one by one: two commits and a flush for each would cost hosts more than
        the copying does.
        """
        c = self._c
        until_ns = c.clock.now_ns() + round(c.settings.clean_linger_s * SECOND_NS)
        while (container := c.table.containers.get(self._number)) is not None:
            space, batch = container.space, c.settings.clean_batch
            left_s = c.seconds(until_ns - c.clock.now_ns())
            if left_s <= 0 or space.free_clean < batch or space.unclean_free() >= batch:
                return
            self.work.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self.work.wait()

    async def _round(self) -> None:
        """Tries again what was set aside, then goes on until nothing is left or one fails."""
        for batch in list(self._aside):
            if await self._zero(batch):
                self._aside.remove(batch)
        while len(self._aside) < ASIDE_MOST and (batch := take_unclean(self._c, self._number)):
            await self._c.commit(CleaningBegun(batch, self._c.fence))
            failpoints.hit("clean.begun")
            if not await self._zero(batch):
                self._aside.append(batch)
                return

    async def _zero(self, batch: list[int]) -> bool:
        """Zeroes a batch that is named; False if the container failed, or is given up."""
        c, number = self._c, self._number
        await c.stamps.before_reuse(number)
        failures = c.copier_failures.get(number, 0)
        try:
            for location in batch:
                if c.is_leaving(number):
                    return False
                await self._zero_segment(segment_of(location))
            await copier_flush(c, number, failures)
        except OSError as error:
            log.warning("event=cleaning_failed container=%d error=%s", number, error)
            return False
        failpoints.hit("clean.zeroed")
        if c.is_leaving(number):
            return False
        await c.commit(Cleaned(batch))
        c.background.wake_waiters()
        return True

    async def _zero_segment(self, segment: int) -> None:
        c, number = self._c, self._number
        length = c.table.containers[number].row.segment_bytes
        start = segment * length
        for at in range(start, start + length, c.settings.copy_piece_bytes):
            piece = min(c.settings.copy_piece_bytes, start + length - at)
            await c.copier_may_write()
            with c.waits.on("storage", c.name_of_container(number)):
                await c.storage.zero(number, at, piece)


def take_unclean(c: Controller, number: int) -> list[int]:
    """Reserves a batch of free unclean locations of a container.

    While clean ones are few it leaves at least half, and one: a first write that finds nothing
    else takes an unclean one with a record, and need not wait for any zeroing.
    """
    if not c.may_allocate(number):
        return []
    container = c.table.containers[number]
    space, taken = container.space, list[int]()
    unclean = space.unclean_free()
    keep = 0 if space.free_clean >= c.settings.clean_batch else max(1, unclean // 2)
    most = min(c.settings.clean_batch, unclean - keep)
    if not container.row.clean:
        most = min(most, c.settings.clean_ahead_segments - space.free_clean)
    while len(taken) < most and (found := space.take(clean=False)) is not None:
        taken.append(location_of(number, found[0]))
    return taken
