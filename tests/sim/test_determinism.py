"""One seed, one trace: in any interpreter process, whatever its hash seed."""

import os
import subprocess
import sys

SEEDS = 6


def digests(hash_seed: str) -> list[str]:
    command = [sys.executable, "-m", "segue.sim", f"--seeds={SEEDS}", "--start=40", "--digest"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [*command, "--keep-going"], env=environment, capture_output=True, text=True, check=False
    )
    return [line for line in done.stdout.splitlines() if line.startswith("seed ")]


def test_same_trace_with_another_hash_seed() -> None:
    first, second = digests("1"), digests("4242")
    assert len(first) >= SEEDS
    assert first == second


def test_another_seed_has_another_trace() -> None:
    traces = {line.split()[2] for line in digests("0") if "FAILED" not in line}
    assert len(traces) == SEEDS
