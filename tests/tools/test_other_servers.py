"""A disk moves to other people's NBD servers and back while it is written, and every byte is right.

What each offers and lacks stands in docs/containers.md.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from segue import _native
from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, Tool, segue
from tests.tools.test_nbd_container import SIZE_BYTES, Load, Server, bare, serve, servers

__all__ = ["bare", "servers"]

DISK_BYTES = 16 * MIB


class NbdServer:
    """Debian's nbd-server: a process for each connection, in one process group."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._tool, self._folder = Tool("nbd-server"), folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        with open(folder / "theirs", "wb") as made:
            made.truncate(SIZE_BYTES)
        lines = ("[generic]", "listenaddr=127.0.0.1", f"port={self._port}")
        export = ("[far]", f"exportname={folder}/theirs", *options)
        (folder / "theirs.conf").write_text("\n".join((*lines, *export, "")))
        self.start()

    def start(self) -> None:
        """Until it listens."""
        self._pid = self._folder / "theirs.pid"
        self._pid.unlink(missing_ok=True)
        # It goes into the background before it binds, and ends there if that fails.
        wait_until("the port of the one before", self._is_free)
        self._tool("-p", self._pid, "-C", self._folder / "theirs.conf")
        wait_until("nbd-server", self._listens)

    def _is_free(self) -> bool:
        """What was killed with kill -9 has its port until the kernel has taken it down."""
        with socket.socket() as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                own.bind(("127.0.0.1", self._port))
            except OSError:
                return False
            return True

    def _listens(self) -> bool:
        with socket.socket() as there:
            listens = there.connect_ex(("127.0.0.1", self._port)) == 0
            return listens and self._pid.exists() and self._pid.read_text() != ""

    def kill(self) -> None:
        """As by kill -9: all of it."""
        with suppress(ProcessLookupError):
            os.killpg(int(self._pid.read_text()), signal.SIGKILL)

    def uri(self, *parameters: str) -> str:
        """As a container."""
        return f"nbd://127.0.0.1:{self._port}/far?{'&'.join(parameters)}"


@pytest.fixture(params=["nbd-server", "nbd-server without FUA", "qemu", "file"])
def theirs(
    request: pytest.FixtureRequest, servers: dict[str, Server], folder: Path
) -> Iterator[Server | NbdServer]:
    """Each of them."""
    kind: str = request.param
    if not kind.startswith("nbd-server"):
        yield serve(servers, folder, kind)
        return
    fua = "without" not in kind
    made = NbdServer(folder, "flush=true", f"fua={str(fua).lower()}", "trim=true")
    yield made
    made.kill()


def move(made: Installation, to: str) -> None:
    """Moves the disk, to its end."""
    job = made.client.move_disk("disk", to).job
    wait_until("the movement", lambda: made.client.job(job).state == "done")


def test_there_and_back(bare: Installation, theirs: Server | NbdServer, folder: Path) -> None:
    """Under load, through two kills; then as qemu-img sees it."""
    bare.client.add_container("near", f"file://{folder}/near", 32 * MIB)
    bare.client.create_disk("disk", DISK_BYTES)
    host, model = _native.NbdClient(bare.uri("disk", "one"), "disk"), bytearray(DISK_BYTES)
    bare.client.add_container("far", theirs.uri("linger-ms=100"), 0)
    with Load(host, model) as load:
        wait_until("the load", lambda: load.rounds > 1)
        job = bare.client.move_disk("disk", "far").job
        theirs.kill()
        theirs.start()
        wait_until("the movement", lambda: bare.client.job(job).state == "done")
    same(bare, model, folder)
    theirs.kill()
    theirs.start()
    same(bare, model, folder)
    with Load(host, model) as load:
        move(bare, "near")
        wait_until("the load", lambda: load.rounds > 0)
    same(bare, model, folder)
    assert bare.client.disk("disk").failed == {}


def same(made: Installation, model: bytearray, folder: Path) -> None:
    """Whether qemu-img finds the disk equal to an image of the model."""
    image = folder / "image"
    image.write_bytes(model)
    Tool("qemu-img")("compare", "-f", "raw", "-F", "raw", image, made.uri("disk", "one"))


def test_an_export_without_flush_is_refused(bare: Installation, folder: Path) -> None:
    server = NbdServer(folder, "flush=false")
    try:
        done = segue(bare.data, "container", "add", "far", server.uri())
    finally:
        server.kill()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "the export has no FLUSH" in done.stderr
