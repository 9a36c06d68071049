"""What a FLUSH or FUA acknowledged is there after loss of power (promise P1).

The container is a file that remembers what was not flushed (`forgetful+file://`): when all
processes are dead, `container_power_loss` throws an arbitrary part of that away.  The last test
shows that it does: without it the others would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segue import _native
from segue.installation import Installation
from tests.tools.conftest import MIB, Shell, Tool

SEEDS = [1, 2, 3]


class Forgetful:
    """An installation over one container that forgets."""

    def __init__(self, folder: Path) -> None:
        self.uri = f"forgetful+file://{folder}/forgetful"
        self.installation = Installation(folder / "data")

    def start(self) -> None:
        self.installation.start_controller()
        self.installation.start_agent("one")

    def lose_power(self, seed: int) -> tuple[int, int]:
        """Kill everything, forget; (blocks not flushed, sectors lost).

        The controller first: it flushes what an agent that it sees die may have written.
        """
        self.installation.controller.kill()
        self.installation.agents["one"].kill()
        return _native.container_power_loss(self.uri, seed)


@pytest.fixture
def forgetful(folder: Path) -> Iterator[Forgetful]:
    made = Forgetful(folder)
    with made.installation as installation:
        made.start()
        installation.client.add_container("left", made.uri, 128 * MIB)
        installation.client.create_disk("disk", 64 * MIB)
        yield made


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_flush_acknowledged(
    forgetful: Forgetful, shell: Callable[[str], Shell], qemu_io: Tool, seed: int
) -> None:
    """First writes, overwrites, zeroes and discards, then flush; what follows it may be lost."""
    uri = forgetful.installation.uri("disk", "one")
    host = shell(uri)
    host.say("write -P 1 0 16M")
    host.say("write -P 2 4M 4M")
    host.say("write -z 8M 100k")
    host.say("write -z -u 10M 2M")
    host.say("write -P 3 5000 3")
    host.say("flush")
    host.say("write -P 9 20M 8M")
    forgetful.lose_power(seed)
    forgetful.start()
    again = shell(uri)
    again.say("read -P 1 0 5000")
    again.say("read -P 3 5000 3")
    again.say("read -P 1 5003 4189301")
    again.say("read -P 2 4M 4M")
    again.say("read -P 0 8M 100k")
    again.say("read -P 1 8491008 1994752")
    again.say("read -P 0 10M 2M")
    again.say("read -P 1 12M 4M")


@pytest.mark.parametrize("seed", SEEDS)
def test_what_fua_acknowledged(
    forgetful: Forgetful, shell: Callable[[str], Shell], seed: int
) -> None:
    uri = forgetful.installation.uri("disk", "one")
    host = shell(uri)
    host.say("write -f -P 1 0 3M")
    host.say("write -P 9 8M 8M")
    host.say("write -f -P 2 1M 4k")
    host.say("write -f -P 3 1000 7")
    host.say("write -z -f 2M 5000")
    forgetful.lose_power(seed)
    forgetful.start()
    again = shell(uri)
    again.say("read -P 1 0 1000")
    again.say("read -P 3 1000 7")
    again.say("read -P 1 1007 1047569")
    again.say("read -P 2 1M 4k")
    again.say("read -P 0 2M 5000")
    again.say("read -P 1 2102152 1043576")


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_of_another_disk_shows_in_reused_locations(
    forgetful: Forgetful, shell: Callable[[str], Shell], seed: int
) -> None:
    """A location given back and used again reads as zeroes beside what was written there."""
    installation = forgetful.installation
    host = shell(installation.uri("disk", "one"))
    host.say("write -P 7 0 64M")
    host.say("flush")
    installation.client.create_disk("second", 64 * MIB)
    second = shell(installation.uri("second", "one"))
    second.say("write -P 8 0 60M")
    host.say("write -z -u 0 64M")
    host.say("flush")
    second.say("write -P 1 61M 4k")
    second.say("flush")
    forgetful.lose_power(seed)
    forgetful.start()
    again = shell(installation.uri("second", "one"))
    again.say("read -P 8 0 60M")
    again.say("read -P 0 60M 1M")
    again.say("read -P 1 61M 4k")
    again.say("read -P 0 63967232 3141632")
    shell(installation.uri("disk", "one")).say("read -P 0 0 64M")


def test_the_container_does_forget(
    forgetful: Forgetful, shell: Callable[[str], Shell], qemu_io: Tool
) -> None:
    uri = forgetful.installation.uri("disk", "one")
    host = shell(uri)
    host.say("write -P 1 0 16M")
    host.say("flush")
    host.say("write -P 2 0 16M")
    unflushed_blocks, sectors = forgetful.lose_power(1)
    assert unflushed_blocks == 4096
    assert 0 < sectors < 16 * MIB // 512
    forgetful.start()
    done = qemu_io("-f", "raw", "-c", "read -P 2 0 16M", uri, ok=False)
    assert "Pattern verification failed" in done.stdout
