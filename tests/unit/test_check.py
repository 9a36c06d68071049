"""Every kind of planted inconsistency is found and named by `segue check`."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from segue import _native
from segue.check import check_installation
from segue.cli.main import main
from segue.controller.changes import (
    AgentKnown,
    Allocated,
    AnyChange,
    Attached,
    CleaningBegun,
    ContainerAdded,
    Discarded,
    DiskMade,
    InstallationMade,
    TermBegun,
    Written,
    encode_changes,
)
from segue.controller.checkpoint import encode_table
from segue.controller.record import Record, location_of
from segue.controller.table import Table
from segue.store.page_format import LEAF_WORDS
from segue.store.pages import PageTree
from segue.store.records import Head, chain
from segue.store.sqlite import SqliteStore

SEGMENT = 1 << 16
SEGMENTS = 40
HOUSE = b"h" * 16
ME = b"c" * 16
SIZE = (1 << 20) + SEGMENTS * SEGMENT
FILE_CONTAINER = 1


def changes(folder: Path) -> list[AnyChange]:
    """Disks `d` and `e`; on `d` a whole extent, an incomplete one, one in quarantine, one
    being cleaned."""
    uri = f"file://{folder}/c"
    return [
        InstallationMade(HOUSE),
        TermBegun(1, 5),
        ContainerAdded(FILE_CONTAINER, "c", uri, ME, SEGMENT, SEGMENTS, "page", 1, True),
        DiskMade(1, "d", 10 * SEGMENT, SEGMENT, 4096, [1]),
        DiskMade(2, "e", 1 << 30, SEGMENT, 4096, [1]),
        AgentKnown(1, "a", 30),
        Attached(1, 1, 55),
        Allocated(1, 2, 1, location_of(1, 7), incomplete=False),
        Allocated(1, 3, 2, location_of(1, 8), incomplete=True),
        Written(2, 4, 3),
        Allocated(1, 4, 3, location_of(1, 9), incomplete=False),
        Discarded(1, 4, 1, [55]),
        Allocated(1, 4, 3, location_of(1, 10), incomplete=False),
        Discarded(1, 4, 1, []),
        CleaningBegun([location_of(1, 10)], 5),
        Allocated(2, 3 * LEAF_WORDS, 3, location_of(1, 11), incomplete=False),
    ]


LOGGED: list[AnyChange] = [
    Allocated(1, 5, 4, location_of(1, 12), incomplete=False),
    Allocated(1, 6, 5, location_of(1, 13), incomplete=False),
    Allocated(1, 7, 6, location_of(1, 14), incomplete=False),
]


async def store(folder: Path, table: Table) -> None:
    """A store whose checkpoint is `table`, with `LOGGED` behind it."""
    kept = SqliteStore(str(folder / "segue.db"))
    try:
        await kept.begin_term()
        for number in range(1, table.number + 1):
            await kept.append(1, number, encode_changes([]))
        root, pages, freed = encode_table(table)
        await kept.checkpoint(1, table.number, root, pages, freed)
        for change in LOGGED:
            table.number += 1
            await kept.append(1, table.number, encode_changes([change]))
    finally:
        await kept.close()


def installation(folder: Path, plant: Callable[[Table], object] = lambda _: None) -> Path:
    table = Table()
    for change in changes(folder):
        table.apply([change])
    plant(table)
    _native.create_container(f"file://{folder}/c", SIZE, SEGMENT, ME, HOUSE, 1, "page")
    asyncio.run(store(folder, table))
    return folder


def assert_named(folder: Path, named: str) -> None:
    found = check_installation(str(folder))
    assert any(named in problem for problem in found), found


def test_a_sound_installation_has_no_problem(tmp_path: Path) -> None:
    folder = installation(tmp_path)
    assert check_installation(str(folder)) == []
    result = CliRunner().invoke(main, ["check", "--data", str(folder)])
    assert (result.exit_code, result.output) == (0, "no problem found\n")


def put(table: Table, disk: int, segment: int, extent: int, location: int) -> None:
    table.disks[disk].map.set(segment, extent)
    table.extents.set(extent, location)


def mark(table: Table, segment: int) -> None:
    """A mark says the opposite of the container's default: of a new file's segment, unclean."""
    word = segment // 64
    marks = table.containers[1].marks
    marks.set(word, marks.get(word) ^ 1 << segment % 64)


def another_name(table: Table) -> None:
    table.disks[2].name = "d"


def other_size(table: Table) -> None:
    table.disks[1].size_bytes = 3 * SEGMENT + 4096


def bits_beyond(table: Table) -> None:
    table.records[2].blocks = 12
    table.records[2].written = 1 << 14


def unknown_agent(table: Table) -> None:
    table.attached[1][77] = 9


IN_THE_TABLE: dict[str, tuple[Callable[[Table], object], str]] = {
    "two extents at one location": (
        lambda t: put(t, 2, 1, 9, location_of(1, 7)),
        "disk e segment 1: container c segment 7 is also used by disk d segment 2",
    ),
    "an extent nobody refers to": (
        lambda t: t.extents.set(9, location_of(1, 20)),
        "extent 9: no disk refers to it",
    ),
    "an extent without a location": (
        lambda t: t.disks[2].map.set(1, 9),
        "disk e segment 1: extent 9 has no location",
    ),
    "an entry beyond the end": (
        lambda t: put(t, 1, 10, 9, location_of(1, 20)),
        "disk d segment 10: beyond the end",
    ),
    "a location beyond its container": (
        lambda t: put(t, 2, 1, 9, location_of(1, SEGMENTS)),
        f"disk e segment 1: container c segment {SEGMENTS} does not exist",
    ),
    "a location in no container": (
        lambda t: put(t, 2, 1, 9, location_of(3, 1)),
        "disk e segment 1: container #3 segment 1 does not exist",
    ),
    "a location out of the flush set": (
        lambda t: t.disks[1].containers.clear(),
        "disk d segment 2: container c segment 7 is not in the disk's flush set",
    ),
    "a clean mark on a used location": (
        lambda t: mark(t, 7),
        "container c segment 7 is in use and marked clean",
    ),
    "marks beyond the container": (
        lambda t: t.containers[1].marks.set(1, 1),
        "container c: clean marks beyond its 40 segments",
    ),
    "a used location in quarantine": (
        lambda t: t.quarantine.update({location_of(1, 7): [55]}),
        "container c segment 7: in quarantine, used by disk d segment 2",
    ),
    "a quarantine for nobody": (
        lambda t: t.quarantine.update({location_of(1, 9): []}),
        "container c segment 9: in quarantine for nobody",
    ),
    "a quarantine that does not exist": (
        lambda t: t.quarantine.update({location_of(3, 9): [55]}),
        "container #3 segment 9: in quarantine, does not exist",
    ),
    "a used location being cleaned": (
        lambda t: t.cleaning.update({location_of(1, 8): 5}),
        "container c segment 8: being cleaned, used by disk d segment 3",
    ),
    "a location cleaned by nobody": (
        lambda t: t.fences.clear(),
        "container c segment 10: being cleaned by a copier whose fence has ended",
    ),
    "a record of an unknown extent": (
        lambda t: t.records.update({9: Record(0, 0, 0, 16)}),
        "extent 9: has a record, no disk refers to it",
    ),
    "a record of another length": (
        other_size,
        "extent 2: its record has 16 blocks, disk d segment 3 has 1",
    ),
    "bits beyond a record": (
        bits_beyond,
        "extent 2: its record has bits beyond its 12 blocks",
    ),
    "a flush set with an unknown container": (
        lambda t: t.disks[1].containers.append(9),
        "disk d: container #9 of its flush set does not exist",
    ),
    "two disks of one name": (another_name, "disk d: another disk has the same name"),
    "an unknown agent": (unknown_agent, "disk d: is attached by agent #9 (4d), which is unknown"),
}


@pytest.mark.parametrize("kind", IN_THE_TABLE)
def test_a_contradiction_in_the_table_is_named(tmp_path: Path, kind: str) -> None:
    plant, named = IN_THE_TABLE[kind]
    assert_named(installation(tmp_path, plant), named)


def edit(*statements: str) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        db = sqlite3.connect(folder / "segue.db")
        for statement in statements:
            assert db.execute(statement).rowcount >= 1, statement
        db.commit()
        db.close()

    return plant


def flip(table: str, column: str, which: str) -> Callable[[Path], None]:
    """One bit in the middle of a value, which SQLite's own check does not see."""

    def plant(folder: Path) -> None:
        db = sqlite3.connect(folder / "segue.db")
        [(row, value)] = db.execute(f"select rowid, {column} from {table} where {which}")
        data = bytearray(value)
        data[len(data) // 2] ^= 4
        db.execute(f"update {table} set {column} = ? where rowid = ?", (bytes(data), row))
        db.commit()
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        db.close()

    return plant


def older_page(folder: Path) -> None:
    """A page that is sound in itself, and not the one its parent means."""
    db = sqlite3.connect(folder / "segue.db")
    [(page,)] = db.execute("select min(id) from page")
    table = Table()
    table.pages.next_id = page
    tree, out = PageTree(table.pages), dict[int, bytes]()
    tree.set(1, 1)
    tree.flush(out)
    db.execute("update page set body = ? where id = ?", (out[page], page))
    db.commit()
    db.close()


IN_THE_STORE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a flipped bit in a page": (flip("page", "body", "id = 1"), "page 1: "),
    "a flipped bit in the root": (flip("checkpoint", "root", "1"), "checkpoint: crc"),
    "a missing page": (edit("delete from page where id = 1"), "page 1: missing"),
    "a page nobody refers to": (
        edit("insert into page select 999, body from page where id = 1"),
        "page 999: no tree refers to it",
    ),
    "a page its parent does not mean": (older_page, "its parent says"),
    "a gap in the log": (edit("delete from log where number = 18"), "log record 18: missing"),
    "a log that ends early": (edit("delete from log where number = 19"), "log record 19: missing"),
    "a flipped bit in a log record": (flip("log", "body", "number = 18"), "log record 18: crc"),
    "a term that goes back": (
        edit("update log set term = 0 where number = 18"),
        "log record 18: ",
    ),
    "a changed head": (edit("update head set term = 7"), "head: crc"),
    "no head": (edit("delete from head"), "head: 0 rows"),
}


@pytest.mark.parametrize("kind", IN_THE_STORE)
def test_damage_in_the_store_is_named(tmp_path: Path, kind: str) -> None:
    plant, named = IN_THE_STORE[kind]
    plant(installation(tmp_path))
    assert_named(tmp_path, named)


def sealed_with_a_lower_term(folder: Path) -> None:
    """Every sum right, and a term that goes back: only the order of terms tells."""
    db = sqlite3.connect(folder / "segue.db")
    [(last, link)] = db.execute("select number, chain from checkpoint")
    for number, body in db.execute("select number, body from log where number > ?", (last,)):
        term = 3 if number == last + 1 else 2
        link = chain(link, term, number, body)
        db.execute("update log set term = ?, chain = ? where number = ?", (term, link, number))
        head = Head(3, number, link)
    db.execute("update head set term = ?, number = ?, chain = ?, crc = ?", (*head, head.crc()))
    db.commit()
    db.close()


def test_a_log_whose_terms_go_back_is_named(tmp_path: Path) -> None:
    sealed_with_a_lower_term(installation(tmp_path))
    assert_named(tmp_path, "term 2 after 3")


def test_a_commit_that_cannot_be_applied_is_named(tmp_path: Path) -> None:
    """Sound as bytes: it allocates over what another one has mapped."""
    LOGGED.append(LOGGED[0])
    try:
        installation(tmp_path)
    finally:
        LOGGED.pop()
    assert_named(tmp_path, "commit 20 cannot be applied")


def remade(identity: bytes, house: bytes, size: int = SIZE) -> Callable[[Path], None]:
    def plant(folder: Path) -> None:
        os.remove(folder / "c")
        _native.create_container(f"file://{folder}/c", size, SEGMENT, identity, house, 1, "page")

    return plant


def stamped(folder: Path) -> None:
    handle = _native.StorageHandle(f"file://{folder}/c", "page", ME, HOUSE, 7)
    handle.stamp(1, 20)
    handle.close()


def broken_header(folder: Path) -> None:
    with open(folder / "c", "r+b") as file:
        file.seek(20)
        file.write(b"\xff")


AT_THE_CONTAINERS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda folder: os.remove(folder / "c"), "is missing"),
    "something else": (lambda folder: os.truncate(folder / "c", 0), "has no header of Segue's"),
    "too short": (lambda folder: os.truncate(folder / "c", SIZE - 1), "should have 3670016"),
    "another container": (remade(b"o" * 16, HOUSE), "is another container of this installation"),
    "another installation's": (remade(ME, b"o" * 16), "belongs to another installation"),
    "carved otherwise": (remade(ME, HOUSE, SIZE - SEGMENT), "its header says segments 39"),
    "a damaged header": (broken_header, "its header is damaged"),
    "a newer stamp": (stamped, "an old copy of the store was put back"),
}


@pytest.mark.parametrize("kind", AT_THE_CONTAINERS)
def test_a_container_that_is_not_what_the_table_says_is_named(tmp_path: Path, kind: str) -> None:
    plant, named = AT_THE_CONTAINERS[kind]
    plant(installation(tmp_path))
    assert_named(tmp_path, f"container c (file://{tmp_path}/c): ")
    assert_named(tmp_path, named)
    result = CliRunner().invoke(main, ["check", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert named in result.output
    assert "problem" in result.output.splitlines()[-1]
