"""A container's file that is not there at a start, and one that never comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue import _native
from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, segue

BLOCK = b"1" * 4096


@pytest.fixture
def usb(installation: Installation, folder: Path) -> Path:
    """The file of the container "usb", where all of the disk "there" lies; nothing runs."""
    client, path = installation.client, folder / "usb"
    write(installation, "disk")
    client.add_container("usb", f"file://{path}", 32 * MIB)
    client.create_disk("there", 8 * MIB)
    write(installation, "there")
    job = client.move_disk("there", "usb")
    wait_until("it is moved", lambda: client.job(job.job).state == "done")
    installation.stop()
    return path


def write(installation: Installation, disk: str) -> None:
    """One block, durable."""
    host = _native.NbdClient(installation.uri(disk, "one"), disk)
    host.pwrite(BLOCK, 0)
    host.flush()
    host.close()


def away(path: Path) -> Path:
    """Takes the file away; where it is now."""
    return path.rename(path.with_name("elsewhere"))


def start(installation: Installation, **environment: str) -> None:
    """The controller, with these variables, and its agent."""
    installation.start_controller(**environment)
    installation.start_agent("one")


def test_its_disks_wait_and_all_others_are_served(installation: Installation, usb: Path) -> None:
    there, client = away(usb), installation.client
    start(installation, SEGUE_CONTROLLER_WITHOUT="usb")
    write(installation, "disk")
    assert client.container("usb").away_why == "No such file or directory"
    assert any("container usb has been missing" in said for said in client.status().problems)
    with pytest.raises(OSError, match="storage that the disk lies on is missing"):
        write(installation, "there")
    [said] = client.disk_problems("there")
    assert said.startswith("container usb has been missing")
    assert client.disk_problems("disk") == []
    there.rename(usb)
    wait_until("it is found", lambda: client.container("usb").away_s is None)
    host = _native.NbdClient(installation.uri("there", "one"), "there")
    assert host.pread(len(BLOCK), 0) == BLOCK
    host.close()


def test_a_start_that_was_not_told_says_how(installation: Installation, usb: Path) -> None:
    away(usb)
    done = segue(installation.data, "controller")
    assert done.returncode == 1
    assert done.stderr.endswith("No such file or directory (--without usb starts without it)\n")


def test_one_that_never_comes_back_is_removed(installation: Installation, usb: Path) -> None:
    away(usb)
    start(installation, SEGUE_CONTROLLER_WITHOUT="usb")
    data, client = installation.data, installation.client
    assert "holds 1 segments" in segue(data, "container", "remove", "--lost", "usb").stderr
    client.delete_disk("there")
    done = segue(data, "container", "remove", "--lost", "usb")
    assert (done.returncode, done.stdout) == (0, "container usb removed\n")
    assert [each.name for each in client.containers()] == ["left"]
    installation.stop()
    start(installation)
    write(installation, "disk")
