"""`segue disk latency`, and the same table for `segue agent show`."""

from __future__ import annotations

import click

from segue.api.latency import DiskLatency
from segue.cli.disk import disk
from segue.cli.options import DISK, client, json_option, where_option
from segue.cli.output import Columns, print_json, print_rows

COLUMNS: Columns = {
    "OPERATION": lambda r: r.operation.replace("_", "-"),
    "CAUSE": lambda r: r.cause,
    "COUNT": lambda r: str(r.count),
    "MEAN": lambda r: format_us(r.mean_us),
    "P50": lambda r: format_us(r.p50_us),
    "P99": lambda r: format_us(r.p99_us),
    "P99.9": lambda r: format_us(r.p999_us),
    "P99.99": lambda r: format_us(r.p9999_us),
    "MAX": lambda r: format_us(r.max_us),
}


@disk.command("latency")
@click.argument("name", type=DISK)
@where_option
@json_option
def disk_latency(name: str, as_json: bool) -> None:
    """How long hosts of the disk NAME waited, by operation and cause.

    Counted since the start of the agents.  Causes: clean I/O went straight to storage; parked
    waited for a quiesce or a lease; faulted needed an entry of the controller's table; split_read
    and do_write were carried out on a segment under movement; completed was settled in the table
    alone; failed had an error.
    """
    info = client().disk_latency(name)
    if as_json:
        print_json(info)
        return
    print_latency(info)
    if not info.rows and not info.silent:
        click.echo(f"no agent has counted I/O of {name}")


def print_latency(info: DiskLatency) -> None:
    """A table, and who is missing from it."""
    if info.rows:
        print_rows(info.rows, COLUMNS)
    if info.silent:
        click.echo(f"not counted, for they do not answer: {', '.join(info.silent)}")


def format_us(us: float) -> str:
    """Three digits and a unit."""
    for limit, divisor, unit in ((1e3, 1.0, "us"), (1e6, 1e3, "ms")):
        if us < limit * 0.9995:
            return f"{us / divisor:.3g} {unit}"
    return f"{us / 1e6:.3g} s" if us < 1e9 else f"{us / 1e6:.0f} s"
