"""How commands print: tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
import msgspec

T = TypeVar("T")
Columns = dict[str, Callable[[Any], str]]
"""Heading -> the text of a row's cell."""

UNBOUNDED = 10_000
"""Width of a table that does not go to a terminal: nothing is cut for a program to miss."""


def print_json(value: Any) -> None:
    """Indented JSON, the API's own fields."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_json_line(value: Any) -> None:
    """The same in one line: where a command prints several, or goes on running."""
    click.echo(msgspec.json.encode(value))


def print_rows(rows: Sequence[T], columns: Columns) -> None:
    """One line a row under a line of headings."""
    # Drawing costs 50 ms of imports, which --json need not pay.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    width = None if sys.stdout.isatty() else UNBOUNDED
    Console(width=width, highlight=False, markup=False).print(table, no_wrap=True, crop=False)


def print_fields(row: T, fields: Columns) -> None:
    """One line a field: for `show`; what has no text is left out."""
    widest = max(len(name) for name in fields)
    for name, text in fields.items():
        said = text(row)
        if said:
            click.echo(f"{name.lower():<{widest}}  {said}")
