"""The checkers' own copy of the durable table, folded from the store's records.

It follows what has taken effect in the simulated store, and starts anew when a loss of power makes
the log shorter.  For every commit it hands the changes to the rules of `checks.py`.  It never reads
checkpoints, so it can tell whether a checkpoint says the same as all the commits before it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from segue.controller.changes import AnyChange, Attached, FenceEnded, decode_changes
from segue.controller.checkpoint import load_table
from segue.controller.record import Record, is_location
from segue.controller.soundness import problems
from segue.controller.table import Table
from segue.sim.loop import World
from segue.sim.store import StoreDisk
from segue.store.contract import Loaded, LogRecord, StoreCorrupt


class Replica:
    """`table`, and what follows from it: who owns each location, what each entry may be at most."""

    def __init__(
        self, world: World, disk: StoreDisk, on_commit: Callable[[list[AnyChange]], None]
    ) -> None:
        self.world = world
        self.disk = disk
        self.on_commit = on_commit
        self.table = Table()
        self.owner: dict[int, tuple[int, int]] = {}
        """Location -> (disk, segment) of the extent that lies there."""
        self.allowed: dict[int, list[int]] = {}
        """Disk -> the most an agent may hold of each segment."""
        self.incomplete: set[int] = set()
        """Locations of incomplete extents."""
        self.sources: dict[int, tuple[int, int]] = {}
        """Old location of an extent under movement -> (disk, segment)."""
        self.ended: set[int] = set()
        """Holders whose I/O counts as ended, and that have not been given a table again."""
        self.before: dict[int, tuple[Record, int]] = {}
        """Records before the newest commit, with their extents' locations."""
        self.owner_before: dict[int, tuple[int, int]] = {}
        """`owner` before the newest commit."""
        disk.watchers.append(self._took_effect)
        disk.watch_checkpoint = self._check_checkpoint

    def _took_effect(self, record: LogRecord | None) -> None:
        if record is None:
            self.table, self.ended = Table(), set()
            for old in self.disk.history:
                self.table.replay(old.body)
                self._note_ended(decode_changes(old.body))
            self._derive()
            return
        changes = decode_changes(record.body)
        self._note_ended(changes)
        get = self.table.extents.get
        self.before = {e: (copy(r), get(e)) for e, r in self.table.records.items()}
        try:
            self.table.apply(changes)
        except (AssertionError, KeyError) as error:
            self.world.blame(f"rule 4: commit {record.number} contradicts the table", error)
            return
        self._derive()
        self.on_commit(changes)

    def _note_ended(self, changes: list[AnyChange]) -> None:
        for change in changes:
            if isinstance(change, FenceEnded):
                self.ended.add(change.holder)
            elif isinstance(change, Attached):
                self.ended.discard(change.incarnation)

    def _derive(self) -> None:
        table = self.table
        self.owner_before, self.owner = self.owner, {}
        self.allowed = {}
        self.incomplete = set()
        self.sources = {}
        for disk in table.disks.values():
            for segment, extent, location in table.mapped_segments(disk):
                self.owner[location] = (disk.disk, segment)
                record = table.records.get(extent)
                if record is not None:
                    self.incomplete.add(location)
                    if is_location(record.source):
                        self.sources[record.source] = (disk.disk, segment)
            self.allowed[disk.disk] = [table.word(disk, s) for s in range(disk.segments)]
        for problem in problems(table):
            self.world.blame(f"rule 4: durable table: {problem}")

    def name(self, location: int) -> str:
        """A location for people."""
        return self.table.name_of(location)

    def _check_checkpoint(self, loaded: Loaded) -> None:
        """Checkpoint and log must make the table that all commits make (promise P7)."""
        try:
            found = facts(load_table(loaded))
        except StoreCorrupt as error:
            self.world.blame("P7: a checkpoint cannot be loaded", error)
            return
        for what, value in facts(self.table).items():
            if found[what] != value:
                self.world.blame(
                    f"P7: checkpoint of commit {loaded.checkpoint_number} differs in {what}: "
                    f"{found[what]}, commits say {value}"
                )


def facts(table: Table) -> dict[str, Any]:
    """All that a table says, in comparable form."""
    return {
        "number": table.number,
        "installation": table.installation,
        "disks": {
            disk.name: (
                disk.disk,
                disk.size_bytes,
                disk.block_bytes,
                disk.containers,
                disk.failed,
                list(table.mapped_segments(disk)),
            )
            for disk in table.disks.values()
        },
        "last disk": table.last_disk,
        "last container": table.last_container,
        "containers": {
            number: (
                container.row,
                [container.space.is_clean(s) for s in range(container.row.segments)],
                [container.space.state(s) for s in range(container.row.segments)],
                container.leaving,
                container.draining,
            )
            for number, container in table.containers.items()
        },
        "records": {
            extent: (record.source, record.blocks, record.written, record.copied, record.job)
            for extent, record in table.records.items()
        },
        "agents": table.agents,
        "attached": {disk: holders for disk, holders in table.attached.items() if holders},
        "locked": table.locked,
        "fences": table.fences,
        "quarantine": table.quarantine,
        "cleaning": table.cleaning,
        "jobs": table.jobs,
        "last job": table.last_job,
        "lying": table.lying,
    }
