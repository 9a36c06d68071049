"""What an operator can set of a controller."""

from __future__ import annotations

import msgspec

SECOND_NS = 1_000_000_000


class Settings(msgspec.Struct, frozen=True):
    """Times in seconds, sizes in bytes; the defaults are the design's."""

    lease_s: float = 30.0
    """How long an agent may serve clean I/O without hearing from the controller."""
    lease_margin_s: float = 0.5
    """Added, with `clock_drift`, before an agent is counted lost."""
    clock_drift: float = 0.002
    """How much two machines' boot clocks may differ in rate."""
    hello_timeout_s: float = 10.0
    segment_bytes: int = 1 << 20
    """Of the pool: a power of two, 64 KiB to 64 MiB."""
    prefetch_segments: int = 32
    """Neighbours sent with the answer to a first touch."""
    copy_piece_bytes: int = 1 << 20
    """The most the copier reads and writes at once: a faulted write waits for one such piece."""
    copy_pieces_at_once: int = 4
    """Pieces of different extents that the copier has under way to one container."""
    copy_hint_bytes: int = 16 << 20
    """What is copied of an extent before the copier notes, durably, how far it has come."""
    extents_at_once: int = 8
    """Extents that a job moves at once."""
    clean_batch: int = 64
    """Freed segments zeroed under one durable record (rule 11)."""
    clean_linger_s: float = 1.0
    """How long fewer than that are left to lie, while as many clean ones are there."""
    clean_ahead_segments: int = 256
    """Segments of a device that are kept zeroed for first writes; of a file all are, which gives
    their storage back."""
    checkpoint_log_bytes: int = 8 << 20
    """The log is folded into pages when it has grown so much."""
    stamp_interval_s: float = 10.0
    """How often containers learn the newest (term, commit number) (promise P7)."""
    fence_poll_s: float = 0.05
    """First interval of asking whether a silent agent's locks are gone; doubles up to 1 s."""

    felt_look_s: float = 0.2
    """How often agents are asked what hosts feel, while a job with a bound on that copies."""
    felt_interval_s: float = 2.0
    """What hosts feel is known after so long, or when each disk has had a hundred I/Os."""

    without: tuple[str, ...] = ()
    """Containers, by name, that a start need not find; the disks there are not opened until then.
    Of those across the network none need be found."""

    slow_fault_s: float = 1.0
    """A fault that took so long is logged with where its time went; 0: every fault."""

    @property
    def slow_fault_ns(self) -> int:
        """The same, in nanoseconds."""
        return round(self.slow_fault_s * SECOND_NS)

    @property
    def felt_look_ns(self) -> int:
        """The same, in nanoseconds."""
        return round(self.felt_look_s * SECOND_NS)

    @property
    def felt_interval_ns(self) -> int:
        """The same, in nanoseconds."""
        return round(self.felt_interval_s * SECOND_NS)

    @property
    def lease_ns(self) -> int:
        """The lease as an agent counts it."""
        return round(self.lease_s * SECOND_NS)

    def lease_and_margin_ns(self, lease_ns: int) -> int:
        """The lease as the controller counts it."""
        return round(lease_ns * (1 + self.clock_drift) + self.lease_margin_s * SECOND_NS)
