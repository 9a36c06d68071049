"""Driver of E1: starts every server on one file, measures them in turn, prints medians.

`run.py BUILD_DIR [ROUNDS] [SECONDS]`; BUILD_DIR holds the release binaries `server` and `load`.
Every round measures every server once in every cell, in a new order each round, so that a change of
the machine's mood hits all of them alike. Ratios are taken within a round, then their median and
their spread (lowest, highest) are printed.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE = 1 << 30
CELLS = [(op, depth) for op in ("read", "write") for depth in (1, 32)]


def own(build: Path, mode: str, direct: bool) -> list[str]:
    """Command of one of the experiment's servers."""
    return [str(build / "server"), mode, "{file}", "{socket}"] + (["direct"] if direct else [])


def qemu(cache: str, aio: str) -> list[str]:
    """Command of qemu-nbd."""
    return [
        "qemu-nbd",
        "-f",
        "raw",
        "-t",
        f"--cache={cache}",
        f"--aio={aio}",
        "-k",
        "{socket}",
        "{file}",
    ]


def servers(build: Path) -> dict[str, dict[str, list[str]]]:
    """Servers by kind of cache and name."""
    nbdkit = ["nbdkit", "-f", "-U", "{socket}", "file", "{file}"]
    modes = ("null", "inline", "nowait", "blocking", "spin", "pool", "uring")
    cached = {mode: own(build, mode, False) for mode in modes}
    cached |= {"segue": [str(build / "segue"), "{file}", "{socket}", "page"]}
    cached |= {"nbdkit": nbdkit, "qemu-nbd": qemu("writeback", "threads")}
    direct = {mode: own(build, mode, True) for mode in ("null", "inline", "pool", "uring")}
    direct |= {"segue": [str(build / "segue"), "{file}", "{socket}", "direct"]}
    direct |= {"qemu-nbd": qemu("none", "native"), "qemu-uring": qemu("none", "io_uring")}
    return {"page cache": cached, "O_DIRECT": direct}


def measure(
    build: Path, commands: dict[str, list[str]], file: str, rounds: int, seconds: float
) -> dict[tuple[str, str, int], list[dict[str, float]]]:
    """Runs all cells; result by (server, operation, depth)."""
    results: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for name, words in commands.items():
            socket = f"{folder}/{name}.sock"
            command = [word.format(file=file, socket=socket) for word in words]
            running[name] = subprocess.Popen(command)
            while not os.path.exists(socket):
                time.sleep(0.05)
        try:
            for seed in range(rounds):
                for op, depth in CELLS:
                    names = list(commands)
                    random.Random(f"{seed} {op} {depth}").shuffle(names)
                    for name in names:
                        load = [build / "load", f"{folder}/{name}.sock", str(running[name].pid)]
                        load += [op, str(depth), str(seconds), str(seed)]
                        out = subprocess.run(load, capture_output=True, text=True, check=False)
                        if out.returncode:
                            sys.exit(f"{name} {op} {depth}: {out.stderr} {running[name].poll()}")
                        results.setdefault((name, op, depth), []).append(json.loads(out.stdout))
        finally:
            for process in running.values():
                process.terminate()
                process.wait()
            for made in Path(file).parent.glob(Path(file).name + ".segue-*"):
                made.unlink()
    return results


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def report(kind: str, names: list[str], results: dict, peers: list[str]) -> None:
    """Prints one Markdown table per cell."""
    for op, depth in CELLS:
        best = max(peers, key=lambda n: statistics.median(r["iops"] for r in results[n, op, depth]))
        thrift = min(
            peers, key=lambda n: statistics.median(r["server_us"] for r in results[n, op, depth])
        )
        print(f"\n{kind}, {op}, depth {depth} (ratios: IOPS to {best}, CPU to {thrift})\n")
        print("| server | IOPS | CPU us/IO | client us/IO | IOPS ratio | CPU ratio |")
        print("|---|---|---|---|---|---|")
        for name in names:
            runs = results[name, op, depth]
            iops = [
                r["iops"] / b["iops"] for r, b in zip(runs, results[best, op, depth], strict=True)
            ]
            cpu = [
                r["server_us"] / b["server_us"]
                for r, b in zip(runs, results[thrift, op, depth], strict=True)
            ]
            middle = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
            print(
                f"| {name} | {middle['iops']:,.0f} | {middle['server_us']:.2f} "
                f"| {middle['client_us']:.2f} | {spread(iops)} | {spread(cpu)} |"
            )


def main() -> None:
    """Entry point; E1_SERVERS names the servers to compare (default: all)."""
    build = Path(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 1.0
    with tempfile.NamedTemporaryFile(dir=os.environ.get("E1_DIR", "/var/tmp")) as file:
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
        wanted = os.environ.get("E1_SERVERS", "").split()
        for kind, known in servers(build).items():
            commands = {n: words for n, words in known.items() if not wanted or n in wanted}
            results = measure(build, commands, file.name, rounds, seconds)
            peers = [name for name in commands if name.startswith(("nbdkit", "qemu"))]
            report(kind, list(commands), results, peers)


if __name__ == "__main__":
    main()
