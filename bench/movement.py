"""What a host feels of data that moves (design, section 9, and issue 4, section 6).

Beside: the same load on the same disk at rest, beside an independent copier of the same rate,
beside a movement; and QEMU's own server at rest, under a blockdev-mirror in the background, and
under one that blocks writes.  Hot: I/O that hits nothing but four segments, which move to and fro.

All containers and files are opened with O_DIRECT, on one file system.
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
from typing import Any

import numpy as np
from latency import Felt, boottime_ns, while_doing
from qmp import Monitor
from servers import MIB, Server, build_load, fill, write_file

from segue.installation import Installation, wait_until

SIZE_BYTES = 256 * MIB
RATE = 100 * MIB
"""Bytes a second of copier, movement and mirror."""
DEPTH = 4
HOT_SEGMENTS = 4
SEGMENT_MIB = (1, 4, 16, 64)
FLUSH_EACH_BYTES = 16 * MIB
ALIGN = 4096
SLICE_NS = 50_000_000

Figures = dict[str, Any]


@contextmanager
def disk_on_two(folder: Path, segment_mib: int, size_bytes: int) -> Iterator[Installation]:
    """An installation of two containers and a disk, written once; it lies in container "a"."""
    args = ["--segment-size", f"{segment_mib}M"]
    with Installation(folder / "data", args) as made:
        made.start_controller()
        made.start_agent("bench")
        room_bytes = size_bytes + 4 * segment_mib * MIB
        for name in ("a", "b"):
            uri = f"file://{folder}/{name}"
            made.client.add_container(name, uri, room_bytes, cache="direct")
            if name == "a":
                made.client.create_disk("disk", size_bytes)
                fill(made.socket("bench"), "disk", size_bytes)
        yield made


def agent_of(made: Installation) -> Server:
    """Where the disk is served."""
    return Server(f"{made.socket('bench')}#disk", made.agents["bench"].pid)


class Mover:
    """Moves the whole disk between the two containers, and waits for it."""

    def __init__(self, made: Installation, poll_s: float) -> None:
        self._made = made
        self._poll_s = poll_s
        self._at_b = False

    def move(self, bandwidth: int) -> None:
        """To the other container; 0: as fast as it goes."""
        self._at_b = not self._at_b
        to = "b" if self._at_b else "a"
        job = self._made.client.move_disk("disk", to, bandwidth=bandwidth)
        while job.state in ("running", "waiting"):
            time.sleep(self._poll_s)
            job = self._made.client.job(job.job)
        if job.state != "done":
            raise RuntimeError(f"the job {job.state}: {job.reason}")


def copy(source: Path, target: Path, size_bytes: int, rate: int) -> None:
    """The independent copier: 1 MiB at a time, past the page cache, flushed now and then."""
    buffer = memoryview(aligned(MIB))
    begun = time.monotonic()
    flags = os.O_RDWR | os.O_DIRECT
    reads, writes = os.open(source, flags), os.open(target, flags | os.O_CREAT)
    for at in range(0, size_bytes, MIB):
        time.sleep(max(0.0, begun + at / rate - time.monotonic()))
        os.preadv(reads, [buffer], at)
        os.pwritev(writes, [buffer], at)
        if (at + MIB) % FLUSH_EACH_BYTES == 0:
            os.fdatasync(writes)
    os.close(reads)
    os.close(writes)


def aligned(size_bytes: int) -> Any:
    """Memory that O_DIRECT takes."""
    memory = np.empty(size_bytes + ALIGN, dtype=np.uint8)
    skip = -memory.ctypes.data % ALIGN
    return memory[skip : skip + size_bytes].data


def beside(folder: Path, load: Path, rounds: int) -> tuple[Figures, dict[str, Felt]]:
    """At rest, beside the copier, beside a movement; each in every round."""
    found: dict[str, list[Felt]] = {}
    trace = folder / "trace"
    write_file(folder / "copied", SIZE_BYTES)
    write_file(folder / "copy", SIZE_BYTES)
    with disk_on_two(folder, 1, SIZE_BYTES) as made:
        server, mover = agent_of(made), Mover(made, 0.02)
        acts: dict[str, Callable[[], Any]] = {
            "at rest": lambda: time.sleep(SIZE_BYTES / RATE),
            "copier": lambda: copy(folder / "copied", folder / "copy", SIZE_BYTES, RATE),
            "movement": lambda: mover.move(RATE),
        }
        for operation in ("write", "read") * rounds:
            for name, act in acts.items():
                felt = while_doing(load, server, operation, DEPTH, SIZE_BYTES, trace, act)
                found.setdefault(f"{operation}, {name}", []).append(felt)
    figures = {name: [felt_figures(felt) for felt in felts] for name, felts in found.items()}
    return figures, {name: felts[-1] for name, felts in found.items()}


def felt_figures(felt: Felt) -> Figures:
    """Percentiles while it was done, I/Os a second, and how long that took."""
    took_s = (felt.ended_ns - felt.begun_ns) / 1e9
    figures = felt.during.percentiles()
    return {**figures, "iops": round(figures["count"] / took_s), "seconds": round(took_s, 2)}


def mirror(folder: Path, load: Path, rounds: int) -> tuple[Figures, dict[str, Felt]]:
    """QEMU's storage daemon at rest, and under its mirror in both ways of copying."""
    found: dict[str, list[Felt]] = {}
    sockets = folder / "qsd.sock", folder / "qmp.sock"
    for name in ("one", "two"):
        write_file(folder / name, SIZE_BYTES)
    words = [
        "qemu-storage-daemon",
        *("--blockdev", node("one", folder)),
        *("--nbd-server", f"addr.type=unix,addr.path={sockets[0]}"),
        *("--export", "nbd,id=e,node-name=one,name=,writable=on"),
        *("--chardev", f"socket,id=m,path={sockets[1]},server=on,wait=off"),
        *("--monitor", "chardev=m"),
    ]
    with subprocess.Popen(words) as running:
        wait_until("qemu-storage-daemon", lambda: all(path.exists() for path in sockets))
        server, monitor = Server(str(sockets[0]), running.pid), Monitor(sockets[1])
        for _ in range(rounds):
            for name in ("at rest", "background", "write-blocking"):
                act = (
                    (lambda: time.sleep(SIZE_BYTES / RATE))
                    if name == "at rest"
                    else (lambda name=name: mirrored(monitor, folder, name))
                )
                felt = while_doing(load, server, "write", DEPTH, SIZE_BYTES, folder / "trace", act)
                found.setdefault(f"write, {name}", []).append(felt)
                if name != "at rest":
                    unmirror(monitor)
        monitor.close()
        running.terminate()
    figures = {name: [felt_figures(felt) for felt in felts] for name, felts in found.items()}
    return figures, {name: felts[-1] for name, felts in found.items()}


def node(name: str, folder: Path) -> str:
    """A blockdev option."""
    return f"file,filename={folder}/{name},node-name={name},cache.direct=on,aio=io_uring"


def mirrored(monitor: Monitor, folder: Path, way: str) -> None:
    """Mirrors until the target is as the source is."""
    cache = {"direct": True}
    monitor.call(
        "blockdev_add",
        driver="file",
        filename=str(folder / "two"),
        node_name="two",
        cache=cache,
        aio="io_uring",
    )
    monitor.call(
        "blockdev_mirror",
        job_id="m",
        device="one",
        target="two",
        sync="full",
        speed=RATE,
        copy_mode=way,
    )
    limit = threading.Timer(4 * SIZE_BYTES / RATE, lambda: None)
    limit.start()
    # In the background it may never be done under load: each write makes a block dirty again.
    while limit.is_alive():
        jobs = monitor.call("query_block_jobs")
        if jobs and jobs[0]["ready"]:
            break
        time.sleep(0.02)
    limit.cancel()


def unmirror(monitor: Monitor) -> None:
    """Ends the mirror where it is; the source stays in use."""
    monitor.call("block_job_cancel", device="m", force=True)
    while monitor.call("query_block_jobs"):
        time.sleep(0.02)
    monitor.call("blockdev_del", node_name="two")


def hot(folder: Path, load: Path, segment_mib: int, seconds: float) -> Figures:
    """Four segments, and no I/O but to them, while they move to and fro as fast as they can."""
    size_bytes = HOT_SEGMENTS * segment_mib * MIB
    figures: Figures = {}
    folder = folder / f"hot-{segment_mib}"
    folder.mkdir()
    with disk_on_two(folder, segment_mib, size_bytes) as made:
        server, mover = agent_of(made), Mover(made, 0.005)
        for operation in ("write", "read"):
            spans: list[tuple[int, int]] = []

            def to_and_fro(spans: list[tuple[int, int]] = spans) -> None:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    begun_ns = boottime_ns()
                    mover.move(0)
                    spans.append((begun_ns, boottime_ns()))

            trace = folder / "trace"
            felt = while_doing(load, server, operation, 1, size_bytes, trace, to_and_fro)
            moving = [felt.trace.within(*span).rows for span in spans]
            at_rest = felt.trace.within(0, felt.begun_ns)
            figures[operation] = {
                "moving": type(felt.trace)(np.concatenate(moving)).percentiles(),
                "at rest": at_rest.percentiles(),
                "moves": len(spans),
                "move_s": round(sum(end - begun for begun, end in spans) / len(spans) / 1e9, 3),
            }
    return figures


def units(folder: Path) -> Figures:
    """What the aim is counted in: a data flush, a durable commit, one piece copied."""
    file = folder / "unit"
    write_file(file, 64 * MIB)
    descriptor = os.open(file, os.O_RDWR | os.O_DIRECT)
    page, piece = aligned(ALIGN), aligned(MIB)
    store = sqlite3.connect(folder / "unit.db", isolation_level=None)
    store.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t(v)")

    def flush(at: int) -> None:
        os.pwritev(descriptor, [page], at % 64 * MIB)
        os.fdatasync(descriptor)

    def copied(at: int) -> None:
        os.preadv(descriptor, [piece], at % 64 * MIB)
        os.pwritev(descriptor, [piece], (at + 7) % 64 * MIB)

    def commit(at: int) -> None:
        store.execute("INSERT INTO t VALUES (?)", (at,))

    acts: dict[str, Callable[[int], None]] = {"flush": flush, "commit": commit, "piece": copied}
    figures = {}
    for name, act in acts.items():
        took = []
        for at in range(300):
            begun = time.perf_counter_ns()
            act(at)
            took.append((time.perf_counter_ns() - begun) / 1e3)
        figures[name] = {"p50_us": round(float(np.median(took)), 1)}
        figures[name]["p99_us"] = round(float(np.percentile(took, 99)), 1)
    store.close()
    os.close(descriptor)
    return figures


def timeline(felt: Felt) -> Figures:
    """Percentiles of each slice of time, from the load's begin on; and when it was done."""
    at, took = felt.trace.rows[:, 0], felt.trace.rows[:, 1] / 1e3
    begin_ns = int(at[0])
    slices = (at - begin_ns) // SLICE_NS
    figures: Figures = {"slice_s": SLICE_NS / 1e9, "p50_us": [], "p99_us": []}
    for number in range(int(slices[-1])):
        here = took[slices == number]
        for name, share in (("p50_us", 50), ("p99_us", 99)):
            value = round(float(np.percentile(here, share)), 1) if len(here) else None
            figures[name].append(value)
    figures["begun_s"] = round((felt.begun_ns - begin_ns) / 1e9, 3)
    figures["ended_s"] = round((felt.ended_ns - begin_ns) / 1e9, 3)
    return figures


def measure(rounds: int, seconds: float) -> Figures:
    """All of it."""
    load = build_load()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segue-bench-") as name:
        folder = Path(name)
        figures: Figures = {"units": units(folder)}
        figures["beside"], felt = beside(folder, load, rounds)
        figures["mirror"], mirrored_felt = mirror(folder, load, rounds)
        figures["hot"] = {f"{size} MiB": hot(folder, load, size, seconds) for size in SEGMENT_MIB}
    shown = {
        "Segue, 4 KiB writes; shaded: the disk moves at 100 MiB/s": felt["write, movement"],
        "Segue, 4 KiB writes; shaded: an independent copier at 100 MiB/s": felt["write, copier"],
        "QEMU, 4 KiB writes; shaded: blockdev-mirror, write-blocking, 100 MiB/s": mirrored_felt[
            "write, write-blocking"
        ],
    }
    figures["timelines"] = {name: timeline(each) for name, each in shown.items()}
    return figures
