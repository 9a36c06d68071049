"""Images into disks and out of them: raw by our own hands, other formats through qemu-img.

An import fills a disk called ``NAME.importing`` and renames it when all of it is durable, so what
an interrupted one leaves behind says what it is.  An export likewise fills ``FILE.part``.  Holes
stay holes both ways: an import asks the file where its data is, and writes nothing that is all
zero; an export asks the disk.

Raw data goes over several connections at once, each with one request under way: Python's own lock
is free while a request or the file is waited for.
"""

from __future__ import annotations

import errno
import os
import queue
import re
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from segue import _native
from segue.api.disks import DiskInfo
from segue.cli.image_formats import (
    RAW,
    export_format,
    image_format,
    image_size_bytes,
    last_line,
    need_image_file,
    need_qemu_img,
    source,
)
from segue.cli.options import Failed
from segue.cli.progress import Progress, progress
from segue.client import ApiError, Client

CONNECTIONS = 4
PIECE_BYTES = 1 << 20
"""Of one request, at the most."""
STATUS_BYTES = 1 << 30
SECTOR = 512
IMPORTING = ".importing"
ZEROES = bytes(PIECE_BYTES)
HOLE_OR_ZERO = 3
PERCENT = re.compile(rb"\(([0-9.]+)/100%\)")

Piece = tuple[int, int]
"""Offset and length in bytes."""


def import_image(
    client: Client,
    name: str,
    path: Path,
    image: str | None = None,
    block_bytes: int = 4096,
    segment_bytes: int | None = None,
    container: str | None = None,
) -> DiskInfo:
    """Makes a disk of an image file; `image` is its format, None: see `image_format`.

    Raises `Failed`, `ApiError`, `OSError`; the disk is gone then, or still called NAME.importing.
    """
    need_image_file(path)
    image = image or image_format(path)
    need_qemu_img(image)
    size_bytes = image_size_bytes(path, image)
    if not size_bytes:
        raise Failed(f"{path} is empty")
    names = {disk.name for disk in client.disks()}
    if name in names:
        raise Failed(f"a disk called {name} exists already")
    part = name + IMPORTING
    if part in names:
        raise Failed(
            f"disk {part} is left of an import that was cut off: delete it first "
            f"(segue disk delete {part})"
        )
    size_bytes += -size_bytes % SECTOR
    info = client.create_disk(part, size_bytes, block_bytes, segment_bytes, container)
    try:
        uri = client.disk_uris(part)[0]
        with progress(f"import {name}", size_bytes) as bar:
            if image == RAW:
                _fill_disk(uri, part, path, info.segment_bytes, bar)
            else:
                args = ["-n", "--target-is-zero", "-W", "-O", RAW, source(path, image), uri]
                _convert(args, size_bytes, bar)
        _flush(uri, part)
        return client.rename_disk(part, name)
    except BaseException:
        # Whatever ended it, ^C included.
        try:
            client.delete_disk(part, force=True)  # what was cut off may have it open still
        except ApiError:
            click.echo(f"segue: disk {part} is left, delete it", err=True)
        raise


def export_image(
    client: Client, name: str, path: Path, image: str | None = None, agent: str | None = None
) -> None:
    """Writes a disk to a new file; `image` is its format, None: see `export_format`.

    Raises `Failed`, `ApiError`, `OSError`, and then leaves none.
    """
    image = image or export_format(path)
    need_qemu_img(image)
    if path.exists():
        raise Failed(f"{path} exists already")
    info = client.disk(name)
    uri = client.disk_uris(name, agent)[0]
    part = path.with_name(path.name + ".part")
    try:
        with progress(f"export {name}", info.size_bytes) as bar:
            if image == RAW:
                _fill_file(uri, name, part, info.size_bytes, bar)
            else:
                args = ["-W", "-f", RAW, "-O", image, uri, str(part.absolute())]
                _convert(args, info.size_bytes, bar)
        part.rename(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


# Raw ----------------------------------------------------------------------------------------------


def _fill_disk(uri: str, name: str, path: Path, segment_bytes: int, bar: Progress) -> None:
    step = min(segment_bytes, PIECE_BYTES)
    with open(path, "rb") as file, _connections(uri, name) as connections:

        def copy(piece: Piece) -> None:
            offset, length = piece
            data = os.pread(file.fileno(), length, offset)
            if len(data) != length:
                raise Failed(f"{path} became shorter while it was read")
            with connections() as connection:
                for at, end in _runs_of_data(data, step):
                    connection.pwrite(data[at:end], offset + at)

        size_bytes = file.seek(0, os.SEEK_END)
        _each(_pieces(_data_of_file(file.fileno(), size_bytes), size_bytes), copy, bar)
        bar.update(size_bytes + -size_bytes % SECTOR)


def _fill_file(uri: str, name: str, path: Path, size_bytes: int, bar: Progress) -> None:
    with open(path, "wb") as file, _connections(uri, name) as connections:
        file.truncate(size_bytes)

        def copy(piece: Piece) -> None:
            offset, length = piece
            with connections() as connection:
                data = connection.pread(length, offset)
            for at, end in _runs_of_data(data, 4096):
                _write_whole(file.fileno(), data[at:end], offset + at)

        with connections() as connection:
            extents = list(_data_of_disk(connection, size_bytes))
        _each(_pieces(iter(extents), size_bytes), copy, bar)
        os.fsync(file.fileno())
        bar.update(size_bytes)


def _write_whole(file: int, data: bytes, offset: int) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


def _data_of_file(file: int, size_bytes: int) -> Iterator[Piece]:
    """Where a file has data: (first byte, end); what cannot say (a device) has it everywhere."""
    end = 0
    while end < size_bytes:
        try:
            first = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno != errno.EINVAL:
                raise
            yield end, size_bytes
            return
        end = min(os.lseek(file, first, os.SEEK_HOLE), size_bytes)
        yield first, end


def _data_of_disk(connection: _native.NbdClient, size_bytes: int) -> Iterator[Piece]:
    """Where a disk has data, by its block status."""
    at = 0
    while at < size_bytes:
        for length, flags in connection.block_status(min(STATUS_BYTES, size_bytes - at), at):
            if not flags & HOLE_OR_ZERO:
                yield at, at + length
            at += length


def _pieces(extents: Iterator[Piece], size_bytes: int) -> Iterator[Piece]:
    """Cuts extents into requests that begin at multiples of `PIECE_BYTES`, each once."""
    done = 0
    for first, end in extents:
        at = max(done, first // PIECE_BYTES * PIECE_BYTES)
        while at < end:
            yield at, min(PIECE_BYTES, size_bytes - at)
            at += PIECE_BYTES
        done = at


def _runs_of_data(data: bytes, step: int) -> Iterator[Piece]:
    """Runs (first byte, end) of steps that are not all zero."""
    first, zeroes = None, ZEROES[:step]
    for at in range(0, len(data), step):
        is_zero = data.startswith(
            zeroes if at + step <= len(data) else ZEROES[: len(data) - at], at
        )
        if is_zero and first is not None:
            yield first, at
            first = None
        elif not is_zero and first is None:
            first = at
    if first is not None:
        yield first, len(data)


def _each(pieces: Iterator[Piece], copy: Callable[[Piece], None], bar: Progress) -> None:
    """Does all pieces, several at once; the first error ends it."""
    under_way: deque[tuple[Piece, Future[None]]] = deque()

    def finish() -> None:
        (offset, length), done = under_way.popleft()
        done.result()
        bar.update(offset + length)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        try:
            for piece in pieces:
                under_way.append((piece, pool.submit(copy, piece)))
                if len(under_way) > 2 * CONNECTIONS:
                    finish()
            while under_way:
                finish()
        finally:
            pool.shutdown(cancel_futures=True)


Taken = Callable[[], "_Connection"]


class _Connection:
    """One of the connections, for as long as a `with` lasts."""

    def __init__(self, free: queue.SimpleQueue[_native.NbdClient]) -> None:
        self._free = free
        self._taken = free.get()

    def __enter__(self) -> _native.NbdClient:
        return self._taken

    def __exit__(self, *_: object) -> None:
        self._free.put(self._taken)


@contextmanager
def _connections(uri: str, name: str) -> Iterator[Taken]:
    free: queue.SimpleQueue[_native.NbdClient] = queue.SimpleQueue()
    with ExitStack() as opened:
        for _ in range(CONNECTIONS):
            connection = _native.NbdClient(uri, name)
            opened.callback(connection.close)
            free.put(connection)
        yield lambda: _Connection(free)


def _flush(uri: str, name: str) -> None:
    connection = _native.NbdClient(uri, name)
    connection.flush()
    connection.close()


# Other formats ------------------------------------------------------------------------------------


def _convert(args: list[str], size_bytes: int, bar: Progress) -> None:
    """Runs ``qemu-img convert`` and tells how far it is."""
    command = ["qemu-img", "convert", "-p", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            while said := os.read(process.stdout.fileno(), 4096):
                if found := PERCENT.findall(said):
                    bar.update(int(float(found[-1]) * size_bytes / 100))
        except BaseException:
            process.kill()
            raise
        error = process.stderr.read()
    if process.returncode:
        raise Failed(last_line(error))
