"""`segue disk explain`: one byte of a disk, in a few lines."""

from __future__ import annotations

from collections.abc import Iterator

import click

from segue.api.explain import Decision, Explanation, Holding, LockInfo, Place
from segue.api.status import WaitInfo
from segue.cli.options import DISK, Size, client, json_option, where_option
from segue.cli.output import print_json
from segue.cli.sizes import format_exact

SHOWN = (
    ("read", "read", ""),
    ("write", "write", ""),
    ("zeroes", "zeroes, part", ""),
    ("trim", "trim, part", ""),
    ("discard", "trim, whole", "of the whole segment: "),
)
"""Line, column of the truth table, what stands before; zeroes over a whole segment are as a trim of
it, NO_HOLE is in the JSON."""


@click.command("explain")
@click.argument("name", type=DISK)
@click.argument("offset", type=Size())
@where_option
@json_option
def disk_explain(name: str, offset: int, as_json: bool) -> None:
    """Say of the byte at OFFSET of a disk which entry it has, where it lies, and why."""
    info = client().explain(name, offset)
    if as_json:
        print_json(info)
        return
    for heading, text in lines(info):
        click.echo(f"{heading:<8}  {text}")


def lines(info: Explanation) -> Iterator[tuple[str, str]]:
    """(heading, text) of what there is to say."""
    blocks = info.segment_bytes // info.block_bytes
    yield (
        "byte",
        f"{info.offset_bytes} ({format_exact(info.offset_bytes)}) of disk {info.disk}: "
        f"segment {info.segment}, block {info.block} of {blocks}",
    )
    yield "entry", f"{info.entry}: {info.why[0]}"
    for reason in info.why[1:]:
        yield "", reason
    yield from _where(info)
    decisions = {decision.io: decision for decision in info.decisions}
    for heading, column, before in SHOWN:
        yield heading, before + _does(decisions[column])
    yield "agents", "; ".join(map(_holding, info.agents)) or "none has a table of the disk"
    for lock in info.locks:
        yield from _lock(lock)
    if info.blocks_taken:
        yield "block", "held by I/O under way"
    for fault in info.faults:
        waits = _waits(fault.waits)
        yield "fault", f"{fault.operation} at {fault.agent}, {fault.age_s:.1f} s ago{waits}"


def _where(info: Explanation) -> Iterator[tuple[str, str]]:
    if info.lies_at is None:
        return
    yield "lies at", _place(info.lies_at)
    record = info.record
    if record is None:
        return
    for source in record.sources:
        yield "source", _place(source)
    purpose = f"{record.purpose}, job {record.job}" if record.job else record.purpose
    yield (
        "record",
        f"{purpose}: {record.blocks} blocks, {record.copied_blocks} copied, "
        f"{record.written_blocks} written by hosts",
    )
    if info.reads_from is None:
        found = "not here yet: reads as zeroes"
    elif record.block == "source":
        found = f"not here yet: read from {info.reads_from.container}"
    else:
        found = f"{record.block}: read from {info.reads_from.container}"
    yield "block", found


def _place(place: Place) -> str:
    away = "" if place.away_s is None else f"; its server is away for {place.away_s:.0f} s"
    return (
        f"container {place.container} segment {place.segment}, "
        f"byte {place.offset_bytes} of {place.uri}{away}"
    )


def _does(decision: Decision) -> str:
    return f"{decision.does}: {decision.then}" if decision.then else decision.does


def _holding(agent: Holding) -> str:
    state = "" if agent.state == "present" else f" ({agent.state})"
    return f"{agent.agent}{state} {'may hold the entry' if agent.may_hold else 'holds nothing'}"


def _lock(lock: LockInfo) -> Iterator[tuple[str, str]]:
    yield "lock", f"{lock.lock}: {lock.state}"
    for verb, works in (("held by", lock.held_by), ("wanted by", lock.waiting)):
        for work in works:
            yield "", f"{verb} {work.what}, {work.age_s:.1f} s{_waits(work.waits)}"


def _waits(waits: list[WaitInfo]) -> str:
    said = "; ".join(f"{wait.what} ({wait.age_s:.1f} s)" for wait in waits)
    return f", waits for {said}" if said else ""
