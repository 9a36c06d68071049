"""`segue disk move`, `segue container drain | rebalance`, and `segue job`: data moved under use."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

import click

from segue.api.jobs import JobInfo
from segue.cli.container import container
from segue.cli.disk import disk
from segue.cli.options import (
    CONTAINER,
    DISK,
    Failed,
    Interrupted,
    Size,
    Time,
    client,
    json_option,
    where_option,
)
from segue.cli.output import Columns, print_fields, print_json, print_rows
from segue.cli.progress import Progress, progress
from segue.cli.sizes import format_size
from segue.client import ApiError

F = TypeVar("F", bound=Callable[..., Any])
LOOK_EVERY_S = 0.3
KEEP_TRYING_S = 30.0
"""Until a controller that was there has to be there again: a restart takes seconds."""
RESTARTING = (0, HTTPStatus.SERVICE_UNAVAILABLE)
"""HTTP status (0: not reached) of a controller that ends or is not there yet."""
OVER = ("done", "cancelled", "failed")


def _what(info: JobInfo) -> str:
    """What is moved; a job that is over may outlive its disk and its container."""
    container = info.container or "(removed)"
    if info.kind == "move":
        return f"{info.disk or '(deleted)'} to {container}"
    return "all containers" if info.kind == "rebalance" else container


def _counted(info: JobInfo, text: str) -> str:
    """A figure, but for a job that moved nothing, or that an earlier version ended: not counted."""
    return text if info.state not in OVER or info.moved_bytes or info.left_bytes else "-"


def _left(info: JobInfo) -> str:
    """What is left; not known of a job that an earlier run of the controller ended undone."""
    known = info.state not in ("cancelled", "failed") or info.left_bytes or info.bytes_per_s
    return _counted(info, format_size(info.left_bytes)) if known else "-"


def _rate(info: JobInfo) -> str:
    """Of a job that is over: how fast it went, if this run of the controller saw it."""
    known = info.state not in OVER or info.bytes_per_s
    return f"{format_size(info.bytes_per_s)}/s" if known else "-"


def reason(info: JobInfo) -> str:
    """What the job waits for, and for how long; or what else there is to say of it."""
    since = f" (for {info.waiting_s:.0f} s)" if info.waiting_s is not None else ""
    return f"{info.reason}{since}" if info.reason else ""


def tell(shown: Progress, info: JobInfo) -> None:
    """How far the job has come, and why it does not go on."""
    if total := info.moved_bytes + info.left_bytes:  # 0: it has not looked yet
        shown.update(info.moved_bytes, total)
    shown.note(info.reason)


COLUMNS: Columns = {
    "JOB": lambda j: str(j.job),
    "KIND": lambda j: j.kind,
    "WHAT": _what,
    "STATE": lambda j: j.state,
    "MOVED": lambda j: _counted(j, format_size(j.moved_bytes)),
    "LEFT": _left,
    "RATE": _rate,
    "REMAINING": lambda j: "" if j.left_s is None else f"{j.left_s:.0f} s",
    "REASON": reason,
}
FIELDS: Columns = {
    **COLUMNS,
    "BANDWIDTH": lambda j: f"{format_size(j.bandwidth)}/s" if j.bandwidth else "no limit",
    "LATENCY": lambda j: f"p99 {j.latency_us / 1000:g} ms at most" if j.latency_us else "no limit",
    "FELT": lambda j: "" if j.felt_us is None else f"p99 {j.felt_us / 1000:g} ms",
}


def paced(function: F) -> F:
    """The options of how fast a job may go, and whether the command waits for its end."""
    for option in (
        click.option("--wait", is_flag=True, help="Wait until the job is over."),
        click.option(
            "--latency",
            type=Time("milliseconds"),
            default=0.0,
            metavar="MS",
            help="Slow down while the p99 of hosts' I/O is above this.",
        ),
        click.option("--bandwidth", type=Size(), default=0, metavar="SIZE", help="A second: 200M."),
    ):
        function = option(function)
    return function


@disk.command("move")
@click.argument("name", type=DISK)
@click.option("--to", type=CONTAINER, required=True, metavar="CONTAINER")
@click.option("--segments", metavar="A-B", help="Only these, both included.")
@paced
@where_option
@json_option
def disk_move(
    name: str,
    to: str,
    segments: str | None,
    bandwidth: int,
    latency: float,
    wait: bool,
    as_json: bool,
) -> None:
    """Move the disk NAME to a container while hosts use it."""
    first, count = _run(segments)
    job = client().move_disk(
        name,
        to,
        first_segment=first,
        segments=count,
        bandwidth=bandwidth,
        latency_us=round(latency * 1000),
    )
    _begun(job, wait, as_json)


@container.command("drain")
@click.argument("name", type=CONTAINER)
@click.option("--stop", is_flag=True, help="Let a drained container be used again.")
@paced
@where_option
@json_option
def container_drain(
    name: str, stop: bool, bandwidth: int, latency: float, wait: bool, as_json: bool
) -> None:
    """Move everything out of a container.

    Nothing new is put there meanwhile, nor afterwards: --stop lets it be used again.
    """
    if stop:
        client().fill_container(name)
        info = client().container(name)
        print_json(info) if as_json else click.echo(f"container {name} is used again")
        return
    job = client().drain_container(name, bandwidth=bandwidth, latency_us=round(latency * 1000))
    _begun(job, wait, as_json)


@container.command("rebalance")
@paced
@where_option
@json_option
def container_rebalance(bandwidth: int, latency: float, wait: bool, as_json: bool) -> None:
    """Make the containers of each pool about equally full.

    All of them, whatever was placed by hand: a disk that was moved to one is spread again.
    """
    _begun(client().rebalance(bandwidth=bandwidth, latency_us=round(latency * 1000)), wait, as_json)


@click.group()
def job() -> None:
    """Long work: disks being moved, containers being drained."""


@job.command("list")
@where_option
@json_option
def job_list(as_json: bool) -> None:
    """All jobs that are not over, and the newest of those that are."""
    rows = client().jobs()
    print_json(rows) if as_json else print_rows(rows, COLUMNS)


@job.command("show")
@click.argument("number", type=int)
@where_option
@json_option
def job_show(number: int, as_json: bool) -> None:
    """One job."""
    info = client().job(number)
    print_json(info) if as_json else print_fields(info, FIELDS)


@job.command("wait")
@click.argument("number", type=int)
@where_option
@json_option
def job_wait(number: int, as_json: bool) -> None:
    """Wait until the job is over; exit status 1 if it was not done."""
    _wait(client().job(number), as_json)


@job.command("cancel")
@click.argument("number", type=int)
@where_option
@json_option
def job_cancel(number: int, as_json: bool) -> None:
    """Begin nothing new; what is under way is finished."""
    info = client().cancel_job(number)
    print_json(info) if as_json else click.echo(f"job {number}: {info.state}")


@job.command("limit")
@click.argument("number", type=int)
@click.argument("bandwidth", type=Size())
@where_option
@json_option
def job_limit(number: int, bandwidth: int, as_json: bool) -> None:
    """Give a running job another BANDWIDTH a second (0: no limit)."""
    info = client().limit_job(number, bandwidth)
    limit = f"{format_size(bandwidth)}/s" if bandwidth else "no limit"
    print_json(info) if as_json else click.echo(f"job {number}: {limit}")


def _run(segments: str | None) -> tuple[int, int]:
    """(first, count) of ``A-B`` or ``A``; count 0: all."""
    if segments is None:
        return 0, 0
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", segments)
    if match is None or int(match[2] or match[1]) < int(match[1]):
        raise click.UsageError(f"--segments takes A-B, not {segments!r}")
    return int(match[1]), int(match[2] or match[1]) - int(match[1]) + 1


def _begun(info: JobInfo, wait: bool, as_json: bool) -> None:
    if wait:
        _wait(info, as_json)
    elif as_json:
        print_json(info)
    else:
        click.echo(f"job {info.job}: {info.kind} {_what(info)}")


def _wait(info: JobInfo, as_json: bool) -> None:
    try:
        info = _over(info)
    except KeyboardInterrupt:
        verbs = f"segue job wait {info.job}, segue job cancel {info.job}"
        raise Interrupted(f"interrupted: job {info.job} goes on ({verbs})") from None
    if as_json:
        print_json(info)
    elif info.state == "done":
        click.echo(f"job {info.job}: done, {format_size(info.moved_bytes)} moved")
    if info.state != "done":
        left = f"{format_size(info.left_bytes)} were not moved" if info.left_bytes else ""
        why = f": {info.reason or left}" if info.reason or left else ""
        raise Failed(f"job {info.job} was {info.state}{why}".replace("was failed", "failed"))


def _over(info: JobInfo) -> JobInfo:
    """The job when it is over; how far it is shows meanwhile."""
    total = info.moved_bytes + info.left_bytes
    with progress(f"{info.kind} {_what(info)}", total) as shown:
        while info.state not in OVER:
            tell(shown, info)
            time.sleep(LOOK_EVERY_S)
            info = _looked_at(info.job, shown)
    return info


def _looked_at(number: int, shown: Progress) -> JobInfo:
    """The job, from a controller that may just be restarting: jobs go on after that."""
    first: float | None = None
    while True:
        try:
            return client().job(number)
        except ApiError as error:
            if error.status not in RESTARTING:
                raise
            now = time.monotonic()
            if first is None:
                first = now
                shown.say(f"{error}; trying again for {KEEP_TRYING_S:g} s")
            elif now - first > KEEP_TRYING_S:
                raise Failed(
                    f"{error}; job {number} goes on when it is there again "
                    f"(segue job wait {number})"
                ) from error
        time.sleep(LOOK_EVERY_S)
