"""A container's server that is away, or hangs, stops what needs it and nothing else.

What was waiting goes on when it is back, and nobody is restarted.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from segue import _native
from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB
from tests.tools.test_nbd_container import Server, serve, servers

__all__ = ["servers"]


@pytest.fixture
def made(folder: Path, servers: dict[str, Server]) -> Iterator[Installation]:
    """Disk *far* on `segue serve`, disk *near* on a file, both filled; the lease is short."""
    with Installation(folder / "data", ("--lease", "2")) as made:
        made.start_controller()
        made.start_agent("one")
        server = serve(servers, folder, "segue")
        for name, uri, size in (
            ("far", server.uri(), 33 * MIB),
            ("near", f"file://{folder}/near", 32 * MIB),
        ):
            made.client.add_container(name, uri, size)
            made.client.create_disk(name, 20 * MIB)
            host = _native.NbdClient(made.uri(name, "one"), name)
            host.pwrite(b"1" * 20 * MIB, 0)
            host.close()
            if name == "far":
                # So that nothing else is put there.
                made.client.create_disk("filler", 12 * MIB)
                host = _native.NbdClient(made.uri("filler", "one"), "filler")
                host.pwrite(b"2" * 12 * MIB, 0)
                host.close()
        assert made.client.disk("near").containers == ["near"]
        yield made


def is_clean(made: Installation, name: str) -> bool:
    """Whether 20 segments there have been freed and zeroed (one may be left for a record)."""
    found = made.client.container(name)
    return found.free_segments >= 20 and found.clean_segments >= found.free_segments - 1


def test_one_that_is_away(made: Installation, servers: dict[str, Server]) -> None:
    """A controller begins without it, and cleans, allocates and moves elsewhere."""
    made.client.delete_disk("far")
    servers["segue"].kill()
    made.controller.kill()
    made.start_controller()
    made.client.delete_disk("near")
    wait_until("near is clean", lambda: is_clean(made, "near"))
    made.client.create_disk("again", 20 * MIB)
    host = _native.NbdClient(made.uri("again", "one"), "again")
    host.pwrite(b"3" * 20 * MIB, 0)
    assert made.client.disk("again").containers == ["near"]
    job = made.client.move_disk("again", "far")
    wait_until("the movement waits", lambda: "away" in made.client.job(job.job).reason)
    host.pwrite(b"4" * MIB, 0)
    servers["segue"].start()
    wait_until("the movement", lambda: made.client.job(job.job).state == "done")
    assert host.pread(20 * MIB, 0) == b"4" * MIB + b"3" * 19 * MIB


def test_one_that_hangs(made: Installation, servers: dict[str, Server]) -> None:
    """With a write of the controller's under way there."""
    server = servers["segue"]
    server.signal(signal.SIGSTOP)
    made.client.delete_disk("far")
    made.client.delete_disk("near")
    wait_until("near is clean", lambda: is_clean(made, "near"))
    assert not is_clean(made, "far")
    server.signal(signal.SIGCONT)
    wait_until("far is clean", lambda: is_clean(made, "far"))


def test_other_disks_are_opened_beside_one_that_hangs(
    made: Installation, servers: dict[str, Server]
) -> None:
    """An agent that has neither container open."""
    servers["segue"].signal(signal.SIGSTOP)
    made.start_agent("two")

    def hang() -> None:
        with suppress(ConnectionError):  # its handshake may take too long
            read_first_byte(made, "far")

    hangs = threading.Thread(target=hang)
    hangs.start()
    wait_until("the opening is on its way", lambda: "two" in made.client.disk("far").agents)
    assert read_first_byte(made, "near") == b"1"
    log = (made.data / "agent-two.log").read_text()
    assert "waits for its server" not in log, "the agent had given up to open it by then"
    servers["segue"].signal(signal.SIGCONT)
    hangs.join()


def read_first_byte(made: Installation, name: str) -> bytes:
    """Through agent *two*."""
    return _native.NbdClient(made.uri(name, "two"), name).pread(1, 0)


def test_zeroing_that_failed_is_tried_again(made: Installation, folder: Path) -> None:
    made.client.add_container("poor", f"faulty+file://{folder}/poor", 32 * MIB)
    made.client.create_disk("poor", 20 * MIB)
    job = made.client.move_disk("near", "poor")
    wait_until("the movement", lambda: made.client.job(job.job).state == "done")
    rules = folder / "poor.faults"
    rules.write_text("fail zero 5\n")
    made.client.delete_disk("near")
    log = made.data / "controller.log"
    wait_until("it fails", lambda: "cleaning_failed" in log.read_text())
    rules.unlink()
    wait_until("poor is clean", lambda: is_clean(made, "poor"))
