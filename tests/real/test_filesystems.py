"""ext4, xfs and btrfs on Segue disks: made, filled, unmounted, caches dropped, every byte checked.

Once over nbdfuse (`segue attach`), and once over QEMU's FUSE export, with kill -9 of the agent and
of the controller while files are written.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from segue.installation import Installation, wait_until
from tests.real.mounts import (
    FILESYSTEMS,
    Filesystem,
    QemuLoop,
    Tree,
    attached,
    drop_caches,
    mounted,
)
from tests.tools.conftest import MIB, Tool

DISK_BYTES = 384 * MIB
"""mkfs.xfs takes no less than 300 MiB."""
FILES_BYTES = 40 * MIB
KILLS_AT_BYTES = {8 * MIB: "agent", 16 * MIB: "controller", 24 * MIB: "agent"}


@pytest.mark.parametrize("fs", FILESYSTEMS.values(), ids=FILESYSTEMS)
def test_over_nbdfuse(segue_here: Installation, place: Path, fs: Filesystem) -> None:
    disk = f"fuse-{fs.name}"
    segue_here.client.create_disk(disk, DISK_BYTES)
    tree = Tree(1)
    with attached(segue_here, disk) as device:
        Tool(fs.make[0])(*fs.make[1:], device)
        with mounted(device, place / disk) as folder:
            tree.grow(folder, lambda: tree.written_bytes >= FILES_BYTES // 2)
        with mounted(device, place / disk) as folder:
            tree.grow(folder, lambda: tree.written_bytes >= FILES_BYTES)
    look_over(segue_here, place, disk, fs, tree)


@pytest.mark.parametrize("fs", FILESYSTEMS.values(), ids=FILESYSTEMS)
def test_agent_and_controller_killed(segue_here: Installation, place: Path, fs: Filesystem) -> None:
    disk = f"qemu-{fs.name}"
    segue_here.client.create_disk(disk, DISK_BYTES)
    tree = Tree(2)
    with QemuLoop(segue_here, disk, "one", place) as loop:
        Tool(fs.make[0])(*fs.make[1:], loop.device)
        with mounted(loop.device, place / disk) as folder, ThreadPoolExecutor(1) as thread:
            killed = threading.Event()

            def enough() -> bool:
                return killed.is_set() and tree.written_bytes >= FILES_BYTES

            growing = thread.submit(tree.grow, folder, enough)
            try:
                for at_bytes, victim in KILLS_AT_BYTES.items():
                    wait_for_bytes(tree, at_bytes, growing)
                    kill(segue_here, victim)
            finally:
                killed.set()
            growing.result()
    look_over(segue_here, place, disk, fs, tree)


def wait_for_bytes(tree: Tree, wanted_bytes: int, growing: Future[None]) -> None:
    """Until the tree has written so much, or failed."""
    wait_until("files", lambda: tree.written_bytes >= wanted_bytes or growing.done())
    if growing.done():
        growing.result()


def kill(installation: Installation, victim: str) -> None:
    """kill -9, and start it again."""
    if victim == "agent":
        installation.agents["one"].kill()
        installation.start_agent("one")
    else:
        installation.controller.kill()
        installation.start_controller()


def look_over(
    installation: Installation, place: Path, disk: str, fs: Filesystem, tree: Tree
) -> None:
    """Every byte, read from the storage through a new device; then the filesystem's own check."""
    drop_caches()
    with attached(installation, disk, "--read-only") as device:
        with mounted(device, place / disk, "ro") as folder:
            tree.compare(folder)
        Tool(fs.check[0])(*fs.check[1:], device)
