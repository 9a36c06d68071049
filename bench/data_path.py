"""4 KiB random and 1 MiB sequential I/O on a file: Segue beside its peers, in one interleaved run.

A round measures every server in every cell, in a new order; ratios are taken within a round and
given with lowest and highest.  IOPS alone says little on a busy machine: the server's CPU for each
I/O stands beside it, and the ceiling of the client, which is a server that does nothing.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from servers import MIB, NULL, PEERS, SEGUE, Server, all_servers, build_load, process

SIZE_BYTES = 512 * MIB

Run = dict[str, float]
Results = dict[str, dict[str, list[Run]]]
"""By cell and server: a run for each round."""


class Cell(NamedTuple):
    """One kind of load."""

    operation: str
    pattern: str
    length_bytes: int
    depth: int

    @property
    def name(self) -> str:
        """As it stands in tables."""
        size = "1 MiB" if self.length_bytes == MIB else "4 KiB"
        return f"{size} {self.pattern} {self.operation}, depth {self.depth}"


CELLS = [
    *(Cell(op, "random", 4096, depth) for op in ("read", "write") for depth in (1, 32)),
    *(Cell(op, "sequential", MIB, depth) for op in ("read", "write") for depth in (1, 4)),
]


def load_words(load: Path, server: Server, cell: Cell, seconds: float, seed: int) -> list[str]:
    """The command line of one run of the client."""
    words = [f"{load}/load", server.address, f"{server.pid}", cell.operation, cell.pattern]
    return [*words, f"{cell.length_bytes}", f"{cell.depth}", f"{seconds}", f"{seed}"]


def clients(seconds: float) -> dict[str, float]:
    """I/Os a second of two clients against the server that does nothing: 4 KiB reads, depth 32."""
    load = build_load()
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segue-bench-") as name:
        socket = Path(name) / "null.sock"
        words = [str(load / "null"), str(socket), f"{SIZE_BYTES}"]
        with process(words, socket) as server:
            cell = Cell("read", "random", 4096, 32)
            words = load_words(load, server, cell, seconds, 1)
            own = subprocess.run(words, capture_output=True, text=True, check=True)
            words = ["fio", "--name=f", "--ioengine=nbd", f"--uri=nbd+unix:///?socket={socket}"]
            words += ["--rw=randread", "--bs=4k", "--iodepth=32", f"--size={SIZE_BYTES}"]
            words += ["--time_based", f"--runtime={max(1, round(seconds))}", "--output-format=json"]
            fio = subprocess.run(
                words, capture_output=True, text=True, check=True, cwd=name, timeout=60
            )
    return {
        "load": json.loads(own.stdout)["iops"],
        # A line about the connection comes first.
        "fio": round(json.loads(fio.stdout[fio.stdout.index("{") :])["jobs"][0]["read"]["iops"]),
    }


def measure(cache: str, rounds: int, seconds: float) -> Results:
    """All cells of one way of caching, `rounds` times."""
    load = build_load()
    results: Results = {cell.name: {} for cell in CELLS}
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segue-bench-") as name,
        all_servers(Path(name), load, SIZE_BYTES, cache) as servers,
    ):
        for seed in range(rounds):
            for cell in CELLS:
                one_round(results[cell.name], servers, cell, load, seconds, seed)
    return results


def one_round(
    results: dict[str, list[Run]],
    servers: dict[str, Server],
    cell: Cell,
    load: Path,
    seconds: float,
    seed: int,
) -> None:
    """Every server once, in a new order."""
    names = list(servers)
    random.shuffle(names)
    for name in names:
        words = load_words(load, servers[name], cell, seconds, seed)
        out = subprocess.run(words, capture_output=True, text=True, check=True)
        results.setdefault(name, []).append(json.loads(out.stdout))


def median(runs: list[Run], key: str) -> float:
    """Of all rounds."""
    return statistics.median(run[key] for run in runs)


def best_peer(servers: dict[str, list[Run]], key: str) -> str:
    """The peer with the most IOPS, or the least of anything else."""
    peers = [name for name in servers if name not in (SEGUE, NULL)]
    pick = max if key == "iops" else min
    return pick(peers, key=lambda name: median(servers[name], key))


def ratios(servers: dict[str, list[Run]], key: str) -> list[float]:
    """Segue's to the best peer's, round by round."""
    pairs = zip(servers[SEGUE], servers[best_peer(servers, key)], strict=True)
    return [ours[key] / theirs[key] for ours, theirs in pairs]


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def markdown(results: Results, cache: str) -> str:
    """One row a cell; IOPS and CPU of each server, and the two ratios."""
    names = [SEGUE, *PEERS[cache], NULL]
    lines = [f"| {cache} | {' | '.join(names)} | IOPS to best peer | CPU to best peer |"]
    lines.append("|---" * (len(names) + 3) + "|")
    for cell, servers in results.items():
        row = [
            f"{median(servers[name], 'iops'):,.0f} / {median(servers[name], 'server_us'):,.1f}"
            for name in names
        ]
        row += [spread(ratios(servers, "iops")), spread(ratios(servers, "server_us"))]
        lines.append(f"| {cell} | {' | '.join(row)} |")
    return "\n".join(lines)
