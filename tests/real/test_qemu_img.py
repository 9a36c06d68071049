"""qemu-img's convert, compare and map against Segue's exports."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from segue.installation import Installation
from tests.tools.conftest import MIB, Tool

DISK_BYTES = 64 * MIB
SEGMENT_BYTES = MIB
RUNS = {0: 3 * MIB, 5 * MIB + 4096: 8192, 20 * MIB: 10 * MIB, 63 * MIB + 12345: 7}
"""What the image holds: offset -> bytes."""


@pytest.fixture(scope="module")
def qemu_img() -> Tool:
    return Tool("qemu-img")


@pytest.fixture(scope="module")
def qemu_io() -> Tool:
    return Tool("qemu-io")


@pytest.fixture(scope="module")
def image(place: Path) -> Path:
    """A sparse raw image of runs of random bytes."""
    path, rng = place / "image", random.Random(1)
    with open(path, "wb") as out:
        out.truncate(DISK_BYTES)
        for offset, length in RUNS.items():
            out.seek(offset)
            out.write(rng.randbytes(length))
    return path


def disk(installation: Installation, name: str) -> str:
    """A new disk's URI."""
    installation.client.create_disk(name, DISK_BYTES)
    return installation.uri(name, "one")


def mapped(installation: Installation, name: str) -> int:
    return installation.client.disk(name).mapped_segments


@pytest.mark.parametrize("way", [(), ("-W", "-m", "16"), ("--target-is-zero",), ("-S", "0")])
def test_convert_both_ways_and_compare(
    segue_here: Installation, place: Path, qemu_img: Tool, image: Path, way: tuple[str, ...]
) -> None:
    """In order, out of order with many under way, without zeroes, without looking for zeroes."""
    name = f"c{''.join(way)}"
    uri = disk(segue_here, name)
    qemu_img("convert", "-n", *way, "-f", "raw", "-O", "raw", image, uri)
    qemu_img("compare", "-f", "raw", "-F", "raw", image, uri)
    # Thin: the image's runs touch 15 segments.
    assert mapped(segue_here, name) == (DISK_BYTES // SEGMENT_BYTES if "-S" in way else 15)
    back = place / "back.qcow2"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", uri, back)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", image, back)
    qemu_img("convert", "-n", "-f", "qcow2", "-O", "raw", back, uri)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", uri, back)


def test_compare_names_the_first_wrong_byte(
    segue_here: Installation, qemu_img: Tool, qemu_io: Tool, image: Path
) -> None:
    uri = disk(segue_here, "wrong")
    qemu_img("convert", "-n", "-f", "raw", "-O", "raw", image, uri)
    qemu_io("-f", "raw", "-c", "write -P 7 10M 512", uri)
    done = qemu_img("compare", "-f", "raw", "-F", "raw", image, uri, ok=False)
    assert done.returncode == 1
    assert f"mismatch at offset {10 * MIB}" in done.stdout


def test_map_tells_holes_from_data(segue_here: Installation, qemu_img: Tool, image: Path) -> None:
    uri = disk(segue_here, "map")
    qemu_img("convert", "-n", "-f", "raw", "-O", "raw", image, uri)
    extents = json.loads(qemu_img("map", "--output=json", "-f", "raw", uri).stdout)
    assert [one["start"] for one in extents] == [
        0,
        *(one["start"] + one["length"] for one in extents[:-1]),
    ]
    assert extents[-1]["start"] + extents[-1]["length"] == DISK_BYTES
    touched = {
        segment
        for offset, length in RUNS.items()
        for segment in range(offset // SEGMENT_BYTES, (offset + length - 1) // SEGMENT_BYTES + 1)
    }
    data = {
        start // SEGMENT_BYTES
        for one in extents
        if one["data"]
        for start in range(one["start"], one["start"] + one["length"], SEGMENT_BYTES)
    }
    assert data == touched
    assert all(one["zero"] != one["data"] for one in extents)
