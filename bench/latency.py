"""Latencies of single I/Os while something else goes on: the load client's traces."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from servers import Server

IO_BYTES = 4096
LEAD_S = 0.5
"""The load runs so long before and after what it is to feel."""


class Trace(NamedTuple):
    """Each I/O's end (ns of CLOCK_BOOTTIME), latency (ns) and offset (bytes)."""

    rows: NDArray[np.int64]

    def within(self, begun_ns: int, ended_ns: int) -> Trace:
        """Those that ended in this time."""
        at = self.rows[:, 0]
        return Trace(self.rows[(at >= begun_ns) & (at < ended_ns)])

    def percentiles(self) -> dict[str, float]:
        """Microseconds."""
        took = self.rows[:, 1] / 1e3
        if not len(took):
            return {"count": 0}
        names = {"p50_us": 50, "p99_us": 99, "p999_us": 99.9, "p9999_us": 99.99, "max_us": 100}
        figures = {name: round(float(np.percentile(took, at)), 1) for name, at in names.items()}
        return {**figures, "count": len(took)}


class Felt(NamedTuple):
    """What the host felt while something was done."""

    trace: Trace
    begun_ns: int
    ended_ns: int

    @property
    def during(self) -> Trace:
        """The I/Os that ended while it was done."""
        return self.trace.within(self.begun_ns, self.ended_ns)


def boottime_ns() -> int:
    """As in the traces."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def while_doing(
    load: Path,
    server: Server,
    operation: str,
    depth: int,
    extent_bytes: int,
    trace: Path,
    act: Callable[[], Any],
) -> Felt:
    """4 KiB random I/O within the first `extent_bytes` while `act` lasts, and a bit longer."""
    words = [f"{load}/load", server.address, f"{server.pid}", operation, "random", f"{IO_BYTES}"]
    words += [f"{depth}", "0", "1", f"{extent_bytes}", str(trace)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        time.sleep(LEAD_S)
        begun_ns = boottime_ns()
        act()
        ended_ns = boottime_ns()
        time.sleep(LEAD_S)
        running.communicate()
        if running.returncode:
            raise RuntimeError("the load client failed")
    rows = np.fromfile(trace, dtype=np.int64, sep=" ").reshape(-1, 3)
    return Felt(Trace(rows), begun_ns, ended_ns)
