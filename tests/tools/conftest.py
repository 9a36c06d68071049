"""A whole installation for each test, and other people's tools to use it with."""

from __future__ import annotations

import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from segue.api.containers import ContainerInfo
from segue.client import Client
from segue.installation import Installation, listens, wait_until

MIB = 1 << 20
TOOL_DEADLINE_S = 120.0
BIG_BYTES = 256 * MIB
# Of each log of a test that failed.
LOG_LINES = 30


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A short path (unix sockets take 107 characters); kept when the test fails."""
    path = Path(tempfile.mkdtemp(prefix="segue-"))
    yield path
    report = getattr(request.node, "report_call", None)
    if report is not None and report.passed:
        shutil.rmtree(path)
    else:
        print(f"logs and data are in {path}")
        for log in sorted((*path.glob("*.log"), *path.glob("data/*.log"))):
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            print(f"--- {log.relative_to(path)}", *lines, sep="\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Lets fixtures see whether their test passed."""
    report = yield
    setattr(item, f"report_{report.when}", report)  # type: ignore[attr-defined]
    return report


@pytest.fixture
def installation(folder: Path) -> Iterator[Installation]:
    """A controller, agent *one*, one container of 256 MiB, disk *disk* of 64 MiB."""
    with Installation(folder / "data") as made:
        made.start_controller()
        made.start_agent("one")
        made.client.add_container("left", f"file://{folder}/left", 256 * MIB)
        made.client.create_disk("disk", 64 * MIB)
        yield made
        made.stop()


def containers(client: Client) -> list[ContainerInfo]:
    """The containers, without what their file systems have left: others use those as well."""
    return [
        msgspec.structs.replace(info, free_bytes=0, file_system_free_bytes=None)
        for info in client.containers()
    ]


@pytest.fixture
def random_file(folder: Path) -> Callable[[int], Path]:
    """Makes a file of so many bytes (whole MiB), all blocks different."""

    def make(size_bytes: int) -> Path:
        path = folder / "random"
        rng = random.Random(size_bytes)
        with open(path, "wb") as out:
            for _ in range(size_bytes // MIB):
                out.write(rng.randbytes(MIB))
        return path

    return make


class Tool:
    """Runs a command line tool; a missing one skips the test."""

    def __init__(self, name: str) -> None:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed: make tools")
        self.name = name
        self.path = Path(path)

    def __call__(self, *args: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Run it to its end; with `ok` a status other than 0 fails the test with its output."""
        done = subprocess.run(
            [self.name, *map(str, args)],
            capture_output=True,
            text=True,
            timeout=TOOL_DEADLINE_S,
            check=False,
        )
        if ok and done.returncode != 0:
            pytest.fail(f"{' '.join(done.args)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def start(self, *args: str | Path, log: Path) -> subprocess.Popen[bytes]:
        """Run it beside the test; its output goes to `log`."""
        with open(log, "wb") as out:
            return subprocess.Popen(
                [self.name, *map(str, args)], stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )


def segue(data: Path | None, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command `segue`, as a process of its own, with these variables besides its parent's.

    `data` None: an installation is named by the arguments, or none is.
    """
    where = [] if data is None else ["--data", str(data)]
    return subprocess.run(
        [sys.executable, "-m", "segue.cli", *where, *args],
        capture_output=True,
        text=True,
        timeout=TOOL_DEADLINE_S,
        check=False,
        env={**os.environ, **environment},
    )


class Shell:
    """qemu-io kept open on one connection; commands are said one by one.

    Writeback: without it qemu-io sends every write with FUA.
    """

    PROMPT = b"qemu-io> "

    def __init__(self, uri: str) -> None:
        self._process = subprocess.Popen(
            ["qemu-io", "-f", "raw", "-t", "writeback", uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._answer()

    def say(self, command: str) -> str:
        """What it prints to a command; a wrong pattern or an error fails the test."""
        answer = self.try_to(command)
        for bad in ("failed", "error", "No space", "Invalid"):
            assert bad not in answer, f"{command}: {answer}"
        return answer

    def try_to(self, command: str) -> str:
        """What it prints to a command, which may fail."""
        self.begin(command)
        return self.ended()

    def begin(self, command: str) -> None:
        """Say a command that may take long; `ended` comes next."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    def ended(self) -> str:
        """What it has printed when the command is done."""
        return self._answer()

    def close(self) -> None:
        """Disconnect."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(TOOL_DEADLINE_S)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        said = b""
        while not said.endswith(self.PROMPT):
            ready, _, _ = select.select([self._process.stdout], [], [], TOOL_DEADLINE_S)
            assert ready, f"qemu-io says nothing more than {said!r}"
            piece = os.read(self._process.stdout.fileno(), 4096)
            assert piece, f"qemu-io ended after {said!r}"
            said += piece
        return said.removesuffix(self.PROMPT).decode()


@pytest.fixture
def shell(qemu_io: Tool) -> Iterator[Callable[[str], Shell]]:
    """Opens shells, and closes them after the test."""
    shells: list[Shell] = []

    def opened(uri: str) -> Shell:
        shells.append(Shell(uri))
        return shells[-1]

    yield opened
    for one in shells:
        one.close()


@pytest.fixture
def nbdinfo() -> Tool:
    """libnbd's nbdinfo."""
    return Tool("nbdinfo")


@pytest.fixture
def nbdcopy() -> Tool:
    """libnbd's nbdcopy."""
    return Tool("nbdcopy")


@pytest.fixture
def qemu_io() -> Tool:
    """QEMU's qemu-io."""
    return Tool("qemu-io")


@pytest.fixture
def fio() -> Tool:
    """fio with its nbd engine."""
    tool = Tool("fio")
    if "nbd" not in tool("--enghelp").stdout:
        pytest.skip("fio is built without its nbd engine")
    return tool


@pytest.fixture
def nbdkit() -> Tool:
    """nbdkit with its nbd plugin and retry filter."""
    return Tool("nbdkit")


@pytest.fixture
def retrying(installation: Installation, nbdkit: Tool, folder: Path) -> Iterator[tuple[str, Path]]:
    """Disk *big* through nbdkit, which opens agent *one* again and repeats; its URI and its log."""
    installation.client.add_container("right", f"file://{folder}/right", 2 * BIG_BYTES)
    installation.client.create_disk("big", BIG_BYTES)
    path, log = folder / "nbdkit.sock", folder / "nbdkit.log"
    retry = ("retries=60", "retry-delay=1", "retry-exponential=no")
    plugin = ("--filter=retry", "nbd", f"uri={installation.uri('big', 'one')}")
    args = ("--foreground", "--verbose", "--unix", str(path), *plugin, *retry)
    server = nbdkit.start(*args, log=log)
    wait_until("nbdkit", lambda: listens(path))
    yield f"nbd+unix:///?socket={path}", log
    server.terminate()
    server.wait()
