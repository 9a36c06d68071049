"""A simulated administrator, who resizes disks and adds and removes containers while hosts work.

Each verb runs in the controller's process and may die with it.  The oracle is told what was asked
for, and what came of it: at once if the verb ended, else when a newer term serves, which an older
one can change nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

from segue.controller.commits import TermEnded
from segue.controller.controller import Controller
from segue.controller.procedures.remove_container import remove_container
from segue.controller.procedures.resize import resize_disk
from segue.controller.procedures.verbs import Refusal, add_container
from segue.sim.checks import Checks
from segue.sim.containers import SECTOR_BYTES, Medium
from segue.sim.loop import World
from segue.sim.office import Office, Term
from segue.sim.oracle import Disk, Write

MOST_MORE_SEGMENTS = 4


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
        self.oracles = oracles
        self.media = media
        self.segments = segments
        """How large a container is to be made of each medium."""
        self.checks = checks
        self._most = {oracle.name: oracle.sectors for oracle in oracles}
        self._asked: dict[str, tuple[Term, Write | None]] = {}
        """Resizes without an outcome: whom they were asked of, what shrinking takes."""
        self._tasks: dict[asyncio.Task[None], Term] = {}
        self._added = 0

    @property
    def busy(self) -> list[str]:
        """What is not over yet, in words."""
        self._settle()
        running = [task for task, term in self._tasks.items() if self._runs(task, term)]
        found = [f"an operator waits for {task.get_name()}" for task in running]
        return found + [f"the size of {name} is open" for name in self._asked]

    def _runs(self, task: asyncio.Task[None], term: Term) -> bool:
        return not task.done() and term.process.alive is not None and term.process.alive

    # Disks ----------------------------------------------------------------------------------------

    def resize(self) -> None:
        """Asks for another size of some disk."""
        self._settle()
        oracle = self.rng.choice(self.oracles)
        term, controller = self._serving()
        if controller is None or term is None or oracle.name in self._asked:
            return
        sectors = self._some_size(oracle)
        now, write = self.world.now_ns, None
        if sectors == oracle.sectors:
            return
        self.checks.count("grown" if sectors > oracle.sectors else "shrunk")
        if sectors < oracle.sectors:
            write = oracle.issue_write(now, sectors, oracle.sectors - sectors, 0, fua=True)
        oracle.begin_resize(now, sectors)
        self._asked[oracle.name] = (term, write)
        self._run(term, f"resize {oracle.name}", self._resize(term, oracle, sectors))

    def _some_size(self, oracle: Disk) -> int:
        """Near a border between segments as often as anywhere."""
        segment = next(iter(self.media.values())).segment_sectors
        most = self._most[oracle.name] + MOST_MORE_SEGMENTS * segment
        sectors = self.rng.randint(1, most)
        if self.rng.random() < 0.4:
            sectors = sectors // segment * segment
        elif self.rng.random() < 0.4:
            sectors = oracle.sectors + self.rng.choice((-8, -1, 1, 8, 24))
        return max(1, min(most, sectors))

    async def _resize(self, term: Term, oracle: Disk, sectors: int) -> None:
        old, controller = oracle.sectors, term.controller
        assert controller is not None
        try:
            await resize_disk(controller, oracle.name, sectors * SECTOR_BYTES, force=True)
        except Refusal as refusal:
            self.world.log("refused", oracle.name, str(refusal))
            self.checks.count("resize refused")
            sectors = old
        # If not, a newer term has been asked meanwhile.
        if self._asked.get(oracle.name, (None,))[0] is term:
            self._has_size(oracle, sectors)

    def _settle(self) -> None:
        """Asks a newer term how large the disks are that an older one was to resize."""
        serving, controller = self._serving()
        if controller is None:
            return
        for oracle in self.oracles:
            asked = self._asked.get(oracle.name)
            if asked is not None and asked[0] is not serving and controller.table.installation:
                disk = controller.table.disks[controller.table.disk_names[oracle.name]]
                self._has_size(oracle, disk.size_bytes // SECTOR_BYTES)

    def _has_size(self, oracle: Disk, sectors: int) -> None:
        _, write = self._asked.pop(oracle.name)
        now = self.world.now_ns
        if write is not None:
            if sectors == write.first and write.ended_ns is None:
                oracle.acknowledge(now, write)
            else:
                oracle.end(now, write)
        oracle.settle_size(now, sectors)

    # Containers -----------------------------------------------------------------------------------

    def change_containers(self) -> None:
        """Adds a medium that is no container, or wants to remove one that is."""
        term, controller = self._serving()
        if controller is None or term is None:
            return
        rows = [container.row for container in controller.table.containers.values()]
        spare = [uri for uri in self.media if all(row.uri != uri for row in rows)]
        if spare and self.rng.random() < 0.5:
            uri = self.rng.choice(spare)
            self._added += 1
            name = f"n{self._added}"
            self._run(term, f"add {uri}", self._add(controller, name, uri))
        elif rows:
            name = self.rng.choice(rows).name
            self._run(term, f"remove {name}", self._remove(controller, name))

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

    def _serving(self) -> tuple[Term | None, Controller | None]:
        return self.office.newest, self.office.serving

    def _run(self, term: Term, name: str, verb: Coroutine[Any, Any, None]) -> None:
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
