"""E2: what one sync costs here: bare writes, and SQLite commits with a growing and a reused WAL."""

import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable

N = 1000


def measure(name: str, act: Callable[[int], object]) -> None:
    """Print p50 and p99 of N runs."""
    times = []
    for i in range(N):
        start = time.perf_counter_ns()
        act(i)
        times.append(time.perf_counter_ns() - start)
    times.sort()
    print(f"{name:44} p50 {times[N // 2] // 1000:5} us  p99 {times[N * 99 // 100] // 1000:6} us")


def sqlite(folder: str, name: str, reuse: bool, size: int) -> None:
    """Commits of one row of `size` bytes; `reuse`: into a WAL that was filled once before."""
    db = sqlite3.connect(os.path.join(folder, f"{name}{reuse}{size}.db"), isolation_level=None)
    db.execute("pragma journal_mode=wal")
    db.execute("pragma synchronous=full")
    db.execute("pragma wal_autocheckpoint=0")
    db.execute("create table log(number integer primary key, body blob)")

    def commit(i: int) -> None:
        db.execute("begin immediate")
        db.execute("insert into log(body) values (?)", (bytes(size),))
        db.execute("commit")

    if reuse:
        for i in range(2 * N):
            commit(i)
        db.execute("pragma wal_checkpoint(restart)")
    measure(f"sqlite commit {size} B, WAL {'reused' if reuse else 'growing'}", commit)
    db.close()


def main() -> None:
    """Everything, in a folder on the disk asked about."""
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        fd = os.open(os.path.join(folder, "data"), os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(fd, bytes(4 * N << 10), 0)
        os.fsync(fd)
        block = bytes(4096)
        measure(
            "pwritev2 RWF_DSYNC 4 KiB, overwrite",
            lambda i: os.pwritev(fd, [block], i * 4096, os.RWF_DSYNC),
        )

        def write_sync(i: int) -> None:
            os.pwrite(fd, block, i * 4096)
            os.fdatasync(fd)

        measure("pwrite + fdatasync 4 KiB, overwrite", write_sync)
        grow = os.open(os.path.join(folder, "grow"), os.O_RDWR | os.O_CREAT, 0o600)

        def append_sync(i: int) -> None:
            os.write(grow, block)
            os.fdatasync(grow)

        measure("append + fdatasync 4 KiB", append_sync)
        for size in (100, 10_000):
            for reuse in (False, True):
                sqlite(folder, "probe", reuse, size)


if __name__ == "__main__":
    main()
