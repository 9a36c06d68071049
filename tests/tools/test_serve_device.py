"""`segue serve` of a block device: a loop device, used from elsewhere as a container."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from segue import _native
from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, Tool, segue
from tests.tools.test_containers import device
from tests.tools.test_nbd_container import Load, Server, scribble

__all__ = ["device"]

DISK_BYTES = 16 * MIB


@pytest.fixture
def served(device: Callable[[int], str]) -> str:
    """The device."""
    return device(48 * MIB)


@pytest.fixture
def server(served: str, folder: Path) -> Iterator[Server]:
    """It serves the device."""
    socket = folder / "serve.sock"
    command = [sys.executable, "-m", "segue.cli", "serve", served, "--name", ""]
    listen = ["--listen", f"unix://{socket}", "--state", str(folder / "revoked")]
    made = Server([*command, *listen], socket, folder / "serve.log")
    yield made
    made.kill()


def test_through_kills_of_server_agent_and_controller(server: Server, folder: Path) -> None:
    """A lease of ten minutes: nobody waits for it, for whoever was replaced is shut out."""
    with Installation(folder / "data", ("--lease", "600")) as made:
        made.start_controller()
        made.start_agent("one")
        made.client.add_container("far", server.uri(), 0)
        assert made.client.container("far").write_unit_bytes == 512
        made.client.create_disk("disk", DISK_BYTES)
        host, model = _native.NbdClient(made.uri("disk", "one"), "disk"), bytearray(DISK_BYTES)
        with Load(host, model) as load:
            for _ in range(2):
                before = load.rounds
                wait_until("the load goes on", lambda then=before: load.rounds > then)  # type: ignore[misc]
                server.kill()
                server.start()
        assert host.pread(DISK_BYTES, 0) == model
        made.agents["one"].kill()
        made.controller.kill()
        made.start_controller()
        made.start_agent("one")
        host = _native.NbdClient(made.uri("disk", "one"), "disk")
        assert host.pread(DISK_BYTES, 0) == model
        revoked = {line for line in (folder / "revoked").read_text().split() if line}
        assert revoked, "the agent and the controller that were replaced"
        server.kill()
        server.start()
        scribble(host, model, 9, 10)
        assert host.pread(DISK_BYTES, 0) == model
        assert made.client.disk("disk").failed == {}


def test_what_is_used_or_has_no_place_to_remember(
    server: Server, served: str, folder: Path
) -> None:
    nowhere = segue(folder, "serve", served, "--listen", f"unix://{folder}/x.sock")
    assert (nowhere.returncode, "--state" in nowhere.stderr) == (2, True)
    used = Tool("mkfs.ext4")("-q", served, ok=False)
    assert used.returncode != 0
    assert "in use" in used.stderr
