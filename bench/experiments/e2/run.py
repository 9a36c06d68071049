"""E2: builds the source, runs every cell, prints one line each (see docs/decisions/0002)."""

import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def build(folder: str) -> str:
    """Compile the Rust stand-in for the data thread."""
    library = os.path.join(folder, "libsource.so")
    source = os.path.join(HERE, "source.rs")
    command = ["rustc", "--edition", "2021", "-O", "--crate-type", "cdylib", "-o", library, source]
    subprocess.run(command, check=True)
    return library


def cell(
    library: str, mode: str, *, outstanding: int, total: int, loop: str, writers: int
) -> dict[str, float]:
    """One run of two processes in a fresh folder."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("E2_DIR")) as folder:
        with open(os.path.join(folder, "data"), "wb") as f:
            f.write(bytes(256 << 20))
            os.fsync(f.fileno())
        run = [sys.executable]
        numbers = [str(total), str(outstanding)]
        controller = subprocess.Popen(
            [*run, os.path.join(HERE, "controller.py"), folder, mode, loop],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert controller.stdout is not None
        controller.stdout.readline()
        agent = subprocess.run(
            [*run, os.path.join(HERE, "agent.py"), folder, library, *numbers, loop, str(writers)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rest, _ = controller.communicate(timeout=30)
        return json.loads(agent.stdout) | json.loads(rest)


def main() -> None:
    """Every cell `--rounds` times, loops interleaved."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--loops", nargs="*", default=["asyncio", "uvloop"])
    parser.add_argument("--modes", nargs="*", default=["alloc", "dowrite", "reload"])
    parser.add_argument("--writers", type=int, default=8, help="0: the data thread itself")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = build(folder)
        for mode in args.modes:
            for outstanding in (1, 256):
                total = {1: 4000, 256: 100_000}[outstanding]
                total = int((total // 3 if mode == "dowrite" else total) * args.scale)
                for _ in range(args.rounds):
                    for loop in args.loops:
                        result = cell(
                            library,
                            mode,
                            outstanding=outstanding,
                            total=total,
                            loop=loop,
                            writers=args.writers,
                        )
                        print(mode, outstanding, loop, json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
