"""Jobs: long work that goes on after any crash (design, section 5, Movement; section 10).

A job is a goal, not a list: "this run of a disk lies in that container", "nothing lies in this
one".  What is left to do is read from the table, so after a crash the next term simply goes on.
`procedures/run_job.py` does the work; here is what is known of it while it runs, and how it begins
and ends.  What it has moved is counted where the end of each movement is, in the table, over all
terms; its rate, and what it waits for, are of one term.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from segue.controller.changes import AnyChange, ContainerDraining, JobChanged, JobEnded, JobMade
from segue.controller.procedures.movement import Begun
from segue.controller.procedures.run_job import run_job

if TYPE_CHECKING:
    from segue.controller.controller import Controller

MOVE, DRAIN, REBALANCE = "move", "drain", "rebalance"
DONE, CANCELLED, FAILED = "done", "cancelled", "failed"
WHOLE = 1 << 62
"""The run of segments that ends with the disk, whatever its size."""


@dataclass(slots=True, eq=False)
class JobRun:
    """One job as this term knows it."""

    row: JobMade
    begun_ns: int
    bandwidth: int
    cancelled: bool
    ended_ns: int = 0
    total: int | None = None
    """Segments that it moves or has moved, where only some of a disk are; None: not counted yet."""
    moved_bytes_before: int = 0
    """What it had moved when this term began (see `Job`)."""
    left: int = 0
    """Segments still to be moved when it last looked, without those under way."""
    under_way: dict[asyncio.Task[None], None] = field(default_factory=dict)
    """Its tasks, one for each extent being moved or begun."""
    beginning: int = 0
    """How many of them have not begun yet."""
    extents: set[int] = field(default_factory=set)
    """The others' extents."""
    pending: Counter[int] = field(default_factory=Counter)
    """Container -> segments it is about to gain (or lose), not yet in its space."""
    begun: int = 0
    passed: set[Begun] = field(default_factory=set)
    """What this round began, and why it passed others over."""
    waits_for: str = ""
    """Why nothing can be begun now; empty while something can.  Set by `wait_for`."""
    waiting_since_ns: int = 0
    """Since when it has waited, whatever for."""
    idle_ns: int = 0
    """For how long nothing of it went on in this term."""
    left_at_end: int = 0
    """Segments that it did not move, once it is over."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it should look again."""

    @property
    def segments(self) -> tuple[int, int]:
        """The run it moves: (first, end)."""
        return self.row.first, self.row.first + (self.row.count or WHOLE)

    def wait_for(self, reason: str, now_ns: int) -> None:
        """It waits for that from now on, or goes on (no reason)."""
        if reason and not self.waits_for:
            self.waiting_since_ns = now_ns
        self.waits_for = reason


class Jobs:
    """All jobs of this term that are not over."""

    def __init__(self, c: Controller) -> None:
        self._c = c
        self.running: dict[int, JobRun] = {}
        self.known: dict[int, JobRun] = {}
        """Those that have ended in this term as well, while the table remembers them."""

    def start(self) -> None:
        """Goes on with what older terms left."""
        for job in self._c.table.jobs.values():
            if not job.outcome:
                self._run(JobRun(job.row, self._c.clock.now_ns(), job.bandwidth, job.cancelled))

    def _run(self, run: JobRun) -> None:
        self.running[run.row.job] = self.known[run.row.job] = run
        run.moved_bytes_before = self._c.table.jobs[run.row.job].moved_bytes
        for number in self.known.keys() - self._c.table.jobs.keys():
            del self.known[number]
        self._c.spawn(run_job(self._c, run))

    async def make(
        self,
        kind: str,
        *,
        disk: int = 0,
        container: int = 0,
        first: int = 0,
        count: int = 0,
        bandwidth: int = 0,
        latency_us: int = 0,
    ) -> JobRun:
        """Makes a job durable and begins it; a drain marks its container in the same commit.

        The caller holds ``("jobs",)`` exclusively, since before it looked at the other jobs.
        """
        c = self._c
        number = c.table.last_job + 1
        row = JobMade(
            number,
            kind,
            disk,
            container,
            first,
            count,
            bandwidth,
            latency_us,
            c.table.disks[disk].name if disk else "",
            c.table.containers[container].row.name if container else "",
        )
        changes: list[AnyChange] = [row]
        if kind == DRAIN:
            changes.append(ContainerDraining(container, True))
        await c.commit(*changes)
        run = JobRun(row, c.clock.now_ns(), bandwidth, False)
        self._run(run)
        return run

    async def cancel(self, number: int) -> None:
        """Nothing new is begun; what is under way is finished, and then the job ends."""
        run = self.running.get(number)
        if run is None or run.cancelled:
            return
        await self._c.commit(JobChanged(number, run.bandwidth, True))
        run.cancelled = True
        run.wake.set()
        self._c.background.try_again()

    async def limit(self, number: int, bandwidth: int) -> None:
        """Gives a running job another bandwidth, in bytes a second; 0: no limit."""
        run = self.running.get(number)
        if run is not None:
            await self._c.commit(JobChanged(number, bandwidth, run.cancelled))
            run.bandwidth = bandwidth
            self._c.pacing.limited(number)

    async def end(self, run: JobRun, outcome: str, reason: str = "") -> None:
        """The job is over, durably.  A drain that was not done lets its container be used again."""
        run.left_at_end = self.left(run) if outcome != DONE else 0
        changes: list[AnyChange] = [JobEnded(run.row.job, outcome, reason)]
        container = self._c.table.containers.get(run.row.container)
        stays = container is not None and not container.leaving
        if run.row.kind == DRAIN and outcome != DONE and stays:
            changes.append(ContainerDraining(run.row.container, False))
        await self._c.commit(*changes)
        self._c.pacing.forget(run.row.job)
        run.ended_ns = self._c.clock.now_ns()
        self.running.pop(run.row.job, None)

    def is_idle(self, run: JobRun) -> bool:
        """Whether it waits, and nothing that it began goes on."""
        waits = bool(run.waits_for) and not run.ended_ns
        return waits and run.extents <= self._c.background.trouble.keys()

    def left(self, run: JobRun) -> int:
        """Segments still to be moved, as far as can be told without looking at each."""
        row, table = run.row, self._c.table
        if row.kind == REBALANCE:
            return self._excess()
        if row.kind == MOVE and row.count:
            most = row.count if run.total is None else run.total
            return max(0, most - table.jobs[row.job].moved)
        return sum(
            count
            for (disk, container), count in table.lying.items()
            if (disk == row.disk and container != row.container)
            or (row.kind == DRAIN and container == row.container)
        )

    def _excess(self) -> int:
        """What lies in containers that are fuller than all of their pool together."""
        containers = self._c.table.containers.values()
        excess = 0.0
        for size in {container.row.segment_bytes for container in containers}:
            pool = [container for container in containers if container.row.segment_bytes == size]
            share = sum(c.space.used for c in pool) / max(1, sum(c.row.segments for c in pool))
            excess += sum(max(0, c.space.used - share * c.row.segments) for c in pool)
        return int(excess)

    def segment_bytes(self, run: JobRun) -> int:
        """Of the pool the job works in; the controller's own where there is none to go by."""
        disk = self._c.table.disks.get(run.row.disk)
        container = self._c.table.containers.get(run.row.container)
        if disk is not None:
            return disk.segment_bytes
        return container.row.segment_bytes if container else self._c.settings.segment_bytes

    def given_up(self, number: int) -> bool:
        """Whether what the job began and cannot be finished may go back to where it was."""
        run = self.running.get(number)
        return run is None or run.cancelled

    def targets(self, disk: int, segment: int) -> Iterator[int]:
        """Where jobs move that segment to: what is allocated there now need not be moved later."""
        for run in self.running.values():
            if run.row.kind == MOVE and run.row.disk == disk and not run.cancelled:
                first, end = run.segments
                if first <= segment < end:
                    yield run.row.container
