"""`segue serve`: the storage of this machine as a container for others, with a fence."""

from __future__ import annotations

import os
import signal
import stat
from urllib.parse import quote

import click

from segue import _native
from segue.cli.options import Failed, json_option, sentence
from segue.cli.output import print_json_line
from segue.wire.link import Address


@click.command()
@click.argument("storage", metavar="FILE|DEVICE")
@click.option(
    "--listen",
    multiple=True,
    required=True,
    metavar="ADDRESS",
    help="Where controller and agents connect: tcp://HOST:PORT or unix:///PATH.",
)
@click.option("--name", default="", metavar="EXPORT", help="The export's name [none].")
@click.option(
    "--cache",
    type=click.Choice(["page", "direct"]),
    help="Of a file: through the page cache or past it [page]; devices go past it.",
)
@click.option(
    "--state",
    metavar="FILE",
    help="Remembers whom the controller has shut out [FILE.revoked]; needed for a device.",
)
@click.option("--insecure", is_flag=True, help="Allow addresses other machines reach, without TLS.")
@json_option
def serve(
    storage: str,
    listen: tuple[str, ...],
    name: str,
    cache: str | None,
    state: str | None,
    insecure: bool,
    as_json: bool,
) -> None:
    """Export FILE or DEVICE until stopped, for use as a container.

    On the controller's machine: segue container add NAME nbd://THIS-HOST:PORT/EXPORT
    """
    addresses = [_address(text, insecure) for text in listen]
    uri, is_device = _storage_uri(storage)
    if is_device and state is None:
        raise click.UsageError("a device has no place beside it: --state says where to remember")
    cache = cache or ("direct" if is_device else "page")
    try:
        state = state or f"{_path_of(uri)}.revoked"
        server = _native.StorageServer(uri, cache, name, os.path.abspath(state))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        for address in addresses:
            if address.path:
                server.listen_unix(address.path)
                where = f"nbd+unix:///{quote(name)}?socket={quote(address.path)}"
            else:
                port = server.listen_tcp(address.host, address.port)
                where = f"nbd://{address.host}:{port}/{quote(name)}"
            if as_json:
                size_bytes = server.size_bytes
                print_json_line({"storage": storage, "size_bytes": size_bytes, "uri": where})
            else:
                click.echo(f"serving {storage} ({server.size_bytes} bytes) at {where}")
    except (OSError, ValueError) as error:
        raise Failed(sentence(error)) from error
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
    server.close()


def _address(text: str, insecure: bool) -> Address:
    try:
        address = Address.parse(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if not address.local and not insecure:
        raise click.UsageError(
            f"{address} can be reached from other machines: there is no TLS yet, "
            f"--insecure allows it"
        )
    return address


def _storage_uri(storage: str) -> tuple[str, bool]:
    """As a container's URI (tests say one with wrappers), and whether it is a device."""
    if "://" in storage:
        return storage, storage.partition("://")[0].endswith("block")
    path = os.path.abspath(storage)
    try:
        is_device = stat.S_ISBLK(os.stat(path).st_mode)
    except OSError as error:
        raise Failed(f"{storage}: {error.strerror}") from error
    return f"{'block' if is_device else 'file'}://{quote(path)}", is_device


def _path_of(uri: str) -> str:
    return uri.partition("://")[2]
