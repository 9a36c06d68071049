"""A store whose file system is full: what needs room waits, the rest goes on, nothing is lost."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

from segue.store import place, sqlite, sqlite_file
from segue.store.contract import StoreFailed, StoreFull, Superseded
from segue.store.mark import make_mark
from segue.store.place import InstallationLock, lacks_room
from segue.store.sqlite import SqliteStore
from segue.store.sqlite_file import SqliteFile
from segue.store.sqlite_wal import _FRAME, _HEADER, cut_unfinished, damage_in, wal_damage

FRAME_BYTES = 24 + 4096
DEADLINE_S = 30.0


def error(code: int) -> sqlite3.OperationalError:
    made = sqlite3.OperationalError("database or disk is full")
    made.sqlite_errorcode = code
    return made


@contextmanager
def no_room(doing: str = "_write_head", code: int = sqlite3.SQLITE_FULL) -> Iterator[list[int]]:
    """While it lasts, that part of a transaction finds none; how often it was tried."""
    tries: list[int] = []

    def full(*_: object) -> NoReturn:
        tries.append(1)
        raise error(code)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(SqliteFile, doing, full)
        yield tries


async def until(store: SqliteStore, condition: Callable[[], object]) -> None:
    """Reads the term meanwhile, as leases do."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await store.newest_term()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "ROOM_S", 0.01)
    monkeypatch.setattr(sqlite, "COPY_AGAIN_S", 0.01)


def run(scenario: Callable[[SqliteStore], Coroutine[Any, Any, None]], folder: Path) -> None:
    """In a store that has one commit; afterwards it must be in order."""

    async def whole() -> None:
        store = SqliteStore(str(folder / "segue.db"))
        await store.begin_term()
        await store.append(1, 1, b"first")
        await scenario(store)
        await store.close()

    asyncio.run(whole())
    assert wal_damage(str(folder / "segue.db-wal")) is None


async def reopened(store: SqliteStore) -> list[bytes]:
    """The bodies of the commits that a new term finds."""
    await store.close()
    store = SqliteStore(store.path)
    bodies = [record.body for record in (await store.begin_term()).log]
    await store.close()
    return bodies


def test_commits_wait_in_their_order_and_the_term_is_read_meanwhile(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(store: SqliteStore) -> None:
        assert store.no_room() is None
        with no_room() as tries:
            waiting = [asyncio.ensure_future(store.append(1, 2, b"second"))]
            await until(store, lambda: len(tries) > 3)
            waiting += [asyncio.ensure_future(store.append(1, n, b"%d" % n)) for n in (3, 4)]
            assert await store.newest_term() == 1
            await until(store, lambda: len(tries) > 6)
            full = store.no_room()
            assert full is not None
            assert full.path == store.path
            assert not any(one.done() for one in waiting)
        await asyncio.gather(*waiting)
        await until(store, lambda: store.no_room() is None)
        await store.append(1, 5, b"5")
        assert await reopened(store) == [b"first", b"second", b"3", b"4", b"5"]

    run(scenario, tmp_path)
    begun, over = [r.getMessage() for r in caplog.records if "event=store_" in r.getMessage()]
    assert begun.startswith("event=store_full ")
    assert over.startswith("event=store_has_room ")


@pytest.mark.parametrize("closed", [False, True])
def test_who_stops_does_not_wait_and_nothing_has_happened(tmp_path: Path, closed: bool) -> None:
    async def scenario(store: SqliteStore) -> None:
        with no_room() as tries:
            waiting = asyncio.ensure_future(store.append(1, 2, b"never"))
            await until(store, lambda: tries)
            if closed:
                await store.close()
            else:
                store.stop_waiting()
            with pytest.raises(StoreFailed, match="no room"):
                await waiting
        with pytest.raises(StoreFailed):
            await store.append(1, 2, b"never")
        assert await reopened(store) == [b"first"]

    run(scenario, tmp_path)


def test_a_newer_term_ends_the_wait(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        tries: list[int] = []

        def full(*_: object) -> NoReturn:
            tries.append(1)
            raise StoreFull("append: database or disk is full")

        newer = SqliteStore(store.path, exclusive=False)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(SqliteFile, "append", full)
            waiting = asyncio.ensure_future(store.append(1, 2, b"never"))
            await until(store, lambda: tries)
            await newer.begin_term()
        with pytest.raises(Superseded):
            await waiting
        await newer.close()

    run(scenario, tmp_path)


def test_a_term_is_claimed_once_however_long_it_takes_to_write_all_afresh(tmp_path: Path) -> None:
    write_head, write_afresh = SqliteFile._write_head, SqliteFile.write_afresh

    async def scenario(store: SqliteStore) -> None:
        await store.close()
        store = SqliteStore(store.path)

        def full(file: SqliteFile) -> None:
            tries.append(1)
            if len(tries) < 4:
                raise StoreFull("begin_term: database or disk is full")
            write_afresh(file)

        with no_room() as tries:
            beginning = asyncio.ensure_future(store.begin_term())
            await until(store, lambda: len(tries) > 3)
            assert not beginning.done()
            tries.clear()
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(SqliteFile, "write_afresh", full)
                patched.setattr(SqliteFile, "_write_head", write_head)
                loaded = await beginning
        assert len(tries) == 4
        assert loaded.term == 2
        await store.append(2, 2, b"")
        await store.close()

    run(scenario, tmp_path)


def test_commits_go_past_a_checkpoint_that_waits(tmp_path: Path) -> None:
    async def scenario(store: SqliteStore) -> None:
        with no_room("_doom") as tries:
            folding = asyncio.ensure_future(store.checkpoint(1, 1, b"root", {7: bytes(4096)}, []))
            await until(store, lambda: len(tries) > 2)
            await store.append(1, 2, b"second")
            assert store.no_room() is not None
            assert not folding.done()
        await folding
        assert await reopened(store) == [b"second"]

    run(scenario, tmp_path)


def test_a_wal_that_cannot_be_copied_for_lack_of_room_is_copied_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_file, "WAL_FRAMES", 40)
    real = SqliteFile.finish_wal_copy

    async def scenario(store: SqliteStore) -> None:
        tries: list[int] = []
        full = True

        def finish(file: SqliteFile) -> None:
            tries.append(1)
            if full:
                raise StoreFull("WAL: database or disk is full")
            real(file)

        monkeypatch.setattr(SqliteFile, "finish_wal_copy", finish)
        number = 1
        while len(tries) < 3:
            number += 1
            await store.append(1, number, bytes(8000))
        assert store.no_room() is not None
        full = False
        while store.no_room() is not None:
            number += 1
            await store.append(1, number, bytes(8000))
        assert len(await reopened(store)) == number

    run(scenario, tmp_path)
    assert caplog.text.count("event=store_full") == 1


def test_a_quota_is_no_room_and_an_error_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(store: SqliteStore) -> None:
        monkeypatch.setattr(sqlite_file, "lacks_room", lambda _: True)
        with no_room(code=sqlite3.SQLITE_IOERR_WRITE) as tries:
            waiting = asyncio.ensure_future(store.append(1, 2, b"second"))
            await until(store, lambda: len(tries) > 2)
        await waiting
        # The frames are whole there: nobody may say that they are not, room or none.
        for code in (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_SHMSIZE):
            assert isinstance(sqlite_file.store_error(error(code), "", "x"), StoreFailed)
        monkeypatch.setattr(sqlite_file, "lacks_room", lambda _: False)
        with no_room(code=sqlite3.SQLITE_IOERR_WRITE), pytest.raises(StoreFailed):
            await store.append(1, 3, b"unknown")

    run(scenario, tmp_path)


@pytest.mark.parametrize("full", [True, False])
def test_sqlite_that_cannot_make_its_index_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    def failing(*_: object) -> NoReturn:
        raise error(sqlite3.SQLITE_IOERR_SHMSIZE)

    answers = iter((False, full, False))
    monkeypatch.setattr(sqlite, "lacks_room", lambda _: next(answers))
    with monkeypatch.context() as patched:
        patched.setattr(SqliteFile, "_configure", failing)
        with pytest.raises(StoreFull if full else StoreFailed):
            SqliteStore(str(tmp_path / "segue.db"))
    # It has let go of everything, so that it may be tried again.
    asyncio.run(SqliteStore(str(tmp_path / "segue.db")).close())


def test_a_store_is_opened_only_where_its_index_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of it that found none when it is first written would end the process."""
    path = tmp_path / "segue.db"
    with monkeypatch.context() as patched:
        patched.setattr(sqlite, "lacks_room", lambda _: True)
        with pytest.raises(StoreFull):
            SqliteStore(str(path))
    assert list(tmp_path.iterdir()) == []

    async def scenario(store: SqliteStore) -> None:
        index = os.stat(store.path + "-shm")
        assert min(index.st_size, index.st_blocks * 512) >= sqlite_file.INDEX_BYTES

    run(scenario, tmp_path)


def test_files_of_ours_that_find_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not lacks_room(str(tmp_path))

    def full(*_: object) -> NoReturn:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        patched.setattr(os, "fdatasync", full)
        with pytest.raises(OSError, match="quota"):
            InstallationLock(str(tmp_path / "lock"))
        with pytest.raises(StoreFull, match="quota"):
            make_mark(str(tmp_path), bytes(16))
        assert lacks_room(str(tmp_path))
    InstallationLock(str(tmp_path / "lock")).release()
    make_mark(str(tmp_path), bytes(16))


# What an unfinished transaction leaves in the WAL -------------------------------------------------


def wal_of(path: Path, *, cut: bool, torn_header: bool = False) -> Path:
    """A commit, what one that found no room has left, cut off or not, and a shorter commit."""
    place.create_file(str(path))
    db = sqlite_file.connect(str(path))
    for pragma in ("journal_mode = wal", "synchronous = full", "wal_autocheckpoint = 0"):
        db.execute(f"pragma {pragma}")
    db.execute("pragma cache_size = 5")
    db.execute("create table t (id integer primary key, body blob)")
    db.execute("insert into t values (0, zeroblob(3000))")
    wal = Path(f"{path}-wal")
    whole = wal.stat().st_size
    db.execute("begin immediate")
    # More than memory takes: it is written before the commit is.
    db.executemany("insert into t values (?, randomblob(3000))", [(n,) for n in range(1, 60)])
    db.execute("rollback")
    left = wal.stat().st_size
    assert left > whole + 10 * FRAME_BYTES
    if torn_header:
        # The commit frame's header, and half of its page: the write that found no room.
        salts = _HEADER.unpack_from(wal.read_bytes())[4:6]
        with open(wal, "ab") as file:
            file.write(_FRAME.pack(2, 70, *salts, 1, 2) + bytes(2000))
    if cut:
        cut_unfinished(str(wal))
        assert wal.stat().st_size == whole
        cut_unfinished(str(wal))
        assert wal.stat().st_size == whole
    db.execute("update t set body = zeroblob(3000) where id = 0")
    assert db.execute("select count(*) from t").fetchone() == (1,)
    copy = path.parent / "copy"
    copy.write_bytes(path.read_bytes())
    Path(f"{copy}-wal").write_bytes(wal.read_bytes())
    db.close()
    return copy


@pytest.mark.parametrize("torn_header", [False, True])
def test_what_found_no_room_is_no_commit_after_a_crash(tmp_path: Path, torn_header: bool) -> None:
    for cut in (False, True):
        folder = tmp_path / str(cut)
        folder.mkdir()
        copy = wal_of(folder / "db", cut=cut, torn_header=torn_header)
        assert wal_damage(f"{copy}-wal") is None
        db = sqlite_file.connect(str(copy))
        assert db.execute("select count(*) from t").fetchone() == (1,)
        assert db.execute("pragma integrity_check").fetchone() == (b"ok",)
        db.close()


def test_a_torn_commit_over_what_found_no_room_is_no_damage(tmp_path: Path) -> None:
    """As a loss of power leaves it; without the cut the rest would pass for a later commit."""
    for cut in (False, True):
        folder = tmp_path / str(cut)
        folder.mkdir()
        copy = wal_of(folder / "db", cut=cut, torn_header=True)
        data = bytearray(Path(f"{copy}-wal").read_bytes())
        commits = [
            at
            for at in range(_HEADER.size, len(data) - FRAME_BYTES + 1, FRAME_BYTES)
            if _FRAME.unpack_from(data, at)[1]
        ]
        data[commits[-1] + 2000] ^= 1
        assert (damage_in("wal", bytes(data)) is None) is cut


def test_only_an_unfinished_transaction_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "db-wal"
    for data in (b"", b"short", os.urandom(32)):
        path.write_bytes(data)
        cut_unfinished(str(path))
        assert path.read_bytes() == data
    # Frames of an earlier round have other salts, and stay.
    place.create_file(str(tmp_path / "db"))
    db = sqlite_file.connect(str(tmp_path / "db"))
    path.unlink()
    for pragma in ("journal_mode = wal", "synchronous = full", "wal_autocheckpoint = 0"):
        db.execute(f"pragma {pragma}")
    db.execute("create table t (body blob)")
    db.executemany("insert into t values (?)", [(bytes(3000),)] * 20)
    assert db.execute("pragma wal_checkpoint(passive)").fetchone()[0] == 0
    db.execute("delete from t where rowid = 1")
    before = path.read_bytes()
    cut_unfinished(str(path))
    assert path.read_bytes() == before
    assert db.execute("select count(*) from t").fetchone() == (19,)
    db.close()
