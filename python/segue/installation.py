"""A whole installation as child processes of this one: for the demo, the tests, and `segue up`.

Starts `segue controller` and `segue agent` in a folder, waits until they serve, kills and restarts
them.  Waiting is for conditions, with deadlines; a process that ends while it is waited for is an
error with its last lines of log.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from segue.client import ApiError, Client

DEADLINE_S = 60.0
"""For whatever is waited for: far beyond anything promised (30 s, promise P8)."""
POLL_S = 0.005
LOG_TAIL_BYTES = 4000


class NotServing(Exception):
    """A process ended, or did not come to serve in time; its text has the end of its log."""


def wait_until(what: str, condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> float:
    """Seconds until `condition` held; raises `NotServing` after `deadline_s`."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > deadline_s:
            raise NotServing(f"waited {deadline_s:g} s for {what}")
        time.sleep(POLL_S)
    return time.monotonic() - begun


def listens(path: Path) -> bool:
    """Whether somebody takes connections at that unix socket; it is bound a moment before."""
    with socket.socket(socket.AF_UNIX) as there:
        return there.connect_ex(str(path)) == 0


class Process:
    """One process of the installation; its log is appended to ``FOLDER/NAME.log``."""

    def __init__(self, name: str, args: Sequence[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._args = [sys.executable, "-m", "segue.cli", *args]
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> None:
        """Start it, with these variables besides its parent's; it must not be running."""
        assert not self.running
        with open(self.log, "ab") as log:
            self._popen = subprocess.Popen(
                self._args,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._popen is not None
        return self._popen.pid

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        assert self._popen is not None
        self._popen.kill()
        self._popen.wait()

    def stop(self, deadline_s: float = DEADLINE_S) -> int:
        """SIGTERM, and wait; its exit status.  Raises `NotServing` if it does not end."""
        assert self._popen is not None
        self._popen.terminate()
        try:
            return self._popen.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise NotServing(self.report("did not stop")) from None

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal (SIGSTOP, SIGCONT)."""
        os.kill(self.pid, number)

    def must_run(self) -> None:
        """Raises `NotServing` if it has ended."""
        if not self.running:
            raise NotServing(self.report("has ended"))

    def report(self, what: str) -> str:
        """A sentence about it, and the end of its log."""
        tail = self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        return f"{self.name} {what}; the end of {self.log}:\n{tail}"


class Installation:
    """Controller and agents over the folder `data`; a context manager that kills what is left."""

    def __init__(self, data: Path, controller_args: Sequence[str] = ()) -> None:
        self.data = data
        self.client = Client(str(data))
        self.controller = Process(
            "controller", ["controller", "--data", str(data), *controller_args], data
        )
        self.agents: dict[str, Process] = {}
        data.mkdir(mode=0o700, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in (*self.agents.values(), self.controller):
            if process.running:
                process.kill()

    # Controller -------------------------------------------------------------------------------

    def start_controller(self, **environment: str) -> float:
        """Start it and wait until it serves; seconds that took."""
        self.controller.start(**environment)
        return self.wait_for_controller()

    def wait_for_controller(self) -> float:
        """Seconds until the API answers."""

        def answers() -> bool:
            self.controller.must_run()
            try:
                return self.client.status().pid == self.controller.pid
            except ApiError:
                return False

        return wait_until("the controller", answers)

    # Agents -----------------------------------------------------------------------------------

    def start_agent(self, name: str, *args: str, wait: bool = True) -> float:
        """Start an agent (again); with `wait`, until the controller counts it as present."""
        if name not in self.agents:
            words = ["agent", "--data", str(self.data), "--name", name, *args]
            self.agents[name] = Process(f"agent-{name}", words, self.data)
        before = {info.incarnation for info in self.client.agents()} if wait else set()
        self.agents[name].start()
        return self.wait_for_agent(name, before) if wait else 0.0

    def wait_for_agent(self, name: str, but: set[str] | None = None) -> float:
        """Seconds until an incarnation that is not among `but` is present."""
        old = but or set()

        def present() -> bool:
            self.agents[name].must_run()
            try:
                infos = self.client.agents()
            except ApiError:
                return False
            return any(
                info.name == name and info.state == "present" and info.incarnation not in old
                for info in infos
            )

        return wait_until(f"agent {name}", present)

    def socket(self, agent: str) -> str:
        """The path of the agent's NBD socket."""
        return str(self.data / f"nbd-{agent}.sock")

    def uri(self, disk: str, agent: str) -> str:
        """The disk's NBD URI at that agent, whether it is there or not."""
        return f"nbd+unix:///{disk}?socket={self.socket(agent)}"

    def stop(self) -> None:
        """Stop all in order; raises `NotServing` for a process that does not end cleanly."""
        for process in (*self.agents.values(), self.controller):
            if process.running and process.stop() != 0:
                raise NotServing(process.report("did not stop cleanly"))
