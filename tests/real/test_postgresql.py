"""PostgreSQL on a Segue disk: every acknowledged commit is there after kill -9 and loss of power.

The disk's container forgets, when told, an arbitrary part of what was not flushed
(`forgetful+file://`); the server's own view through the kernel's page cache proves nothing, so
everything is read again after a new mount.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from segue import _native
from segue.installation import Installation
from tests.real.mounts import QemuLoop, drop_caches, mounted
from tests.real.postgresql import SCHEMA, Load, Server
from tests.tools.conftest import MIB, Tool

DISK_BYTES = 256 * MIB
CUTS, TRIES = 2, 8
"""Losses of power that hit something not flushed; one may find all flushed just then."""
COMMITS = 200
"""Acknowledged before each kill."""


@pytest.fixture(scope="module")
def forgetful(place: Path) -> Iterator[tuple[Installation, str]]:
    """A controller, agent *one*, disk *pg* on a container that forgets; the container's URI."""
    uri = f"forgetful+file://{place}/forgetful"
    with Installation(place / "data") as made:
        made.start_controller()
        made.start_agent("one")
        made.client.add_container("left", uri, 2 * DISK_BYTES)
        made.client.create_disk("pg", DISK_BYTES)
        yield made, uri
        made.stop()


def test_every_commit_is_there(forgetful: tuple[Installation, str], place: Path) -> None:
    installation, uri = forgetful
    server = Server(place / "mnt" / "pg", place)
    load = Load(server, place)
    with QemuLoop(installation, "pg", "one", place) as loop:
        Tool("mkfs.ext4")("-q", loop.device)
        with mounted(loop.device, place / "mnt"), server:
            server.initialize()
            server.start()
            server.sql(SCHEMA)
            load.start()
            load.wait_for(COMMITS)
            kill_both(installation, load)
            server.kill()
        load.end()
    cuts = 0
    for seed in range(TRIES):
        drop_caches()
        cuts += lose_power(installation, uri, server, load, place, seed) > 0
        if cuts == CUTS:
            break
    assert cuts == CUTS
    drop_caches()
    with (
        QemuLoop(installation, "pg", "one", place) as loop,
        mounted(loop.device, place / "mnt"),
        server,
    ):
        server.start()
        assert load.compare() >= load.committed() >= 7 * COMMITS
        server.check()


def kill_both(installation: Installation, load: Load) -> None:
    """kill -9 of agent and controller under the load: no client sees an error."""
    installation.agents["one"].kill()
    installation.start_agent("one")
    load.wait_for(COMMITS)
    installation.controller.kill()
    installation.start_controller()
    load.wait_for(COMMITS)


def lose_power(
    installation: Installation, uri: str, server: Server, load: Load, place: Path, seed: int
) -> int:
    """Recover, compare, go on; then everything dies at once, and the container forgets.

    The blocks that were not flushed then.
    """
    with (
        QemuLoop(installation, "pg", "one", place) as loop,
        mounted(loop.device, place / "mnt"),
        server,
    ):
        server.start()
        load.compare()
        load.start()
        with ThreadPoolExecutor(1) as thread:
            written = thread.submit(write_and_never_flush, place / "mnt" / "beside")
            load.wait_for(2 * COMMITS)
            # It would flush what an agent that it sees die may have written.
            installation.controller.kill()
            installation.agents["one"].kill()
            loop.kill()
            server.kill()
            load.end()
            assert written.result() > 0
    unflushed_blocks, sectors = _native.container_power_loss(uri, seed)
    print(f"{unflushed_blocks} blocks were not flushed, {sectors} sectors of them are lost")
    installation.start_controller()
    installation.start_agent("one")
    return unflushed_blocks


def write_and_never_flush(path: Path) -> int:
    """Keep the disk from ever being flushed whole; writes that succeeded before one failed."""
    page = mmap.mmap(-1, mmap.PAGESIZE * 16)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    try:
        for written in itertools.count():
            try:
                os.pwrite(fd, page, written % 256 * len(page))
            except OSError:
                return written
    finally:
        os.close(fd)
    raise AssertionError
