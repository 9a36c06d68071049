"""A virtual machine of Debian's cloud kernel and busybox, in software emulation.

The initramfs is made here: busybox, the modules named below with what they need, and programs of
this machine with their libraries.  It runs one shell script and powers off.
"""

from __future__ import annotations

import re
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.tools.conftest import Tool

KERNEL = Path(__file__).parents[2] / ".venv" / "kernel"
"""Made by tests/tools/install-kernel."""
BUSYBOX = Path("/bin/busybox")
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "nbd")
PROGRAMS = ("mkfs.ext4", "nbd-client")
BOOT_DEADLINE_S = 180
DONE = "the script has ended well"
INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read module; do insmod /modules/$module; done < /modules/order
"""
RUN = f"""
sh -e /script && echo "{DONE}"
sync
poweroff -f
"""
FROM_DISK = """
mount /dev/vda /root
mount --move /dev /root/dev
mount --move /proc /root/proc
exec switch_root /root /init
"""
INIT_ON_DISK = f"""#!/bin/busybox sh
export PATH=/bin
{RUN}
"""
"""For `/init` of a disk: it finds busybox in /bin with its applets, and /script."""


class VirtualMachine:
    """One boot: runs a script of the initramfs, or (None) goes over to the disk /dev/vda."""

    def __init__(self, place: Path, script: str | None, files: Mapping[str, bytes]) -> None:
        if not (KERNEL / "fetched").exists() or not BUSYBOX.exists():
            pytest.skip("the kernel or busybox-static is not there: make tools")
        self._tool = Tool("qemu-system-x86_64")
        self._initramfs = place / "initramfs"
        self._log = place / "console.log"
        archive = Archive()
        for folder in ("bin", "dev", "proc", "sys", "mnt", "root", "modules"):
            archive.add_folder(folder)
        archive.add_file("bin/busybox", BUSYBOX.read_bytes())
        for name in PROGRAMS:
            archive.add_program(name)
        order = modules_in_order(MODULES)
        for name, path in order.items():
            archive.add_file(f"modules/{name}", path.read_bytes())
        archive.add_file("modules/order", "".join(f"{name}\n" for name in order).encode())
        archive.add_file("init", (INIT + (FROM_DISK if script is None else RUN)).encode())
        archive.add_file("script", (script or "").encode())
        for name, data in files.items():
            archive.add_file(name, data)
        self._initramfs.write_bytes(archive.finish())

    def start(self, drives: Sequence[str], *words: str) -> subprocess.Popen[bytes]:
        """Switch it on; `drives`, options of QEMU's -blockdev, become /dev/vda, /dev/vdb, ..."""
        nodes = [
            word
            for i, drive in enumerate(drives)
            for word in (
                *("-blockdev", f"{drive},node-name=disk{i}"),
                *("-device", f"virtio-blk-pci,drive=disk{i}"),
            )
        ]
        return self._tool.start(
            *("-machine", "pc,accel=tcg", "-cpu", "max", "-smp", "1", "-m", "256"),
            *("-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"),
            *("-kernel", KERNEL / "vmlinuz", "-initrd", self._initramfs),
            *("-append", "console=ttyS0 quiet panic=-1"),
            *nodes,
            *words,
            log=self._log,
        )

    def finish(self, machine: subprocess.Popen[bytes]) -> str:
        """Wait until it has powered off; what it printed.  Its script must have ended well."""
        try:
            status = machine.wait(BOOT_DEADLINE_S)
        except subprocess.TimeoutExpired:
            machine.kill()
            machine.wait()
            status = -1
        said = self._log.read_text(errors="replace")
        assert status == 0 and DONE in said, said[-4000:]
        return said


class Archive:
    """A cpio archive of the kernel's format for an initramfs ("newc")."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._names: set[str] = set()

    def add_folder(self, name: str) -> None:
        """A folder; its parent must be there already."""
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def add_file(self, name: str, data: bytes) -> None:
        """An executable file, and the folders above it."""
        for parent in reversed(Path(name).parents[:-1]):
            self.add_folder(str(parent))
        self._add(name, stat.S_IFREG | 0o755, data)

    def add_program(self, name: str) -> None:
        """A program of this machine, and the libraries that it loads."""
        path = Tool(name).path
        self.add_file(f"bin/{name}", path.read_bytes())
        for library in re.findall(r"(/\S+) \(0x", Tool("ldd")(path).stdout):
            self.add_file(library.lstrip("/"), Path(library).read_bytes())

    def finish(self) -> bytes:
        """The archive."""
        self._add("TRAILER!!!", 0, b"")
        return bytes(self._out)

    def _add(self, name: str, mode: int, data: bytes) -> None:
        if name in self._names:
            return
        self._names.add(name)
        fields = [len(self._names), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
        self._out += b"070701" + b"".join(b"%08x" % field for field in fields)
        self._out += name.encode() + b"\0"
        self._pad()
        self._out += data
        self._pad()

    def _pad(self) -> None:
        self._out += bytes(-len(self._out) % 4)


def modules_in_order(wanted: Sequence[str]) -> dict[str, Path]:
    """Name -> file, each behind those it needs (its section .modinfo says which)."""
    files = {path.stem.replace("-", "_"): path for path in (KERNEL / "modules").rglob("*.ko")}
    order: dict[str, Path] = {}

    def add(name: str) -> None:
        needs = re.search(rb"\0depends=([^\0]*)\0", files[name].read_bytes())
        assert needs is not None, f"{files[name]} does not say what it needs"
        for need in filter(None, needs[1].decode().split(",")):
            if need not in order:
                add(need)
        order[name] = files[name]

    for name in wanted:
        add(name)
    return order
