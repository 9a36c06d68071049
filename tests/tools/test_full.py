"""When all containers are full a first write gets ENOSPC, alone, and goes on once there is room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segue.installation import Installation
from tests.tools.conftest import MIB, Shell


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
