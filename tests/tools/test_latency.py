"""How long hosts wait, as agents measured it, and movement held back by it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from segue.api.jobs import JobInfo
from segue.api.latency import LatencyInfo
from segue.client import Client
from segue.controller.pacing import SLOWEST
from segue.host import MIB, Host, Tally
from segue.installation import Installation, wait_until

DISK_BYTES = 64 * MIB
RATE = 8 * MIB
"""Bandwidth of the jobs: slow enough that hosts' latency is looked at while they run."""


@contextmanager
def load(installation: Installation) -> Iterator[Tally]:
    """A host that reads and writes 4 KiB all over the disk, all of which it has written before."""
    tally, stopped = Tally(), threading.Event()
    host = Host(installation.uri("disk", "one"), "disk", bytearray(DISK_BYTES), tally)
    rng = random.Random(1)
    host.write(0, rng.randbytes(DISK_BYTES // 2))
    host.write(DISK_BYTES // 2, rng.randbytes(DISK_BYTES // 2))

    def work() -> None:
        while not stopped.is_set():
            at = rng.randrange(DISK_BYTES // 4096) * 4096
            host.compare(at, 4096) if rng.random() < 0.5 else host.write(at, rng.randbytes(4096))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield tally
    finally:
        stopped.set()
        thread.join()
        host.close()
    assert tally.wrong == []


def kinds(rows: list[LatencyInfo]) -> dict[tuple[str, str], int]:
    """(Operation, cause) -> how many."""
    return {(row.operation, row.cause): row.count for row in rows}


def test_hosts_io_is_counted_by_operation_and_cause_at_each_agent(
    installation: Installation,
) -> None:
    installation.start_agent("two")
    client, image = installation.client, bytearray(DISK_BYTES)
    assert client.disk_latency("disk").rows == []
    one, two = (
        Host(installation.uri("disk", agent), "disk", image, Tally()) for agent in ("one", "two")
    )
    one.compare(0, 4096)
    two.compare(0, 4096)  # both have the disk: what follows is not disturbed by an attachment
    one.write(0, bytes(4096))
    for _ in range(3):
        one.write(4096, b"x" * 4096)
    for _ in range(3):
        two.compare(0, 4096)
    one.flush()

    info = client.disk_latency("disk")
    assert (info.agents, info.silent) == (["one", "two"], [])
    assert kinds(info.rows) == {
        ("read", "clean"): 2,
        ("read", "faulted"): 3,
        ("write", "clean"): 3,
        ("write", "faulted"): 1,
        ("flush", "clean"): 1,
    }
    for row in info.rows:
        assert 0 < row.p50_us <= row.p99_us <= row.p999_us <= row.p9999_us <= row.max_us
        assert row.mean_us <= row.max_us
    [at_two] = client.agent_latency("two")
    assert at_two.disk == "disk"
    assert kinds(at_two.rows) == {("read", "clean"): 2, ("read", "faulted"): 2}

    two.close()
    wait_until("agent two's table to be gone", lambda: client.disk("disk").agents == ["one"])
    assert kinds(client.disk_latency("disk").rows)["read", "clean"] == 2, "counts outlive hosts"
    installation.agents["two"].kill()
    wait_until("agent two's end", lambda: client.disk_latency("disk").agents == ["one"])
    assert kinds(client.disk_latency("disk").rows)["write", "clean"] == 3
    one.close()


def seen(client: Client, number: int, wanted: Callable[[JobInfo], bool]) -> JobInfo:
    """A job as it was when it was so."""
    info = client.job(number)

    def is_so() -> bool:
        nonlocal info
        info = client.job(number)
        return wanted(info)

    wait_until(f"job {number}", is_so)
    return info


def test_a_job_is_held_back_while_hosts_wait_longer_than_its_bound(folder: Path) -> None:
    with Installation(folder / "data", ("--segment-size", "64K")) as installation:
        installation.start_controller()
        installation.start_agent("one")
        client = installation.client
        client.add_container("left", f"file://{folder}/left", 2 * DISK_BYTES)
        client.add_container("right", f"file://{folder}/right", 2 * DISK_BYTES)
        client.create_disk("disk", DISK_BYTES)
        with load(installation):
            tight = client.move_disk("disk", "right", bandwidth=RATE, latency_us=1).job
            info = seen(client, tight, lambda job: job.allowed_bytes_per_s == SLOWEST)
            assert (info.state, info.left_bytes > 0) == ("running", True)
            assert info.felt_us is not None
            assert info.felt_us > 1
            assert info.reason.startswith("held back: hosts of disk wait ")
            assert info.reason.endswith(" ms (p99), more than 0.001 ms")
            client.cancel_job(tight)
            wait_until("the end", lambda: client.job(tight).state == "cancelled")

            loose = client.move_disk("disk", "right", bandwidth=RATE, latency_us=59_000_000).job
            info = seen(client, loose, lambda job: job.felt_us is not None)
            assert (info.allowed_bytes_per_s, info.reason) == (None, "")
            client.cancel_job(loose)
            wait_until("the end", lambda: client.job(loose).state == "cancelled")

            free = client.move_disk("disk", "left").job
            wait_until("the move", lambda: client.job(free).state != "running")
            assert client.job(free).state == "done"
        installation.stop()
