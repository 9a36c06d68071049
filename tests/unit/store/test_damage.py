"""Damage is found, named and never served (promise P7): flipped bits, missing and swapped rows."""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from segue.store.check import check
from segue.store.contract import StoreError
from segue.store.page_format import LEAF_WORDS
from segue.store.pages import ROOT_BYTES, PageSpace, PageTree
from segue.store.sqlite import SqliteStore
from segue.store.sqlite_wal import wal_damage

COMMITS = 60
CHECKPOINT_AT = 40


def tree_roots(root: bytes) -> list[bytes]:
    return [root[at : at + ROOT_BYTES] for at in range(0, len(root), ROOT_BYTES)]


async def fill(path: Path, *, crash_copy: Path | None = None) -> None:
    """Two trees that share pages, a log; with `crash_copy` the files as they are in use."""
    store = SqliteStore(str(path))
    await store.begin_term()
    space = PageSpace()
    tree = PageTree(space)
    for number in range(1, COMMITS + 1):
        await store.append(1, number, random.Random(number).randbytes(10 + number * 97))
        if number in (CHECKPOINT_AT // 2, CHECKPOINT_AT):
            for index in range(0, 20 * LEAF_WORDS, 500):
                tree.set(index, index + number)
            copy = tree.clone()
            copy.set(3, 3)
            out: dict[int, bytes] = {}
            root = tree.flush(out) + copy.flush(out)
            await store.checkpoint(1, number, root, out, space.take_freed())
            copy.drop()
    if crash_copy:
        for suffix in ("", "-wal"):
            shutil.copy(str(path) + suffix, str(crash_copy) + suffix)
    await store.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "segue.db"
    asyncio.run(fill(path))
    assert check(str(path), tree_roots) == []
    return path


@pytest.fixture
def path(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(good, tmp_path / "segue.db"))


async def contents(path: Path) -> tuple[object, ...]:
    """All that a controller would be told; raises what it would be told instead."""
    store = SqliteStore(str(path))
    try:
        loaded = await store.begin_term()
        space = PageSpace()
        trees = [PageTree.load(space, r, loaded.read_pages) for r in tree_roots(loaded.root)]
        words = [list(tree.items()) for tree in trees]
        return loaded.term, loaded.number, loaded.checkpoint_number, loaded.log, words
    finally:
        await store.close()


def edit(path: Path, statement: str, *values: object) -> None:
    db = sqlite3.connect(path)
    assert db.execute(statement, values).rowcount == 1, statement
    db.commit()
    db.close()


def assert_found(path: Path, *names: str) -> None:
    problems = check(str(path), tree_roots)
    for name in names:
        assert any(p.startswith(name) for p in problems), (name, problems)
    with pytest.raises(StoreError):
        asyncio.run(contents(path))


def values(path: Path, query: str) -> list[tuple[int, object]]:
    db = sqlite3.connect(path)
    rows = db.execute(query).fetchall()
    db.close()
    return rows


def test_a_bit_flipped_in_any_page_is_named(good: Path, tmp_path: Path) -> None:
    rng = random.Random(3)
    pages = values(good, "select id, body from page")
    assert len(pages) > 20
    for page_id, body in pages:
        assert isinstance(body, bytes)
        data = bytearray(body)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path = Path(shutil.copy(good, tmp_path / "segue.db"))
        edit(path, "update page set body = ? where id = ?", bytes(data), page_id)
        assert_found(path, f"page {page_id}: ")
        assert check(str(path))[0].startswith(f"page {page_id}: ")


def test_a_bit_flipped_in_any_record_is_named(good: Path, tmp_path: Path) -> None:
    rng = random.Random(4)
    for number, body in values(good, "select number, body from log"):
        assert isinstance(body, bytes)
        data = bytearray(body)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path = Path(shutil.copy(good, tmp_path / "segue.db"))
        edit(path, "update log set body = ? where number = ?", bytes(data), number)
        assert_found(path, f"log record {number}: ")


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("update head set term = term + 1", "head: crc"),
        ("update head set number = number - 1", "head: crc"),
        ("update head set chain = chain + 1", "head: crc"),
        ("update head set crc = crc + 1", "head: crc"),
        ("delete from head", "head: 0 rows"),
        ("update checkpoint set number = number - 1", "checkpoint: crc"),
        ("update checkpoint set root = substr(root, 2)", "checkpoint: crc"),
        ("update checkpoint set pages = pages + 1", "checkpoint: crc"),
        ("delete from checkpoint", "checkpoint: 0 rows"),
        (f"delete from log where number = {COMMITS}", f"log record {COMMITS}: missing"),
        ("delete from log where number = 50", "log record 50: missing"),
        (f"delete from log where number = {CHECKPOINT_AT + 1}", f"log record {CHECKPOINT_AT + 1}:"),
        ("update log set term = 2 where number = 50", "log record 50: "),
        ("update log set chain = chain + 1 where number = 50", "log record 50: "),
        ("update log set chain = 'x' where number = 50", "log record 50: "),
        ("update log set body = 'text' where number = 50", "log record 50: "),
        (f"update log set number = 99 where number = {COMMITS}", f"log record {COMMITS}: missing"),
    ],
)
def test_a_changed_or_missing_row_is_named(path: Path, statement: str, name: str) -> None:
    db = sqlite3.connect(path)
    db.execute("pragma ignore_check_constraints = on")
    try:
        assert db.execute(statement).rowcount == 1
    except sqlite3.IntegrityError:
        pytest.skip("SQLite itself refuses this change")
    db.commit()
    db.close()
    assert_found(path, name)


def test_a_missing_page_and_an_extra_page_are_named(path: Path) -> None:
    edit(path, "delete from page where id = (select max(id) from page)")
    assert_found(path, "page ", "page: ")
    edit(path, "insert into page values (999, (select body from page limit 1))")
    assert_found(path, "page 999: no tree refers to it")


def test_swapped_records_and_pages_are_named(path: Path) -> None:
    edit(path, "update log set number = 1000 where number = 50")
    edit(path, "update log set number = 50 where number = 51")
    edit(path, "update log set number = 51 where number = 1000")
    assert_found(path, "log record 50: ")


def test_an_old_page_in_the_place_of_the_new_one_is_named(path: Path, tmp_path: Path) -> None:
    """The old bytes are sealed as the new page: only the parent's crc can tell."""
    space = PageSpace(next_id=values(path, "select max(id), 0 from page")[0][0])
    tree = PageTree(space)
    tree.set(1, 1)
    out: dict[int, bytes] = {}
    tree.flush(out)
    [(page_id, data)] = out.items()
    # The newest id is a directory; take any leaf and put an older leaf's words under its id.
    edit(path, "update page set body = ? where id = ?", data, page_id)
    assert_found(path, f"page {page_id}: crc")


def test_bits_flipped_anywhere_in_the_file_never_give_another_table(
    good: Path, tmp_path: Path
) -> None:
    expected = asyncio.run(contents(Path(shutil.copy(good, tmp_path / "segue.db"))))
    data = good.read_bytes()
    rng = random.Random(5)
    found = harmless = 0
    for _ in range(200):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path = tmp_path / "segue.db"
        path.write_bytes(flipped)
        problems = check(str(path), tree_roots)
        try:
            now = asyncio.run(contents(path))
        except StoreError:
            assert problems, "refused, and check had nothing to say"
            found += 1
        else:
            assert now == expected, "a silently wrong table"
            harmless += 1
    assert found > 60 and found + harmless == 200


def test_a_bit_flipped_in_the_definitions_of_the_tables_is_named(
    good: Path, tmp_path: Path
) -> None:
    """Some of these make SQLite fail in ways of its own (messages that are no UTF-8)."""
    data = good.read_bytes()
    rng = random.Random(7)
    path = tmp_path / "segue.db"
    for _ in range(150):
        text = rng.choice(list(re.finditer(rb"CREATE TABLE \w+ \([a-z_ ,()=1]+\)", data)))
        flipped = bytearray(data)
        flipped[rng.randrange(*text.span())] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        assert_found(path)
        assert check(str(path))


def test_a_bit_flipped_in_the_wal_is_named_or_changes_nothing(tmp_path: Path) -> None:
    crashed = tmp_path / "crashed.db"
    asyncio.run(fill(tmp_path / "segue.db", crash_copy=crashed))
    wal = Path(str(crashed) + "-wal")
    data, database = wal.read_bytes(), crashed.read_bytes()
    expected = asyncio.run(contents(crashed))
    rng = random.Random(6)
    frames = (len(data) - 32) // 4120
    named = 0
    # The last transaction's frames are left out: damage there looks like a tear.
    for _ in range(40):
        flipped = bytearray(data)
        flipped[rng.randrange(32 + (frames - 8) * 4120)] ^= 1 << rng.randrange(8)
        wal.write_bytes(flipped)
        crashed.write_bytes(database)
        if wal_damage(str(wal)):
            named += 1
            assert check(str(crashed))
            with pytest.raises(StoreError):
                asyncio.run(contents(crashed))
        else:
            assert asyncio.run(contents(crashed))[1:] == expected[1:]
    assert named > 30


@pytest.mark.parametrize("cut_frames", [0, 1, 2, 5, 40])
def test_a_wal_that_ends_early_is_a_tear_not_damage(tmp_path: Path, cut_frames: int) -> None:
    crashed = tmp_path / "crashed.db"
    asyncio.run(fill(tmp_path / "segue.db", crash_copy=crashed))
    wal = Path(str(crashed) + "-wal")
    data = wal.read_bytes()
    wal.write_bytes(data[: len(data) - cut_frames * 4120 - (100 if cut_frames else 0)])
    assert wal_damage(str(wal)) is None
    assert asyncio.run(contents(crashed))
