"""`segue serve` exports storage with a fence: whose I/O is to end there ends, provably (rule 5)."""

from __future__ import annotations

import resource
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
from segue.installation import Installation, listens, wait_until
from tests.tools.conftest import MIB, segue
from tests.tools.test_nbd_container import Load


class Serving:
    """`segue serve` over a file that faults can be injected into."""

    def __init__(self, folder: Path, *args: str, wrapper: str = "faulty+") -> None:
        self.socket, self._folder, self._args = folder / "serve.sock", folder, args
        self._storage = f"{wrapper}file://{folder}/storage"
        with open(folder / "storage", "wb") as made:
            made.truncate(128 * MIB)
        self.start()

    def start(self) -> None:
        """Until it listens."""
        command = [sys.executable, "-m", "segue.cli", "serve", self._storage]
        with open(self._folder / "serve.log", "ab") as log:
            self._process = subprocess.Popen(
                [*command, "--listen", f"unix://{self.socket}", *self._args], stdout=log, stderr=log
            )
        wait_until("segue serve", lambda: listens(self.socket))

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has said."""
        return (self._folder / "serve.log").read_text()

    def answers(self) -> bool:
        """Whether a client gets in."""
        try:
            return len(_native.NbdClient(str(self.socket), "").pread(512, 0)) == 512
        except OSError:
            return False

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
        made.client.delete_disk("disk", force=True)
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


@pytest.fixture
def narrow(folder: Path) -> Iterator[Serving]:
    """A server of few connections, which have little time for their handshakes."""
    # Without the wrapper, which opens a file for each I/O.
    made = Serving(folder, "--connections", "20", "--handshake-timeout", "2", wrapper="")
    yield made
    made.kill()


def connected(held: ExitStack, serving: Serving) -> socket.socket:
    """A client that says nothing."""
    there = held.enter_context(socket.socket(socket.AF_UNIX))
    there.settimeout(30)
    there.connect(str(serving.socket))
    return there


def test_half_open_connections_do_not_keep_others_out(narrow: Serving) -> None:
    """As many as are taken in, one of them talking all the while: none outlives its handshake."""
    before = _native.NbdClient(str(narrow.socket), "")
    with ExitStack() as held:
        crowd = [connected(held, narrow) for _ in range(30)]
        # A client's flags, then one option, byte by byte.
        crowd[0].sendall(bytes([0, 0, 0, 3]))
        assert not narrow.answers(), "30 connections are taken in"
        assert len(before.pread(512, 0)) == 512
        talk = iter(b"IHAVEOPT" + bytes(100_000))

        def another_byte_and_answers() -> bool:
            with suppress(OSError):
                crowd[0].send(bytes([next(talk)]))
            return narrow.answers()

        wait_until("the half-open ones are ended", another_byte_and_answers)
        assert sum(is_over(there) for there in crowd) == 30
    assert len(before.pread(512, 0)) == 512
    assert "its handshake is not over, and it has taken 2 s for it" in narrow.log
    assert narrow.log.count("there are 20 connections already") == 1


def test_without_descriptors_clients_wait(narrow: Serving) -> None:
    """Clients that say nothing have taken them all: it goes on, and says so once in a while."""
    before = _native.NbdClient(str(narrow.socket), "")
    there_are = len(list(Path(f"/proc/{narrow.pid}/fd").iterdir()))
    resource.prlimit(narrow.pid, resource.RLIMIT_NOFILE, (there_are + 5, there_are + 5))
    with ExitStack() as held:
        crowd = [connected(held, narrow) for _ in range(15)]
        wait_until("it runs out", lambda: "Too many open files" in narrow.log)
        assert len(before.pread(512, 0)) == 512
        # All of them had their turn, and their time, before it.
        assert narrow.answers()
        assert sum(is_over(there) for there in crowd) == 15
    assert narrow.log.count("a connection could not be taken: Too many open files") < 5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--connections", "0"), "1 to 65536 connections are served, not 0"),
        (("--handshake-timeout", "nan"), "a handshake may take 0.1 to 86400 s, not nan"),
    ],
)
def test_limits_that_make_no_sense_are_refused(
    folder: Path, flags: tuple[str, str], said: str
) -> None:
    (folder / "file").write_bytes(bytes(MIB))
    listen = ("--listen", f"unix://{folder}/s")
    done = segue(folder / "none", "serve", f"{folder}/file", *listen, *flags)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


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
