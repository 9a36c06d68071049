"""How many bytes are written for each byte moved, counted where they arrive (issue 4, section 6).

Both containers are exports of nbdkit, whose log filter writes down every request; what hosts wrote
themselves is taken off.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from latency import IO_BYTES, while_doing
from moving import Mover, agent_of, disk_on_two, room_bytes
from servers import MIB, build_load, nbdkit

SIZE_BYTES = 128 * MIB
HEADER_BYTES = MIB
RATE = 100 * MIB
DEPTH = 4
_WRITE = re.compile(rb" Write id=\d+ offset=(0x[0-9a-f]+) count=(0x[0-9a-f]+)")

Figures = dict[str, Any]


@contextmanager
def logged(folder: Path, name: str, size_bytes: int) -> Iterator[tuple[str, Path]]:
    """The URI of storage whose requests are logged, and that log."""
    socket, storage, log = (folder / f"{name}.{kind}" for kind in ("sock", "storage", "requests"))
    with open(storage, "wb") as made:
        made.truncate(size_bytes)
    words = ["--filter=log", "file", str(storage), f"logfile={log}"]
    with nbdkit(socket, *words) as uri:
        yield uri, log


def arrived(log: Path, begin: int) -> Figures:
    """What was asked of a container after that place of its log."""
    with open(log, "rb") as lines:
        lines.seek(begin)
        text = lines.read()
    figures = {"data_bytes": 0, "header_bytes": 0, "writes": 0}
    for offset, count in _WRITE.findall(text):
        kind = "header_bytes" if int(offset, 16) < HEADER_BYTES else "data_bytes"
        figures[kind] += int(count, 16)
        figures["writes"] += 1
    return figures


def measure() -> Figures:
    """A move without hosts, one while they write all over the disk, one while they read."""
    load = build_load()
    figures: Figures = {}
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segue-bench-") as name,
        ExitStack() as s,
    ):
        folder = Path(name)
        room = room_bytes(1, SIZE_BYTES) + MIB
        uris, logs = zip(*(s.enter_context(logged(folder, n, room)) for n in "ab"), strict=True)
        made = s.enter_context(disk_on_two(folder, 1, SIZE_BYTES, None, *uris))
        mover = Mover(made, 0.02)
        trace = folder / "trace"

        def beside(operation: str) -> int:
            move: Callable[[], None] = lambda: mover.move(RATE)  # noqa: E731
            felt = while_doing(load, agent_of(made), operation, DEPTH, SIZE_BYTES, trace, move)
            return len(felt.trace.rows) * IO_BYTES if operation == "write" else 0

        for turn, operation in enumerate(("none", "write", "read")):
            time.sleep(1.0)  # what an earlier move has left to be cleaned
            begin = [log.stat().st_size for log in logs]
            host_bytes = beside(operation) if operation != "none" else mover.move(RATE) or 0
            at = [arrived(log, place) for log, place in zip(logs, begin, strict=True)]
            data_bytes = sum(each["data_bytes"] for each in at)
            figures[operation] = {
                "moved_bytes": SIZE_BYTES,
                "host_bytes": host_bytes,
                "source": at[turn % 2],
                "destination": at[1 - turn % 2],
                "extra_per_byte_moved": round((data_bytes - host_bytes) / SIZE_BYTES, 4),
            }
    return figures
