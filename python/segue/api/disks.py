"""Disks in the HTTP API."""

from __future__ import annotations

import msgspec


class CreateDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/disks."""

    name: str
    size_bytes: int
    block_bytes: int = 4096


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
