"""What the figures were measured on: no names, no paths."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path


def describe() -> dict[str, object]:
    """Processor, memory, kernel, file system of the files, versions, and how busy it was."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", info)
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    kind = subprocess.run(
        ["stat", "--file-system", "--format=%T", "/var/tmp"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cpus": os.cpu_count(),
        "processor": model.group(1) if model else platform.machine(),
        "memory_gib": round(int(memory.group(1)) / (1 << 20)) if memory else 0,
        "virtual": "hypervisor" in info,
        "kernel": platform.release(),
        "file_system": kind.stdout.strip(),
        "python": platform.python_version(),
        "load_average": [round(each, 2) for each in os.getloadavg()],
        "peers": {tool: version(tool) for tool in ("nbdkit", "qemu-nbd", "qemu-storage-daemon")},
    }


def version(tool: str) -> str:
    """The number a tool gives of itself."""
    out = subprocess.run([tool, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"\d+\.\d+(\.\d+)?", out)
    return found.group(0) if found else ""
