"""A filesystem with PostgreSQL at work moves from storage to storage; then it is checked.

File, nbdkit, loop device, `segue serve`: each drained into the next while clients commit, then
killed, unmounted, caches dropped, mounted again.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from segue.installation import Installation, listens, wait_until
from segue.loop_devices import add_loop_device, remove_loop_device, set_up_loop_device
from tests.real.mounts import QemuLoop, drop_caches, mounted
from tests.real.postgresql import SCHEMA, Load, Server
from tests.tools.conftest import MIB, Tool

DISK_BYTES = 256 * MIB
STORAGE_BYTES = 320 * MIB
BANDWIDTH = 32 * MIB
"""A second: so that each move has clients beside it."""


def test_postgresql_works_while_its_disk_moves(place: Path) -> None:
    server = Server(place / "mnt" / "pg", place)
    load = Load(server, place)
    with Installation(place / "data") as installation, contextlib.ExitStack() as storages:
        installation.start_controller()
        installation.start_agent("one")
        installation.client.add_container("file", f"file://{place}/file", STORAGE_BYTES)
        installation.client.create_disk("pg", DISK_BYTES)
        with QemuLoop(installation, "pg", "one", place) as loop:
            Tool("mkfs.ext4")("-q", loop.device)
            with mounted(loop.device, place / "mnt"), server:
                server.initialize()
                server.start()
                server.sql(SCHEMA)
                load.start()
                load.wait_for(100)
                last = "file"
                for name, made in STORAGES.items():
                    uri = storages.enter_context(made(place))
                    installation.client.add_container(name, uri, STORAGE_BYTES, "direct")
                    drain(installation, last, load)
                    last = name
                assert installation.client.disk("pg").containers == [last]
                load.wait_for(100)
                server.kill()
            load.end()
        drop_caches()
        with (
            QemuLoop(installation, "pg", "one", place) as loop,
            mounted(loop.device, place / "mnt"),
            server,
        ):
            server.start()
            assert load.compare() >= load.committed()
            server.check()
        installation.stop()


def drain(installation: Installation, container: str, load: Load) -> None:
    """Move everything out of a container, while clients commit all the time."""
    client, before = installation.client, load.committed()
    number = client.drain_container(container, bandwidth=BANDWIDTH).job
    load.wait_for(1)
    assert client.job(number).state == "running", "it was over before the clients did anything"

    def over() -> bool:
        job = client.job(number)
        assert job.state in ("running", "waiting", "done"), job
        return job.state == "done"

    wait_until(f"{container} to be empty", over)
    assert client.container(container).used_segments == 0
    print(f"{container} drained beside {load.committed() - before} commits")


@contextlib.contextmanager
def nbdkit(place: Path) -> Iterator[str]:
    """A file behind nbdkit."""
    path, socket = sparse(place / "nbdkit.storage"), place / "nbdkit.sock"
    words = ("-f", "-U", socket, "file", path)
    with ended(Tool("nbdkit").start(*words, log=place / "nbdkit.log")):
        wait_until("nbdkit", lambda: listens(socket))
        yield f"nbd+unix:///?socket={socket}"


@contextlib.contextmanager
def loop_device(place: Path) -> Iterator[str]:
    """A block device."""
    path = sparse(place / "loop.storage")
    device = add_loop_device()
    try:
        set_up_loop_device(device, path)
        yield f"block://{device}"
    finally:
        Tool("losetup")("--detach", device, ok=False)
        remove_loop_device(device)


@contextlib.contextmanager
def segue_serve(place: Path) -> Iterator[str]:
    """Another machine's file behind `segue serve`."""
    path, socket = sparse(place / "serve.storage"), place / "serve.sock"
    words = [sys.executable, "-m", "segue.cli", "serve", str(path), "--listen", f"unix://{socket}"]
    with ended(subprocess.Popen(words, stdout=subprocess.DEVNULL)):
        wait_until("segue serve", lambda: listens(socket))
        yield f"nbd+unix:///?socket={socket}"


def sparse(path: Path) -> Path:
    """A new file of holes."""
    with open(path, "wb") as out:
        out.truncate(STORAGE_BYTES)
    return path


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Terminates the process afterwards."""
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


STORAGES: dict[str, Callable[[Path], contextlib.AbstractContextManager[str]]] = {
    "nbdkit": nbdkit,
    "loop": loop_device,
    "serve": segue_serve,
}
"""In the order of the moves."""
