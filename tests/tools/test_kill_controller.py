"""kill -9 of the controller while a client writes: no error, right bytes; the lease serves (P6)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from segue.installation import Installation, wait_until
from tests.tools.conftest import BIG_BYTES, Shell, Tool

KILLS_AT_SEGMENTS = [20, 90, 160]


@pytest.mark.parametrize("client", ["retrying", "direct"])
def test_no_error_and_right_bytes(
    installation: Installation,
    retrying: tuple[str, Path],
    nbdcopy: Tool,
    folder: Path,
    random_file: Callable[[int], Path],
    client: str,
) -> None:
    """Under nbdkit's `retry` filter, and without it: hosts notice nothing but a pause."""
    uri = retrying[0] if client == "retrying" else installation.uri("big", "one")
    source = random_file(BIG_BYTES)
    copy = nbdcopy.start("--flush", source, uri, log=folder / "nbdcopy.log")
    kills = 0
    for segments in KILLS_AT_SEGMENTS:

        def reached(segments: int = segments) -> bool:
            mapped = installation.client.disk("big").mapped_segments
            return mapped >= segments or copy.poll() is not None

        wait_until(f"{segments} segments", reached)
        if copy.poll() is not None:
            break
        installation.controller.kill()
        installation.start_controller()
        kills += 1
    assert kills, "the copy ended before the first kill"
    assert copy.wait(120) == 0, (folder / "nbdcopy.log").read_text()
    installation.start_agent("two")
    nbdcopy(installation.uri("big", "two"), folder / "out")
    assert (folder / "out").read_bytes() == source.read_bytes()
    assert installation.client.status().term == 1 + kills


def test_clean_io_goes_on_without_a_controller(
    installation: Installation, shell: Callable[[str], Shell]
) -> None:
    """Promise P6, and rule 9: no I/O on a clean entry needs the controller."""
    host = shell(installation.uri("disk", "one"))
    host.say("write -P 3 0 8M")
    host.say("read -P 3 0 8M")
    installation.controller.kill()
    host.say("write -P 4 0 4M")
    host.say("read -P 4 0 4M")
    host.say("read -P 3 4M 4M")
    host.say("flush")
    installation.start_controller()
    host.say("write -P 5 8M 1M")
