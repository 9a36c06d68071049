"""A store that was made and is gone or empty is refused, named, and left as it is (promise P7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.check import check_installation
from segue.store.contract import StoreCorrupt, StoreError
from segue.store.mark import make_mark, mark_path, read_mark
from segue.store.sqlite import SqliteStore
from segue.store.sqlite_file import connect

ME = b"m" * 16


async def made(path: Path) -> None:
    """A store with one commit."""
    store = SqliteStore(str(path))
    await store.begin_term()
    await store.append(1, 1, b"")
    await store.close()


async def opened(path: Path) -> int:
    """The number of the newest commit."""
    store = SqliteStore(str(path), must_exist=True)
    try:
        return (await store.begin_term()).number
    finally:
        await store.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "segue.db"
    asyncio.run(made(path))
    make_mark(str(tmp_path), ME)
    return path


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def without_tables(path: Path) -> None:
    """What is left of a store whose creation was interrupted."""
    path.unlink()
    path.touch()
    db = connect(str(path))
    db.execute("pragma journal_mode = wal")
    db.close()
    assert path.stat().st_size


def test_a_store_that_is_there_is_opened(path: Path) -> None:
    assert asyncio.run(opened(path)) == 1


@pytest.mark.parametrize(
    ("spoil", "what"), [(missing, "missing"), (empty, "empty"), (without_tables, "empty")]
)
def test_a_store_that_was_lost_is_refused_and_left_alone(
    path: Path, spoil: Callable[[Path], None], what: str
) -> None:
    spoil(path)
    wal = path.with_name("segue.db-wal")
    wal.write_bytes(b"all that is left" if spoil is empty else b"")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(StoreCorrupt, match=f"{path} is {what}, and an installation was made here"):
        asyncio.run(opened(path))
    [problem] = check_installation(str(path.parent))
    assert f"is {what}, and an installation was made here" in problem
    kept = {name: (path.parent / name).read_bytes() for name in before if name != "segue.db.lock"}
    assert kept == {name: data for name, data in before.items() if name != "segue.db.lock"}
    assert path.exists() == (spoil is not missing)


def test_without_its_mark_a_folder_begins_anew(path: Path) -> None:
    missing(path)
    Path(mark_path(str(path.parent))).unlink()
    assert read_mark(str(path.parent)) == b""
    with pytest.raises(StoreError, match="no such store"):
        check_installation(str(path.parent))
    asyncio.run(made(path))


def test_a_mark_is_read_as_made(tmp_path: Path) -> None:
    assert read_mark(str(tmp_path)) == b""
    make_mark(str(tmp_path), ME)
    assert read_mark(str(tmp_path)) == ME


@pytest.mark.parametrize("text", [b"", b"\xff\xff", b"6d" * 15, b"no" * 16])
def test_a_damaged_mark_is_named(path: Path, text: bytes) -> None:
    Path(mark_path(str(path.parent))).write_bytes(text)
    with pytest.raises(StoreCorrupt, match="names no installation"):
        read_mark(str(path.parent))
    [problem] = check_installation(str(path.parent))
    assert "names no installation" in problem


def test_the_store_of_another_installation_is_named(path: Path) -> None:
    """It has no commit that says whose it is."""
    path.unlink()
    asyncio.run(SqliteStore(str(path)).close())
    [problem] = check_installation(str(path.parent))
    assert "is the store of another installation" in problem
