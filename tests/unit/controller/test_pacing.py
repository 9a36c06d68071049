"""Jobs are held to their bandwidth, and slow down while hosts wait."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from segue.controller.changes import JobMade
from segue.controller.controller import Controller
from segue.controller.felt import Felt
from segue.controller.pacing import BURST_NS, FASTEST, SLOWEST, Pacing
from segue.controller.settings import Settings
from segue.controller.table import Table

SECOND_NS = 1_000_000_000
MIB = 1 << 20


class World:
    """As much of a controller as pacing looks at; time passes by sleeping only."""

    def __init__(self, job: JobMade) -> None:
        self.now = 10 * SECOND_NS
        self.table = Table()
        self.table.apply([job])
        self.p99: int | None = None
        self.asked = 0
        self.settings = Settings()
        self.clock, self.felt = self, self
        self.tasks: list[asyncio.Task[None]] = []

    def now_ns(self) -> int:
        return self.now

    def seconds(self, ns: int) -> float:
        return ns / SECOND_NS

    async def lately(self, job: int) -> Felt | None:
        self.asked += 1
        return None if self.p99 is None else Felt(self.p99, 1)

    def forget(self, job: int) -> None:
        pass

    def spawn(self, work: Any) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(work))


async def copied_in(world: World, pacing: Pacing, pieces: int, took_ns: int) -> float:
    """Seconds in which a job copies so many MiB, if each takes so long by itself."""
    begun = world.now
    for _ in range(pieces):
        await pacing.take(1, MIB)
        world.now += took_ns
        await asyncio.sleep(0)
    return (world.now - begun) / SECOND_NS


def run(
    monkeypatch: pytest.MonkeyPatch, job: JobMade, *parts: tuple[int | None, int]
) -> tuple[World, list[float]]:
    """MiB a second of each part: (what hosts' p99 is meanwhile, pieces)."""

    async def main() -> tuple[World, list[float]]:
        world = World(job)
        pacing = Pacing(cast("Controller", world))

        async def sleep(seconds: float) -> None:
            world.now += round(seconds * SECOND_NS)

        with monkeypatch.context() as patched:
            real = asyncio.sleep
            patched.setattr("segue.controller.pacing.asyncio.sleep", sleep)
            patched.setattr("asyncio.sleep", lambda s: real(s) if not s else sleep(s))
            rates = []
            for p99, pieces in parts:
                world.p99 = p99
                rates.append(pieces / await copied_in(world, pacing, pieces, 1_000_000))
            return world, rates

    return asyncio.run(main())


def test_bandwidth_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _, [rate] = run(monkeypatch, JobMade(1, "move", 1, 1, 0, 0, 100 * MIB), (None, 500))
    assert rate == pytest.approx(100, rel=0.05)
    assert BURST_NS < SECOND_NS


def test_a_job_knows_when_its_rate_is_used_up() -> None:
    async def main() -> None:
        world = World(JobMade(1, "move", 1, 1, 0, 0, 100 * MIB))
        pacing = Pacing(cast("Controller", world))
        assert pacing.ahead_s(1, 0) == 0, "nothing was taken"
        assert pacing.ahead_s(1, 10 * MIB) == pytest.approx(0.1)
        await pacing.take(1, 50 * MIB)
        burst_s = BURST_NS / SECOND_NS
        assert pacing.ahead_s(1, 0) == pytest.approx(0.5 - burst_s)
        assert pacing.ahead_s(1, 10 * MIB) == pytest.approx(0.6 - burst_s)
        world.now += 2 * SECOND_NS
        assert pacing.ahead_s(1, 10 * MIB) == pytest.approx(0.1 - burst_s), "it may catch up so far"

    asyncio.run(main())


def test_without_a_limit_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    world, [rate] = run(monkeypatch, JobMade(1, "move", 1, 1, 0, 0, 0), (9_000_000, 500))
    assert rate == pytest.approx(1000)
    assert world.asked == 0
    assert Pacing(cast("Controller", world)).ahead_s(1, MIB) == 0


def test_a_job_slows_down_while_hosts_wait_and_recovers(monkeypatch: pytest.MonkeyPatch) -> None:
    job = JobMade(1, "move", 1, 1, 0, 0, 0, latency_us=2000)
    parts = ((1_000_000, 500), (9_000_000, 500), (9_000_000, 50), (1_000_000, 8000))
    world, (calm, _, waiting, calm_again) = run(monkeypatch, job, *parts)
    assert calm == pytest.approx(1000)
    assert waiting < calm / 3
    assert waiting * MIB > SLOWEST / 2
    assert calm_again > waiting * 3
    assert calm < FASTEST
    seconds = world.now / SECOND_NS - 10
    assert world.asked <= seconds / world.settings.felt_look_s + 1


def test_another_bandwidth_is_noticed_by_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(JobMade(1, "move", 1, 1, 0, 0, MIB // 1000))
        pacing = Pacing(cast("Controller", world))

        async def sleep(seconds: float) -> None:
            world.now += round(seconds * SECOND_NS)
            if world.now > 15 * SECOND_NS:
                pacing.limited(1)

        monkeypatch.setattr("segue.controller.pacing.asyncio.sleep", sleep)
        await pacing.take(1, MIB)
        await pacing.take(1, MIB)
        assert world.now < 17 * SECOND_NS, "not the 1000 s of a second piece"

    asyncio.run(main())


def test_while_nothing_is_known_the_rate_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    job = JobMade(1, "move", 1, 1, 0, 0, 0, latency_us=2000)
    _, (_, slow, unknown, nobody) = run(
        monkeypatch, job, (9_000_000, 500), (9_000_000, 50), (None, 50), (0, 500)
    )
    assert unknown == pytest.approx(slow, rel=0.1)
    assert nobody > slow * 3, "no host is at work"
