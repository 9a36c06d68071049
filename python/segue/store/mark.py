"""The mark of an installation: a small file beside the store that says that there must be one.

SQLite takes a missing or an empty file for a new database, so a store that was truncated or lost
would come up as a new, empty installation.  The mark is made once, after the first commit and
before anybody is served; from then on the store of that identity is opened, or nothing is.
"""

from __future__ import annotations

import os

from .contract import StoreCorrupt, StoreError, StoreFull
from .place import NO_ROOM, sync_folder

MARK_NAME = "installation"
IDENTITY_BYTES = 16


def mark_path(folder: str) -> str:
    """Where the mark of the installation in `folder` lies."""
    return os.path.join(folder, MARK_NAME)


def read_mark(folder: str) -> bytes:
    """The identity of the installation that was made in `folder`, empty if there was none.

    Raises `StoreCorrupt` for a mark that names none, `StoreError` for one that cannot be read.
    """
    path = mark_path(folder)
    try:
        with open(path, "rb") as file:
            text = file.read(4096)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    try:
        identity = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        identity = b""
    if len(identity) != IDENTITY_BYTES:
        raise StoreCorrupt(f"{path} names no installation (32 hexadecimal digits)")
    return identity


def make_mark(folder: str, identity: bytes) -> None:
    """Durably says whose the folder is; raises `StoreFull`, and then it is not said; `OSError`."""
    path = mark_path(folder)
    try:
        _write_mark(path, folder, identity)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StoreFull(f"{path}: {error.strerror}") from error
        raise


def _write_mark(path: str, folder: str, identity: bytes) -> None:
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, f"{identity.hex()}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(path + ".new", path)
    sync_folder(folder)


def refuse_lost(path: str) -> None:
    """Raises `StoreCorrupt` for a store that was made and is missing or empty; `OSError`."""
    try:
        size_bytes = os.stat(path).st_size
    except FileNotFoundError:
        raise lost(path, "missing") from None
    if size_bytes == 0:
        raise lost(path, "empty")


def lost(path: str, what: str) -> StoreCorrupt:
    """A store that was made is `what` now (missing, empty): what to say of it."""
    mark = mark_path(os.path.dirname(path))
    return StoreCorrupt(
        f"{path} is {what}, and an installation was made here: put its store back, or remove "
        f"{mark} to begin a new one"
    )
