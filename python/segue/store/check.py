"""`check`: every piece of damage in a SQLite store, by name (promise P7).

SQLite's own integrity_check sees the shape of its trees and misses flipped bits in values; the
sums of records, pages and their parents see those.  What only the controller can know (that the
table makes sense) it looks at through `Look`, in the same consistent read.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from .contract import Loaded, StoreCorrupt, StoreError, StoreInUse
from .mark import lost, refuse_lost
from .page_format import decode_directory, decode_header
from .pages import decode_root
from .place import InstallationLock
from .records import doom
from .sqlite_file import (
    SQLITE_ERRORS,
    connect,
    read_checkpoint,
    read_head,
    read_log,
    read_page,
    read_pages,
    read_version,
    store_error,
)
from .sqlite_wal import damage_in

TreeRoots = Callable[[bytes], Iterable[bytes]]
"""The roots of all page trees named in a checkpoint's root; raises `StoreCorrupt`."""
Look = Callable[[Loaded], Iterable[str]]
"""Problems in what a sound store holds; raises `StoreError`.  `Loaded.term` is the newest term."""

_WAL_MODES = b"\2\2"
_JOURNAL_MODES = b"\1\1"  # of a store whose creation was interrupted


def check(
    path: str,
    tree_roots: TreeRoots | None = None,
    look: Look | None = None,
    *,
    must_exist: bool = False,
) -> list[str]:
    """All damage found in the store at `path`, in words; empty if there is none.

    Changes nothing and may run beside a controller (the WAL is looked at only when none runs).
    With `tree_roots` every tree is walked and pages that no tree holds are named too; without, each
    page is verified by itself.  `look` is called if no damage was found.  With `must_exist` an
    empty store is damage.  Raises `StoreError` if there is no such file.
    """
    if must_exist:
        try:
            refuse_lost(path)
        except StoreCorrupt as error:
            return [_text(error)]
    if not os.path.exists(path):
        raise StoreError(f"{path}: no such store")
    problems = list(_wal_problems(path))
    with open(path, "rb") as file:
        modes = file.read(20)[18:]
    if modes and modes not in (_WAL_MODES, _JOURNAL_MODES):
        problems.append(f"SQLite: read and write versions are {modes.hex()}")
    try:
        db = connect(path, read_only=True)
        try:
            db.execute("begin")
            problems += _table_problems(db, tree_roots, lost(path, "empty") if must_exist else None)
            if look is not None and not problems:
                problems += _looked_at(db, look)
        finally:
            db.close()
    except SQLITE_ERRORS as error:
        # A rollback journal to play back: power was lost while the store was being made, before
        # it had a WAL.  Whoever opens it next finishes that; a store in use never has one.
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_READONLY_ROLLBACK:
            problems.append(_text(store_error(error, path)))
    return problems


def _text(error: StoreError) -> str:
    return error.what if isinstance(error, StoreCorrupt) else str(error)


def _wal_problems(path: str) -> Iterator[str]:
    try:
        lock = InstallationLock(path + ".lock")
    except StoreInUse:
        return
    # Held while it is read and no longer: a controller that starts meanwhile is refused.
    try:
        wal = Path(path + "-wal")
        data = wal.read_bytes() if wal.exists() else b""
    finally:
        lock.release()
    if damage := damage_in(path + "-wal", data):
        yield damage


def _table_problems(
    db: sqlite3.Connection, tree_roots: TreeRoots | None, if_empty: StoreError | None
) -> Iterator[str]:
    try:
        if not read_version(db):
            if if_empty is not None:
                yield _text(if_empty)
            return
        for (line,) in db.execute("pragma integrity_check"):
            text = line.decode() if isinstance(line, bytes) else str(line)
            if text != "ok":
                yield f"SQLite: {text}"
        head, checkpoint = read_head(db), read_checkpoint(db)
    except StoreError as error:
        yield _text(error)
        return
    try:
        read_log(db, head, checkpoint)
    except StoreError as error:
        yield _text(error)
    doomed = set()
    for page_id, crc in db.execute("select id, crc from doomed"):
        doomed.add(page_id)
        if not isinstance(page_id, int) or doom(page_id) != crc:
            yield f"doomed page {page_id}: crc"
    live = {page_id for (page_id,) in db.execute("select id from page")} - doomed
    if len(live) != checkpoint.pages:
        yield f"page: {len(live)} pages, the checkpoint has {checkpoint.pages}"
    if tree_roots is None:
        yield from _single_pages(db, sorted(live))
    else:
        yield from _trees(db, tree_roots, checkpoint.root, live)


def _looked_at(db: sqlite3.Connection, look: Look) -> Iterator[str]:
    if not read_version(db):
        return
    head, checkpoint = read_head(db), read_checkpoint(db)
    log = read_log(db, head, checkpoint)
    loaded = Loaded(
        term=head.term,
        number=head.number,
        checkpoint_number=checkpoint.number,
        root=checkpoint.root,
        log=log,
        read_pages=partial(read_pages, db),
    )
    try:
        yield from look(loaded)
    except StoreError as error:
        yield _text(error)


def newest_commit(path: str) -> tuple[int, int]:
    """The newest (term, commit number) of the store at `path`; raises `StoreError`."""
    try:
        db = connect(path, read_only=True)
        try:
            head = read_head(db)
        finally:
            db.close()
    except SQLITE_ERRORS as error:
        raise store_error(error, path) from error
    return head.term, head.number


def _single_pages(db: sqlite3.Connection, ids: Iterable[int]) -> Iterator[str]:
    for page_id in ids:
        try:
            decode_header(page_id, read_page(db, page_id))
        except StoreError as error:
            yield _text(error)


def _trees(
    db: sqlite3.Connection, tree_roots: TreeRoots, root: bytes, live: set[int]
) -> Iterator[str]:
    seen: dict[int, tuple[int, int]] = {}
    try:
        for tree in tree_roots(root) if root else ():
            yield from tree_problems(tree, lambda page_id: read_page(db, page_id), seen)
    except StoreError as error:
        yield _text(error)
        return
    for page_id in sorted(live - seen.keys()):
        yield f"page {page_id}: no tree refers to it"


def tree_problems(
    root: bytes, read: Callable[[int], bytes], seen: dict[int, tuple[int, int]]
) -> Iterator[str]:
    """All damage in one page tree; `seen` (id -> crc, level) is filled, and spares shared pages."""
    try:
        height, crc, page_id = decode_root(root)
    except StoreError as error:
        yield _text(error)
        return
    if page_id:
        yield from _page_problems(page_id, crc, height, read, seen)


def _page_problems(
    page_id: int,
    crc: int,
    level: int,
    read: Callable[[int], bytes],
    seen: dict[int, tuple[int, int]],
) -> Iterator[str]:
    if page_id in seen:
        if seen[page_id] != (crc, level):
            yield f"page {page_id}: two parents disagree about it"
        return
    seen[page_id] = crc, level
    try:
        data = read(page_id)
        header = decode_header(page_id, data)
    except StoreError as error:
        yield _text(error)
        return
    if header.crc != crc:
        yield f"page {page_id}: crc {header.crc:08x}, its parent says {crc:08x}"
    elif header.level != level:
        yield f"page {page_id}: level {header.level}, should be {level}"
    elif level:
        ids, crcs = decode_directory(data)
        for child, child_crc in zip(ids, crcs, strict=True):
            if child:
                yield from _page_problems(child, child_crc, level - 1, read, seen)
