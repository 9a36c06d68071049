"""What hosts feel while a job copies: the worst p99 of the disks that it competes with.

Counted are reads and writes that went straight to their storage (`Cause.CLEAN`): copying is in
their way there, and a slower job is less so.  I/O that faulted pays for the controller and a
commit at any pace, and a segment whose copy is slower stays incomplete for longer, so more I/O
would fault: a bound on that would slow the job and help nobody.  Flushes, discards and what was
parked or failed are not counted either.

An interval ends when each disk with any such I/O in it has had `ENOUGH`, or after
`felt_interval_s`; of fewer I/Os than a hundred the p99 is the longest.  Where an agent does not
answer, nothing is known.  Nobody is asked unless a job with a bound copies.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from segue.controller.jobs import MOVE
from segue.controller.latency import Histogram, Kind, Measured, ask, merged
from segue.controller.peer import Peer
from segue.wire.messages import Cause

if TYPE_CHECKING:
    from segue.controller.controller import Controller

ENOUGH = 100
QUESTION_NS = 5_000_000
"""A job with many disks asks less often: no more than one question in this time on average."""
COUNTED = (Kind(Measured.READ, Cause.CLEAN), Kind(Measured.WRITE, Cause.CLEAN))


class Felt(NamedTuple):
    """The disk whose hosts waited longest in an interval; p99 0: no host had any I/O."""

    p99_ns: int
    disk: int


@dataclass(slots=True)
class _Interval:
    begun_ns: int
    ask_ns: int
    """When agents may be asked again."""
    counted: dict[tuple[int, int], Histogram] = field(default_factory=dict)
    """(Disk, incarnation) -> what it had counted when the interval began."""


class HostLatency:
    """What the hosts of each job feel; asks agents."""

    def __init__(self, c: Controller) -> None:
        self._c = c
        self._intervals: dict[int, _Interval] = {}

    def forget(self, job: int) -> None:
        """The job is over."""
        self._intervals.pop(job, None)

    def disks(self, job: int) -> list[int]:
        """Those that hosts use and that lie where the job copies."""
        table = self._c.table
        known = table.jobs.get(job)
        if known is None:
            return []
        row = known.row
        if row.kind != MOVE:
            return [disk for disk in table.disks if table.attached.get(disk)]
        moved = table.disks.get(row.disk)
        where = {row.container, *(moved.containers if moved is not None else ())}
        return [
            number
            for number, disk in table.disks.items()
            if table.attached.get(number) and not where.isdisjoint(disk.containers)
        ]

    async def lately(self, job: int) -> Felt | None:
        """What was felt in the interval that has just ended; None while it goes on."""
        c, now_ns = self._c, self._c.clock.now_ns()
        interval = self._intervals.get(job)
        if interval is not None and now_ns < interval.ask_ns:
            return None
        # Of who is gone nothing will ever be known, and its hosts have gone elsewhere.
        asked = [
            (disk, peer) for disk in self.disks(job) for peer in c.peers_of(disk) if not peer.gone
        ]
        answers = await asyncio.gather(*(_counted(c, peer, disk) for disk, peer in asked))
        counted = {
            (disk, peer.incarnation): histogram
            for (disk, peer), histogram in zip(asked, answers, strict=True)
            if histogram is not None
        }
        ask_ns = now_ns + QUESTION_NS * len(asked)
        if interval is None:
            self._intervals[job] = _Interval(now_ns, ask_ns, counted)
            return None
        interval.ask_ns = ask_ns
        gained: dict[int, list[Histogram]] = {}
        for (disk, incarnation), histogram in counted.items():
            # Who is new since the interval began is counted from now on.
            before = interval.counted.setdefault((disk, incarnation), histogram)
            gained.setdefault(disk, []).append(histogram.since(before))
        felt = {disk: merged(histograms) for disk, histograms in gained.items()}
        counts = [histogram.count for histogram in felt.values() if histogram.count]
        enough = bool(counts) and min(counts) >= ENOUGH
        if not enough and now_ns - interval.begun_ns < c.settings.felt_interval_ns:
            return None
        self._intervals[job] = _Interval(now_ns, ask_ns, counted)
        worst = max(
            (Felt(h.percentile_ns(99) or 0, disk) for disk, h in felt.items()), default=Felt(0, 0)
        )
        return worst if worst.p99_ns or None not in answers else None


async def _counted(c: Controller, peer: Peer, disk: int) -> Histogram | None:
    found = await ask(c, peer, disk)
    return None if found is None else merged(found[kind] for kind in COUNTED if kind in found)
