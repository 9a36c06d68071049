"""The servers of one comparison: Segue, its peers, and one that touches no file (the ceiling).

Each serves a file of its own of the same size over a unix socket; each file was written once, by
the same client through its own server, 1 MiB at a time.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from segue import _native
from segue.installation import Installation, listens, wait_until

BENCH = Path(__file__).parent
MIB = 1 << 20
SEGUE, NULL = "segue", "null"
PEERS = {
    "page": ("nbdkit", "qemu-nbd", "qemu-storage-daemon"),
    "direct": ("qemu-nbd native", "qemu-nbd io_uring", "qemu-storage-daemon"),
}
"""By the way of caching; nbdkit's file plugin cannot go past the page cache."""


@dataclass(frozen=True)
class Server:
    """Where a server listens, and the process whose CPU time counts."""

    address: str
    pid: int


@contextmanager
def nbdkit(socket: Path, *words: str) -> Iterator[str]:
    """The URI of what nbdkit serves there."""
    with subprocess.Popen(["nbdkit", "-f", "-U", str(socket), *words]) as running:
        wait_until("nbdkit", lambda: listens(socket))
        try:
            yield f"nbd+unix:///?socket={socket}"
        finally:
            running.terminate()


def build_load() -> Path:
    """The folder of the release binaries `load` and `null`."""
    folder = BENCH / "load"
    target = Path(os.environ.get("CARGO_TARGET_DIR", folder)) / "target-load"
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--target-dir", str(target)],
        cwd=folder,
        check=True,
    )
    return target / "release"


def write_file(path: Path, size_bytes: int) -> None:
    """A file without holes, durable."""
    piece = os.urandom(MIB)
    with open(path, "wb") as out:
        for _ in range(0, size_bytes, MIB):
            out.write(piece)
        os.fsync(out.fileno())


def fill(address: str, export: str, size_bytes: int) -> None:
    """Writes an export once."""
    client = _native.NbdClient(address, export)
    piece = os.urandom(MIB)
    for at in range(0, size_bytes, MIB):
        client.pwrite(piece, at)
    client.flush()
    client.close()


@contextmanager
def process(words: list[str], socket: Path) -> Iterator[Server]:
    """A server that listens on `socket` once it is ready."""
    with subprocess.Popen(words) as running:
        wait_until(words[0], lambda: listens(socket))
        try:
            yield Server(str(socket), running.pid)
        finally:
            running.terminate()


@contextmanager
def segue(folder: Path, size_bytes: int, cache: str) -> Iterator[Server]:
    """A whole installation (controller, agent, one file container) and a disk, written once."""
    with Installation(folder / f"data-{cache}") as made:
        made.start_controller()
        made.start_agent("bench")
        uri = f"file://{folder}/container-{cache}"
        room_bytes = size_bytes + 64 * MIB
        made.client.add_container("c", uri, room_bytes, cache=cache)
        made.client.create_disk("disk", size_bytes)
        fill(made.socket("bench"), "disk", size_bytes)
        yield Server(f"{made.socket('bench')}#disk", made.agents["bench"].pid)


def peer_words(name: str, cache: str, file: Path, socket: Path) -> list[str]:
    """The command line of a peer, with the settings that serve it best."""
    kind, _, aio = name.partition(" ")
    if kind == "nbdkit":
        return ["nbdkit", "-f", "-U", f"{socket}", "file", f"{file}"]
    if kind == "qemu-nbd":
        way = ["--cache=none", f"--aio={aio}"] if aio else ["--cache=writeback", "--aio=threads"]
        return ["qemu-nbd", "-f", "raw", "-t", *way, "-k", f"{socket}", f"{file}"]
    way = ",cache.direct=on,aio=io_uring" if cache == "direct" else ""
    return [
        "qemu-storage-daemon",
        *("--blockdev", f"file,filename={file},node-name=n{way}"),
        *("--nbd-server", f"addr.type=unix,addr.path={socket}"),
        *("--export", "nbd,id=e,node-name=n,name=,writable=on"),
    ]


@contextmanager
def all_servers(
    folder: Path, load: Path, size_bytes: int, cache: str
) -> Iterator[dict[str, Server]]:
    """Every server of a way of caching, running; by name."""
    with ExitStack() as running:
        found = {SEGUE: running.enter_context(segue(folder, size_bytes, cache))}
        words = [str(load / "null"), f"{folder}/null.sock", f"{size_bytes}"]
        found[NULL] = running.enter_context(process(words, folder / "null.sock"))
        for name in PEERS[cache]:
            file, socket = folder / f"{name}.img", folder / f"{name}.sock"
            with open(file, "wb") as empty:
                empty.truncate(size_bytes)
            words = peer_words(name, cache, file, socket)
            found[name] = running.enter_context(process(words, socket))
            fill(str(socket), "", size_bytes)
        yield found
        # Not until all have ended: they share no file, but the disk's room.
    for path in (*folder.glob("*.img"), *folder.glob("*.sock"), *folder.glob("container-*")):
        path.unlink()
