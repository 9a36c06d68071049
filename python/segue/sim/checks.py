"""The safety rules 3 to 12, checked after every event they can break in (design, section 6).

    rule  where it is looked at
    1     a table that an agent gets: no other agent's write from before its attachment is under way
    3     entries of every live engine whose lease runs, against the replica of the durable table:
          after every call that may change entries, and after every commit
    4     the replica, after every commit (`Replica`); entries against it by rule 3
    5     a commit that gives a location to an extent: no request of anyone is under way there, and
          (rule 3) no live entry names it; a commit that deletes a disk: none but its holders' is
          where it lay; a commit that somebody's I/O has ended: none is under way, and none begins
    6     a commit of written bits, of a completion, of a clean mark: the medium has it durably
    7     answers on the links: one for each fault; and now and then every parked fault has an owner
    8     effects of an engine after the end of the lease it was granted, by its own clock; agents
          that the controller counts lost while their lease may still run
    9     a host I/O whose entries are all clean raises no fault
    10    commands that are wrong are refused and change nothing (`faults.py` sends them)
    11    every write that starts at a medium: the replica names its location and purpose
    12    every request that starts at a medium, against those under way there

The rest of rule 1 is the oracle's.  A check never changes the world: what it asks an engine, it
asks when the engine has just been called at the same moment.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from segue import _native
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
from segue.controller.controller import Controller
from segue.controller.peer import PeerState
from segue.controller.record import container_of, location_of, segment_of
from segue.sim.agent import Agent
from segue.sim.containers import SECTOR_BYTES, Medium, Request
from segue.sim.host_io import NO_HOLE, HostIo
from segue.sim.loop import World
from segue.sim.movement_checks import MovementChecks
from segue.sim.network import End, Network
from segue.sim.plane import Part, Plane
from segue.sim.replica import Replica
from segue.sim.store import StoreDisk
from segue.wire.messages import (
    CompleteToHost,
    DeleteTable,
    Failure,
    GetEntry,
    Lease,
    MapFault,
    Message,
    Outcome,
    Retry,
    Welcome,
)

NO_WRITE: int = _native.ENTRY_NO_WRITE
ZERO: int = _native.ENTRY_ZERO
ERROR: int = _native.ENTRY_ERROR
PROBE = 1 << 63
"""Commands with this bit are the checkers' own."""


class Checks:
    """All checkers of one world; satisfies `plane.Watch`."""

    def __init__(
        self, world: World, store: StoreDisk, media: dict[str, Medium], network: Network
    ) -> None:
        self.world = world
        self.store = store
        self.media = media
        self.network = network
        self.replica = Replica(world, store, self._committed)
        self.agents: dict[int, Agent] = {}
        """Live incarnations."""
        self.controllers: list[Controller] = []
        """Of live processes."""
        self.counts: dict[str, int] = {}
        self.movements = MovementChecks(self)
        self._words: dict[int, dict[int, list[int]]] = {}
        """Incarnation -> disk -> entries."""
        self._raised: dict[int, set[int]] = {}
        self._answered: dict[int, set[int]] = {}
        self._quiesced: set[int] = set()
        self._before: dict[tuple[int, int], list[Request]] = {}
        """(disk, incarnation) -> writes of others under way when it was attached."""
        self._sizes: dict[int, int] = {}
        """Disk -> its size at the last commit that changed it."""
        self._lease_ended = False
        """In the present call of an engine."""
        self._clean_io: HostIo | None = None
        self._io: HostIo | None = None
        for medium in media.values():
            medium.watch_start = self._request_starts
            medium.watch_fence = lambda how: self.count(f"fence: {how}")
        network.watch_sent = self._sent
        network.watch_received = self._received

    def count(self, what: str) -> None:
        """One more of these."""
        self.counts[what] = self.counts.get(what, 0) + 1

    def blame(self, rule: int, what: str) -> None:
        """A rule is broken."""
        self.world.blame(f"rule {rule}: {what}")

    def booted(self, agent: Agent) -> None:
        """A new incarnation runs."""
        incarnation = agent.incarnation
        self.agents[incarnation] = agent
        self._raised[incarnation] = set()
        self._answered[incarnation] = set()

        def died() -> None:
            self.agents.pop(incarnation, None)
            self._words.pop(incarnation, None)

        agent.process.on_kill.append(died)

    # Rule 3 --------------------------------------------------------------------------------------

    def engine_called(self, plane: Plane, changed: bool) -> None:
        """After every call of an engine."""
        if changed:
            words = {}
            for disk in plane.segment_bytes:
                entries = self._read_entries(plane, disk)
                if entries is not None:
                    words[disk] = entries
            self._words[plane.incarnation] = words
            self._check_entries(plane.incarnation)
            if plane.ticking and self._lease_ended and any(any(w) for w in words.values()):
                self.blame(8, f"{plane.process.name} keeps entries past the end of its lease")
        self._lease_ended = False

    def tables(self, plane: Plane) -> list[int]:
        """The disks it has a table of now."""
        return list(self._words.get(plane.incarnation, {}))

    def _read_entries(self, plane: Plane, disk: int) -> list[int] | None:
        answer = plane.probe(GetEntry(PROBE, disk, 0, plane.segments.get(disk, 1)))
        return list(answer[4]) if answer[2] == Outcome.DONE else None

    def _check_entries(self, incarnation: int) -> None:
        agent = self.agents.get(incarnation)
        if agent is None or agent.process.now_ns() >= agent.lease_until_ns:
            return
        table = self.replica.table
        for disk, words in self._words.get(incarnation, {}).items():
            allowed = self.replica.allowed.get(disk)
            if words == allowed or not any(words):
                continue
            if allowed is None or incarnation not in table.attached.get(disk, {}):
                self.blame(3, f"{agent.process.name} holds entries of disk {disk}, not attached")
                continue
            # A table may be of a size that the disk had, or is to have.
            both = zip_longest(words, allowed, fillvalue=0)
            for segment, (word, most) in enumerate(both):
                if word and not grants(most, word) and not self._still_zero(most, word):
                    self.blame(
                        3,
                        f"{agent.process.name} disk {disk} segment {segment}: holds {word:#x}, the "
                        f"durable table grants {most:#x}",
                    )

    def _still_zero(self, most: int, word: int) -> bool:
        """Whether it is a zero entry for a location that reads as zeroes, written by nobody.

        So it stands between a first write's commit and its answer at the only agent of a disk,
        which is not asked to forget its entry (`controller/restrict.py`); if that answer is lost,
        the entry stays true until somebody writes.
        """
        if not word & ZERO or not most or most & (ZERO | ERROR):
            return False
        medium, sectors = self.place(most)
        if any(medium.seen[sectors.start : sectors.stop]):
            return False
        writes = (r for r in medium.acting() if r.kind == "write")
        return not any(r.overlaps(sectors.start, len(sectors)) for r in writes)

    # Commits: rules 3, 4, 5, 6 -------------------------------------------------------------------

    def _committed(self, changes: list[AnyChange]) -> None:
        for incarnation in self.agents:
            self._check_entries(incarnation)
        self.movements.committed(changes)
        for change in changes:
            if isinstance(change, Allocated):
                self._check_allocated(change)
            elif isinstance(change, DiskMade):
                self._sizes[change.disk] = change.size_bytes
            elif isinstance(change, Written):
                self._check_written(change)
            elif isinstance(change, Completed):
                self._check_completed(changes, change)
            elif isinstance(change, Cleaned):
                for location in change.locations:
                    self._check_zeroed(location, "marked clean")
            elif isinstance(change, DiskResized):
                self._check_resized(change)
            elif isinstance(change, DiskDeleted):
                self._check_deleted(change)
            elif isinstance(change, DiskRenamed):
                self.count("disk renamed")
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
        agent = self.agents.get(holder)
        if agent is not None and agent.process.now_ns() < agent.lease_until_ns:
            self.blame(5, f"{agent.process.name} counts as ended while its lease runs")
        for medium in self.media.values():
            for request in medium.acting():
                if request.holder.fence == holder and request.kind == "write":
                    self.blame(
                        5,
                        f"{request.holder.name} counts as ended with a write under way at "
                        f"{medium.uri}",
                    )
            if medium.linger_ns and holder in medium.locks:
                self.count("fence: none, ended all the same")

    def _check_detached(self, change: Detached) -> None:
        """Rule 1: who has a disk no more has no write under way where the disk lies."""
        peers = [c.peers.get(change.incarnation) for c in self.controllers]
        if any(peer is not None and change.disk in peer.taking for peer in peers):
            self.count("disk taken from a lost agent")
        for request in self._writes_to(change.disk):
            if request.holder.fence == change.incarnation:
                self.blame(
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
        requests = [r for m in self.media.values() for r in m.acting() if r.kind == "write"]
        if not requests:
            return []
        places = [
            self.place(location)
            for location, (owner, _) in self.replica.owner.items()
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
                self.blame(
                    1,
                    f"disk {change.disk} is served by another agent with an old write of "
                    f"{request.holder.name} under way",
                )
        if before:
            self.count("attached beside a write")

    def _check_allocated(self, change: Allocated) -> None:
        self.count("allocated incomplete" if change.incomplete else "allocated clean")
        medium, sectors = self.place(change.location)
        for request in medium.acting():
            if request.kind != "flush" and request.overlaps(sectors.start, len(sectors)):
                self.blame(
                    5,
                    f"{self._name(change.location)} given to disk {change.disk} segment "
                    f"{change.segment} with a {request.kind} of {request.holder.name} under way",
                )
        if not change.incomplete:
            self._check_zeroed(change.location, "allocated as clean")

    def _check_zeroed(self, location: int, why: str) -> None:
        medium, sectors = self.place(location)
        span = slice(sectors.start, sectors.stop)
        if any(medium.seen[span]) or any(medium.durable[span]) or medium.is_dirty(sectors):
            self.blame(11, f"{self._name(location)} {why}, and is not durably zero")

    def _check_resized(self, change: DiskResized) -> None:
        """What a disk gains of a short segment must be durably zero."""
        disk = self.replica.table.disks[change.disk]
        old_bytes, self._sizes[change.disk] = self._sizes.get(change.disk, 0), disk.size_bytes
        segment, used_bytes = divmod(old_bytes, disk.segment_bytes)
        extent = disk.map.get(segment) if used_bytes and disk.size_bytes > old_bytes else 0
        if not extent:
            return
        location = self.replica.table.extents.get(extent)
        medium, sectors = self.place(location)
        gained = sectors[used_bytes // SECTOR_BYTES :]
        self.movements.grown(location, range(used_bytes // SECTOR_BYTES, len(sectors)))
        if any(medium.durable[s] for s in gained) or medium.is_dirty(gained):
            self.blame(11, f"{self._name(location)}: grown into what is not durably zero")
        self.count("grown within a segment")

    def _check_deleted(self, change: DiskDeleted) -> None:
        """Rule 5: nobody but the holders has a request under way where it lay."""
        self.count("disk deleted")
        if change.holders:
            self.count("disk deleted under a lost agent")
        for location, (disk, _) in self.replica.owner_before.items():
            if disk == change.disk:
                self.movements.check_free(location, change.holders)
        self.movements.deleted(change)

    def _check_written(self, change: Written) -> None:
        """Rule 6: data durable, then commit."""
        location = self.replica.table.extents.get(change.extent)
        disk = self.replica.table.disks[self.replica.owner[location][0]]
        medium, sectors = self.place(location)
        unit = disk.block_bytes // SECTOR_BYTES
        first = sectors.start + change.first_block * unit
        last = min(first + change.count_blocks * unit, sectors.stop)
        if medium.is_dirty(range(first, last)):
            self.blame(6, f"{self._name(location)}: written bits committed before their data")
        self.count("do_write committed")

    def _check_completed(self, changes: list[AnyChange], change: Completed) -> None:
        location = self.replica.table.extents.get(change.extent)
        if location == 0:
            return
        medium, sectors = self.place(location)
        if medium.is_dirty(sectors):
            self.blame(6, f"{self._name(location)}: record ended before its data was durable")
        self.count("completed")

    def place(self, location: int) -> tuple[Medium, range]:
        """Where a location lies: medium and sectors."""
        row = self.replica.table.containers[container_of(location)].row
        medium = self.media[row.uri]
        start = segment_of(location) * medium.segment_sectors
        return medium, range(start, start + medium.segment_sectors)

    def _name(self, location: int) -> str:
        return self.replica.table.name_of(location)

    # Media: rules 11, 12 -------------------------------------------------------------------------

    def _request_starts(self, request: Request) -> None:
        if request.kind == "flush":
            return
        medium = request.medium
        if request.kind == "write" and request.holder.fence in self.replica.ended:
            self.blame(5, f"{request.holder.name} counts as ended and begins a write")
        location = self._location(medium, request.sector)
        owner = self.replica.owner.get(location)
        if owner is None and request.kind == "read":
            owner = self.replica.sources.get(location)
        self.movements.request_starts(request, location)
        tag = request.tag
        if isinstance(tag, Part):
            if owner != (tag.io.disk, tag.segment):
                self.blame(
                    11 if request.kind == "write" else 3,
                    f"{request.holder.name} starts a {request.kind} for disk {tag.io.disk} segment "
                    f"{tag.segment} at {self._name(location)}, which belongs to {owner}",
                )
        elif request.kind == "write" and not self._copier_may(location, request):
            self.blame(11, f"{request.holder.name} zeroes {self._name(location)}, not in a record")
        for other in medium.acting():
            if other is not request and other.kind != "flush":
                self._check_overlap(request, other)

    def _copier_may(self, location: int, request: Request) -> bool:
        if location in self.replica.incomplete:
            return True
        return self.replica.table.cleaning.get(location) == request.holder.fence

    def _location(self, medium: Medium, sector: int) -> int:
        for number, container in self.replica.table.containers.items():
            if container.row.uri == medium.uri:
                return location_of(number, sector // medium.segment_sectors)
        return 0

    def _check_overlap(self, request: Request, other: Request) -> None:
        """Host I/O on entries may overlap other such I/O; nothing else may."""
        if request.kind == "read" == other.kind:
            return
        if not request.overlaps(other.sector, other.count):
            return
        plain = [isinstance(r.tag, Part) and not r.tag.commanded for r in (request, other)]
        if not all(plain):
            self.blame(
                12,
                f"{request.holder.name} starts a {request.kind} of "
                f"{request.sector}+{request.count} at {request.medium.uri} over a {other.kind} "
                f"of {other.holder.name} at {other.sector}+{other.count}",
            )

    # Planes: rules 8, 9 --------------------------------------------------------------------------

    def host_io(self, plane: Plane, io: HostIo) -> None:
        """Before a host I/O is given to an engine."""
        self._io = io
        agent = self.agents.get(plane.incarnation)
        clean = agent is not None and self._is_clean(plane, io)
        self._clean_io = io if clean else None

    def host_io_taken(self) -> None:
        """After it."""
        if self._clean_io is not None:
            self.count("clean I/O")
        self._clean_io = self._io = None

    def _is_clean(self, plane: Plane, io: HostIo) -> bool:
        if io.op == "flush":
            return False
        words = self._words.get(plane.incarnation, {}).get(io.disk)
        if words is None or io.first + io.count > plane.sectors[io.disk]:
            return False
        unit = plane.segment_bytes[io.disk] // SECTOR_BYTES
        first, last = io.first // unit, (io.first + io.count - 1) // unit
        if io.op == "status":
            return words[first] != 0
        for segment in range(first, last + 1):
            begin = max(io.first, segment * unit)
            end = min(io.first + io.count, (segment + 1) * unit)
            ends = ((segment + 1) * unit, plane.sectors[io.disk])
            whole = begin == segment * unit and end in ends
            if faults(words[segment], io.op, whole, bool(io.flags & NO_HOLE)):
                return False
        return True

    def effect(self, plane: Plane, effect: tuple[Any, ...]) -> None:
        """Before an effect is carried out."""
        kind = effect[0]
        if kind in ("fill", "release") or (kind == "reply" and effect[2]):
            return
        agent = self.agents.get(plane.incarnation)
        if agent is not None and agent.process.now_ns() >= agent.lease_until_ns:
            self.blame(8, f"{agent.process.name}: {effect[:3]} after its lease")
        if kind == "rmw":
            self.count("read-merge-write")

    def event(self, plane: Plane, event: tuple[Any, ...]) -> None:
        """When an engine tells something."""
        kind = event[0]
        if kind == "fault":
            self._raised[plane.incarnation].add(event[1])
            self.count("faults")
            if self._clean_io is not None:
                io = self._clean_io
                self.blame(9, f"clean {io.op} {io.first}+{io.count} of disk {io.disk} faults")
        elif kind == "lease_ended":
            self.count("lease expired")
            self._lease_ended = True
            if plane.ios:
                self.count("lease expired with I/O under way")
        elif kind == "faults":
            for fault, status, *_ in event[2]:
                if fault[0] not in self._raised[plane.incarnation]:
                    self.blame(7, f"{plane.process.name} lists fault {fault[0]}, never raised")
                # What a session that hangs up takes in it does not pass on: asked anew.
                self._answered[plane.incarnation].discard(fault[0])
                self.count(f"listed {('', 'waiting', 'running', 'done')[status]}")
        elif kind == "container_failed":
            self.count("container_failed")

    # Links: rules 7, 8 ---------------------------------------------------------------------------

    def _sent(self, end: End, message: Message) -> None:
        pass

    def _received(self, end: End, message: Message) -> None:
        agent = self._agent_of(end)
        if agent is None:
            return
        if isinstance(message, Lease):
            until_ns = message.sent_ns + message.duration_ns
            agent.lease_until_ns = max(agent.lease_until_ns, until_ns)
        elif isinstance(message, Welcome) and message.lost:
            self.count("welcomed as lost")
        elif isinstance(message, DeleteTable):
            if any(io.disk == message.disk for io in agent.plane.ios.values()):
                self.count("table deleted with I/O under way")
        elif isinstance(message, Retry | Failure | CompleteToHost):
            if agent.session.hang_up is not None or agent.session.phase.value == "down":
                return  # it has given the link up, and takes nothing from it any more
            answered = self._answered[agent.incarnation]
            if message.request in self._raised[agent.incarnation]:
                if message.request in answered:
                    self.blame(7, f"{agent.process.name}: fault {message.request} answered twice")
                answered.add(message.request)

    def _agent_of(self, end: End) -> Agent | None:
        for agent in self.agents.values():
            if agent.link is end:
                return agent
        return None

    def check_lost(self) -> None:
        """Rule 8, the controller's half: whom it counts lost has no lease any more.

        Only the newest term's belief counts: what an older one takes for granted is refused by
        the store.
        """
        for controller in self.controllers:
            if controller.term != self.store.term:
                continue
            for peer in controller.peers.values():
                if peer.state is PeerState.LOST:
                    agent = self.agents.get(peer.incarnation)
                    if agent is not None and agent.process.now_ns() < agent.lease_until_ns:
                        self.blame(8, f"{peer.name} is counted lost while its lease runs")

    def check_owners(self) -> None:
        """Rule 7: a fault parked at an agent is known to whoever must answer it.

        It is the link's (until it is cut), the controller's, or the agent's own, which lists it
        when its next session opens.
        """
        for agent in self.agents.values():
            link = agent.link
            session = agent.session
            if link is None or link.wire.broken or session.phase.value != "up":
                continue
            controller = self._controller_at(link.peer)
            if controller is None:
                continue
            peer = controller.peers.get(agent.incarnation)
            if peer is None or peer.session != session.session or peer.link is not link.peer:
                continue
            owned = {
                *peer.faults,
                *(m.request for m in link.peer.unread() if isinstance(m, MapFault)),
                *(m.request for m in link.unread() if isinstance(m, Retry | Failure)),
                *(m.request for m in link.unread() if isinstance(m, CompleteToHost)),
                *(e[1] for e in agent.plane.events if e[0] == "fault"),
            }
            for request in self._waiting(agent):
                if request not in owned:
                    self.blame(7, f"{agent.process.name}: fault {request} has no owner")

    def _waiting(self, agent: Agent) -> list[int]:
        answered = self._answered[agent.incarnation]
        return [fault[0] for fault in agent.plane.pending_faults() if fault[0] not in answered]

    def _controller_at(self, end: End) -> Controller | None:
        for controller in self.controllers:
            if any(peer.link is end for peer in controller.peers.values()):
                return controller
        return None


def grants(most: int, word: int) -> bool:
    """Whether an entry that may be `most` may be `word` (not invalid)."""
    if word == most:
        return True
    return bool(most) and word & ~NO_WRITE == most & ~NO_WRITE and bool(word & NO_WRITE)


def faults(word: int, op: str, whole: bool, no_hole: bool) -> bool:
    """The truth table once more, in the order of the design's: an independent copy."""
    if op == "trim" and not whole:
        return False
    if word == 0:
        return True
    if word & ERROR or op == "read":
        return False
    discards = op == "trim" or (op == "zero" and whole and not no_hole)
    if word & ZERO:
        return op == "write" or (op == "zero" and no_hole)
    if word & NO_WRITE:
        return True
    return discards
