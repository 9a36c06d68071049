"""How long host I/O took, as agents measured it: histograms asked for, merged, subtracted.

Agents count from their start and send only when they are asked: an idle agent is not woken.
Counts only grow (but for a disk that went out of use before many others), so whoever wants those of
an interval asks at both ends and subtracts.  An agent that is away, or does not answer in time, is
left out: these figures are for people and for pacing, and no rule speaks of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from segue import _native
from segue.controller.peer import Peer, PeerLost, PeerState, SessionLost
from segue.wire.messages import Cause, LatencyRow

if TYPE_CHECKING:
    from segue.controller.controller import Controller

ANSWER_S = 5.0
"""An agent that has not answered by then is left out."""


class Measured(IntEnum):
    """Operations told apart; the values are those of `LatencyRow`."""

    READ = 1
    WRITE = 2
    WRITE_ZEROES = 3
    TRIM = 4
    FLUSH = 5


class Kind(NamedTuple):
    """What a histogram is of."""

    operation: Measured
    cause: Cause


@dataclass(slots=True)
class Histogram:
    """Times in log-linear buckets (`segue._native.latency_bucket_ns`)."""

    counts: dict[int, int] = field(default_factory=dict)
    """Bucket -> how many."""
    sum_ns: int = 0
    max_ns: int = 0

    @property
    def count(self) -> int:
        """How many I/Os."""
        return sum(self.counts.values())

    def take(self, row: LatencyRow) -> None:
        """Takes in one row."""
        for bucket, count in zip(row.buckets, row.counts, strict=False):
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.sum_ns += row.sum_ns
        self.max_ns = max(self.max_ns, row.max_ns)

    def since(self, earlier: Histogram) -> Histogram:
        """What came after `earlier`; all of it where counts went back (it was forgotten)."""
        gained = {b: self.counts.get(b, 0) - n for b, n in earlier.counts.items()}
        if self.sum_ns < earlier.sum_ns or min(gained.values(), default=0) < 0:
            return self
        counts = {bucket: n for bucket, n in (self.counts | gained).items() if n}
        # When the longest of all came is not known: it was no longer than its bucket.
        end_ns = _native.latency_bucket_ns(_end(max(counts, default=0)))
        longest_ns = min(self.max_ns, end_ns) if counts else 0
        return Histogram(counts, self.sum_ns - earlier.sum_ns, longest_ns)

    def percentile_ns(self, percent: float) -> int | None:
        """The end of the bucket in which that share of the I/Os is reached; None without any."""
        left = self.count * percent / 100
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return min(_native.latency_bucket_ns(_end(bucket)), self.max_ns)
        return None


def _end(bucket: int) -> int:
    """The bucket after it; what an agent names that there is not counts as the last one."""
    return min(bucket + 1, _native.LATENCY_BUCKETS)


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """All of them together."""
    total = Histogram()
    for one in histograms:
        for bucket, count in one.counts.items():
            total.counts[bucket] = total.counts.get(bucket, 0) + count
        total.sum_ns += one.sum_ns
        total.max_ns = max(total.max_ns, one.max_ns)
    return total


async def ask(
    c: Controller, peer: Peer, disk: int, answer_s: float = ANSWER_S
) -> dict[Kind, Histogram] | None:
    """What an agent has measured of a disk; None if it did not answer in that time."""
    if peer.state is not PeerState.PRESENT:
        return None
    try:
        async with asyncio.timeout(answer_s):
            rows = await peer.latency(c.next_command(), disk)
    except (SessionLost, PeerLost, TimeoutError):
        return None
    found: dict[Kind, Histogram] = {}
    for row in rows:
        if row.operation in _OPERATIONS:
            found.setdefault(Kind(Measured(row.operation), row.cause), Histogram()).take(row)
    return found


_OPERATIONS = frozenset(Measured)
