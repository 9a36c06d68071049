"""When all containers are full a first write gets ENOSPC, alone, and goes on once there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segue.installation import Installation
from tests.tools.conftest import MIB, Shell, segue


def test_enospc_for_that_write_alone(
    installation: Installation, folder: Path, shell: Callable[[str], Shell]
) -> None:
    client = installation.client
    client.create_disk("big", 512 * MIB)
    host = shell(installation.uri("big", "one"))
    held = client.container("left").segments
    host.say(f"write -P 1 0 {held}M")
    assert client.container("left").free_segments == 0
    [problem] = client.status().problems
    assert problem.startswith("container left is full")
    assert "No space left" in host.try_to(f"write -P 2 {held}M 4k")
    host.say("write -P 3 0 1M")
    host.say(f"read -P 0 {held}M 1M")
    # Space given back serves the next write, whose neighbours read as zeroes.
    host.say("write -z -u 1M 1M")
    host.say(f"write -P 2 {held}M 4k")
    host.say(f"read -P 0 {held * MIB + 4096} {MIB - 4096}")
    # And so does another container.
    client.add_container("right", f"file://{folder}/right", 64 * MIB)
    host.say(f"write -P 4 {held + 1}M 8M")
    host.say("flush")
    host.say(f"read -P 4 {held + 1}M 8M")
    host.say("read -P 3 0 1M")
    host.say(f"read -P 1 2M {held - 2}M")


@pytest.fixture
def small(folder: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    path = folder / "small"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("needs root, to mount a small tmpfs")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_file_system_that_fills_up_under_a_container(
    installation: Installation, small: Path, shell: Callable[[str], Shell]
) -> None:
    """FREE is what there is; more is a note when the container is made, and a problem later."""
    client = installation.client
    uri = f"file://{small}/thin"
    words = ("container", "add", "thin", uri, "--size", "65M", "--segment-size", "64K")
    done = segue(installation.data, *words)
    assert (done.returncode, done.stdout) == (0, "container thin: 1024 segments, 64M\n")
    assert "note: " in done.stderr
    assert "left on its file system" in done.stderr
    info = client.container("thin")
    assert info.free_segments == 1024
    assert 8 * MIB < info.free_bytes < 12 * MIB
    assert info.file_system_free_bytes is not None
    assert info.file_system_short_bytes > 50 * MIB
    assert client.status().problems == []
    # What Segue has written and does not use any more is free, whoever fills the file system.
    client.create_disk("on", 32 * MIB, segment_bytes=64 << 10)
    host = shell(installation.uri("on", "one"))
    host.say("write -P 1 0 4M")
    with open(small / "other", "wb") as other, pytest.raises(OSError, match="No space left"):
        while True:
            other.write(bytes(64 << 10))
            other.flush()
    info = client.container("thin")
    assert info.free_bytes < MIB < info.free_segments * info.segment_bytes
    listed = segue(installation.data, "container", "list").stdout.splitlines()[-1].split()
    assert listed[3] != "60M"
    [problem] = client.status().problems
    assert problem.startswith("the file system under container thin has ")
    assert "all that its file system has for 60M" in (
        segue(installation.data, "container", "show", "thin").stdout
    )
    (small / "other").unlink()
    assert client.status().problems == []
