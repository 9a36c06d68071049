"""`segue status`: the installation at a glance, and what waits for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from segue.api.status import Status, WaitInfo
from segue.cli.agent import COLUMNS as AGENT_COLUMNS
from segue.cli.container import COLUMNS as CONTAINER_COLUMNS
from segue.cli.disk import COLUMNS as DISK_COLUMNS
from segue.cli.options import client, json_option, where_option
from segue.cli.output import Columns, print_json, print_rows

SHOWN_AGE_S = 1.0
"""Younger than this, things are under way; older, an operator may want to know."""

FAULT_COLUMNS: Columns = {
    "FAULT": lambda f: f"{f.agent}:{f.request}",
    "AGE": lambda f: f"{f.age_s:.1f}s",
    "WHAT": lambda f: f"{f.operation} of disk {f.disk} segment {f.segment}",
    "WAITS FOR": lambda f: _waits(f.waits),
}
COMMAND_COLUMNS: Columns = {
    "COMMAND": lambda c: c.message,
    "AGE": lambda c: f"{c.age_s:.1f}s",
    "AGENT": lambda c: c.agent,
    "ID": lambda c: c.command,
}
WORK_COLUMNS: Columns = {
    "WORK": lambda w: w.what,
    "AGE": lambda w: f"{w.age_s:.1f}s",
    "WAITS FOR": lambda w: _waits(w.waits),
}
QUARANTINE_COLUMNS: Columns = {
    "HELD AT": lambda q: q.container,
    "SEGMENTS": lambda q: str(q.segments),
    "FOR AGENT": lambda q: f"{q.agent or q.incarnation} ({q.state})",
}


@click.command()
@where_option
@json_option
def status(as_json: bool) -> None:
    """Show the installation at a glance.

    Exit status 1 if something wants looking at: the lines that begin with "problem".
    """
    info = client().status()
    if as_json:
        print_json(info)
    else:
        print_status(info)
    if info.problems:
        raise SystemExit(1)


def print_status(info: Status) -> None:
    """What there is, and what waits for what."""
    click.echo(
        f"term {info.term}, commit {info.commit}, up {info.up_s:.0f} s, pid {info.pid}, "
        f"{info.faults_answered} faults answered, {info.incomplete_extents} extents incomplete"
    )
    _section(client().agents(), AGENT_COLUMNS)
    _section(client().containers(), CONTAINER_COLUMNS)
    _section(client().disks(), DISK_COLUMNS)
    waits = info.waits
    _section(waits.quarantines, QUARANTINE_COLUMNS)
    _section([f for f in waits.faults if f.age_s >= SHOWN_AGE_S], FAULT_COLUMNS)
    _section([c for c in waits.commands if c.age_s >= SHOWN_AGE_S], COMMAND_COLUMNS)
    _section([w for w in waits.work if w.age_s >= SHOWN_AGE_S], WORK_COLUMNS)
    click.echo(
        f"\n{waits.faults_unanswered} faults and {waits.commands_unanswered} commands unanswered"
    )
    for problem in info.problems:
        click.echo(f"problem: {problem}")


def _section(rows: Sequence[Any], columns: Columns) -> None:
    if rows:
        click.echo()
        print_rows(rows, columns)


def _waits(waits: list[WaitInfo]) -> str:
    return "; ".join(f"{wait.what} ({wait.age_s:.1f}s)" for wait in waits) or "-"
