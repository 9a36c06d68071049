"""What operators get wrong, against real processes: one line, the right status, nothing changed.

Verbs are refused by one live installation that all these tests share; controllers and agents that
cannot start are started on a copy of a stopped one, whose files are compared afterwards.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from segue import _native
from segue.cli.main import main
from segue.client import ApiError
from segue.installation import Installation
from segue.store.sqlite import SqliteStore
from tests.tools.conftest import MIB, containers

DEADLINE_S = 60.0
BIG_BYTES, SMALL_BYTES = 256 * MIB, 16 * MIB
DIRECT = ["--size", "1G", "--cache", "direct"]
OURS, THEIRS = b"o" * 16, b"t" * 16


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder with a short path, for all tests here."""
    path = Path(tempfile.mkdtemp(prefix="segue-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def live(place: Path) -> Iterator[Installation]:
    """Controller, agent *one*, container *left*, disk *disk*."""
    with Installation(place / "live") as made:
        made.start_controller()
        made.start_agent("one")
        made.client.add_container("left", f"file://{place}/left", SMALL_BYTES)
        made.client.create_disk("disk", 8 * MIB)
        yield made
        made.stop()


def digest(path: Path) -> str:
    """Of a file's bytes, or of what else it is."""
    if path.is_symlink() or not path.is_file():
        return f"{path.lstat().st_mode:o}"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def one_line(stderr: str) -> str:
    """What the command says is wrong, and nothing else."""
    [line] = stderr.splitlines()
    assert line.startswith("segue: ")
    assert line.isprintable()
    assert "Errno" not in line
    assert "os error" not in line
    return line.removeprefix("segue: ")


# Verbs --------------------------------------------------------------------------------------------


def something(path: Path) -> None:
    path.write_bytes(b"something")


def of_another_installation(path: Path) -> None:
    _native.create_container(f"file://{path}", SMALL_BYTES, MIB, OURS, THEIRS, 1, "page")


def damaged(path: Path) -> None:
    of_another_installation(path)
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(b"damage")


def of_a_newer_segue(path: Path) -> None:
    of_another_installation(path)
    slot = bytearray(path.read_bytes()[:4092])
    slot[8:12] = (2).to_bytes(4, "little")
    slot += _native.crc32c(bytes(slot)).to_bytes(4, "little")
    with open(path, "r+b") as file:
        file.write(slot)


def absurd(path: Path) -> None:
    """A header with a right checksum that no Segue has written."""
    of_another_installation(path)
    slot = bytearray(path.read_bytes()[:4092])
    slot[56:64] = (1 << 63).to_bytes(8, "little")
    slot += _native.crc32c(bytes(slot)).to_bytes(4, "little")
    with open(path, "r+b") as file:
        file.write(slot)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (something, "exists and holds something"),
        (of_another_installation, "container of another installation"),
        (damaged, "damaged"),
        (of_a_newer_segue, "newer than this Segue"),
        (absurd, "damaged"),
        (Path.mkdir, "Is a directory"),
        (os.mkfifo, "no regular file"),
        (lambda path: path.symlink_to("left"), "container of this installation already"),
        (lambda path: path.hardlink_to(path.with_name("left")), "of this installation already"),
        (lambda path: path.symlink_to("/nowhere/at/all"), "No such file"),
    ],
)
def test_a_file_that_is_no_place_for_a_container(
    live: Installation, place: Path, make: Callable[[Path], None], sentence: str
) -> None:
    path = place / "there"
    make(path)
    before = (live.client.status().commit, digest(path), containers(live.client))
    args = ["container", "add", "c", f"file://{path}", "--size", "16M"]
    result = CliRunner().invoke(main, ["--data", str(live.data), *args])
    assert (result.exit_code, result.stdout) == (1, "")
    said = one_line(result.stderr)
    assert f"file://{path}" in said
    assert sentence in said
    assert (live.client.status().commit, digest(path), containers(live.client)) == before
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("status", "args", "sentence"),
    [
        (1, ["disk", "create", "", "1G"], "no name for a disk"),
        (1, ["disk", "create", "-", "1G"], "no name for a disk"),
        (1, ["disk", "create", "d" * 64, "1G"], "no name for a disk"),
        (1, ["disk", "create", "dé", "1G"], "no name for a disk"),
        (1, ["disk", "create", "a\x1b[2J", "1G"], "no name for a disk"),
        (1, ["disk", "create", "disk@now", "1G"], "no name for a disk"),
        (1, ["disk", "create", "d", "257T"], "256T at most"),
        (1, ["disk", "create", "d", "1E"], "256T at most"),
        (2, ["disk", "create", "d", "-1"], "begins with -1: no value may be negative"),
        (2, ["disk", "create", "d", "-5G"], "no value may be negative"),
        (2, ["disk", "resize", "disk", "-1G"], "no value may be negative"),
        (2, ["disk", "explain", "disk", "-1"], "no value may be negative"),
        (2, ["container", "linger", "left", "-.5"], "no value may be negative"),
        (2, ["job", "limit", "1", "-5"], "no value may be negative"),
        (2, ["disk", "list", "-x"], "no such option"),
        (2, ["disk", "create", "d", "--", "-1"], "no size"),
        (2, ["disk", "create", "d", "1.5"], "no whole number of bytes"),
        (2, ["disk", "create", "d", "10GB"], "write 10G"),
        (2, ["disk", "create", "d", "1e9"], "no size"),
        (2, ["disk", "create", "d", "\u0661G"], "no size"),
        (2, ["disk", "create", "d"], "Missing argument"),
        (2, ["disk", "create", "d", "1G", "2G"], "extra argument"),
        (2, ["disk", "frobnicate"], "No such command"),
        (1, ["container", "add", "left", "file:///x", "--size", "1G"], "exists already"),
        (1, ["container", "add", "c", "", "--size", "1G"], "no URI"),
        (1, ["container", "add", "c", "/srv/x y", "--size", "1G"], "write file:///srv/x%20y"),
        (1, ["container", "add", "c", "/dev/loop0"], "write block:///dev/loop0"),
        (1, ["container", "add", "c", "file://x", "--size", "1G"], "absolute"),
        (1, ["container", "add", "c", "file:///x%0", "--size", "1G"], "%-escape"),
        (1, ["container", "add", "c", "file:///x%00y", "--size", "1G"], "%-escape"),
        (1, ["container", "add", "c", "http://x/y", "--size", "1G"], "can be opened"),
        (1, ["container", "add", "c", "odd+file:///x", "--size", "1G"], "wrapper"),
        (1, ["container", "add", "c", "file:///dev/null", "--size", "1G"], "no regular file"),
        (1, ["container", "add", "c", "block:///dev/null", *DIRECT], "/dev/null"),
        (1, ["container", "add", "c", "block:///nowhere/x", *DIRECT], "No such file"),
        (1, ["container", "add", "c", "file:///tmp/no", "--size", "1M"], "no segment"),
        (
            1,
            ["container", "add", "c", "file:///tmp/no", "--size", "999E"],
            "256T at most, not 999E",
        ),
        (2, ["container", "add", "c", "file:///tmp/no", "--size", "1M", "--cache", "x"], "'x'"),
        (1, ["container", "add", "c", "nbd://127.0.0.1:1/x?on-loss=xx"], "takes stall or fail"),
        (1, ["container", "add", "c", "nbd://127.0.0.1:1/x?connections=99"], "takes 1 to 16"),
        (1, ["container", "add", "c", "nbd://127.0.0.1:1/x?onloss=fail"], "are socket, on-loss,"),
        (1, ["disk", "move", "disk", "--to", "left", "--latency", "-1"], "not -1 ms"),
        (2, ["disk", "move", "disk", "--to", "left", "--latency", "1ms"], "many milliseconds"),
        (2, ["container", "linger", "left", "abc"], "'abc' is no number: write how many seconds"),
        (2, ["controller", "--lease", "abc"], "write how many seconds"),
        (1, ["container", "show", "a/../b"], "there is nothing at /v1/containers/a/../b"),
        (1, ["disk", "uri", "disk", "--agent", "two"], "no agent called two"),
        (1, ["disk", "uri", "\n\x1b[31m"], "no disk is called"),
        (1, ["agent", "show", "two"], "no agent"),
    ],
)
def test_a_verb_that_makes_no_sense(
    live: Installation, status: int, args: list[str], sentence: str
) -> None:
    before = (live.client.status().commit, containers(live.client), live.client.disks())
    result = CliRunner().invoke(main, ["--data", str(live.data), *args])
    assert (result.exit_code, result.stdout) == (status, "")
    assert sentence.lower() in one_line(result.stderr).lower()
    after = (live.client.status().commit, containers(live.client), live.client.disks())
    assert after == before


def test_the_store_is_no_place_for_a_container(live: Installation) -> None:
    for name in ("segue.db", "segue.db.lock", "api.sock"):
        uri = f"file://{live.data}/{name}"
        with pytest.raises(ApiError, match="cannot make container"):
            live.client.add_container("c", uri, SMALL_BYTES)
    assert live.client.status().containers == 1


def test_a_second_controller_leaves_the_first_alone(live: Installation) -> None:
    before = live.client.status()
    done = start(live.data, "controller")
    assert done.returncode == 1
    assert "another controller runs on this store" in one_line(done.stderr)
    after = live.client.status()
    assert (after.pid, after.term, after.commit) == (before.pid, before.term, before.commit)


def test_an_agent_of_another_version_is_told_so_and_ends(live: Installation, place: Path) -> None:
    code = (
        "from segue.wire import messages as m; from segue.agent import session as s\n"
        "m.PROTOCOL_VERSION = s.PROTOCOL_VERSION = 99\n"
        "from segue.cli.main import main; main()"
    )
    args = ["--data", str(live.data), "agent", "--name", "future"]
    done = subprocess.run(
        [sys.executable, "-c", code, *args, "--log-level", "error"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "speaks protocol 1, the agent 99" in one_line(done.stderr)
    assert [info.name for info in live.client.agents()] == ["one"]


def test_a_second_agent_on_the_same_socket_is_refused(live: Installation) -> None:
    done = start(live.data, "agent", "--name", "one", "--log-level", "error")
    assert done.returncode == 1
    assert f"unix://{live.data}/nbd-one.sock: Address already in use" in one_line(done.stderr)
    assert [info.state for info in live.client.agents()] == ["present"]


# Starting -----------------------------------------------------------------------------------------


def start(data: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """`segue ...` in a process of its own, which is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "segue.cli", "--data", str(data), *args],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def stopped(place: Path) -> Path:
    """A folder with an installation that was stopped, and an older copy of its store."""
    folder = place / "stopped"
    folder.mkdir()
    data = folder / "data"
    with Installation(data) as made:
        made.start_controller()
        made.client.add_container("left", f"file://{folder}/left", SMALL_BYTES)
        made.client.create_disk("disk", 8 * MIB)
        made.stop()
        shutil.copy(data / "segue.db", folder / "old.db")
        made.start_controller()
        made.client.create_disk("more", 8 * MIB)
        made.stop()
    return folder


@pytest.fixture
def copied(stopped: Path) -> Iterator[Path]:
    """Where it was, as it was; what a test does to it is undone."""
    kept = stopped.with_name("kept")
    shutil.copytree(stopped, kept, ignore=shutil.ignore_patterns("*.sock"))
    yield stopped
    shutil.rmtree(stopped)
    kept.rename(stopped)


def contents(folder: Path) -> dict[str, object]:
    """Everything in the folder; of a store the rows, but for the terms that were claimed."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".db-wal", ".db-shm", ".log") or path.is_socket():
            continue
        found[str(path)] = rows(path) if path.name == "segue.db" else digest(path)
    return found


def rows(path: Path) -> object:
    """What a store holds, or the digest of what is none."""
    try:
        with closing(sqlite3.connect(path)) as db:
            db.text_factory = bytes
            tables = [name for (name,) in db.execute("select name from sqlite_master")]
            pages = {
                name: sorted(map(repr, db.execute(f"select * from {name.decode()}")))
                for name in tables
                if name != b"head"
            }
            return pages, db.execute("select number, chain from head").fetchall()
    except sqlite3.Error:
        return digest(path)


def lose_left(folder: Path) -> None:
    (folder / "left").unlink()


def cut_left(folder: Path) -> None:
    os.truncate(folder / "left", MIB)


def empty_left(folder: Path) -> None:
    os.truncate(folder / "left", 0)


def swap_left(folder: Path) -> None:
    lose_left(folder)
    of_another_installation(folder / "left")


def damage_left(folder: Path) -> None:
    with open(folder / "left", "r+b") as file:
        for slot in (40, 4096 + 40):
            file.seek(slot)
            file.write(b"damage")


def damage_store(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "data" / "segue.db")) as db:
        db.execute("update head set number = number + 1")
        db.commit()


def no_store(folder: Path) -> None:
    (folder / "data" / "segue.db").write_bytes(b"no store" * 1024)


def store_is_a_folder(folder: Path) -> None:
    (folder / "data" / "segue.db").unlink()
    (folder / "data" / "segue.db").mkdir()


def empty_store(folder: Path) -> None:
    os.truncate(folder / "data" / "segue.db", 0)


def lose_store(folder: Path) -> None:
    (folder / "data" / "segue.db").unlink()


def new_store(folder: Path) -> None:
    lose_store(folder)
    asyncio.run(SqliteStore(str(folder / "data" / "segue.db")).close())


def damage_mark(folder: Path) -> None:
    (folder / "data" / "installation").write_bytes(b"\xff")


def newer_store(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "data" / "segue.db")) as db:
        db.execute("pragma user_version = 99")
        db.commit()


def old_store(folder: Path) -> None:
    shutil.copy(folder / "old.db", folder / "data" / "segue.db")


def taken_api(folder: Path) -> None:
    (folder / "data" / "api.sock").write_text("precious")


def taken_link(folder: Path) -> None:
    (folder / "data" / "controller.sock").mkdir()


def shared_folder(folder: Path) -> None:
    (folder / "data").chmod(0o777)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lose_left, "left: No such file or directory"),
        (cut_left, "left: it is shorter than its header says"),
        (empty_left, "left: it has no header"),
        (swap_left, "left: its header names another container"),
        (damage_left, "left: its header is damaged"),
        (damage_store, "store damaged: head"),
        (no_store, "file is not a database"),
        (empty_store, "segue.db is empty, and an installation was made here"),
        (lose_store, "segue.db is missing, and an installation was made here"),
        (new_store, "it is the store of another installation"),
        (damage_mark, "installation names no installation"),
        (store_is_a_folder, "segue.db: unable to open"),
        (newer_store, "the store has version 99, this Segue knows 1"),
        (old_store, "an old copy of the store was put back"),
        (taken_api, "api.sock: Address already in use"),
        (taken_link, "controller.sock: Address already in use"),
        (shared_folder, "chmod go-w"),
    ],
)
def test_a_controller_that_cannot_serve_says_why_and_changes_nothing(
    copied: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(copied)
    before = contents(copied)
    done = start(copied / "data", "controller", "--log-level", "error")
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in one_line(done.stderr.splitlines()[-1])
    assert contents(copied) == before


@pytest.mark.parametrize(
    ("status", "args", "sentence"),
    [
        (1, ["controller", "--listen", "unix:///nowhere/s"], "/nowhere/s: No such file"),
        (1, ["controller", "--listen", "tcp://127.0.0.1:{taken}"], "Address already in use"),
        (2, ["controller", "--listen", "tcp://0.0.0.0:7"], "--insecure"),
        (2, ["controller", "--listen", "nowhere"], "is no address"),
        (2, ["controller", "--lease", "nan"], "a lease lasts"),
        (2, ["controller", "--segment-size", "3M"], "power of two"),
        (2, ["controller", "--checkpoint-log", "0"], "the log grows"),
        (1, ["agent", "--name", "x", "--listen", "unix:///nowhere/s"], "/nowhere/s: No such file"),
        (1, ["agent", "--name", "x", "--listen", "tcp://127.0.0.1:{taken}"], "already in use"),
        (2, ["agent", "--name", "../x"], "no name for an agent"),
        (2, ["agent", "--name", "x", "--host-timeout", "nan"], "time out"),
    ],
)
def test_flags_that_make_no_sense(
    copied: Path, status: int, args: list[str], sentence: str
) -> None:
    before = contents(copied)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = [arg.format(taken=port) for arg in args]
        done = start(copied / "data", *words)
    assert (done.returncode, done.stdout) == (status, "")
    assert sentence in one_line(done.stderr.splitlines()[-1])
    assert contents(copied) == before


@pytest.mark.parametrize("verb", ["controller", "agent", "up", "status", "check"])
@pytest.mark.parametrize("where", ["file", "not/there", "x" * 120])
def test_a_folder_that_is_none(place: Path, verb: str, where: str) -> None:
    if verb == "up" and where == "not/there":
        return  # it makes the whole way
    folder = place / "bad"
    folder.mkdir()
    (folder / "file").write_text("precious")
    before = contents(folder)
    data = str(folder / where)
    if where == "x" * 120:
        os.mkdir(data, mode=0o700)
        before = contents(folder)
    if verb in ("status", "check"):
        result = CliRunner().invoke(main, ["--data", data, verb])
        status, stderr = result.exit_code, result.stderr
    else:
        done = start(Path(data), verb)
        status, stderr = done.returncode, done.stderr
    assert status in (1, 2)
    assert one_line(stderr.splitlines()[-1])
    left = {path for path in contents(folder) if "segue.db" not in path and "up." not in path}
    assert left == set(before)
    assert (folder / "file").read_text() == "precious"
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("[controller]\nlaese = 3\n", "no setting 'laese'"),
        ("[controller]\nlease = [3]\n", "takes one value"),
        ("[controller]\nlease = 'soon'\n", "'soon' is no number"),
        ("[controller]\nlisten = 'x'\n", "takes a list"),
        ("[kontroller]\nlease = 3\n", "no table of settings"),
        ("lease = 3\n", "no table of settings"),
        ("[controller\n", "is no TOML"),
        ("[controller]\nlease = 3\nlease = 4\n", "is no TOML"),
        (b"\xff\xfe", "is no TOML"),
    ],
)
def test_settings_that_make_no_sense(place: Path, toml: str | bytes, sentence: str) -> None:
    data = place / "settings"
    data.mkdir(mode=0o700)
    (data / "segue.toml").write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    result = CliRunner().invoke(main, ["--data", str(data), "controller"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in one_line(result.stderr)
    assert [path.name for path in data.iterdir()] == ["segue.toml"]
    shutil.rmtree(data)


# A full disk --------------------------------------------------------------------------------------


@pytest.fixture
def tight(place: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = place / "tight"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        path.rmdir()
        pytest.skip("needs root, to mount a small tmpfs")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)
    path.rmdir()


def fill(path: Path) -> None:
    """Takes all the room there is."""
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_a_full_disk_under_a_container_fails_that_write_alone(
    tight: Path, live: Installation
) -> None:
    live.client.add_container("tight", f"file://{tight}/sparse", BIG_BYTES)
    live.client.create_disk("thin", BIG_BYTES // 2)
    host = _native.NbdClient(live.socket("one"), "thin")
    host.pwrite(b"1" * MIB, 0)
    fill(tight / "filled")
    with pytest.raises(OSError, match="ENOSPC"):
        host.pwrite(b"2" * MIB, MIB)
    assert host.pread(MIB, 0) == b"1" * MIB
    host.pwrite(b"3" * 4096, 0)
    (tight / "filled").unlink()
    host.pwrite(b"2" * MIB, MIB)
    assert host.pread(2 * MIB, 0) == b"3" * 4096 + b"1" * (MIB - 4096) + b"2" * MIB
    host.flush()
    host.close()
    live.client.delete_disk("thin")
