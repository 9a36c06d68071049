"""One write can be followed by its ids: host, fault, command, commit, host again."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from segue.host import MIB, Host, Tally
from segue.installation import Installation, wait_until

SLOW = 4096
"""A bandwidth at which the job copies one piece and then waits for minutes."""
MOVING = 3
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING) "
    r"(controller|agent:one) segue\.\S+ event=\w+"
)


class Log:
    """Lines of one process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def one(self, event: str, *words: str) -> dict[str, str]:
        """Key -> value of the only line of that event with all these words; waits for it."""
        found: list[dict[str, str]] = []

        def there() -> bool:
            found[:] = self.all(event, *words)
            return bool(found)

        wait_until(f"{event} {words} in {self._path}", there)
        assert len(found) == 1, found
        return found[0]

    def text(self, event: str) -> str:
        """The first line of that event; waits for it."""
        lines: list[str] = []

        def there() -> bool:
            text = self._path.read_text().splitlines()
            lines[:] = [line for line in text if f" event={event} " in line]
            return bool(lines)

        wait_until(f"{event} in {self._path}", there)
        return lines[0]

    def all(self, event: str, *words: str) -> list[dict[str, str]]:
        """The same of all such lines."""
        lines = [re.sub(r"[()]", " ", line).split() for line in self._path.read_text().splitlines()]
        return [
            dict(word.split("=", 1) for word in line if "=" in word)
            for line in lines
            if {f"event={event}", *words} <= set(line)
        ]


def test_a_write_under_movement_is_followed_from_host_to_commit_and_back(folder: Path) -> None:
    args = ("--log-level", "debug", "--slow-fault", "0")
    with Installation(folder / "data", args) as installation:
        installation.start_controller()
        installation.start_agent("one", "--log-level", "debug")
        client = installation.client
        client.add_container("left", f"file://{folder}/left", 16 * MIB)
        client.add_container("right", f"file://{folder}/right", 16 * MIB)
        client.create_disk("disk", 8 * MIB)
        host = Host(installation.uri("disk", "one"), "disk", bytearray(8 * MIB), Tally())
        host.write(0, b"x" * (8 * MIB))
        client.move_disk("disk", "right", bandwidth=SLOW)
        wait_until("segments under movement", lambda: client.status().incomplete_extents > MOVING)
        at = MOVING * MIB + 5 * 4096
        host.write(at, b"y" * 4096)
        host.compare(at, 4096)

        agent = Log(installation.agents["one"].log)
        controller = Log(installation.controller.log)
        io = agent.one("io_faulted", f"offset={at}", "operation=write")
        host_io = [f"{key}={io[key]}" for key in ("connection", "cookie")]
        fault = [f"{key}={io[key]}" for key in ("agent", "incarnation", "request")]

        asked = controller.one("fault", *fault)
        assert (asked["disk"], asked["segment"]) == (io["disk"], str(MOVING))
        sent = controller.one("command", "message=DoWrite", *fault)
        command = f"command={sent['command']}"
        assert agent.one("command", command, *fault)["message"] == "DoWrite"
        assert agent.one("command_answered", command)["outcome"] == "DONE"
        assert controller.one("command_answered", command)["outcome"] == "DONE"
        commit = controller.all("committed", *fault)[-1]["commit"]
        assert controller.one("slow_fault", *fault)["commit"] == commit
        assert controller.one("fault_answered", *fault)["answer"] == "CompleteToHost"
        assert agent.one("fault_answered", *fault)["answer"] == "CompleteToHost"
        end = agent.one("io_answered", *host_io)
        assert (end["cause"], end["errno"]) == ("do_write", "0")

        clean = 7 * MIB + 9 * 4096
        host.compare(clean, 4096)
        assert [line for line in agent.all("io_faulted") if line["offset"] == str(clean)] == []
        host.close()

        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(installation.socket("one"))
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert "its connection is closed" in agent.text("native")
        installation.stop()
        for process in (installation.controller, installation.agents["one"]):
            for line in process.log.read_text().splitlines():
                assert LINE.match(line), line
