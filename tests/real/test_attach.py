"""`segue attach` and `segue detach` on the real kernel: a device of the disk's bytes, and no rest.

Here with a loop device over nbdfuse, as on a kernel without its NBD client; the words given to
nbd-client are run in tests/real/test_vm.py.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue import _native
from segue.block_devices import AttachError, BlockDevices, kernel_has_nbd, nbd_client_command
from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, Tool, segue

pytestmark = pytest.mark.skipif(kernel_has_nbd(), reason="this kernel has its NBD client")
DISK_BYTES = 16 * MIB
NOBODY = 65534


@pytest.fixture
def disk(segue_here: Installation, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new disk; whatever is attached is detached after the test, and nothing may be left."""
    Tool("nbdfuse")
    name = re.sub("[^a-z_]", "-", request.node.name.removeprefix("test_"))
    segue_here.client.create_disk(name, DISK_BYTES)
    yield name
    segue(segue_here.data, "detach", name)
    assert left_behind(segue_here) == []


def left_behind(installation: Installation) -> list[str]:
    """Mounts, loop devices and files of attachments."""
    folder = str(installation.data / "attached")
    mounts = [
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if folder in line
    ]
    loops = [
        path.parent.parent.name
        for path in Path("/sys/block").glob("loop*/loop/backing_file")
        if folder in path.read_text()
    ]
    return [*mounts, *loops, *(name for name in os.listdir(folder) if name != "lock")]


def attach(installation: Installation, *args: str) -> str:
    """The device."""
    done = segue(installation.data, "attach", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def refused(installation: Installation, *args: str, **environment: str) -> str:
    """The one line it says."""
    done = segue(installation.data, *args, **environment)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
    return done.stderr


def image(installation: Installation, disk: str) -> bytes:
    """All bytes of a disk, over NBD."""
    client = _native.NbdClient(installation.uri(disk, "one"), disk)
    data = bytes(client.pread(DISK_BYTES, 0))
    client.close()
    return data


def fuse_pid(installation: Installation, disk: str) -> int:
    (one,) = (one for one in BlockDevices(str(installation.data)).all() if one.disk == disk)
    return one.pid


def test_bytes_both_ways_twice_and_gone(segue_here: Installation, disk: str) -> None:
    device = attach(segue_here, disk)
    assert attach(segue_here, disk) == device
    assert "detach it first" in refused(segue_here, "attach", disk, "--read-only")
    data = random.Random(1).randbytes(DISK_BYTES)
    Path(device).write_bytes(data)
    done = segue(segue_here.data, "detach", device)
    assert done.stdout == f"disk {disk}: {device} is gone\n", done.stderr
    assert image(segue_here, disk) == data
    device = attach(segue_here, disk, "--read-only")
    assert Path(device).read_bytes() == data
    with pytest.raises(OSError, match="not permitted"), open(device, "r+b") as out:
        out.write(bytes(4096))
        os.fsync(out.fileno())
    assert segue(segue_here.data, "detach", disk).returncode == 0
    assert "is not attached" in refused(segue_here, "detach", disk)
    assert "no disk is called" in refused(segue_here, "attach", "nonesuch")


def test_a_renamed_disk_has_one_device(segue_here: Installation, disk: str) -> None:
    device, client, new = attach(segue_here, disk), segue_here.client, f"{disk}-new"
    client.rename_disk(disk, new)
    assert attach(segue_here, new) == device
    client.create_disk(disk, DISK_BYTES)  # another one, with the name that was
    assert "is not attached" in refused(segue_here, "detach", disk)
    another = attach(segue_here, disk)
    assert another != device
    done = segue(segue_here.data, "detach", disk)
    assert done.stdout == f"disk {disk}: {another} is gone\n", done.stderr
    client.delete_disk(disk)
    done = segue(segue_here.data, "detach", disk)  # by the name that nobody has
    assert done.stdout == f"disk {new}: {device} is gone\n", done.stderr
    client.rename_disk(new, disk)
    device = attach(segue_here, disk)
    client.rename_disk(disk, new)
    done = segue(segue_here.data, "detach", new)
    assert done.stdout == f"disk {disk}: {device} is gone\n", done.stderr
    client.rename_disk(new, disk)


def test_a_record_of_an_earlier_version(segue_here: Installation, disk: str) -> None:
    device = attach(segue_here, disk)
    folder = segue_here.data / "attached"
    [record] = folder.glob("*.json")
    number = record.stem.removeprefix("@")
    old = json.loads(record.read_bytes())
    old["device"], old["boot"] = "", "an earlier one"  # of what ended with that boot
    for field in ("number", "former"):
        del old[field]
    assert segue(segue_here.data, "detach", device).returncode == 0
    (folder / f"{number}.json").write_text(json.dumps({**old, "disk": number}))
    (folder / f"{disk}.json").write_text(json.dumps(old))
    attach(segue_here, disk)
    assert {path.name for path in folder.glob("*.json")} == {f"@{number}.json", f"{number}.json"}
    assert segue(segue_here.data, "detach", number).returncode == 0


def test_zeroes_that_may_unmap_are_zeroes(segue_here: Installation, disk: str) -> None:
    """nbdfuse makes a trim of them, which promises nothing: the device must not pass them on."""
    device = attach(segue_here, disk)
    # A trim of a part of a segment happens to read as zeroes from a file, not from everything.
    queue = Path("/sys/block") / Path(device).name / "queue"
    assert (queue / "discard_max_bytes").read_text() == "0\n"
    Path(device).write_bytes(b"\xa5" * DISK_BYTES)
    Tool("blkdiscard")("-z", "-o", "4096", "-l", "65536", device)
    done = Tool("fallocate")("-p", "-o", "1MiB", "-l", "8192", device, ok=False)
    assert segue(segue_here.data, "detach", disk).returncode == 0
    data = image(segue_here, disk)
    assert data[4096 : 4096 + 64 * 1024] == bytes(64 * 1024)
    assert data[MIB : MIB + 8192] == (bytes(8192) if done.returncode == 0 else b"\xa5" * 8192)
    assert data.count(0xA5) >= DISK_BYTES - 64 * 1024 - 8192


def test_nbdfuse_killed_while_mounted(segue_here: Installation, disk: str, tmp_path: Path) -> None:
    device = attach(segue_here, disk)
    Tool("mkfs.ext4")("-q", device)
    Tool("mount")(device, tmp_path)
    assert "unmount it first" in refused(segue_here, "detach", disk)
    os.kill(fuse_pid(segue_here, disk), signal.SIGKILL)
    assert "unmount it first" in refused(segue_here, "attach", disk)
    Tool("umount")(tmp_path)
    device = attach(segue_here, disk)
    Tool("mount")(device, tmp_path)
    assert (tmp_path / "lost+found").is_dir()
    Tool("umount")(tmp_path)


def test_agent_restarted(segue_here: Installation, disk: str) -> None:
    """nbdfuse does not connect again: attach makes the device anew."""
    device = attach(segue_here, disk)
    segue_here.agents["one"].kill()
    segue_here.start_agent("one")
    wait_until("the device to fail", lambda: not readable(device))
    assert readable(attach(segue_here, disk))


def readable(device: str) -> bool:
    """Whether its first block can be read, past the page cache."""
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
    try:
        return os.preadv(fd, [mmap.mmap(-1, 4096)], 0) == 4096
    except OSError:
        return False
    finally:
        os.close(fd)


@pytest.mark.parametrize("tool", ["nbdfuse", "losetup", "umount"])
def test_tool_missing(segue_here: Installation, disk: str, tool: str, tmp_path: Path) -> None:
    for name in {"nbdfuse", "losetup", "umount"} - {tool}:
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    line = refused(segue_here, "attach", disk, PATH=str(tmp_path))
    assert f"{tool} is not installed (Debian: " in line
    assert left_behind(segue_here) == []


def test_not_permitted(segue_here: Installation, disk: str, tmp_path: Path) -> None:
    """A losetup that fails as it does without permission: nbdfuse is taken away again."""
    script = tmp_path / "losetup"
    script.write_text("#!/bin/sh\necho 'losetup: /dev/loop-control: Permission denied' >&2\nexit 1")
    script.chmod(0o755)
    line = refused(segue_here, "attach", disk, PATH=f"{tmp_path}:{os.environ['PATH']}")
    said = "losetup: /dev/loop-control: Permission denied"
    assert line == f"segue: {said} (a block device wants root, `segue disk uri {disk}` does not)\n"
    assert left_behind(segue_here) == []


def test_not_root(place: Path) -> None:
    """Somebody else, with an installation of their own; nothing is left of the attempt."""
    data = place / "nobodys"
    data.mkdir()
    os.chown(data, NOBODY, NOBODY)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            said = BlockDevices(str(data)).attach("d", 1, "nbd://127.0.0.1:1/d", False)
        except AttachError as error:
            said = str(error)
        os.write(write_end, said.encode())
        os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    assert os.read(read_end, 1000) == b"/dev/fuse: Permission denied"
    os.close(read_end)
    assert os.listdir(data / "attached") == ["lock"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_attach_killed_half_way(
    segue_here: Installation, disk: str, when: str, tmp_path: Path
) -> None:
    losetup = shutil.which("losetup")
    script, kill = tmp_path / "losetup", "kill -9 $PPID"
    first, then = (kill, f'{losetup} "$@"') if when == "before" else (f'{losetup} "$@"', kill)
    script.write_text(f"#!/bin/sh\n{first}\n{then}\n")
    script.chmod(0o755)
    done = segue(segue_here.data, "attach", disk, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == -signal.SIGKILL
    assert readable(attach(segue_here, disk))


def test_many_at_once(segue_here: Installation, disk: str) -> None:
    """Four calls for one disk: one device."""
    words = ["-m", "segue.cli", "--data", str(segue_here.data), "attach", disk]
    calls = [
        subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    printed = {call.communicate(timeout=120)[0] for call in calls}
    assert len(printed) == 1 and printed.pop().startswith("/dev/")


def test_words_for_nbd_client() -> None:
    unix = nbd_client_command("nbd+unix:///a%40b?socket=/x/y.sock", "/dev/nbd1", True)
    assert unix == ["nbd-client", "-unix", "/x/y.sock", "/dev/nbd1", "-name", "a@b", "-readonly"]
    tcp = nbd_client_command("nbd://[::1]:1234/a", "/dev/nbd0", False)
    assert tcp == ["nbd-client", "::1", "1234", "/dev/nbd0", "-name", "a"]
