"""What hosts may read: rule 1 for every sector, kept by someone who sees only the hosts.

A disk is a row of sectors, each a register of which the oracle knows the *writes* and the
*observations*::

    write         [issued, ended]  a token it would leave; `ended` is None while any attempt of it
                                   may still take effect (a resend or a lost lease makes several)
    observation   [begin, end]     at some instant in it the sector held this token: a read that
                                   returned it, or a write of it that was acknowledged

Legend: a write is *dead* when it can be read no more.  An observation of token t kills every write
of another token that had ended before the observation began: nothing of it can still happen, and
the sector held something else since.  That gives all of rule 1: an acknowledged write kills its
elders; of writes under way together each may win; one of unknown outcome stays possible until
something later is seen; and once a newer value has been read, older ones are dead.

A read [begin, end] may return any token whose write was issued before its end and was not dead
before its begin.

Loss of power: a write that died after the *floor* (when the newest acknowledged flush was issued)
may come back, one that died before may not.  An acknowledged FUA write, and anything read that is
older than the last loss of power, is a floor for its own sectors.

Special cases: zero is a token many writes share; the observation of it saves all of them.  A trim
is a write of zero that proves nothing.  A failed write has ended and proves nothing; a failed
flush moves no floor.  Left out: bytes within a sector; hosts write whole sectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

LARGE = 1 << 62
"""Later than any time."""


@dataclass(eq=False, slots=True)
class Write:
    """One host write; over `count` sectors from `first` it leaves `base + i`, or zero."""

    first: int
    count: int
    base: int
    issued_ns: int
    fua: bool = False
    ended_ns: int | None = None
    """None while it may still take effect."""
    over_ns: int | None = None
    """When its agent had done with a discard that the controller may just be carrying out: what was
    written since comes after it."""

    def token(self, sector: int) -> int:
        """What it would leave in that sector."""
        return self.base + sector - self.first if self.base else 0


@dataclass(eq=False, slots=True)
class Life:
    """What may still come of one write in one sector."""

    write: Write
    token: int
    dead_ns: int | None = None
    buried: bool = False
    """Dead, and loss of power will not bring it back."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A read or flush under way."""

    first: int
    count: int
    begin_ns: int


@dataclass(eq=False, slots=True)
class Size:
    """A size that the disk had, or may have had, from one moment to another."""

    sectors: int
    from_ns: int
    to_ns: int | None = None
    """None: it may have it now."""


@dataclass(eq=False, slots=True)
class Name:
    """A name that the disk had, or may have had, from one moment to another."""

    name: str
    from_ns: int
    to_ns: int | None = None
    """None: it may have it now."""


class WrongRead(Exception):
    """A host got what rule 1 does not allow."""


@dataclass(eq=False)
class Disk:
    """The oracle of one virtual disk of `sectors` sectors; all zero to begin with.

    A disk that is being resized may have either size until the outcome is known.  What shrinking
    takes is a durable write of zeroes, and I/O beyond every size possible must fail.  Likewise it
    may have either name while it is being renamed.  It is one disk's life: another one that is
    called so later has an oracle of its own, and is told apart by its number.
    """

    name: str
    sectors: int
    block_sectors: int = 8
    number: int = 0
    """The table's; 0 until it is known to have been made."""
    delete_ns: int | None = None
    """When it was asked to be deleted; that may yet come to nothing."""
    gone_ns: int | None = None
    """When it was known to be deleted."""
    lives: dict[int, list[Life]] = field(default_factory=dict)
    floor_ns: int = 0
    power_ns: int = -1
    """When power was last lost, or -1."""
    single: int = 0
    """Sectors read that had exactly one allowed token."""
    checked: int = 0
    """Sectors read."""
    sizes: list[Size] = field(default_factory=list)
    names: list[Name] = field(default_factory=list)
    _zero: Write = field(default_factory=lambda: Write(0, 0, 0, -1, ended_ns=-1))
    _tickets: list[Ticket] = field(default_factory=list)
    _open: list[Write] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sizes.append(Size(self.sectors, -1))
        self.names.append(Name(self.name, -1))

    # Name and life ------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether it was made, and is not known to be deleted."""
        return self.number != 0 and self.gone_ns is None

    def begin_rename(self, now: int, name: str) -> None:
        """An operator asks for another name."""
        self.names.append(Name(name, now))

    def settle_name(self, now: int, name: str) -> None:
        """From now on it has this name, one of those possible."""
        assert any(n.name == name and n.to_ns is None for n in self.names)
        for each in self.names:
            if each.name != name and each.to_ns is None:
                each.to_ns = now
        self.name = name

    def possible_names(self) -> list[str]:
        """What it may be called now."""
        return [n.name for n in self.names if n.to_ns is None]

    def was_called(self, name: str, begin_ns: int) -> bool:
        """Whether it may have had the name at some moment since then."""
        if self.gone_ns is not None and self.gone_ns < begin_ns:
            return False
        return any(n.name == name and (n.to_ns is None or n.to_ns >= begin_ns) for n in self.names)

    def surely_called(self, name: str, begin_ns: int) -> bool:
        """Whether it has been there under that name, and no other, ever since then."""
        since = [n for n in self.names if n.to_ns is None or n.to_ns >= begin_ns]
        alone = len(since) == 1 and since[0].name == name and since[0].from_ns < begin_ns
        return alone and self.exists and self.delete_ns is None

    # Size ---------------------------------------------------------------------------------------

    @property
    def resizing(self) -> bool:
        """Whether it may have one of several sizes now."""
        return sum(size.to_ns is None for size in self.sizes) > 1

    def begin_resize(self, now: int, sectors: int) -> None:
        """An operator asks for another size."""
        self.sizes.append(Size(sectors, now))

    def settle_size(self, now: int, sectors: int) -> None:
        """From now on it has this size, one of those possible."""
        assert any(s.sectors == sectors and s.to_ns is None for s in self.sizes)
        for size in self.sizes:
            if size.sectors != sectors and size.to_ns is None:
                size.to_ns = now
        self.sectors = sectors

    def sizes_since(self, begin_ns: int) -> list[int]:
        """The sizes it may have had at some moment since then."""
        return [s.sectors for s in self.sizes if s.to_ns is None or s.to_ns >= begin_ns]

    # Writes -------------------------------------------------------------------------------------

    def issue_write(self, now: int, first: int, count: int, base: int, fua: bool = False) -> Write:
        """A host sends a write; `base` 0 writes zeroes, else sector i gets ``base + i``."""
        write = Write(first, count, base, now, fua)
        lives = self.lives
        for sector in range(first, first + count):
            life = Life(write, base + sector - first if base else 0)
            known = lives.get(sector)
            if known is None:
                lives[sector] = [Life(self._zero, 0), life]
            else:
                known.append(life)
        self._open.append(write)
        return write

    def acknowledge(self, now: int, write: Write) -> None:
        """The host has been told that it is done, and no attempt of it is left."""
        self.end(now, write)
        for sector in range(write.first, write.first + write.count):
            token = write.token(sector)
            self._observe(sector, write.issued_ns, now, token, floor=write.fua, written=True)

    def end(self, now: int, write: Write) -> None:
        """No attempt of it can take effect any more, whatever came of it (again: nothing)."""
        if write.ended_ns is None:
            write.ended_ns = now
            self._open.remove(write)

    # Reads and flushes ----------------------------------------------------------------------------

    def begin(self, now: int, first: int = 0, count: int = 0) -> Ticket:
        """A host sends a read, or a flush (of no sectors)."""
        ticket = Ticket(first, count, now)
        self._tickets.append(ticket)
        return ticket

    def give_up(self, ticket: Ticket) -> None:
        """It failed, or its answer will never come."""
        if ticket in self._tickets:
            self._tickets.remove(ticket)

    def read(self, now: int, ticket: Ticket, tokens: Sequence[int]) -> None:
        """Its answer came; raises `WrongRead`."""
        self._tickets.remove(ticket)
        begin = ticket.begin_ns
        for sector, token in zip(
            range(ticket.first, ticket.first + ticket.count), tokens, strict=True
        ):
            allowed = self.allowed(sector, begin)
            self.checked += 1
            if len(allowed) == 1:
                self.single += 1
            if token not in allowed:
                raise WrongRead(
                    f"{self.name} sector {sector}: read {token:#x} in [{begin}, {now}], allowed "
                    f"{sorted(hex(t) for t in allowed)}; history: {self.explain(sector)}"
                )
            if len(allowed) > 1:
                self._observe(sector, begin, now, token)

    def flushed(self, now: int, ticket: Ticket) -> None:
        """The flush was acknowledged."""
        self._tickets.remove(ticket)
        self.floor_ns = max(self.floor_ns, ticket.begin_ns)

    def lose_power(self, now: int) -> None:
        """Everything went dark: nothing under way happens; what was not floored may come back."""
        for write in self._open:
            write.ended_ns = now
        self._open.clear()
        self._tickets.clear()
        for sector, lives in list(self.lives.items()):
            kept = [
                life
                for life in lives
                if life.dead_ns is None or (not life.buried and life.dead_ns >= self.floor_ns)
            ]
            for life in kept:
                life.dead_ns = None
            self.lives[sector] = kept
        self.power_ns = now

    # Questions ------------------------------------------------------------------------------------

    def allowed(self, sector: int, begin_ns: int) -> set[int]:
        """Tokens that a read of the sector begun then may return now."""
        lives = self.lives.get(sector)
        if lives is None:
            return {0}
        return {life.token for life in lives if life.dead_ns is None or life.dead_ns >= begin_ns}

    def explain(self, sector: int) -> str:
        """All that is remembered of a sector, for a message."""
        return "; ".join(
            f"{life.token:#x} issued {life.write.issued_ns} ended {life.write.ended_ns} "
            f"dead {life.dead_ns}{' buried' if life.buried else ''}"
            for life in self.lives.get(sector, [])
        )

    def ambiguous(self) -> int:
        """Sectors with more than one token possible now."""
        return sum(
            len({life.token for life in lives if life.dead_ns is None}) > 1
            for lives in self.lives.values()
        )

    # Inside -------------------------------------------------------------------------------------

    def _observe(
        self,
        sector: int,
        begin_ns: int,
        end_ns: int,
        token: int,
        *,
        floor: bool = False,
        written: bool = False,
    ) -> None:
        """`floor`: it is durable; `written`: a write of it was acknowledged."""
        lives = self.lives.get(sector)
        if lives is None:
            return
        if not floor and begin_ns > self.power_ns >= 0:
            # What the medium held when power came back is durable by being what is there.
            floor = all(
                life.write.issued_ns < self.power_ns for life in lives if life.token == token
            )
        killed = False
        for life in lives:
            if life.token == token:
                continue
            ended_ns = life.write.ended_ns
            if ended_ns is None and written:
                ended_ns = life.write.over_ns
            if ended_ns is None or ended_ns >= begin_ns:
                continue
            if life.dead_ns is None:
                life.dead_ns = end_ns
            life.buried |= floor
            killed = True
        if killed and len(lives) > 3:
            self._prune(sector, lives)

    def _prune(self, sector: int, lives: list[Life]) -> None:
        """Forgets lives that nobody can see again."""
        oldest_ns = min((ticket.begin_ns for ticket in self._tickets), default=LARGE)
        floor_ns = self.floor_ns
        self.lives[sector] = [
            life
            for life in lives
            if life.dead_ns is None
            or life.dead_ns >= oldest_ns
            or (not life.buried and life.dead_ns >= floor_ns)
        ]
