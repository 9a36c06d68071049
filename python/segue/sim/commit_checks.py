"""What the safety rules ask of a commit, checked at the media when it is durable (1, 5, 6, 11).

    rule  where it is looked at
    1     a table that an agent gets: no other agent's write from before its attachment is under
          way where the disk lies; nor one of the agent that a disk is taken from
    5     a location given to an extent: no request of anyone is under way there; a disk deleted:
          none but its holders' is where it lay; somebody's I/O has ended: no write is under way
    6     written bits, a completion: the medium has it durably
    11    a location marked clean, allocated as clean, or gained by a disk that grew: durably zero

`checks.py` does the rest, and of movement `movement_checks.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.controller.changes import (
    Allocated,
    AnyChange,
    Attached,
    Cleaned,
    Completed,
    Detached,
    DiskDeleted,
    DiskMade,
    DiskRenamed,
    DiskResized,
    FenceEnded,
    TableMade,
    Written,
)
from segue.sim.containers import SECTOR_BYTES, Request
from segue.sim.plane import Part

if TYPE_CHECKING:
    from segue.sim.checks import Checks


class CommitChecks:
    """A part of `Checks`."""

    def __init__(self, checks: Checks) -> None:
        self._checks = checks
        self._before: dict[tuple[int, int], list[Request]] = {}
        """(disk, incarnation) -> writes of others under way when it was attached."""
        self._sizes: dict[int, int] = {}
        """Disk -> its size at the last commit that changed it."""

    def committed(self, changes: list[AnyChange]) -> None:
        """After a commit was taken in."""
        for change in changes:
            if isinstance(change, Allocated):
                self._check_allocated(change)
            elif isinstance(change, DiskMade):
                self._sizes[change.disk] = change.size_bytes
            elif isinstance(change, Written):
                self._check_written(change)
            elif isinstance(change, Completed):
                self._check_completed(change)
            elif isinstance(change, Cleaned):
                for location in change.locations:
                    self._check_zeroed(location, "marked clean")
            elif isinstance(change, DiskResized):
                self._check_resized(change)
            elif isinstance(change, DiskDeleted):
                self._check_deleted(change)
            elif isinstance(change, DiskRenamed):
                self._checks.count("disk renamed")
            elif isinstance(change, Attached):
                key = change.disk, change.incarnation
                self._before[key] = self._writes_of_others(*key)
            elif isinstance(change, Detached):
                self._check_detached(change)
            elif isinstance(change, TableMade):
                self._check_table_made(change)
            elif isinstance(change, FenceEnded):
                self._check_fence_ended(change.holder)

    def _check_fence_ended(self, holder: int) -> None:
        """Rule 5: whose I/O counts as ended has none under way (`_request_starts`: nor later)."""
        agent = self._checks.agents.get(holder)
        if agent is not None and agent.process.now_ns() < agent.lease_until_ns:
            self._checks.blame(5, f"{agent.process.name} counts as ended while its lease runs")
        for medium in self._checks.media.values():
            for request in medium.acting():
                if request.holder.fence == holder and request.kind == "write":
                    self._checks.blame(
                        5,
                        f"{request.holder.name} counts as ended with a write under way at "
                        f"{medium.uri}",
                    )
            if medium.linger_ns and holder in medium.locks:
                self._checks.count("fence: none, ended all the same")

    def _check_detached(self, change: Detached) -> None:
        """Rule 1: who has a disk no more has no write under way where the disk lies."""
        peers = [c.peers.get(change.incarnation) for c in self._checks.controllers]
        if any(peer is not None and change.disk in peer.taking for peer in peers):
            self._checks.count("disk taken from a lost agent")
        for request in self._writes_to(change.disk):
            if request.holder.fence == change.incarnation:
                self._checks.blame(
                    1,
                    f"disk {change.disk} is taken from {request.holder.name} with a write of it "
                    f"under way",
                )

    def _writes_of_others(self, disk: int, incarnation: int) -> list[Request]:
        return [
            request
            for request in self._writes_to(disk)
            if isinstance(request.tag, Part) and request.tag.plane.incarnation != incarnation
        ]

    def _writes_to(self, disk: int) -> list[Request]:
        """The writes under way where the disk lies: what it has let go of matters to it no more."""
        requests = [r for m in self._checks.media.values() for r in m.acting() if r.kind == "write"]
        if not requests:
            return []
        places = [
            self._checks.place(location)
            for location, (owner, _) in self._checks.replica.owner.items()
            if owner == disk
        ]
        return [
            request
            for request in requests
            if any(
                request.medium is medium and request.overlaps(sectors.start, len(sectors))
                for medium, sectors in places
            )
        ]

    def _check_table_made(self, change: TableMade) -> None:
        """Rule 1: a host that comes to another agent is not overtaken by its own old writes."""
        before = self._before.pop((change.disk, change.incarnation), [])
        still = self._writes_of_others(change.disk, change.incarnation)
        for request in before:
            if any(request is other for other in still):
                self._checks.blame(
                    1,
                    f"disk {change.disk} is served by another agent with an old write of "
                    f"{request.holder.name} under way",
                )
        if before:
            self._checks.count("attached beside a write")

    def _check_allocated(self, change: Allocated) -> None:
        self._checks.count("allocated incomplete" if change.incomplete else "allocated clean")
        medium, sectors = self._checks.place(change.location)
        for request in medium.acting():
            if request.kind != "flush" and request.overlaps(sectors.start, len(sectors)):
                self._checks.blame(
                    5,
                    f"{self._name(change.location)} given to disk {change.disk} segment "
                    f"{change.segment} with a {request.kind} of {request.holder.name} under way",
                )
        if not change.incomplete:
            self._check_zeroed(change.location, "allocated as clean")

    def _check_zeroed(self, location: int, why: str) -> None:
        medium, sectors = self._checks.place(location)
        span = slice(sectors.start, sectors.stop)
        if any(medium.seen[span]) or any(medium.durable[span]) or medium.is_dirty(sectors):
            self._checks.blame(11, f"{self._name(location)} {why}, and is not durably zero")

    def _check_resized(self, change: DiskResized) -> None:
        """What a disk gains of a short segment must be durably zero."""
        disk = self._checks.replica.table.disks[change.disk]
        old_bytes, self._sizes[change.disk] = self._sizes.get(change.disk, 0), disk.size_bytes
        segment, used_bytes = divmod(old_bytes, disk.segment_bytes)
        extent = disk.map.get(segment) if used_bytes and disk.size_bytes > old_bytes else 0
        if not extent:
            return
        location = self._checks.replica.table.extents.get(extent)
        medium, sectors = self._checks.place(location)
        gained = sectors[used_bytes // SECTOR_BYTES :]
        self._checks.movements.grown(location, range(used_bytes // SECTOR_BYTES, len(sectors)))
        if any(medium.durable[s] for s in gained) or medium.is_dirty(gained):
            self._checks.blame(11, f"{self._name(location)}: grown into what is not durably zero")
        self._checks.count("grown within a segment")

    def _check_deleted(self, change: DiskDeleted) -> None:
        """Rule 5: nobody but the holders has a request under way where it lay."""
        self._checks.count("disk deleted")
        if change.holders:
            self._checks.count("disk deleted under a lost agent")
        for location, (disk, _) in self._checks.replica.owner_before.items():
            if disk == change.disk:
                self._checks.movements.check_free(location, change.holders)
        self._checks.movements.deleted(change)

    def _check_written(self, change: Written) -> None:
        """Rule 6: data durable, then commit."""
        location = self._checks.replica.table.extents.get(change.extent)
        disk = self._checks.replica.table.disks[self._checks.replica.owner[location][0]]
        medium, sectors = self._checks.place(location)
        unit = disk.block_bytes // SECTOR_BYTES
        first = sectors.start + change.first_block * unit
        last = min(first + change.count_blocks * unit, sectors.stop)
        if medium.is_dirty(range(first, last)):
            self._checks.blame(
                6,
                f"{self._name(location)}: written bits committed before their data",
            )
        self._checks.count("do_write committed")

    def _check_completed(self, change: Completed) -> None:
        location = self._checks.replica.table.extents.get(change.extent)
        if location == 0:
            return
        medium, sectors = self._checks.place(location)
        if medium.is_dirty(sectors):
            self._checks.blame(
                6,
                f"{self._name(location)}: record ended before its data was durable",
            )
        self._checks.count("completed")

    def _name(self, location: int) -> str:
        return self._checks.replica.name(location)
