"""A container's server loses power: what it had acknowledged and not flushed is gone (P1, P5).

NBD tells a client nothing of that: over the next connection a FLUSH succeeds.  So Segue writes
through (decision 0008), and whatever it has acknowledged is there, flushed or not.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from segue import _native
from segue.client import ApiError
from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB
from tests.tools.test_nbd_container import SIZE_BYTES, Load, Server, bare

__all__ = ["bare"]

DISK_BYTES = 16 * MIB
LOSSES = 3

SERVERS = {
    "segue": (
        *(sys.executable, "-m", "segue.cli", "serve", "forgetful+file://{storage}"),
        *("--name", "", "--listen", "unix://{socket}"),
    ),
    "fua": (
        *("nbdkit", "-f", "-U", "{socket}", "--filter=cache", "file", "{storage}"),
        "cache=writeback",
    ),
    "flush": (
        *("nbdkit", "-f", "-U", "{socket}", "--filter=fua", "--filter=cache"),
        *("file", "{storage}", "cache=writeback"),
    ),
}
"""The filter keeps what is written in a file of its own that nobody finds again, until a flush, or
FUA where *fua* offers that."""


class Forgetting(Server):
    """A server that has forgotten, when it is started again."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._storage, self._segue = folder / "far.storage", kind == "segue"
        with open(self._storage, "wb") as made:
            made.truncate(SIZE_BYTES)
        socket = folder / "far.sock"
        command = [word.format(socket=socket, storage=self._storage) for word in SERVERS[kind]]
        super().__init__(command, socket, folder / "far.log")

    def lose_power(self, seed: int) -> None:
        """It dies, forgets, and is back."""
        self.kill()
        if self._segue:
            _native.container_power_loss(f"forgetful+file://{self._storage}", seed)
        self.start()


@pytest.fixture(params=list(SERVERS))
def server(request: pytest.FixtureRequest, folder: Path) -> Iterator[Forgetting]:
    """Each of them."""
    made = Forgetting(request.param, folder)
    yield made
    made.kill()


def test_what_was_acknowledged_is_there(
    bare: Installation, server: Forgetting, folder: Path
) -> None:
    """Through losses of power, while a disk moves there and back under load."""
    bare.client.add_container("far", server.uri("linger-ms=100"), 0)
    bare.client.create_disk("disk", DISK_BYTES)
    bare.client.add_container("near", f"file://{folder}/near", 64 * MIB)
    host = _native.NbdClient(bare.uri("disk", "one"), "disk")
    model = bytearray(DISK_BYTES)
    with Load(host, model) as load:
        for seed in range(LOSSES):
            before = load.rounds
            wait_until("the load goes on", lambda then=before: load.rounds > then)  # type: ignore[misc]
            bare.client.move_disk("disk", ("near", "far")[seed % 2])
            server.lose_power(seed)
            wait_until("the movement", lambda: is_still(bare))
    assert host.pread(DISK_BYTES, 0) == model
    assert bare.client.disk("disk").containers == ["near"]
    assert bare.client.disk("disk").failed == {}
    bare.client.move_disk("disk", "far")
    wait_until("the movement", lambda: is_still(bare))
    server.lose_power(LOSSES)
    assert host.pread(DISK_BYTES, 0) == model


def is_still(made: Installation) -> bool:
    """Whether no job is running."""
    with suppress(ApiError):
        return all(job.state in ("done", "cancelled", "failed") for job in made.client.jobs())
    return False
