"""`segue disk map`: a disk as a field of letters, one a cell.

A letter names the container that most of the cell lies on, a dot is zero.  A capital letter: all
of the cell lies somewhere; a small one: a part of it.  ``!``: something there is incomplete.
"""

from __future__ import annotations

from segue.api.disks import DiskDrawing, DrawnCell
from segue.cli.sizes import format_exact, format_size

CELLS_PER_ROW = 64
ROWS = 16
CELLS = CELLS_PER_ROW * ROWS
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_red")


def draw(drawing: DiskDrawing, colours: bool) -> None:
    """Prints it, 64 cells a line under a legend."""
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(
        highlight=False, markup=False, width=120, no_color=not colours, force_terminal=colours
    )
    totals = _totals(drawing)
    letters = {name: LETTERS[n % len(LETTERS)] for n, name in enumerate(sorted(totals))}
    styles = {name: COLOURS[n % len(COLOURS)] for n, name in enumerate(sorted(totals))}
    size = drawing.segments * drawing.segment_bytes
    cell_bytes = drawing.segments_per_cell * drawing.segment_bytes
    console.print(
        f"disk {drawing.name}: {format_size(size)} in {drawing.segments} segments of "
        f"{format_size(drawing.segment_bytes)}; each sign is {format_size(cell_bytes)}"
    )
    for name, count in sorted(totals.items()):
        share = format_size(count * drawing.segment_bytes)
        console.print(Text(letters[name], styles[name]), f"{name}: {_segments(count)}, {share}")
    zero = drawing.segments - sum(totals.values())
    console.print(f". zero: {_segments(zero)}; they take no room")
    incomplete = sum(cell.incomplete for cell in drawing.cells)
    if incomplete:
        console.print(Text("!", "bold red"), f"incomplete: {_segments(incomplete)}")
    console.print()
    cells = {cell.cell: cell for cell in drawing.cells}
    count = -(-drawing.segments // drawing.segments_per_cell)
    for first in range(0, count, CELLS_PER_ROW):
        row = Text(f"{format_exact(first * cell_bytes):>8}  ")
        for number in range(first, min(first + CELLS_PER_ROW, count)):
            row.append(*_sign(drawing, cells.get(number), letters, styles))
        console.print(row, no_wrap=True, crop=False)


def _segments(count: int) -> str:
    return f"{count} segment{'s' * (count != 1)}"


def _totals(drawing: DiskDrawing) -> dict[str, int]:
    totals: dict[str, int] = {}
    for cell in drawing.cells:
        for name, count in cell.containers.items():
            totals[name] = totals.get(name, 0) + count
    return totals


def _sign(
    drawing: DiskDrawing, cell: DrawnCell | None, letters: dict[str, str], styles: dict[str, str]
) -> tuple[str, str]:
    if cell is None:
        return ".", "dim"
    if cell.incomplete:
        return "!", "bold red"
    most = max(sorted(cell.containers), key=lambda name: cell.containers[name])
    here = drawing.segments - cell.cell * drawing.segments_per_cell
    full = sum(cell.containers.values()) == min(here, drawing.segments_per_cell)
    return letters[most] if full else letters[most].lower(), styles[most]
