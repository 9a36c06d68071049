"""I/O that hits moving segments: a hot set of four, and no I/O but to it (issue 4, section 6).

The four move to and fro as fast as they can.  The agent tells apart what an I/O met: *do_write* and
*split_read* are those that a moving segment made wait for the controller, *faulted* those that
waited for an entry (a movement that was just beginning or ending), *clean* the rest.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any, NamedTuple

import numpy as np
from latency import IO_BYTES, Trace, boottime_ns, while_doing
from moving import ALIGN, Copier, Mover, agent_of, aligned, by_cause, disk_on_two, room_bytes
from servers import MIB, build_load, nbdkit, write_file

from segue import _native
from segue.installation import Installation

HOT_SEGMENTS = 4
UNIT_FILE_BYTES = 64 * MIB
UNIT_SAMPLES = 300
SLOW_RATE = 50_000_000
"""Bytes a second of the slowed container."""
LONGEST_FACTOR = 60
"""A case that is to have so many samples lasts at most so many times what it would otherwise."""

Figures = dict[str, Any]


class Case(NamedTuple):
    """What moves where."""

    kind: str
    """direct, page: two files, past the page cache or through it; slow: a file and an NBD server of
    `SLOW_RATE`."""
    segment_mib: int

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.kind}, {self.segment_mib} MiB"


CASES = [
    *(Case("direct", size) for size in (1, 4, 16, 64)),
    *(Case("page", size) for size in (1, 64)),
    *(Case("slow", size) for size in (1, 4, 16, 64)),
]


@contextmanager
def slow_storage(folder: Path, size_bytes: int) -> Iterator[str]:
    """The URI of an NBD server of that size that is slow.

    In memory: a file of its own would share the store's file system, and commits wait for what it
    has to write back.
    """
    words = ["--filter=rate", "memory", str(size_bytes), f"rate={8 * SLOW_RATE}"]
    with nbdkit(folder / "slow.sock", *words) as uri:
        yield uri


@contextmanager
def disk_of(case: Case, folder: Path) -> Iterator[Installation]:
    """The installation of a case."""
    size_bytes = HOT_SEGMENTS * case.segment_mib * MIB
    if case.kind != "slow":
        with disk_on_two(folder, case.segment_mib, size_bytes, case.kind) as made:
            yield made
        return
    room = room_bytes(case.segment_mib, size_bytes) + MIB
    with (
        slow_storage(folder, room) as uri,
        disk_on_two(folder, case.segment_mib, size_bytes, second=uri) as made,
    ):
        yield made


def measure_case(folder: Path, load: Path, case: Case, seconds: float, samples: int) -> Figures:
    """Writes, reads, and reads while another host writes; each until there were `samples`, but not
    longer than is sensible.
    """
    figures: Figures = {}
    folder = folder / f"{case.kind}-{case.segment_mib}"
    folder.mkdir()
    with disk_of(case, folder) as made:
        mover = Mover(made, 0.005)
        for operation in ("write", "read"):
            figures[operation] = to_and_fro(made, mover, load, operation, seconds, samples)
        with writing(load, made):
            figures["read, others write"] = to_and_fro(made, mover, load, "read", seconds, 0)
    return figures


@contextmanager
def writing(load: Path, made: Installation) -> Iterator[None]:
    """Another host, which writes 4 KiB at a time all over the disk, one after the other."""
    server = agent_of(made)
    words = [f"{load}/load", server.address, f"{server.pid}", "write", "random", f"{IO_BYTES}"]
    with subprocess.Popen([*words, "1", "0", "2"], stdin=PIPE, stdout=PIPE) as running:
        try:
            yield
        finally:
            running.communicate()


def to_and_fro(
    made: Installation, mover: Mover, load: Path, operation: str, seconds: float, samples: int
) -> Figures:
    """One kind of I/O to a disk that is nothing but hot, while it moves to and fro."""
    spans: list[tuple[int, int]] = []
    causes: dict[str, Figures] = {}

    def act() -> None:
        begun = time.monotonic()
        done = 0
        while (past := time.monotonic() - begun) < seconds or (
            done < samples and past < LONGEST_FACTOR * seconds
        ):
            begun_ns = boottime_ns()
            mover.move(0)
            spans.append((begun_ns, boottime_ns()))
            causes.update(by_cause(made, operation))
            done = sum(each["count"] for each in causes.values())

    size_bytes = made.client.disk("disk").size_bytes
    trace = made.data.parent / "trace"
    felt = while_doing(load, agent_of(made), operation, 1, size_bytes, trace, act)
    moving = [felt.trace.within(*span).rows for span in spans]
    return {
        "moving": Trace(np.concatenate(moving)).percentiles(),
        "at rest": felt.trace.within(0, felt.begun_ns).percentiles(),
        "by cause": causes,
        "moves": len(spans),
        "move_s": round(sum(end - begun for begun, end in spans) / len(spans) / 1e9, 3),
    }


def units(folder: Path) -> Figures:
    """What the aim is counted in: a durable write, a durable commit, one piece copied; at rest and
    beside a copier that is as fast as it can be, and on the slowed container.
    """
    acts = unit_acts(folder)
    figures: Figures = {"at rest": {name: timed(act) for name, act in acts.items()}}
    copier, stop = Copier(folder / "copied", folder / "copy", UNIT_FILE_BYTES), threading.Event()

    def copy_on() -> None:
        while not stop.is_set():
            copier.copy(0)

    copying = threading.Thread(target=copy_on)
    copying.start()
    figures["beside a copier"] = {name: timed(act) for name, act in acts.items()}
    stop.set()
    copying.join()
    with slow_storage(folder, UNIT_FILE_BYTES) as uri:
        client = _native.NbdClient(uri.partition("socket=")[2], "")

        def flush(at: int) -> None:
            client.pwrite(bytes(ALIGN), at * MIB % UNIT_FILE_BYTES, fua=True)

        def piece(at: int) -> None:
            client.pwrite(bytes(MIB), at * MIB % UNIT_FILE_BYTES)

        figures["slowed"] = {"flush": timed(flush), "piece": timed(piece)}
        client.close()
    return figures


def unit_acts(folder: Path) -> dict[str, Callable[[int], None]]:
    """The units on files of one file system."""
    file = folder / "unit"
    write_file(file, UNIT_FILE_BYTES)
    descriptor = os.open(file, os.O_RDWR | os.O_DIRECT)
    page, piece = aligned(ALIGN), aligned(MIB)
    store = sqlite3.connect(folder / "unit.db", isolation_level=None)
    store.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t(v)")

    def flush(at: int) -> None:
        os.pwritev(descriptor, [page], at * MIB % UNIT_FILE_BYTES, os.RWF_DSYNC)

    def copied(at: int) -> None:
        os.preadv(descriptor, [piece], at * MIB % UNIT_FILE_BYTES)
        os.pwritev(descriptor, [piece], (at + 7) * MIB % UNIT_FILE_BYTES)

    def commit(at: int) -> None:
        store.execute("INSERT INTO t VALUES (?)", (at,))

    return {"flush": flush, "commit": commit, "piece": copied}


def timed(act: Callable[[int], None]) -> Figures:
    """Microseconds of one of many."""
    took = []
    for at in range(UNIT_SAMPLES):
        begun = time.perf_counter_ns()
        act(at)
        took.append((time.perf_counter_ns() - begun) / 1e3)
    shares = {"p50_us": 50, "p99_us": 99, "max_us": 100}
    return {name: round(float(np.percentile(took, share)), 1) for name, share in shares.items()}


def measure(seconds: float, samples: int) -> Figures:
    """All cases; `samples` for the smallest segments past the page cache."""
    load = build_load()
    figures: Figures = {}
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segue-bench-") as name:
        folder = Path(name)
        figures["units"] = units(folder)
        for case in CASES:
            wanted = samples if case == CASES[0] else 0
            figures[case.name] = measure_case(folder, load, case, seconds, wanted)
    return figures


def markdown(figures: Figures) -> str:
    """Tables: the units, then each case; microseconds."""
    lines = ["| unit | " + " | ".join(figures["units"]) + " |"]
    lines.append("|---|" + "---|" * len(figures["units"]))
    for unit in ("flush", "commit", "piece"):
        cells = [each.get(unit) for each in figures["units"].values()]
        shown = [f"{c['p50_us']:,.0f} / {c['p99_us']:,.0f}" if c else "" for c in cells]
        lines.append(f"| {unit}, p50 / p99 us | " + " | ".join(shown) + " |")
    lines += [
        "",
        "| case | I/O | all | waited for the controller | waited for an entry | s a move |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, case in figures.items():
        for operation, found in case.items() if name != "units" else ():
            causes = found["by cause"]
            waited = causes.get("do_write" if operation == "write" else "split_read")
            cells = [row(found["moving"]), row(waited), row(causes.get("faulted"))]
            lines.append(f"| {name} | {operation} | {' | '.join(cells)} | {found['move_s']} |")
    return "\n".join(lines)


def row(found: Figures | None) -> str:
    """p50 / p99 / p99.99 / max, and of how many."""
    if not found or not found["count"]:
        return ""
    names = ("p50_us", "p99_us", "p9999_us", "max_us")
    shown = " / ".join(f"{found[name]:,.0f}" for name in names)
    return f"{shown} ({found['count']:,})"
