"""Loop devices, filesystems on them, and a tree of files that knows what its bytes must be."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from segue.installation import Installation, wait_until
from segue.loop_devices import (
    add_loop_device,
    backing_file,
    remove_loop_device,
    set_up_loop_device,
)
from tests.tools.conftest import MIB, Tool, segue

RECONNECT_S = 120


@dataclass(frozen=True)
class Filesystem:
    """How one is made and looked over (without writing); each ends with 0 if all is well."""

    name: str
    make: Sequence[str]
    check: Sequence[str]


FILESYSTEMS = {
    fs.name: fs
    for fs in (
        Filesystem("ext4", ("mkfs.ext4", "-q"), ("e2fsck", "-fn")),
        Filesystem("xfs", ("mkfs.xfs", "-q"), ("xfs_repair", "-n")),
        Filesystem("btrfs", ("mkfs.btrfs", "-q"), ("btrfs", "check", "--readonly")),
    )
}


@contextlib.contextmanager
def mounted(device: str, folder: Path, options: str = "rw") -> Iterator[Path]:
    """The filesystem of `device`, mounted on `folder`."""
    folder.mkdir(exist_ok=True)
    Tool("mount")("-o", options, device, folder)
    try:
        yield folder
    finally:
        Tool("umount")(folder)


@contextlib.contextmanager
def attached(installation: Installation, disk: str, *options: str) -> Iterator[str]:
    """`segue attach`, the device, `segue detach`."""
    done = segue(installation.data, "attach", disk, *options)
    assert done.returncode == 0, done.stderr
    try:
        yield done.stdout.strip()
    finally:
        done = segue(installation.data, "detach", disk)
        assert done.returncode == 0, done.stderr


def drop_caches() -> None:
    """What the kernel keeps of files is written, then forgotten: reads go to the storage."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


class QemuLoop:
    """A loop device over QEMU's FUSE export of the disk: QEMU connects again and repeats.

    One request at a time: QEMU 7.2 reads the next into the buffer of a write that it has not sent
    whole (its own mistake, seen over nbdkit as well; 512 KiB writes at depth 16 show it).
    """

    def __init__(self, installation: Installation, disk: str, agent: str, place: Path) -> None:
        self._file = place / f"{disk}.qemu"
        self._file.touch()
        self._log = place / f"{disk}.qemu.log"
        server = f"server.type=unix,server.path={installation.socket(agent)},export={disk}"
        node = f"driver=nbd,node-name=disk,{server},reconnect-delay={RECONNECT_S}"
        export = f"type=fuse,id=fuse,node-name=disk,mountpoint={self._file},writable=on"
        tool = Tool("qemu-storage-daemon")
        self._qemu = tool.start("--blockdev", node, "--export", export, log=self._log)
        self.device = ""
        try:
            wait_until("QEMU's export", self._serves)
            one_at_a_time(self._file, place)
            self.device = add_loop_device()
            set_up_loop_device(self.device, self._file)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """kill -9 of QEMU: to the filesystem, the disk is gone with what was not written."""
        self._qemu.kill()
        self._qemu.wait()

    def close(self) -> None:
        """Take the device away, then QEMU."""
        if self.device:
            Tool("losetup")("--detach", self.device, ok=False)
            file = str(self._file)
            wait_until("the loop device to go", lambda: backing_file(self.device) != file)
            remove_loop_device(self.device)
        self._qemu.terminate()
        self._qemu.wait(60)
        subprocess.run(["umount", "--lazy", self._file], capture_output=True, check=False)

    def _serves(self) -> bool:
        assert self._qemu.poll() is None, self._log.read_text()
        return self._file.stat().st_size > 0


def one_at_a_time(file: Path, place: Path) -> None:
    """The kernel sends the FUSE server of `file` no request before it has answered the last."""
    folder = place / "fusectl"
    folder.mkdir(exist_ok=True)
    Tool("mount")("-t", "fusectl", "none", folder)
    connection = folder / str(os.minor(file.stat().st_dev))
    (connection / "max_background").write_text("1")
    Tool("umount")(folder)


class Tree:
    """Files under a folder, changed at random from a seed, and the bytes each must have."""

    def __init__(self, seed: int) -> None:
        self.files: dict[str, bytearray] = {}
        self.written_bytes = 0
        self._rng = random.Random(seed)
        self._made = 0

    def grow(self, folder: Path, enough: Callable[[], bool]) -> None:
        """Make and change files until there is `enough`; one write in four is fsynced."""
        while not enough():
            dice = self._rng.random()
            if dice < 0.6 or len(self.files) < 4:
                self._make(folder)
            elif dice < 0.9:
                self._overwrite(folder)
            elif dice < 0.95:
                self._rename(folder)
            else:
                name = self._pick()
                del self.files[name]
                (folder / name).unlink()

    def compare(self, folder: Path) -> None:
        """Every file is there with its bytes, and no other."""
        there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert there - {"lost+found"} == set(self.files)
        wrong = [name for name, data in self.files.items() if (folder / name).read_bytes() != data]
        assert wrong == []

    def _pick(self) -> str:
        return self._rng.choice(sorted(self.files))

    def _make(self, folder: Path) -> None:
        self._made += 1
        name = f"{self._rng.randrange(8)}/{self._made}"
        (folder / name).parent.mkdir(exist_ok=True)
        data = self._rng.randbytes(int(2 ** self._rng.uniform(0, 21)))
        self.files[name] = bytearray()
        self._put(folder, name, 0, data)

    def _overwrite(self, folder: Path) -> None:
        """Anywhere in a file, or past its end: then there is a hole."""
        name = self._pick()
        data = self._rng.randbytes(int(2 ** self._rng.uniform(0, 18)))
        self._put(folder, name, self._rng.randrange(len(self.files[name]) + MIB // 4), data)

    def _put(self, folder: Path, name: str, offset: int, data: bytes) -> None:
        fd = os.open(folder / name, os.O_WRONLY | os.O_CREAT)
        try:
            assert os.pwrite(fd, data, offset) == len(data)
            if self._rng.random() < 0.25:
                os.fsync(fd)
        finally:
            os.close(fd)
        image = self.files[name]
        image.extend(bytes(max(0, offset - len(image))))
        image[offset : offset + len(data)] = data
        self.written_bytes += len(data)

    def _rename(self, folder: Path) -> None:
        old = self._pick()
        new = f"{old}.renamed"
        (folder / old).rename(folder / new)
        self.files[new] = self.files.pop(old)
