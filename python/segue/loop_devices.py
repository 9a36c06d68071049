"""Loop devices of our own, past the page cache and without discards.

The kernel's loop driver passes on both a discard and a write of zeroes that may unmap as
FALLOC_FL_PUNCH_HOLE.  Servers of files over FUSE take that for a discard: nbdfuse 1.14 makes it an
NBD trim, after which the old bytes may still be there, and QEMU 7.2's export does nothing at all.
A filesystem that zeroes its tables so would read old bytes.  Without discards the kernel writes
the zeroes itself.

Each is a new device and is removed afterwards: once discards have been turned off, a loop device
never takes any again (Linux 6.18), whoever uses it next.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
from pathlib import Path

CONTROL = "/dev/loop-control"
LOOP_CTL_ADD = 0x4C80
LOOP_CTL_REMOVE = 0x4C81
SYS_BLOCK = Path("/sys/block")


def add_loop_device() -> str:
    """The path of a new loop device, not over anything yet; raises OSError."""
    return f"/dev/loop{_control(LOOP_CTL_ADD, -1)}"


def set_up_loop_device(device: str, file: Path, *, read_only: bool = False) -> None:
    """Lay `device` over `file`.

    Raises CalledProcessError (losetup's words are its `stderr`), or OSError with EBUSY if somebody
    else has taken the device meanwhile: it was free for all.
    """
    words = ["losetup", "--direct-io=on", *(["--read-only"] if read_only else [])]
    try:
        subprocess.run([*words, device, str(file)], check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError:
        if backing_file(device) is not None:
            raise OSError(errno.EBUSY, "somebody else has taken it", device) from None
        raise
    (SYS_BLOCK / Path(device).name / "queue/discard_max_bytes").write_text("0")


def backing_file(device: str) -> str | None:
    """What the loop device lies over; None: nothing, or there is no such device."""
    try:
        return (SYS_BLOCK / Path(device).name / "loop/backing_file").read_text().rstrip("\n")
    except OSError:
        return None


def loop_devices_over(file: Path) -> list[str]:
    """Their paths."""
    devices = [f"/dev/{path.name}" for path in SYS_BLOCK.glob("loop*")]
    return [device for device in devices if backing_file(device) == str(file)]


def remove_loop_device(device: str) -> None:
    """Remove the device if nothing uses it: it may be another's by now."""
    with contextlib.suppress(OSError):
        _control(LOOP_CTL_REMOVE, int(device.removeprefix("/dev/loop")))


def _control(request: int, argument: int) -> int:
    fd = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(fd, request, argument)
    finally:
        os.close(fd)
