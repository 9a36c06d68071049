"""What the controller needs of a store: a snapshot out, guarded commits in (design, section 3).

A store holds one installation's durable table as a *checkpoint* (an opaque root and the pages it
refers to) and a *log* of the commits made since.  It serves in numbered *terms*: `begin_term`
claims the next one, and from that moment every `append` and `checkpoint` of an older term is
refused.  Commits are numbered without gaps, across terms.

Must be atomic, each for itself: claiming a term; one `append`; one `checkpoint`.  What has
returned is durable; what raised `Superseded` has changed nothing; what raised `StoreFailed` may or
may not have happened, and the only thing left to do is to end the term and begin another.

Where there is no room left for it, a call takes until there is: it stays under way, with nothing
changed yet, and `no_room` tells of it.  `newest_term` needs no room and never waits for any.

The store never looks into roots, pages or bodies beyond its own checksums; `pages.py` makes pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class StoreError(Exception):
    """Base of everything a store raises."""


class Superseded(StoreError):
    """A newer term has begun, or `number` is not the next one: nothing was changed."""


class StoreCorrupt(StoreError):
    """The store is damaged; `what` names the page or record.  Nothing of it may be served."""

    def __init__(self, what: str) -> None:
        super().__init__(f"store damaged: {what}")
        self.what = what


class StoreFailed(StoreError):
    """The outcome is unknown: the caller must end its term (every later call fails alike)."""


class StoreFull(StoreError):
    """There is no room on the store's file system; nothing was changed, and it may be tried again.

    Opening a store raises it; the calls of one wait.
    """


class StoreTooNew(StoreError):
    """A newer Segue wrote this store: it is refused, not guessed at."""


class StoreInUse(StoreError):
    """Another process holds this installation."""


class StoreUnsafe(StoreError):
    """The place cannot keep the store's promises (a network file system)."""


class LogRecord(NamedTuple):
    """One commit: the term that made it, its number, and the controller's bytes."""

    term: int
    number: int
    body: bytes


class NoRoom(NamedTuple):
    """A store that has no room."""

    path: str
    """What has no room to grow."""
    for_s: float
    """Since when, in seconds."""


ReadPages = Callable[[Sequence[int]], Sequence[bytes]]
"""Pages by their ids, as many as a directory has at the most, in the order asked for; blocking.

Raises `StoreCorrupt` if one is missing; their checksums are for `PageTree.load` to verify."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The durable table as it stood when `term` began.

    An old copy of a store put back (promise P7) shows in the stamps of containers and agents: a
    genuine store has ``stamp.term < term`` and ``stamp.number <= number`` for every stamp.
    """

    term: int
    """The term just claimed, >= 1."""
    number: int
    """Number of the newest commit, 0 if there was none: the first `append` carries `number + 1`."""
    checkpoint_number: int
    """Number of the newest commit the root includes."""
    root: bytes
    """Root of the newest checkpoint; empty if there was none."""
    log: Sequence[LogRecord]
    """The commits after the checkpoint, oldest first, `checkpoint_number + 1` to `number`."""
    read_pages: ReadPages
    """Pages of the checkpoint; until the first `checkpoint` of this term only."""


class Store(Protocol):
    """The controller's store.  Calls may overlap; they take effect in the order made."""

    async def begin_term(self) -> Loaded:
        """Durably claim the newest term + 1 and return the table.

        Everything returned has been verified, pages excepted (`PageTree.load` does it); a damaged
        store raises `StoreCorrupt` before anything is claimed.
        """
        ...

    async def newest_term(self) -> int:
        """The newest term claimed by anyone, by a read begun after this call (lease requests)."""
        ...

    async def append(self, term: int, number: int, body: bytes) -> None:
        """Make one commit durable.

        Calls may be pipelined: a second one, with the next number, before the first returned; if
        one fails, all after it fail too.  Raises `Superseded` if `term` is not the newest, or
        `number` is not the newest number + 1; `StoreFailed`.
        """
        ...

    async def checkpoint(
        self,
        term: int,
        number: int,
        root: bytes,
        pages: Mapping[int, bytes],
        freed: Sequence[int],
    ) -> None:
        """Replace the checkpoint by one that includes the commits up to `number`.

        All at once: `pages` are written, `freed` ones dropped, `root` takes the old one's place
        and log records up to `number` go.  Ids of `pages` must be new (never those of pages of
        the current checkpoint); `freed` ids must be in the current checkpoint and not referred to
        by `root`.  `number` lies between the old checkpoint's and the newest commit's: commits
        may go on meanwhile, from `append`s made before and after.  Raises `Superseded`,
        `StoreFailed`.
        """
        ...

    def no_room(self) -> NoRoom | None:
        """For how long calls have found no room; None: none waits for it."""
        ...

    async def close(self) -> None:
        """Finish what was asked and let go of the store; what still waits for room fails."""
        ...
