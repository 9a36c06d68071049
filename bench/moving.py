"""What the benches of movement share: a disk on two containers, who moves it, what is written."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from servers import MIB, Server, fill, write_file

from segue.installation import Installation

ALIGN = 4096
FLUSH_EACH_BYTES = 16 * MIB


def room_bytes(segment_mib: int, size_bytes: int) -> int:
    """Of a container that holds the disk, and some."""
    return size_bytes + 4 * segment_mib * MIB


@contextmanager
def disk_on_two(
    folder: Path,
    segment_mib: int,
    size_bytes: int,
    cache: str | None = "direct",
    first: str = "",
    second: str = "",
) -> Iterator[Installation]:
    """An installation of the containers "a" and "b" and a disk, written once; it lies in "a".

    `first` and `second` are URIs of storage with room for it; without: files of their own.
    """
    args = ["--segment-size", f"{segment_mib}M"]
    with Installation(folder / "data", args) as made:
        made.start_controller()
        made.start_agent("bench")
        for name, given in (("a", first), ("b", second)):
            uri = given or f"file://{folder}/{name}"
            size = 0 if given else room_bytes(segment_mib, size_bytes)
            made.client.add_container(name, uri, size, None if given else cache)
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


class Copier:
    """The independent copier: 1 MiB at a time from file to file, past the page cache."""

    def __init__(self, source: Path, target: Path, size_bytes: int) -> None:
        self._paths, self._size_bytes = (source, target), size_bytes
        for path in self._paths:
            write_file(path, size_bytes)

    def copy(self, rate: int) -> None:
        """All of it at so many bytes a second, flushed now and then; 0: as fast as it goes."""
        buffer = memoryview(aligned(MIB))
        begun = time.monotonic()
        reads, writes = (os.open(path, os.O_RDWR | os.O_DIRECT) for path in self._paths)
        for at in range(0, self._size_bytes, MIB):
            if rate:
                time.sleep(max(0.0, begun + at / rate - time.monotonic()))
            os.preadv(reads, [buffer], at)
            os.pwritev(writes, [buffer], at)
            if (at + MIB) % FLUSH_EACH_BYTES == 0:
                os.fdatasync(writes)
        os.close(reads)
        os.close(writes)


def by_cause(made: Installation, operation: str) -> dict[str, dict[str, float]]:
    """What the agent has counted since the load's connection made it take the table."""
    found = {}
    for row in made.client.disk_latency("disk").rows:
        if row.operation == operation:
            names = ("count", "p50_us", "p99_us", "p999_us", "p9999_us", "max_us")
            found[row.cause] = {name: round(getattr(row, name), 1) for name in names}
    return found


def aligned(size_bytes: int) -> Any:
    """Memory that O_DIRECT takes."""
    memory = np.empty(size_bytes + ALIGN, dtype=np.uint8)
    skip = -memory.ctypes.data % ALIGN
    return memory[skip : skip + size_bytes].data


def stored_bytes(pids: Iterable[int]) -> int:
    """What processes have caused to be written to storage so far (/proc/PID/io)."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            name, _, value = line.partition(": ")
            total += int(value) if name == "write_bytes" else 0
    return total
