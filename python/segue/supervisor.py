"""`segue up`: controller and agent of one installation, kept running by this process.

Each is a process of its own; one that dies is started again after a pause that grows while it
keeps dying.  They are told to stop through a pipe that only this process writes to: when it ends,
however it ends, they stop in an orderly way, so nothing runs on unsupervised.

Only one may run in a folder: the lock on ``DIR/up.lock`` says so, and the file who it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from segue.api.agents import AgentInfo
from segue.client import ApiError, Client
from segue.store.place import lacks_room

log = logging.getLogger("segue.up")

LOCK_NAME = "up.lock"
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0
SETTLED_S = 30.0
"""One that has run so long begins again with the shortest pause."""
STOP_S = 30.0
"""One that has not stopped by then is killed."""
START_S = 60.0
ROOM_LOOK_S = 3.0
"""What has not come to serve by then may wait for room: so long as there is none, we wait too."""
POLL_S = 0.02
_FLOCK = struct.Struct("hhqqi0q")
"""``struct flock`` of 64-bit Linux: type, whence, start, length, pid."""


class UpError(Exception):
    """The installation cannot be brought up; one clear sentence."""


class Folder:
    """The locks on an installation's folder, both on one file.

    A record lock, which nobody inherits, says that a `segue up` runs here; a lock on the
    descriptor, which its children inherit, that something it has started does.
    """

    def __init__(self, data: str) -> None:
        self.data = data
        self.path = os.path.join(data, LOCK_NAME)
        self.inherited = -1
        """The descriptor for the children."""

    def take(self) -> None:
        """Raises `UpError` if another `segue up` has it, or another user.

        What one that was killed has left running is waited for: it is stopping.
        """
        self.inherited = self._open(os.O_CREAT)
        try:
            fcntl.lockf(self.inherited, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UpError(f"`segue up` runs in {self.data} already (pid {self.holder()})") from None
        deadline = time.monotonic() + STOP_S
        while not self._alone():
            if time.monotonic() > deadline:
                raise UpError(f"what a killed `segue up` has started in {self.data} runs on")
            time.sleep(POLL_S)

    def _open(self, flags: int = 0) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UpError(f"cannot open {self.path}: {error.strerror}") from None

    def _alone(self) -> bool:
        try:
            fcntl.flock(self.inherited, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def holder(self) -> int:
        """The pid of the `segue up` that runs in this folder; 0 if none does.

        Raises `UpError` if this user may not know.
        """
        try:
            file = self._open()
        except FileNotFoundError:
            return 0
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
        finally:
            os.close(file)
        return 0 if kind == fcntl.F_UNLCK else int(pid)


class Supervised:
    """One process that is kept running; its log is appended to ``DIR/NAME.log``."""

    def __init__(self, name: str, args: Sequence[str], folder: Folder, leash: int) -> None:
        self.name = name
        self.log = Path(folder.data) / f"{name}.log"
        self.pid = 0
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """It ended before it served: that is the end of all."""
        self.served = False
        self._args = [sys.executable, "-m", "segue.cli", *args, "--with-parent"]
        self._leash = leash
        self._lock = folder.inherited
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    async def keep(self) -> None:
        """Starts it, again and again, until `stop`."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            begun = time.monotonic()
            how = await self._run()
            if self._stopping.is_set():
                return
            if time.monotonic() - begun > SETTLED_S:
                pause_s = FIRST_PAUSE_S
            if not self.served:
                self.ended.set_result(how)
                return
            log.warning(
                "event=died process=%s how=%r again_s=%g log=%s", self.name, how, pause_s, self.log
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _run(self) -> str:
        """How it ended, or why it did not begin."""
        try:
            status = await self._end()
        except OSError as error:
            what = error.filename or self._args[0] or "the interpreter"
            return f"cannot start it: {what}: {error.strerror}"
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    async def _end(self) -> int:
        """Starts it; its exit status, or the signal that ended it below 0."""
        with self.log.open("ab") as out:
            # A group of its own: Ctrl-C on the terminal is for us, who stop them in order.
            self._process = await asyncio.create_subprocess_exec(
                *self._args,
                stdin=self._leash,
                stdout=out,
                stderr=out,
                process_group=0,
                pass_fds=[self._lock],
            )
        self.pid = self._process.pid
        log.info("event=started process=%s pid=%d", self.name, self.pid)
        return await self._process.wait()

    async def stop(self) -> None:
        """Lets it finish what it does; kills it after `STOP_S`."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            log.error("event=killed process=%s after_s=%g", self.name, STOP_S)
            process.kill()
            await process.wait()

    def last_words(self) -> str:
        """The last line of its log, without the command's name."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return lines[-1].removeprefix("segue: ") if lines else ""


class Up:
    """The whole installation; `run` is its life."""

    def __init__(self, data: str, passed_on: Sequence[str], ready: Callable[[Up], None]) -> None:
        self.data = data
        self.client = Client(data)
        self.processes: list[Supervised] = []
        self.agent: AgentInfo | None = None
        self._folder = Folder(data)
        self._passed_on = passed_on
        self._ready = ready
        self._keepers: list[asyncio.Task[None]] = []
        self._full = False

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT; raises `UpError` if it does not come to serve."""
        self._folder.take()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        leash, _ours = os.pipe()
        starting = loop.create_task(self._start(leash))
        stopped = loop.create_task(stop.wait())
        try:
            await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await stopped
        finally:
            starting.cancel()
            for process in reversed(self.processes):
                await process.stop()
            await asyncio.gather(*self._keepers)

    async def _start(self, leash: int) -> None:
        """Controller, agent, then whoever wants to know."""
        with contextlib.suppress(ApiError):
            pid = (await asyncio.to_thread(self.client.status)).pid
            raise UpError(f"a controller serves {self.data} already (pid {pid})")
        controller = self._keep("controller", leash)

        async def controller_serves() -> bool:
            return (await asyncio.to_thread(self.client.status)).pid == controller.pid

        await self._until(controller, controller_serves)
        known = {info.incarnation for info in await asyncio.to_thread(self.client.agents)}
        agent = self._keep("agent", leash)

        async def agent_serves() -> bool:
            for info in await asyncio.to_thread(self.client.agents):
                if info.state == "present" and info.incarnation not in known:
                    self.agent = info
            return self.agent is not None

        await self._until(agent, agent_serves)
        await asyncio.to_thread(self._ready, self)

    def _keep(self, name: str, leash: int) -> Supervised:
        args = [name, "--data", self.data, *self._passed_on]
        process = Supervised(name, args, self._folder, leash)
        self.processes.append(process)
        self._keepers.append(asyncio.get_running_loop().create_task(process.keep()))
        return process

    async def _until(self, process: Supervised, serves: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + START_S
        look_s = time.monotonic() + ROOM_LOOK_S
        while time.monotonic() < deadline:
            if time.monotonic() >= look_s:
                look_s = time.monotonic() + ROOM_LOOK_S
                if await asyncio.to_thread(self._lacks_room):
                    deadline = time.monotonic() + START_S
            with contextlib.suppress(ApiError):
                if await serves():
                    process.served = True
                    return
            if process.ended.done():
                said = process.ended.result()
                if process.pid:  # else its log is of an earlier run
                    said = process.last_words() or said
                raise UpError(f"the {process.name} did not start: {said}")
            await asyncio.sleep(POLL_S)
        raise UpError(f"the {process.name} did not serve within {START_S:g} s: see {process.log}")

    def _lacks_room(self) -> bool:
        """Whether the folder's file system is full; said when it begins and when it is over."""
        full = lacks_room(self.data)
        if full != self._full:
            what = "store_full" if full else "store_has_room"
            log.warning("event=%s folder=%s%s", what, self.data, ": waiting for room" * full)
        self._full = full
        return full
