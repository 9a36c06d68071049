"""Where ambushes strike: the crash points by name, and whether the world is at one.

Places in the code are failpoints (``segue/failpoints.py``); these are states: a commit in flight, a
`do_write` half done, containers being opened for a table.
"""

from __future__ import annotations

from segue import failpoints
from segue.controller.peer import PeerState
from segue.sim.agent import Machine
from segue.sim.plane import Part
from segue.sim.stage import Stage

CONTROLLER_POINTS = (
    "append",
    "checkpoint",
    "begin_term",
    "newest_term",
    "do_write",
    "blocking",
    "zeroing",
    "copying",
    "moving",
    "split_read",
)
COPIER_TAGS = {"zeroing": "zero", "copying": "copy"}
"""Crash points of the controller -> tag of the copier's requests."""
FAILPOINTS = tuple(failpoints.POINTS)
"""Of a campaign of 1,000 seeds some processes must have died at each, but for `SELDOM`."""
SELDOM = ("complete.abandoned",)
"""Killed at by tests that bring it about (`tests/tools`): of 200 aimed seeds one came there."""
LINK_POINTS = ("do_write", "split_read", "blocking")
AGENT_POINTS = ("host write", "do_write", "read-merge-write", "parked", "flush", "opening")


class CrashPoints:
    """Looks at the world; asked after every event while an ambush is set."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def controller_at(self, point: str) -> bool:
        """Whether the controller is at that point of `CONTROLLER_POINTS`."""
        if point in ("append", "checkpoint", "begin_term", "newest_term"):
            return bool(self._stage.store.in_flight.get(point))
        controller = self._stage.office.serving
        if controller is None:
            return False
        if point in COPIER_TAGS:
            return any(
                r.tag == (COPIER_TAGS[point],)
                for m in self._stage.media.values()
                for r in m.under_way.values()
            )
        if point == "moving":
            return bool(self._stage.checks.replica.sources)
        peers = controller.peers.values()
        if point == "blocking":
            return any(peer.state is PeerState.PRESENT and peer._commands for peer in peers)
        kind = "write" if point == "do_write" else "read"
        return self.commanded(None, kind)

    def commanded(self, machine: Machine | None, kind: str) -> bool:
        """Whether a request of a `do_*` is under way, of that machine or any."""
        for medium in self._stage.media.values():
            for request in medium.under_way.values():
                tag = request.tag
                if not isinstance(tag, Part) or not tag.commanded or request.kind != kind:
                    continue
                if machine is None or tag.plane.process is machine.alive:
                    return True
        return False

    def agent_at(self, machine: Machine, point: str) -> bool:
        """Whether the machine's agent is at that point of `AGENT_POINTS`."""
        agent = machine.agent
        if agent is None or machine.alive is None:
            return False
        if point == "do_write":
            return self.commanded(machine, "write")
        if point == "parked":
            return any(not io.under_way for io in agent.plane.ios.values())
        if point == "opening":
            return agent.plane.opening
        if point == "read-merge-write":
            return agent.plane.merging > 0
        kind = "flush" if point == "flush" else "write"
        return any(
            r.kind == kind and r.holder is agent.plane.holder
            for m in self._stage.media.values()
            for r in m.under_way.values()
        )

    def failure_untold(self) -> bool:
        """A flush has failed, and its host waits until that is durable."""
        agents = (machine.agent for machine in self._stage.machines)
        return any(agent is not None and agent.session._failures for agent in agents)
