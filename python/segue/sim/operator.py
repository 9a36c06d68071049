"""An operator who moves data about while everything else goes on, and tells the truth.

Makes jobs at random; declares agents dead that are, and says how long requests may linger at a
storage where they never take longer.  What it asks for runs in
the controller's process and dies with it; a refusal is as good as a job.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from segue.controller.commits import TermEnded
from segue.controller.controller import Controller
from segue.controller.fences import linger_ns
from segue.controller.peer import PeerState
from segue.controller.procedures.declare_dead import declare_dead, set_linger
from segue.controller.procedures.job_verbs import (
    cancel_job,
    drain_container,
    fill_container,
    limit_job,
    move_disk,
    rebalance,
)
from segue.controller.procedures.verbs import Refusal
from segue.sim.loop import MS, SECOND
from segue.sim.oracle import Disk
from segue.sim.stage import Stage


class Operator:
    """Makes and cancels jobs; says what only an operator can know."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._rng = stage.world.rng

    def move(self, of: Disk | None = None) -> None:
        """Moves a disk, or some segments of it, somewhere; often where it lies already."""
        rng, stage = self._rng, self._stage
        controller = stage.office.serving
        if controller is None or not controller.table.container_names:
            return
        # One that was deleted or made just now may not be there, or not yet be known.
        disk = controller.table.disks.get((of or rng.choice(stage.disks)).number)
        if disk is None:
            return
        first = count = 0
        if rng.random() < 0.4:
            first = rng.randrange(disk.segments)
            count = rng.randint(1, disk.segments - first)
        to = rng.choice(sorted(controller.table.container_names))
        self._ask(
            "move",
            move_disk(controller, disk.name, to, first=first, count=count, **self._pace()),
        )

    def drain(self) -> None:
        """Drains a container, or lets one that was drained be filled again."""
        controller = self._stage.office.serving
        if controller is None or not controller.table.container_names:
            return
        name = self._rng.choice(sorted(controller.table.container_names))
        if controller.table.containers[controller.table.container_names[name]].draining:
            self._ask("fill", fill_container(controller, name))
        else:
            self._ask("drain", drain_container(controller, name, **self._pace()))

    def rebalance(self) -> None:
        """Levels all containers."""
        controller = self._stage.office.serving
        if controller is not None:
            self._ask("rebalance", rebalance(controller, **self._pace()))

    def change_job(self) -> None:
        """Cancels a job, or gives it another bandwidth."""
        controller = self._stage.office.serving
        if controller is None or not controller.jobs.running:
            return
        number = self._rng.choice(sorted(controller.jobs.running))
        if self._rng.random() < 0.6:
            self._ask("cancel", cancel_job(controller, number))
        else:
            self._ask("limit", limit_job(controller, number, self._pace()["bandwidth"]))

    # What no fence proves -------------------------------------------------------------------------

    def lost(self) -> list[int]:
        """The incarnations that may be declared dead: lost, or waited for by quarantines alone."""
        controller = self._stage.office.serving
        if controller is None:
            return []
        waited_for = {h for holders in controller.table.quarantine.values() for h in holders}
        lost = {p.incarnation for p in controller.peers.values() if p.state is PeerState.LOST}
        return sorted(lost | waited_for - controller.peers.keys() - controller.table.fences.keys())

    def declare_dead(self) -> bool:
        """Pulls the plug of an agent that is lost, if need be, and declares it dead when it is.

        It is named by its incarnation: the machine may have another one that lives.
        """
        lost = self.lost()
        if not lost:
            return False
        incarnation = self._rng.choice(lost)
        machine = next(
            m
            for m in self._stage.machines
            if any(a.incarnation == incarnation for a in m.incarnations)
        )
        agent = machine.agent
        if agent is not None and agent.incarnation == incarnation and agent.process.alive:
            agent.process.kill()
            later_ns = self._rng.randrange(2 * SECOND)
            self._stage.world.call_in(later_ns, machine.boot_when_over)
        self._declare_when_over(incarnation)
        return True

    def _declare_when_over(self, incarnation: int) -> None:
        stage = self._stage
        if not stage.is_over(incarnation):
            stage.world.call_in(5 * MS, self._declare_when_over, incarnation)
        elif stage.office.serving is not None:
            self._ask("declare-dead", self._declare(stage.office.serving, incarnation))

    async def _declare(self, controller: Controller, incarnation: int) -> None:
        await declare_dead(controller, f"{incarnation:x}")
        self._stage.checks.count("declared dead")

    def say_linger(self) -> bool:
        """Says of a storage without a fence how long requests linger there, or "unknown" again."""
        controller = self._stage.office.serving
        names = self._without_fence(controller) if controller is not None else []
        if controller is None or not names:
            return False
        name, truth_s = self._rng.choice(names)
        # In its URI there may be a time as well, which holds when this one is taken back.
        linger_s = truth_s * self._rng.uniform(1, 1.5) if self._rng.random() < 0.8 else 0.0
        self._ask("linger", set_linger(controller, name, linger_s))
        return True

    def say_all(self) -> None:
        """From now on: where nothing is said it is said, so that waits end."""
        controller = self._stage.office.serving
        if controller is not None:
            for name, truth_s in self._without_fence(controller):
                number = controller.table.container_names[name]
                if not linger_ns(controller.table.containers[number]):
                    self._ask("linger", set_linger(controller, name, truth_s))
        self._stage.world.call_in(SECOND, self.say_all)

    def _without_fence(self, controller: Controller) -> list[tuple[str, float]]:
        """Name of each container without a fence, and the longest that a request takes there."""
        rows = [container.row for container in controller.table.containers.values()]
        media = [(row.name, self._stage.media[row.uri]) for row in rows]
        return [(name, medium.linger_ns / SECOND) for name, medium in media if medium.linger_ns]

    def _pace(self) -> dict[str, int]:
        """A bandwidth, a bound on what hosts feel, or neither."""
        bandwidth, latency_us = self._rng.choice(((0, 0), (0, 50), (100_000, 50), (1_000_000, 0)))
        return {"bandwidth": bandwidth, "latency_us": latency_us}

    def _ask(self, what: str, verb: Coroutine[Any, Any, Any]) -> None:
        term = self._stage.office.terms[-1]
        self._stage.checks.count(f"operator {what}")
        term.process.run(self._run(verb))

    async def _run(self, verb: Coroutine[Any, Any, Any]) -> None:
        try:
            await verb
        except Refusal as refusal:
            self._stage.checks.count("operator refused")
            self._stage.world.log("refused", str(refusal))
        except TermEnded:
            pass
