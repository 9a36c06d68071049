"""A process dies at each failpoint while hosts write at two agents: every byte is right."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest

from segue.failpoints import POINTS, VARIABLE
from segue.host import Host, Tally
from segue.installation import Installation, wait_until

SEGMENT_BYTES = 64 << 10
RUN_BYTES = 4 * SEGMENT_BYTES
DISK_BYTES = 8 << 20
CONTAINER_BYTES = (9 << 20) + (256 << 10)
"""A little more than the disk: soon no clean location is left..."""
FAULTS = "delay zero 100000\n"
"""... since zeroing freed ones takes its time: writes need a `do_write`."""
STEPS = 400
TIMES = {
    "term.begun": 1,
    "stamp.written": 1,
    "attach.committed": 2,
    "detach.deleted": 1,
    "checkpoint.before": 2,
    "checkpoint.durable": 2,
    "clean.begun": 1,
    "clean.zeroed": 1,
    "complete.copied": 2,
    "complete.piece_copied": 2,
    "split_read.done": 1,
    "do_write.done": 3,
    "do_write.committed": 3,
}
OFTEN = 20
"""Passages of the other places before the process dies there."""


WITH_JOBS = ("movement.", "job.", "flush_set.", "do_write.closed", "complete.")
WITH_VERBS = ("remove.", "resize.")
WITH_FAILURES = ("note.",)
"""Places that only jobs come to, or an operator's verbs, or what follows a failed flush."""
POINTS_HERE = [
    point
    for point in POINTS
    if not point.startswith(WITH_JOBS + WITH_VERBS + WITH_FAILURES)
    or point in ("complete.copied", "complete.piece_copied")
]


@pytest.mark.parametrize("point", POINTS_HERE)
def test_every_byte_is_right(folder: Path, point: str) -> None:
    armed = {VARIABLE: f"{point}=kill:{TIMES.get(point, OFTEN)}"}
    victim = "one" if point.startswith("agent.") else "controller"
    args = ["--segment-size", "64K", "--checkpoint-log", "1K", "--lease", "3"]
    with Installation(folder / "data", args) as installation:
        installation.start_controller()
        for name in ("one", "two"):
            installation.start_agent(name)
        (folder / "left.faults").write_text(FAULTS)
        uri = f"faulty+file://{folder}/left"
        installation.client.add_container("left", uri, CONTAINER_BYTES)
        installation.client.create_disk("disk", DISK_BYTES)
        process = installation.controller
        if victim == "controller":
            process.kill()
            process.start(**armed)
        else:
            process = installation.agents[victim]
            process.kill()
            process.start(**armed)
        image, tally = bytearray(DISK_BYTES), Tally()
        hosts = [
            Host(installation.uri("disk", name), "disk", image, tally) for name in ("one", "two")
        ]
        threads = [threading.Thread(target=_work, args=(host, n)) for n, host in enumerate(hosts)]
        for thread in threads:
            thread.start()
        wait_until(
            f"{victim} to die at {point}",
            lambda: not process.running or not any(thread.is_alive() for thread in threads),
        )
        if process.running:  # Some places are passed only when a host leaves, or now and then.
            wait_until(f"{victim} to die at {point}", lambda: not process.running, 20)
        process.start()
        for thread in threads:
            thread.join()
        for name in ("one", "two"):
            Host(installation.uri("disk", name), "disk", image, tally).compare_all()
        assert tally.wrong == []
        assert tally.writes + tally.zeroes + tally.reads >= 2 * STEPS
        installation.stop()


def _work(host: Host, number: int) -> None:
    """Random requests in every other run of four segments; whole segments are given back."""
    rng = random.Random(number)
    try:
        for _ in range(STEPS):
            first = rng.randrange(number, DISK_BYTES // RUN_BYTES, 2) * RUN_BYTES
            kind = rng.random()
            if kind < 0.3:
                count = rng.randrange(1, 5)
                host.zero(first + rng.randrange(5 - count) * SEGMENT_BYTES, count * SEGMENT_BYTES)
                continue
            start = rng.randrange(RUN_BYTES)
            length = min(rng.choice((700, 4096, 20_000, RUN_BYTES)), RUN_BYTES - start)
            if kind < 0.5:
                host.compare(first + start, length)
            else:
                host.write(first + start, rng.randbytes(length), fua=rng.random() < 0.1)
        host.flush()
    finally:
        host.close()
