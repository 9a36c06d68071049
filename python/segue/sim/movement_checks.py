"""What the safety rules say of movement, checked at every commit and request (rules 4, 5, 6, 12).

    rule  where it is looked at
    4     no write starts at a location that is a source
    5     a movement begins with no write under way at the old location and nothing at the new one;
          a source is free only if nobody but its holders has a request under way there
    6     copied bits, and the end of a movement, are committed when both ends have it durably, and
          the copy is what the source says, but where hosts have written meanwhile
    11    the copier reads only from what a record names as source, or, to merge, where it zeroes

`checks.py` does the rest: entries, who may write where, what overlaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.controller.changes import (
    AnyChange,
    Copied,
    DiskDeleted,
    JobEnded,
    MovementAbandoned,
    MovementBegun,
    MovementEnded,
)
from segue.controller.record import Record, is_location
from segue.sim.containers import SECTOR_BYTES, Medium, Request
from segue.sim.plane import Part

if TYPE_CHECKING:
    from segue.sim.checks import Checks


class MovementChecks:
    """A part of `Checks`."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._touched: dict[int, set[int]] = {}
        """Location -> sectors in it that need not be what the source says: a `do_write` may have
        changed them since it was taken, or they were behind the disk's end."""

    def request_starts(self, request: Request, location: int) -> None:
        """Before a read or write of a medium."""
        checks, replica = self._checks, self._checks.replica
        host = isinstance(request.tag, Part)
        if request.kind == "write" and location in replica.sources:
            checks.blame(4, f"{request.holder.name} writes at a source, {replica.name(location)}")
        if request.kind == "write" and host:
            start = request.sector % request.medium.segment_sectors
            touched = self._touched.setdefault(location, set())
            touched.update(range(start, start + request.count))
        named = replica.incomplete if request.tag == ("merge",) else replica.sources
        if request.kind == "read" and not host and location not in named:
            checks.blame(11, f"{request.holder.name} copies from {replica.name(location)}")

    def committed(self, changes: list[AnyChange]) -> None:
        """After a commit was taken in."""
        for change in changes:
            if isinstance(change, MovementBegun):
                self._begun(change)
            elif isinstance(change, Copied):
                record = self._checks.replica.table.records[change.extent]
                if record.source:
                    self._checks.count("copied hints")
                    location = self._checks.replica.table.extents.get(change.extent)
                    self._check_copy(record, location, change.first_block, change.count_blocks)
            elif isinstance(change, MovementEnded):
                self._ended(change)
            elif isinstance(change, JobEnded):
                self._checks.count(f"jobs {change.outcome}")
            elif isinstance(change, MovementAbandoned):
                self._checks.count("movement abandoned")
                _, location = self._checks.replica.before[change.extent]
                self.check_free(location, [])

    def deleted(self, change: DiskDeleted) -> None:
        """A disk was deleted, with what of it was incomplete."""
        for record, _ in self._checks.replica.before.values():
            if record.disk != change.disk:
                continue
            moves = is_location(record.source)
            self._checks.count(f"disk deleted {'while it moves' if moves else 'incomplete'}")
            if moves:
                self.check_free(record.source, change.holders)

    def grown(self, location: int, gained: range) -> None:
        """The disk has gained these sectors of a location."""
        if location in self._checks.replica.incomplete:
            self._checks.count(
                "grown while moving" if self._moves(location) else "grown incomplete"
            )
            self._touched.setdefault(location, set()).update(gained)

    def _moves(self, location: int) -> bool:
        return self._checks.replica.owner[location] in self._checks.replica.sources.values()

    def _begun(self, change: MovementBegun) -> None:
        checks = self._checks
        checks.count("movement begun")
        self._touched.pop(change.location, None)
        medium, sectors = checks.place(change.source)
        for request in medium.acting():
            if request.kind == "write" and request.overlaps(sectors.start, len(sectors)):
                checks.blame(
                    5,
                    f"movement of {checks.replica.name(change.source)} begun with a write of "
                    f"{request.holder.name} under way",
                )
        self.check_free(change.location, [])

    def _ended(self, change: MovementEnded) -> None:
        checks = self._checks
        checks.count("movement ended")
        record, location = checks.replica.before[change.extent]
        if record.written:
            checks.count("movement ended after writes")
        self._check_copy(record, location, 0, record.blocks, ends=True)
        self.check_free(record.source, change.holders)

    def _check_copy(
        self, record: Record, location: int, first: int, count: int, ends: bool = False
    ) -> None:
        """Rule 6: both ends durable, and the same but where a host may have written.

        Before the record `ends`, a `do_write` may be under way where one has been before.
        """
        checks = self._checks
        disk = checks.replica.table.disks.get(record.disk)
        if disk is None:
            return
        unit = disk.block_bytes // SECTOR_BYTES
        here, there = checks.place(location), checks.place(record.source)
        touched = self._touched.get(location, set())
        end = min(
            (first + count) * unit, disk.size_bytes // SECTOR_BYTES - record.segment * len(here[1])
        )
        for at in range(first * unit, end):
            if at in touched:
                if ends and record.written >> at // unit & 1:
                    self._check_durable(here[0], here[1][at], location, "written")
                continue
            self._check_durable(there[0], there[1][at], record.source, "its source")
            self._check_durable(here[0], here[1][at], location, "a copy")
            # What a failed flush dropped at the source may have been copied before power was lost.
            lost = there[1][at] in there[0].dropped
            if not lost and here[0].durable[here[1][at]] != there[0].seen[there[1][at]]:
                checks.blame(
                    6,
                    f"{checks.replica.name(location)}: sector {at} counts as copied and is not "
                    f"what {checks.replica.name(record.source)} says",
                )

    def _check_durable(self, medium: Medium, sector: int, location: int, what: str) -> None:
        if medium.is_dirty((sector,)):
            name = self._checks.replica.name(location)
            self._checks.blame(6, f"{name}: {what} counts and is not durable (sector {sector})")

    def check_free(self, location: int, holders: list[int]) -> None:
        """Rule 5: nobody but the holders has a request under way there."""
        medium, sectors = self._checks.place(location)
        for request in medium.acting():
            if request.kind == "flush" or request.holder.fence in holders:
                continue
            if request.overlaps(sectors.start, len(sectors)):
                self._checks.blame(
                    5,
                    f"{self._checks.replica.name(location)} changes hands with a {request.kind} of "
                    f"{request.holder.name} under way",
                )
