"""`segue attach` and `segue detach`: a disk as a block device of this machine."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import click
from click.shell_completion import CompletionItem

from segue.block_devices import AttachError, BlockDevices
from segue.cli.options import AGENT, DISK, Failed, data_folder, data_of, data_option, json_option
from segue.cli.output import print_json
from segue.client import ApiError, Client

SAY_AFTER_S = 1.0
ASK_S = 5.0
"""For the controller's answer to what can be done without: who has a name, why a disk waits."""


@click.command()
@click.argument("name", type=DISK)
@click.option("--read-only", is_flag=True, help="Refuse writes.")
@click.option("--agent", "agent_name", type=AGENT, metavar="NAME", help="Through this agent [any].")
@data_option
@json_option
def attach(name: str, read_only: bool, agent_name: str | None, as_json: bool) -> None:
    """Make a block device of the disk NAME and print its path.

    A device of the kernel's NBD client where the kernel has it, else a loop device over nbdfuse
    (which takes no discards).  Printed again if it is there already.
    """
    data = data_folder()
    client = Client(data)
    number, uri = client.disk(name).disk, client.disk_uris(name, agent_name)[0]
    try:
        with _waits_told(data, name):
            device = BlockDevices(data).attach(name, number, uri, read_only)
    except AttachError as error:
        hint = ""
        if os.strerror(errno.EACCES) in str(error):
            hint = f" (a block device wants root, `segue disk uri {name}` does not)"
        why = _problems(data, name)
        raise Failed(f"{error}{hint}{': ' * bool(why)}{why}") from error
    print_json({"disk": name, "device": device, "uri": uri}) if as_json else click.echo(device)


@contextmanager
def _waits_told(data: str, name: str) -> Iterator[None]:
    """Says once what is waited for, if what is done inside lasts."""

    def tell() -> None:
        why = _problems(data, name) or "`segue status` may say what it waits for"
        click.echo(f"{name} is not open yet: {why}", err=True)

    timer = threading.Timer(SAY_AFTER_S, tell)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _problems(data: str, name: str) -> str:
    """What may keep the disk from being opened; empty: nothing that the controller says."""
    try:
        return "; ".join(Client(data, timeout_s=ASK_S).disk_problems(name))
    except ApiError:
        return ""


class _Attached(click.ParamType[str]):
    """The name of a disk that is attached, or its device: a shell completes it."""

    name = "name"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Disks, devices after a slash; the controller is not asked."""
        data = data_of(ctx)
        if data is None:
            return []
        try:
            there = BlockDevices(data).all()
        except OSError:
            return []
        names = [one.device if incomplete.startswith("/") else one.disk for one in there]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command()
@click.argument("disk_or_device", type=_Attached(), metavar="NAME|DEVICE")
@data_option
@json_option
def detach(disk_or_device: str, as_json: bool) -> None:
    """Take away the block device of a disk.

    What was written is flushed first.  The controller need not run.  A disk that was renamed is
    found by both names.
    """
    data = data_folder()
    try:
        gone = BlockDevices(data).detach(disk_or_device, _number(data, disk_or_device))
    except AttachError as error:
        raise Failed(str(error)) from error
    if as_json:
        print_json({"disk": gone.disk, "device": gone.device})
    else:
        click.echo(f"disk {gone.disk}: {gone.device or 'its device'} is gone")


def _number(data: str, disk_or_device: str) -> int | None:
    """Of the disk called so; 0: none is; None: the controller does not say."""
    if disk_or_device.startswith("/"):
        return None
    try:
        return Client(data, timeout_s=ASK_S).disk(disk_or_device).disk
    except ApiError as error:
        return 0 if error.status == HTTPStatus.NOT_FOUND else None
