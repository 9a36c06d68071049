"""What the HTTP API takes and gives: one struct a body (JSON objects of the same field names).

Sizes are bytes.  New fields are added with a default; a field's meaning never changes.
"""

from __future__ import annotations

import msgspec


class ErrorBody(msgspec.Struct, frozen=True):
    """Every answer that is not a success: one clear sentence."""

    error: str


class AddContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/containers."""

    name: str
    uri: str
    size_bytes: int
    cache: str = "page"
    """`page` (all agents are on this machine) or `direct`."""


class ContainerInfo(msgspec.Struct, frozen=True):
    """A storage container; used, free and held segments add up to `segments`."""

    container: int
    name: str
    uri: str
    cache: str
    segment_bytes: int
    segments: int
    size_bytes: int
    used_segments: int
    free_segments: int
    clean_segments: int
    """Free ones that are known to read as zeroes: a first write to zero takes one of these."""
    held_segments: int
    """Being zeroed, being granted, or where an agent that has not ended might still write."""


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


class AgentInfo(msgspec.Struct, frozen=True):
    """One incarnation of an agent."""

    agent: int
    name: str
    incarnation: str
    """Hexadecimal: it has 61 bits, and JSON numbers are not exact."""
    state: str
    lease_s: float
    """Seconds the controller still counts its lease for; 0: none."""
    listens: list[str]
    """Where hosts reach it: NBD URIs without an export."""
    disks: list[str]


class Status(msgspec.Struct, frozen=True):
    """The installation at a glance."""

    version: str
    installation: str
    term: int
    commit: int
    pid: int
    up_s: float
    containers: int
    disks: int
    agents: int
    incomplete_extents: int
    faults_answered: int
    problems: list[str]
    """What an operator should look at; empty: all is well."""
