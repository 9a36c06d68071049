"""What was acknowledged survives loss of power, wherever it comes (rule 6; needs strace).

A workload's system calls are recorded once; then power is cut at hundreds of places of that
record, what was not synced is lost by sectors at random, and the store is opened.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from pathlib import Path

import pytest

from segue.store.check import check
from segue.store.contract import Loaded
from segue.store.pages import ROOT_BYTES, PageSpace, PageTree
from segue.store.sqlite import SqliteStore

from .power_workload import body, tree_after
from .traced_disk import Disk, Op, trace

CUTS = 150


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[Op]:
    if not shutil.which("strace"):
        pytest.skip("needs strace (Debian package strace)")
    folder = tmp_path_factory.mktemp("power") / "store"
    folder.mkdir()
    script = Path(__file__).with_name("power_workload.py")
    operations = trace([sys.executable, str(script), str(folder / "segue.db")], folder)
    kinds = {op.kind for op in operations}
    assert {"write", "sync", "truncate", "unlink", "ack"} <= kinds
    return operations


def newest(acks: list[str], kind: str) -> int:
    return max([int(a.split()[1]) for a in acks if a.split()[0] == kind], default=0)


async def opened(path: Path) -> Loaded:
    """Begin a term on what is there, look at every page, and let go."""
    store = SqliteStore(str(path))
    try:
        loaded = await store.begin_term()
        if loaded.root:
            next_id = int.from_bytes(loaded.root[ROOT_BYTES:], "little")
            root = loaded.root[:ROOT_BYTES]
            tree = PageTree.load(PageSpace(next_id), root, loaded.read_pages)
            assert dict(tree.items()) == tree_after(loaded.checkpoint_number)
        await store.append(loaded.term, loaded.number + 1, b"goes on")
        return loaded
    finally:
        await store.close()


def loss_at(operations: list[Op], cut: int, folder: Path, *, ignore_sync: bool = False) -> str:
    """Cut power after `cut` operations; what is wrong with the store then, or ""."""
    disk = Disk(operations, ignore_sync=ignore_sync)
    for op in operations[:cut]:
        disk.replay(op)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    disk.lose_power(random.Random(cut), folder)
    path = folder / "segue.db"
    if path.exists() and (problems := check(str(path))):
        return f"check: {problems}"
    loaded = asyncio.run(opened(path))
    if not newest(disk.acks, "commit") <= loaded.number <= newest(disk.acks, "asked"):
        return f"has commit {loaded.number}, acknowledged was {newest(disk.acks, 'commit')}"
    if loaded.term <= newest(disk.acks, "term"):
        return f"term {loaded.term} again"
    if loaded.checkpoint_number < newest(disk.acks, "checkpoint"):
        return f"has checkpoint {loaded.checkpoint_number}"
    for record in loaded.log:
        if record.body != body(record.number):
            return f"record {record.number} differs"
    return ""


def test_power_loss_anywhere_loses_nothing_acknowledged(recorded: list[Op], tmp_path: Path) -> None:
    rng = random.Random(1)
    in_flight = 0
    for cut in sorted(rng.sample(range(len(recorded) + 1), min(CUTS, len(recorded)))):
        wrong = loss_at(recorded, cut, tmp_path / "cut")
        assert not wrong, f"power cut after {cut} of {len(recorded)} operations: {wrong}"
        disk = Disk(recorded)
        for op in recorded[:cut]:
            disk.replay(op)
        in_flight += disk.in_flight()
    assert in_flight > CUTS // 3


def test_this_test_sees_a_store_that_does_not_sync(recorded: list[Op], tmp_path: Path) -> None:
    """The same cuts with every sync ignored: acknowledged commits are lost, or damage is seen."""
    wrong = []
    for cut in range(len(recorded) // 4, len(recorded), len(recorded) // 12):
        try:
            wrong.append(loss_at(recorded, cut, tmp_path / "cut", ignore_sync=True))
        except Exception as error:
            wrong.append(repr(error))
    assert sum(map(bool, wrong)) >= 3, wrong
