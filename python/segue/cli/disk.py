"""`segue disk`: virtual disks."""

from __future__ import annotations

import os
import sys
from http import HTTPStatus

import click

from segue.api.disks import DiskInfo
from segue.cli.options import (
    AGENT,
    DISK,
    Failed,
    Size,
    begin_option,
    client,
    data_of,
    json_option,
    where_option,
)
from segue.cli.output import Columns, print_fields, print_json, print_rows
from segue.cli.sizes import format_size
from segue.client import ApiError

COLUMNS: Columns = {
    "NAME": lambda d: d.name,
    "SIZE": lambda d: format_size(d.size_bytes),
    "USED": lambda d: format_size(d.mapped_segments * d.segment_bytes),
    "BLOCK": lambda d: str(d.block_bytes),
    "CONTAINERS": lambda d: ",".join(d.containers) or "-",
    "AGENTS": lambda d: ",".join(d.agents) or "-",
}
FIELDS: Columns = {
    "name": lambda d: d.name,
    "size": lambda d: (
        f"{format_size(d.size_bytes)} in {d.segments} segments of {format_size(d.segment_bytes)}"
    ),
    "used": lambda d: (
        f"{format_size(d.mapped_segments * d.segment_bytes)} in {d.mapped_segments} segments"
    ),
    "block": lambda d: f"{d.block_bytes} bytes",
    "containers": lambda d: ", ".join(d.containers) or "-",
    "agents": lambda d: ", ".join(d.agents) or "-",
    "failed": lambda d: ", ".join(
        f"a flush at {name} ({os.strerror(errno)}): `segue disk clear-error {d.name}` takes note"
        for name, errno in d.failed.items()
    ),
}


@click.group()
def disk() -> None:
    """Virtual disks."""


@disk.command("create")
@click.argument("name")
@click.argument("size", type=Size())
@click.option("--block-size", type=click.Choice(["512", "4096"]), default="4096", show_default=True)
@click.option(
    "--segment-size", type=Size(), metavar="SIZE", help="Names the pool, if there are several."
)
@begin_option
@where_option
@json_option
def disk_create(
    name: str,
    size: int,
    block_size: str,
    segment_size: int | None,
    container: str | None,
    as_json: bool,
) -> None:
    """Make a thin disk, all zero."""
    info = client().create_disk(name, size, int(block_size), segment_size, container)
    print_json(info) if as_json else click.echo(f"disk {info.name}: {format_size(info.size_bytes)}")


@disk.command("resize")
@click.argument("name")
@click.argument("size", type=Size())
@click.option("--force", is_flag=True, help="Shrink over data, which is lost.")
@where_option
@json_option
def disk_resize(name: str, size: int, force: bool, as_json: bool) -> None:
    """Give a disk another size.

    Hosts see it when they connect again.
    """
    info = client().resize_disk(name, size, force)
    print_json(info) if as_json else click.echo(f"disk {info.name}: {format_size(info.size_bytes)}")


@disk.command("rename")
@click.argument("name")
@click.argument("new")
@where_option
@json_option
def disk_rename(name: str, new: str, as_json: bool) -> None:
    """Give a disk another name; hosts that have it go on."""
    info = client().rename_disk(name, new)
    print_json(info) if as_json else click.echo(f"disk {name} is now called {new}")


@disk.command("list")
@where_option
@json_option
def disk_list(as_json: bool) -> None:
    """All disks."""
    rows = client().disks()
    print_json(rows) if as_json else print_rows(rows, COLUMNS)


@disk.command("show")
@click.argument("name", type=DISK)
@where_option
@json_option
def disk_show(name: str, as_json: bool) -> None:
    """One disk."""
    info: DiskInfo = client().disk(name)
    print_json(info) if as_json else print_fields(info, FIELDS)


@disk.command("delete")
@click.argument("name", type=DISK)
@click.option("--force", is_flag=True, help="Delete it under its hosts, which get ESHUTDOWN.")
@where_option
@json_option
def disk_delete(name: str, force: bool, as_json: bool) -> None:
    """Delete a disk and what is on it.

    Refused while hosts use it.
    """
    try:
        client().delete_disk(name, force)
    except ApiError as error:
        if error.status != HTTPStatus.CONFLICT:
            raise
        raise Failed(f"{error}{_device_of(name)}") from None
    print_json({"deleted": name}) if as_json else click.echo(f"disk {name} deleted")


def _device_of(name: str) -> str:
    """Says which device `segue attach` has made of the disk, if it runs in this folder."""
    from segue.block_devices import BlockDevices  # noqa: PLC0415

    folder = data_of(click.get_current_context())
    there = BlockDevices(folder).there() if folder is not None else []
    devices = [one.device for one in there if one.disk == name]
    return f"; it is {devices[0]} here: `segue detach {name}`" if devices else ""


@disk.command("clear-error")
@click.argument("names", type=DISK, nargs=-1, required=True, metavar="DISK...")
@where_option
@json_option
def disk_clear_error(names: tuple[str, ...], as_json: bool) -> None:
    """End disks' flush errors.

    You have taken note that unflushed data may be lost.

    Each disk is answered; exit status 1 if any could not be done.
    """
    api, done, refused = client(), [], ""
    for name in names:
        try:
            info, said = api.disk(name), "there was no flush error"
            if info.failed:  # one that comes just now nobody has taken note of
                info, said = api.clear_error(name), "flush errors ended"
            done.append(info)
        except ApiError as error:
            if not error.status:
                raise  # nobody is there: the others would fail alike
            if refused:
                click.echo(f"segue: {refused}", err=True)
            refused = str(error)
        else:
            if not as_json:
                click.echo(f"disk {name}: {said}")
    if as_json:
        print_json(done)
    if refused:
        raise Failed(refused)


@disk.command("map")
@click.argument("name", type=DISK)
@click.option("--first", type=int, default=0, metavar="SEGMENT", help="With --json: from here on.")
@click.option("--runs", type=int, default=1000, metavar="N", help="With --json: so many at most.")
@where_option
@json_option
def disk_map(name: str, first: int, runs: int, as_json: bool) -> None:
    """Draw where the disk's segments lie.

    With --json as a list of runs.
    """
    if as_json:
        print_json(client().disk_map(name, first, runs))
        return
    from segue.cli.drawing import CELLS, draw  # noqa: PLC0415

    draw(client().disk_drawing(name, CELLS), sys.stdout.isatty())


@disk.command("uri")
@click.argument("name", type=DISK)
@click.option("--agent", "agent_name", type=AGENT, metavar="NAME", help="At this agent only.")
@where_option
@json_option
def disk_uri(name: str, agent_name: str | None, as_json: bool) -> None:
    """Print the disk's NBD URI.

    qemu-img, nbdcopy, nbdinfo, fio and nbd-client take it.

    With --json all of them: an agent can listen in several places.
    """
    uris = client().disk_uris(name, agent_name)
    print_json(uris) if as_json else click.echo(uris[0])
