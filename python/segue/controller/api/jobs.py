"""Jobs: their routes, and rows to structs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from litestar import get, post
from litestar.params import FromPath, JSONBody

from segue.api.jobs import Drain, JobInfo, LimitJob, MoveDisk
from segue.controller.controller import Controller
from segue.controller.felt import Felt
from segue.controller.jobs import JobRun
from segue.controller.pacing import FASTEST
from segue.controller.procedures import job_verbs
from segue.controller.procedures.movement import Begun
from segue.controller.procedures.verbs import Refusal
from segue.controller.settings import SECOND_NS
from segue.controller.table import Job
from segue.sizes import format_size

WAITS_S = 2.0
"""A job that has waited so long is worth a word: what it passes over often takes less."""
HINTS = {Begun.FULL: "`segue container add` gives it room"}


def job_routes(c: Controller) -> list[Any]:
    """``/v1/jobs``, and the verbs of disks and containers that make jobs."""

    @get("/jobs")
    async def list_jobs() -> list[JobInfo]:
        """All jobs that are not over, and the newest of those that are."""
        return [job_info(c, job) for _, job in sorted(c.table.jobs.items())]

    @get("/jobs/{number:int}")
    async def show_job(number: FromPath[int]) -> JobInfo:
        """The job of that number."""
        if number not in c.table.jobs:
            raise Refusal(f"there is no job {number}", missing=True)
        return job_info(c, c.table.jobs[number])

    @post("/disks/{name:str}/move")
    async def move_disk(name: FromPath[str], data: JSONBody[MoveDisk]) -> JobInfo:
        """Move a disk, or a run of its segments, to a container while hosts use it."""
        run = await job_verbs.move_disk(
            c,
            name,
            data.to,
            first=data.first_segment,
            count=data.segments,
            bandwidth=data.bandwidth,
            latency_us=data.latency_us,
        )
        return job_info(c, c.table.jobs[run.row.job])

    @post("/containers/{name:str}/drain")
    async def drain_container(name: FromPath[str], data: JSONBody[Drain]) -> JobInfo:
        """Move everything out of a container; nothing new is put there."""
        run = await job_verbs.drain_container(
            c, name, bandwidth=data.bandwidth, latency_us=data.latency_us
        )
        return job_info(c, c.table.jobs[run.row.job])

    @post("/containers/{name:str}/fill", status_code=204)
    async def fill_container(name: FromPath[str]) -> None:
        """Let a container that was drained be used again."""
        await job_verbs.fill_container(c, name)

    @post("/jobs/rebalance")
    async def rebalance(data: JSONBody[Drain]) -> JobInfo:
        """Move segments until the containers of each pool are about equally full."""
        run = await job_verbs.rebalance(c, bandwidth=data.bandwidth, latency_us=data.latency_us)
        return job_info(c, c.table.jobs[run.row.job])

    @post("/jobs/{number:int}/cancel", status_code=200)
    async def cancel_job(number: FromPath[int]) -> JobInfo:
        """Begin nothing new for a job; what is under way is finished."""
        await job_verbs.cancel_job(c, number)
        return job_info(c, c.table.jobs[number])

    @post("/jobs/{number:int}/limit", status_code=200)
    async def limit_job(number: FromPath[int], data: JSONBody[LimitJob]) -> JobInfo:
        """Give a running job another bandwidth."""
        await job_verbs.limit_job(c, number, data.bandwidth)
        return job_info(c, c.table.jobs[number])

    return [
        list_jobs,
        show_job,
        move_disk,
        drain_container,
        fill_container,
        rebalance,
        cancel_job,
        limit_job,
    ]


def job_info(c: Controller, job: Job) -> JobInfo:
    """What is known of a job."""
    row, run = job.row, c.jobs.known.get(job.row.job)
    disk, container = c.table.disks.get(row.disk), c.table.containers.get(row.container)
    left = 0
    if run is not None:
        left = run.left_at_end if job.outcome else c.jobs.left(run)
    pace = c.pacing.pace(row.job) if not job.outcome else None
    felt = pace.felt if pace is not None else None
    rate, left_bytes = 0, 0
    waited_s = waited_ns(c, run) / SECOND_NS if run is not None else None
    if run is not None:
        left_bytes = left * c.jobs.segment_bytes(run)
    if run is not None and not c.jobs.is_idle(run):
        lasted_ns = (run.ended_ns or c.clock.now_ns()) - run.begun_ns - run.idle_ns
        rate = (job.moved_bytes - run.moved_bytes_before) * SECOND_NS // max(1, lasted_ns)
    return JobInfo(
        job=row.job,
        kind=row.kind,
        disk=disk.name if disk is not None else row.disk_name,
        container=container.row.name if container is not None else row.container_name,
        first_segment=row.first,
        segments=row.count,
        bandwidth=job.bandwidth,
        latency_us=row.latency_us,
        state=_state(job, run),
        reason=job.reason or _reason(c, job, run, felt),
        felt_us=felt.p99_ns // 1000 if felt is not None else None,
        allowed_bytes_per_s=pace.rate if pace is not None and pace.rate < FASTEST else None,
        moved_segments=job.moved,
        moved_bytes=job.moved_bytes,
        left_segments=left,
        left_bytes=left_bytes,
        bytes_per_s=rate,
        left_s=left_bytes / rate if rate and not job.outcome else None,
        waiting_s=waited_s or None,
    )


def waited_ns(c: Controller, run: JobRun) -> int:
    """For how long a job has waited; 0: it goes on, or is over."""
    if run.ended_ns or not run.waits_for:
        return 0
    return max(1, c.clock.now_ns() - run.waiting_since_ns)


def waiting_jobs(c: Controller) -> Iterator[str]:
    """Jobs that have waited for a while, one sentence each, for `segue status`."""
    for number, run in sorted(c.jobs.running.items()):
        waited_s = waited_ns(c, run) / SECOND_NS
        if waited_s < WAITS_S:
            continue
        info = job_info(c, c.table.jobs[number])
        what = f"{info.kind} of disk {info.disk}" if info.disk else info.kind
        if info.container:
            what += f" {'to' if info.disk else 'of'} container {info.container}"
        hint = f" ({HINTS[Begun.FULL]})" if Begun.FULL in run.passed else ""
        end = "is being cancelled" if run.cancelled else f"`segue job cancel {number}` ends it"
        yield (
            f"job {number} ({what}) has waited {waited_s:.0f} s: {run.waits_for}{hint}; "
            f"{format_size(info.left_bytes)} are not moved; {end}"
        )


def _reason(c: Controller, job: Job, run: JobRun | None, felt: Felt | None) -> str:
    """What a job waits for or is held back by."""
    if run is None or job.outcome:
        return ""
    bound_ns = job.row.latency_us * 1000
    if run.waits_for or felt is None or felt.p99_ns <= bound_ns:
        return run.waits_for
    disk = c.table.disks.get(felt.disk)
    return (
        f"held back: hosts of {disk.name if disk is not None else 'a deleted disk'} "
        f"wait {felt.p99_ns / 1e6:.3g} ms (p99), more than {bound_ns / 1e6:g} ms"
    )


def _state(job: Job, run: JobRun | None) -> str:
    if job.outcome:
        return job.outcome
    if job.cancelled:
        return "cancelling"
    return "waiting" if run is not None and run.waits_for else "running"
