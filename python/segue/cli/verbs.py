"""The verbs for operators: each is one call of the API and its printing."""

from __future__ import annotations

import os

import click

from segue.api.types import AgentInfo, ContainerInfo, DiskInfo
from segue.cli.daemons import agent
from segue.cli.options import Failed, Size, client, data_folder, data_option, json_option
from segue.cli.output import Columns, print_fields, print_json, print_rows
from segue.cli.sizes import format_size

CONTAINER_COLUMNS: Columns = {
    "NAME": lambda c: c.name,
    "SIZE": lambda c: format_size(c.size_bytes),
    "USED": lambda c: format_size(c.used_segments * c.segment_bytes),
    "FREE": lambda c: format_size(c.free_segments * c.segment_bytes),
    "SEGMENT": lambda c: format_size(c.segment_bytes),
    "CACHE": lambda c: c.cache,
    "URI": lambda c: c.uri,
}
DISK_COLUMNS: Columns = {
    "NAME": lambda d: d.name,
    "SIZE": lambda d: format_size(d.size_bytes),
    "USED": lambda d: format_size(d.mapped_segments * d.segment_bytes),
    "BLOCK": lambda d: str(d.block_bytes),
    "CONTAINERS": lambda d: ",".join(d.containers),
    "AGENTS": lambda d: ",".join(d.agents) or "-",
}
AGENT_COLUMNS: Columns = {
    "NAME": lambda a: a.name,
    "STATE": lambda a: a.state,
    "LEASE": lambda a: f"{a.lease_s:.1f}s",
    "DISKS": lambda a: ",".join(a.disks) or "-",
    "INCARNATION": lambda a: a.incarnation,
    "LISTENS": lambda a: ",".join(a.listens) or "-",
}


@click.group()
def container() -> None:
    """Places for bytes."""


@container.command("add")
@click.argument("name")
@click.argument("uri")
@click.option("--size", type=Size(), required=True, metavar="SIZE", help="10G, 10GiB.")
@click.option(
    "--cache",
    type=click.Choice(["page", "direct"]),
    default="page",
    show_default=True,
    help="page: every agent is on this machine; direct: past the page cache.",
)
@data_option
def container_add(name: str, uri: str, size: int, cache: str) -> None:
    """Make storage at URI (file:///PATH) into a container called NAME."""
    info = client().add_container(name, uri, size, cache)
    click.echo(f"container {info.name}: {info.segments} segments, {format_size(info.size_bytes)}")


@container.command("list")
@data_option
@json_option
def container_list(as_json: bool) -> None:
    """All containers."""
    rows = client().containers()
    print_json(rows) if as_json else print_rows(rows, CONTAINER_COLUMNS)


@container.command("show")
@click.argument("name")
@data_option
@json_option
def container_show(name: str, as_json: bool) -> None:
    """One container."""
    info: ContainerInfo = client().container(name)
    print_json(info) if as_json else print_fields(info)


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
    print_json(rows) if as_json else print_rows(rows, DISK_COLUMNS)


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


@disk.command("uri")
@click.argument("name")
@click.option("--agent", "agent_name", metavar="NAME", help="At this agent only.")
@data_option
def disk_uri(name: str, agent_name: str | None) -> None:
    """Print the disk's NBD URI, for qemu-img, nbdcopy, nbdinfo, fio, nbd-client."""
    click.echo(client().disk_uris(name, agent_name)[0])


@agent.command("list")
@data_option
@json_option
def agent_list(as_json: bool) -> None:
    """All agents that live, or are not known to have ended."""
    rows = client().agents()
    print_json(rows) if as_json else print_rows(rows, AGENT_COLUMNS)


@agent.command("show")
@click.argument("name")
@data_option
@json_option
def agent_show(name: str, as_json: bool) -> None:
    """One agent, every incarnation of it."""
    rows: list[AgentInfo] = [info for info in client().agents() if info.name == name]
    if not rows:
        raise Failed(f"no agent is called {name}")
    if as_json:
        print_json(rows)
        return
    for info in rows:
        print_fields(info)


@click.command()
@data_option
@json_option
def status(as_json: bool) -> None:
    """The installation at a glance; exit status 1 if something wants looking at."""
    info = client().status()
    print_json(info) if as_json else print_fields(info)
    if info.problems:
        raise SystemExit(1)


@click.command()
@data_option
@json_option
def check(as_json: bool) -> None:
    """Check the durable table, whether a controller runs or not; names all damage."""
    # The store's reader is not wanted by any other verb.
    from segue.controller.config import STORE_NAME  # noqa: PLC0415
    from segue.store.check import check as check_store  # noqa: PLC0415
    from segue.store.contract import StoreError  # noqa: PLC0415

    try:
        problems = check_store(os.path.join(data_folder(), STORE_NAME))
    except StoreError as error:
        raise Failed(str(error)) from None
    if as_json:
        print_json(problems)
    else:
        for problem in problems:
            click.echo(problem)
        click.echo(f"{len(problems)} problems found" if problems else "no problem found")
    if problems:
        raise SystemExit(1)
