"""A simulated agent: the real session between a simulated link and a simulated data plane.

`Machine` is where an agent runs: it keeps its name and its clock over restarts.  `Agent` is one
incarnation: a process with a `Plane`, a ``segue.agent.session.Session`` and the driver between
them, which does what ``agent/daemon.py`` does with sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from segue.agent.session import Session
from segue.controller.ports import LinkClosed
from segue.sim.containers import Medium
from segue.sim.loop import MS, SECOND, Handle, Process, World
from segue.sim.network import End, Network
from segue.sim.plane import Plane, Watch
from segue.wire.incarnation import begun_at


class Agent:
    """One incarnation."""

    def __init__(
        self,
        machine: Machine,
        incarnation: int,
    ) -> None:
        self.machine = machine
        self.incarnation = incarnation
        world = machine.world
        self.process = world.process(machine.name, machine.offset_ns, machine.drift_ppm)
        self.plane = Plane(
            self.process,
            incarnation,
            machine.media,
            machine.watch,
            machine.park_limit_bytes,
            machine.host_timeout_ns,
        )
        self.session = Session(self.plane, machine.name, incarnation)
        self.link: End | None = None
        self.refused = False
        """A controller refused it for good: it has exited."""
        self.lease_until_ns = 0
        """Of its own clock, by the leases it has been sent: for checkers."""
        self._timer: Handle | None = None
        self._ended: asyncio.Event
        self.plane.on_event = self._plane_events
        self.process.run(self._life())

    async def _life(self) -> None:
        """Connects, again and again."""
        self._ended = asyncio.Event()
        pause_s = 0.01
        while True:
            link = await self.machine.network.connect(self.process)
            if link is not None:
                pause_s = 0.01
                self.link = link
                self._ended.clear()
                self.session.connected(self.process.now_ns())
                self._pump()
                reader = asyncio.get_running_loop().create_task(self._read(link))
                await self._ended.wait()
                reader.cancel()
                link.close()
                self.link = None
                self.session.disconnected(self.process.now_ns())
                if self.session.final:
                    self.refused = True
                    self.process.kill()
                    self.machine.world.call_in(100 * MS, self.machine.boot_when_over)
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(0.25, pause_s * 2)

    async def _read(self, link: End) -> None:
        try:
            while True:
                message = await link.receive()
                self.session.handle(message, self.process.now_ns())
                self._pump()
        except LinkClosed:
            self._ended.set()

    def _plane_events(self) -> None:
        events = self.plane.events
        while events:
            self.session.plane_event(events.popleft(), self.process.now_ns())
        self._pump()

    def _pump(self) -> None:
        """Sends what the session has to say, and sets its timer."""
        messages = self.session.poll_messages()
        link = self.link
        if link is None:
            return
        for message in messages:
            link.send(message)
        if self.session.hang_up is not None:
            self._ended.set()
            return
        deadline_ns = self.session.deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline_ns is not None:
            self._timer = self.process.call_at_clock(deadline_ns, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.session.tick(self.process.now_ns())
        self._pump()


class Machine:
    """Where an agent runs; `agent` is its newest incarnation, dead or alive."""

    def __init__(
        self,
        world: World,
        name: str,
        network: Network,
        media: dict[str, Medium],
        watch: Watch,
        park_limit_bytes: int,
        host_timeout_ns: int | None,
    ) -> None:
        self.world = world
        self.name = name
        self.network = network
        self.media = media
        self.watch = watch
        self.park_limit_bytes = park_limit_bytes
        self.host_timeout_ns = host_timeout_ns
        self.offset_ns = world.rng.randrange(1, 10**6) * SECOND
        self._place = world.rng.getrandbits(29)
        self.drift_ppm = world.rng.randint(-200, 200)
        self.incarnations: list[Agent] = []
        self.on_boot: list[Callable[[Agent], None]] = []

    @property
    def agent(self) -> Agent | None:
        """The newest incarnation."""
        return self.incarnations[-1] if self.incarnations else None

    @property
    def alive(self) -> Process | None:
        """The process of the agent, if it runs."""
        agent = self.agent
        return agent.process if agent is not None and agent.process.alive else None

    def boot_when_over(self) -> None:
        """Starts the agent anew once no request of the last incarnation is in the kernel.

        So it is with a process that does its I/O in system calls: its supervisor sees it gone
        when they have returned.
        """
        agent = self.agent
        holder = agent.plane.holder if agent is not None else None
        requests = (r for m in self.media.values() for r in m.under_way.values())
        if any(request.holder is holder for request in requests):
            self.world.call_in(MS, self.boot_when_over)
        elif self.alive is None:
            self.boot()

    def boot(self) -> Agent:
        """Starts the agent anew, at once."""
        assert self.alive is None
        agent = Agent(self, begun_at(self._place, self.world.rng.getrandbits(32)))
        self.incarnations.append(agent)
        self.world.log("boot", self.name, agent.incarnation)
        for react in self.on_boot:
            react(agent)
        return agent

    def lose_power(self) -> None:
        """The machine stops, and its clock begins anew."""
        if self.alive is not None:
            self.alive.kill()
        self.offset_ns = self.world.rng.randrange(1, 1000) * SECOND - self.world.now_ns
