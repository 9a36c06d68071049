"""An agent that is stopped past its lease and wakes acknowledges nothing stale (promise P4)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, Shell


@pytest.fixture
def short_lease(folder: Path) -> Iterator[Installation]:
    """Two agents, leases of one second."""
    with Installation(folder / "data", ["--lease", "1"]) as made:
        made.start_controller()
        made.start_agent("one")
        made.start_agent("two")
        made.client.add_container("left", f"file://{folder}/left", 256 * MIB)
        made.client.create_disk("disk", 64 * MIB)
        yield made
        made.stop()


def test_it_reads_what_was_written_while_it_slept(
    short_lease: Installation, shell: Callable[[str], Shell]
) -> None:
    """The same process and the same connection go on, with what the other agent wrote."""
    one = shell(short_lease.uri("disk", "one"))
    two = shell(short_lease.uri("disk", "two"))
    one.say("write -P 1 0 8M")
    two.say("read -P 1 0 8M")
    process = short_lease.agents["one"]
    process.signal(signal.SIGSTOP)
    wait_until("agent one to be lost", lambda: _state(short_lease, "one") != "present")
    two.say("write -P 2 0 4M")
    two.say("write -P 3 10M 1M")
    process.signal(signal.SIGCONT)
    one.say("read -P 2 0 4M")
    one.say("read -P 1 4M 4M")
    one.say("read -P 3 10M 1M")
    one.say("write -P 4 4M 1M")
    two.say("read -P 4 4M 1M")
    process.must_run()


def _state(installation: Installation, agent: str) -> str:
    states = [info.state for info in installation.client.agents() if info.name == agent]
    return states[0] if states else "ended"
