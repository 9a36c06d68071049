"""Every wait is known while it lasts: what waits, for what, since when; and nothing is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from segue.controller.locks import BlockRanges, Locks
from segue.controller.waits import Waits, current_work


class Clock:
    """A clock that is set by hand."""

    ns = 0

    def now_ns(self) -> int:
        return self.ns


async def settled() -> None:
    """Until every task has come to its next wait."""
    for _ in range(10):
        await asyncio.sleep(0)


def begun(waits: Waits, what: object, procedure: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task as `Controller.spawn` makes it."""
    work, context = waits.begin(what)
    task = asyncio.get_running_loop().create_task(procedure, context=context)
    task.add_done_callback(lambda _: waits.end(work))
    return task


def test_a_wait_names_its_work_its_kind_and_its_age() -> None:
    async def main() -> None:
        clock = Clock()
        waits = Waits(clock.now_ns)
        locks = Locks(waits)
        let_go = asyncio.Event()

        async def hold() -> None:
            async with locks.hold("k", exclusive=True):
                await let_go.wait()

        holder = begun(waits, "holder", hold())
        await settled()
        clock.ns = 5
        waiter = begun(waits, "waiter", hold())
        await settled()
        clock.ns = 12
        [first], [second] = waits.holders("k"), waits.waiters("k")
        assert (str(first.what), str(second.what)) == ("holder", "waiter")
        assert [(w.kind, w.what, w.since_ns) for w in second.waits] == [("lock", "k", 5)]
        assert not first.waits
        let_go.set()
        await asyncio.gather(holder, waiter)
        assert second.spent_ns == {"lock": 7}
        assert not second.held and not second.waits
        assert not waits.works

    asyncio.run(main())


def test_a_task_of_a_work_waits_in_its_name() -> None:
    async def main() -> None:
        waits = Waits()
        blocks = BlockRanges(waits)
        async with blocks.hold(7, 0b110, exclusive=True):

            async def take(bits: int) -> None:
                async with blocks.hold(7, bits, exclusive=True):
                    assert current_work() is not None

            async def both() -> None:
                await asyncio.gather(take(0b10), take(0b100), take(0b1))

            task = begun(waits, "both", both())
            await settled()
            [work] = waits.works
            assert [(wait.kind, wait.what) for wait in work.waits] == [("blocks", 7)] * 2
        await task
        assert not waits.works

    asyncio.run(main())


def test_a_task_begun_by_a_work_is_its_own() -> None:
    """What a fault leaves behind (completing, a checkpoint) is not the fault."""

    async def main() -> None:
        waits = Waits()
        seen: list[object] = []

        async def child() -> None:
            work = current_work()
            seen.append(work and work.what)

        async def parent() -> None:
            await asyncio.gather(
                begun(waits, None, child()),
                begun(waits, "other", child()),
            )
            await child()

        await begun(waits, "parent", parent())
        assert seen == [None, "other", "parent"]

    asyncio.run(main())


def test_a_wait_that_is_cancelled_is_gone() -> None:
    async def main() -> None:
        waits = Waits()
        locks = Locks(waits)
        await locks.acquire("k", exclusive=True)
        task = begun(waits, "w", locks.acquire("k", exclusive=True))
        await settled()
        assert len(waits.waiters("k")) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not waits.works
        locks.release("k", exclusive=True)
        assert locks.is_free("k")

    asyncio.run(main())
