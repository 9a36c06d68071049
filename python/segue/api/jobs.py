"""Jobs in the HTTP API: data moved while hosts use it."""

from __future__ import annotations

import msgspec


class Drain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/containers/NAME/drain; POST /v1/jobs/rebalance."""

    bandwidth: int = 0
    """Bytes a second; 0: no limit."""
    latency_us: int = 0
    """The job slows down while the p99 of hosts' reads and writes is above this; 0: it does not."""


class MoveDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/disks/NAME/move."""

    to: str
    first_segment: int = 0
    segments: int = 0
    """How many; 0: to the end of the disk."""
    bandwidth: int = 0
    latency_us: int = 0


class LimitJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/jobs/NUMBER/limit."""

    bandwidth: int
    """Bytes a second; 0: no limit."""


class JobInfo(msgspec.Struct, frozen=True):
    """A job; what it moved is counted from its beginning, its rate since the controller started."""

    job: int
    kind: str
    """move, drain or rebalance."""
    disk: str
    container: str
    """What it is called, or was when the job began, as `disk`."""
    first_segment: int
    segments: int
    bandwidth: int
    latency_us: int
    state: str
    """running, waiting, cancelling; done, cancelled, failed."""
    reason: str
    """What it waits for or is held back by; why it failed."""
    felt_us: int | None
    """p99 of reads and writes of the hosts it competes with, when it last looked: worst disk.
    None without a bound."""
    allowed_bytes_per_s: int | None
    """What its bound on hosts' latency allows it now; None: all it can."""
    moved_segments: int
    moved_bytes: int
    left_segments: int
    left_bytes: int
    """Still to be moved; of a job that is over, what it left."""
    bytes_per_s: int
    """While it went on, since it began or the controller started; 0 while nothing goes on."""
    left_s: float | None
    """Time to the end at this rate; None if there is none to go by."""
    waiting_s: float | None = None
    """For how long it has waited for what `reason` says; None: it goes on, or is over."""
