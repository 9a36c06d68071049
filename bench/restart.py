"""Back at work: a table of a million entries checkpointed and loaded; a controller killed.

The table is that of a 1 TiB disk, all mapped, in random order.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from servers import MIB

from segue import _native
from segue.controller.changes import (
    Allocated,
    ContainerAdded,
    DiskMade,
    InstallationMade,
    encode_changes,
)
from segue.controller.checkpoint import checkpoint_steps, encode_table, load_table, next_step
from segue.controller.record import location_of
from segue.controller.table import Table
from segue.installation import Installation
from segue.store.contract import Loaded

ENTRIES = 1 << 20
GROUP = 256


def mapped_table() -> Table:
    """1 TiB of 1 MiB segments, each with an extent of its own."""
    table = Table()
    container = ContainerAdded(
        1, "c", "file:///c", bytes(16), MIB, ENTRIES + GROUP, "page", 1, True
    )
    disk = DiskMade(1, "disk", ENTRIES * MIB, MIB, 4096, [1])
    table.replay(encode_changes([InstallationMade(bytes(16)), container, disk]))
    segments = random.Random(1).sample(range(ENTRIES), ENTRIES)
    for at in range(0, ENTRIES, GROUP):
        group = range(at, at + GROUP)
        table.replay(
            encode_changes(
                [Allocated(1, segments[n], n + 1, location_of(1, n), False) for n in group]
            )
        )
    return table


def checkpoint_and_load() -> dict[str, float]:
    """What a checkpoint of all pages costs, its longest step, and a load."""
    table = mapped_table()
    steps, longest, begun = checkpoint_steps(table), 0.0, time.perf_counter()
    while True:
        step_begun = time.perf_counter()
        encoded = next_step(steps)
        longest = max(longest, time.perf_counter() - step_begun)
        if encoded is not None:
            break
    figures = {
        "entries": ENTRIES,
        "pages": len(encoded.pages),
        "checkpoint_ms": (time.perf_counter() - begun) * 1e3,
        "longest_step_ms": longest * 1e3,
    }
    durable = dict(encoded.pages)
    root = encode_table(table).root
    begun, cpu = time.perf_counter(), time.process_time()
    load_table(
        Loaded(2, table.number, table.number, root, [], lambda ids: [durable[i] for i in ids])
    )
    figures["load_s"] = time.perf_counter() - begun
    figures["load_cpu_s"] = time.process_time() - cpu
    return {name: round(value, 2) for name, value in figures.items()}


def killed(rounds: int) -> dict[str, list[float]]:
    """Seconds from the start of a controller, killed before, to a fault's answer and to the API's.

    And from the start of an agent, killed before, until it serves.
    """
    faults, apis, agents = [], [], []
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segue-bench-") as folder,
        Installation(Path(folder) / "data") as made,
    ):
        made.start_controller()
        made.start_agent("bench")
        made.client.add_container("c", f"file://{folder}/c", 1 << 30)
        made.client.create_disk("disk", 64 * MIB)
        for turn in range(rounds):
            disk = _native.NbdClient(made.socket("bench"), "disk")
            disk.pwrite(bytes(4096), 0)
            made.controller.kill()
            begun = time.monotonic()
            made.controller.start()
            # A segment never written: the controller must answer its fault.
            disk.pwrite(bytes(4096), (turn + 1) * MIB)
            faults.append(round(time.monotonic() - begun, 2))
            made.wait_for_controller()
            apis.append(round(time.monotonic() - begun, 2))
            disk.close()
            made.agents["bench"].kill()
            agents.append(round(made.start_agent("bench"), 2))
    return {"fault_s": faults, "api_s": apis, "agent_s": agents}


def measure(rounds: int) -> dict[str, object]:
    """Both."""
    return {"table": checkpoint_and_load(), "killed": killed(rounds)}
