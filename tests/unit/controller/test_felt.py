"""What hosts of a job feel: when an interval ends, which disk counts, what is not known."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from segue import _native
from segue.controller.changes import JobMade
from segue.controller.controller import Controller
from segue.controller.felt import Felt, HostLatency
from segue.controller.peer import PeerState, SessionLost
from segue.controller.settings import Settings
from segue.wire.messages import Cause, LatencyRow

MS = 1_000_000
LONGEST_NS = Settings().felt_interval_ns
CLEAN, DO_WRITE, PARKED = Cause.CLEAN, Cause.DO_WRITE, Cause.PARKED


class Agent:
    """A peer that has counted what a test says."""

    state = PeerState.PRESENT
    incarnation = 1
    away = False
    gone = False

    def __init__(self) -> None:
        self.asked: list[int] = []
        self._rows: dict[tuple[int, int, Cause], dict[int, int]] = {}

    def count(self, disk: int, count: int, ns: int, cause: Cause = CLEAN, op: int = 2) -> None:
        """So many I/Os of that time."""
        times = self._rows.setdefault((disk, op, cause), {})
        times[ns] = times.get(ns, 0) + count

    async def latency(self, request: int, disk: int) -> list[LatencyRow]:
        """Its histograms of a disk."""
        self.asked.append(disk)
        if self.away:
            raise SessionLost
        return [
            LatencyRow(
                op,
                cause,
                sum(ns * n for ns, n in times.items()),
                max(times),
                [_native.latency_bucket(ns) for ns in times],
                list(times.values()),
            )
            for (of, op, cause), times in self._rows.items()
            if of == disk
        ]


class World:
    """As much of a controller as is looked at: three disks, one of them elsewhere."""

    def __init__(self, kind: str = "move", disk: int = 1) -> None:
        self.agent = Agent()
        self.now = 0
        self.settings = Settings()
        self.clock = SimpleNamespace(now_ns=lambda: self.now)
        row = JobMade(1, kind, disk, 8, 0, 0, 0, latency_us=1000)
        self.table = SimpleNamespace(
            jobs={1: SimpleNamespace(row=row)},
            attached={1: {1: 1}, 2: {1: 1}, 3: {1: 1}, 4: {}},
            disks={
                1: SimpleNamespace(containers=[7]),
                2: SimpleNamespace(containers=[8, 9]),
                3: SimpleNamespace(containers=[9]),
                4: SimpleNamespace(containers=[7]),
            },
        )
        self.felt = HostLatency(cast("Controller", self))
        assert self.lately() is None, "the first interval begins"

    def peers_of(self, disk: int) -> list[Agent]:
        return [self.agent]

    def next_command(self) -> int:
        return 1

    def lately(self, after_ns: int = 200 * MS) -> Felt | None:
        """Looks, so much later."""
        self.now += after_ns
        return asyncio.run(self.felt.lately(1))


def about(ns: int) -> Any:
    return pytest.approx(ns, rel=0.07)


def test_a_move_looks_at_the_disks_of_its_containers_that_have_agents() -> None:
    world = World()
    assert world.agent.asked == [1, 2]
    assert World(kind="drain", disk=0).agent.asked == [1, 2, 3]


def test_an_interval_ends_with_a_hundred_and_begins_anew() -> None:
    world = World()
    world.agent.count(1, 99, 1 * MS)
    assert world.lately() is None
    world.agent.count(1, 1, 9 * MS, op=1)
    world.agent.count(1, 900, 2 * MS)
    assert world.lately() == (about(2 * MS), 1)
    world.agent.count(1, 100, 9 * MS)
    assert world.lately() == (about(9 * MS), 1)


def test_the_disk_that_waits_longest_counts() -> None:
    world = World()
    world.agent.count(1, 5000, 1 * MS)
    world.agent.count(2, 7, 30 * MS)
    world.agent.count(3, 100, 90 * MS)
    assert world.lately() is None, "disk 2 has had few"
    assert world.lately(LONGEST_NS) == (about(30 * MS), 2)


def test_what_copying_is_not_in_the_way_of_does_not_count() -> None:
    world = World()
    for cause in (DO_WRITE, PARKED, Cause.FAULTED, Cause.FAILED):
        world.agent.count(1, 500, 90 * MS, cause)
    world.agent.count(1, 500, 90 * MS, op=5)
    world.agent.count(1, 200, 1 * MS)
    assert world.lately() == (about(1 * MS), 1)


def test_with_no_io_nobody_waits_but_of_who_is_away_nothing_is_known() -> None:
    world = World()
    assert world.lately() is None
    felt = world.lately(LONGEST_NS)
    assert felt is not None
    assert felt.p99_ns == 0
    world.agent.away = True
    assert world.lately(LONGEST_NS) is None
    assert world.lately(LONGEST_NS) is None
    world.agent.gone = True
    assert world.lately(LONGEST_NS) == (0, 0)


def test_many_disks_are_asked_less_often() -> None:
    world = World()
    world.table.attached = {disk: {1: 1} for disk in range(1, 201)}
    world.table.disks |= {n: SimpleNamespace(containers=[7]) for n in range(4, 201)}
    world.lately()
    asked = len(world.agent.asked)
    assert asked > 190
    world.lately()
    assert len(world.agent.asked) == asked
    world.lately(1000 * MS)
    assert len(world.agent.asked) > asked
