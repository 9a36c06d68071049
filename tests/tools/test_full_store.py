"""The store's file system fills up: commits wait, all else goes on, and nothing is lost."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, Shell, segue

LEASE_S = 2.0


@pytest.fixture
def small(folder: Path) -> Iterator[Path]:
    """A file system of 24 MiB; the controller's log is written elsewhere."""
    path = folder / "data"
    path.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    (path / "controller.log").symlink_to(folder / "controller.log")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def installation(small: Path, folder: Path) -> Iterator[Installation]:
    """Its store is on the small file system, its container is not."""
    with Installation(small, ["--lease", str(LEASE_S)]) as made:
        made.start_controller()
        made.start_agent("one")
        made.client.add_container("left", f"file://{folder}/left", 256 * MIB)
        made.client.create_disk("disk", 128 * MIB)
        yield made
        made.stop()


def fill(folder: Path) -> Path:
    """A file that takes all room there is, to the last byte."""
    path = folder / "ballast"
    with open(path, "ab", buffering=0) as ballast:
        for size in (MIB, 4096, 1):
            try:
                while ballast.write(bytes(size)):
                    pass
            except OSError:
                continue
    return path


def full_for_s(made: Installation) -> float:
    """For how long the store's file system has been full, as the status says; 0: it is not."""
    said = re.search(r"the store \(.*\) has been full for (\d+) s", str(made.client.status()))
    return float(said[1]) if said else 0.0


def events(made: Installation, event: str) -> int:
    """How often the controller's log has it."""
    return made.controller.log.read_text().count(f"event={event} ")


def test_commits_wait_and_clean_io_outlives_the_lease(
    installation: Installation, small: Path, shell: Callable[[str], Shell]
) -> None:
    """Promises P6 and P9."""
    host, other = (shell(installation.uri("disk", "one")) for _ in range(2))
    host.say("write -P 1 0 8M")
    host.say("flush")
    ballast = fill(small)
    other.begin("write -P 2 20M 4k")
    wait_until("the status to say so", lambda: full_for_s(installation) > 0)
    while full_for_s(installation) < 3 * LEASE_S:
        host.say("write -P 3 0 64k")
        host.say("read -P 3 0 64k")
        host.say("read -P 1 1M 64k")
        host.say("flush")
    # A first touch needs no commit.
    host.say("read -P 0 100M 4k")
    shown = segue(small, "status")
    assert shown.returncode == 1
    assert f"problem: the file system of the store ({small}/segue.db) has been full" in shown.stdout
    assert "1 thing waits for a commit" in shown.stdout
    assert "write of disk disk segment 20" in shown.stdout
    ballast.unlink()
    assert "wrote 4096/4096" in other.ended()
    wait_until("the status to say so", lambda: full_for_s(installation) == 0)
    host.say("read -P 2 20M 4k")
    host.say("write -P 4 30M 1M")
    assert installation.client.status().term == 1
    assert (events(installation, "store_full"), events(installation, "store_has_room")) == (1, 1)
    assert segue(small, "check").returncode == 0


def test_all_killed_while_it_is_full(
    installation: Installation, small: Path, shell: Callable[[str], Shell]
) -> None:
    """A start waits for room, can be stopped meanwhile, and finds all that was acknowledged."""
    host, other = (shell(installation.uri("disk", "one")) for _ in range(2))
    for segment in range(8):
        host.say(f"write -P {segment + 1} {segment}M 1M")
    ballast = fill(small)
    other.begin("write -P 9 20M 4k")
    wait_until("the status to say so", lambda: full_for_s(installation) > 0)
    host.say("write -P 10 0 1M")
    installation.controller.kill()
    installation.agents["one"].kill()

    def start(times: int) -> None:
        # What a stopped one has given back is taken again.
        fill(small)
        installation.controller.start()
        wait_until("it to wait for room", lambda: events(installation, "store_full") == times)

    start(2)
    assert installation.controller.stop() == 0
    start(3)
    installation.controller.must_run()
    ballast.unlink()
    installation.wait_for_controller()
    installation.start_agent("one")
    host = shell(installation.uri("disk", "one"))
    host.say("read -P 10 0 1M")
    for segment in range(1, 8):
        host.say(f"read -P {segment + 1} {segment}M 1M")
    host.say("write -P 11 20M 1M")
    assert installation.client.status().problems == []
    assert segue(small, "check").returncode == 0


def test_a_container_on_the_same_full_file_system(
    installation: Installation, small: Path, shell: Callable[[str], Shell]
) -> None:
    """A write into a hole gets ENOSPC, alone (promise P5); the controller lives."""
    installation.client.add_container(
        "thin", f"file://{small}/thin", 65 * MIB, segment_bytes=2 * MIB
    )
    installation.client.create_disk("on", 32 * MIB, segment_bytes=2 * MIB)
    host, other = (shell(installation.uri("on", "one")) for _ in range(2))
    host.say("write -P 1 0 2M")
    host.say("write -P 1 2M 4k")
    host.say("flush")
    ballast = fill(small)
    other.begin("discard 0 2M")
    wait_until("the status to say so", lambda: full_for_s(installation) > 0)
    while full_for_s(installation) < 2 * LEASE_S:
        assert "No space left" in host.try_to("write -P 2 2304k 64k")
        host.say("write -P 3 2M 4k")
        host.say("read -P 3 2M 4k")
        host.say("flush")
    ballast.unlink()
    assert "discard 2097152/2097152" in other.ended()
    host.say("write -P 2 2304k 64k")
    host.say("read -P 0 0 2M")
    host.say("read -P 3 2M 4k")
    assert installation.client.status().term == 1
    assert segue(small, "check").returncode == 0
