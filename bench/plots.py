"""Plots of a result file, for docs/: ratios to the best peer, and latency while data moves.

python bench/plots.py [RESULT]          needs the extra `bench` (matplotlib)
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import data_path
import matplotlib as mpl
from servers import BENCH

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "segue"
mpl.rcParams["font.size"] = 9

from matplotlib import pyplot as plt  # noqa: E402

DOCS = BENCH.parent / "docs"
COLOURS = {"iops": "tab:blue", "server_us": "tab:orange"}
LABELS = {"iops": "I/Os a second (more is better)", "server_us": "CPU per I/O (less is better)"}
AIMS = {"iops": 1.3, "server_us": 0.77}


def ratios(figures: dict[str, Any], path: Path) -> None:
    """Segue to the best peer in every cell: median, lowest and highest round."""
    ways = [way for way in ("page", "direct") if way in figures]
    figure, axes = plt.subplots(1, len(ways), figsize=(5.2 * len(ways), 4), squeeze=False)
    for way, axis in zip(ways, axes[0], strict=True):
        cells = list(figures[way])
        for shift, key in ((-0.12, "iops"), (0.12, "server_us")):
            for row, cell in enumerate(cells):
                found = data_path.ratios(figures[way][cell], key)
                axis.plot([min(found), max(found)], [row + shift] * 2, color=COLOURS[key], lw=1.5)
                label = LABELS[key] if row == 0 else None
                middle = statistics.median(found)
                axis.plot(middle, row + shift, "o", color=COLOURS[key], label=label)
            axis.axvline(AIMS[key], color=COLOURS[key], ls=":", lw=1)
        axis.axvline(1, color="black", lw=0.8)
        axis.set_xscale("log")
        axis.set_xticks(
            [0.3, 0.5, 0.77, 1, 1.3, 2, 3], ["0.3", "0.5", "0.77", "1", "1.3", "2", "3"]
        )
        axis.minorticks_off()
        axis.set_yticks(range(len(cells)), cells)
        axis.invert_yaxis()
        axis.set_title({"page": "page cache", "direct": "O_DIRECT"}[way])
        axis.set_xlabel("Segue / best peer (dotted: the aims)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="upper center", ncols=2, fontsize=8)
    save(figure, path)


def timelines(lines: dict[str, Any], path: Path) -> None:
    """p50 and p99 of each slice of time; what was done then is shaded."""
    figure, axes = plt.subplots(len(lines), 1, figsize=(7.5, 1.55 * len(lines)), squeeze=False)
    for (name, line), axis in zip(lines.items(), axes[:, 0], strict=True):
        times = [at * line["slice_s"] for at in range(len(line["p50_us"]))]
        axis.plot(times, line["p99_us"], color="tab:red", lw=0.9, label="p99")
        axis.plot(times, line["p50_us"], color="tab:blue", lw=0.9, label="p50")
        axis.axvspan(line["begun_s"], line["ended_s"], color="tab:gray", alpha=0.2)
        axis.set_yscale("log")
        axis.set_ylim(30, 100_000)
        axis.set_xlim(0, times[-1])
        axis.set_title(name, loc="left", fontsize=8)
        axis.set_ylabel("us")
    axes[0][0].legend(loc="upper right", fontsize=7, ncols=2)
    axes[-1][0].set_xlabel("seconds")
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    """An SVG that is the same for the same figures."""
    figure.tight_layout(rect=(0, 0, 1, 0.95))
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    print(f"wrote {path.name}")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", nargs="?", type=Path, default=BENCH / "results/latest.json")
    args = parser.parse_args()
    rows = json.loads(args.result.read_text())["rows"]
    if "page" in rows or "direct" in rows:
        ratios(rows, DOCS / "performance-ratios.svg")
    if "movement" in rows:
        timelines(rows["movement"]["timelines"], DOCS / "movement-latency.svg")


if __name__ == "__main__":
    main()
