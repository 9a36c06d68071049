"""What an agent costs that nobody uses: CPU, memory, and the table of an untouched large disk.

It has two containers open: a file, and an export of nbdkit, where a disk was written to once.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from servers import nbdkit

from segue import _native
from segue.installation import Installation, Process

DISK_BYTES = 64 << 40


def cpu_s(process: Process) -> float:
    """CPU time of all threads so far (schedstat: nanoseconds, not ticks)."""
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def resident_mib(process: Process) -> float:
    """Resident memory."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith("VmRSS"))
    return int(found.split()[1]) / 1024


def measure(seconds: float) -> dict[str, float]:
    """An idle agent and controller; disks of 64 TiB, attached to hosts that say nothing."""
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segue-bench-") as folder,
        nbdkit(Path(folder) / "nbdkit", "memory", "1G") as uri,
        Installation(Path(folder) / "data") as made,
    ):
        made.start_controller()
        made.start_agent("bench")
        made.client.add_container("remote", uri, 0)
        made.client.create_disk("far", DISK_BYTES)
        far = _native.NbdClient(made.socket("bench"), "far")
        far.pwrite(bytes(4096), 0)
        made.client.add_container("c", f"file://{folder}/c", 1 << 30)
        made.client.create_disk("disk", DISK_BYTES)
        disk = _native.NbdClient(made.socket("bench"), "disk")
        disk.pread(4096, DISK_BYTES - 4096)
        agent = made.agents["bench"]
        before = cpu_s(agent), cpu_s(made.controller)
        time.sleep(seconds)
        after = cpu_s(agent), cpu_s(made.controller)
        figures = {
            "agent_cpu_percent": (after[0] - before[0]) / seconds * 100,
            "controller_cpu_percent": (after[1] - before[1]) / seconds * 100,
            "agent_mib": resident_mib(agent),
            "controller_mib": resident_mib(made.controller),
        }
        disk.close()
        far.close()
    return {name: round(value, 4) for name, value in figures.items()}
