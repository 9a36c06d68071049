"""Disks of 1 TiB and 64 TiB: used at their edges, mapped, taken over by new processes, deleted."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from segue import _native
from segue.installation import Installation
from tests.tools.conftest import MIB, Shell

GIB, TIB = 1 << 30, 1 << 40


def data_of(client: _native.NbdClient, at: int, length: int) -> list[tuple[int, int]]:
    """Where block status says that a range holds data: offsets and lengths."""
    found: list[tuple[int, int]] = []
    end = at + length
    while at < end:
        for count, flags in client.block_status(end - at, at):
            if not flags and found and sum(found[-1]) == at:
                found[-1] = (found[-1][0], found[-1][1] + count)
            elif not flags:
                found.append((at, count))
            at += count
    return found


@pytest.mark.parametrize("tib", [1, 64])
def test_a_large_disk(installation: Installation, shell: Callable[[str], Shell], tib: int) -> None:
    size_bytes = tib * TIB
    client = installation.client
    client.create_disk("large", size_bytes)
    host = shell(installation.uri("large", "one"))
    places = [0, size_bytes // 2 - 4096, size_bytes - 2 * MIB]
    for number, at in enumerate(places, 1):
        host.say(f"write -P {number} {at} 8k")
    host.say(f"write -P 9 {size_bytes - 512} 512")
    host.say("flush")
    status = _native.NbdClient(installation.uri("large", "one"), "large")
    assert data_of(status, 0, GIB) == [(0, MIB)]
    end = [(size_bytes - 2 * MIB, 2 * MIB)]
    assert data_of(status, size_bytes - GIB, GIB) == end
    status.close()
    assert client.disk("large").mapped_segments == 5
    installation.controller.kill()
    installation.agents["one"].kill()
    installation.start_controller()
    installation.start_agent("one")
    again = shell(installation.uri("large", "one"))
    for number, at in enumerate(places, 1):
        again.say(f"read -P {number} {at} 8k")
    again.say(f"read -P 9 {size_bytes - 512} 512")
    again.say(f"discard {size_bytes - 2 * MIB} 2M")
    client.resize_disk("large", size_bytes - MIB)
    client.resize_disk("large", 2 * size_bytes)
    client.delete_disk("large", force=True)
    assert client.container("left").used_segments == 0
