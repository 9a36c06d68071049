"""Simulated links between agents and controllers: ordered, late, and cut at any moment.

A `Wire` is one connection with an `End` on each side.  Each way is one ordered stream: a message
arrives after its delay and never before an earlier one.  When a wire is cut, or the process at one
end dies, what had not arrived is lost (always a suffix of what was sent), and each end learns of
it in its own time: at once, or seconds later, sending into the void meanwhile.

Messages travel encoded, so nothing is shared between the two ends and every message passes through
the codec of ``segue.wire.messages``.  Frames and sockets are tested elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from segue.controller.ports import LinkClosed
from segue.sim.loop import MS, SECOND, US, Process, World
from segue.wire.messages import (
    Message,
    decode_from_agent,
    decode_from_controller,
    encode,
)

Watcher = Callable[["End", Message], None]


class End:
    """One side of a wire; satisfies `controller.ports.Link`, and serves the agent as well."""

    def __init__(self, wire: Wire, process: Process, decode: Callable[[bytes], Any]) -> None:
        self.wire = wire
        self.process = process
        self.closed = False
        """It has closed the link, or knows of its end."""
        self.peer: End
        self._decode = decode
        self._inbox: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._last_arrival_ns = 0
        self.flying: deque[tuple[int, bytes]] = deque()
        """Sent by the peer and not yet arrived: (arrival time, frame)."""

    def send(self, message: Message) -> None:
        """Queues a message; lost if the link has ended, known or not."""
        if self.closed or not self.process.alive:
            return
        self.wire.carry(self, encode(message))

    async def receive(self) -> Any:
        """The next message; raises `LinkClosed` at the end."""
        while not self._inbox:
            if self.closed:
                raise LinkClosed
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message = self._decode(self._inbox.popleft())
        self.wire.network.received(self, message)
        return message

    def close(self) -> None:
        """Ends the link from this side; what was sent before still arrives."""
        if not self.closed and self.process.alive:
            self.closed = True
            self._inbox.clear()
            self._wake()
            self.wire.hang_up(self)

    def unread(self) -> list[Message]:
        """Messages that have arrived or will, unless the wire is cut (for checkers)."""
        frames = [*self._inbox, *(frame for _, frame in self.flying)]
        return [self._decode(frame) for frame in frames]

    def arrive(self, frame: bytes) -> None:
        """The kernel has a frame for the process."""
        self.flying.popleft()
        if not self.closed and self.process.alive:
            self._inbox.append(frame)
            self.process.world.log("arrive", self.wire.name, self.process.name, frame)
            self._wake()

    def learn_of_end(self) -> None:
        """The kernel tells the process that the connection is over."""
        if not self.closed and self.process.alive:
            self.closed = True
            self.process.world.log("link-end", self.wire.name, self.process.name)
            self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            self.process.post(_set, waiter)


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Wire:
    """One connection; made by `Network.connect`."""

    def __init__(self, network: Network, agent: Process, controller: Process) -> None:
        self.network = network
        self.name = f"{agent.name}-{controller.name}#{network.world.next_serial()}"
        self.broken = False
        self.agent_end = End(self, agent, decode_from_controller)
        self.controller_end = End(self, controller, decode_from_agent)
        self.agent_end.peer = self.controller_end
        self.controller_end.peer = self.agent_end
        agent.on_kill.append(lambda: self.hang_up(self.agent_end))
        controller.on_kill.append(lambda: self.hang_up(self.controller_end))

    def carry(self, sender: End, frame: bytes) -> None:
        """Puts a frame on its way."""
        if self.broken:
            return
        world, receiver = self.network.world, sender.peer
        at_ns = max(world.now_ns + self.network.delay_ns(), receiver._last_arrival_ns)
        receiver._last_arrival_ns = at_ns
        receiver.flying.append((at_ns, frame))
        world.call_in(at_ns - world.now_ns, self._arrive, receiver, frame)

    def _arrive(self, receiver: End, frame: bytes) -> None:
        if receiver.flying and receiver.flying[0][1] is frame:
            receiver.arrive(frame)

    def cut(self) -> int:
        """The network fails: all that is under way is lost; returns how many messages."""
        if self.broken:
            return 0
        self.broken = True
        lost = len(self.agent_end.flying) + len(self.controller_end.flying)
        self.network.world.log("cut", self.name, lost)
        for end in (self.agent_end, self.controller_end):
            end.flying.clear()
            self._tell(end)
        self.network.forget(self)
        return lost

    def vanish(self) -> None:
        """The agent's machine is gone, and all that was under way; the controller is not told."""
        self.broken = True
        for end in (self.agent_end, self.controller_end):
            end.flying.clear()
        self.network.forget(self)

    def hang_up(self, end: End) -> None:
        """One end has closed, or died: a prefix of what it sent still arrives."""
        if self.broken:
            return
        self.broken = True
        rng = self.network.world.rng
        end.flying.clear()
        if not end.process.alive:
            keep = rng.randint(0, len(end.peer.flying))
            while len(end.peer.flying) > keep:
                end.peer.flying.pop()
        world = self.network.world
        after_ns = max(end.peer._last_arrival_ns - world.now_ns, 0) + self.network.delay_ns()
        world.call_in(after_ns, end.peer.learn_of_end)
        self.network.forget(self)

    def _tell(self, end: End) -> None:
        rng = self.network.world.rng
        late_ns = rng.randrange(6 * SECOND) if rng.random() < 0.15 else rng.randrange(5 * MS)
        self.network.world.call_in(late_ns, end.learn_of_end)


class Network:
    """All wires, and how fast they are.

    `listener` takes a new `End` in the controller's process, or is None while nobody listens;
    `watch_received` is the checkers' eyes.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.wires: list[Wire] = []
        self.listener: tuple[Process, Callable[[End], None]] | None = None
        self.watch_received: Watcher | None = None
        self.slow_until_ns = 0
        self.partitioned: dict[str, int] = {}
        """Agents that reach no controller, until when."""

    def delay_ns(self) -> int:
        """One message's time on the way."""
        rng = self.world.rng
        delay_ns = 30 * US + int(300 * US * rng.random())
        if self.world.now_ns < self.slow_until_ns and rng.random() < 0.5:
            delay_ns += rng.randrange(200 * MS)
        return delay_ns

    async def connect(self, agent: Process) -> End | None:
        """An agent's call to whoever listens; None if nobody does or the network is cut."""
        await asyncio.sleep(self.delay_ns() / SECOND)
        if self.partitioned.get(agent.name, 0) > self.world.now_ns:
            return None
        if self.listener is None or not self.listener[0].alive:
            return None
        controller, accept = self.listener
        wire = Wire(self, agent, controller)
        self.wires.append(wire)
        controller.post(accept, wire.controller_end)
        return wire.agent_end

    def forget(self, wire: Wire) -> None:
        """A wire has ended."""
        if wire in self.wires:
            self.wires.remove(wire)

    def received(self, end: End, message: Message) -> None:
        """Every message passes here when its receiver takes it."""
        if self.watch_received is not None:
            self.watch_received(end, message)
