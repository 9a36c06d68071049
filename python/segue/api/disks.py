"""Disks in the HTTP API."""

from __future__ import annotations

import msgspec


class CreateDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/disks."""

    name: str
    size_bytes: int
    block_bytes: int = 4096
    segment_bytes: int | None = None
    """Names the pool; none: the controller's own segment size, or that of the only pool."""
    container: str | None = None
    """Where its data begins to lie, in that container's pool; none: where most room is left."""


class ResizeDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/disks/NAME/resize."""

    size_bytes: int
    force: bool = False
    """Shrink even over data, which is lost."""


class RenameDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/disks/NAME/rename."""

    name: str


class DiskInfo(msgspec.Struct, frozen=True):
    """A virtual disk."""

    disk: int
    name: str
    size_bytes: int
    block_bytes: int
    segment_bytes: int
    segments: int
    mapped_segments: int
    """Segments that are not zero; times `segment_bytes`: what the disk occupies."""
    containers: list[str]
    agents: list[str]
    """Agents that serve it now."""
    failed: dict[str, int]
    """Containers whose flush failed -> errno, until `segue disk clear-error`."""


class DiskProblems(msgspec.Struct, frozen=True):
    """Those of the status that may keep one disk from being opened."""

    problems: list[str]
    """One sentence each; empty: none is known."""


class MapRun(msgspec.Struct, frozen=True):
    """Segments that follow each other, in the disk and where they lie."""

    segment: int
    """The first one's number in the disk."""
    count: int
    container: str | None
    """Its name; null: zero, they lie nowhere."""
    at: int
    """The first one's number in the container; 0 if they lie nowhere."""
    incomplete: bool
    """Whether they are still being filled from elsewhere."""


class DiskMap(msgspec.Struct, frozen=True):
    """GET /v1/disks/NAME/map: where the disk's segments lie, a bounded number of runs."""

    name: str
    segment_bytes: int
    segments: int
    runs: list[MapRun]
    next_segment: int | None
    """Where to go on asking; null: this was all."""


class DrawnCell(msgspec.Struct, frozen=True):
    """A part of a drawn disk that is not all zero."""

    cell: int
    containers: dict[str, int]
    """Container -> how many of the cell's segments lie there."""
    incomplete: int


class DiskDrawing(msgspec.Struct, frozen=True):
    """GET /v1/disks/NAME/drawing: the disk in equal cells."""

    name: str
    segment_bytes: int
    segments: int
    segments_per_cell: int
    cells: list[DrawnCell]
