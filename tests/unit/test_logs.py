"""Every event is one line of log, whatever is in it."""

from __future__ import annotations

import errno
import io
import logging
import sys

from segue.logs import OneLine, Patient


def line_of(message: str, *args: object, failing: bool = False) -> str:
    """The line that a warning makes, with an exception if `failing`."""
    info = None
    if failing:
        try:
            raise ValueError("two\nlines")
        except ValueError:
            info = sys.exc_info()
    record = logging.LogRecord("segue.x", logging.WARNING, "f", 1, message, args, info)
    return OneLine("agent:one").format(record)


def test_time_level_process_logger_event() -> None:
    line = line_of("event=%s disk=%d", "lost", 5)
    assert line.endswith(" WARNING agent:one segue.x event=lost disk=5")
    assert line[4] == line[7] == "-"


def test_a_message_with_line_ends_stays_one_line() -> None:
    assert line_of("event=odd name=%s", "a\nb").endswith("name=a\\nb")


def test_a_traceback_stays_one_line() -> None:
    line = line_of("event=failed", failing=True)
    assert "\n" not in line
    assert "ValueError: two" in line


def test_a_line_that_finds_no_room_comes_before_the_next_one_that_does() -> None:
    class File(io.StringIO):
        full = True

        def write(self, text: str) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(text)

    file = File()
    handler = Patient(file)
    for message in ("first", "second", "third"):
        handler.emit(logging.LogRecord("segue.x", logging.WARNING, "f", 1, message, (), None))
        file.full = message == "first"
    assert file.getvalue() == "first\nsecond\nthird\n"
