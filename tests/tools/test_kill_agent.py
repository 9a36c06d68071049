"""kill -9 of the agent while a client writes through nbdkit's `retry`: no error, right bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from segue.installation import Installation, wait_until
from tests.tools.conftest import BIG_BYTES, Tool

KILLS_AT_SEGMENTS = [20, 90, 160]


def test_no_error_and_right_bytes(
    installation: Installation,
    retrying: tuple[str, Path],
    nbdcopy: Tool,
    folder: Path,
    random_file: Callable[[int], Path],
) -> None:
    uri, log = retrying
    source = random_file(BIG_BYTES)
    copy = nbdcopy.start("--flush", source, uri, log=folder / "nbdcopy.log")
    for segments in KILLS_AT_SEGMENTS:

        def reached(segments: int = segments) -> bool:
            mapped = installation.client.disk("big").mapped_segments
            return mapped >= segments or copy.poll() is not None

        wait_until(f"{segments} segments", reached)
        assert copy.poll() is None, "the copy ended before the kill"
        installation.agents["one"].kill()
        installation.start_agent("one")
    assert copy.wait(120) == 0, (folder / "nbdcopy.log").read_text()
    # Every kill hit the copy: the filter had to open the agent again.
    reopens = re.findall(r"reopens needed: (\d+)", log.read_text(errors="replace"))
    assert sum(map(int, reopens)) >= len(KILLS_AT_SEGMENTS)
    installation.start_agent("two")
    nbdcopy(installation.uri("big", "two"), folder / "out")
    assert (folder / "out").read_bytes() == source.read_bytes()
