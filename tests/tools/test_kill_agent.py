"""kill -9 of the agent while a client writes through nbdkit's `retry`: no error, right bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, Tool

SIZE = 256 * MIB
KILLS_AT_SEGMENTS = [20, 90, 160]


@pytest.fixture
def retrying(installation: Installation, nbdkit: Tool, folder: Path) -> Iterator[tuple[str, Path]]:
    """nbdkit as a client of agent one that reopens and repeats; its URI and its log."""
    installation.client.add_container("right", f"file://{folder}/right", 2 * SIZE)
    installation.client.create_disk("big", SIZE)
    socket, log = folder / "nbdkit.sock", folder / "nbdkit.log"
    args = ["--foreground", "--verbose", "--unix", str(socket), "--filter=retry", "nbd"]
    server = nbdkit.start(
        *args, f"uri={installation.uri('big', 'one')}", "retries=60", "retry-delay=1",
        "retry-exponential=no", log=log,
    )  # fmt: skip
    wait_until("nbdkit", socket.exists)
    yield f"nbd+unix:///?socket={socket}", log
    server.terminate()
    server.wait()


def test_no_error_and_right_bytes(
    installation: Installation,
    retrying: tuple[str, Path],
    nbdcopy: Tool,
    folder: Path,
    random_file: Callable[[int], Path],
) -> None:
    uri, log = retrying
    source = random_file(SIZE)
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
