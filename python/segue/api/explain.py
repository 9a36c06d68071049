"""One byte of a disk in the HTTP API: which entry, where, why, and who is at it."""

from __future__ import annotations

import msgspec

from segue.api.status import FaultInfo, WorkInfo


class Place(msgspec.Struct, frozen=True):
    """A location, and the asked byte within it."""

    container: str
    segment: int
    """Number in the container."""
    uri: str
    offset_bytes: int
    """Of the byte within the container's file, device or export, header included."""
    away_s: float | None = None
    """For how long the container's server has been away; null: it is there."""


class BlockRecord(msgspec.Struct, frozen=True):
    """What is known of an incomplete extent, and of the asked block."""

    purpose: str
    """movement or zeroing."""
    job: int
    """The job that moves it; 0: none."""
    sources: list[Place]
    """Where blocks that are not here yet read from, the nearest first; empty: zeroes."""
    block: str
    """The asked one: written (by a host), copied, or source (not here yet)."""
    blocks: int
    written_blocks: int
    copied_blocks: int


class Decision(msgspec.Struct, frozen=True):
    """What one kind of I/O does at an agent that holds the entry."""

    io: str
    """A column of the truth table in docs/mapping.md."""
    does: str
    """Its word: go, zeroes, done, EIO, fault READ, fault WRITE or fault DISCARD."""
    then: str
    """How the controller answers the fault; empty: there is none."""


class Holding(msgspec.Struct, frozen=True):
    """An agent that has a table of the disk."""

    agent: str
    incarnation: str
    state: str
    may_hold: bool
    """False: it certainly holds nothing of this segment; its next I/O there faults."""


class LockInfo(msgspec.Struct, frozen=True):
    """A lock on what the byte lies in, now."""

    lock: str
    state: str
    held_by: list[WorkInfo]
    waiting: list[WorkInfo]


class Explanation(msgspec.Struct, frozen=True):
    """GET /v1/disks/NAME/explain: one byte of a disk."""

    disk: str
    offset_bytes: int
    segment: int
    segment_bytes: int
    block: int
    """Number in the segment."""
    block_bytes: int
    extent: int
    """0: none, the segment is zero."""
    entry: str
    """The most that an agent may be given now: zero, none, no_write or invalid."""
    why: list[str]
    lies_at: Place | None
    """The extent's own location; null: nowhere."""
    reads_from: Place | None
    """Where the asked block is read; null: zeroes, from nowhere."""
    record: BlockRecord | None
    """Null: the extent is complete."""
    decisions: list[Decision]
    agents: list[Holding]
    locks: list[LockInfo]
    blocks_taken: bool
    """The asked block is held by a write, a read or a copy (rule 12)."""
    faults: list[FaultInfo]
    """Unanswered ones that name this segment."""
