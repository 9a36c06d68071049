"""A whole installation in a simulated world, with every checker watching.

`Plan` says what there is; `Stage` builds it and knows how to start it, darken it, tell whether it
is idle, and read everything back.  `scenario.py` draws plans and bad luck from a seed; scripted
incidents (``tests/sim``) write theirs down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from segue.controller.controller import Controller
from segue.controller.procedures.movement import Begun
from segue.controller.procedures.verbs import add_container, create_disk
from segue.controller.settings import Settings
from segue.sim.admin import Admin
from segue.sim.agent import Agent, Machine
from segue.sim.checks import Checks
from segue.sim.containers import SECTOR_BYTES, Medium
from segue.sim.host import Host, Watch
from segue.sim.loop import MS, SECOND, Blame, World
from segue.sim.network import Network
from segue.sim.office import Office
from segue.sim.oracle import Disk
from segue.sim.store import StoreDisk

SEGMENT_BYTES = 65536
SEGMENT_SECTORS = SEGMENT_BYTES // SECTOR_BYTES
HEAL_NS = 60 * SECOND
ALL = tuple(f"{letter}{number}" for letter in "mn" for number in range(100))
"""The names of all containers that there may ever be: a controller starts without any of them."""


HERE = "sim://m{}"
FENCED = "nbd://m{}/"
PLAIN = "nbd://m{}/?linger-ms=4000"
UNSAID = "nbd://m{}/?ends-ms=4000"
"""Where a container is: on the agents' machine, or across the network: with a fence, without one
and with a linger time, or without either until an operator says how long requests may linger."""


@dataclass
class MediumPlan:
    """One container: how many segments, and what kind of storage."""

    segments: int
    clean: bool = True
    write_unit_bytes: int = 1
    place: str = HERE

    def uri(self, number: int) -> str:
        """Its name."""
        return self.place.format(number)


@dataclass
class DiskPlan:
    """One virtual disk, in sectors."""

    sectors: int
    block_sectors: int = 8


def settings(lease_s: float = 1.0) -> Settings:
    """What a small world needs: short leases, small pieces."""
    return Settings(
        lease_s=lease_s,
        lease_margin_s=0.02,
        hello_timeout_s=2.0,
        segment_bytes=SEGMENT_BYTES,
        prefetch_segments=2,
        copy_piece_bytes=32768,
        clean_batch=3,
        clean_ahead_segments=0,
        stamp_interval_s=1.0,
        fence_poll_s=0.02,
        without=ALL,
    )


@dataclass
class Plan:
    """What there is in a world."""

    media: list[MediumPlan]
    disks: list[DiskPlan]
    spares: list[MediumPlan] = field(default_factory=list)
    """Storage that an operator may make containers of."""
    agents: int = 2
    settings: Settings = field(default_factory=settings)
    park_limit_bytes: int = 4 << 20
    host_timeout_ns: int | None = None
    errors_allowed: bool = False
    """Containers may fail: EIO needs no other reason."""

    @property
    def coarse(self) -> bool:
        """Whether some container's write unit is larger than a sector."""
        media = self.media + self.spares
        return any(medium.write_unit_bytes > SECTOR_BYTES for medium in media)


class Stage:
    """The world of a plan."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.network = Network(world)
        self.store = StoreDisk(world)
        self.media = {
            m.uri(i): Medium(world, m.uri(i), SEGMENT_BYTES, m.clean, m.write_unit_bytes)
            for i, m in enumerate(plan.media + plan.spares)
        }
        self.oracles = [
            Disk(f"vd{i}", disk.sectors, disk.block_sectors) for i, disk in enumerate(plan.disks)
        ]
        self.checks = Checks(world, self.store, self.media, self.network)
        self.office = Office(
            world, self.network, self.store, self.media, plan.settings, self.checks
        )
        sizes = (medium.segments for medium in plan.media + plan.spares)
        segments = dict(zip(self.media, sizes, strict=True))
        self.admin = Admin(world, self.office, self.oracles, self.media, segments, self.checks)
        self.watch = Watch()
        self.watch.disks = self.oracles
        self.watch.full_expected = True
        self._expect_errors()
        self.machines = [self._machine(f"a{i + 1}") for i in range(plan.agents)]
        self.hosts: list[Host] = []
        self._steps = 0
        world.after_step = self.after_step

    def _machine(self, name: str) -> Machine:
        machine = Machine(
            self.world,
            name,
            self.network,
            self.media,
            self.checks,
            self.plan.park_limit_bytes,
            self.plan.host_timeout_ns,
        )
        machine.on_boot.append(self.checks.booted)
        return machine

    def _expect_errors(self) -> None:
        plan = self.plan
        self.watch.errors_expected = plan.errors_allowed or plan.host_timeout_ns is not None

    @property
    def disks(self) -> list[Disk]:
        """The oracles of the disks that there are now."""
        return [oracle for oracle in self.oracles if oracle.exists]

    def host(
        self, name: str, disk: int | Disk, machines: list[Machine], hot: list[int], depth: int = 0
    ) -> Host:
        """A host of a disk, or of the plan's disk of that index; with depth 0 it issues nothing
        by itself.
        """
        host = Host(
            self.world,
            name,
            self.oracles[disk] if isinstance(disk, int) else disk,
            SEGMENT_SECTORS,
            machines,
            hot,
            depth,
            self.watch,
        )
        host.whole_blocks = self.plan.coarse and len(machines) > 1
        return host

    # Starting and stopping ------------------------------------------------------------------------

    def start(self) -> None:
        """A controller starts, containers and disks are made, agents boot."""
        self.office.start()
        self.wait(lambda: self.office.serving is not None, "no controller")
        controller = self.controller
        task = self.office.terms[-1].process.run(self._make_all(controller))
        self.wait(task.done, "containers and disks were not made")
        task.result()
        for machine in self.machines:
            machine.boot()

    async def _make_all(self, controller: Controller) -> None:
        for number, (uri, medium) in enumerate(zip(self.media, self.plan.media, strict=False)):
            await add_container(controller, f"m{number}", uri, medium.segments * SEGMENT_BYTES)
        for oracle in self.oracles:
            sizes = oracle.sectors * SECTOR_BYTES, oracle.block_sectors * SECTOR_BYTES
            oracle.number = (await create_disk(controller, oracle.name, *sizes)).disk

    @property
    def controller(self) -> Controller:
        """The one that serves."""
        controller = self.office.serving
        assert controller is not None, "no controller serves"
        return controller

    def agent(self, number: int) -> Agent:
        """The newest incarnation on that machine."""
        agent = self.machines[number].agent
        assert agent is not None
        return agent

    def lose_power(self) -> None:
        """Everything that Segue runs on goes dark; hosts are elsewhere and see it."""
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
            self.world.call_in(self.world.rng.randrange(SECOND), machine.boot_when_over)

    def mend(self) -> None:
        """Nothing is slow, cut or stopped any more, and what is dead is started."""
        self.network.slow_until_ns = self.store.slow_until_ns = self.store.fail_until_ns = 0
        self.store.full_until_ns = 0
        self.network.partitioned.clear()
        for medium in self.media.values():
            medium.heal()
        for term in self.office.terms:
            term.process.resume()
        for machine in self.machines:
            if machine.alive is None:
                machine.boot_when_over()
            else:
                machine.alive.resume()

    def is_over(self, incarnation: int) -> bool:
        """Whether that incarnation is dead and nothing of it is under way anywhere."""
        agents = (agent for machine in self.machines for agent in machine.incarnations)
        alive = any(a.incarnation == incarnation and a.process.alive for a in agents)
        requests = (r for medium in self.media.values() for r in medium.acting())
        return not alive and not any(r.holder.fence == incarnation for r in requests)

    # Waiting and judging --------------------------------------------------------------------------

    def wait(self, done: Callable[[], bool], what: str, limit_ns: int = HEAL_NS) -> None:
        """Steps until `done()`; a `Blame` that names `what` if that takes too long."""
        if not self.world.run_until(done, limit_ns):
            raise Blame(f"rule 7: {what} within {limit_ns / SECOND:g} s")

    def converge(self) -> None:
        """Everything must become idle, every I/O be answered."""
        if not self.world.run_until(lambda: not self.unfinished(1), HEAL_NS, every=32):
            what = "; ".join([*self.unfinished(10), *self._waiting()])
            raise Blame(f"rule 7: not converged {HEAL_NS // SECOND} s after all healed: {what}")
        while any(medium.under_way for medium in self.media.values()):
            self.world.run_for(10 * MS)
        self.checks.check_owners()
        self.watch.settle(self.world.now_ns)

    def unfinished(self, most: int) -> list[str]:
        """What is not idle yet, in words."""
        found: list[str] = []
        looks = (self._busy_admin, self._busy_hosts, self._busy_agents, self._busy_controller)
        for look in looks:
            for what in look():
                found.append(what)
                if len(found) >= most:
                    return found
        return found

    def _busy_admin(self) -> list[str]:
        """To be asked first: hosts of a disk that is gone wait for the administrator's word."""
        return self.admin.busy

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
            else:
                disks = self.checks.replica.table.disks
                tables = [disk for disk in self.checks.tables(agent.plane) if disk not in disks]
                found += [f"{machine.name}: a table of disk {disk}, deleted" for disk in tables]
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
        if table.cleaning and not self.plan.errors_allowed:
            found.append(f"cleaning {table.cleaning}")
        found += [f"{controller.name_of_container(n)} is missing" for n in controller.unreached]
        leaving = [row.row.name for row in table.containers.values() if row.leaving]
        found += [f"container {name} is leaving" for name in leaving]
        found += [f"lock {key}: {how}" for key, how in controller.locks.held()]
        found += [f"blocks at {key:#x}: {bits:#x}" for key, bits in controller.blocks.held()]
        # One that waits for space waits for an operator.
        found += [
            f"job {number} ({run.row.kind}): {run.waits_for or 'runs'}"
            for number, run in controller.jobs.running.items()
            if run.waits_for != Begun.FULL.value
        ]
        for peer in controller.peers.values():
            if peer.faults:
                found.append(f"{peer.name}: unanswered faults {list(peer.faults)}")
        return found

    def _waiting(self) -> list[str]:
        """What each work of the controller waits for, as `segue status` says it."""
        controller = self.office.serving
        if controller is None:
            return []
        return [
            f"{work.what} holds {list(work.held)}, waits for {[str(w.what) for w in work.waits]}"
            for work in controller.waits.works
        ]

    def read_everything(self) -> None:
        """Through every agent that may serve the disk; all must agree with the oracle."""
        self.watch.errors_expected = False
        tasks = []
        for oracle in self.disks:
            for machine in self.servers(oracle):
                reader = self.host(f"v{oracle.number}-{machine.name}", oracle, [machine], [0])
                tasks.append(reader.process.run(reader.read_all()))
        self.wait(lambda: all(task.done() for task in tasks), "not everything could be read")
        for task in tasks:
            task.result()
        self._expect_errors()

    def servers(self, disk: Disk) -> list[Machine]:
        """Agents may not share a disk whose blocks are smaller than a container's write unit."""
        alone = self.plan.coarse and disk.block_sectors == 1
        return self.machines[:1] if alone else self.machines

    def after_step(self) -> None:
        """After every event."""
        self._steps += 1
        if self._steps % 8 == 0:
            self.checks.check_lost()
            if self._steps % 512 == 0:
                self.checks.check_owners()
