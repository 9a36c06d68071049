"""A simulated administrator, who adds and removes containers, and disks, while hosts work.

Each verb runs in the controller's process and may die with it.  Those of disks are in
`disk_admin.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

from segue.controller.commits import TermEnded
from segue.controller.controller import Controller
from segue.controller.procedures.remove_container import remove_container
from segue.controller.procedures.verbs import Refusal, add_container
from segue.sim.checks import Checks
from segue.sim.containers import Medium
from segue.sim.disk_admin import DiskAdmin
from segue.sim.loop import World
from segue.sim.office import Office, Term
from segue.sim.oracle import Disk


class Admin:
    """Whoever uses those verbs."""

    def __init__(
        self,
        world: World,
        office: Office,
        oracles: list[Disk],
        media: dict[str, Medium],
        segments: dict[str, int],
        checks: Checks,
    ) -> None:
        self.world = world
        self.rng: Random = world.rng
        self.office = office
        self.media = media
        self.segments = segments
        """How large a container is to be made of each medium."""
        self.checks = checks
        self.disks = DiskAdmin(self, oracles, next(iter(media.values())).segment_sectors)
        self._tasks: dict[asyncio.Task[None], Term] = {}
        self._added = 0

    @property
    def busy(self) -> list[str]:
        """What is not over yet, in words."""
        running = [task for task, term in self._tasks.items() if self._runs(task, term)]
        return [f"an operator waits for {task.get_name()}" for task in running] + self.disks.busy

    def _runs(self, task: asyncio.Task[None], term: Term) -> bool:
        return not task.done() and term.process.alive is not None and term.process.alive

    # Containers -----------------------------------------------------------------------------------

    def change_containers(self) -> None:
        """Adds a medium that is no container, or wants to remove one that is."""
        term, controller = self.serving()
        if controller is None or term is None:
            return
        rows = [container.row for container in controller.table.containers.values()]
        spare = [uri for uri in self.media if all(row.uri != uri for row in rows)]
        if spare and self.rng.random() < 0.5:
            uri = self.rng.choice(spare)
            self._added += 1
            name = f"n{self._added}"
            self.run(term, f"add {uri}", self._add(controller, name, uri))
        elif rows:
            name = self.rng.choice(rows).name
            self.run(term, f"remove {name}", self._remove(controller, name))

    async def _add(self, controller: Controller, name: str, uri: str) -> None:
        size_bytes = self.segments[uri] * controller.settings.segment_bytes
        try:
            await add_container(controller, name, uri, size_bytes)
            self.checks.count("container added")
        except Refusal as refusal:
            self.world.log("refused", name, str(refusal))

    async def _remove(self, controller: Controller, name: str) -> None:
        try:
            await remove_container(controller, name)
            self.checks.count("container removed")
        except Refusal as refusal:
            self.world.log("refused", name, str(refusal))

    # Both -----------------------------------------------------------------------------------------

    def serving(self) -> tuple[Term | None, Controller | None]:
        """The newest controller process, and the controller in it if that serves."""
        return self.office.newest, self.office.serving

    def run(self, term: Term, name: str, verb: Coroutine[Any, Any, None]) -> None:
        """Runs a verb in the process of that term."""

        async def run() -> None:
            try:
                await verb
            except TermEnded:
                self.world.log("untold", name)

        task = term.process.run(run())
        task.set_name(name)
        self._tasks[task] = term
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        if not task.cancelled() and task.exception() is not None:
            self.world.blame(f"{task.get_name()} failed", task.exception())
