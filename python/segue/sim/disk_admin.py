"""What a simulated administrator does to disks: makes, renames, resizes and deletes them.

The disks of a plan are resized only.  Beside them come and go others, of a few names that are used
again and again: a disk's oracle (`oracle.Disk`) is of one life, and tells its disk by the number.

The oracle is told what was asked for, and what came of it: at once if the verb ended, else when a
newer term serves, which an older one can change nothing behind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segue.controller.controller import Controller
from segue.controller.procedures.resize import resize_disk
from segue.controller.procedures.verbs import Refusal, create_disk, delete_disk, rename_disk
from segue.controller.table import Disk as Row
from segue.controller.table import Table
from segue.sim.containers import SECTOR_BYTES
from segue.sim.office import Term
from segue.sim.oracle import Disk, Write

if TYPE_CHECKING:
    from segue.sim.admin import Admin

MOST_MORE_SEGMENTS = 4
NAMES = ("x0", "x1", "x2")
"""Of disks that come and go: few, so that a name is soon another disk's."""
MOST_AT_ONCE = 2
MOST_MADE = 5
"""Disks that are made in one world."""


@dataclass(eq=False)
class Asked:
    """A verb whose outcome is not known yet."""

    disk: Disk
    what: str
    term: Term
    """Whom it was asked of."""
    took_effect: Callable[[Row | None], bool]
    """By the disk's row in the table of a term that serves."""
    settle: Callable[[bool], None]
    """Tells the oracle whether it took effect."""


class DiskAdmin:
    """Whoever uses those verbs; one of a kind at a time for each disk."""

    def __init__(self, admin: Admin, oracles: list[Disk], segment_sectors: int) -> None:
        self.oracles = oracles
        """Of all disks that are, were, or may be."""
        self.when_made: Callable[[Disk], None] = lambda disk: None
        """Called with each disk that was made, when that is known."""
        self._admin = admin
        self._world = admin.world
        self._rng = admin.world.rng
        self._segment_sectors = segment_sectors
        self._most = {oracle: oracle.sectors for oracle in oracles}
        self._asked: list[Asked] = []
        self._made = 0

    @property
    def busy(self) -> list[str]:
        """What is not known yet, in words."""
        self.settle()
        return [f"what came of the {each.what} of {each.disk.name}" for each in self._asked]

    @property
    def extra(self) -> list[Disk]:
        """The disks there are beside those of the plan."""
        return [disk for disk in self.oracles if disk.exists and disk not in self._most]

    # Verbs ----------------------------------------------------------------------------------------

    def create(self) -> None:
        """Asks for a new disk, now and then under a name that is another's."""
        self.settle()
        there = [d for d in self.oracles if d not in self._most and d.gone_ns is None]
        if len(there) >= MOST_AT_ONCE or self._made >= MOST_MADE:
            return
        taken = [name for d in there if d.delete_ns is None for name in d.possible_names()]
        opened = {each.disk.name for each in self._asked if each.what == "create"}
        free = [
            n for n in NAMES if n not in opened and (n not in taken or self._rng.random() < 0.1)
        ]
        if free:
            sectors = self._rng.randint(1, 3 * self._segment_sectors)
            self._create(Disk(self._rng.choice(free), sectors, self._rng.choice((8, 8, 1))))

    def _create(self, disk: Disk) -> None:
        async def verb(controller: Controller, _: str) -> None:
            sizes = disk.sectors * SECTOR_BYTES, disk.block_sectors * SECTOR_BYTES
            disk.number = (await create_disk(controller, disk.name, *sizes)).disk

        def settle(took_effect: bool) -> None:
            if took_effect:
                self._admin.checks.count("disk created")
                self._world.call_in(0, self.when_made, disk)
            else:
                self.oracles.remove(disk)

        disk.names[0].from_ns = self._world.now_ns
        if self._ask(disk, "create", verb, lambda row: row is not None, settle):
            self._made += 1
            self.oracles.append(disk)

    def rename(self) -> None:
        """Asks for another name for a disk that comes and goes."""
        disk = self._some_disk("rename", self.extra)
        if disk is None:
            return
        old, new = disk.name, self._rng.choice([name for name in NAMES if name != disk.name])

        async def verb(controller: Controller, name: str) -> None:
            await rename_disk(controller, name, new)

        def settle(took_effect: bool) -> None:
            disk.settle_name(self._world.now_ns, new if took_effect else old)

        if self._ask(disk, "rename", verb, lambda row: row is not None and row.name == new, settle):
            disk.begin_rename(self._world.now_ns, new)

    def delete(self, among: list[Disk] | None = None) -> None:
        """Asks for the end of a disk that comes and goes."""
        disk = self._some_disk("delete", self.extra if among is None else among)
        if disk is None:
            return

        async def verb(controller: Controller, name: str) -> None:
            await delete_disk(controller, name, force=True)

        def settle(took_effect: bool) -> None:
            if took_effect:
                disk.gone_ns = self._world.now_ns
            else:
                disk.delete_ns = None

        if self._ask(disk, "delete", verb, lambda row: row is None, settle):
            disk.delete_ns = self._world.now_ns

    def resize(self) -> None:
        """Asks for another size of some disk."""
        disk = self._some_disk("resize", [disk for disk in self.oracles if disk.exists])
        sectors = self._some_size(disk) if disk is not None else 0
        if disk is not None and sectors != disk.sectors:
            self._resize(disk, sectors)

    def _resize(self, disk: Disk, sectors: int) -> None:
        old = disk.sectors
        write: Write | None = None

        async def verb(controller: Controller, name: str) -> None:
            await resize_disk(controller, name, sectors * SECTOR_BYTES, force=True)

        def has_it(row: Row | None) -> bool:
            return row is not None and row.size_bytes == sectors * SECTOR_BYTES

        def settle(took_effect: bool) -> None:
            now = self._world.now_ns
            if write is not None and took_effect and write.ended_ns is None:
                disk.acknowledge(now, write)
            elif write is not None:
                disk.end(now, write)
            disk.settle_size(now, sectors if took_effect else old)

        if not self._ask(disk, "resize", verb, has_it, settle):
            return
        now = self._world.now_ns
        self._admin.checks.count("grown" if sectors > old else "shrunk")
        if sectors < old:
            write = disk.issue_write(now, sectors, old - sectors, 0, fua=True)
        disk.begin_resize(now, sectors)

    def _some_size(self, disk: Disk) -> int:
        """Near a border between segments as often as anywhere."""
        segment, rng = self._segment_sectors, self._rng
        most = self._most.get(disk, segment) + MOST_MORE_SEGMENTS * segment
        sectors = rng.randint(1, most)
        if rng.random() < 0.4:
            sectors = sectors // segment * segment
        elif rng.random() < 0.4:
            sectors = disk.sectors + rng.choice((-8, -1, 1, 8, 24))
        return max(1, min(most, sectors))

    # Asking, and what came of it ------------------------------------------------------------------

    def _some_disk(self, what: str, among: list[Disk]) -> Disk | None:
        """One of which that is not asked already."""
        self.settle()
        asked = [each.disk for each in self._asked if each.what == what]
        free = [disk for disk in among if disk not in asked]
        return self._rng.choice(free) if free else None

    def _ask(
        self,
        disk: Disk,
        what: str,
        verb: Callable[[Controller, str], Awaitable[None]],
        took_effect: Callable[[Row | None], bool],
        settle: Callable[[bool], None],
    ) -> bool:
        """Asks the controller that serves; False if none does."""
        term, controller = self._admin.serving()
        if term is None or controller is None:
            return False
        asked = Asked(disk, what, term, took_effect, settle)
        self._asked.append(asked)
        self._admin.run(term, f"{what} {disk.name}", self._carry_out(asked, controller, verb))
        return True

    async def _carry_out(
        self,
        asked: Asked,
        controller: Controller,
        verb: Callable[[Controller, str], Awaitable[None]],
    ) -> None:
        took_effect = True
        try:
            await verb(controller, self._name(asked, controller))
        except Refusal as refusal:
            self._world.log("refused", asked.disk.name, str(refusal))
            self._admin.checks.count(f"{asked.what} refused")
            took_effect = False
        # If not, a newer term has been asked meanwhile.
        if asked in self._asked:
            self._settled(asked, took_effect)

    def _name(self, asked: Asked, controller: Controller) -> str:
        """What the disk is called now; its old name may be another's."""
        if asked.what == "create":
            return asked.disk.name
        row = controller.table.disks.get(asked.disk.number)
        if row is None:
            raise Refusal("it is deleted already")
        return row.name

    def settle(self) -> None:
        """Asks a newer term what came of that which an older one was to do."""
        serving, controller = self._admin.serving()
        if controller is None or not controller.table.installation:
            return
        for asked in list(self._asked):
            if asked.term is not serving:
                self._admin.checks.count(f"{asked.what} known by a newer term")
                self._settled(asked, asked.took_effect(self._row(asked.disk, controller.table)))

    def _row(self, disk: Disk, table: Table) -> Row | None:
        """The disk in a table; one that may just have been made is known by its name."""
        if not disk.number:
            number = table.disk_names.get(disk.name, 0)
            if any(other.number == number for other in self.oracles):
                return None
            disk.number = number
        return table.disks.get(disk.number)

    def _settled(self, asked: Asked, took_effect: bool) -> None:
        self._world.log("verb", asked.what, asked.disk.name, asked.disk.number, took_effect)
        self._asked.remove(asked)
        asked.settle(took_effect)
