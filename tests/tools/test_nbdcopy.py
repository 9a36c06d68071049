"""nbdcopy moves a file in and out again, byte for byte, whichever agent it asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segue.installation import Installation
from tests.tools.conftest import MIB, Tool


def test_a_file_comes_back(
    installation: Installation, nbdcopy: Tool, folder: Path, random_file: Callable[[int], Path]
) -> None:
    source = random_file(64 * MIB)
    nbdcopy("--flush", source, installation.uri("disk", "one"))
    nbdcopy(installation.uri("disk", "one"), folder / "out")
    assert (folder / "out").read_bytes() == source.read_bytes()


def test_it_comes_back_through_another_agent(
    installation: Installation, nbdcopy: Tool, folder: Path, random_file: Callable[[int], Path]
) -> None:
    source = random_file(64 * MIB)
    installation.start_agent("two")
    nbdcopy(source, installation.uri("disk", "one"))
    nbdcopy(installation.uri("disk", "two"), folder / "out")
    assert (folder / "out").read_bytes() == source.read_bytes()


def test_a_disk_copies_to_a_disk_and_holes_stay_holes(
    installation: Installation, nbdcopy: Tool, qemu_io: Tool
) -> None:
    installation.client.create_disk("copy", 64 * MIB)
    disk, copy = (installation.uri(name, "one") for name in ("disk", "copy"))
    qemu_io("-f", "raw", "-c", "write -P 9 3M 100k", disk)
    nbdcopy(disk, copy)
    qemu_io("-f", "raw", "-c", "read -P 9 3M 100k", "-c", "read -P 0 4M 60M", copy)
    assert installation.client.disk("copy").mapped_segments == 1
