"""The safety rules 3 to 12, checked after every event they can break in (design, section 6).

    rule  where it is looked at
    3     entries of every live engine whose lease runs, against the replica of the durable table:
          after every call that may change entries, and after every commit
    4     the replica, after every commit (`Replica`); entries against it by rule 3
    5     who counts as ended begins no write
    7     answers on the links: one for each fault; and now and then every parked fault has an owner
    8     effects of an engine after the end of the lease it was granted, by its own clock; agents
          that the controller counts lost while their lease may still run
    9     a host I/O whose entries are all clean raises no fault
    10    commands that are wrong are refused and change nothing (`faults.py` sends them)
    11    every write that starts at a medium: the replica names its location and purpose
    12    every request that starts at a medium, against those under way there

What a commit must have found at the media is in `commit_checks.py`, of movement in
`movement_checks.py`; rule 1 is the oracle's.  A check never changes the world: what it asks an
engine, it asks when the engine has just been called at the same moment.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from segue import _native
from segue.controller.changes import AnyChange
from segue.controller.controller import Controller
from segue.controller.peer import PeerState
from segue.controller.record import container_of, location_of, segment_of
from segue.sim.agent import Agent
from segue.sim.commit_checks import CommitChecks
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
        self.commits = CommitChecks(self)
        self._words: dict[int, dict[int, list[int]]] = {}
        """Incarnation -> disk -> entries."""
        self._raised: dict[int, set[int]] = {}
        self._answered: dict[int, set[int]] = {}
        self._quiesced: set[int] = set()
        self._lease_ended = False
        """In the present call of an engine."""
        self._clean_io: HostIo | None = None
        self._io: HostIo | None = None
        for medium in media.values():
            medium.watch_start = self._request_starts
            medium.watch_fence = lambda how: self.count(f"fence: {how}")
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

    # Commits -----------------------------------------------------------------------------------

    def _committed(self, changes: list[AnyChange]) -> None:
        for incarnation in self.agents:
            self._check_entries(incarnation)
        self.movements.committed(changes)
        self.commits.committed(changes)

    def place(self, location: int) -> tuple[Medium, range]:
        """Where a location lies: medium and sectors."""
        row = self.replica.table.containers[container_of(location)].row
        medium = self.media[row.uri]
        start = segment_of(location) * medium.segment_sectors
        return medium, range(start, start + medium.segment_sectors)

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
                    f"{tag.segment} at {self.replica.name(location)}, which belongs to {owner}",
                )
        elif request.kind == "write" and not self._copier_may(location, request):
            self.blame(
                11, f"{request.holder.name} zeroes {self.replica.name(location)}, not in a record"
            )
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
