"""`segue down` does not pull the agent away from under a mounted filesystem."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.block_devices import BlockDevices, kernel_has_nbd
from segue.client import Client
from segue.installation import wait_until
from tests.tools.conftest import MIB, Tool, segue

pytestmark = pytest.mark.skipif(kernel_has_nbd(), reason="this kernel has its NBD client")


@pytest.fixture
def data(place: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """`segue up` there, and a disk *d*."""
    data = place / request.node.name.removeprefix("test_")
    done = segue(data, "up", "--detach", "--size", "257M")
    assert done.returncode == 0, done.stderr
    Client(str(data)).create_disk("d", 64 * MIB)
    yield data
    segue(data, "detach", "d")
    segue(data, "down", "--force")


def test_down_under_a_mounted_filesystem(data: Path, tmp_path: Path) -> None:
    Tool("nbdfuse")
    device = segue(data, "attach", "d").stdout.strip()
    Tool("mkfs.ext4")("-q", device)
    Tool("mount")(device, tmp_path)
    (tmp_path / "file").write_bytes(b"not flushed")
    done = segue(data, "down")
    Tool("umount")(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert f"attached from {data}: d as {device}." in line
    assert "umount what is mounted, then `segue detach d`, or say --force" in line
    assert segue(data, "detach", "d").returncode == 0
    assert segue(data, "down").returncode == 0


def test_down_by_force_and_of_what_is_no_longer_there(data: Path) -> None:
    Tool("nbdfuse")
    assert segue(data, "attach", "d").returncode == 0
    assert segue(data, "down").returncode == 1
    [one] = BlockDevices(str(data)).there()
    os.kill(one.pid, signal.SIGKILL)
    wait_until("nbdfuse to end", lambda: not BlockDevices(str(data)).there())
    assert segue(data, "down").returncode == 0
    assert segue(data, "up", "--detach").returncode == 0
    assert segue(data, "attach", "d").returncode == 0
    assert segue(data, "down", "--force").returncode == 0
