"""`make bench`: every row of the design's table of speeds that exists, in one run.

    python bench/run.py [ROW ...] [--rounds 5] [--seconds 0.8] [--output FILE]

Rows: see `ROWS`; none named: all.  Figures go to `bench/results/latest.json` (not kept in git),
tables to the standard output; `plots.py` draws them.  `docs/performance.md` says what they mean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import controller_faults
import data_path
import hot
import machine
import movement
import restart
import standing
import written
from servers import BENCH

Row = Callable[[int, float], object]
SAMPLES = 1_000_000
"""Of I/Os to moving segments, where they are fastest."""


def io_row(cache: str) -> Row:
    """I/O through the page cache, or past it."""

    def measured(rounds: int, seconds: float) -> object:
        results = data_path.measure(cache, rounds, seconds)
        print(data_path.markdown(results, cache))
        return results

    return measured


def client(_rounds: int, seconds: float) -> object:
    """Which client has the higher ceiling: fio's nbd engine, or our own."""
    return shown(data_path.clients(seconds))


def faults(_rounds: int, _seconds: float) -> object:
    """Durable faults a second of the controller."""
    return shown(asyncio.run(controller_faults.run(100_000, 256)))


def idle(_rounds: int, _seconds: float) -> object:
    """An agent and a controller that nobody uses."""
    return shown(standing.measure(20.0))


def back(rounds: int, _seconds: float) -> object:
    """Checkpoints, loading a table, and processes that were killed."""
    return shown(restart.measure(rounds))


def moved(rounds: int, _seconds: float) -> object:
    """What hosts feel while data moves."""
    figures = movement.measure(min(rounds, 3))
    print(movement.markdown(figures))
    return figures


def hit(_rounds: int, seconds: float) -> object:
    """I/Os that hit a moving segment."""
    figures = hot.measure(12 * seconds, SAMPLES)
    print(hot.markdown(figures))
    return figures


def bytes_written(_rounds: int, _seconds: float) -> object:
    """Bytes written for each byte moved."""
    return shown(written.measure())


def shown(figures: object) -> object:
    """Prints figures as they are."""
    print(json.dumps(figures, indent=1))
    return figures


ROWS: dict[str, Row] = {
    "client": client,
    "page": io_row("page"),
    "direct": io_row("direct"),
    "faults": faults,
    "idle": idle,
    "restart": back,
    "movement": moved,
    "hot": hit,
    "written": bytes_written,
}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.8)
    parser.add_argument("--output", type=Path, default=BENCH / "results/latest.json")
    args = parser.parse_args()
    args.output.parent.mkdir(exist_ok=True)
    rows: dict[str, object] = {}
    figures = {
        "machine": machine.describe(),
        "rounds": args.rounds,
        "seconds": args.seconds,
        "rows": rows,
    }
    for row in args.rows or ROWS:
        rows[row] = ROWS[row](args.rounds, args.seconds)
        args.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
