"""Where controllers run in the simulator: one serves, older ones may not know that they are over.

A `Term` is one controller process with its ``segue.controller.Controller``; the `Office` starts
them, keeps the newest as the listener of the network, and starts another when one has exited.
"""

from __future__ import annotations

import asyncio
import random

from segue.controller.commits import TermEnded
from segue.controller.controller import Controller
from segue.controller.settings import Settings
from segue.sim.checks import Checks
from segue.sim.containers import Medium
from segue.sim.loop import MS, SECOND, Process, World
from segue.sim.network import End, Network
from segue.sim.storage import SimStorage
from segue.sim.store import StoreDisk
from segue.store.contract import StoreCorrupt, StoreError, StoreTooNew


class Term:
    """One controller process."""

    def __init__(self, office: Office, number: int) -> None:
        self.office = office
        world = office.world
        offset_ns = world.rng.randrange(1, 10**6) * SECOND
        self.process: Process = world.process(f"c{number}", offset_ns, world.rng.randint(-200, 200))
        self.controller: Controller | None = None
        self.serving = False
        self.process.run(self._life(world.rng.getrandbits(64)))

    async def _life(self, seed: int) -> None:
        office, process = self.office, self.process
        storage = SimStorage(process, office.media)
        controller = Controller(
            office.disk.open(process), storage, process, office.settings, random.Random(seed)
        )
        self.controller = controller
        try:
            await controller.start()
        except (StoreCorrupt, StoreTooNew) as error:
            office.world.blame(f"{process.name} refuses its own store", error)
        except (StoreError, TermEnded, OSError) as error:
            office.world.log("no-start", process.name, type(error).__name__)
            return process.kill()
        self.serving = True
        office.checks.controllers.append(controller)
        process.on_kill.append(lambda: office.checks.controllers.remove(controller))
        office.network.listener = (process, self._accept)
        cause = await controller.failed
        office.world.log("term-over", process.name, type(cause).__name__)
        if not isinstance(cause, StoreError):
            office.world.blame(f"{process.name}: the term ended by itself", cause)
        process.kill()
        return None

    def _accept(self, link: End) -> None:
        assert self.controller is not None
        asyncio.get_running_loop().create_task(self.controller.serve(link))


class Office:
    """All controller processes of a world."""

    def __init__(
        self,
        world: World,
        network: Network,
        disk: StoreDisk,
        media: dict[str, Medium],
        settings: Settings,
        checks: Checks,
    ) -> None:
        self.world = world
        self.network = network
        self.disk = disk
        self.media = media
        self.settings = settings
        self.checks = checks
        self.terms: list[Term] = []
        self.autostart = True

    @property
    def newest(self) -> Term | None:
        """The newest controller process, alive or not."""
        return self.terms[-1] if self.terms else None

    @property
    def serving(self) -> Controller | None:
        """The newest controller, if it serves."""
        term = self.newest
        if term is None or not term.serving or not term.process.alive:
            return None
        return term.controller

    def start(self) -> Term:
        """Starts a controller process, whatever others do."""
        term = Term(self, len(self.terms) + 1)
        self.terms.append(term)
        self.world.log("controller", term.process.name)
        term.process.on_kill.append(lambda: self._exited(term))
        return term

    def _exited(self, term: Term) -> None:
        """A supervisor starts it again, if nobody newer runs."""
        self.world.call_in(self.world.rng.randrange(400 * MS), self._restart)

    def _restart(self) -> None:
        newest = self.newest
        if self.autostart and newest is not None and not newest.process.alive:
            self.start()
