"""How fast jobs may copy: a bandwidth that the operator set, and what hosts feel.

Each job has a bucket of tokens on the controller's clock.  Where it has a bound on hosts' latency
and their p99 lately is above it, the job is slowed to half of what it did, again and again; below
the bound it recovers by a quarter.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segue.controller.settings import SECOND_NS

if TYPE_CHECKING:
    from segue.controller.controller import Controller

BURST_NS = 50_000_000
"""A job that was idle may be so far ahead of its rate."""
LOOK_NS = 200_000_000
"""How often hosts' latency is looked at."""
SLOWEST = 1 << 20
"""Bytes a second below which no latency slows a job: it is to end some day."""
FASTEST = 1 << 40


@dataclass(slots=True)
class _Bucket:
    due_ns: int = 0
    """When the next bytes may be started."""
    looked_ns: int = 0
    taken: int = 0
    """Bytes since hosts' latency was looked at."""
    felt: int = FASTEST
    """Bytes a second that hosts' latency allows."""


class Pacing:
    """The buckets of all jobs."""

    def __init__(self, c: Controller) -> None:
        self._c = c
        self._buckets: dict[int, _Bucket] = {}

    async def take(self, job: int, length_bytes: int) -> None:
        """Returns when a job may copy so much more; at once for what belongs to no job."""
        row = self._c.table.jobs.get(job)
        if row is None or row.outcome:
            self._buckets.pop(job, None)
            return
        bucket = self._buckets.setdefault(job, _Bucket())
        now_ns = self._c.clock.now_ns()
        bucket.taken += length_bytes
        if row.row.latency_us and now_ns - bucket.looked_ns >= LOOK_NS:
            did = bucket.taken * SECOND_NS // max(1, now_ns - bucket.looked_ns)
            bucket.looked_ns, bucket.taken = now_ns, 0
            # Agents are asked: nobody waits for that here.
            self._c.spawn(self._look(bucket, row.row.disk, row.row.latency_us * 1000, did))
        rate = min(row.bandwidth or FASTEST, bucket.felt)
        if rate >= FASTEST:
            return
        begin_ns = max(bucket.due_ns, now_ns - BURST_NS)
        bucket.due_ns = begin_ns + length_bytes * SECOND_NS // rate
        if begin_ns > now_ns:
            await asyncio.sleep(self._c.seconds(begin_ns - now_ns))

    async def _look(self, bucket: _Bucket, disk: int, bound_ns: int, did: int) -> None:
        """Looks at what the disk's hosts (0: all hosts) felt lately; the job `did` so many bytes
        a second meanwhile.
        """
        p99_ns = await self._c.felt.p99_ns(disk)
        if p99_ns is None:
            return
        if p99_ns > bound_ns:
            bucket.felt = max(SLOWEST, min(bucket.felt, did) // 2)
        else:
            bucket.felt = min(FASTEST, bucket.felt + bucket.felt // 4)
