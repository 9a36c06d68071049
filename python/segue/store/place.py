"""The place a store lies in: the installation's lock, the kind of file system, durable creation."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import tempfile

from .contract import StoreError, StoreInUse, StoreUnsafe

# statfs(2) f_type of file systems on which SQLite's locks or its shared memory do not hold between
# machines, or of which that cannot be known (FUSE may be anything, sshfs included).
REFUSED_FILE_SYSTEMS = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x5346414F: "AFS",
    0x00C36400: "Ceph",
    0x73757245: "Coda",
    0x564C: "NCP",
    0x01021997: "9p",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
    0x0BD00BD0: "Lustre",
    0x19830326: "BeeGFS",
    0x47504653: "GPFS",
    0x65735546: "FUSE",
}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_ROOM_BYTES = 256 << 10
"""The index of SQLite's WAL and a commit go into it."""


def file_system_type(path: str) -> int:
    """statfs(2) f_type of the file system that holds `path`; 0 where the system cannot say."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "statfs"):
        return 0
    buffer = ctypes.create_string_buffer(512)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        code = ctypes.get_errno()
        raise StoreError(f"{path}: {os.strerror(code)}")
    # f_type is the first field, a long; the magic numbers have 32 bits.
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF


def refuse_network_file_system(folder: str, f_type: int | None = None) -> None:
    """Raise `StoreUnsafe` where a SQLite store is not safe; `f_type` overrides what is found."""
    name = REFUSED_FILE_SYSTEMS.get(file_system_type(folder) if f_type is None else f_type)
    if name:
        raise StoreUnsafe(f"{folder} is on {name}: the store needs a local file system")


def lacks_room(folder: str) -> bool:
    """Whether a file of `_ROOM_BYTES` finds no room in a folder; it is not left there."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            # Some file systems find out when they write it back, and say so here.
            written = file.write(b"\1" * _ROOM_BYTES)
            os.fdatasync(file.fileno())
            return written < _ROOM_BYTES
    except OSError as error:
        return error.errno in NO_ROOM


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create_file(path: str) -> bool:
    """Make sure that the file is there, readable by its owner alone; whether it is new."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    os.fsync(fd)
    os.close(fd)
    return True


class InstallationLock:
    """One process per installation: a lock the kernel drops when its holder dies."""

    def __init__(self, path: str) -> None:
        """Take it or raise `StoreInUse`; `path` is made if need be and stays."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            raise StoreInUse(f"{path} is locked: another controller runs on this store") from None
        try:
            if os.fstat(self._fd).st_size == 0:
                # An empty file would pass for a place to put a container.
                os.write(self._fd, b"held by the controller of this installation\n")
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Let go; harmless twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
