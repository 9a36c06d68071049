"""`segue container`: places for bytes."""

from __future__ import annotations

import click

from segue.api.containers import ContainerInfo
from segue.cli.options import CONTAINER, Size, client, data_option, json_option
from segue.cli.output import Columns, print_fields, print_json, print_rows
from segue.cli.sizes import format_size

COLUMNS: Columns = {
    "NAME": lambda c: c.name,
    "SIZE": lambda c: format_size(c.size_bytes),
    "USED": lambda c: format_size(c.used_segments * c.segment_bytes),
    "FREE": lambda c: format_size(c.free_segments * c.segment_bytes),
    "SEGMENT": lambda c: format_size(c.segment_bytes),
    "CACHE": lambda c: c.cache,
    "URI": lambda c: c.uri,
}


@click.group()
def container() -> None:
    """Places for bytes."""


@container.command("add")
@click.argument("name")
@click.argument("uri")
@click.option(
    "--size", type=Size(), metavar="SIZE", help="10G, 10GiB; a device's default: all of it."
)
@click.option(
    "--segment-size",
    type=Size(),
    metavar="SIZE",
    help="64K to 64M, a power of two: containers of one size form a pool.  [default: 1M]",
)
@click.option(
    "--cache",
    type=click.Choice(["page", "direct"]),
    help="page: every agent is on this machine; direct: past the page cache.  "
    "[default: page for a file, else direct]",
)
@data_option
@json_option
def container_add(
    name: str,
    uri: str,
    size: int | None,
    segment_size: int | None,
    cache: str | None,
    as_json: bool,
) -> None:
    """Make storage at URI into a container called NAME.

    URI is file:///PATH (made, or empty) or block:///dev/DEVICE (whose first MiB is all zero).
    """
    if size is None and "file://" in uri:
        raise click.UsageError("how large? a file needs --size")
    info = client().add_container(name, uri, size or 0, cache, segment_size)
    if as_json:
        print_json(info)
        return
    click.echo(f"container {info.name}: {info.segments} segments, {format_size(info.size_bytes)}")


@container.command("remove")
@click.argument("name")
@data_option
@json_option
def container_remove(name: str, as_json: bool) -> None:
    """Take an empty container out of its pool.

    A file that Segue made is deleted.

    Hosts go on meanwhile.
    """
    client().remove_container(name)
    print_json({"removed": name}) if as_json else click.echo(f"container {name} removed")


@container.command("list")
@data_option
@json_option
def container_list(as_json: bool) -> None:
    """All containers."""
    rows = client().containers()
    print_json(rows) if as_json else print_rows(rows, COLUMNS)


@container.command("show")
@click.argument("name", type=CONTAINER)
@data_option
@json_option
def container_show(name: str, as_json: bool) -> None:
    """One container."""
    info: ContainerInfo = client().container(name)
    print_json(info) if as_json else print_fields(info)


@container.command("linger")
@click.argument("name", type=CONTAINER)
@click.argument("seconds", type=float)
@data_option
@json_option
def container_linger(name: str, seconds: float, as_json: bool) -> None:
    """Say how long a lost agent's I/O can last here.

    In SECONDS; 0: nobody knows.

    Where no fence proves that it has ended, it is taken for ended so long after the agent's lease.
    Too short a time can cost data.
    """
    info = client().set_linger(name, seconds)
    if as_json:
        print_json(info)
    else:
        click.echo(f"container {name}: " + (f"linger {seconds:g} s" if seconds else "no linger"))
