"""One line of log an event, on stderr: time, level, logger, ``event=... key=value``.

Never more than one line: a traceback is folded into it.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections import deque
from typing import TextIO

KEPT_LINES = 200


class OneLine(logging.Formatter):
    """Formats every record as a single line."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """``2025-11-22T12:00:00.123 WARNING controller segue.store event=... exception=...``."""
        stamp = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
        line = (
            f"{stamp}.{record.msecs:03.0f} {record.levelname} {self._process} "
            f"{record.name} {record.getMessage()}"
        )
        if record.exc_info:
            line += f" exception={''.join(traceback.format_exception(*record.exc_info))!r}"
        return line.replace("\n", "\\n")


class Patient(logging.StreamHandler[TextIO]):
    """To a stream that may be a file on a full file system: what finds no room there comes later.

    With the next line that finds some, the oldest first; of many the newest are kept.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._kept: deque[str] = deque(maxlen=KEPT_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """Writes it, after what has been kept."""
        try:
            self._kept.append(self.format(record) + self.terminator)
            while self._kept:
                self.stream.write(self._kept[0])
                self.flush()
                self._kept.popleft()
        except OSError:
            pass  # there is nowhere to say so
        except Exception:
            self.handleError(record)


def set_up_logs(process: str, level: str = "info") -> None:
    """Send all logs of this process to stderr; `level` is a name such as "info" or "debug"."""
    handler = Patient(sys.stderr)
    handler.setFormatter(OneLine(process))
    # Takes a while to load, which verbs that only ask the API need not wait for.
    from segue import _native  # noqa: PLC0415

    _native.name_log(process)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Their INFO tells of every connection.
    for chatty in ("asyncio", "uvicorn", "litestar"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
