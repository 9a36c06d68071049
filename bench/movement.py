"""What a host feels of data that moves (design, section 9, and issue 4, section 6).

The same load on the same disk at rest, beside an independent copier of the same rate, beside a
movement; and QEMU's own server at rest, beside that copier, under a blockdev-mirror in the
background, and under one that blocks writes.

All containers and files are opened with O_DIRECT, on one file system.
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from latency import IO_BYTES, Felt, while_doing
from moving import Copier, Mover, agent_of, by_cause, disk_on_two, stored_bytes
from qmp import Monitor
from servers import MIB, Server, build_load, write_file

from segue.installation import wait_until

SIZE_BYTES = 256 * MIB
LARGER_BYTES = 1024 * MIB
"""Of a second disk, of which a fourth as much is under way at a time."""
RATE = 100 * MIB
"""Bytes a second of copier, movement and mirror."""
MIRROR_FACTOR = 4
"""A mirror that is not done in so many times what its rate says is given up."""
DEPTH = 4
SLICE_NS = 50_000_000

Figures = dict[str, Any]


class Felts:
    """What hosts of one server felt of several acts, and what its processes wrote meanwhile."""

    def __init__(self, load: Path, server: Server, pids: tuple[int, ...], size_bytes: int) -> None:
        self._load, self._server, self._pids = load, server, pids
        self._size_bytes = size_bytes
        self.rows: dict[str, list[Figures]] = {}
        """Figures of every round, by operation and act."""
        self.last: dict[str, Felt] = {}

    def feel(self, operation: str, name: str, act: Callable[[], Figures | None]) -> None:
        """One act beside one load; what the act gives goes into the figures."""
        found: Figures = {}

        def counted() -> None:
            begun = stored_bytes(self._pids)
            found.update(act() or {})
            found["written_bytes"] = stored_bytes(self._pids) - begun

        with tempfile.NamedTemporaryFile() as trace:
            path = Path(trace.name)
            load, server, size_bytes = self._load, self._server, self._size_bytes
            felt = while_doing(load, server, operation, DEPTH, size_bytes, path, counted)
        figures = {**felt_figures(felt), **found}
        own = figures["count"] * IO_BYTES if operation == "write" else 0
        figures["extra_per_byte"] = round((figures["written_bytes"] - own) / size_bytes, 3)
        self.rows.setdefault(f"{operation}, {name}", []).append(figures)
        self.last[f"{operation}, {name}"] = felt


def rest() -> None:
    """As long as a movement takes."""
    time.sleep(SIZE_BYTES / RATE)


def beside(folder: Path, load: Path, operations: tuple[str, ...], size_bytes: int) -> Felts:
    """At rest, beside the copier, beside a movement; each with every operation."""
    folder.mkdir(exist_ok=True)
    copier = Copier(folder / "copied", folder / "copy", size_bytes)
    with disk_on_two(folder, 1, size_bytes) as made:
        server, mover = agent_of(made), Mover(made, 0.05)
        felts = Felts(load, server, (made.controller.pid, server.pid), size_bytes)
        for operation in operations:

            def moved(operation: str = operation) -> Figures:
                mover.move(RATE)
                return {"by cause": by_cause(made, operation)}

            felts.feel(operation, "at rest", rest)
            felts.feel(operation, "copier", lambda: copier.copy(RATE))
            felts.feel(operation, "movement", moved)
    return felts


def felt_figures(felt: Felt) -> Figures:
    """Percentiles while it was done, I/Os a second, and how long that took."""
    took_s = (felt.ended_ns - felt.begun_ns) / 1e9
    figures = felt.during.percentiles()
    return {**figures, "iops": round(figures["count"] / took_s), "seconds": round(took_s, 2)}


def mirror(folder: Path, load: Path, rounds: int) -> Felts:
    """QEMU's server at rest, beside the copier, under its mirror in both ways of copying."""
    sockets = folder / "qsd.sock", folder / "qmp.sock"
    copier = Copier(folder / "copied", folder / "copy", SIZE_BYTES)
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
        felts = Felts(load, server, (running.pid,), SIZE_BYTES)
        for operation in ("write", "read") * rounds:
            felts.feel(operation, "at rest", rest)
            felts.feel(operation, "copier", lambda: copier.copy(RATE))
            for way in ("background", "write-blocking"):
                felts.feel(operation, way, partial(mirrored, monitor, folder, way))
                unmirror(monitor)
        monitor.close()
        running.terminate()
    return felts


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
    end = time.monotonic() + MIRROR_FACTOR * SIZE_BYTES / RATE
    # In the background it may never be done under load: each write makes a block dirty again.
    while time.monotonic() < end:
        jobs = monitor.call("query_block_jobs")
        if jobs and jobs[0]["ready"]:
            break
        time.sleep(0.02)


def unmirror(monitor: Monitor) -> None:
    """Ends the mirror where it is; the source stays in use."""
    monitor.call("block_job_cancel", device="m", force=True)
    while monitor.call("query_block_jobs"):
        time.sleep(0.02)
    monitor.call("blockdev_del", node_name="two")


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


def measure(rounds: int) -> Figures:
    """All of it."""
    load = build_load()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segue-bench-") as name:
        folder = Path(name)
        moves = beside(folder / "disk", load, ("write", "read") * rounds, SIZE_BYTES)
        larger = beside(folder / "larger", load, ("write",), LARGER_BYTES)
        mirrors = mirror(folder, load, rounds)
    felt, mirrored_felt = moves.last, mirrors.last
    figures: Figures = {"beside": moves.rows, "larger": larger.rows, "mirror": mirrors.rows}
    shown = {
        "Segue, 4 KiB writes; shaded: the disk moves": felt["write, movement"],
        "Segue, 4 KiB writes; shaded: an independent copier": felt["write, copier"],
        "QEMU, 4 KiB writes; shaded: mirror, in the background": mirrored_felt["write, background"],
        "QEMU, 4 KiB writes; shaded: mirror, write-blocking": mirrored_felt[
            "write, write-blocking"
        ],
        "Segue, 4 KiB reads; shaded: the disk moves": felt["read, movement"],
    }
    figures["timelines"] = {name: timeline(each) for name, each in shown.items()}
    return figures


def markdown(figures: Figures) -> str:
    """A table: medians of the rounds, the p99 with its range."""
    lines = ["| | IOPS | p50 us | p99 us | p99.9 us | max us | written per byte moved | s |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    kinds = {"Segue": "beside", "Segue, 1 GiB": "larger", "QEMU": "mirror"}
    for who, rows in ((who, figures[kind]) for who, kind in kinds.items()):
        for name, rounds in rows.items():
            keys = ("iops", "p50_us", "p99_us", "p999_us", "extra_per_byte", "seconds")
            middle = {key: statistics.median(each[key] for each in rounds) for key in keys}
            p99 = [each["p99_us"] for each in rounds]
            moves = not name.endswith(("rest", "copier"))
            cells = [
                f"{middle['iops']:,.0f}",
                f"{middle['p50_us']:,.0f}",
                f"{middle['p99_us']:,.0f} ({min(p99):,.0f}-{max(p99):,.0f})",
                f"{middle['p999_us']:,.0f}",
                f"{max(each['max_us'] for each in rounds):,.0f}",
                f"{middle['extra_per_byte']:.2f}" if moves else "",
                f"{middle['seconds']:.1f}",
            ]
            lines.append(f"| {who}, {name} | {' | '.join(cells)} |")
    for operation in ("write", "read"):
        move, copy = (figures["beside"][f"{operation}, {what}"] for what in ("movement", "copier"))
        found = [m["p99_us"] / c["p99_us"] for m, c in zip(move, copy, strict=True)]
        lines.append(
            f"\np99 of {operation}s, movement to copier, by round: "
            f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"
        )
    return "\n".join(lines)
