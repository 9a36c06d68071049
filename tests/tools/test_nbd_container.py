"""A container may be an export of anybody's NBD server."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator
from errno import EIO
from pathlib import Path
from subprocess import Popen
from typing import Self

import pytest

from segue import _native
from segue.client import ApiError
from segue.installation import DEADLINE_S, Installation, listens, wait_until
from tests.tools.conftest import MIB, Tool

SIZE_BYTES = 96 * MIB


class Server:
    """Somebody's NBD server, which can be killed and started again."""

    def __init__(self, command: list[str], socket: Path, log: Path) -> None:
        self._tool, self._args = Tool(command[0]), command[1:]
        self.socket, self._log = socket, log
        self._process: Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Until it listens."""
        self.socket.unlink(missing_ok=True)
        self._process = self._tool.start(*self._args, log=self._log)
        wait_until("the server", lambda: listens(self.socket))

    def kill(self) -> None:
        """As by kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def uri(self, *parameters: str) -> str:
        """As a container."""
        return "&".join([f"nbd+unix:///?socket={self.socket}", *parameters])


SERVERS = {
    "file": ("nbdkit", "-f", "-U", "{socket}", "--filter=delay", "file", "{storage}", "wdelay=1ms"),
    "qemu": ("qemu-nbd", "-f", "raw", "-k", "{socket}", "-t", "-e", "8", "{storage}"),
    "plain": (
        *("nbdkit", "-f", "-U", "{socket}", "--filter=nozero", "--filter=fua"),
        *("file", "{storage}"),
    ),
    "segue": (
        *(sys.executable, "-m", "segue.cli", "serve", "{storage}", "--listen", "unix://{socket}"),
        *("--name", ""),
    ),
    "narrow": (
        *("nbdkit", "-f", "-U", "{socket}", "--filter=blocksize-policy", "file", "{storage}"),
        *("blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=64k"),
        "blocksize-error-policy=error",
    ),
}
"""*plain*: neither FUA nor write-zeroes."""


@pytest.fixture
def servers(folder: Path) -> Iterator[dict[str, Server]]:
    """Those that the test has started by `serve`."""
    started: dict[str, Server] = {}
    yield started
    for server in started.values():
        server.kill()


def serve(servers: dict[str, Server], folder: Path, kind: str) -> Server:
    """Starts one of `SERVERS`."""
    storage = folder / f"{kind}.storage"
    with open(storage, "wb") as made:
        made.truncate(SIZE_BYTES)
    socket = folder / f"{kind}.sock"
    command = [word.format(socket=socket, storage=storage) for word in SERVERS[kind]]
    servers[kind] = Server(command, socket, folder / f"{kind}.log")
    return servers[kind]


@pytest.fixture
def bare(folder: Path) -> Iterator[Installation]:
    """A controller and agent *one*, no container."""
    with Installation(folder / "data") as made:
        made.start_controller()
        made.start_agent("one")
        yield made


def scribble(host: _native.NbdClient, model: bytearray, seed: int, count: int) -> None:
    """Writes, zeroes and trims of any size and alignment, and the same on the model."""
    rng = random.Random(seed)
    for _ in range(count):
        length = rng.choice((1, 512, 4096, 70_000, 3 * MIB))
        at = rng.randrange(len(model) - length)
        if rng.random() < 0.7:
            data = rng.randbytes(length)
            host.pwrite(data, at, fua=rng.random() < 0.2)
        else:
            data = bytes(length)
            host.zero(length, at)
        model[at : at + length] = data


@pytest.mark.parametrize("kind", list(SERVERS))
def test_any_server_will_do(
    bare: Installation, servers: dict[str, Server], folder: Path, kind: str
) -> None:
    server = serve(servers, folder, kind)
    bare.client.add_container("far", server.uri(), 0)
    bare.client.create_disk("disk", 24 * MIB)
    host = _native.NbdClient(bare.uri("disk", "one"), "disk")
    model = bytearray(24 * MIB)
    scribble(host, model, 1, 40)
    host.flush()
    assert host.pread(len(model), 0) == model


def test_an_export_that_cannot_be_a_container_is_refused(
    bare: Installation, servers: dict[str, Server], folder: Path
) -> None:
    server = serve(servers, folder, "file")
    with pytest.raises(ApiError, match="No such file"):
        bare.client.add_container("far", f"nbd+unix:///?socket={folder}/nobody", 0)
    with pytest.raises(ApiError, match="cannot take"):
        bare.client.add_container("far", server.uri("on-loss=sleep"), 0)
    bare.client.add_container("far", server.uri(), 0)
    with pytest.raises(ApiError, match="container of this installation already"):
        bare.client.add_container("again", server.uri("connections=1"), 0)


@pytest.mark.parametrize("kind", ["file", "qemu", "segue"])
def test_a_server_that_dies_under_load_and_returns(
    bare: Installation, servers: dict[str, Server], folder: Path, kind: str
) -> None:
    """What was acknowledged is there, and nobody was restarted."""
    server = serve(servers, folder, kind)
    # Segue's own has a fence: nothing need linger.
    parameters = () if kind == "segue" else ("linger-ms=100",)
    bare.client.add_container("far", server.uri(*parameters), 0)
    bare.client.create_disk("disk", 32 * MIB)
    host = _native.NbdClient(bare.uri("disk", "one"), "disk")
    model = bytearray(32 * MIB)
    with Load(host, model) as load:
        for _ in range(6):
            before = load.rounds
            wait_until("the load goes on", lambda then=before: load.rounds > then)  # type: ignore[misc]
            server.kill()
            server.start()
    assert host.pread(len(model), 0) == model
    bare.agents["one"].must_run()
    bare.controller.must_run()


class Load:
    """Writes without end, in a thread of its own."""

    def __init__(self, host: _native.NbdClient, model: bytearray) -> None:
        self.rounds = 0
        self._host, self._model = host, model
        self._over = threading.Event()
        # A test that fails because it hangs does not wait for it.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "I/O goes on and on"

    def _run(self) -> None:
        while not self._over.is_set():
            scribble(self._host, self._model, self.rounds, 8)
            self.rounds += 1


def test_only_io_that_needs_it_fails(
    bare: Installation, servers: dict[str, Server], folder: Path
) -> None:
    server = serve(servers, folder, "file")
    policy = ("on-loss=fail", "loss-ms=300", "linger-ms=100")
    bare.client.add_container("far", server.uri(*policy), 0)
    bare.client.create_disk("lost", 32 * MIB)
    host = _native.NbdClient(bare.uri("lost", "one"), "lost")
    host.pwrite(b"1" * 4096, 0)
    bare.client.add_container("near", f"file://{folder}/near", 256 * MIB)
    bare.client.create_disk("kept", 32 * MIB)
    other = _native.NbdClient(bare.uri("kept", "one"), "kept")
    other.pwrite(b"1" * 4096, 0)
    server.kill()
    for attempt in (lambda: host.pread(4096, 0), lambda: host.pwrite(b"2" * 4096, 0)):
        with pytest.raises(OSError) as caught:
            attempt()
        assert caught.value.errno == EIO
        other.pwrite(b"2" * 4096, 0)
    server.start()
    wait_until("it is back", lambda: reads(host))
    host.pwrite(b"3" * 4096, 0)
    host.flush()
    assert host.pread(4096, 0) == b"3" * 4096
    assert bare.client.disk("lost").failed == {}


@pytest.mark.parametrize("kind", ["plain", "segue"])
def test_a_disk_is_opened_while_a_server_is_away(
    bare: Installation, servers: dict[str, Server], folder: Path, kind: str
) -> None:
    """The agent is new: it has never seen the server.  What lies elsewhere is served."""
    server = serve(servers, folder, kind)
    bare.client.add_container("far", server.uri("linger-ms=100"), 0)
    bare.client.create_disk("disk", 8 * MIB)
    host = _native.NbdClient(bare.uri("disk", "one"), "disk")
    model = bytearray(8 * MIB)
    scribble(host, model, 1, 20)
    bare.client.add_container("near", f"file://{folder}/near", 64 * MIB)
    job = bare.client.move_disk("disk", "near", segments=2)
    wait_until("the movement", lambda: bare.client.job(job.job).state == "done")
    server.kill()
    bare.start_agent("two")
    host = _native.NbdClient(bare.uri("disk", "two"), "disk")
    assert host.pread(2 * MIB, 0) == model[: 2 * MIB]
    other, found = _native.NbdClient(bare.uri("disk", "two"), "disk"), list[bytes]()
    waiting = threading.Thread(target=lambda: found.append(other.pread(len(model), 0)))
    waiting.start()
    host.pwrite(b"9" * 4096, 2 * MIB - 4096)
    assert found == []
    model[2 * MIB - 4096 : 2 * MIB] = b"9" * 4096
    server.start()
    waiting.join()
    assert found[0][2 * MIB :] == model[2 * MIB :]
    scribble(host, model, 2, 8)
    assert host.pread(len(model), 0) == model


def reads(host: _native.NbdClient) -> bool:
    """Whether a read goes well."""
    try:
        host.pread(4096, 0)
    except OSError:
        return False
    return True
