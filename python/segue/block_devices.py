"""Block devices over disks: the kernel's NBD client, or a loop device over nbdfuse.

An attachment is remembered in ``DATA/attached/@NUMBER.json`` before the first thing is made, so
that whatever dies half-way leaves nothing that `detach` or the next `attach` cannot find and take
away.  The number is the disk's, which stays when it is renamed: one disk has one device.  Records
of earlier versions are ``NAME.json`` (no name begins with ``@``) and are found by that name.
Calls of one installation take turns (a lock on ``DATA/attached/lock``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

import msgspec

from segue.loop_devices import (
    CONTROL,
    SYS_BLOCK,
    add_loop_device,
    loop_devices_over,
    remove_loop_device,
    set_up_loop_device,
)

DEADLINE_S = 20.0
"""For a device, a mount or a process to come or to go."""
POLL_S = 0.01
FOLDER = "attached"
NBD_PORT = 10809
TRIES = 10
PACKAGES = {
    "losetup": "mount",
    "umount": "mount",
    "nbdfuse": "libnbd-bin",
    "nbd-client": "nbd-client",
}
"""Debian's package of each tool."""


class AttachError(Exception):
    """It cannot be done; one sentence, and nothing of it is left behind."""


class Attachment(msgspec.Struct, frozen=True):
    """What was made for one disk."""

    disk: str
    """Its name when it was last attached."""
    uri: str
    read_only: bool
    kind: Literal["nbd", "loop"]
    boot: str
    """The kernel's id of the boot it was made in."""
    device: str = ""
    """``/dev/nbd0``, ``/dev/loop0``; empty while it is being made."""
    pid: int = 0
    """Of nbdfuse, or of the nbd-client that connected."""
    pid_started: int = 0
    """nbdfuse's start, in the kernel's clock ticks since boot: ids of processes come back."""
    number: int = 0
    """The disk's; 0: written by an earlier version, which knew disks by their names."""
    former: list[str] = []
    """Names that it was attached by before."""

    def is_called(self, name: str) -> bool:
        """Whether it was ever attached by that name."""
        return name == self.disk or name in self.former


class BlockDevices:
    """The attachments of the installation in the folder `data`."""

    def __init__(self, data: str) -> None:
        self._folder = Path(data).absolute() / FOLDER

    def all(self) -> list[Attachment]:
        """All attachments, healthy or not."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            # A loss of power may leave an empty record: of a boot that is over.
            with contextlib.suppress(msgspec.MsgspecError):
                found.append(msgspec.json.decode(path.read_bytes(), type=Attachment))
        return found

    def there(self) -> list[Attachment]:
        """Those whose device is there now, and leads to a server that lives."""
        return [one for one in self.all() if self._there(one)]

    def attach(self, disk: str, number: int, uri: str, read_only: bool) -> str:
        """The path of the disk's block device, made if it is not there; raises `AttachError`.

        `disk` is what it is called now, `number` what it is known by.
        """
        with self._turn():
            old = self._of_disk(disk, number)
            if old is not None and self._healthy(old):
                if old.read_only != read_only:
                    how = "read-only" if old.read_only else "for writing"
                    raise AttachError(f"{disk} is attached {how} as {old.device}: detach it first")
                if old.disk != disk:
                    former = [name for name in (*old.former, old.disk) if name != disk]
                    self._keep(msgspec.structs.replace(old, disk=disk, former=former))
                return old.device
            if old is not None:
                self._take_away(old)
            kind: Literal["nbd", "loop"] = "nbd" if kernel_has_nbd() else "loop"
            new = Attachment(disk, uri, read_only, kind, _boot(), number=number)
            _need(*(("nbd-client",) if kind == "nbd" else ("nbdfuse", "losetup", "umount")))
            self._keep(new)
            try:
                new = self._make_nbd(new) if kind == "nbd" else self._make_loop(new)
            except BaseException:
                self._take_away(self._of_disk(disk, number) or new)
                raise
            self._keep(new)
            return new.device

    def detach(self, disk_or_device: str, number: int | None = None) -> Attachment:
        """Take away what was made for a disk; raises `AttachError`, also if it is in use.

        `number`: of the disk that is called so now; 0: none is; None: nobody could be asked.  What
        no disk is called any more is looked for among the names that disks were attached by.

        What was written is flushed first.  If that fails, the device is taken away and the error
        raised.
        """
        if not self._folder.parent.exists():
            raise AttachError(
                f"{disk_or_device} is not attached: no {self._folder.parent} is there"
            )
        with self._turn():
            old = self._find(disk_or_device, number)
            if old is None:
                raise AttachError(f"{disk_or_device} is not attached")
            lost = self._flush(old) if self._healthy(old) and not old.read_only else None
            self._take_away(old)
        if lost is not None:
            raise AttachError(f"{old.device} is detached, but its last flush failed: {lost}")
        return old

    # Records -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise AttachError(f"{error.filename}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _path(self, one: Attachment, suffix: str) -> Path:
        name = f"@{one.number}" if one.number else quote(one.disk, safe="@")
        return self._folder / (name + suffix)

    def _of_disk(self, name: str, number: int) -> Attachment | None:
        for one in self.all():
            if one.number == number if one.number else one.disk == name:
                return one
        return None

    def _find(self, disk_or_device: str, number: int | None) -> Attachment | None:
        if disk_or_device.startswith("/"):
            device = os.path.realpath(disk_or_device)
            return next((one for one in self.all() if one.device == device), None)
        if number:
            return self._of_disk(disk_or_device, number)
        found = [one for one in self.all() if one.is_called(disk_or_device)]
        if len(found) > 1:
            devices = ", ".join(one.device for one in found)
            raise AttachError(
                f"several disks were attached as {disk_or_device}: name one: {devices}"
            )
        return found[0] if found else None

    def _keep(self, one: Attachment) -> None:
        path = self._path(one, ".json")
        new = path.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(one))
        new.rename(path)

    def _forget(self, one: Attachment) -> None:
        for suffix in (".new", ".log", ".json"):
            self._path(one, suffix).unlink(missing_ok=True)

    # What is there -----------------------------------------------------------------------------

    def _file(self, one: Attachment) -> Path:
        """nbdfuse's file, under a loop device."""
        return self._path(one, ".fuse") / "disk"

    def _healthy(self, one: Attachment) -> bool:
        """Whether the device is there and reads: a server that died is not come back to."""
        return self._there(one) and _reads(one.device)

    def _there(self, one: Attachment) -> bool:
        if not one.device or one.boot != _boot():
            return False
        if one.kind == "nbd":
            return self._nbd_pid(one.device) == one.pid
        return (
            loop_devices_over(self._file(one)) == [one.device]
            and _started(one.pid) == one.pid_started
        )

    def _nbd_pid(self, device: str) -> int | None:
        """Of the process that connected the device; None: it is not connected."""
        try:
            return int((SYS_BLOCK / Path(device).name / "pid").read_text())
        except (OSError, ValueError):
            return None

    # Making ------------------------------------------------------------------------------------

    def _make_nbd(self, new: Attachment) -> Attachment:
        for path in sorted(SYS_BLOCK.glob("nbd*"), key=lambda path: (len(path.name), path.name)):
            device = f"/dev/{path.name}"
            if self._nbd_pid(device) is None:
                return self._connect_nbd(new, device)
        raise AttachError("every /dev/nbd device is in use")

    def _connect_nbd(self, new: Attachment, device: str) -> Attachment:
        words = nbd_client_command(new.uri, device, new.read_only)
        with _started_tool(words) as tool:
            # The device shows who connected it: known from here on, never taken for another's.
            self._keep(msgspec.structs.replace(new, device=device, pid=tool.pid))
            _end(tool)
        self._wait(f"{device} to be connected", lambda: self._nbd_pid(device) is not None)
        return msgspec.structs.replace(new, device=device, pid=self._nbd_pid(device) or 0)

    def _make_loop(self, new: Attachment) -> Attachment:
        for path in ("/dev/fuse", CONTROL):
            _may_open(path)
        file = self._file(new)
        file.parent.mkdir(mode=0o700, exist_ok=True)
        words = ["nbdfuse", *(["-r"] if new.read_only else []), str(file), new.uri]
        log_path = self._path(new, ".log")
        with open(log_path, "wb") as log:
            fuse = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        new = msgspec.structs.replace(new, pid=fuse.pid, pid_started=_started(fuse.pid) or 0)
        self._keep(new)

        def serves() -> bool:
            if fuse.poll() is not None:
                raise AttachError(_complaint(log_path.read_text(errors="replace"), "nbdfuse"))
            return file.exists()

        self._wait(f"{new.disk} to open (`segue status` may say what it waits for)", serves)
        return self._over(new, file)

    def _over(self, new: Attachment, file: Path) -> Attachment:
        """The attachment with a loop device over nbdfuse's file."""
        for _ in range(TRIES):
            new = msgspec.structs.replace(new, device=add_loop_device())
            self._keep(new)
            try:
                set_up_loop_device(new.device, file, read_only=new.read_only)
            except subprocess.CalledProcessError as error:
                raise AttachError(_complaint(error.stderr, "losetup")) from error
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise AttachError(f"{error.filename}: {error.strerror}") from error
            else:
                return new
        raise AttachError(f"others have taken {TRIES} new loop devices")

    # Taking away -------------------------------------------------------------------------------

    def _flush(self, one: Attachment) -> str | None:
        """Why the device cannot be flushed; None: it is flushed."""
        try:
            fd = os.open(one.device, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            return error.strerror
        return None

    def _take_away(self, one: Attachment) -> None:
        """Whatever is left of it; raises `AttachError` while something uses the device."""
        if one.boot == _boot():
            if one.kind == "nbd":
                self._take_nbd_away(one)
            else:
                self._take_loop_away(one)
        if one.kind == "loop":
            with contextlib.suppress(FileNotFoundError):
                self._file(one).parent.rmdir()
        self._forget(one)

    def _take_nbd_away(self, one: Attachment) -> None:
        if not one.device or self._nbd_pid(one.device) != one.pid:
            return
        _not_in_use(one)
        _run(["nbd-client", "-d", one.device])
        self._wait(f"{one.device} to go", lambda: self._nbd_pid(one.device) is None)

    def _take_loop_away(self, one: Attachment) -> None:
        for device in loop_devices_over(self._file(one)):
            _not_in_use(msgspec.structs.replace(one, device=device))
            _run(["losetup", "--detach", device])
        self._wait("the loop device to go", lambda: not loop_devices_over(self._file(one)))
        if one.device:
            remove_loop_device(one.device)
        folder = self._file(one).parent
        if _mounted(folder):
            _run(["umount", "--lazy", str(folder)])
        if one.pid and _started(one.pid) == one.pid_started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGTERM)
            self._wait("nbdfuse to end", lambda: _started(one.pid) != one.pid_started)

    def _wait(self, what: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            if time.monotonic() > end:
                raise AttachError(f"waited {DEADLINE_S:g} s for {what}")
            time.sleep(POLL_S)


def kernel_has_nbd() -> bool:
    """Whether the kernel has its NBD client, loaded if need be."""
    if not Path("/sys/module/nbd").exists() and shutil.which("modprobe") is not None:
        subprocess.run(["modprobe", "-q", "nbd"], capture_output=True, check=False)
    return Path("/sys/module/nbd").exists()


def nbd_client_command(uri: str, device: str, read_only: bool) -> list[str]:
    """nbd-client's words for an NBD URI (``nbd://HOST:PORT/NAME``, ``nbd+unix:///NAME?socket=S``)."""
    parts = urlsplit(uri)
    if parts.scheme == "nbd+unix":
        server = ["-unix", parse_qs(parts.query)["socket"][0]]
    else:
        server = [parts.hostname or "localhost", str(parts.port or NBD_PORT)]
    name = unquote(parts.path.removeprefix("/"))
    return ["nbd-client", *server, device, "-name", name, *(["-readonly"] if read_only else [])]


def _need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            raise AttachError(f"{tool} is not installed (Debian: {PACKAGES[tool]})")


def _started_tool(words: list[str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe)


def _end(tool: subprocess.Popen[bytes]) -> str:
    """What a tool prints; raises `AttachError` with what it complains of."""
    out, err = tool.communicate()
    if tool.returncode != 0:
        raise AttachError(_complaint((err or out).decode(errors="replace"), "the tool"))
    return out.decode(errors="replace")


def _complaint(said: str, tool: str) -> str:
    lines = said.strip().splitlines()
    return lines[-1] if lines else f"{tool} failed and does not say why"


def _run(words: list[str]) -> str:
    with _started_tool(words) as tool:
        return _end(tool)


def _reads(device: str) -> bool:
    """Whether the device's first block can be read, past the page cache."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        try:
            # A mapping of its own begins on a page, as O_DIRECT wants it.
            return os.preadv(fd, [mmap.mmap(-1, mmap.PAGESIZE)], 0) > 0
        finally:
            os.close(fd)
    except OSError:
        return False


def _may_open(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise AttachError(f"{path}: {error.strerror}") from error


def _not_in_use(one: Attachment) -> None:
    try:
        os.close(os.open(one.device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise AttachError(f"{one.device} ({one.disk}) is in use: unmount it first") from error
        # Gone, or its server is dead: nothing can use it.


def _mounted(folder: Path) -> bool:
    """Whether something is mounted there, its server dead or alive."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(_unescaped(line.split(" ")[4]) == str(folder) for line in mounts)


def _unescaped(text: str) -> str:
    """A path of mountinfo: blanks, newlines and backslashes stand there as octal numbers."""
    for octal in ("\\040", "\\011", "\\012"):
        text = text.replace(octal, chr(int(octal[1:], 8)))
    return text.replace("\\134", "\\")


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int | None:
    """When the process started; None if there is none, or only its remains."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] == "Z" else int(words[19])
