"""`segue up`: a whole installation in one command, kept running, stopped in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from segue.client import ApiError, Client
from segue.installation import wait_until
from tests.tools.conftest import TOOL_DEADLINE_S, Tool, segue

UP = ["--size", "257M"]


class Foreground:
    """`segue up` as a shell would run it."""

    def __init__(self, data: Path, *args: str) -> None:
        self.data = data
        self.client = Client(str(data))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "segue.cli", "up", "--data", str(data), *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.said = ""

    def ready(self) -> None:
        """Returns when it has said how it is stopped."""
        assert self.process.stdout is not None
        while "stops it" not in self.said:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()
            self.said += line

    def pid(self, log: str) -> int:
        """The pid of its newest controller or agent."""
        if log == "controller":
            return self.client.status().pid
        children = subprocess.run(
            ["pgrep", "-P", str(self.process.pid), "-f", f"segue.cli {log}"],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(children.stdout)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(TOOL_DEADLINE_S)


@pytest.fixture
def up(folder: Path) -> Iterator[Callable[..., Foreground]]:
    started: list[Foreground] = []

    def start(*args: str) -> Foreground:
        started.append(Foreground(folder / "data", *args))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.stop()
        one.process.communicate()


def serves(client: Client) -> bool:
    """Whether controller and agent are there."""
    try:
        return any(info.state == "present" for info in client.agents())
    except ApiError:
        return False


def test_first_run_second_run_and_one_at_a_time(
    up: Callable[..., Foreground], qemu_io: Tool
) -> None:
    first = up(*UP)
    first.ready()
    assert "256M of 256M free on local" in first.said
    first.client.create_disk("d", 64 << 20)
    [uri] = first.client.disk_uris("d")
    qemu_io("-f", "raw", "-c", "write -P 7 0 1M", uri)
    another = segue(first.data, "up")
    assert another.returncode == 1
    assert another.stderr.splitlines() == [
        f"segue: `segue up` runs in {first.data} already (pid {first.process.pid})"
    ]
    assert first.stop(signal.SIGINT) == 0
    log = (first.data / "controller.log").read_text()
    assert "event=stopped" in log.splitlines()[-1]
    assert "event=container_added container=local " in log
    assert "event=disk_created disk=d size_bytes=67108864\n" in log
    second = up()
    second.ready()
    assert "1 disk, 255M of 256M free on local" in second.said
    qemu_io("-f", "raw", "-c", "read -P 7 0 1M", uri)
    assert second.stop() == 0


def test_what_dies_is_started_again(up: Callable[..., Foreground], qemu_io: Tool) -> None:
    one = up(*UP)
    one.ready()
    one.client.create_disk("d", 64 << 20)
    [uri] = one.client.disk_uris("d")
    for victim in ("agent", "controller", "agent"):
        qemu_io("-f", "raw", "-c", "write -P 7 0 1M", uri)
        before = {info.incarnation for info in one.client.agents()}
        pid = one.pid(victim)
        os.kill(pid, signal.SIGKILL)
        shown = segue(one.data, "disk", "list")
        assert shown.returncode == 0, f"{victim}: {shown.stderr}"
        wait_until(f"another {victim}", partial(_replaced, one, victim, pid, before))
        qemu_io("-f", "raw", "-c", "read -P 7 0 1M", uri)


def _replaced(one: Foreground, victim: str, pid: int, before: set[str]) -> bool:
    try:
        if victim == "controller":
            return one.client.status().pid != pid and serves(one.client)
        here = {info.incarnation for info in one.client.agents() if info.state == "present"}
    except ApiError:
        return False
    return bool(here - before)


def test_nothing_outlives_one_that_is_killed(up: Callable[..., Foreground]) -> None:
    killed = up(*UP)
    killed.ready()
    killed.stop(signal.SIGKILL)
    again = up()  # waits for what the first has left running
    again.ready()
    assert serves(again.client)


def test_in_the_background(folder: Path) -> None:
    data = folder / "data"
    done = segue(data, "up", "--detach", *UP)
    assert done.returncode == 0, done.stderr
    assert "stops it" in done.stdout
    try:
        assert serves(Client(str(data)))
    finally:
        stopped = segue(data, "down")
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert not serves(Client(str(data)))
    again = segue(data, "down")
    assert (again.returncode, again.stderr) == (1, f"segue: no `segue up` runs in {data}\n")


def test_what_does_not_start_is_said_in_one_line(folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    (data / "segue.db").write_bytes(b"no database" * 1000)
    for args in (["up"], ["up", "--detach"]):
        done = segue(data, *args)
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert line.startswith("segue: the controller did not start: ")
        assert "segue.db" in line
