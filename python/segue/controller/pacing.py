"""How fast jobs may copy: a bandwidth that the operator set, and what hosts feel.

Each job has a bucket of tokens on the controller's clock.  Where it has a bound on hosts' latency,
`felt.py` says now and then what hosts felt lately: above the bound the job is slowed to half of
what it did, again and again; below it, or with no host at work, it recovers by a quarter.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segue.controller.felt import Felt
from segue.controller.settings import SECOND_NS

if TYPE_CHECKING:
    from segue.controller.controller import Controller

BURST_NS = 50_000_000
"""A job that was idle may be so far ahead of its rate."""
SLICE_NS = SECOND_NS
"""So soon a job that waits notices that it was given another bandwidth."""
SLOWEST = 1 << 20
"""Bytes a second below which no latency slows a job: it is to end some day."""
FASTEST = 1 << 40


@dataclass(slots=True)
class Pace:
    """How fast one job may go, and why."""

    begun_ns: int
    """When bytes were last counted from nothing."""
    due_ns: int = 0
    """When the next bytes may be started."""
    look_ns: int = 0
    """When hosts' latency is looked at again."""
    looking: bool = False
    taken: int = 0
    """Bytes since `begun_ns`."""
    rate: int = FASTEST
    """Bytes a second that hosts' latency allows."""
    felt: Felt | None = None
    """What hosts felt when that was last known."""
    limits: int = 0
    """How often its bandwidth was set anew."""


class Pacing:
    """The paces of all jobs."""

    def __init__(self, c: Controller) -> None:
        self._c = c
        self._paces: dict[int, Pace] = {}

    def pace(self, job: int) -> Pace | None:
        """How fast a job goes that has copied something and is not over."""
        return self._paces.get(job)

    def forget(self, job: int) -> None:
        """The job is over."""
        self._paces.pop(job, None)
        self._c.felt.forget(job)

    def limited(self, job: int) -> None:
        """The job's bandwidth was set anew: who waits for the old one waits no longer."""
        pace = self._paces.get(job)
        if pace is not None:
            pace.limits += 1
            pace.due_ns = 0

    async def take(self, job: int, length_bytes: int) -> None:
        """Returns when a job may copy so much more; at once for what belongs to no job."""
        row = self._c.table.jobs.get(job)
        if row is None or row.outcome:
            return
        now_ns = self._c.clock.now_ns()
        pace = self._paces.get(job)
        if pace is None:
            pace = self._paces[job] = Pace(now_ns)
        pace.taken += length_bytes
        if row.row.latency_us and not pace.looking and now_ns >= pace.look_ns:
            pace.looking = True
            # Agents are asked: nobody waits for that here.
            self._c.spawn(self._look(pace, job, row.row.latency_us * 1000))
        rate = self._rate(job)
        if rate >= FASTEST:
            return
        begin_ns = max(pace.due_ns, now_ns - BURST_NS)
        pace.due_ns = begin_ns + length_bytes * SECOND_NS // rate
        limits = pace.limits
        while begin_ns > now_ns and pace.limits == limits:
            await asyncio.sleep(self._c.seconds(min(begin_ns - now_ns, SLICE_NS)))
            now_ns = self._c.clock.now_ns()

    def ahead_s(self, job: int, length_bytes: int) -> float:
        """For how long the job's rate is used up by what it has taken and so many bytes more.

        Not above 0: it lags behind its rate, or has none.
        """
        pace, rate = self._paces.get(job), self._rate(job)
        if rate >= FASTEST:
            return 0.0
        # No further behind than it may catch up, or more would wait for their turn than it needs.
        behind_ns = self._c.clock.now_ns() - pace.due_ns if pace is not None else 0
        ahead_ns = -min(behind_ns, BURST_NS)
        return self._c.seconds(ahead_ns + length_bytes * SECOND_NS // rate)

    def _rate(self, job: int) -> int:
        """Bytes a second that the operator and hosts' latency allow."""
        row, pace = self._c.table.jobs.get(job), self._paces.get(job)
        bandwidth = row.bandwidth if row is not None else 0
        return min(bandwidth or FASTEST, pace.rate if pace is not None else FASTEST)

    async def _look(self, pace: Pace, job: int, bound_ns: int) -> None:
        """Learns what hosts felt lately, and changes the rate if an interval has ended."""
        felt = await self._c.felt.lately(job)
        if self._paces.get(job) is not pace:
            return self._c.felt.forget(job)
        now_ns = self._c.clock.now_ns()
        pace.look_ns, pace.looking = now_ns + self._c.settings.felt_look_ns, False
        if felt is None:
            return
        did = pace.taken * SECOND_NS // max(1, now_ns - pace.begun_ns)
        pace.begun_ns, pace.taken, pace.felt = now_ns, 0, felt
        if felt.p99_ns > bound_ns:
            pace.rate = max(SLOWEST, min(pace.rate, did) // 2)
        else:
            pace.rate = min(FASTEST, pace.rate + pace.rate // 4)
