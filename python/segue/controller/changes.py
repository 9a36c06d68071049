"""The entry changes a commit is made of: the body of the store's log records.

A commit is a list of changes, applied in order, all or nothing.  Each is an absolute fact ("this
disk's segment is now this extent at this location"), so that a record says everything needed to
replay it.  New fields go to the end with a default; a change is never renumbered.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Change(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One fact of a commit."""


class InstallationMade(Change, tag=1, frozen=True):
    """First commit of a store: whose it is (16 bytes)."""

    installation: bytes


class TermBegun(Change, tag=2, frozen=True):
    """First commit of a term; `fence` names its copier's lock at the containers (rule 11)."""

    term: int
    fence: int


class FenceEnded(Change, tag=3, frozen=True):
    """The I/O of this holder (an incarnation, or a term's copier) has provably ended everywhere."""

    holder: int


class ContainerAdded(Change, tag=10, frozen=True):
    """A container of the pool; `clean`: unallocated segments of it are known to read as zeroes."""

    container: int
    name: str
    uri: str
    identity: bytes
    segment_bytes: int
    segments: int
    cache: str
    write_unit_bytes: int
    clean: bool


class DiskMade(Change, tag=20, frozen=True):
    """A new disk, all zero; `containers` is its first flush set."""

    disk: int
    name: str
    size_bytes: int
    segment_bytes: int
    block_bytes: int
    containers: list[int]


class DiskDeleted(Change, tag=21, frozen=True):
    """The disk and all its extents are gone; `holders` may still have I/O under way there."""

    disk: int
    holders: list[int]


class DiskContainers(Change, tag=22, frozen=True):
    """The flush set of a disk is now this (section 3, Containers)."""

    disk: int
    containers: list[int]


class FlushFailed(Change, tag=23, frozen=True):
    """A flush of this disk failed at this container: EIO until cleared (promise P5)."""

    disk: int
    container: int
    errno: int


class FlushCleared(Change, tag=24, frozen=True):
    """An operator has taken note of the disk's flush errors."""

    disk: int


class ContainerLeaving(Change, tag=60, frozen=True):
    """The container is empty and goes: in no flush set any more, nothing is allocated there."""

    container: int


class ContainerGone(Change, tag=61, frozen=True):
    """The container's storage has been given back; its number is not used again."""

    container: int


class ContainerLinger(Change, tag=64, frozen=True):
    """So long after its lease an agent's I/O has ended there, fence or not (section 4, Fences).

    0: nobody says so; only a fence or `declare-dead` counts.
    """

    container: int
    linger_s: float


class DiskResized(Change, tag=62, frozen=True):
    """The disk has another size.

    Smaller: extents beyond the end are gone, and `holders` may still have I/O under way there.
    Larger: what is new reads as zeroes, the rest of a segment that was short durably so.
    """

    disk: int
    size_bytes: int
    holders: list[int]


class GrowthBegun(Change, tag=65, frozen=True):
    """The copier is about to zero what lies behind the disk's end in its last segment (rule 11).

    The extent was complete; until that has ended it is not.  All its blocks count as written.
    """

    extent: int
    disk: int
    segment: int


class DiskRenamed(Change, tag=63, frozen=True):
    """The disk has another name."""

    disk: int
    name: str


class AgentKnown(Change, tag=30, frozen=True):
    """An agent's identity, and the longest lease ever granted to it."""

    agent: int
    name: str
    lease_ns: int


class Attached(Change, tag=31, frozen=True):
    """This incarnation may hold a table of the disk."""

    disk: int
    agent: int
    incarnation: int


class Detached(Change, tag=32, frozen=True):
    """This incarnation holds no table of the disk any more."""

    disk: int
    incarnation: int


class TableMade(Change, tag=33, frozen=True):
    """This incarnation has its table of the disk, and with it locks at all its containers.

    From here on, locks that are gone prove that its process is dead; before, they prove nothing.
    """

    disk: int
    incarnation: int


class Allocated(Change, tag=40, frozen=True):
    """A zero segment got an extent at a location (word of container and segment).

    With `incomplete` the location is unclean and the extent has a record with source zero.
    """

    disk: int
    segment: int
    extent: int
    location: int
    incomplete: bool


class Discarded(Change, tag=41, frozen=True):
    """A run of segments is zero again; its locations are freed.

    `holders` may still have I/O under way there: until their `FenceEnded` or `Returned` the
    locations are in quarantine (rule 5).
    """

    disk: int
    first: int
    count: int
    holders: list[int]


class Written(Change, tag=42, frozen=True):
    """Blocks of an incomplete extent that a host wrote, durable at its own location."""

    extent: int
    first_block: int
    count_blocks: int


class Copied(Change, tag=43, frozen=True):
    """Blocks of an incomplete extent that the copier made durable at its own location."""

    extent: int
    first_block: int
    count_blocks: int


class Completed(Change, tag=44, frozen=True):
    """All blocks of the extent are durable at its location: its record ends."""

    extent: int


class CleaningBegun(Change, tag=50, frozen=True):
    """The copier of `fence` is about to zero these free locations (rule 11)."""

    locations: list[int]
    fence: int


class Cleaned(Change, tag=51, frozen=True):
    """These free locations read as zeroes, durably."""

    locations: list[int]


class Returned(Change, tag=52, frozen=True):
    """A lost incarnation is back and has no I/O under way: its quarantines end."""

    holder: int


class ContainerDraining(Change, tag=80, frozen=True):
    """New allocations avoid the container, or no longer do."""

    container: int
    draining: bool


class MovementBegun(Change, tag=81, frozen=True):
    """The extent's own location is another one from here on, with the old one as source.

    Every agent has answered that it does not write there any more.  The copier, and agents by
    `do_write`, may write at the new location (rule 11); `job` is what for.
    """

    extent: int
    disk: int
    segment: int
    source: int
    location: int
    job: int


class MovementEnded(Change, tag=82, frozen=True):
    """All blocks are durable at the extent's own location; its source is free.

    `holders` may still have I/O under way at the source (rule 5).
    """

    extent: int
    holders: list[int]


class MovementAbandoned(Change, tag=83, frozen=True):
    """The extent lies at its source again: no host has written meanwhile.

    Nobody has I/O under way at the location it was to have: it is free.
    """

    extent: int


class JobMade(Change, tag=84, frozen=True):
    """Work that goes on until `JobEnded`, over any crash.

    `kind` is move, drain or rebalance; `disk` and the run of segments (count 0: to its end) are
    those of a move, `container` where to (move) or from (drain).  `bandwidth` is in bytes a
    second (0: no limit), `latency_us` the bound on hosts' p99 above which it slows down (0: none).
    The names are what disk and container were called then: they may go before it is forgotten.
    """

    job: int
    kind: str
    disk: int
    container: int
    first: int
    count: int
    bandwidth: int
    latency_us: int = 0
    disk_name: str = ""
    container_name: str = ""


class JobChanged(Change, tag=85, frozen=True):
    """An operator has given the job another limit, or cancelled it: nothing new is started."""

    job: int
    bandwidth: int
    cancelled: bool


class JobEnded(Change, tag=86, frozen=True):
    """The job is over: done, cancelled or failed; `reason` says why it failed."""

    job: int
    outcome: str
    reason: str


AnyChange = (
    InstallationMade
    | TermBegun
    | FenceEnded
    | ContainerAdded
    | DiskMade
    | DiskDeleted
    | DiskContainers
    | FlushFailed
    | FlushCleared
    | ContainerLeaving
    | ContainerGone
    | ContainerLinger
    | DiskResized
    | GrowthBegun
    | DiskRenamed
    | AgentKnown
    | Attached
    | Detached
    | TableMade
    | Allocated
    | Discarded
    | Written
    | Copied
    | Completed
    | CleaningBegun
    | Cleaned
    | Returned
    | ContainerDraining
    | MovementBegun
    | MovementEnded
    | MovementAbandoned
    | JobMade
    | JobChanged
    | JobEnded
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[AnyChange])


def encode_changes(changes: Sequence[AnyChange]) -> bytes:
    """The body of a log record."""
    return _encoder.encode(changes)


def decode_changes(body: bytes) -> list[AnyChange]:
    """Raises `msgspec.ValidationError` on a body this version does not know."""
    return _decoder.decode(body)
