"""A flush that failed is not followed by one that succeeds, until an operator says so (P5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from errno import EIO
from functools import partial
from pathlib import Path

import pytest

from segue import _native
from segue.failpoints import VARIABLE
from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, Shell, segue

NOTE_AT, NOTE = 8192, b"SEGUENOT"


@pytest.fixture
def faulty(folder: Path) -> Iterator[Installation]:
    """One container whose faults are written to ``FOLDER/faulty.faults``."""
    with Installation(folder / "data") as made:
        made.start_controller()
        made.start_agent("one")
        made.client.add_container("left", f"faulty+file://{folder}/faulty", 64 * MIB)
        made.client.create_disk("disk", 32 * MIB)
        made.client.create_disk("other", 32 * MIB)
        yield made


def rules(folder: Path, *lines: str) -> None:
    """From now on the container does this."""
    (folder / "new").write_text("".join(f"{line}\n" for line in lines))
    (folder / "new").rename(folder / "faulty.faults")


def refuses_to_flush(client: _native.NbdClient) -> None:
    """Not by qemu-io, which says nothing of a flush that failed."""
    with pytest.raises(OSError) as caught:
        client.flush()
    assert caught.value.errno == EIO


def test_the_error_is_durable_until_cleared(faulty: Installation, folder: Path) -> None:
    host = _native.NbdClient(faulty.uri("disk", "one"), "disk")
    host.pwrite(bytes([1]) * 4 * MIB, 0)
    rules(folder, "fail flush 5")
    refuses_to_flush(host)
    rules(folder)
    refuses_to_flush(host)
    assert host.pread(4 * MIB, 0) == bytes([1]) * 4 * MIB
    assert faulty.client.disk("disk").failed == {"left": EIO}
    assert any("flush failed" in problem for problem in faulty.client.status().problems)
    # Neither kill -9 of all processes nor another agent makes it forgotten.
    faulty.agents["one"].kill()
    faulty.controller.kill()
    faulty.start_controller()
    faulty.start_agent("one")
    faulty.start_agent("two")
    hosts = [_native.NbdClient(faulty.uri("disk", agent), "disk") for agent in ("one", "two")]
    for again in hosts:
        refuses_to_flush(again)
    assert segue(faulty.data, "disk", "clear-error", "disk").returncode == 0
    for again in hosts:
        again.pwrite(b"2", 0)
        again.flush()
    assert faulty.client.disk("disk").failed == {}


def test_status_says_the_error_and_what_to_do(faulty: Installation, folder: Path) -> None:
    for disk in ("disk", "other"):
        host = _native.NbdClient(faulty.uri(disk, "one"), disk)
        host.pwrite(bytes([1]) * MIB, 0)
        rules(folder, "fail flush 5")
        refuses_to_flush(host)
        rules(folder)
    wait_until("both", lambda: all(disk.failed for disk in faulty.client.disks()))
    assert faulty.client.status().problems == [
        "disks disk, other: a flush failed at container left (Input/output error): what was not "
        "flushed may be lost; when you have checked it, `segue disk clear-error disk other`"
    ]
    shown = segue(faulty.data, "disk", "show", "other").stdout
    assert "a flush at left (Input/output error)" in shown
    done = segue(faulty.data, "disk", "clear-error", "other", "no", "disk")
    assert (done.returncode, done.stderr) == (1, "segue: no disk is called no\n")
    ended = [f"disk {name}: flush errors ended" for name in ("other", "disk")]
    assert done.stdout.splitlines() == ended
    assert faulty.client.status().problems == []


def note(folder: Path) -> bytes:
    """The first bytes of the block where a note of a failed flush lies."""
    with (folder / "faulty").open("rb") as container:
        container.seek(NOTE_AT)
        return container.read(len(NOTE))


@pytest.mark.parametrize("how", ["flush", "fua", "a controller dies before it clears the note"])
def test_the_error_outlives_all_who_were_told_of_it(
    faulty: Installation, folder: Path, how: str
) -> None:
    """It fails with no controller there, and the agent dies before there is one."""
    host = _native.NbdClient(faulty.uri("disk", "one"), "disk")
    host.pwrite(bytes([1]) * 4 * MIB, 0)
    host.flush()
    faulty.controller.kill()
    if how == "fua":
        rules(folder, f"fail write 5 {MIB} {64 * MIB}")
        failing = partial(host.pwrite, b"2" * 4096, 0, fua=True)
    else:
        rules(folder, "fail flush 5")
        failing = partial(host.flush)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(failing)
        wait_until("the note", lambda: note(folder) == NOTE)
        assert not answer.done()
        faulty.agents["one"].kill()
        assert isinstance(answer.exception(timeout=30), OSError)
    rules(folder)
    if how == "a controller dies before it clears the note":
        faulty.controller.start(**{VARIABLE: "note.marked=kill:1"})
        wait_until("the controller to die", lambda: not faulty.controller.running)
        assert note(folder) == NOTE
    faulty.start_controller()
    faulty.start_agent("one")
    faulty.start_agent("two")
    for agent in ("two", "one"):
        refuses_to_flush(_native.NbdClient(faulty.uri("disk", agent), "disk"))
    assert faulty.client.disk("disk").failed == {"left": EIO}
    assert segue(faulty.data, "disk", "clear-error", "disk").returncode == 0
    assert note(folder) == bytes(len(NOTE))
    faulty.controller.kill()
    faulty.start_controller()
    for agent in ("two", "one"):
        _native.NbdClient(faulty.uri("disk", agent), "disk").flush()
    assert faulty.client.disk("disk").failed == {}


def test_fua_fails_like_flush(faulty: Installation, folder: Path) -> None:
    host = _native.NbdClient(faulty.uri("disk", "one"), "disk")
    host.pwrite(bytes([1]) * 4 * MIB, 0)
    rules(folder, "fail write 5")
    with pytest.raises(OSError) as caught:
        host.pwrite(b"2" * 4096, 0, fua=True)
    assert caught.value.errno == EIO
    rules(folder)
    refuses_to_flush(host)


def test_a_failed_write_fails_alone(
    faulty: Installation, folder: Path, shell: Callable[[str], Shell]
) -> None:
    host = shell(faulty.uri("disk", "one"))
    other = shell(faulty.uri("other", "one"))
    host.say("write -P 1 0 4M")
    other.say("write -P 1 0 4M")
    rules(folder, "fail write 28")
    assert "No space left" in host.try_to("write -P 2 0 4k")
    rules(folder)
    host.say("write -P 3 4k 4k")
    host.say("flush")
    other.say("flush")
    other.say("read -P 1 0 4M")


def test_a_failed_read_fails_alone(
    faulty: Installation, folder: Path, shell: Callable[[str], Shell]
) -> None:
    host = shell(faulty.uri("disk", "one"))
    host.say("write -P 1 0 4M")
    rules(folder, "fail read 5")
    assert "Input/output error" in host.try_to("read 0 4k")
    rules(folder)
    host.say("read -P 1 0 4M")


@pytest.mark.parametrize("how", ["the last host leaves", "the agent stops", "the controller stops"])
def test_what_is_closed_is_flushed_first(faulty: Installation, folder: Path, how: str) -> None:
    """No later descriptor would hear of a page that could not be written."""
    host = _native.NbdClient(faulty.uri("disk", "one"), "disk")
    host.pwrite(bytes([1]) * MIB, 0)
    rules(folder, "fail flush 5")
    match how:
        case "the last host leaves":
            host.close()
        case "the agent stops":
            faulty.agents["one"].stop()
        case "the controller stops":
            faulty.controller.stop()
            rules(folder)
            faulty.start_controller()
    wait_until("the mark", lambda: faulty.client.disk("disk").failed == {"left": EIO})
    rules(folder)
    if how == "the agent stops":
        faulty.start_agent("one")
    refuses_to_flush(_native.NbdClient(faulty.uri("disk", "one"), "disk"))
