"""`segue check`: all that can be known to be wrong with an installation, from its files alone.

Three layers, each looked at only where the one below is sound: the store (`store/check.py`: sums,
trees, log), the table folded from it (`controller/soundness.py`), and the containers the table
names (their headers and sizes).  Nothing is changed and no lock is taken that a running controller
needs, so it does the same beside one: everything is read in one transaction of the store.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from segue import _native
from segue.controller.changes import ContainerAdded
from segue.controller.checkpoint import fold, tree_roots
from segue.controller.config import STORE_NAME
from segue.store.check import check as check_store
from segue.store.check import newest_commit
from segue.store.contract import Loaded, StoreCorrupt
from segue.store.mark import read_mark

DATA_AT_BYTES = 1 << 20
"""Where segment 0 of a container starts (crates/segue-io, container/header.rs)."""


def check_installation(data: str) -> list[str]:
    """Every problem found in the installation of the folder `data`, one sentence each.

    Raises `StoreError` if there is no store and none was made.
    """
    path = os.path.join(data, STORE_NAME)
    try:
        made = read_mark(data)
    except StoreCorrupt as error:
        return [error.what]

    def look(loaded: Loaded) -> Iterator[str]:
        table, found = fold(loaded)
        if made and table.installation != made:
            yield f"{path}: is the store of another installation than was made here"
        yield from found
        for container in table.containers.values():
            yield from _container(path, table.installation, container.row)

    return check_store(path, tree_roots, look, must_exist=bool(made))


def _container(store: str, installation: bytes, row: ContainerAdded) -> Iterator[str]:
    where = f"container {row.name} ({row.uri})"
    try:
        header = _native.inspect_container(row.uri)
    except OSError as error:
        yield f"{where}: cannot be read: {error.strerror or error}"
        return
    if header is None:
        yield f"{where}: is missing, or has no header of Segue's"
        return
    if header["installation"] != installation:
        yield f"{where}: belongs to another installation"
    elif header["identity"] != row.identity:
        yield f"{where}: is another container of this installation"
    for what in ("segment_bytes", "segments"):
        said, known = header[what], getattr(row, what)
        if said != known:
            yield f"{where}: its header says {what} {said}, the table {known}"
    yield from _too_short(where, row)
    stamp = header["term"], header["commit"]
    # Read after the header: a running controller stamps what it has committed.
    term, commit = newest_commit(store)
    if stamp[0] > term or stamp[1] > commit:
        yield (
            f"{where}: has seen term {stamp[0]} commit {stamp[1]}, the store ends at term {term} "
            f"commit {commit}: an old copy of the store was put back"
        )


def _too_short(where: str, row: ContainerAdded) -> Iterator[str]:
    """For plain files; what else there is says its size when it is opened."""
    path = unquote(urlsplit(row.uri).path)
    try:
        found = os.stat(path)
    except OSError:
        return
    needed = DATA_AT_BYTES + row.segments * row.segment_bytes
    if stat.S_ISREG(found.st_mode) and found.st_size < needed:
        yield f"{where}: has {found.st_size} bytes, should have {needed}"
