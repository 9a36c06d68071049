"""qemu-io's patterns at every edge of block and segment: nothing beside the edge changes."""

from __future__ import annotations

import pytest

from segue.installation import Installation
from tests.tools.conftest import MIB, Tool

KIB = 1 << 10
SEGMENT = MIB
EDGES = [4 * KIB, SEGMENT, 64 * MIB - SEGMENT]
"""A block's within a segment, a segment's, the last segment's."""
BEFORE_AND_LENGTH = [
    (1, 2),
    (512, 512),
    (512, 1024),
    (4096, 4096),
    (4096, 8192),
    (0, 1),
    (0, 4096),
    (100, 4096),
    (3, SEGMENT),
    (SEGMENT // 2, SEGMENT),
    (4096, SEGMENT + 8192),
]
BACKGROUND, PATTERN = 0x11, 0xA5


@pytest.mark.parametrize("onto", ["zero", "data"])
def test_writes_at_edges(installation: Installation, qemu_io: Tool, onto: str) -> None:
    """Each write is read back with its neighbours, by the same and by a new connection."""
    uri = installation.uri("disk", "one")
    background = 0
    if onto == "data":
        qemu_io("-f", "raw", "-c", f"write -P {BACKGROUND} 0 64M", uri)
        background = BACKGROUND
    for edge in EDGES:
        for before, length in BEFORE_AND_LENGTH:
            start = edge - min(before, edge)
            end = min(start + length, 64 * MIB)
            low, high = max(0, start - 5000), min(64 * MIB, end + 5000)
            check = [
                f"read -P {background} {low} {start - low}",
                f"read -P {PATTERN} {start} {end - start}",
                f"read -P {background} {end} {high - end}",
            ]
            check = [command for command in check if not command.endswith(" 0")]
            _run(qemu_io, uri, f"write -P {PATTERN} {start} {end - start}", *check)
            _run(qemu_io, uri, *check, f"write -P {background} {start} {end - start}")


def test_zeroes_and_discards_at_edges(installation: Installation, qemu_io: Tool) -> None:
    """Write-zeroes, with and without leave to unmap, make zeroes there and nowhere else."""
    uri = installation.uri("disk", "one")
    _run(qemu_io, uri, f"write -P {BACKGROUND} 0 64M")
    for edge in EDGES:
        for before, length in BEFORE_AND_LENGTH:
            for zero in ("write -z", "write -z -u"):
                start = edge - min(before, edge)
                end = min(start + length, 64 * MIB)
                low, high = max(0, start - 5000), min(64 * MIB, end + 5000)
                check = [
                    f"read -P {BACKGROUND} {low} {start - low}",
                    f"read -P 0 {start} {end - start}",
                    f"read -P {BACKGROUND} {end} {high - end}",
                ]
                check = [command for command in check if not command.endswith(" 0")]
                _run(qemu_io, uri, f"{zero} {start} {end - start}", *check)
                _run(qemu_io, uri, f"write -P {BACKGROUND} {start} {end - start}")


def test_whole_segments_given_back_are_free_again(
    installation: Installation, qemu_io: Tool
) -> None:
    uri = installation.uri("disk", "one")
    _run(qemu_io, uri, f"write -P {PATTERN} 0 64M")
    assert installation.client.disk("disk").mapped_segments == 64
    _run(qemu_io, uri, "write -z -u 1M 40M", "discard 41M 20M")
    assert installation.client.disk("disk").mapped_segments == 4
    _run(qemu_io, uri, f"read -P {PATTERN} 0 1M", "read -P 0 1M 60M", f"read -P {PATTERN} 61M 3M")


def test_a_disk_may_end_within_a_block(installation: Installation, qemu_io: Tool) -> None:
    size = 3 * MIB + 512
    installation.client.create_disk("odd", size)
    uri = installation.uri("odd", "one")
    _run(
        qemu_io, uri, f"write -P {PATTERN} {size - 700} 700", f"read -P {PATTERN} {size - 700} 700"
    )
    done = qemu_io("-f", "raw", "-c", f"write -P 1 {size - 100} 200", uri, ok=False)
    assert "failed" in done.stdout + done.stderr
    _run(qemu_io, uri, f"read -P {PATTERN} {size - 700} 700", f"read -P 0 0 {3 * MIB - 4096}")


def _run(qemu_io: Tool, uri: str, *commands: str) -> None:
    """qemu-io says a pattern was wrong on stdout, and its status says it too since 2.11."""
    args = [arg for command in commands for arg in ("-c", command)]
    done = qemu_io("-f", "raw", *args, uri)
    assert "Pattern verification failed" not in done.stdout, f"{commands}\n{done.stdout}"
    assert "failed" not in done.stdout + done.stderr, f"{commands}\n{done.stdout}{done.stderr}"
