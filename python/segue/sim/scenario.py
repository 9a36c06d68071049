"""One seed: a world is drawn, things go wrong in it, it heals and must converge.

The phases of a seed:

1. a controller starts, containers and disks are made, agents boot;
2. hosts work while `Faults` does its own; every checker looks at every event;
3. faults end, everything that is dead is started, and within `HEAL_NS` every I/O must be answered
   and the controller idle: no quarantine, no incomplete extent, no half-cleaned location left;
4. every sector of every disk is read through every agent;
5. in some seeds all of it loses power once more, and 4 is done again.
"""

from __future__ import annotations

import gc
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from segue.controller.controller import Controller
from segue.controller.procedures.verbs import add_container, create_disk
from segue.controller.settings import Settings
from segue.sim.agent import Machine
from segue.sim.checks import Checks
from segue.sim.containers import SECTOR_BYTES, Medium
from segue.sim.faults import KINDS, Faults
from segue.sim.host import Host, Watch
from segue.sim.loop import MS, SECOND, Blame, World, trace_line
from segue.sim.network import Network
from segue.sim.office import Office
from segue.sim.oracle import Disk
from segue.sim.store import StoreDisk

SEGMENT_BYTES = 65536
SEGMENT_SECTORS = SEGMENT_BYTES // SECTOR_BYTES
HEAL_NS = 60 * SECOND
RARE = ("power_loss", "ambush_power")


@dataclass
class Outcome:
    """What came of a seed; `failure` is empty if all was well."""

    seed: int
    failure: str = ""
    digest: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    single: int = 0
    checked: int = 0
    steps: int = 0
    world_ns: int = 0
    host_ios: int = 0
    tail: list[str] = field(default_factory=list)
    """The end of the trace of a seed that failed."""


class Scenario:
    """The world of one seed."""

    def __init__(self, seed: int, echo: Callable[[str], None] | None = None) -> None:
        self.world = World(seed)
        self.world.echo = echo
        self.rng: random.Random = self.world.rng
        rng = self.rng
        self.errors_allowed = rng.random() < 0.3
        self.host_timeout_ns = rng.randrange(SECOND, 6 * SECOND) if rng.random() < 0.15 else None
        self.settings = Settings(
            lease_s=rng.choice((0.6, 1.0, 2.0, 3.0)),
            lease_margin_s=0.02,
            hello_timeout_s=2.0,
            segment_bytes=SEGMENT_BYTES,
            prefetch_segments=rng.choice((0, 2, 8)),
            copy_piece_bytes=rng.choice((8192, 32768, 65536)),
            clean_batch=rng.choice((1, 3)),
            checkpoint_log_bytes=rng.choice((250, 1500, 1 << 20)),
            stamp_interval_s=1.0,
            fence_poll_s=0.02,
        )
        self.network = Network(self.world)
        self.store = StoreDisk(self.world)
        self.oracles: list[Disk] = []
        self.media = self._draw_media()
        self.checks = Checks(self.world, self.store, self.media, self.network)
        self.office = Office(
            self.world, self.network, self.store, self.media, self.settings, self.checks
        )
        self.watch = Watch()
        self.watch.errors_expected = self.errors_allowed or self.host_timeout_ns is not None
        self.machines = [self._machine(f"a{i}") for i in range(1, rng.choice((2, 3, 3, 4)))]
        self.hosts: list[Host] = []
        self.faults: Faults
        self._power_losses = 0
        self.world.after_step = self._after_step
        self._look_again = 0

    # Drawing --------------------------------------------------------------------------------------

    def _draw_media(self) -> dict[str, Medium]:
        """Disks first (their size decides how much room there is), then containers."""
        rng = self.rng
        blocks = [8] if rng.random() < 0.25 else [8, 1]
        segments = 0
        for number, block_sectors in enumerate(blocks):
            whole = rng.randint(3, 10)
            segments += whole
            sectors = whole * SEGMENT_SECTORS
            if rng.random() < 0.6:
                sectors -= rng.randrange(1, SEGMENT_SECTORS // block_sectors) * block_sectors
            self.oracles.append(Disk(f"vd{number}", sectors))
        self.block_sectors = blocks
        self.tight = rng.random() < 0.25
        room = int(segments * (rng.uniform(0.7, 1.0) if self.tight else rng.uniform(1.2, 2.0))) + 1
        media = {}
        count = rng.choice((1, 2, 2, 3))
        for number in range(count):
            unit = rng.choice((1, 1, 512, 4096))
            clean = rng.random() < 0.5
            uri = f"sim://m{number}"
            media[uri] = Medium(self.world, uri, SEGMENT_BYTES, clean, unit)
        self.container_segments = max(1, -(-room // count))
        return media

    def _machine(self, name: str) -> Machine:
        machine = Machine(
            self.world,
            name,
            self.network,
            self.media,
            self.checks,
            self.rng.choice((64 << 10, 4 << 20)),
            self.host_timeout_ns,
        )
        machine.on_boot.append(self.checks.booted)
        return machine

    def _draw_hosts(self) -> None:
        rng = self.rng
        coarse = any(m.write_unit_bytes > SECTOR_BYTES for m in self.media.values())
        for number, oracle in enumerate(self.oracles):
            alone = coarse and self.block_sectors[number] == 1
            hot = [rng.randrange(oracle.sectors) for _ in range(3)]
            for _ in range(rng.choice((1, 2, 2, 3))):
                machines = list(self.machines)
                rng.shuffle(machines)
                if alone:
                    machines = self.machines[:1]
                depth = rng.choice((1, 2, 4))
                host = self._host(f"h{len(self.hosts)}", number, machines, hot, depth)
                host.whole_blocks = coarse and len(machines) > 1
                self.hosts.append(host)

    def _host(
        self, name: str, number: int, machines: list[Machine], hot: list[int], depth: int
    ) -> Host:
        oracle = self.oracles[number]
        return Host(
            self.world,
            name,
            oracle.name,
            oracle,
            SEGMENT_SECTORS,
            self.block_sectors[number],
            machines,
            hot,
            depth,
            self.watch,
        )

    # Phases ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """All phases; raises `Blame`."""
        self._set_up()
        self._work()
        self._heal()
        self._read_everything()
        if self.rng.random() < 0.3:
            self.lose_power()
            self._heal()
            self._read_everything()

    def _set_up(self) -> None:
        self.office.start()
        self._wait(lambda: self.office.serving is not None, "no controller")
        controller = self.office.serving
        assert controller is not None
        task = self.office.terms[0].process.run(self._make_all(controller))
        self._wait(task.done, "containers and disks were not made")
        task.result()
        for machine in self.machines:
            machine.boot()
        self._draw_hosts()
        self.faults = Faults(
            self.world,
            self.office,
            self.machines,
            self.hosts,
            self.media,
            self.network,
            self.store,
            self.checks,
            self.lose_power,
            self.settings.lease_ns,
        )

    async def _make_all(self, controller: Controller) -> None:
        size_bytes = self.container_segments * SEGMENT_BYTES
        for number, uri in enumerate(self.media):
            await add_container(controller, f"m{number}", uri, size_bytes)
        for oracle, block in zip(self.oracles, self.block_sectors, strict=True):
            size = oracle.sectors * SECTOR_BYTES
            await create_disk(controller, oracle.name, size, block * SECTOR_BYTES)

    def _work(self) -> None:
        rng = self.rng
        self.watch.full_expected = True
        ios = rng.randint(150, 450) // len(self.hosts)
        think_ns = rng.choice((4, 40, 150, 500)) * MS
        for host in self.hosts:
            host.ask(ios, think_ns)
        kinds = [kind for kind in KINDS if rng.random() < (0.15 if kind in RARE else 0.5)]
        if kinds and rng.random() < 0.95:
            mean_ns = int(rng.choice((80, 200, 600)) * MS)
            self.faults.start(kinds, mean_ns, self.errors_allowed)
        limit_ns = rng.randint(4, 20) * SECOND
        self.world.run_until(lambda: all(host.idle for host in self.hosts), limit_ns)

    def lose_power(self) -> None:
        """Everything that Segue runs on goes dark; hosts are elsewhere and see it."""
        if self._power_losses >= 4:
            return
        self._power_losses += 1
        self.checks.count("power loss")
        self.world.log("power-loss")
        for term in self.office.terms:
            term.process.kill()
        for machine in self.machines:
            machine.lose_power()
        self.store.lose_power()
        for medium in self.media.values():
            medium.lose_power()
        for oracle in self.oracles:
            oracle.lose_power(self.world.now_ns)
        for machine in self.machines:
            self.world.call_in(self.rng.randrange(SECOND), machine.boot_when_over)

    def _heal(self) -> None:
        self.faults.stop()
        for host in self.hosts:
            host.think_ns = MS
        if not self.world.run_until(lambda: not self._unfinished(1), HEAL_NS):
            what = "; ".join(self._unfinished(10))
            raise Blame(f"rule 7: not converged {HEAL_NS // SECOND} s after all healed: {what}")
        for medium in self.media.values():
            if medium.under_way:
                self.world.run_for(10 * MS)
        self.checks.check_owners()

    def _unfinished(self, most: int) -> list[str]:
        """What is not idle yet, in words."""
        found: list[str] = []
        for look in (self._busy_hosts, self._busy_agents, self._busy_controller):
            for what in look():
                found.append(what)
                if len(found) >= most:
                    return found
        return found

    def _busy_hosts(self) -> list[str]:
        return [f"{h.name}: {h.left} to send, {h.busy} open" for h in self.hosts if not h.idle]

    def _busy_agents(self) -> list[str]:
        found = []
        for machine in self.machines:
            agent = machine.agent
            if agent is None or not agent.process.alive:
                found.append(f"{machine.name}: dead")
            elif agent.session.phase.value != "up":
                found.append(f"{machine.name}: session {agent.session.phase.value}")
            elif agent.plane.ios:
                found.append(f"{machine.name}: {len(agent.plane.ios)} host I/Os in the engine")
        return found

    def _busy_controller(self) -> list[str]:
        controller = self.office.serving
        if controller is None:
            return ["no controller serves"]
        table = self.checks.replica.table
        found = []
        if table.quarantine:
            found.append(f"quarantine {table.quarantine}")
        if table.records:
            found.append(f"incomplete extents {list(table.records)}")
        if table.cleaning and not self.errors_allowed:
            found.append(f"cleaning {table.cleaning}")
        found += [f"lock {key}: {how}" for key, how in controller.locks.held()]
        found += [f"blocks of extent {key}: {bits:#x}" for key, bits in controller.blocks.held()]
        for peer in controller.peers.values():
            if peer.faults:
                found.append(f"{peer.name}: unanswered faults {list(peer.faults)}")
        return found

    def _read_everything(self) -> None:
        """Through every agent that may serve the disk; all must agree with the oracle."""
        self.watch.errors_expected = False
        tasks = []
        for number, oracle in enumerate(self.oracles):
            machines = next(h.machines for h in self.hosts if h.oracle is oracle)
            for machine in machines:
                host = self._host(f"v{number}-{machine.name}", number, [machine], [0], 0)
                tasks.append(host.process.run(host.read_all()))
        self._wait(lambda: all(task.done() for task in tasks), "reading everything")
        for task in tasks:
            task.result()
        self.watch.errors_expected = self.errors_allowed or self.host_timeout_ns is not None
        for host in self.hosts:
            host.cut()

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        if not self.world.run_until(done, HEAL_NS):
            raise Blame(f"rule 7: {what} within {HEAL_NS // SECOND} s")

    def _after_step(self) -> None:
        self.faults_look()
        self._look_again += 1
        if self._look_again % 8 == 0:
            self.checks.check_lost()
            if self._look_again % 512 == 0:
                self.checks.check_owners()

    def faults_look(self) -> None:
        """Springs ambushes, once there is anything to ambush."""
        faults = getattr(self, "faults", None)
        if faults is not None:
            faults.look()


def run_seed(seed: int, echo: Callable[[str], None] | None = None) -> Outcome:
    """Runs one seed from nothing, with nothing left behind."""
    outcome = Outcome(seed)
    hook, sys.unraisablehook = sys.unraisablehook, _ignore_closing
    gc.disable()
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
        scenario = Scenario(seed, echo)
        try:
            scenario.run()
        except Blame as blame:
            cause = f" ({blame.__cause__!r})" if blame.__cause__ is not None else ""
            outcome.failure = f"{blame}{cause}"
            outcome.tail = [trace_line(line) for line in scenario.world.lines[-60:]]
            if blame.__cause__ is not None:
                outcome.tail += _traceback(blame.__cause__)
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


def _traceback(error: BaseException) -> list[str]:
    import traceback  # noqa: PLC0415 - only for a seed that failed

    return "".join(traceback.format_exception(error)).splitlines()


def _ignore_closing(unraisable: Any) -> None:
    """Coroutines of dead processes may say that they will not be closed: nobody is there."""
    if not isinstance(unraisable.exc_value, RuntimeError):
        sys.__unraisablehook__(unraisable)
