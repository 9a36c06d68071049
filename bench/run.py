"""`make bench`: every row of the design's table of speeds that exists, in one run.

    python bench/run.py [ROW ...] [--rounds 5] [--seconds 0.8] [--output FILE]

Rows: see `ROWS`; none named: all.  Figures go to `bench/results/latest.json` (not kept in git),
tables to the standard output.  `docs/performance.md` says what they mean.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import controller_faults
import data_path
import standing
from servers import BENCH

Row = Callable[[int, float], object]


def page(rounds: int, seconds: float) -> object:
    """I/O through the page cache."""
    results = data_path.measure("page", rounds, seconds)
    print(data_path.markdown(results, "page"))
    return results


def direct(rounds: int, seconds: float) -> object:
    """I/O past the page cache."""
    results = data_path.measure("direct", rounds, seconds)
    print(data_path.markdown(results, "direct"))
    return results


def faults(_rounds: int, _seconds: float) -> object:
    """Durable faults a second of the controller."""
    return shown(asyncio.run(controller_faults.run(100_000, 256)))


def idle(_rounds: int, _seconds: float) -> object:
    """An agent and a controller that nobody uses."""
    return shown(standing.measure(20.0))


def shown(figures: object) -> object:
    """Prints figures as they are."""
    print(json.dumps(figures, indent=1))
    return figures


ROWS: dict[str, Row] = {"page": page, "direct": direct, "faults": faults, "idle": idle}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], default=[])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.8)
    parser.add_argument("--output", type=Path, default=BENCH / "results/latest.json")
    args = parser.parse_args()
    figures = {row: ROWS[row](args.rounds, args.seconds) for row in args.rows or ROWS}
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
