"""Containers in the HTTP API."""

from __future__ import annotations

import msgspec


class AddContainer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/containers."""

    name: str
    uri: str
    size_bytes: int = 0
    """Header (1 MiB) included; 0: all of a device."""
    cache: str | None = None
    """`page` (all agents are on this machine) or `direct`; none: `page` for a file, else `direct`.
    """
    segment_bytes: int | None = None
    """A power of two, 64 KiB to 64 MiB; none: what the controller was set to.  Containers of one
    segment size form a pool."""
    erase: bool = False
    """Take a device or export though something lies there; it is lost."""


class SetLinger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/containers/NAME/linger."""

    linger_s: float
    """Seconds after the end of its lease when an agent's last I/O has ended there; 0: unknown."""


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
    linger_s: float = 0.0
    """So long after its lease a lost agent's I/O is taken for ended; 0: a fence must prove it."""
    write_unit_bytes: int = 1
    """The smallest write it takes."""
    leaving: bool = False
    """Being removed: nothing lies there, and nothing new will."""
    draining: bool = False
    """Nothing new is put here, what lies here is moved away."""
    disks: list[str] = []
    """Those that have data here, or may have unflushed writes."""
    away_s: float | None = None
    """For how long the controller has not reached its server; null: it is there."""
    away_why: str = ""
    """The last error, where there was one."""
    fence: str = ""
    """What proves that a lost agent's I/O has ended here: locks, server, linger (the operator's
    word) or none; unknown while its server has not been reached."""
    flush: str = ""
    """What a host's FLUSH does here: sync, or nothing (every write is durable by itself)."""
    when_away: str = ""
    """What I/O that needs it does while its server is away: wait, or fail; empty: it has none."""
    fail_after_s: float | None = None
    """With `fail`: after so long."""
    free_bytes: int = 0
    """What free segments hold, but no more than the file system under a file container has for it
    now: what the file has and does not use, and what is left."""
    file_system_free_bytes: int | None = None
    """What is left on that file system (on the controller's machine); null: there is none, or it
    does not answer."""
    file_system_short_bytes: int = 0
    """So much more than that the container's file would take if all of it were written."""
