"""Several pieces may be under way to a container, and one while hosts wait there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from segue.controller.copier import CALM_NS, Slots

MOST = 4


class World:
    """A controller with a clock, as far as `Slots` looks; pieces that end when they are told to."""

    def __init__(self) -> None:
        self.clock = self
        self.time_ns = 0
        self.slots = Slots(cast(Any, self), MOST)
        self.ends: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []

    def now_ns(self) -> int:
        return self.time_ns

    async def begin(self, count: int) -> None:
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self._piece()))
        await settle()

    async def _piece(self) -> None:
        async with self.slots.one():
            end = asyncio.Event()
            self.ends.append(end)
            try:
                await end.wait()
            finally:
                self.ends.remove(end)

    async def end_one(self) -> None:
        self.ends[0].set()
        await settle()

    async def end_all(self) -> None:
        while self.ends:
            await self.end_one()
        assert all(task.done() for task in self.tasks)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def run(test: Callable[[World], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(World())

    asyncio.run(main())


def test_so_many_and_no_more() -> None:
    async def story(world: World) -> None:
        await world.begin(6)
        assert len(world.ends) == MOST
        await world.end_one()
        assert len(world.ends) == MOST
        await world.end_all()

    run(story)


def test_one_while_a_host_waits_and_shortly_after() -> None:
    async def story(world: World) -> None:
        with world.slots.host_waits():
            await world.begin(3)
            assert len(world.ends) == 1
        await world.end_one()
        assert len(world.ends) == 1
        world.time_ns += CALM_NS
        await world.begin(2)
        assert len(world.ends) == 4
        with world.slots.host_waits():
            # What is under way is not stopped; nothing is begun before it has ended.
            await world.begin(2)
            for left in (3, 2, 1, 1):
                await world.end_one()
                assert len(world.ends) == left
        await world.end_all()

    run(story)


def test_who_is_cancelled_leaves_the_queue_and_takes_no_slot() -> None:
    async def story(world: World) -> None:
        with world.slots.host_waits():
            await world.begin(3)
            waiting = world.tasks[1]
            waiting.cancel()
            await settle()
            assert len(world.ends) == 1
            await world.end_one()
            assert len(world.ends) == 1
            world.tasks[2].cancel()
            await world.begin(1)
            assert len(world.ends) == 1
            await world.end_one()
        assert not world.ends

    run(story)
