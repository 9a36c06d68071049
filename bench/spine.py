"""The finished spine beside its peers: 4 KiB random I/O on a file, IOPS and server CPU an I/O.

A whole installation (controller, agent, one page-cache container), with one disk written once, is
measured in one interleaved run with nbdkit, qemu-nbd, qemu-storage-daemon and a server that touches
no file (the client's ceiling), by the load generator of experiment E1.  Then the controller alone:
durable faults a second (`controller_faults.py`).

    python bench/spine.py [--rounds 5] [--seconds 1]      results: bench/results/spine.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from segue import _native
from segue.installation import Installation, wait_until

BENCH = Path(__file__).parent
MIB = 1 << 20
SIZE_BYTES = 1 << 30
CELLS = [(operation, depth) for operation in ("read", "write") for depth in (1, 32)]
PEERS = ("nbdkit", "qemu-nbd", "qsd")

Run = dict[str, float]


def build() -> Path:
    """The release binaries of E1: `load` and the server that does nothing."""
    folder = BENCH / "experiments/e1"
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=folder, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", folder / "target"))
    return target / "release"


@contextmanager
def segue(folder: Path) -> Iterator[tuple[str, int]]:
    """A whole installation; where its disk is served, and the agent's process id."""
    with Installation(folder / "data") as made:
        made.start_controller()
        made.start_agent("bench")
        made.client.add_container("c", f"file://{folder}/container", SIZE_BYTES + 64 * MIB)
        made.client.create_disk("disk", SIZE_BYTES)
        disk = _native.NbdClient(made.socket("bench"), "disk")
        for at in range(0, SIZE_BYTES, MIB):
            disk.pwrite(random.randbytes(MIB), at)
        disk.flush()
        yield f"{made.socket('bench')}#disk", made.agents["bench"].pid
        disk.close()


@contextmanager
def peer(name: str, words: list[str], socket: Path) -> Iterator[tuple[str, int]]:
    """Another server on a file of its own."""
    with subprocess.Popen(words) as process:
        wait_until(name, socket.exists)
        try:
            yield str(socket), process.pid
        finally:
            process.terminate()


def peers(folder: Path, binaries: Path) -> dict[str, tuple[list[str], Path]]:
    """Command lines and sockets of the peers; each has its own file, written once."""
    found = {}
    for name in ("null", *PEERS):
        file, socket = folder / f"{name}.img", folder / f"{name}.sock"
        with open(file, "wb") as out:
            for _ in range(SIZE_BYTES // MIB):
                out.write(random.randbytes(MIB))
        words = {
            "null": [str(binaries / "server"), "null", f"{file}", f"{socket}"],
            "nbdkit": ["nbdkit", "-f", "-U", f"{socket}", "file", f"{file}"],
            "qemu-nbd": [
                *("qemu-nbd", "-f", "raw", "-t", "--cache=writeback", "--aio=threads"),
                *("-k", f"{socket}", f"{file}"),
            ],
            "qsd": [
                "qemu-storage-daemon",
                *("--blockdev", f"file,filename={file},node-name=n"),
                *("--nbd-server", f"addr.type=unix,addr.path={socket}"),
                *("--export", "nbd,id=e,node-name=n,name=,writable=on"),
            ],
        }[name]
        found[name] = (words, socket)
    return found


def measure(binaries: Path, rounds: int, seconds: float) -> dict[str, dict[str, list[Run]]]:
    """Runs by cell ("read 32") and server; every round in a new order."""
    results: dict[str, dict[str, list[Run]]] = {f"{op} {depth}": {} for op, depth in CELLS}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, ExitStack() as running:
        folder = Path(name)
        servers = {"segue": running.enter_context(segue(folder))}
        for server, (words, socket) in peers(folder, binaries).items():
            servers[server] = running.enter_context(peer(server, words, socket))
        for seed in range(rounds):
            for operation, depth in CELLS:
                names = list(servers)
                random.shuffle(names)
                for server in names:
                    socket_name, pid = servers[server]
                    words = [f"{binaries}/load", socket_name, f"{pid}", operation, f"{depth}"]
                    words += [f"{seconds}", f"{seed}"]
                    out = subprocess.run(words, capture_output=True, text=True, check=True)
                    cell = results[f"{operation} {depth}"]
                    cell.setdefault(server, []).append(json.loads(out.stdout))
    return results


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def report(results: dict[str, dict[str, list[Run]]]) -> None:
    """One Markdown row a cell and server; ratios to the best peer, within a round."""
    print("| 4 KiB random | server | IOPS | server CPU us | IOPS to best peer | CPU to best peer |")
    print("|---|---|---|---|---|---|")
    for cell, servers in results.items():
        for name, runs in servers.items():
            iops = ratios(servers, name, "iops", max)
            cpu = ratios(servers, name, "server_us", min)
            median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            print(
                f"| {cell} | {name} | {median['iops']:,.0f} | {median['server_us']:.2f} "
                f"| {spread(iops)} | {spread(cpu)} |"
            )


def ratios(servers: dict[str, list[Run]], name: str, key: str, best: object) -> list[float]:
    """Of one server to the best peer, round by round."""
    medians = {peer: statistics.median(run[key] for run in servers[peer]) for peer in PEERS}
    pick = max if best is max else min
    chosen = pick(medians, key=lambda peer: medians[peer])
    pairs = zip(servers[name], servers[chosen], strict=True)
    return [run[key] / other[key] for run, other in pairs]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    args = parser.parse_args()
    results = measure(build(), args.rounds, args.seconds)
    report(results)
    faults = subprocess.run(
        [sys.executable, str(BENCH / "controller_faults.py")],
        check=True,
        capture_output=True,
        text=True,
    )
    print(faults.stdout)
    folder = BENCH / "results"
    folder.mkdir(exist_ok=True)
    both = {"io": results, "faults": json.loads(faults.stdout)}
    (folder / "spine.json").write_text(json.dumps(both, indent=1) + "\n")


if __name__ == "__main__":
    main()
