"""Simulated storage containers: what lies where, what would survive, and what is under way.

A `Medium` is one container's bytes, kept as one token for every sector of 512 bytes: 0 is zeroes,
anything else names the host write (or the rubbish) that put it there.  It has layers::

    seen     what a read returns (page cache or device)
    dirty    for each sector the tokens written since its last durable one, oldest first
    durable  what loss of power cannot take

Loss of power leaves in every dirty sector, each for itself, the durable token or any later one.
A flush makes durable what had been applied when it began; a write with FUA its own sectors.  A
flush that fails may drop dirty sectors for good: they are still seen, and no later flush saves
them; every descriptor open at the time fails its next flush or FUA as well, once (as in Linux).

Requests are under way between `submit` and their answer; a write takes effect in between, at one
instant or, torn, at two.  They belong to a `Holder` (an agent's incarnation or a controller's
copier) and outlive the death of its process, like requests in a kernel: `fence_ended` is true when
the process is dead and none of its requests is left.

A medium *across the network* shows no locks.  What it had of a lost client's is under way like
anything else, and takes effect when it does.  With a fence (`segue serve`) it ends a holder's
sessions when told to, which is answered when none of its requests is left, whatever its process
does meanwhile; a holder shut out for ever does nothing more there.  Without one nothing is known
but what the operator has said of it: no request is older than its linger time.  That is true of
it whether it was said (`linger-ms` in its URI) or not yet (`ends-ms`, which Segue does not read).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from segue.controller.fences import is_remote, linger_of
from segue.controller.ports import Note, Stamp
from segue.sim.loop import MS, SECOND, US, Process, World

SECTOR_BYTES = 512
EIO = 5
ENOENT = 2
END_TRIES = 50
RUBBISH = 1 << 60
"""Tokens from here on were on the medium before Segue: no host may ever see one."""


@dataclass(eq=False, slots=True)
class Holder:
    """Who does I/O: a process and the fence whose lock rides on its descriptors."""

    process: Process
    fence: int
    name: str


@dataclass(eq=False, slots=True)
class Request:
    """One request under way.  `tag` is its sender's, for checkers: what it is part of."""

    medium: Medium
    kind: str
    """read, write or flush."""
    holder: Holder
    sector: int
    count: int
    tokens: Sequence[int]
    fua: bool
    tag: Any
    done: Callable[[int, Sequence[int]], None]
    ended: Callable[[], None] | None
    """Called in no process when nothing of it can happen any more, answered or not."""
    errno: int = 0
    serial: int = 0
    """Of the last effect, for FUA and flush."""
    dropped: bool = False
    """Its process died before the kernel had it: no effect."""
    result: list[int] = field(default_factory=list)
    stuck_until_ns: int = 0
    """The device holds it until then: neither effect nor answer."""

    def overlaps(self, sector: int, count: int) -> bool:
        """Whether it touches one of these sectors."""
        return self.sector < sector + count and sector < self.sector + self.count


class Medium:
    """The storage behind one container."""

    def __init__(
        self, world: World, uri: str, segment_bytes: int, clean: bool, write_unit_bytes: int = 1
    ) -> None:
        self.world = world
        self.uri = uri
        self.segment_sectors = segment_bytes // SECTOR_BYTES
        self.clean = clean
        self.write_unit_bytes = write_unit_bytes
        self.identity = b""
        self.installation = b""
        self.segments = 0
        self.stamped = Stamp(0, 0)
        self.seen: list[int] = []
        self.durable: list[int] = []
        self.dirty: dict[int, list[tuple[int, int]]] = {}
        """Sector -> (serial, token) of every effect since the durable one."""
        self.doubtful: set[tuple[int, int]] = set()
        """(sector, serial) of failed writes' effects: nobody was told that they are durable."""
        self.note: Note | None = None
        """Durable: somebody's flush or FUA has failed, and no disk is marked for it yet."""
        self.dropped: set[int] = set()
        """Sectors that are seen and not durable, and that no flush saves: a failed one was told."""
        self.under_way: dict[int, Request] = {}
        self.locks: dict[int, Process] = {}
        self.fail_until_ns = 0
        self.failing: frozenset[str] = frozenset()
        """Kinds of request that may fail until then."""
        self.failure_odds = 0.3
        self.is_remote = is_remote(uri)
        """Written through: what is answered is durable, and no flush fails (decision 0008)."""
        self.linger_ns = linger_of(uri.replace("ends-ms", "linger-ms"))
        """Across the network, without a fence: no request takes longer.  0: it has a fence."""
        self.shut_out: set[int] = set()
        self.slow_until_ns = 0
        self.missing_until_ns = 0
        """Nobody can open it until then; who has it open goes on (a file system unmounted)."""
        self.watch_start: Callable[[Request], None] | None = None
        self.watch_end: Callable[[Request], None] | None = None
        self.watch_fence: Callable[[str], None] | None = None
        self._serial = 0
        self._losses = 0
        """Counts flushes that dropped something; every open descriptor is told of each once."""
        self._told: dict[int, int] = {}
        """Fence -> the losses its descriptor has been told of."""
        self._watched_deaths: set[int] = set()

    def format(self, size_bytes: int, identity: bytes, installation: bytes, term: int) -> None:
        """Makes it a container of that size."""
        self.identity = identity
        self.installation = installation
        self.stamped = Stamp(term, 0)
        self.segments = size_bytes // (self.segment_sectors * SECTOR_BYTES)
        sectors = self.segments * self.segment_sectors
        self.durable = [0] * sectors if self.clean else [RUBBISH + i for i in range(sectors)]
        self.seen = list(self.durable)
        self.dirty.clear()
        self.dropped.clear()
        self.doubtful.clear()
        self.note = None

    @property
    def unit_sectors(self) -> int:
        """What can be written at least."""
        return max(1, self.write_unit_bytes // SECTOR_BYTES)

    def may_take_over(self, installation: bytes, term: int) -> bool:
        """Whether its header is what an attempt of no newer term left behind (`making.rs`)."""
        is_unused = not self.stamped.commit and not any(p.alive for p in self.locks.values())
        is_ours = self.installation == installation and self.stamped.term <= term
        return is_ours and is_unused and not self.is_remote

    def give_back(self) -> None:
        """It is nobody's container any more (rules 5, 11)."""
        for request in self.under_way.values():
            if request.kind != "flush":
                self.world.blame(f"rule 5: {self.uri} given back with a {request.kind} under way")
        self.identity = self.installation = b""
        self.stamped = Stamp(0, 0)
        self.locks.clear()

    # Requests -----------------------------------------------------------------------------------

    def submit(
        self,
        kind: str,
        holder: Holder,
        sector: int,
        count: int,
        done: Callable[[int, Sequence[int]], None],
        tokens: Sequence[int] = (),
        fua: bool = False,
        tag: Any = None,
        ended: Callable[[], None] | None = None,
    ) -> Request:
        """Starts a request; `done(errno, tokens read)` runs in the holder's process.

        Offsets are in sectors of the data area.
        """
        world = self.world
        request = Request(self, kind, holder, sector, count, tokens, fua, tag, done, ended)
        if kind != "flush" and not 0 <= sector <= sector + count <= len(self.seen):
            world.blame(f"{holder.name}: {kind} outside {self.uri}: {sector}+{count}")
            sector = request.sector = 0
            count = request.count = 0
        if kind == "write":
            unit = self.unit_sectors
            parts = sector % unit or count % unit
            if (parts and count) or len(tokens) != count:
                world.blame(f"{holder.name}: write {sector}+{count} breaks the write unit {unit}")
        serial = world.next_serial()
        self.under_way[serial] = request
        self._watch_death(holder)
        if self.watch_start is not None and holder.fence not in self.shut_out:
            self.watch_start(request)
        took_ns = self._time_ns(kind)
        if self.linger_ns:
            took_ns = min(took_ns, self.linger_ns // 2)
        if holder.fence in self.shut_out:
            request.errno, request.dropped, took_ns = EIO, True, 20 * US
        request.serial = self._serial
        effect_ns = int(took_ns * world.rng.random())
        nothing_to_do = kind == "flush" and self.is_remote
        if (
            world.now_ns < self.fail_until_ns
            and kind in self.failing
            and not nothing_to_do
            and world.rng.random() < self.failure_odds
        ):
            request.errno = EIO
        if kind != "flush":
            torn = count > 1 and world.rng.random() < 0.3
            split = sector + (world.rng.randrange(1, count) if torn else count)
            world.call_in(effect_ns, self._effect, request, sector, split)
            if torn:
                later_ns = effect_ns + int((took_ns - effect_ns) * world.rng.random())
                world.call_in(later_ns, self._effect, request, split, sector + count)
        world.call_in(took_ns, self._finish, serial)
        return request

    def _time_ns(self, kind: str) -> int:
        rng = self.world.rng
        took_ns = 20 * US + int(250 * US * rng.random() ** 2)
        if kind == "flush":
            took_ns *= 4
        if self.world.now_ns < self.slow_until_ns and rng.random() < 0.3:
            took_ns += int(rng.random() ** 2 * min(6 * SECOND, 2 * self._slow_left_ns()))
        elif rng.random() < 0.01:
            took_ns += rng.randrange(30 * MS)
        return took_ns

    def _slow_left_ns(self) -> int:
        return self.slow_until_ns - self.world.now_ns

    def _effect(self, request: Request, begin: int, end: int) -> None:
        """The moment at which part of a read or write happens."""
        if request.dropped:
            return
        if self.world.now_ns < request.stuck_until_ns:
            self._when_unstuck(request, self._effect, request, begin, end)
            return
        if request.kind == "read":
            request.result += self.seen[begin:end]
            return
        self._serial += 1
        rng = self.world.rng
        tokens = request.tokens
        for sector in range(begin, end):
            if request.errno and rng.random() < 0.5:
                continue
            token = tokens[sector - request.sector]
            self.seen[sector] = token
            self.dropped.discard(sector)
            if request.errno:
                self.doubtful.add((sector, self._serial))
            waiting = self.dirty.get(sector)
            if waiting is None:
                self.dirty[sector] = [(self._serial, token)]
            else:
                if len(waiting) > 5:
                    del waiting[rng.randrange(len(waiting))]
                waiting.append((self._serial, token))
        request.serial = self._serial

    def _finish(self, serial: int) -> None:
        request = self.under_way.get(serial)
        if request is None:
            return
        if self.world.now_ns < request.stuck_until_ns:
            self._when_unstuck(request, self._finish, serial)
            return
        del self.under_way[serial]
        if not request.errno and (request.kind == "flush" or request.fua):
            self._tell_losses(request)
            if request.errno and request.kind == "write":
                self._doubt(request)
        if not request.errno and not request.dropped:
            if request.kind == "flush":
                self._harden(list(self.dirty), request.serial)
            elif request.kind == "write" and (request.fua or self.is_remote):
                span = range(request.sector, request.sector + request.count)
                self._harden(span, request.serial)
        elif request.kind == "flush" and not request.dropped:
            self._drop_some(request)
        self._end(request)
        if request.holder.process.alive:
            request.holder.process.post(request.done, request.errno, request.result)

    def _when_unstuck(self, request: Request, what: Callable[..., None], *args: Any) -> None:
        self.world.call_in(request.stuck_until_ns - self.world.now_ns, what, *args)

    def _end(self, request: Request) -> None:
        if self.watch_end is not None:
            self.watch_end(request)
        if request.ended is not None:
            request.ended()

    def _harden(self, sectors: Sequence[int], serial: int) -> None:
        """Effects up to `serial` cannot be lost any more."""
        for sector in sectors:
            waiting = self.dirty.get(sector)
            if waiting is None or waiting[0][0] > serial:
                continue
            kept = [item for item in waiting if item[0] > serial]
            self.durable[sector] = waiting[len(waiting) - len(kept) - 1][1]
            if self.doubtful:
                self.doubtful -= {(sector, item[0]) for item in waiting if item[0] <= serial}
            if kept:
                self.dirty[sector] = kept
            else:
                del self.dirty[sector]

    def _doubt(self, request: Request) -> None:
        """A write whose effects stand is answered with an error."""
        for at, token in enumerate(request.tokens):
            sector = request.sector + at
            for serial, dirty in self.dirty.get(sector, ()):
                if dirty == token and serial <= request.serial:
                    self.doubtful.add((sector, serial))

    def is_dirty(self, sectors: Iterable[int]) -> bool:
        """Whether power loss could take something from there that was not answered by an error."""
        return any(
            (sector, serial) not in self.doubtful
            for sector in sectors
            for serial, _ in self.dirty.get(sector, ())
        )

    def _tell_losses(self, request: Request) -> None:
        """Another's flush lost data since this descriptor was opened: it fails too, once."""
        fence = request.holder.fence
        if self._told.get(fence, self._losses) < self._losses:
            self._told[fence] = self._losses
            request.errno = EIO

    def _drop_some(self, request: Request) -> None:
        """A failed flush: the kernel counts dirty sectors as clean, and they are not."""
        self._losses += 1
        self._told[request.holder.fence] = self._losses
        rng = self.world.rng
        for sector in list(self.dirty):
            if rng.random() < 0.5:
                del self.dirty[sector]
                self.dropped.add(sector)

    def leave_note(self, holder: Holder, errno: int) -> None:
        """A flush or FUA of the holder came back with an error (`container/note.rs`)."""
        if self.note is None and not self.is_remote:
            self.note = Note(errno, holder.fence, self.world.next_serial())

    # Death and power ------------------------------------------------------------------------------

    @property
    def is_missing(self) -> bool:
        """Whether it cannot be opened now."""
        return self.world.now_ns < self.missing_until_ns

    def lock(self, holder: Holder) -> None:
        """Takes the lock of the holder's fence on the descriptor it has opened."""
        self.locks[holder.fence] = holder.process
        self._told.setdefault(holder.fence, self._losses)

    def acting(self) -> list[Request]:
        """The requests under way that may have an effect: not those of who is shut out."""
        return [request for request in self.under_way.values() if not request.dropped]

    def fence_ended(self, fence: int) -> bool:
        """Whether its lock is gone: process dead, and no request of it in the kernel."""
        process = self.locks.get(fence)
        if process is not None and process.alive:
            return False
        return not any(r.holder.fence == fence for r in self.under_way.values())

    def proven(self, how: str) -> None:
        """A holder's I/O has ended there, and somebody was told so."""
        if self.watch_fence is not None:
            self.watch_fence(how)

    async def end_sessions(self, fence: int, forever: bool) -> bool:
        """A server with a fence: whether nothing of the holder is left; it tries for a while."""
        if forever:
            self.shut_out.add(fence)
        for _ in range(END_TRIES):
            await asyncio.sleep(MS / SECOND)
            if not any(r.holder.fence == fence for r in self.under_way.values()):
                self.proven("shut out for good" if forever else "sessions ended")
                return True
        return False

    def _watch_death(self, holder: Holder) -> None:
        process = holder.process
        key = id(process)
        if key not in self._watched_deaths:
            self._watched_deaths.add(key)
            process.on_kill.append(lambda: self._died(process))

    def _died(self, process: Process) -> None:
        self._watched_deaths.discard(id(process))
        for serial, request in list(self.under_way.items()):
            if request.holder.process is not process or self.world.now_ns < request.stuck_until_ns:
                continue  # what the device holds stays there
            if self.world.rng.random() < 0.3:
                request.dropped = True
                del self.under_way[serial]
                self._end(request)

    def lose_power(self) -> None:
        """Requests under way end where they are; dirty sectors fall back, each for itself."""
        rng = self.world.rng
        under_way, self.under_way = self.under_way, {}
        for request in under_way.values():
            request.dropped = True
            self._end(request)
        self.locks.clear()
        lost = 0
        for sector, waiting in self.dirty.items():
            choice = rng.randrange(len(waiting) + 1)
            if choice:
                self.durable[sector] = waiting[choice - 1][1]
            lost += choice != len(waiting)
        self.dirty.clear()
        self.doubtful.clear()
        self.seen = list(self.durable)
        self.world.log("medium-power", self.uri, f"lost {lost} sectors")

    def heal(self) -> None:
        """No failures, no slowness, and it can be found, from here on."""
        self.fail_until_ns = self.slow_until_ns = self.missing_until_ns = 0


def medium_at(media: dict[str, Medium], uri: str) -> Medium | None:
    """The storage of a URI, with what an operator has added to it or without."""
    return media.get(uri.partition("&linger-ms=")[0])


def media_lose_power(media: dict[str, Medium]) -> None:
    """All of them at once."""
    for medium in media.values():
        medium.lose_power()
