"""How far long work has come: a bar on a terminal, plain lines elsewhere; on stderr.

Stdout stays for results, so that ``--json`` and pipes are not disturbed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import click

from segue.cli.sizes import format_size

if TYPE_CHECKING:
    from rich.progress import Progress as Drawn
    from rich.progress import TaskID

LINE_EVERY_PERCENT = 10
MIB = 1 << 20


class Progress(Protocol):
    """What the work tells: bytes done of the total."""

    def update(self, done_bytes: int, total_bytes: int | None = None) -> None:
        """So much is done in all; `total_bytes` if it turned out to be another."""

    def advance(self, count_bytes: int) -> None:
        """So much more is done."""

    def say(self, line: str) -> None:
        """A line of its own, which stays."""

    def note(self, text: str) -> None:
        """Why it does not go on as it might; said when it changes, empty: it goes on."""


@contextmanager
def progress(title: str, total_bytes: int) -> Iterator[Progress]:
    """A `Progress` while the work is under way; `title` is one or two words ("import d")."""
    if not sys.stderr.isatty():
        yield _Lines(title, total_bytes)
        return
    # Drawing costs 50 ms of imports.
    from rich import progress as bars  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    class Rate(bars.ProgressColumn):
        """In the unit of the bytes beside it; rich's own is decimal."""

        def render(self, task: bars.Task) -> str:
            return "" if task.speed is None else f"{task.speed / MIB:.1f} MiB/s"

    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.DownloadColumn(binary_units=True),
        Rate(),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as drawn:
        yield _Bar(drawn, drawn.add_task(title, total=total_bytes), title)


class _Bar:
    def __init__(self, drawn: Drawn, task: TaskID, title: str) -> None:
        self._title = title
        self._drawn = drawn
        self._task = task

    def update(self, done_bytes: int, total_bytes: int | None = None) -> None:
        self._drawn.update(self._task, completed=done_bytes, total=total_bytes)

    def advance(self, count_bytes: int) -> None:
        self._drawn.advance(self._task, count_bytes)

    def say(self, line: str) -> None:
        self._drawn.console.print(line, markup=False, highlight=False)

    def note(self, text: str) -> None:
        about = f"{self._title} ({text})" if text else self._title
        self._drawn.update(self._task, description=about.replace("[", r"\["))


class _Lines:
    """A line whenever another tenth is done."""

    def __init__(self, title: str, total_bytes: int) -> None:
        self._title = title
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._said_percent = 0
        self._note = ""

    def update(self, done_bytes: int, total_bytes: int | None = None) -> None:
        self._done_bytes = done_bytes
        if total_bytes is not None:
            self._total_bytes = total_bytes
        percent = 100 * done_bytes // self._total_bytes if self._total_bytes else 100
        if percent >= self._said_percent + LINE_EVERY_PERCENT:
            self._said_percent = percent - percent % LINE_EVERY_PERCENT
            click.echo(f"{self._title}: {percent} % of {format_size(self._total_bytes)}", err=True)

    def advance(self, count_bytes: int) -> None:
        self.update(self._done_bytes + count_bytes)

    def say(self, line: str) -> None:
        click.echo(line, err=True)

    def note(self, text: str) -> None:
        if text != self._note:
            self._note = text
            click.echo(f"{self._title}: {text or 'goes on'}", err=True)
