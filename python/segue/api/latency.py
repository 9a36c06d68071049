"""How long hosts' I/O took, in the HTTP API."""

from __future__ import annotations

import msgspec


class LatencyInfo(msgspec.Struct, frozen=True):
    """I/O of one operation and cause; times are in microseconds, from when the agent has it to
    its answer, and up to 6 % too long (the ends of the buckets that agents count in).
    """

    operation: str
    """read, write, write_zeroes, trim or flush."""
    cause: str
    """The dearest thing it met: clean (nothing), parked (a quiesce, no lease), faulted (a fault
    answered by a table entry), split_read, do_write, completed (a fault that the table alone
    settled), failed."""
    count: int
    mean_us: float
    p50_us: float
    p99_us: float
    p999_us: float
    p9999_us: float
    max_us: float


class DiskLatency(msgspec.Struct, frozen=True):
    """A disk's hosts at one agent, or at all of them, since those agents' start."""

    disk: str
    agents: list[str]
    """Whose counts these are."""
    silent: list[str]
    """Agents with the disk, and others that should be there, that did not answer."""
    rows: list[LatencyInfo]
    """By operation and cause; what did not occur is left out."""
