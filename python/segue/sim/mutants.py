"""``python -m segue.sim.mutants``: breaks the production code and sees each break caught.

Every `Mutation` of `mutations.py` is a textual patch.  For each, the tree is copied to a temporary
folder, the patch applied there, the native module built if the patch is in Rust (in a target folder
of its own, kept between runs), and the scripted incidents are run until one fails.  A mutation that
none catches is an error, whatever seeds make of it: those draw other worlds after the next change.
So is a patch whose text is not found exactly once: it must be brought up to date.

With ``--seeds`` it counts instead how many of so many drawn worlds catch each: how far chance goes.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from segue.sim.mutations import MUTATIONS, Mutation

ROOT = Path(__file__).resolve().parents[3]
COPIED = ("python", "tests/sim", "crates", "Cargo.toml", "Cargo.lock", "pyproject.toml")
INCIDENTS = tuple(
    f"tests/sim/test_{name}.py"
    for name in (
        "incidents",
        "flushes",
        "fences",
        "blocks",
        "movement",
        "failing_copies",
        "disks",
        "missing",
        "verbs",
    )
)
NATIVE = Path("python/segue/_native.abi3.so")
BUILDING = threading.Lock()
"""All builds use one target folder."""


class Unusable(Exception):
    """The patch no longer applies, or what it leaves does not run at all."""


def main() -> int:
    """Runs all mutations, or those named."""
    parser = argparse.ArgumentParser(prog="python -m segue.sim.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutations to run (default: all)")
    parser.add_argument("--seeds", type=int, default=0, help="count how many of so many seeds fail")
    parser.add_argument("--start", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="mutations at a time (default 1)")
    parser.add_argument("--list", action="store_true", help="only name them")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if not options.names or m.name in options.names]
    missing = set(options.names) - {m.name for m in chosen}
    if missing:
        parser.error(f"no mutation is called {', '.join(sorted(missing))}")
    if options.list:
        for mutation in chosen:
            print(f"{mutation.name:44} {mutation.path}")
        return 0
    if found := _incident_that_fails(ROOT):
        print(f"without any mutation: {found}")
        return 1
    with ThreadPoolExecutor(options.jobs) as pool:
        caught = list(pool.map(partial(_is_caught, options), chosen))
    bad = [m.name for m, was_caught in zip(chosen, caught, strict=True) if not was_caught]
    print(f"{len(chosen) - len(bad)} of {len(chosen)} mutations caught")
    if bad:
        print(f"NOT CAUGHT: {', '.join(bad)}")
    return 1 if bad else 0


def _is_caught(options: argparse.Namespace, mutation: Mutation) -> bool:
    """Whether the mutation is caught; prints by what."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="segue-mutant-") as folder:
        tree = Path(folder)
        try:
            _copy_tree(tree)
            _apply(mutation, tree)
            if mutation.path.startswith("crates/"):
                _build(tree)
            found = _seeds_that_fail(tree, options) if options.seeds else _incident_that_fails(tree)
        except (Unusable, subprocess.CalledProcessError) as error:
            print(f"{mutation.name:44} ERROR: {error}", flush=True)
            return False
    took = f"{time.monotonic() - began:.0f} s"
    print(f"{mutation.name:44} {took}: {found or 'SURVIVED'}", flush=True)
    return bool(found)


def _incident_that_fails(tree: Path) -> str:
    """The first incident that fails there, and why; empty if none does.

    No source is shown: pytest parses it for that, and coroutines of dead worlds that are collected
    meanwhile break that in CPython 3.11, pytest with it, and the failure is told of nowhere.
    """
    options = ("-q", "-x", "--tb=native", "-p", "no:cacheprovider")
    report = _python(tree, ["-m", "pytest", *options, *INCIDENTS])
    if found := re.search(r"^FAILED tests/sim/(.*)$", report, re.MULTILINE):
        return found[1]
    if re.search(r"^\d+ passed", report, re.MULTILINE) and "INTERNALERROR" not in report:
        return ""
    raise Unusable(f"no incident runs:\n{report[-2000:]}")


def _seeds_that_fail(tree: Path, options: argparse.Namespace) -> str:
    """How many of the seeds asked for fail there; empty if none does."""
    seeds = f"--seeds={options.seeds}", f"--start={options.start}"
    report = _python(tree, ["-m", "segue.sim", "--keep-going", *seeds])
    failed = len(re.findall(r"^seed \d+ FAILED: ", report, re.MULTILINE))
    return f"{failed} of {options.seeds} seeds" if failed else ""


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
        raise Unusable(f"its text occurs {found} times in {mutation.path}: bring it up to date")
    path.write_text(text.replace(mutation.old, mutation.new))


def _build(tree: Path) -> None:
    """Builds the copy's native module."""
    with BUILDING:
        _build_alone(tree)


def _build_alone(tree: Path) -> None:
    target = Path(os.environ.get("SEGUE_MUTANTS_TARGET", ROOT / "target" / "mutants"))
    # Cargo trusts file times, and every copy lies elsewhere: mark the crates as new.
    for source in (tree / "crates").rglob("*.rs"):
        source.touch()
    environment = {**os.environ, "CARGO_TARGET_DIR": str(target), "RUSTFLAGS": "-Awarnings"}
    command = ["cargo", "build", "-q", "-p", "segue-native", "--features", "pyo3/extension-module"]
    subprocess.run(command, cwd=tree, env=environment, check=True)
    shutil.copy2(target / "debug" / "lib_native.so", tree / NATIVE)


def _python(tree: Path, arguments: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree / "python"), "COLUMNS": "160"}
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
