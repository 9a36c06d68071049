"""A controller's start over a large table: every segment of a disk mapped, nothing in order.

The store is made of whole pages, as if all had been written long ago: extents lie at random places,
segments refer to random extents. Then a new process loads it (and a real controller starts on it).

    python bench/large_table.py --tib 64 [--controller]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segue import _native
from segue.controller.changes import ContainerAdded, DiskMade, InstallationMade, encode_changes
from segue.controller.checkpoint import encode_table, load_table
from segue.controller.record import location_of
from segue.controller.table import MARKS_PER_WORD, Table
from segue.installation import Installation
from segue.store.page_format import LEAF_WORDS
from segue.store.pages import PageTree
from segue.store.sqlite import SqliteStore

MIB, TIB = 1 << 20, 1 << 40
SEGMENTS_PER_TIB = TIB // MIB
CONTAINER_TIB = 8
"""A file of ext4 has 16 TiB at most."""
SPARE = 256
HOUSE = b"h" * 16
Words = npt.NDArray[np.uint64]


def fill(tree: PageTree, words: Words) -> None:
    """Gives an empty tree these words from 0 on, a leaf at a time."""
    for first in range(0, len(words), LEAF_WORDS):
        leaf = words[first : first + LEAF_WORDS]
        tree._owned_leaf(first).words[: len(leaf)] = array("Q", leaf.tobytes())
    tree.count += int(np.count_nonzero(words))


def large_table(tib: int, folder: Path) -> Table:
    """A disk of so many TiB, all mapped, over containers of `CONTAINER_TIB`."""
    entries = tib * SEGMENTS_PER_TIB
    each = min(tib, CONTAINER_TIB) * SEGMENTS_PER_TIB
    numbers = range(1, entries // each + 1)
    table = Table()
    table.replay(
        encode_changes(
            [
                InstallationMade(HOUSE),
                *(
                    ContainerAdded(
                        n,
                        f"c{n}",
                        f"file://{folder}/c{n}",
                        bytes([n]) * 16,
                        MIB,
                        each + SPARE,
                        "page",
                        1,
                        True,
                    )
                    for n in numbers
                ),
                DiskMade(1, "disk", entries * MIB, MIB, 4096, list(numbers)),
            ]
        )
    )
    rng = np.random.default_rng(1)
    extents = rng.permutation(entries).astype(np.uint64)
    fill(table.disks[1].map, extents + 1)
    at = rng.permutation(entries).astype(np.uint64)
    shift = location_of(1, 0) - location_of(0, 0)
    locations = location_of(1, 0) + at // each * shift + at % each
    fill(table.extents, np.concatenate([np.zeros(1, np.uint64), locations.astype(np.uint64)]))
    for n in numbers:
        fill(table.containers[n].marks, np.full(each // MARKS_PER_WORD, 2**64 - 1, np.uint64))
    return table


async def keep(table: Table, path: Path) -> None:
    """A store whose checkpoint is the table."""
    store = SqliteStore(str(path))
    try:
        term = (await store.begin_term()).term
        for number in range(1, table.number + 1):
            await store.append(term, number, encode_changes([]))
        root, pages, freed = encode_table(table)
        await store.checkpoint(term, table.number, root, pages, freed)
    finally:
        await store.close()


async def load(path: Path) -> dict[str, object]:
    """What a term's begin costs."""
    store = SqliteStore(str(path))
    begun, cpu = time.perf_counter(), time.process_time()
    loaded = await store.begin_term()
    claimed = time.perf_counter() - begun
    table = load_table(loaded)
    result = {
        "entries": table.disks[1].map.count,
        "begin_term_s": round(claimed, 2),
        "load_s": round(time.perf_counter() - begun, 2),
        "load_cpu_s": round(time.process_time() - cpu, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    await store.close()
    return result


def started(data: Path) -> dict[str, object]:
    """Seconds until a fault of a host is answered after controller and agent were killed."""
    with Installation(data) as made:
        result: dict[str, object] = {"api_s": round(made.start_controller(), 2)}
        result["agent_s"] = round(made.start_agent("bench"), 2)
        begun = time.monotonic()
        disk = _native.NbdClient(made.socket("bench"), "disk")
        disk.pwrite(bytes(4096), 12345 * MIB)
        result["write_s"] = round(time.monotonic() - begun, 2)
        made.client.create_disk("more", 64 * MIB)
        more = _native.NbdClient(made.socket("bench"), "more")
        begun = time.monotonic()
        more.pwrite(bytes(4096), 0)
        result["first_write_s"] = round(time.monotonic() - begun, 2)
        made.controller.kill()
        made.agents["bench"].kill()
        begun = time.monotonic()
        made.start_controller()
        made.start_agent("bench")
        again = _native.NbdClient(made.socket("bench"), "disk")
        again.pwrite(bytes(4096), 54321 * MIB)
        result["back_s"] = round(time.monotonic() - begun, 2)
        status = Path(f"/proc/{made.controller.pid}/status").read_text()
        result["rss"] = [line for line in status.splitlines() if "VmRSS" in line or "VmHWM" in line]
    return result


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tib", type=int, default=1)
    parser.add_argument("--controller", action="store_true")
    parser.add_argument("--make", metavar="FOLDER", help="make it there and end")
    parser.add_argument("--load", metavar="FOLDER", help="load what was made there")
    args = parser.parse_args()
    if args.make:
        folder = Path(args.make)
        (folder / "data").mkdir(mode=0o700)
        table = large_table(args.tib, folder)
        asyncio.run(keep(table, folder / "data" / "segue.db"))
        for container in table.containers.values():
            row = container.row
            size = MIB + row.segments * MIB
            _native.create_container(row.uri, size, MIB, row.identity, HOUSE, 1, row.cache)
    elif args.load:
        print(json.dumps(asyncio.run(load(Path(args.load) / "data" / "segue.db"))), flush=True)
        if args.controller:
            print(json.dumps(started(Path(args.load) / "data")))
    else:
        with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segue-bench-") as folder_name:
            for step in ("--make", "--load"):
                more = ["--controller"] if args.controller and step == "--load" else []
                subprocess.run(
                    [sys.executable, __file__, "--tib", str(args.tib), step, folder_name, *more],
                    check=True,
                )


if __name__ == "__main__":
    main()
