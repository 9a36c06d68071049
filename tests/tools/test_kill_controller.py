"""kill -9 of the controller while a client writes: no error, right bytes, and the lease serves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, Shell, Tool

SIZE = 256 * MIB
KILLS_AT_SEGMENTS = [20, 90, 160]


def test_no_error_and_right_bytes(
    installation: Installation, nbdcopy: Tool, folder: Path, random_file: Callable[[int], Path]
) -> None:
    installation.client.add_container("right", f"file://{folder}/right", 2 * SIZE)
    installation.client.create_disk("big", SIZE)
    source = random_file(SIZE)
    copy = nbdcopy.start(
        "--flush", source, installation.uri("big", "one"), log=folder / "nbdcopy.log"
    )
    for segments in KILLS_AT_SEGMENTS:

        def reached(segments: int = segments) -> bool:
            mapped = installation.client.disk("big").mapped_segments
            return mapped >= segments or copy.poll() is not None

        wait_until(f"{segments} segments", reached)
        assert copy.poll() is None, "the copy ended before the kill"
        installation.controller.kill()
        installation.start_controller()
    assert copy.wait(120) == 0, (folder / "nbdcopy.log").read_text()
    installation.start_agent("two")
    nbdcopy(installation.uri("big", "two"), folder / "out")
    assert (folder / "out").read_bytes() == source.read_bytes()
    assert installation.client.status().term == 1 + len(KILLS_AT_SEGMENTS)


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
