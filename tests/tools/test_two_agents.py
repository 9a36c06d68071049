"""Two agents serve one disk: what one acknowledged, the other reads (promise P3)."""

from __future__ import annotations

import random

import pytest

from segue.installation import Installation
from tests.tools.conftest import MIB, Tool

ROUNDS = 12


@pytest.fixture
def two(installation: Installation) -> Installation:
    """The installation, with a second agent."""
    installation.start_agent("two")
    return installation


def test_each_reads_what_the_other_wrote(two: Installation, qemu_io: Tool) -> None:
    rng = random.Random(2)
    uris = [two.uri("disk", "one"), two.uri("disk", "two")]
    for round_number in range(ROUNDS):
        writer, reader = rng.sample(uris, 2)
        offset, length = rng.randrange(60 * MIB), rng.randrange(1, 2 * MIB)
        pattern = 1 + round_number
        qemu_io("-f", "raw", "-c", f"write -P {pattern} {offset} {length}", writer)
        done = qemu_io("-f", "raw", "-c", f"read -P {pattern} {offset} {length}", reader)
        assert "Pattern verification failed" not in done.stdout


def test_a_segment_zeroed_by_one_reads_zero_at_the_other(two: Installation, qemu_io: Tool) -> None:
    one, other = two.uri("disk", "one"), two.uri("disk", "two")
    qemu_io("-f", "raw", "-c", "write -P 5 0 8M", one)
    qemu_io("-f", "raw", "-c", "read -P 5 0 8M", other)
    qemu_io("-f", "raw", "-c", "write -z -u 2M 4M", one)
    done = qemu_io(
        "-f", "raw", "-c", "read -P 5 0 2M", "-c", "read -P 0 2M 4M", "-c", "read -P 5 6M 2M", other
    )
    assert "Pattern verification failed" not in done.stdout
