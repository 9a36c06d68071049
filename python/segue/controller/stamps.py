"""The newest (term, commit number) in every container's header (promise P7).

Written now and then, at a clean stop, and before the first reuse of a freed location after each
stamp: a copy of the store from before the location was freed is then found to be old, by the very
container whose bytes it would show as somebody else's.  So a reuse waits for its own container's
stamp alone, and a container whose server is away keeps nobody else waiting.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from segue import failpoints
from segue.controller.ports import Stamp

if TYPE_CHECKING:
    from segue.controller.controller import Controller

log = logging.getLogger("segue.controller.stamps")

PATIENCE_S = 5.0
"""How long one round waits for stamps; those still being written then are left to themselves."""


class Stamps:
    """Who has been stamped with what, in one term."""

    def __init__(self, c: Controller) -> None:
        self._c = c
        self._stamped: dict[int, Stamp] = {}
        self._reused: set[int] = set()
        """Containers of which a freed location was used again since their last stamp."""
        self._locks: dict[int, asyncio.Lock] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        """Of the last round, and of earlier ones those still writing."""

    async def all(self) -> None:
        """Stamps every open container."""
        for number in sorted(self._c.open_containers - self._tasks.keys()):
            self._tasks[number] = self._c.spawn(self._in_round(number))
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=PATIENCE_S)

    async def _in_round(self, number: int) -> None:
        try:
            await self._stamp(number)
        finally:
            del self._tasks[number]

    async def before_reuse(self, number: int) -> None:
        """Called before a freed location of the container is used again."""
        if number not in self._reused and await self._stamp(number):
            self._reused.add(number)

    async def _stamp(self, number: int) -> bool:
        """Whether the container carries this moment's stamp; if not, it is tried again."""
        c = self._c
        async with self._locks.setdefault(number, asyncio.Lock()):
            newest = Stamp(c.term, c.table.number)
            begun_ns = c.clock.now_ns()
            if newest == self._stamped.get(number):
                return True
            if number not in c.open_containers or await c.store.newest_term() != c.term:
                return False
            c.storage.extend(begun_ns + c.settings.lease_ns)
            try:
                with c.waits.on("storage", c.name_of_container(number)):
                    await c.storage.stamp(number, newest)
            except OSError as error:
                log.warning("event=stamp_failed container=%d error=%s", number, error)
                return False
            failpoints.hit("stamp.written")
            self._stamped[number] = newest
            self._reused.discard(number)
            return True
