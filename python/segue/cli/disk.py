"""`segue disk`: virtual disks."""

from __future__ import annotations

import sys

import click

from segue.api.disks import DiskInfo
from segue.cli.options import Size, client, data_option, json_option
from segue.cli.output import Columns, print_fields, print_json, print_rows
from segue.cli.sizes import format_size

COLUMNS: Columns = {
    "NAME": lambda d: d.name,
    "SIZE": lambda d: format_size(d.size_bytes),
    "USED": lambda d: format_size(d.mapped_segments * d.segment_bytes),
    "BLOCK": lambda d: str(d.block_bytes),
    "CONTAINERS": lambda d: ",".join(d.containers),
    "AGENTS": lambda d: ",".join(d.agents) or "-",
}


@click.group()
def disk() -> None:
    """Virtual disks."""


@disk.command("create")
@click.argument("name")
@click.argument("size", type=Size())
@click.option("--block-size", type=click.Choice(["512", "4096"]), default="4096", show_default=True)
@data_option
def disk_create(name: str, size: int, block_size: str) -> None:
    """Make a thin disk, all zero."""
    info = client().create_disk(name, size, int(block_size))
    click.echo(f"disk {info.name}: {format_size(info.size_bytes)}")


@disk.command("list")
@data_option
@json_option
def disk_list(as_json: bool) -> None:
    """All disks."""
    rows = client().disks()
    print_json(rows) if as_json else print_rows(rows, COLUMNS)


@disk.command("show")
@click.argument("name")
@data_option
@json_option
def disk_show(name: str, as_json: bool) -> None:
    """One disk."""
    info: DiskInfo = client().disk(name)
    print_json(info) if as_json else print_fields(info)


@disk.command("delete")
@click.argument("name")
@data_option
def disk_delete(name: str) -> None:
    """Delete a disk and what is on it; hosts that use it get ESHUTDOWN."""
    client().delete_disk(name)
    click.echo(f"disk {name} deleted")


@disk.command("clear-error")
@click.argument("name")
@data_option
def disk_clear_error(name: str) -> None:
    """End a disk's flush errors: you have taken note that unflushed data may be lost."""
    client().clear_error(name)
    click.echo(f"disk {name}: flush errors ended")


@disk.command("map")
@click.argument("name")
@click.option("--first", type=int, default=0, metavar="SEGMENT", help="With --json: from here on.")
@click.option("--runs", type=int, default=1000, metavar="N", help="With --json: so many at most.")
@data_option
@json_option
def disk_map(name: str, first: int, runs: int, as_json: bool) -> None:
    """Draw where the disk's segments lie; with --json as a list of runs."""
    if as_json:
        print_json(client().disk_map(name, first, runs))
        return
    from segue.cli.drawing import CELLS, draw  # noqa: PLC0415

    draw(client().disk_drawing(name, CELLS), sys.stdout.isatty())


@disk.command("uri")
@click.argument("name")
@click.option("--agent", "agent_name", metavar="NAME", help="At this agent only.")
@data_option
def disk_uri(name: str, agent_name: str | None) -> None:
    """Print the disk's NBD URI, for qemu-img, nbdcopy, nbdinfo, fio, nbd-client."""
    click.echo(client().disk_uris(name, agent_name)[0])
