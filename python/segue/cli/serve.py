"""`segue serve`: the storage of this machine as a container for others, with a fence."""

from __future__ import annotations

import errno
import math
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import quote, unquote

import click

from segue import _native
from segue.cli.options import Failed, handshake_option, json_option, sentence
from segue.cli.output import print_json_line
from segue.limits import allow_descriptors, check_limits
from segue.wire.link import Address

ENDING = {signal.SIGINT, signal.SIGTERM}
SIGNALLED = 128
"""Exit status after a signal: so much and its number, as shells have it."""
SAY_AFTER_S = 0.3
OTHER_DESCRIPTORS = 64
"""Beside clients': the storage, listeners."""
LOOK_EVERY_S = 0.02
SECOND_NS = 1_000_000_000


class Limits(NamedTuple):
    """What clients may take."""

    handshake_timeout_ns: int
    connections: int


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
@handshake_option
@click.option(
    "--connections",
    type=int,
    default=256,
    show_default=True,
    metavar="COUNT",
    help="Have so many connections at most; an agent makes four.",
)
@click.option("--insecure", is_flag=True, help="Allow addresses other machines reach, without TLS.")
@json_option
def serve(
    storage: str,
    listen: tuple[str, ...],
    name: str,
    cache: str | None,
    state: str | None,
    handshake_timeout: float,
    connections: int,
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
    limits = _limits(handshake_timeout, connections)
    cache = cache or ("direct" if is_device else "page")
    state = os.path.abspath(state or f"{_path_of(uri)}.revoked")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        with _watched(storage):
            server = _opened(uri, cache, name, state, limits)
        for address in addresses:
            where = _listen(server, address, name)
            if as_json:
                size_bytes = server.size_bytes
                print_json_line({"storage": storage, "size_bytes": size_bytes, "uri": where})
            else:
                click.echo(f"serving {storage} ({server.size_bytes} bytes) at {where}")
        signal.sigwait(ENDING)
        server.close()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _limits(handshake_timeout_s: float, connections: int) -> Limits:
    """Checked, and with a descriptor for each connection."""
    try:
        check_limits(handshake_timeout_s, connections)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    allow_descriptors(connections + OTHER_DESCRIPTORS)
    return Limits(round(handshake_timeout_s * SECOND_NS), connections)


def _opened(uri: str, cache: str, name: str, state: str, limits: Limits) -> _native.StorageServer:
    """A server of the storage; raises `Failed`, which names the file that is to blame."""
    try:
        server = _native.StorageServer(
            uri,
            cache,
            name,
            state,
            handshake_timeout_ns=limits.handshake_timeout_ns,
            connections_max=limits.connections,
        )
    except (OSError, ValueError) as error:
        path, said = unquote(_path_of(uri)), sentence(error)
        if isinstance(error, OSError) and error.errno == errno.EBUSY:
            raise Failed(
                f"{path}: {said}: another has it (`segue serve`, an agent, a mount)"
            ) from error
        is_state = not _cannot_open(path) and _cannot_open(state)
        named = f"{state} (--state)" if is_state else path
        raise Failed(said if path in said else f"{named}: {said}") from error
    if not server.size_bytes:
        server.close()
        raise Failed(f"{unquote(_path_of(uri))} is empty")
    return server


def _cannot_open(path: str) -> bool:
    """Whether a file cannot be written, or not be made where it is to be."""
    if os.path.exists(path):
        return os.path.isdir(path) or not os.access(path, os.R_OK | os.W_OK)
    return not os.access(os.path.dirname(path), os.W_OK | os.X_OK)


def _listen(server: _native.StorageServer, address: Address, name: str) -> str:
    """Serves there; the URI.  Raises `Failed`, which names the address."""
    if address.path and os.path.exists(address.path) and not _is_socket(address.path):
        # What a dead server left is removed by the next: nothing else may be.
        raise Failed(f"{address}: {address.path} is there already, and no socket")
    try:
        if address.path:
            server.listen_unix(address.path)
            return f"nbd+unix:///{quote(name)}?socket={quote(address.path)}"
        port = server.listen_tcp(address.host, address.port)
    except OSError as error:
        said = sentence(error)
        raise Failed(said if str(address) in said else f"{address}: {said}") from error
    return f"nbd://{address.host}:{port}/{quote(name)}"


def _is_socket(path: str) -> bool:
    return stat.S_ISSOCK(os.stat(path).st_mode)


@contextmanager
def _watched(storage: str) -> Iterator[None]:
    """While the storage is opened, which waits for another server of it to end: says so, and lets
    Ctrl-C end it.  The signals are blocked, and the main thread is in native code."""
    opened = threading.Event()

    def watch() -> None:
        say_at = time.monotonic() + SAY_AFTER_S
        while not opened.is_set():
            if caught := signal.sigtimedwait(ENDING, LOOK_EVERY_S):
                os.write(2, b"segue: interrupted\n")
                os._exit(SIGNALLED + caught.si_signo)
            if time.monotonic() > say_at:
                say_at = math.inf
                click.echo(
                    f"{storage} is not open yet: waiting (does another `segue serve` have it?)",
                    err=True,
                )

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        opened.set()
        watcher.join()


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
        there = os.stat(path)
    except OSError as error:
        raise Failed(f"{storage}: {error.strerror}") from error
    is_device = stat.S_ISBLK(there.st_mode)
    if not is_device and not stat.S_ISREG(there.st_mode):
        raise Failed(f"{storage} is neither a file nor a block device")
    if not is_device and not there.st_size:
        raise Failed(f"{storage} is empty: truncate -s SIZE {storage} gives it a size")
    return f"{'block' if is_device else 'file'}://{quote(path)}", is_device


def _path_of(uri: str) -> str:
    return uri.partition("://")[2]
