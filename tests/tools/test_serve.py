"""`segue serve` exports storage with a fence: whose I/O is to end there ends, provably (rule 5)."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from segue import _native
from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, segue
from tests.tools.test_nbd_container import Load


class Serving:
    """`segue serve` over a file that faults can be injected into."""

    def __init__(self, folder: Path) -> None:
        self.socket, self._folder = folder / "serve.sock", folder
        with open(folder / "storage", "wb") as made:
            made.truncate(128 * MIB)
        self.start()

    def start(self) -> None:
        """Until it listens."""
        storage = f"faulty+file://{self._folder}/storage"
        command = [sys.executable, "-m", "segue.cli", "serve", storage]
        with open(self._folder / "serve.log", "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--listen", f"unix://{self.socket}"], stdout=log, stderr=log
            )
        wait_until("segue serve", self._listens)

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as there:
            return there.connect_ex(str(self.socket)) == 0

    def kill(self) -> None:
        """As by kill -9."""
        self._process.kill()
        self._process.wait()

    def rules(self, *lines: str) -> None:
        """From now on its storage does this."""
        (self._folder / "new").write_text("".join(f"{line}\n" for line in lines))
        (self._folder / "new").rename(self._folder / "storage.faults")


@pytest.fixture
def serving(folder: Path) -> Iterator[Serving]:
    """A server."""
    made = Serving(folder)
    yield made
    made.kill()


def installed(folder: Path, address: Path, *args: str) -> Installation:
    """One container, at that socket, and a disk on it."""
    made = Installation(folder / "data", args)
    made.start_controller()
    made.start_agent("one")
    made.client.add_container("far", f"nbd+unix:///?socket={address}", 0)
    made.client.create_disk("disk", 32 * MIB)
    return made


def host_at(made: Installation, agent: str) -> _native.NbdClient:
    """A host of the disk."""
    return _native.NbdClient(made.uri("disk", agent), "disk")


def test_a_silent_agent_is_fenced_off(serving: Serving, folder: Path) -> None:
    with installed(folder, serving.socket, "--lease", "1") as made:
        made.start_agent("two")
        one = host_at(made, "one")
        one.pwrite(b"1" * MIB, 0)
        made.agents["one"].signal(signal.SIGSTOP)
        wait_until("its end", lambda: all(a.name != "one" for a in made.client.agents()))
        two = host_at(made, "two")
        assert two.pread(MIB, 0) == b"1" * MIB
        two.pwrite(b"2" * MIB, 0)
        made.client.delete_disk("disk")
        assert made.client.container("far").held_segments < 128
        made.client.create_disk("disk", 32 * MIB)
        made.agents["one"].signal(signal.SIGCONT)
        wait_until("its return", lambda: any(a.name == "one" for a in made.client.agents()))
        again = host_at(made, "one")
        assert again.pread(MIB, 0) == bytes(MIB)


def test_nobody_waits_for_the_lease_of_one_that_was_replaced(
    serving: Serving, folder: Path
) -> None:
    with installed(folder, serving.socket, "--lease", "600") as made:
        host = host_at(made, "one")
        host.pwrite(b"1" * MIB, 0)
        made.agents["one"].kill()
        made.start_agent("one")
        host = host_at(made, "one")
        assert host.pread(MIB, 0) == b"1" * MIB
        # Nor the copier of a new controller for that of the old one.
        host.pwrite(b"2", 5 * MIB)
        made.controller.kill()
        made.start_controller()
        wait_until("all complete", lambda: made.client.status().incomplete_extents == 0)
        assert host.pread(1, 5 * MIB) == b"2"


class Proxy:
    """A wire to a server that can be cut: what is under way at the server then goes on."""

    def __init__(self, path: Path, server: Path) -> None:
        self._server = server
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """All connections."""
        pairs, self._pairs = self._pairs, []
        for ends in pairs:
            for end in ends:
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.socket(socket.AF_UNIX)
            if far.connect_ex(str(self._server)) != 0:
                near.close()
                continue
            self._pairs.append((near, far))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(1 << 20):
                target.sendall(piece)
            target.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def test_what_a_cut_connection_left_behind_ends_first(serving: Serving, folder: Path) -> None:
    """Writes take their time at the server; an old one must not land on what followed it."""
    proxy = Proxy(folder / "wire.sock", serving.socket)
    with installed(folder, folder / "wire.sock") as made:
        host = host_at(made, "one")
        model = bytearray(32 * MIB)
        serving.rules("delay write 3000")
        with Load(host, model) as load:
            for _ in range(8):
                before = load.rounds
                wait_until("the load goes on", lambda then=before: load.rounds > then)  # type: ignore[misc]
                proxy.cut()
        serving.rules()
        assert host.pread(len(model), 0) == model
        serving.kill()
        serving.start()
        assert host.pread(len(model), 0) == model


def test_what_cannot_be_served_is_refused(serving: Serving, folder: Path) -> None:
    data = folder / "none"
    again = segue(data, "serve", f"{folder}/storage", "--listen", "tcp://0.0.0.0:0")
    assert (again.returncode, "TLS" in again.stderr) == (2, True)
    gone = segue(data, "serve", f"{folder}/nothing", "--listen", f"unix://{folder}/x.sock")
    assert (gone.returncode, gone.stderr) == (
        1,
        f"segue: {folder}/nothing: No such file or directory\n",
    )


def test_half_open_connections_do_not_keep_others_out(serving: Serving) -> None:
    """As many as are taken in, one of them talking all the while: none outlives its handshake."""

    def answers() -> bool:
        try:
            return len(_native.NbdClient(str(serving.socket), "").pread(512, 0)) == 512
        except OSError:
            return False

    with ExitStack() as held:
        crowd = []
        for _ in range(300):
            there = held.enter_context(socket.socket(socket.AF_UNIX))
            there.settimeout(30)
            there.connect(str(serving.socket))
            crowd.append(there)
        # A client's flags, then one option, byte by byte.
        crowd[0].sendall(bytes([0, 0, 0, 3]))
        assert not answers(), "300 connections are taken in"
        talk = iter(b"IHAVEOPT" + bytes(100_000))

        def another_byte_and_answers() -> bool:
            with suppress(OSError):
                crowd[0].send(bytes([next(talk)]))
            return answers()

        wait_until("the half-open ones are ended", another_byte_and_answers)
        assert sum(is_over(there) for there in crowd) == 300
    log = (serving.socket.parent / "serve.log").read_text()
    assert "its handshake took too long" in log
    assert log.count("no more are taken in") == 1


def is_over(there: socket.socket) -> bool:
    """Whether the server has ended the connection, however it began."""
    try:
        while there.recv(4096):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize(
    ("storage", "args", "said"),
    [
        ("empty", [], "{0}/empty is empty: truncate -s SIZE {0}/empty gives it a size"),
        (".", [], "{0}/. is neither a file nor a block device"),
        ("file", ["--state", "{0}"], "{0} (--state): Is a directory"),
        ("file", ["--state", "{0}/no/state"], "{0}/no/state (--state): No such file or directory"),
        (
            "file",
            ["--listen", "tcp://127.0.0.1:{1}"],
            "tcp://127.0.0.1:{1}: Address already in use",
        ),
        ("file", ["--listen", "unix://{0}/no/s"], "unix://{0}/no/s: No such file or directory"),
        (
            "file",
            ["--listen", "unix://{0}/file"],
            "unix://{0}/file: {0}/file is there already, and no socket",
        ),
    ],
)
def test_what_is_to_blame_is_named(folder: Path, storage: str, args: list[str], said: str) -> None:
    (folder / "empty").touch()
    (folder / "file").write_bytes(bytes(MIB))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        told = (folder, taken.getsockname()[1])
        listen = ["--listen", f"unix://{folder}/s"]
        words = [f"{folder}/{storage}", *listen, *(word.format(*told) for word in args)]
        done = segue(None, "serve", *words)
    assert done.returncode == 1
    assert done.stderr == f"segue: {said.format(*told)}\n"
    assert (folder / "file").read_bytes() == bytes(MIB)


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts servers of one file, each at a socket of its own."""
    (folder / "file").write_bytes(bytes(MIB))
    started: list[subprocess.Popen[str]] = []

    def start(address: str) -> subprocess.Popen[str]:
        words = ["serve", f"{folder}/file", "--listen", f"unix://{folder}/{address}"]
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "segue.cli", *words]
        started.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


def test_a_second_server_says_that_it_waits(
    serve: Callable[[str], subprocess.Popen[str]], folder: Path
) -> None:
    first = serve("one")
    assert first.stdout is not None
    assert first.stdout.readline().startswith("serving ")
    second, third = serve("two"), serve("three")
    for waiting in (second, third):
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == (
            f"{folder}/file is not open yet: waiting (does another `segue serve` have it?)\n"
        )
    third.send_signal(signal.SIGINT)
    assert third.communicate(timeout=10) == ("", "segue: interrupted\n")
    assert third.returncode == 130
    first.terminate()
    assert (first.wait(), first.communicate()) == (0, ("", ""))
    assert second.stdout is not None
    assert second.stdout.readline().startswith("serving ")
    second.terminate()
    assert (second.wait(), second.communicate()) == (0, ("", ""))
