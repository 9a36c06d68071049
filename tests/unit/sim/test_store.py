"""The simulated store keeps the contract, and loses no more than it may."""

import asyncio
from typing import Any

import pytest

from segue.sim.loop import MS, SECOND, World
from segue.sim.store import SimStore, StoreDisk
from segue.store.contract import StoreFailed, Superseded


def test_commits_are_durable_when_they_return_and_a_suffix_goes() -> None:
    for seed in range(30):
        world = World(seed)
        disk = StoreDisk(world)
        process = world.process("c")
        returned: list[int] = []

        async def body(store: SimStore, returned: list[int] = returned) -> None:
            loaded = await store.begin_term()
            for number in range(loaded.number + 1, loaded.number + 50):
                await store.append(loaded.term, number, b"x")
                returned.append(number)

        process.run(body(disk.open(process)))
        world.run_for(5 * MS)
        process.kill()
        disk.lose_power()
        assert disk.number >= (returned[-1] if returned else 0)
        assert [r.number for r in disk.log] == list(range(1, disk.number + 1))


def test_newer_term_refuses_the_older() -> None:
    world = World(3)
    disk = StoreDisk(world)

    async def old(store: SimStore, go: asyncio.Event) -> None:
        loaded = await store.begin_term()
        await store.append(loaded.term, 1, b"a")
        await go.wait()
        with pytest.raises(Superseded):
            await store.append(loaded.term, 2, b"b")

    async def new(store: SimStore) -> int:
        loaded = await store.begin_term()
        assert [r.body for r in loaded.log] == [b"a"]
        await store.append(loaded.term, 2, b"c")
        return await store.newest_term()

    go = asyncio.Event()
    one, two = world.process("one"), world.process("two")
    first = one.run(old(disk.open(one), go))
    world.run_for(SECOND)
    second = two.run(new(disk.open(two)))
    assert world.run_until(second.done, SECOND)
    assert second.result() == 2
    one.post(go.set)
    assert world.run_until(first.done, SECOND)
    first.result()
    assert disk.log[-1].body == b"c"


def test_failed_call_is_of_unknown_outcome_and_ends_the_connection() -> None:
    happened = set()
    for seed in range(200):
        world = World(seed)
        disk = StoreDisk(world)
        process = world.process("c")

        returned: list[int] = []

        async def body(store: SimStore, returned: list[int] = returned) -> None:
            loaded = await store.begin_term()
            for number in range(1, 100):
                await store.append(loaded.term, number, b"x")
                returned.append(number)

        async def whole(store: SimStore, body: Any = body) -> None:
            with pytest.raises(StoreFailed):
                await body(store)
            with pytest.raises(StoreFailed):
                await store.newest_term()

        disk.fail_until_ns = SECOND
        task = process.run(whole(disk.open(process)))
        assert world.run_until(task.done, SECOND)
        task.result()
        happened.add(disk.number - len(returned))
    assert happened == {0, 1}


def test_a_full_store_holds_what_needs_room_in_its_order() -> None:
    world = World(5)
    disk = StoreDisk(world)
    process = world.process("c")

    async def body(store: SimStore) -> int:
        loaded = await store.begin_term()
        disk.full_until_ns = world.now_ns + SECOND
        waiting = [asyncio.ensure_future(store.append(loaded.term, n, b"x")) for n in (1, 2, 3)]
        while store.no_room() is None:
            assert await store.newest_term() == loaded.term
        await asyncio.gather(*waiting)
        return world.now_ns

    task = process.run(body(disk.open(process)))
    assert world.run_until(task.done, 2 * SECOND)
    assert task.result() >= SECOND
    assert [record.number for record in disk.log] == [1, 2, 3]


def test_what_a_dead_process_held_for_lack_of_room_never_happens() -> None:
    world = World(6)
    disk = StoreDisk(world)
    process = world.process("c")

    async def body(store: SimStore) -> None:
        loaded = await store.begin_term()
        disk.full_until_ns = world.now_ns + SECOND
        await store.append(loaded.term, 1, b"x")

    process.run(body(disk.open(process)))
    world.run_for(SECOND // 2)
    process.kill()
    world.run_for(2 * SECOND)
    assert disk.term == 1
    assert disk.log == []
