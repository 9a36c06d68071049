"""`segue top`: status again and again, with what happens a second."""

from __future__ import annotations

import itertools
import sys
import time
from contextlib import suppress

import click

from segue.api.status import Status
from segue.cli.options import Time, client, json_option, where_option
from segue.cli.output import print_json_line
from segue.cli.status import print_status


@click.command("top")
@click.option("--every", "every_s", type=Time(), default=2.0, show_default=True, metavar="SECONDS")
@click.option("--times", type=int, metavar="N", help="End after so many [never].")
@where_option
@json_option
def top(every_s: float, times: int | None, as_json: bool) -> None:
    """The installation, looked at again and again; Ctrl-C ends it.  With --json, a line a look."""
    with suppress(KeyboardInterrupt):
        _look(every_s, times, as_json)


def _look(every_s: float, times: int | None, as_json: bool) -> None:
    before = client().status()
    for turn in itertools.count(1):
        now = client().status()
        if as_json:
            print_json_line(now)
        else:
            _show(before, now)
        if turn == times:
            return
        before = now
        time.sleep(every_s)


def _show(before: Status, now: Status) -> None:
    if sys.stdout.isatty():
        click.clear()
    took_s = now.up_s - before.up_s
    if now.term == before.term and took_s > 0:
        faults = (now.faults_answered - before.faults_answered) / took_s
        commits = (now.commit - before.commit) / took_s
        click.echo(f"{faults:.0f} faults/s, {commits:.0f} commits/s")
    print_status(now)
