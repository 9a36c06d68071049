"""``python -m segue.sim.mutants``: breaks the production code and sees each break caught.

Every `Mutation` of `mutations.py` is a textual patch.  For each, the tree is copied to a temporary
folder, the patch applied there, the native module built if the patch is in Rust (in a target folder
of its own, kept between runs), and seeds and the scripted incidents are run until one fails.  A
mutation that nothing catches is an error, and so is a patch whose text is not found exactly once:
it must be brought up to date.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from segue.sim.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[3]
COPIED = ("python", "tests/sim", "crates", "Cargo.toml", "Cargo.lock", "pyproject.toml")
FIRST_SEEDS = 60
INCIDENTS = tuple(
    f"tests/sim/test_{name}.py" for name in ("incidents", "movement", "disks", "verbs")
)
NATIVE = Path("python/segue/_native.abi3.so")


class Stale(Exception):
    """The patch no longer applies."""


def main() -> int:
    """Runs all mutations, or those named."""
    parser = argparse.ArgumentParser(prog="python -m segue.sim.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutations to run (default: all)")
    parser.add_argument("--seeds", type=int, default=400, help="most seeds for each (default 400)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes for each (default 1)")
    parser.add_argument("--list", action="store_true", help="only name them")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if not options.names or m.name in options.names]
    missing = set(options.names) - {m.name for m in chosen}
    if missing:
        parser.error(f"no mutation is called {', '.join(sorted(missing))}")
    if options.list:
        for mutation in chosen:
            print(f"{mutation.name:32} {mutation.path}")
        return 0
    bad = [m.name for m in chosen if not _survives_not(m, options)]
    print(f"{len(chosen) - len(bad)} of {len(chosen)} mutations caught")
    if bad:
        print(f"NOT CAUGHT: {', '.join(bad)}")
    return 1 if bad else 0


def _survives_not(mutation: Mutation, options: argparse.Namespace) -> bool:
    """Whether the mutation is caught; prints how."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="segue-mutant-") as folder:
        tree = Path(folder)
        try:
            _copy_tree(tree)
            _apply(mutation, tree)
            if mutation.path.startswith("crates/"):
                _build(tree)
        except (Stale, subprocess.CalledProcessError) as error:
            print(f"{mutation.name:32} ERROR: {error}", flush=True)
            return False
        report, caught = _run(tree, options)
    took = f"{time.monotonic() - began:.0f} s"
    if not caught:
        print(f"{mutation.name:32} SURVIVED {options.seeds} seeds, {took}", flush=True)
        if "Traceback" in report:
            print(report[-2000:])
        return False
    print(f"{mutation.name:32} {took}: {caught[:120]}", flush=True)
    return True


def _run(tree: Path, options: argparse.Namespace) -> tuple[str, str]:
    """Some seeds, then the scripted incidents, then the other seeds: (output, what caught it)."""
    some = min(FIRST_SEEDS, options.seeds)
    report = ""
    for start, seeds in ((0, some), (0, 0), (some, options.seeds - some)):
        if seeds:
            report = _run_seeds(tree, options.start + start, seeds, options.jobs)
            found = re.search(r"^(seed \d+) FAILED: (.*)$", report, re.MULTILINE)
        else:
            report = _python(tree, ["-m", "pytest", "-q", "-x", *INCIDENTS])
            found = re.search(r"^(FAILED|ERROR) (.*)$", report, re.MULTILINE)
        if found is not None:
            return report, f"{found[1]}: {found[2]}"
    return report, ""


def _copy_tree(tree: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "target", ".git")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignore)
        else:
            shutil.copy2(source, tree / name)


def _apply(mutation: Mutation, tree: Path) -> None:
    path = tree / mutation.path
    text = path.read_text()
    found = text.count(mutation.old)
    if found != 1:
        raise Stale(f"its text occurs {found} times in {mutation.path}: bring the patch up to date")
    path.write_text(text.replace(mutation.old, mutation.new))


def _build(tree: Path) -> None:
    """Builds the copy's native module."""
    target = Path(os.environ.get("SEGUE_MUTANTS_TARGET", ROOT / "target" / "mutants"))
    # Cargo trusts file times, and every copy lies elsewhere: mark the crates as new.
    for source in (tree / "crates").rglob("*.rs"):
        source.touch()
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target), "RUSTFLAGS": "-Awarnings"}
    command = ["cargo", "build", "-q", "-p", "segue-native", "--features", "pyo3/extension-module"]
    subprocess.run(command, cwd=tree, env=environment, check=True)
    shutil.copy2(target / "debug" / "lib_native.so", tree / NATIVE)


def _run_seeds(tree: Path, start: int, seeds: int, jobs: int) -> str:
    return _python(
        tree, ["-m", "segue.sim", f"--seeds={seeds}", f"--start={start}", f"--jobs={jobs}"]
    )


def _python(tree: Path, arguments: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree / "python")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
