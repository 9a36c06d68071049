"""Locks are fair, give way to nobody out of turn, and survive cancelled waiters."""

from __future__ import annotations

import asyncio

import pytest

from segue.controller.locks import BlockRanges, Locks


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_waiting_writer_holds_back_later_readers() -> None:
    async def story() -> list[str]:
        locks, events = Locks(), []

        async def user(name: str, exclusive: bool) -> None:
            async with locks.hold("k", exclusive=exclusive):
                events.append(name)
                await gate.wait()

        gate = asyncio.Event()
        tasks = [
            asyncio.create_task(user(n, x)) for n, x in (("r1", False), ("w", True), ("r2", False))
        ]
        await settle()
        assert events == ["r1"]
        gate.set()
        await asyncio.gather(*tasks)
        assert locks.is_free("k")
        return events

    assert asyncio.run(story()) == ["r1", "w", "r2"]


def test_a_cancelled_waiter_lets_those_behind_it_pass() -> None:
    async def story() -> None:
        locks = Locks()
        await locks.acquire("k", exclusive=False)
        writer = asyncio.create_task(locks.acquire("k", exclusive=True))
        reader = asyncio.create_task(locks.acquire("k", exclusive=False))
        await settle()
        assert not reader.done()
        writer.cancel()
        await settle()
        assert reader.done()
        with pytest.raises(asyncio.CancelledError):
            await writer
        locks.release("k", exclusive=False)
        locks.release("k", exclusive=False)
        assert locks.is_free("k")

    asyncio.run(story())


def test_a_waiter_cancelled_as_it_is_handed_the_lock_gives_it_back() -> None:
    async def story() -> None:
        locks = Locks()
        await locks.acquire("k", exclusive=True)
        waiter = asyncio.create_task(locks.acquire("k", exclusive=True))
        await settle()
        locks.release("k", exclusive=True)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert locks.is_free("k")

    asyncio.run(story())


def test_block_ranges_exclude_only_what_overlaps() -> None:
    async def story() -> list[str]:
        blocks, events = BlockRanges(), []

        async def user(name: str, bits: int, exclusive: bool, gate: asyncio.Event) -> None:
            async with blocks.hold(1, bits, exclusive):
                events.append(name)
                await gate.wait()

        first, rest = asyncio.Event(), asyncio.Event()
        rest.set()
        tasks = [
            asyncio.create_task(user("write 0-1", 0b0011, True, first)),
            asyncio.create_task(user("read 1-2", 0b0110, False, rest)),
            asyncio.create_task(user("write 2", 0b0100, True, rest)),
            asyncio.create_task(user("read 3", 0b1000, False, rest)),
        ]
        await settle()
        assert blocks.taken(1) == 0b0111
        assert events == ["write 0-1", "read 3"]
        first.set()
        await asyncio.gather(*tasks)
        assert blocks.taken(1) == 0
        return events

    assert asyncio.run(story()) == ["write 0-1", "read 3", "read 1-2", "write 2"]
