"""`segue container`: places for bytes."""

from __future__ import annotations

import click

from segue.api.containers import ContainerInfo
from segue.cli.options import CONTAINER, Size, Time, client, json_option, where_option
from segue.cli.output import Columns, print_fields, print_json, print_rows
from segue.cli.sizes import format_size


def _state(info: ContainerInfo) -> str:
    if info.leaving:
        return "leaving"
    words = ["draining"] if info.draining else []
    if info.away_s is not None:
        words.append(f"away {info.away_s:.0f}s")
    return ",".join(words) or "present"


COLUMNS: Columns = {
    "NAME": lambda c: c.name,
    "SIZE": lambda c: format_size(c.size_bytes),
    "USED": lambda c: format_size(c.used_segments * c.segment_bytes),
    "FREE": lambda c: format_size(c.free_bytes),
    "SEGMENT": lambda c: format_size(c.segment_bytes),
    "STATE": _state,
    "CACHE": lambda c: c.cache,
    "URI": lambda c: c.uri,
}
FLUSH = {
    "sync": "makes durable what was written (fdatasync)",
    "nothing": "nothing is left to do: every write is durable before it is answered",
}
FENCE = {
    "locks": "locks show when a lost agent's I/O has ended",
    "server": "its server ends a lost agent's sessions",
    "linger": "none, but you have said how long a lost agent's I/O can linger",
    "none": "none: a lost agent's I/O ends by `segue agent declare-dead` or `container linger`",
    "unknown": "unknown before its server is back",
}


def _when_away(info: ContainerInfo) -> str:
    if info.when_away == "fail":
        return f"I/O that needs it fails after {info.fail_after_s:g} s"
    return "I/O that needs it waits" if info.when_away else ""


def _segments(count: int, info: ContainerInfo) -> str:
    return f"{format_size(count * info.segment_bytes)} in {count} segments"


def note(info: ContainerInfo) -> str:
    """What is to be said of a container that is larger than what there is for it; or nothing."""
    if not info.file_system_short_bytes or info.file_system_free_bytes is None:
        return ""
    return (
        f"{format_size(info.file_system_free_bytes)} are left on its file system, "
        f"{format_size(info.file_system_short_bytes)} less than all of the container would take"
    )


def no_fence(info: ContainerInfo) -> str:
    """What is to be said of a new container whose server has no fence; or nothing."""
    if info.fence != "none":
        return ""
    return (
        "its server has no fence: after a crash its disks wait until it is known how long "
        f"requests linger there; `segue container linger {info.name} SECONDS` says it"
    )


def _free(info: ContainerInfo) -> str:
    free = f"{_segments(info.free_segments, info)}, {info.clean_segments} of them clean"
    if info.free_bytes == info.free_segments * info.segment_bytes:
        return free
    return f"{format_size(info.free_bytes)}: all that its file system has for {free}"


FIELDS: Columns = {
    "name": lambda c: c.name,
    "uri": lambda c: c.uri,
    "state": lambda c: _state(c) + (f" ({c.away_why})" if c.away_why else ""),
    "size": lambda c: f"{_segments(c.segments, c)} of {format_size(c.segment_bytes)}",
    "used": lambda c: _segments(c.used_segments, c),
    "free": _free,
    "room": note,
    "held": lambda c: (
        f"{_segments(c.held_segments, c)}: being zeroed, or waiting for an agent"
        if c.held_segments
        else ""
    ),
    "disks": lambda c: ", ".join(c.disks) or "-",
    "cache": lambda c: {"page": "page cache", "direct": "direct: past the page cache"}[c.cache],
    "writes": lambda c: f"of {c.write_unit_bytes} bytes or more" if c.write_unit_bytes > 1 else "",
    "flush": lambda c: FLUSH.get(c.flush, ""),
    "fence": lambda c: FENCE.get(c.fence, "") + (f": {c.linger_s:g} s" if c.linger_s else ""),
    "away": _when_away,
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
@click.option("--erase", is_flag=True, help="Give up what a device or export holds.")
@where_option
@json_option
def container_add(
    name: str,
    uri: str,
    size: int | None,
    segment_size: int | None,
    cache: str | None,
    erase: bool,
    as_json: bool,
) -> None:
    """Make storage at URI into a container called NAME.

    URI is file:///PATH (made, or empty), block:///dev/DEVICE, nbd://HOST[:PORT]/EXPORT or
    nbd+unix:///EXPORT?socket=PATH.

    All that lies there is overwritten sooner or later, so nothing may: a device or export is
    looked at (a large one in 1,100 places), and refused without --erase if it holds something.
    """
    if size is None and "file://" in uri:
        raise click.UsageError("how large? a file needs --size")
    info = client().add_container(name, uri, size or 0, cache, segment_size, erase=erase)
    if as_json:
        print_json(info)
        return
    click.echo(f"container {info.name}: {info.segments} segments, {format_size(info.size_bytes)}")
    for said in (note(info), no_fence(info)):
        if said:
            click.echo(f"note: {said}", err=True)


@container.command("remove")
@click.argument("name")
@click.option("--lost", is_flag=True, help="Its storage is away, and gone for good.")
@where_option
@json_option
def container_remove(name: str, lost: bool, as_json: bool) -> None:
    """Take an empty container out of its pool.

    A file that Segue made is deleted.

    Hosts go on meanwhile.
    """
    client().remove_container(name, lost=lost)
    print_json({"removed": name}) if as_json else click.echo(f"container {name} removed")


@container.command("list")
@where_option
@json_option
def container_list(as_json: bool) -> None:
    """All containers."""
    rows = client().containers()
    print_json(rows) if as_json else print_rows(rows, COLUMNS)


@container.command("show")
@click.argument("name", type=CONTAINER)
@where_option
@json_option
def container_show(name: str, as_json: bool) -> None:
    """One container."""
    info: ContainerInfo = client().container(name)
    print_json(info) if as_json else print_fields(info, FIELDS)


@container.command("linger")
@click.argument("name", type=CONTAINER)
@click.argument("seconds", type=Time())
@where_option
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
