"""`segue up` and `segue down`: a whole installation on one machine."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import time

import click
import msgspec

from segue.cli.config import config_named, configured
from segue.cli.container import note
from segue.cli.options import (
    Failed,
    Size,
    data_folder,
    data_option,
    json_option,
    without_option,
)
from segue.cli.output import print_json, print_json_line
from segue.cli.sizes import format_size
from segue.client import Client
from segue.logs import set_up_logs

CONTAINER = "local"
DEFAULT_SHARE = 0.8
"""Of the free space where DIR is: what the first container gets.  It is sparse."""
LONGEST_DIR = 80
"""Characters: a unix socket's path has 107 at most, ``/controller.sock`` and the like included."""
DOWN_S = 90.0
MIB = 1 << 20
GIB = 1 << 30
HEADER_BYTES = 1 << 20
"""Of a container, before its first segment: added, so that the rest is a round number."""
POLL_S = 0.02
READY = "Ctrl-C, or `segue down`, stops it."
READY_DETACHED = "`segue down` stops it."


@configured
@click.command("up")
@data_option
@click.option(
    "--size",
    type=Size(),
    metavar="SIZE",
    help="Of the container made on the first run [4/5 of the free space; taken when written].",
)
@without_option
@click.option("--detach", "-d", is_flag=True, help="Return when it serves; `segue down` stops it.")
@json_option
@click.pass_context
def up(
    ctx: click.Context, size: int | None, without: tuple[str, ...], detach: bool, as_json: bool
) -> None:
    """Run a whole installation in DIR.

    A controller, an agent, and a container to begin with.  DIR is made if it is not there.  What
    dies is started again.  With --json, one line when it serves: what `segue status --json` says.
    """
    data = data_folder()
    if len(os.fsencode(data)) > LONGEST_DIR:
        raise Failed(f"{data} is too long for the sockets in it: {LONGEST_DIR} characters at most")
    try:
        os.makedirs(data, mode=0o700, exist_ok=True)
    except OSError as error:
        raise Failed(f"cannot make {data}: {error.strerror}") from None
    passed_on = ["--config", config] if (config := config_named(ctx)) else []
    if without:
        os.environ["SEGUE_CONTROLLER_WITHOUT"] = " ".join(without)
    if detach:
        _detach(data, passed_on, size, as_json)
        return
    from segue.supervisor import Up, UpError  # noqa: PLC0415

    set_up_logs("up", "warning")
    try:
        asyncio.run(Up(data, passed_on, lambda up: _ready(up.client, data, size, as_json)).run())
    except UpError as error:
        raise Failed(str(error)) from None


def _ready(client: Client, data: str, size: int | None, as_json: bool) -> None:
    """On the first run: the container; then say what is served and how to use it."""
    containers = client.containers()
    if not containers:
        if size is None:
            size = default_size(data)
        path = os.path.join(data, f"{CONTAINER}.container")
        containers = [client.add_container(CONTAINER, f"file://{path}", size)]
    elif size is not None:
        click.echo("--size is for the first run: there is a container already", err=as_json)
    status = client.status()
    if as_json:
        print_json_line(status)
        return
    free = sum(info.free_bytes for info in containers)
    total = sum(info.size_bytes for info in containers)
    names = ", ".join(info.name for info in containers)
    click.echo(
        f"Segue {status.version} serves {data}: "
        f"{status.disks} disk{'s' if status.disks != 1 else ''}, "
        f"{format_size(free)} of {format_size(total)} free on {names}."
    )
    for info in containers:
        if said := note(info):
            click.echo(f"  {info.name}: {said}")
    click.echo(f"  export SEGUE_DATA={shlex.quote(data)}")
    click.echo("  segue disk create mydisk 10G     a thin disk")
    click.echo("  segue disk uri mydisk            its NBD URI, for qemu, nbdcopy, nbd-client, ...")
    click.echo(f"Logs are in {data}/*.log. {READY}")


def default_size(data: str) -> int:
    """Four fifths of the free space where the folder is, in whole GiB if there are some."""
    there = os.statvfs(data)
    size = there.f_bavail * there.f_frsize * 4 // 5
    unit = GIB if size >= GIB else MIB
    return size // unit * unit + HEADER_BYTES


def _detach(data: str, passed_on: list[str], size: int | None, as_json: bool) -> None:
    """The same in a process of its own, until it says that it serves."""
    args = [sys.executable, "-m", "segue.cli", "up", "--data", data, *passed_on]
    if size is not None:
        args += ["--size", str(size)]
    if as_json:
        args.append("--json")
    path = os.path.join(data, "up.log")
    try:
        with open(path, "ab") as log:
            begin = log.tell()
            process = subprocess.Popen(
                args,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )
    except OSError as error:  # of the log, or the interpreter is gone or has no name
        what = f"write {path}" if error.filename == path else f"run {args[0] or 'the interpreter'}"
        raise Failed(f"cannot {what}: {error.strerror}") from None
    assert process.stdout is not None
    for line in process.stdout:
        if as_json:
            print_json(msgspec.json.decode(line))
            return
        click.echo(line.replace(READY, READY_DETACHED), nl=False)
        if READY in line:
            return
    with open(path, "rb") as said:
        said.seek(begin)
        click.echo(said.read(), nl=False, err=True)
    raise SystemExit(process.wait() or 1)


@click.command("down")
@data_option
@click.option("--force", is_flag=True, help="Even while disks are attached as devices here.")
@json_option
def down(force: bool, as_json: bool) -> None:
    """Stop what `segue up` runs in DIR.

    Hosts' I/O under way is finished first.

    Refused while `segue attach` of DIR has a device: what a filesystem on it has not flushed yet
    would be lost.  Unmount it and `segue detach` the disk, or say --force.
    """
    from segue.supervisor import Folder, UpError  # noqa: PLC0415

    data = data_folder()
    folder = Folder(data)
    try:
        pid = folder.holder()
    except UpError as error:
        raise Failed(str(error)) from None
    if not pid:
        raise Failed(f"no `segue up` runs in {data}")
    if not force:
        _nothing_attached(data)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass  # killed: what it had started is stopping by itself
    except PermissionError:
        raise Failed(f"`segue up` (pid {pid}) in {data} is another user's") from None
    deadline = time.monotonic() + DOWN_S
    while folder.holder():
        if time.monotonic() > deadline:
            raise Failed(f"`segue up` (pid {pid}) has not stopped within {DOWN_S:g} s")
        time.sleep(POLL_S)
    if as_json:
        print_json({"stopped": data, "pid": pid})
    else:
        click.echo(f"stopped what ran in {data}")


def _nothing_attached(data: str) -> None:
    """Raises `Failed` while `segue attach` has devices: unflushed writes would be lost."""
    from segue.block_devices import BlockDevices  # noqa: PLC0415

    there = BlockDevices(data).there()
    if not there:
        return
    attached = ", ".join(f"{one.disk} as {one.device}" for one in there)
    detach = " ".join(f"`segue detach {one.disk}`," for one in there)
    raise Failed(
        f"attached from {data}: {attached}. Writes not flushed would be lost: "
        f"umount what is mounted, then {detach} or say --force"
    )
