"""An operator who moves data about while everything else goes on: jobs at random.

What it asks for runs in the controller's process and dies with it; a refusal is as good as a job.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from segue.controller.commits import TermEnded
from segue.controller.procedures.job_verbs import (
    cancel_job,
    drain_container,
    fill_container,
    limit_job,
    move_disk,
    rebalance,
)
from segue.controller.procedures.verbs import Refusal
from segue.sim.stage import Stage


class Operator:
    """Makes and cancels jobs."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._rng = stage.world.rng

    def move(self) -> None:
        """Moves a disk, or some segments of it, somewhere; often where it lies already."""
        rng, stage = self._rng, self._stage
        controller = stage.office.serving
        if controller is None or not controller.table.container_names:
            return
        number = rng.randrange(len(stage.oracles))
        disk = controller.table.disks[number + 1]
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
