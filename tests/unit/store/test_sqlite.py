"""The contract, kept by the store on SQLite."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from array import array
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from segue.store import place, sqlite, sqlite_file
from segue.store.check import check
from segue.store.contract import (
    LogRecord,
    StoreCorrupt,
    StoreError,
    StoreFailed,
    StoreInUse,
    StoreTooNew,
    StoreUnsafe,
    Superseded,
)
from segue.store.page_format import LEAF_WORDS, encode_leaf
from segue.store.sqlite import STAGE_PAGES, SqliteStore
from segue.store.sqlite_file import SqliteFile

Scenario = Callable[[Path], Coroutine[Any, Any, None]]


def page(page_id: int, word: int = 0) -> bytes:
    return encode_leaf(page_id, array("Q", [word] * LEAF_WORDS))[0]


def run(scenario: Scenario, folder: Path) -> None:
    asyncio.run(scenario(folder / "segue.db"))


def test_commits_come_back_in_order_after_a_restart(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        loaded = await store.begin_term()
        assert (loaded.term, loaded.number, loaded.root, loaded.log) == (1, 0, b"", [])
        await asyncio.gather(*[store.append(1, n, b"body %d" % n) for n in range(1, 100)])
        await store.close()
        store = SqliteStore(str(path))
        loaded = await store.begin_term()
        assert (loaded.term, loaded.number, loaded.checkpoint_number) == (2, 99, 0)
        assert loaded.log == [LogRecord(1, n, b"body %d" % n) for n in range(1, 100)]
        await store.append(2, 100, b"")
        assert await store.newest_term() == 2
        await store.close()

    run(scenario, tmp_path)
    assert check(str(tmp_path / "segue.db")) == []


def test_a_checkpoint_takes_the_place_of_the_log_and_commits_go_on_beside_it(
    tmp_path: Path,
) -> None:
    pages = {i: page(i, i) for i in range(1, 3 * STAGE_PAGES)}

    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        await store.begin_term()
        for number in range(1, 11):
            await store.append(1, number, b"old")
        checkpoint = asyncio.create_task(store.checkpoint(1, 8, b"root", pages, []))
        number = 10
        while not checkpoint.done():
            number += 1
            await store.append(1, number, b"new")
        await checkpoint
        assert number > 11, "no commit came between the pieces"
        await store.checkpoint(1, 9, b"root 2", {5000: page(5000)}, [1, 2])
        await store.close()
        store = SqliteStore(str(path))
        loaded = await store.begin_term()
        assert (loaded.checkpoint_number, loaded.root) == (9, b"root 2")
        assert [r.number for r in loaded.log] == list(range(10, number + 1))
        assert loaded.read_pages([5000, 3]) == [page(5000), pages[3]]
        for gone in (1, 2, 4999):
            with pytest.raises(StoreCorrupt, match=f"page {gone}: missing"):
                loaded.read_pages([3, gone])
        await store.close()

    run(scenario, tmp_path)
    assert check(str(tmp_path / "segue.db")) == []


def test_an_older_term_is_refused_everything_and_changes_nothing(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        old = SqliteStore(str(path), exclusive=False)
        await old.begin_term()
        await old.append(1, 1, b"one")
        new = SqliteStore(str(path), exclusive=False)
        assert (await new.begin_term()).number == 1
        assert await old.newest_term() == 2
        with pytest.raises(Superseded):
            await old.append(1, 2, b"stale")
        with pytest.raises(Superseded):
            await old.checkpoint(1, 1, b"stale", {7: page(7)}, [])
        with pytest.raises(Superseded):
            await old.checkpoint(1, 1, b"stale", {}, [])
        await new.append(2, 2, b"two")
        loaded = await new.begin_term()
        assert [r.body for r in loaded.log] == [b"one", b"two"]
        await old.close()
        await new.close()

    run(scenario, tmp_path)
    assert check(str(tmp_path / "segue.db")) == []


@pytest.mark.parametrize(("term", "number"), [(1, 0), (1, 1), (1, 3), (0, 2), (2, 2)])
def test_a_number_or_term_out_of_turn_is_refused(tmp_path: Path, term: int, number: int) -> None:
    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        await store.begin_term()
        await store.append(1, 1, b"")
        with pytest.raises(Superseded):
            await store.append(term, number, b"")
        await store.append(1, 2, b"the store still serves")
        await store.close()

    run(scenario, tmp_path)


def test_of_pipelined_commits_all_after_a_refused_one_are_refused(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        await store.begin_term()
        numbers = [1, 2, 4, 5]
        results = await asyncio.gather(
            *[store.append(1, n, b"") for n in numbers], return_exceptions=True
        )
        assert [type(r) for r in results] == [type(None)] * 2 + [Superseded] * 2
        assert (await store.begin_term()).number == 2
        await store.close()

    run(scenario, tmp_path)


@pytest.mark.parametrize(
    ("number", "pages", "freed", "error"),
    [
        (3, {}, [], Superseded),  # beyond the newest commit
        (0, {}, [], Superseded),  # before the checkpoint there is
        (2, {1: page(1)}, [], StoreError),  # an id in use
        (2, {}, [9], StoreError),  # frees what is not there
    ],
)
def test_a_checkpoint_against_the_contract_changes_nothing(
    tmp_path: Path,
    number: int,
    pages: dict[int, bytes],
    freed: list[int],
    error: type[StoreError],
) -> None:
    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        await store.begin_term()
        await store.append(1, 1, b"")
        await store.append(1, 2, b"")
        await store.checkpoint(1, 1, b"good", {1: page(1)}, [])
        with pytest.raises(error):
            await store.checkpoint(1, number, b"bad", pages, freed)
        loaded = await store.begin_term()
        assert (loaded.root, loaded.checkpoint_number) == (b"good", 1)
        assert loaded.read_pages([1]) == [page(1)]
        await store.close()

    run(scenario, tmp_path)
    assert check(str(tmp_path / "segue.db")) == []


def test_pages_of_a_checkpoint_cut_short_are_swept_and_their_ids_free_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "segue.db"

    async def first(path: Path) -> None:
        store = SqliteStore(str(path))
        await store.begin_term()
        await store.checkpoint(1, 0, b"root", {1: page(1)}, [])
        await store.close()

    run(first, tmp_path)
    file = SqliteFile(str(path))
    file.stage(1, {2: page(2), 3: page(3)})
    file.close()
    assert check(str(path)) == [], "waste is no damage"

    async def second(path: Path) -> None:
        store = SqliteStore(str(path))
        loaded = await store.begin_term()
        with pytest.raises(StoreCorrupt, match="page 2: missing"):
            loaded.read_pages([1, 2])
        assert loaded.read_pages([1]) == [page(1)]
        await store.checkpoint(2, 0, b"root", {2: page(2, 5)}, [])
        await store.close()

    run(second, tmp_path)
    assert check(str(path)) == []


def test_one_process_per_installation(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        with pytest.raises(StoreInUse):
            SqliteStore(str(path))
        await store.close()
        await SqliteStore(str(path)).close()

    run(scenario, tmp_path)


def test_the_lock_of_a_killed_process_is_gone(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom segue.store.sqlite import SqliteStore\n"
        "store = SqliteStore(sys.argv[1])\nprint('held', flush=True)\ntime.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "segue.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"

        async def held(path: Path) -> None:
            with pytest.raises(StoreInUse):
                SqliteStore(str(path))

        run(held, tmp_path)
        holder.kill()
        holder.wait()

    async def free(path: Path) -> None:
        await SqliteStore(str(path)).close()

    run(free, tmp_path)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("pragma user_version = 2", StoreTooNew),
        ("pragma user_version = 0", StoreCorrupt),
        ("pragma application_id = 5", StoreCorrupt),
    ],
)
def test_what_is_not_this_format_is_refused_and_left_alone(
    tmp_path: Path, statement: str, error: type[StoreError]
) -> None:
    path = tmp_path / "segue.db"

    async def made(path: Path) -> None:
        await SqliteStore(str(path)).close()

    run(made, tmp_path)
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()
    before = path.read_bytes()

    async def refused(path: Path) -> None:
        with pytest.raises(error):
            SqliteStore(str(path))

    run(refused, tmp_path)
    assert path.read_bytes() == before
    assert check(str(path))


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "segue.db").write_bytes(b"not a database, but long enough to be one" * 200)

    async def refused(path: Path) -> None:
        with pytest.raises(StoreCorrupt):
            SqliteStore(str(path))

    run(refused, tmp_path)


def test_network_file_systems_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for f_type in (0x6969, 0xFF534D42, 0x65735546):
        with pytest.raises(StoreUnsafe, match="local file system"):
            place.refuse_network_file_system(str(tmp_path), f_type)
    monkeypatch.setattr(place, "file_system_type", lambda _: 0x6969)

    async def refused(path: Path) -> None:
        with pytest.raises(StoreUnsafe):
            SqliteStore(str(path))

    run(refused, tmp_path)
    assert os.listdir(tmp_path) == []


def test_the_kind_of_file_system_is_seen() -> None:
    assert place.file_system_type("/proc") == 0x9FA0


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    async def refused(path: Path) -> None:
        with pytest.raises(StoreError, match="No such file"):
            SqliteStore(str(path / "deeper" / "segue.db"))

    run(refused, tmp_path)
    with pytest.raises(StoreError, match="no such store"):
        check(str(tmp_path / "segue.db"))


def test_after_a_failure_of_unknown_outcome_nothing_more_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        await store.begin_term()
        await store.append(1, 1, b"before")

        def failing(*_: object) -> None:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(SqliteFile, "_write_head", failing)
            with pytest.raises(StoreFailed, match="I/O error"):
                await store.append(1, 2, b"unknown")
        for call in (store.append(1, 2, b""), store.newest_term(), store.begin_term()):
            with pytest.raises(StoreFailed, match="failed before"):
                await call
        await store.close()
        store = SqliteStore(str(path))
        assert (await store.begin_term()).number == 1
        await store.close()

    run(scenario, tmp_path)


def test_a_closed_store_answers_everything_with_failed(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        await store.begin_term()
        last = asyncio.ensure_future(store.append(1, 1, b"asked before"))
        await asyncio.sleep(0)
        await store.close()
        await last
        await store.close()
        with pytest.raises(StoreFailed, match="closed"):
            await store.append(1, 2, b"")

    run(scenario, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["segue.db", "segue.db.lock"]


def test_a_cancelled_commit_does_not_disturb_the_others(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        await store.begin_term()
        tasks = [asyncio.create_task(store.append(1, n, b"")) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(tasks[0], tasks[2])
        assert (await store.begin_term()).number == 3
        await store.close()

    run(scenario, tmp_path)


def test_the_store_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        await store.begin_term()
        for name in os.listdir(path.parent):
            assert os.stat(path.parent / name).st_mode & 0o077 == 0, name
        await store.close()

    run(scenario, tmp_path)


def test_the_wal_is_copied_beside_the_commits_and_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However busy the machine: the thread that copies gets its turn some time."""
    monkeypatch.setattr(sqlite_file, "WAL_FRAMES", 40)

    def wal_bytes(path: Path) -> int:
        return os.path.getsize(str(path) + "-wal")

    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        await store.begin_term()
        number = 0
        while number < 400 or wal_bytes(path) >= number * 8000 / 2:
            number += 1
            await store.append(1, number, bytes(8000))
            assert number < 10_000, "the WAL is never begun anew"
        await store.close()

    run(scenario, tmp_path)
    assert check(str(tmp_path / "segue.db")) == []


def test_a_wal_that_cannot_be_copied_only_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sqlite_file, "WAL_FRAMES", 40)

    def failing(_: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sqlite, "copy_wal", failing)

    async def scenario(path: Path) -> None:
        store = SqliteStore(str(path))
        await store.begin_term()
        for number in range(1, 101):
            await store.append(1, number, bytes(8000))
        await store.close()
        store = SqliteStore(str(path))
        assert (await store.begin_term()).number == 100
        await store.close()

    run(scenario, tmp_path)
    assert "copying the WAL: disk I/O error" in caplog.text
