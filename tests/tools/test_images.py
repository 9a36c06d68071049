"""Images go into disks and out of them whole, holes stay holes, and none is left half done."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segue.cli.image_formats import source
from segue.installation import Installation, wait_until
from tests.tools.conftest import MIB, Tool, segue
from tests.tools.test_containers import device

__all__ = ["device"]


@pytest.fixture
def qemu_img() -> Tool:
    """QEMU's qemu-img."""
    return Tool("qemu-img")


@pytest.fixture
def sparse(random_file: Callable[[int], Path]) -> Path:
    """A raw image of 40 MiB and a bit: data, a hole, written zeroes, data up to an odd end."""
    path = random_file(8 * MIB)
    with open(path, "r+b") as image:
        image.seek(3 * MIB)
        image.write(bytes(2 * MIB))
        image.truncate(30 * MIB)
        image.seek(40 * MIB)
        image.write(b"the end")
    return path


def data_of(path: Path) -> bytes:
    """What the image holds, to the end of its last sector."""
    data = path.read_bytes()
    return data + bytes(-len(data) % 512)


def test_raw_there_and_back(installation: Installation, folder: Path, sparse: Path) -> None:
    done = segue(installation.data, "disk", "import", "vm", str(sparse))
    assert (done.returncode, done.stdout) == (0, "disk vm: ~40M, 7M of it data\n"), done.stderr
    assert "import vm: 100 %" in done.stderr
    out = folder / "out"
    done = segue(installation.data, "disk", "export", "vm", str(out))
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == data_of(sparse)
    assert out.stat().st_blocks * 512 <= 7 * MIB
    again = segue(installation.data, "disk", "export", "vm", str(out))
    assert (again.returncode, again.stderr) == (1, f"segue: {out} exists already\n")
    again = segue(installation.data, "disk", "import", "vm", str(sparse))
    assert (again.returncode, again.stderr) == (1, "segue: a disk called vm exists already\n")


def test_qcow2_there_and_back(
    installation: Installation, folder: Path, sparse: Path, qemu_img: Tool
) -> None:
    image, out = folder / "vm.qcow2", folder / "out.qcow2"
    qemu_img("convert", "-f", "raw", "-O", "qcow2", sparse, image)
    done = segue(installation.data, "disk", "import", "vm", str(image))
    assert (done.returncode, done.stdout) == (0, "disk vm: ~40M, 7M of it data\n"), done.stderr
    done = segue(installation.data, "disk", "export", "vm", str(out), "--format", "qcow2")
    assert done.returncode == 0, done.stderr
    qemu_img("compare", "-f", "raw", "-F", "qcow2", sparse, out)
    info = json.loads(qemu_img("info", "--output=json", out).stdout)
    assert info["format"] == "qcow2"
    assert info["actual-size"] < 9 * MIB


def test_a_bad_image_leaves_nothing(installation: Installation, folder: Path) -> None:
    bad = folder / "bad"
    bad.write_bytes(b"QFI\xfb" + bytes(4096))
    done = segue(installation.data, "disk", "import", "vm", str(bad))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "qcow2" in line.lower()
    (folder / "empty").touch()
    done = segue(installation.data, "disk", "import", "vm", str(folder / "empty"))
    assert (done.returncode, done.stderr) == (1, f"segue: {folder}/empty is empty\n")
    # Larger than what is left: the disk goes as well.
    (folder / "large").write_bytes(b"x" * (300 * MIB))
    done = segue(installation.data, "disk", "import", "vm", str(folder / "large"))
    assert done.returncode == 1
    assert "No space left" in done.stderr.splitlines()[-1]
    assert [disk.name for disk in installation.client.disks()] == ["disk"]
    assert installation.client.container("left").used_segments == 0


def test_a_block_device_is_an_image(
    installation: Installation, folder: Path, device: Callable[[int], str]
) -> None:
    """All of it, as raw data: `stat` tells no size of it."""
    path, out = device(3 * MIB), folder / "out"
    data = random.Random(3).randbytes(2 * MIB) + bytes(MIB)
    with open(path, "r+b") as file:
        file.write(data)
    done = segue(installation.data, "disk", "import", "vm", path)
    assert (done.returncode, done.stdout) == (0, "disk vm: 3M, 2M of it data\n"), done.stderr
    assert segue(installation.data, "disk", "export", "vm", str(out)).returncode == 0
    assert out.read_bytes() == data


def test_a_pipe_is_no_image(installation: Installation, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    done = segue(installation.data, "disk", "import", "vm", str(folder / "pipe"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "pipe is neither a file nor a block device" in done.stderr
    for verb in ("import", "export"):
        done = segue(installation.data, "disk", verb, "disk", "-")
        assert (done.returncode, done.stdout) == (2, "")
        assert "an image is a file or a block device, not a pipe" in done.stderr
    assert [disk.name for disk in installation.client.disks()] == ["disk"]


def test_an_export_is_what_its_name_says(installation: Installation, folder: Path) -> None:
    """Or what `--format` says."""
    out = folder / "out.vmdk"
    done = segue(installation.data, "disk", "export", "disk", str(out))
    assert (done.returncode, done.stdout) == (1, "")
    assert "would be raw, its name like vmdk: say which it is to be (--format vmdk" in done.stderr
    assert not out.exists()
    done = segue(installation.data, "disk", "export", "disk", str(out), "--format", "raw")
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size == 64 * MIB


def test_an_image_cannot_name_other_files(
    installation: Installation, folder: Path, sparse: Path, qemu_img: Tool
) -> None:
    """A guest that writes a qcow2 header into its raw image reads no file of the operator's."""
    secret, image = folder / "secret", folder / "vm.img"
    sparse.rename(secret)
    qemu_img("create", "-f", "qcow2", "-b", secret, "-F", "raw", image)

    def refused(*words: str) -> str:
        done = segue(installation.data, "disk", "import", "vm", *words)
        assert (done.returncode, done.stdout) == (1, "")
        assert [disk.name for disk in installation.client.disks()] == ["disk"]
        return done.stderr

    assert "looks like qcow2, its name like raw" in refused(str(image))
    said = refused(str(image), "--format", "qcow2")
    assert f"takes data from another file, {secret}" in said
    assert "qemu-img rebase" in said
    image.rename(folder / "vm")  # a name that says nothing
    assert "takes data from another file" in refused(str(folder / "vm"))
    # What such a file holds can be had as the raw image that it is.
    done = segue(installation.data, "disk", "import", "vm", str(folder / "vm"), "--format", "raw")
    assert done.returncode == 0, done.stderr
    installation.client.delete_disk("vm")
    qemu_img("create", "-f", "qcow2", "-o", f"data_file={folder}/ext", folder / "d.qcow2", "1M")
    assert "another file, its external data file" in refused(str(folder / "d.qcow2"))
    qemu_img("create", "-f", "vmdk", "-o", "subformat=monolithicFlat", folder / "f.vmdk", "1M")
    assert "looks like raw, its name like vmdk" in refused(str(folder / "f.vmdk"))
    said = refused(str(folder / "f.vmdk"), "--format", "vmdk")
    assert f"another file, {folder}/f-flat.vmdk" in said
    # One that changes after it was looked at: qemu-img is told to open no backing file.
    qemu_img("convert", "-O", "raw", source(folder / "vm", "qcow2"), folder / "out")
    assert not (folder / "out").read_bytes().strip(b"\0")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_import_cut_off_says_so(
    installation: Installation,
    folder: Path,
    random_file: Callable[[int], Path],
    how: signal.Signals,
) -> None:
    image = random_file(48 * MIB)
    client = installation.client
    client.add_container("slow", f"faulty+file://{folder}/slow", 64 * MIB, segment_bytes=256 << 10)
    (folder / "slow.faults").write_text("delay write 500000\n")
    words = ["disk", "import", "vm", str(image), "--segment-size", "256K"]
    # Who runs the tests in the background may have them ignore SIGINT.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "segue.cli"]
    command += ["--data", str(installation.data), *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as importing:
        wait_until("the first data", lambda: client.container("slow").used_segments > 0)
        importing.send_signal(how)
        _, said = importing.communicate()
    (folder / "slow.faults").unlink()
    names = [disk.name for disk in client.disks()]
    if how is not signal.SIGKILL:
        assert importing.returncode == 130
        assert said.splitlines()[-1] == "segue: interrupted"
        assert names == ["disk"]
    else:
        assert names == ["disk", "vm.importing"]
        done = segue(installation.data, *words)
        assert done.returncode == 1
        assert "disk vm.importing is left of an import that was cut off" in done.stderr
        client.delete_disk("vm.importing")
    assert segue(installation.data, *words).returncode == 0
