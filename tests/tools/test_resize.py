"""Disks grow and shrink under hosts; nothing old shows, nothing is lost unasked."""

from __future__ import annotations

from collections.abc import Callable

from segue.installation import Installation
from tests.tools.conftest import MIB, Shell, segue


def test_growing_shows_zeroes(installation: Installation, shell: Callable[[str], Shell]) -> None:
    client = installation.client
    odd = 2 * MIB + 4608
    client.create_disk("d", 4 * MIB)
    host = shell(installation.uri("d", "one"))
    host.say("write -P 7 0 4M")
    done = segue(installation.data, "disk", "resize", "d", str(odd))
    assert done.returncode == 1
    assert "has data beyond ~2M, in 2 segments of 1M: shrinking" in done.stderr
    host.say("read -P 7 0 4M")
    assert segue(installation.data, "disk", "resize", "d", str(odd), "--force").returncode == 0
    assert client.disk("d").mapped_segments == 3
    # The host still believes in 4 MiB, and is told better.
    assert "failed" in host.try_to("read 3M 4k")
    assert "failed" in host.try_to(f"write -P 8 {odd - 512} 1k")
    host.say(f"write -P 8 {odd - 512} 512")
    done = segue(installation.data, "disk", "resize", "d", "6M")
    assert (done.returncode, done.stdout) == (0, "disk d: 6M\n")
    again = shell(installation.uri("d", "one"))
    again.say(f"read -P 7 0 {odd - 512}")
    again.say(f"read -P 8 {odd - 512} 512")
    again.say(f"read -P 0 {odd} {6 * MIB - odd}")
    again.say("write -P 9 5M 1M")
    # The old connection has its old size, and what it reads is right.
    host.say(f"read -P 0 {odd} 1M")
    assert "failed" in host.try_to("write -P 1 5M 1M")


def test_a_size_survives_the_controller_and_the_agent(
    installation: Installation, shell: Callable[[str], Shell]
) -> None:
    client = installation.client
    host = shell(installation.uri("disk", "one"))
    host.say("write -P 5 0 64M")
    client.resize_disk("disk", 96 * MIB)
    client.resize_disk("disk", 32 * MIB, force=True)
    installation.controller.kill()
    installation.start_controller()
    assert "failed" in host.try_to("read 40M 4k")
    host.say("read -P 5 0 32M")
    installation.agents["one"].kill()
    installation.start_agent("one")
    client.resize_disk("disk", 48 * MIB)
    again = shell(installation.uri("disk", "one"))
    again.say("read -P 5 0 32M")
    again.say("read -P 0 32M 16M")
    assert client.container("left").used_segments == 32


def test_a_wrong_size_is_refused(installation: Installation) -> None:
    for size in ("0", "1000", "512T"):
        done = segue(installation.data, "disk", "resize", "disk", size)
        assert done.returncode == 1, size
        assert "a disk has a multiple of 512 bytes" in done.stderr
    assert segue(installation.data, "disk", "resize", "no", "1M").returncode == 1
    assert installation.client.disk("disk").size_bytes == 64 * MIB
