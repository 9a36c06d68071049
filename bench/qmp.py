"""Just enough of QEMU's monitor protocol to run a blockdev-mirror."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any


class Monitor:
    """A connection to a monitor's unix socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rw", encoding="utf-8")
        self._events: list[dict[str, Any]] = []
        self._next()
        self.call("qmp_capabilities")

    def _next(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise RuntimeError("the monitor has hung up")
        message: dict[str, Any] = json.loads(line)
        return message

    def call(self, command: str, **arguments: Any) -> Any:
        """The command's answer; raises RuntimeError for a refusal."""
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        execute = command if command == "qmp_capabilities" else command.replace("_", "-")
        self._lines.write(json.dumps({"execute": execute, "arguments": words}) + "\n")
        self._lines.flush()
        while True:
            message = self._next()
            if "event" in message:
                self._events.append(message)
            elif "error" in message:
                raise RuntimeError(f"{command}: {message['error']}")
            else:
                return message["return"]

    def wait_for(self, *events: str) -> dict[str, Any]:
        """The next event of one of these names; the others are dropped."""
        while True:
            message = self._events.pop(0) if self._events else self._next()
            if message.get("event") in events:
                return message

    def close(self) -> None:
        """Hang up."""
        self._socket.close()
