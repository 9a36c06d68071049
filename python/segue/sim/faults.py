"""What goes wrong: a plan drawn from the seed, carried out while hosts work.

Each kind of fault is a method of `Faults`, counted under its name; `KINDS` lists them with how
often they are drawn.  Ambushes strike at a named crash point: they wait until the world is in the
state they are after (a commit in flight, a `do_write` half done) and kill within the next few
handles.  `stop` ends all of it.
"""

from __future__ import annotations

from collections.abc import Callable

from segue.sim.agent import Machine
from segue.sim.checks import PROBE
from segue.sim.containers import Request
from segue.sim.crash_points import (
    AGENT_POINTS,
    CONTROLLER_POINTS,
    FAILPOINTS,
    LINK_POINTS,
    CrashPoints,
)
from segue.sim.host import Host
from segue.sim.loop import MS, SECOND, Process
from segue.sim.operator import Operator
from segue.sim.oracle import Disk
from segue.sim.plane import Part
from segue.sim.stage import Stage
from segue.wire.messages import (
    DeleteTable,
    EntryRun,
    Message,
    Outcome,
    ResizeTable,
    SetEntry,
    SetEntryState,
)


class Faults:
    """The world's bad luck."""

    def __init__(self, stage: Stage, lose_power: Callable[[], None], aim: str = "") -> None:
        self.world = stage.world
        self.rng = stage.world.rng
        self.office = stage.office
        self.machines = stage.machines
        self.hosts = stage.hosts
        self.media = stage.media
        self.network = stage.network
        self.store = stage.store
        self.checks = stage.checks
        self.admin = stage.admin
        self.errors_allowed = stage.plan.errors_allowed
        self.lease_ns = stage.plan.settings.lease_ns
        self.lose_all_power = lose_power
        self.aim = aim
        """The failpoint of all ambushes at failpoints, if the seed is an aimed one."""
        self.on = False
        self.mean_ns = SECOND
        self.kinds: list[str] = []
        self.operator = Operator(stage)
        self._points = CrashPoints(stage)
        self._failpoint = ""
        """The place at which the process that comes there next is to die."""
        self._ambush: tuple[str, Callable[[], bool], Callable[[], None]] | None = None
        self._probes = PROBE + (1 << 60)

    def start(self, kinds: list[str], mean_ns: int) -> None:
        """From now on something goes wrong every `mean_ns` or so."""
        self.on = True
        self.kinds = kinds
        self.mean_ns = mean_ns
        self._schedule()

    def stop(self) -> None:
        """Nothing more goes wrong."""
        self.on = False
        self._ambush = None
        self._failpoint = ""

    def passed(self, failpoint: str) -> None:
        """Some process has come to that place: kills it there if that is set."""
        process = self.world.current
        if failpoint == self._failpoint and process is not None:
            self._failpoint = ""
            self.checks.count(f"crash point failpoint {failpoint}")
            # What it does before its next await is done by a process that is being killed.
            machine = next((m for m in self.machines if m.alive is process), None)
            if machine is None:
                process.kill()
            else:
                self._kill(machine)

    def look(self) -> None:
        """After every event: springs the ambush that is set."""
        if self._ambush is not None and self._ambush[1]():
            point, _, strike = self._ambush
            self._ambush = None
            self.checks.count(f"crash point {point}")
            strike()

    def _schedule(self) -> None:
        self.world.call_in(int(self.rng.expovariate(1) * self.mean_ns) + MS, self._strike)

    def _strike(self) -> None:
        if not self.on:
            return
        kind = self.rng.choice(self.kinds)
        self.world.log("fault", kind)
        KINDS[kind](self)
        self._schedule()

    def _count(self, what: str) -> None:
        self.checks.count(f"fault {what}")

    def _some_ns(self, least_ns: int, most_ns: int) -> int:
        """A duration, short ones as likely as long ones."""
        return int(least_ns * (most_ns / least_ns) ** self.rng.random())

    # Agents ---------------------------------------------------------------------------------------

    def crash_agent(self) -> None:
        """kill -9 at some await; restarted soon, or after its lease."""
        machine = self.rng.choice(self.machines)
        if machine.alive is not None:
            self._count("crash_agent")
            process = machine.alive
            self.world.after_handles(process, self.rng.randint(1, 40), lambda: self._kill(machine))

    def _kill(self, machine: Machine) -> None:
        if machine.alive is not None:
            agent = machine.agent
            if agent is not None and agent.plane.ios:
                self.checks.count("agent crashed with I/O under way")
            machine.alive.kill()
            self._boot_later(machine)

    def _boot_later(self, machine: Machine) -> None:
        self.world.call_in(self._some_ns(5 * MS, 2 * self.lease_ns), machine.boot_when_over)

    def pause_agent(self) -> None:
        """SIGSTOP, often past its lease; it wakes late."""
        machine = self.rng.choice(self.machines)
        process = machine.alive
        if process is not None and not process.paused:
            self._count("pause_agent")
            process.pause()
            for_ns = self._some_ns(20 * MS, 4 * self.lease_ns)
            if for_ns > self.lease_ns:
                self.checks.count("agent paused past its lease")
            self.world.call_in(for_ns, process.resume)

    def stuck_writer(self) -> None:
        """A write hangs in the device beyond its agent's lease; what it is for is freed meanwhile.

        The agent is stopped or cut off, and another one's host trims the segment, or the disk is
        deleted.
        """
        writes = self._writes_to_stick()
        if not writes:
            self._set("stuck write", self._write_under_way, self.stuck_writer)
            return
        request = self.rng.choice(writes)
        part, process = request.tag, request.holder.process
        extra = [disk for disk in self.admin.disks.extra if disk.number == part.io.disk]
        others = [
            host
            for host in self.hosts
            if host.disk == part.io.disk
            and host.connection is not None
            and host.connection.agent.process is not process
        ]
        if not others and not extra:
            return
        self._count("stuck_writer")
        stuck_ns = self._some_ns(self.lease_ns, 6 * self.lease_ns)
        if linger_ns := request.medium.linger_ns:
            stuck_ns = min(stuck_ns, linger_ns // 2)
        request.stuck_until_ns = self.world.now_ns + stuck_ns
        if self.rng.random() < 0.5:
            process.pause()
            for_ns = self._some_ns(self.lease_ns, 6 * self.lease_ns)
            self.world.call_in(for_ns, process.resume)
        else:
            self._partition(process)
        if extra:
            self.admin.disks.delete(extra)
        else:
            self.rng.choice(others).trim_segment(part.segment)

    def _writes_to_stick(self) -> list[Request]:
        """Hosts' writes under way; if there are some, those to disks that come and go."""
        writes = [
            request
            for medium in self.media.values()
            for request in medium.under_way.values()
            if request.kind == "write"
            and isinstance(request.tag, Part)
            # Nothing takes longer there than its linger time: not stuck again and again.
            and not (medium.linger_ns and request.stuck_until_ns)
        ]
        numbers = [disk.number for disk in self.admin.disks.extra]
        return [w for w in writes if w.tag.io.disk in numbers] or writes

    def _write_under_way(self) -> bool:
        return any(
            r.kind == "write" and isinstance(r.tag, Part)
            for m in self.media.values()
            for r in m.under_way.values()
        )

    def bad_command(self) -> None:
        """Commands no controller would send: refused, and nothing changes (rule 10)."""
        machine = self.rng.choice(self.machines)
        agent = machine.agent
        if agent is None or not agent.process.alive or agent.process.paused:
            return
        self._count("bad_command")
        agent.process.post(lambda: self._send_bad(machine))

    def _send_bad(self, machine: Machine) -> None:
        agent = machine.agent
        assert agent is not None
        plane = agent.plane
        plane.tick_now()
        for message in self._bad_messages(self.checks.tables(plane)):
            before = plane.engine.digest()
            answer = plane.probe(message)
            if answer[2] != Outcome.FAILED or not answer[3]:
                self.checks.blame(10, f"{message} was not refused: {answer}")
            if plane.engine.digest() != before:
                self.checks.blame(10, f"{message} was refused and changed something")

    def _bad_messages(self, disks: list[int]) -> list[Message]:
        def number() -> int:
            self._probes += 1
            return self._probes

        # Of a table that is being deleted they would have to wait: name one that exists, or none.
        disk = self.rng.choice(disks) if disks else 4_000_001
        nowhere = EntryRun(0, 1, (1 << 63) | (999 << 44) | 1)
        return [
            SetEntry(number(), 4_000_000, [EntryRun(0, 1, 0)], False),
            SetEntry(number(), disk, [EntryRun(1 << 40, 1, 0)], False),
            SetEntry(number(), disk, [nowhere], False),
            SetEntryState(number(), disk, 0, 1, 2, True, False, False),
            SetEntryState(number(), disk, 0, 1 << 50, 1, False, False, False),
            DeleteTable(number(), 4_000_000),
            ResizeTable(number(), 4_000_000, 1 << 20, False),
        ]

    # Controllers ----------------------------------------------------------------------------------

    def crash_controller(self) -> None:
        """kill -9 at some await."""
        term = self.office.newest
        if term is not None and term.process.alive:
            self._count("crash_controller")
            self.world.after_handles(term.process, self.rng.randint(1, 120), term.process.kill)

    def pause_controller(self) -> None:
        """Stopped for a while; now and then a newer term is begun beside it."""
        term = self.office.newest
        if term is None or not term.process.alive or term.process.paused:
            return
        self._count("pause_controller")
        term.process.pause()
        self.world.call_in(self._some_ns(20 * MS, 3 * self.lease_ns), term.process.resume)
        if self.rng.random() < 0.6:
            self.world.call_in(self._some_ns(5 * MS, self.lease_ns), self.zombie_controller)

    def zombie_controller(self) -> None:
        """A newer term begins while the older lives."""
        term = self.office.newest
        if self.on and term is not None and term.process.alive and term.serving:
            self._count("zombie_controller")
            self.office.start()

    # Network --------------------------------------------------------------------------------------

    def cut_link(self) -> None:
        """Everything under way on a link is lost."""
        if self.network.wires:
            self._count("cut_link")
            if self.rng.choice(self.network.wires).cut():
                self.checks.count("cut lost messages")

    def partition_agent(self) -> None:
        """An agent reaches no controller for a while; its storage it does."""
        process = self.rng.choice(self.machines).alive
        if process is not None:
            self._count("partition_agent")
            self._partition(process)

    def _partition(self, process: Process) -> None:
        until_ns = self.world.now_ns + self._some_ns(100 * MS, 3 * self.lease_ns)
        self.network.partitioned[process.name] = until_ns
        for wire in list(self.network.wires):
            if wire.agent_end.process is process:
                wire.cut()

    def slow_network(self) -> None:
        """Messages take up to a fifth of a second."""
        self._count("slow_network")
        self.network.slow_until_ns = self.world.now_ns + self._some_ns(50 * MS, 2 * SECOND)

    def cut_host(self) -> None:
        """A host's connection breaks."""
        self._count("cut_host")
        self._some_host().cut()

    def _some_host(self) -> Host:
        return self.rng.choice([host for host in self.hosts if not host.gone])

    def burst(self) -> None:
        """All hosts of a disk fall upon one segment that has just been trimmed."""
        host = self._some_host()
        segment = self.rng.randrange(host.oracle.sectors) // host.segment_sectors
        self._count("burst")
        host.trim_segment(segment)
        for other in self.hosts:
            if other.oracle is host.oracle:
                after_ns = self.rng.randrange(4 * MS)
                self.world.call_in(after_ns, other.process.post, other.burst, segment)

    # Administrators ----------------------------------------------------------------------------

    def resize(self) -> None:
        """A disk is grown or shrunk."""
        self._count("resize")
        self.admin.disks.resize()

    def create_disk(self) -> None:
        """Another disk is made."""
        self._count("create_disk")
        self.admin.disks.create()

    def rename_disk(self) -> None:
        """A disk that comes and goes gets another name."""
        self._count("rename_disk")
        self.admin.disks.rename()

    def delete_disk(self) -> None:
        """A disk that comes and goes is deleted; often when data of it is on the move."""
        self._count("delete_disk")
        extra, incomplete = self.admin.disks.extra, self._extra_incomplete()
        if incomplete or not extra or self.rng.random() < 0.5:
            self.admin.disks.delete(incomplete or None)
        else:
            self.operator.move(self.rng.choice(extra))
            self._set("extra incomplete", lambda: bool(self._extra_incomplete()), self._delete_it)

    def _delete_it(self) -> None:
        self.admin.disks.delete(self._extra_incomplete())

    def _extra_incomplete(self) -> list[Disk]:
        records = self.checks.replica.table.records
        disks = {record.disk for record in records.values()}
        return [disk for disk in self.admin.disks.extra if disk.number in disks] if disks else []

    def change_containers(self) -> None:
        """A container is added, or one to be removed."""
        self._count("change_containers")
        self.admin.change_containers()

    # Storage --------------------------------------------------------------------------------------

    def slow_container(self) -> None:
        """Some requests take seconds, longer than a lease."""
        self._count("slow_container")
        medium = self.rng.choice(list(self.media.values()))
        medium.slow_until_ns = self.world.now_ns + self._some_ns(50 * MS, 2 * self.lease_ns)

    def missing_container(self) -> None:
        """A controller dies, and the next one does not find a container at first."""
        term = self.office.newest
        here = [medium for medium in self.media.values() if not medium.is_remote]
        if not here or term is None or not term.process.alive:
            return
        self._count("missing_container")
        medium = self.rng.choice(here)
        medium.missing_until_ns = self.world.now_ns + self._some_ns(500 * MS, 4 * self.lease_ns)
        term.process.kill()

    def failing_container(self) -> None:
        """Reads, writes or flushes fail now and then."""
        if not self.errors_allowed:
            return
        self._count("failing_container")
        medium = self.rng.choice(list(self.media.values()))
        kinds = self.rng.choice((("read",), ("write",), ("flush",), ("read", "write", "flush")))
        medium.failing = frozenset(kinds)
        medium.fail_until_ns = self.world.now_ns + self._some_ns(20 * MS, SECOND)

    def slow_store(self) -> None:
        """Commits take up to half a second."""
        self._count("slow_store")
        self.store.slow_until_ns = self.world.now_ns + self._some_ns(20 * MS, 2 * SECOND)

    def failing_store(self) -> None:
        """Calls end with an unknown outcome."""
        self._count("failing_store")
        self.store.fail_until_ns = self.world.now_ns + self._some_ns(20 * MS, SECOND)

    def full_store(self) -> None:
        """Commits find no room for a while, longer than a lease now and then."""
        self._count("full_store")
        until_ns = self.world.now_ns + self._some_ns(20 * MS, 2 * self.lease_ns)
        self.store.full_until_ns = until_ns

    def power_loss(self) -> None:
        """Everything at once."""
        self._count("power_loss")
        self.lose_all_power()

    # Ambushes -------------------------------------------------------------------------------------

    def ambush_controller(self) -> None:
        """Kills the controller at a crash point."""
        # The rare ones twice: they wait long, and a later ambush may take their place.
        point = self.rng.choice((*CONTROLLER_POINTS, "checkpoint", "checkpoint", "split_read"))

        def there() -> bool:
            return self._points.controller_at(point)

        def strike() -> None:
            term = self.office.newest
            if term is not None:
                self._kill_soon(term.process, self.rng.randint(1, 12))

        self._set(f"controller: {point}", there, strike)

    def ambush_failpoint(self) -> None:
        """Kills the controller, or an agent, at a failpoint, the next time one comes there.

        Most of a seed's ambushes are at one and the same, those of an aimed one all: some places
        are seldom come to.
        """
        favourite = FAILPOINTS[self.world.seed % len(FAILPOINTS)]
        drawn = favourite if self.rng.random() < 0.7 else self.rng.choice(FAILPOINTS)
        self._failpoint = self.aim or drawn

    def ambush_agent(self) -> None:
        """Kills an agent at a crash point."""
        point = self.rng.choice(AGENT_POINTS)
        machine = self.rng.choice(self.machines)

        def strike() -> None:
            if machine.alive is not None:
                if self.rng.random() < 0.3:
                    machine.alive.pause()
                    self.world.call_in(
                        self._some_ns(self.lease_ns // 2, 3 * self.lease_ns), machine.alive.resume
                    )
                else:
                    machine.alive.kill()
                    self._boot_later(machine)

        self._set(f"agent: {point}", lambda: self._points.agent_at(machine, point), strike)

    def ambush_link(self) -> None:
        """Cuts all agents' links at a crash point."""
        point = self.rng.choice(LINK_POINTS)

        def there() -> bool:
            if point == "blocking":
                return self._points.controller_at(point)
            return self._points.commanded(None, "write" if point == "do_write" else "read")

        def strike() -> None:
            for wire in list(self.network.wires):
                wire.cut()

        self._set(f"link: {point}", there, strike)

    def ambush_failure(self) -> None:
        """Flushes fail, and before that is durable links are cut, or the controller dies."""
        if not self.errors_allowed:
            return
        for medium in self.media.values():
            medium.failing = frozenset(("flush",))
            medium.fail_until_ns = self.world.now_ns + SECOND

        def strike() -> None:
            term = self.office.newest
            if self.rng.random() < 0.3 and term is not None:
                term.process.kill()
            for wire in list(self.network.wires):
                wire.cut()

        self._set("flush failure untold", self._points.failure_untold, strike)

    def ambush_power(self) -> None:
        """Loses power with writes under way, or a commit."""
        point = self.rng.choice(("writes under way", "append", "flush"))

        def there() -> bool:
            if point == "append":
                return bool(self.store.in_flight.get("append"))
            kind = "write" if point == "writes under way" else "flush"
            return any(r.kind == kind for m in self.media.values() for r in m.under_way.values())

        self._set(f"power: {point}", there, self.power_loss)

    def _set(self, point: str, there: Callable[[], bool], strike: Callable[[], None]) -> None:
        self._ambush = (point, there, strike)

    def _kill_soon(self, process: Process, handles: int) -> None:
        if self.rng.random() < 0.3:
            process.kill()
        else:
            self.world.after_handles(process, handles, process.kill)

    # Operators ----------------------------------------------------------------------------

    def move_disk(self) -> None:
        """A disk is moved."""
        self._count("move_disk")
        self.operator.move()

    def drain_container(self) -> None:
        """A container is drained."""
        self._count("drain_container")
        self.operator.drain()

    def rebalance(self) -> None:
        """Containers are levelled."""
        self._count("rebalance")
        self.operator.rebalance()

    def change_job(self) -> None:
        """A job is cancelled, or gets another bandwidth."""
        self._count("change_job")
        self.operator.change_job()

    def declare_dead(self) -> None:
        """A lost agent is declared dead, when it is."""
        if self.operator.declare_dead():
            self._count("declare_dead")
        else:
            self._set("agent lost", lambda: bool(self.operator.lost()), self.declare_dead)

    def set_linger(self) -> None:
        """It is said how long requests linger at a container, or that it is unknown."""
        if self.operator.say_linger():
            self._count("set_linger")


KINDS: dict[str, Callable[[Faults], None]] = {
    "crash_agent": Faults.crash_agent,
    "pause_agent": Faults.pause_agent,
    "stuck_writer": Faults.stuck_writer,
    "bad_command": Faults.bad_command,
    "crash_controller": Faults.crash_controller,
    "pause_controller": Faults.pause_controller,
    "zombie_controller": Faults.zombie_controller,
    "cut_link": Faults.cut_link,
    "partition_agent": Faults.partition_agent,
    "slow_network": Faults.slow_network,
    "cut_host": Faults.cut_host,
    "burst": Faults.burst,
    "resize": Faults.resize,
    "create_disk": Faults.create_disk,
    "rename_disk": Faults.rename_disk,
    "delete_disk": Faults.delete_disk,
    "change_containers": Faults.change_containers,
    "slow_container": Faults.slow_container,
    "missing_container": Faults.missing_container,
    "failing_container": Faults.failing_container,
    "slow_store": Faults.slow_store,
    "failing_store": Faults.failing_store,
    "full_store": Faults.full_store,
    "power_loss": Faults.power_loss,
    "ambush_controller": Faults.ambush_controller,
    "ambush_failpoint": Faults.ambush_failpoint,
    "ambush_agent": Faults.ambush_agent,
    "ambush_link": Faults.ambush_link,
    "ambush_failure": Faults.ambush_failure,
    "ambush_power": Faults.ambush_power,
    "move_disk": Faults.move_disk,
    "drain_container": Faults.drain_container,
    "rebalance": Faults.rebalance,
    "change_job": Faults.change_job,
    "declare_dead": Faults.declare_dead,
    "set_linger": Faults.set_linger,
}
