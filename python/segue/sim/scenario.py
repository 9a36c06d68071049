"""One seed: a world is drawn, things go wrong in it, it heals and must converge.

The phases of a seed:

1. a controller starts, containers and disks are made, agents boot;
2. hosts work while `Faults` does its own; every checker looks at every event;
3. faults end, everything that is dead is started, and within `HEAL_NS` every I/O must be answered
   and the controller idle: no quarantine, no incomplete extent, no half-cleaned location left;
4. every sector of every disk is read through every agent;
5. in some seeds all of it loses power once more, and 3 and 4 are done again.
"""

from __future__ import annotations

import gc
import random
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from segue import failpoints
from segue.controller.settings import Settings
from segue.sim.faults import KINDS, Faults
from segue.sim.host import Host
from segue.sim.loop import MS, SECOND, Blame, World, trace_line
from segue.sim.oracle import Disk
from segue.sim.stage import (
    ALL,
    FENCED,
    HERE,
    PLAIN,
    SEGMENT_BYTES,
    SEGMENT_SECTORS,
    UNSAID,
    DiskPlan,
    MediumPlan,
    Plan,
    Stage,
)

RARE = ("power_loss", "ambush_power")


@dataclass(frozen=True)
class Theme:
    """A kind of bad luck that belongs together: what an ordinary draw seldom brings about."""

    kinds: tuple[str, ...]
    weights: dict[str, int]
    """Of host operations that are more frequent."""


THEMES = (
    Theme(  # writers that come back late, to places that others have freed
        (
            "pause_agent",
            "stuck_writer",
            "partition_agent",
            "crash_agent",
            "ambush_agent",
            "declare_dead",
            "set_linger",
        ),
        {"trim": 30, "zero": 10},
    ),
    Theme(  # terms that end in the middle of work
        (
            "crash_controller",
            "zombie_controller",
            "pause_controller",
            "ambush_controller",
            "ambush_failpoint",
            "ambush_link",
            "burst",
            "slow_container",
            "missing_container",
            "slow_store",
            "failing_store",
            "full_store",
        ),
        {"trim": 15},
    ),
    Theme(  # disks and containers that change
        (
            "resize",
            "resize",
            "create_disk",
            "create_disk",
            "rename_disk",
            "delete_disk",
            "delete_disk",
            "change_containers",
            "change_containers",
            "missing_container",
            "crash_controller",
            "zombie_controller",
            "pause_agent",
            "cut_link",
            "partition_agent",
            "crash_agent",
            "ambush_controller",
        ),
        {"trim": 15, "zero": 10},
    ),
    Theme(  # flushes that fail, and everyone who must hear of it
        ("failing_container", "ambush_failure", "cut_host", "crash_agent", "crash_controller"),
        {"flush": 30},
    ),
)
MOVEMENT = ("move_disk", "move_disk", "drain_container", "rebalance", "change_job")
"""What an operator does beside whatever else goes wrong."""
MOST_POWER_LOSSES = 4


@dataclass
class Outcome:
    """What came of a seed; `failure` is empty if all was well."""

    seed: int
    aim: str = ""
    failure: str = ""
    digest: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    single: int = 0
    """Sectors read that had exactly one allowed value."""
    checked: int = 0
    """Sectors read."""
    steps: int = 0
    world_ns: int = 0
    host_ios: int = 0
    tail: list[str] = field(default_factory=list)
    """The end of the trace of a seed that failed."""


def draw_plan(rng: random.Random) -> Plan:
    """What there is: disks first, for their size decides how much room there is."""
    disks = []
    for block_sectors in [8] if rng.random() < 0.25 else [8, 1]:
        sectors = rng.randint(3, 10) * SEGMENT_SECTORS
        if rng.random() < 0.6:
            sectors -= rng.randrange(1, SEGMENT_SECTORS // block_sectors) * block_sectors
        disks.append(DiskPlan(sectors, block_sectors))
    segments = sum(-(-disk.sectors // SEGMENT_SECTORS) for disk in disks)
    tight = rng.random() < 0.25
    room = int(segments * (rng.uniform(0.7, 1.0) if tight else rng.uniform(1.2, 2.0))) + 1
    count = rng.choice((1, 2, 2, 2, 3, 3))
    media = [
        MediumPlan(
            -(-room // count),
            rng.random() < 0.4,
            rng.choice((1, 1, 512, 4096)),
            rng.choice((HERE, HERE, HERE, FENCED, FENCED, PLAIN, UNSAID)),
        )
        for _ in range(count)
    ]
    return Plan(
        media,
        disks,
        spares=[
            MediumPlan(rng.randint(2, 4), rng.random() < 0.5, rng.choice((1, 512)))
            for _ in range(2)
        ],
        agents=rng.choice((1, 2, 2, 3)),
        settings=draw_settings(rng),
        park_limit_bytes=rng.choice((64 << 10, 4 << 20)),
        host_timeout_ns=rng.randrange(SECOND, 6 * SECOND) if rng.random() < 0.15 else None,
        errors_allowed=rng.random() < 0.3,
    )


def draw_settings(rng: random.Random) -> Settings:
    """What an operator may have set, on a small scale."""
    return Settings(
        lease_s=rng.choice((0.6, 1.0, 2.0, 3.0)),
        lease_margin_s=0.02,
        hello_timeout_s=2.0,
        segment_bytes=SEGMENT_BYTES,
        prefetch_segments=rng.choice((0, 2, 8)),
        copy_piece_bytes=rng.choice((4096, 8192, 65536)),
        copy_hint_bytes=rng.choice((8192, 16384, 1 << 20)),
        copy_pieces_at_once=rng.choice((1, 4)),
        extents_at_once=rng.choice((1, 3, 8)),
        clean_batch=rng.choice((1, 3)),
        clean_linger_s=rng.choice((0.0, 0.2)),
        clean_ahead_segments=rng.choice((0, 2, 256)),
        checkpoint_log_bytes=rng.choice((250, 700, 1 << 20)),
        felt_look_s=0.005,
        felt_interval_s=0.02,
        stamp_interval_s=1.0,
        fence_poll_s=0.02,
        without=ALL,
    )


class Scenario(Stage):
    """The world of one seed."""

    def __init__(self, seed: int, echo: Callable[[str], None] | None = None, aim: str = "") -> None:
        world = World(seed)
        world.echo = echo
        super().__init__(world, draw_plan(world.rng))
        self.rng = world.rng
        self.faults = Faults(self, self._lose_power, aim)
        self._power_losses = 0
        self._drawn = 0
        self._think_ns = MS
        self._weights: dict[str, int] = {}
        self.admin.disks.when_made = self._disk_made

    def run(self) -> None:
        """All phases; raises `Blame`."""
        self.start()
        self._draw_hosts()
        self._work()
        self._heal()
        if self.rng.random() < 0.3:
            self.lose_power()
            self._heal()

    def _draw_hosts(self) -> None:
        for oracle in self.oracles:
            self._hosts_of(oracle, self.rng.choice((1, 2, 2, 3)))

    def _hosts_of(self, oracle: Disk, count: int) -> list[Host]:
        rng, drawn = self.rng, []
        hot = [rng.randrange(oracle.sectors) for _ in range(3)]
        for _ in range(count):
            machines = list(self.servers(oracle))
            rng.shuffle(machines)
            depth = rng.choice((1, 2, 4))
            self._drawn += 1
            drawn.append(self.host(f"h{self._drawn}", oracle, machines, hot, depth))
        self.hosts += drawn
        return drawn

    def _disk_made(self, oracle: Disk) -> None:
        """A disk that comes and goes gets hosts of its own."""
        hosts = self._hosts_of(oracle, self.rng.choice((1, 1, 2)))
        for host in hosts:
            host.weights.update(self._weights)
            host.ask(self.rng.randint(8, 60) // len(hosts), self._think_ns)

    def _work(self) -> None:
        rng = self.rng
        ios = rng.randint(150, 450) // len(self.hosts)
        think_ns = rng.choice((4, 40, 150, 500)) * MS
        for host in self.hosts:
            host.ask(ios, think_ns)
        self._think_ns = min(think_ns, 40 * MS)
        kinds = [kind for kind in KINDS if rng.random() < (0.15 if kind in RARE else 0.5)]
        if rng.random() < 0.5:
            theme = rng.choice(THEMES if self.plan.errors_allowed else THEMES[:-1])
            kinds = list(theme.kinds) + ["ambush_power"] * (rng.random() < 0.3)
            self._weights = theme.weights
            for host in self.hosts:
                host.weights.update(theme.weights)
        if rng.random() < 0.7:
            kinds += list(MOVEMENT) * rng.choice((1, 3))
        if self.faults.aim:
            kinds += [*MOVEMENT, *["ambush_failpoint"] * 8]
        if kinds and rng.random() < 0.95:
            self.faults.start(kinds, rng.choice((80, 200, 600)) * MS)
        limit_ns = rng.randint(4, 20) * SECOND
        self.world.run_until(lambda: all(host.idle for host in self.hosts), limit_ns, every=32)

    def _lose_power(self) -> None:
        if self._power_losses < MOST_POWER_LOSSES:
            self._power_losses += 1
            self.lose_power()

    def _heal(self) -> None:
        self.faults.stop()
        self.mend()
        self.faults.operator.say_all()
        for host in self.hosts:
            host.think_ns = MS
        self.converge()
        self.read_everything()
        for host in self.hosts:
            host.cut()

    def after_step(self) -> None:
        """After every event."""
        self.faults.look()
        super().after_step()


def run_seed(seed: int, echo: Callable[[str], None] | None = None, aim: str = "") -> Outcome:
    """Runs one seed from nothing, with nothing left behind.

    With `aim`, a name of `FAILPOINTS`, what goes wrong leads there, and all ambushes at failpoints
    are at that one.
    """
    outcome = Outcome(seed, aim)
    hook, sys.unraisablehook = sys.unraisablehook, _ignore_closing
    gc.disable()
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
        scenario = Scenario(seed, echo, aim)
        try:
            with failpoints.watched(scenario.faults.passed):
                scenario.run()
        except Blame as blame:
            cause = f" ({blame.__cause__!r})" if blame.__cause__ is not None else ""
            outcome.failure = f"{blame}{cause}"
            outcome.tail = [trace_line(line) for line in scenario.world.lines[-60:]]
            if blame.__cause__ is not None:
                outcome.tail += "".join(traceback.format_exception(blame.__cause__)).splitlines()
        _take_counts(outcome, scenario)
        del scenario
    finally:
        gc.enable()
        gc.collect()
        sys.unraisablehook = hook
    return outcome


def _take_counts(outcome: Outcome, scenario: Scenario) -> None:
    world = scenario.world
    outcome.digest = world.digest()
    outcome.steps = world.steps
    outcome.world_ns = world.now_ns
    outcome.counts = dict(scenario.checks.counts)
    for what, count in scenario.watch.counts.items():
        outcome.counts[f"host {what}"] = count
    outcome.counts["checkpoints"] = scenario.store.checkpoints
    outcome.counts["commits"] = scenario.store.number
    outcome.counts["terms"] = len(scenario.office.terms)
    kinds = ("read", "write", "zero", "trim", "flush", "status")
    outcome.host_ios = sum(scenario.watch.counts.get(kind, 0) for kind in kinds)
    for oracle in scenario.oracles:
        outcome.single += oracle.single
        outcome.checked += oracle.checked


def _ignore_closing(unraisable: Any) -> None:
    """Coroutines of dead processes may say that they will not be closed: nobody is there."""
    if not isinstance(unraisable.exc_value, RuntimeError):
        sys.__unraisablehook__(unraisable)
