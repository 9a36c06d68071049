"""The store's SQLite database: tables, transactions and what each verifies; blocking.

Tables (format version 1, in ``user_version``)::

    head        one row: newest term, newest commit number, that record's sum, crc
    checkpoint  one row: number, its sum, count of live pages, root, crc
    log         one row per commit; those up to the checkpoint's number are waste
    page        pages by id, as `page_format` makes them
    doomed      ids in `page` that the checkpoint does not refer to: not yet, or no more

Pages of a checkpoint are written ahead in several transactions, each page doomed in the one that
writes it; the transaction that replaces the checkpoint lifts their doom and dooms those it frees,
so a checkpoint of any size is atomic and no transaction is long.  Waste goes later, in pieces; a
crash anywhere leaves waste only, which the next term sweeps.

Every transaction that writes reads the head first and is refused if its term is not the newest.

**No room.**  A transaction may be tried again only if the one before has not happened and cannot
happen any more.  What SQLite (3.40, unix, WAL, synchronous=FULL) does at each step:

- Frames are written to the WAL, pages of the transaction one by one, the last one marked as the
  commit.  A `write` that finds no room is SQLITE_FULL, here and nowhere after.  Memory still has
  the old end of the WAL, the transaction is rolled back, and the next one writes over the same
  place.  Whoever reads the WAL after a crash stops before the commit frame: it is not there, or not
  whole, and its checksum, which covers all frames before it, does not fit.
- The WAL is synced.  Any error, ENOSPC too, is SQLITE_IOERR_FSYNC: the commit frame is whole and
  may be found later.  The outcome is unknown, the term ends.
- The index (``-shm``) is extended, every 4,000 frames or so.  No room is SQLITE_IOERR_SHMSIZE, with
  the commit durable already: likewise.  And it is mapped: a page of it that finds no room when it
  is first written ends the process (SIGBUS; seen with blocks of 1 KiB, of which SQLite itself
  takes one in four).  So room for 16,000 frames is taken when the store is opened.
- Copying the WAL into the database writes pages that the WAL keeps until all of them are synced.
  SQLITE_FULL has changed nothing: the WAL stays as it is and is copied later.

Where a quota ends (EDQUOT) SQLite says SQLITE_IOERR_WRITE of that same `write`: no room, if the
folder has none; else an I/O error.  Should SQLite be wrong, the head tells: the transaction tried
again finds the number taken, and is refused.  So no answer is given that a crash could make wrong:
one who waits for room has not been told anything.

What the rolled back transaction has written is cut off before anything else is: `sqlite_wal.py`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from .contract import (
    LogRecord,
    StoreCorrupt,
    StoreError,
    StoreFailed,
    StoreFull,
    StoreTooNew,
    Superseded,
)
from .mark import lost
from .place import lacks_room
from .records import Checkpoint, Head, chain, doom
from .sqlite_wal import cut_unfinished

APPLICATION_ID = 0x53656775  # "Segu"
FORMAT_VERSION = 1
SWEEP_ROWS = 256
# Frames of 4 KiB in the WAL before they are copied into the database.  The file then keeps its
# size: commits into a reused one cost half to two thirds (decision 0002).
WAL_FRAMES = 2000
_FRAME_BYTES = 4096
BUSY_S = 5.0
INDEX_BYTES = 128 << 10

_SCHEMA = {
    "head": "id integer primary key check (id = 1), term integer not null,"
    " number integer not null, chain integer not null, crc integer not null",
    "checkpoint": "id integer primary key check (id = 1), number integer not null,"
    " chain integer not null, pages integer not null, crc integer not null, root blob not null",
    "log": "number integer primary key, term integer not null, chain integer not null,"
    " body blob not null",
    "page": "id integer primary key, body blob not null",
    "doomed": "id integer primary key, crc integer not null",
}
_READ_SCHEMA = "select name, sql from sqlite_master"
# What SQLite says of a damaged file; everything else (full, I/O error, busy...) is the world's.
_DAMAGE_CODES = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
}
# Where a flipped bit has hit the schema, SQLite's very message may be no UTF-8.
SQLITE_ERRORS = (sqlite3.Error, UnicodeDecodeError)


class TableState(NamedTuple):
    """Everything but the pages, verified."""

    head: Head
    checkpoint: Checkpoint
    log: list[LogRecord]


def connect(path: str, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode that any one thread at a time may use."""
    uri = "file:" + path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    db = sqlite3.connect(
        uri + ("?mode=ro" if read_only else "?mode=rw"),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_S,
    )
    # A flipped bit may turn a blob into a text that is no UTF-8: let the checksum say so.
    db.text_factory = bytes
    return db


def store_error(error: Exception, doing: str, folder: str = "") -> StoreError:
    """What one of `SQLITE_ERRORS` means to the controller.

    With the store's `folder`, for one that is about to be rolled back, a quota is known as well.
    """
    extended = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_INTERNAL)
    code = extended & 0xFF
    if code == sqlite3.SQLITE_FULL or (
        extended == sqlite3.SQLITE_IOERR_WRITE and folder and lacks_room(folder)
    ):
        return StoreFull(f"{doing}: {error}")
    if code in _DAMAGE_CODES or isinstance(error, UnicodeDecodeError):
        return StoreCorrupt(f"{doing}: {error}")
    return StoreFailed(f"{doing}: {error}")


def read_version(db: sqlite3.Connection) -> bool:
    """Whether this is a store (True) or an empty file (False); raises for anything else."""
    application = db.execute("pragma application_id").fetchone()[0]
    version = db.execute("pragma user_version").fetchone()[0]
    schema = dict(db.execute(_READ_SCHEMA).fetchall())
    if application == version == 0 and not schema:
        return False
    if application != APPLICATION_ID or version < 1:
        raise StoreCorrupt(f"application id {application:#x}, version {version}: no Segue store")
    if version > FORMAT_VERSION:
        raise StoreTooNew(f"the store has version {version}, this Segue knows {FORMAT_VERSION}")
    # SQLite keeps the tables' definitions as text: a flipped bit there changes what rows mean.
    if schema != {name.encode(): _create_table(name).encode() for name in _SCHEMA}:
        raise StoreCorrupt(f"the tables are defined as {schema}")
    return True


def _create_table(name: str) -> str:
    return f"CREATE TABLE {name} ({_SCHEMA[name]})"


def _one_row(db: sqlite3.Connection, table: str, columns: str) -> list[Any]:
    rows = db.execute(f"select {columns} from {table}").fetchall()
    if len(rows) != 1:
        raise StoreCorrupt(f"{table}: {len(rows)} rows, should be 1")
    return list(rows[0])


def _hex(crc: object) -> str:
    """A stored crc, or whatever stands in its place."""
    return f"{crc:08x}" if isinstance(crc, int) else repr(crc)


def read_head(db: sqlite3.Connection) -> Head:
    """The verified head."""
    *fields, crc = _one_row(db, "head", "term, number, chain, crc")
    try:
        head = Head(*fields)
        if head.crc() == crc:
            return head
    except Exception as error:
        raise StoreCorrupt(f"head: {fields}: {error}") from error
    raise StoreCorrupt(f"head: crc {head.crc():08x}, should be {_hex(crc)}")


def read_checkpoint(db: sqlite3.Connection) -> Checkpoint:
    """The verified checkpoint."""
    *fields, crc = _one_row(db, "checkpoint", "number, chain, pages, root, crc")
    try:
        checkpoint = Checkpoint(*fields)
        if checkpoint.crc() == crc:
            return checkpoint
    except Exception as error:
        raise StoreCorrupt(f"checkpoint: {fields[:3]}: {error}") from error
    raise StoreCorrupt(f"checkpoint: crc {checkpoint.crc():08x}, should be {_hex(crc)}")


def read_log(db: sqlite3.Connection, head: Head, checkpoint: Checkpoint) -> list[LogRecord]:
    """The verified records after the checkpoint, the head's the last of them."""
    last = LogRecord(0, checkpoint.number, b"")
    last_chain = checkpoint.chain
    records = []
    query = "select number, term, chain, body from log where number > ? order by number"
    for number, term, own_chain, body in db.execute(query, (checkpoint.number,)):
        if number != last.number + 1:
            raise StoreCorrupt(f"log record {last.number + 1}: missing")
        try:
            real = chain(last_chain, term, number, body)
        except Exception as error:
            raise StoreCorrupt(f"log record {number}: {error}") from error
        if real != own_chain:
            raise StoreCorrupt(f"log record {number}: crc {real:08x}, should be {_hex(own_chain)}")
        if not last.term <= term <= head.term:
            raise StoreCorrupt(f"log record {number}: term {term} after {last.term}")
        last, last_chain = LogRecord(term, number, body), own_chain
        records.append(last)
    if last.number != head.number:
        raise StoreCorrupt(f"log record {last.number + 1}: missing, the head is {head.number}")
    if last_chain != head.chain:
        raise StoreCorrupt(f"log record {last.number}: not the one the head names")
    return records


def read_page(db: sqlite3.Connection, page_id: int) -> bytes:
    """The bytes of a page, not verified; `StoreCorrupt` if there is none."""
    try:
        row = db.execute("select body from page where id = ?", (page_id,)).fetchone()
    except SQLITE_ERRORS as error:
        raise store_error(error, f"page {page_id}") from error
    if row is None or not isinstance(row[0], bytes):
        raise StoreCorrupt(f"page {page_id}: missing")
    return row[0]


def read_pages(db: sqlite3.Connection, ids: Sequence[int]) -> list[bytes]:
    """The bytes of some pages, not verified; `StoreCorrupt` names one that is missing."""
    query = f"select id, body from page where id in ({','.join('?' * len(ids))})"
    try:
        found = dict(db.execute(query, ids).fetchall())
    except SQLITE_ERRORS as error:
        raise store_error(error, f"pages {ids[0]} and others") from error
    if any(type(found.get(page_id)) is not bytes for page_id in ids):
        return [read_page(db, page_id) for page_id in ids]
    return [found[page_id] for page_id in ids]


def copy_wal(path: str) -> None:
    """Copy most of the WAL into the database, beside whoever commits; in another thread.

    The first pass takes what was there and may be long, the second what came meanwhile; the few
    frames that are left then are for `SqliteFile.finish_wal_copy`.
    """
    db = connect(path)
    try:
        db.execute("pragma synchronous = full")
        for _ in range(2):
            db.execute("pragma wal_checkpoint(passive)").fetchone()
    finally:
        db.close()


class SqliteFile:
    """One connection that writes; blocking; one thread at a time."""

    def __init__(self, path: str, *, must_exist: bool = False, alone: bool = False) -> None:
        """Open the database at `path`; an empty one becomes a store unless it `must_exist`.

        `alone`: no other process writes to it.
        """
        self._path = path
        self._alone = alone
        try:
            self._db = connect(path)
        except SQLITE_ERRORS as error:
            raise store_error(error, path) from error
        self._frames = 0
        self._index = -1
        try:
            self._configure(must_exist)
            if alone:
                self._reserve_index()
        except SQLITE_ERRORS as error:
            self.close()
            raise store_error(error, path) from error
        except (StoreError, OSError):
            self.close()
            raise

    def _configure(self, must_exist: bool) -> None:
        # Look before the first write: a newer format's file stays as it is.
        exists = read_version(self._db)
        if must_exist and not exists:
            raise lost(self._path, "empty")
        self._db.execute("pragma page_size = 4096")
        mode = self._db.execute("pragma journal_mode = wal").fetchone()[0]
        self._db.execute("pragma synchronous = full")
        synchronous = self._db.execute("pragma synchronous").fetchone()[0]
        if mode not in (b"wal", "wal") or synchronous != 2:
            raise StoreFailed(f"SQLite gave journal mode {mode!r}, synchronous {synchronous}")
        self._db.execute("pragma cell_size_check = on")
        # Left to SQLite, the commit that fills the WAL would pay for copying it (8 ms here).
        self._db.execute("pragma wal_autocheckpoint = 0")
        if not exists:
            self._create()

    def _create(self) -> None:
        head, checkpoint = Head(0, 0, 0), Checkpoint(0, 0, 0, b"")
        with self._transaction("creation"):
            if read_version(self._db):
                return
            for name in _SCHEMA:
                self._db.execute(_create_table(name))
            self._db.execute("insert into head values (1, ?, ?, ?, ?)", (*head, head.crc()))
            self._write_checkpoint(checkpoint)
            self._db.execute(f"pragma application_id = {APPLICATION_ID}")
            self._db.execute(f"pragma user_version = {FORMAT_VERSION}")

    def _reserve_index(self) -> None:
        """Take the room of the WAL's index; the descriptor is kept.

        Closing one of them drops all locks that this process has on the file, SQLite's above all.
        """
        self._index = os.open(self._path + "-shm", os.O_RDWR | os.O_CLOEXEC)
        os.posix_fallocate(self._index, 0, INDEX_BYTES)

    def close(self) -> None:
        """Close the connection, the last one of this process; the last of all empties the WAL."""
        self._db.close()
        if self._index >= 0:
            os.close(self._index)
            self._index = -1

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[None]:
        try:
            self._db.execute("begin immediate")
            yield
            self._db.execute("commit")
        except BaseException as error:
            with suppress(*SQLITE_ERRORS):
                self._db.execute("rollback")
            if isinstance(error, SQLITE_ERRORS):
                raise self._rolled_back(error, doing) from error
            raise

    def _rolled_back(self, error: Exception, doing: str) -> StoreError:
        """What the error of a transaction means; after one that found no room all is as before."""
        meaning = store_error(error, doing, os.path.dirname(self._path))
        if not isinstance(meaning, StoreFull):
            return meaning
        if self._db.in_transaction:
            return StoreFailed(f"{doing}: {error}, and it cannot be rolled back")
        try:
            if self._alone:
                cut_unfinished(self._path + "-wal")
        except OSError as failed:
            return StoreFailed(f"{doing}: {error}, and the WAL cannot be cut: {failed}")
        return meaning

    def wal_is_full(self) -> bool:
        """Whether it is time to copy the WAL into the database (by an estimate)."""
        return self._frames >= WAL_FRAMES

    def finish_wal_copy(self) -> None:
        """Copy what `copy_wal` left; the next commit begins the WAL anew, in the same file."""
        try:
            self._db.execute("pragma wal_checkpoint(passive)").fetchone()
        except SQLITE_ERRORS as error:
            raise store_error(error, "WAL") from error
        self._frames = 0

    def _guarded_head(self, term: int) -> Head:
        head = read_head(self._db)
        if head.term != term:
            raise Superseded(f"term {term}: term {head.term} has begun")
        return head

    def _write_head(self, head: Head) -> None:
        self._db.execute(
            "update head set term = ?, number = ?, chain = ?, crc = ?", (*head, head.crc())
        )

    def _write_checkpoint(self, checkpoint: Checkpoint) -> None:
        number, own_chain, pages, root = checkpoint
        self._db.execute(
            "insert or replace into checkpoint (id, number, chain, pages, crc, root)"
            " values (1, ?, ?, ?, ?, ?)",
            (number, own_chain, pages, checkpoint.crc(), root),
        )

    def newest_term(self) -> int:
        """The newest term, by a read of its own."""
        try:
            return read_head(self._db).term
        except SQLITE_ERRORS as error:
            raise store_error(error, "head") from error

    def begin_term(self) -> TableState:
        """Verify all but the pages and claim the next term; `write_afresh` before it is served."""
        with self._transaction("begin_term"):
            head = read_head(self._db)
            checkpoint = read_checkpoint(self._db)
            log = read_log(self._db, head, checkpoint)
            head = head._replace(term=head.term + 1)
            self._write_head(head)
        return TableState(head, checkpoint, log)

    def write_afresh(self) -> None:
        """Make what was found durable anew.

        A sync that failed before a restart leaves commits readable in the page cache and not on the
        disk, for good.  Nothing is served until all of it was written afresh.
        """
        try:
            busy = self._db.execute("pragma wal_checkpoint(truncate)").fetchone()[0]
        except SQLITE_ERRORS as error:
            raise store_error(error, "begin_term") from error
        if busy:
            raise StoreFailed(f"another process has read the store for {BUSY_S} s")

    def append(self, records: Sequence[LogRecord]) -> int:
        """Commit the records in one transaction, up to the first illegal one: how many."""
        done = frames = 0
        with self._transaction("append"):
            head = read_head(self._db)
            for term, number, body in records:
                if term != head.term or number != head.number + 1:
                    break
                head = Head(term, number, chain(head.chain, term, number, body))
                self._db.execute(
                    "insert into log (number, term, chain, body) values (?, ?, ?, ?)",
                    (number, term, head.chain, body),
                )
                frames += 2 + len(body) // _FRAME_BYTES
                done += 1
            if done:
                self._write_head(head)
        self._frames += frames
        return done

    def stage(self, term: int, pages: Mapping[int, bytes]) -> None:
        """Write pages ahead of the checkpoint that will refer to them."""
        with self._transaction("stage"):
            self._guarded_head(term)
            try:
                self._db.executemany("insert into page (id, body) values (?, ?)", pages.items())
            except sqlite3.IntegrityError as error:
                raise StoreError(f"a page id is in use: {error}") from error
            self._doom(pages)
        self._frames += sum(1 + len(data) // _FRAME_BYTES for data in pages.values())

    def _doom(self, ids: Sequence[int] | Mapping[int, bytes]) -> None:
        self._db.executemany(
            "insert into doomed (id, crc) values (?, ?)", [(i, doom(i)) for i in ids]
        )

    def checkpoint(
        self, term: int, number: int, root: bytes, staged: int, freed: Sequence[int]
    ) -> None:
        """Put the new checkpoint, with `staged` pages written ahead, in place of the old one."""
        with self._transaction("checkpoint"):
            head = self._guarded_head(term)
            old = read_checkpoint(self._db)
            if not old.number <= number <= head.number:
                raise Superseded(f"checkpoint {number}: not in {old.number}..{head.number}")
            pages = old.pages + staged - len(freed)
            doomed = self._db.execute("select count(*) from doomed").fetchone()[0]
            if doomed != staged:
                raise StoreCorrupt(f"{doomed} pages are doomed, should be {staged}")
            self._db.execute("delete from doomed")
            self._doom(freed)
            missing = self._db.execute(
                "select count(*) from doomed where id not in (select id from page)"
            ).fetchone()[0]
            if missing:
                raise StoreError(f"{missing} freed pages are not in the checkpoint")
            own_chain = old.chain
            if number > old.number:
                query = "select chain from log where number = ?"
                row = self._db.execute(query, (number,)).fetchone()
                if row is None or not isinstance(row[0], int):
                    raise StoreCorrupt(f"log record {number}: missing")
                own_chain = row[0]
            self._write_checkpoint(Checkpoint(number, own_chain, pages, root))

    def sweep(self, term: int) -> bool:
        """Delete some waste; whether there may be more."""
        with self._transaction("sweep"):
            self._guarded_head(term)
            rows = self._db.execute("select id, crc from doomed limit ?", (SWEEP_ROWS,)).fetchall()
            for page_id, crc in rows:
                if doom(page_id) != crc:
                    raise StoreCorrupt(f"doomed page {page_id}: crc")
            ids = [(page_id,) for page_id, _ in rows]
            self._db.executemany("delete from page where id = ?", ids)
            self._db.executemany("delete from doomed where id = ?", ids)
            number = read_checkpoint(self._db).number
            first = self._db.execute("select min(number) from log").fetchone()[0]
            last = min(number, (first or 0) + SWEEP_ROWS - 1)
            waste = first is not None and first <= number
            if waste:
                self._db.execute("delete from log where number <= ?", (last,))
        return len(rows) == SWEEP_ROWS or (waste and last < number)
