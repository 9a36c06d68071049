"""The virtual loop runs asyncio's own primitives on simulated time, one seed one order."""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from segue.sim.loop import MS, SECOND, Blame, World

T = TypeVar("T")


def run(world: World, coro: Coroutine[Any, Any, T], limit_s: float = 60, name: str = "p") -> T:
    task = world.process(name).run(coro)
    assert world.run_until(task.done, int(limit_s * SECOND)), "not done in time"
    return task.result()


def test_sleep_takes_simulated_time_only() -> None:
    world = World(1)

    async def body() -> float:
        before = asyncio.get_running_loop().time()
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time() - before

    assert 3600 <= run(world, body(), 4000) < 3600.1
    assert world.now_ns >= 3600 * SECOND


def test_primitives_of_asyncio() -> None:
    world = World(2)

    async def body() -> list[int]:
        lock, event = asyncio.Lock(), asyncio.Event()
        queue: asyncio.Queue[int] = asyncio.Queue()
        seen: list[int] = []

        async def worker(i: int) -> None:
            await event.wait()
            async with lock:
                await asyncio.sleep(0.01)
                seen.append(i)
            queue.put_nowait(i)

        tasks = [asyncio.create_task(worker(i)) for i in range(5)]
        await asyncio.sleep(0)
        event.set()
        assert [await queue.get() for _ in range(5)] == [0, 1, 2, 3, 4]
        await asyncio.gather(*tasks)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.Event().wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.1)
        done, pending = await asyncio.wait(
            [asyncio.create_task(asyncio.sleep(i)) for i in (1, 9)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        assert (len(done), len(pending)) == (1, 1)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0.1))
        return seen

    assert run(world, body()) == [0, 1, 2, 3, 4]


def test_clock_with_offset_and_drift_fires_no_timer_early() -> None:
    world = World(3)
    process = world.process("fast", offset_ns=10**15 + 7, drift_ppm=200)

    async def body() -> int:
        start = process.now_ns()
        for _ in range(50):
            before = process.now_ns()
            await asyncio.sleep(1.0)
            assert process.now_ns() - before >= SECOND - 200
        return process.now_ns() - start

    task = process.run(body())
    assert world.run_until(task.done, 100 * SECOND)
    task.result()
    assert world.now_ns < 50 * SECOND  # its clock runs fast, so the world needed less


def test_killed_process_runs_nothing_more_and_its_finalizers_do_no_harm() -> None:
    world = World(4)
    ran = []
    other = asyncio.Event()

    async def body() -> None:
        try:
            ran.append("start")
            await asyncio.sleep(1)
            ran.append("never")
        finally:
            other.set()

    process = world.process("victim")
    process.run(body())
    world.run_for(SECOND // 2)
    process.kill()
    world.run_for(5 * SECOND)
    gc.collect()
    world.run_for(SECOND)
    assert ran == ["start"]
    assert not process.ready


def test_paused_process_is_late() -> None:
    world = World(5)
    process = world.process("sleeper")
    woke = []

    async def body() -> None:
        await asyncio.sleep(1)
        woke.append(world.now_ns)

    process.run(body())
    world.run_for(SECOND // 2)
    process.pause()
    world.run_for(10 * SECOND)
    assert woke == []
    process.resume()
    world.run_for(SECOND)
    assert len(woke) == 1
    assert woke[0] >= 10 * SECOND


def test_strike_after_so_many_handles_hits_between_two_awaits() -> None:
    def victim(count: int) -> list[int]:
        world = World(6)
        process = world.process("victim")
        at: list[int] = []

        async def body() -> None:
            for i in range(100):
                at.append(i)
                await asyncio.sleep(0)

        process.run(body())
        world.after_handles(process, count, process.kill)
        world.run_for(MS)
        return at

    assert victim(1) == [0]
    assert victim(5) == [0, 1, 2, 3, 4]


def interleaving(seed: int) -> tuple[str, list[str]]:
    world = World(seed)
    seen: list[str] = []

    async def body(name: str) -> None:
        for _ in range(20):
            seen.append(name)
            world.log("turn", name)
            await asyncio.sleep(0)

    tasks = [world.process(name).run(body(name)) for name in "abc"]
    assert world.run_until(lambda: all(t.done() for t in tasks), SECOND)
    return world.digest(), seen


def test_one_seed_one_trace_another_seed_another() -> None:
    assert interleaving(7) == interleaving(7)
    assert interleaving(7)[1] != interleaving(8)[1]


def test_exception_nobody_takes_fails_the_seed() -> None:
    world = World(9)

    async def bad() -> None:
        raise KeyError("lost")

    task = world.process("p").run(bad())
    world.run_for(MS)
    with pytest.raises(Blame, match="never retrieved"):
        del task
        world.run_for(MS)
