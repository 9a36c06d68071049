"""E3: what an event of the simulator costs, and whether one seed has one trace (decision 0003).

Prints, each for the same seeds:

loop        handles a second of the virtual loop alone (tasks that only yield), beside asyncio's own
engine      one host I/O at the native engine under PyO3, effects and events included
whole       events and seeds a second of drawn worlds, with every checker, and without
traces      digests of the seeds in two interpreter processes with other hash seeds
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable

from segue import _native
from segue.sim.checks import Checks
from segue.sim.loop import SECOND, World
from segue.sim.scenario import run_seed
from segue.wire.messages import ContainerSpec, EntryRun, NewTable, SetEntry

TURNS = 20_000


async def turns(count: int) -> None:
    """Yields so often."""
    for _ in range(count):
        await asyncio.sleep(0)


def loop_cost() -> None:
    """Four tasks that yield: virtual loop, then asyncio's."""
    world = World(1)
    tasks = [world.process(f"p{i}").run(turns(TURNS // 4)) for i in range(4)]
    began = time.perf_counter()
    world.run_until(lambda: all(task.done() for task in tasks), 3600 * SECOND)
    virtual_us = 1e6 * (time.perf_counter() - began) / TURNS

    async def together() -> None:
        await asyncio.gather(*(turns(TURNS // 4) for _ in range(4)))

    began = time.perf_counter()
    asyncio.run(together())
    real_us = 1e6 * (time.perf_counter() - began) / TURNS
    print(f"loop    {virtual_us:.2f} us a handle; asyncio's own {real_us:.2f}")


def engine_cost() -> None:
    """A clean 4 KiB write: host_io, its effect, piece_done, its reply."""
    engine = _native.Engine(park_limit_bytes=1 << 20)
    spec = ContainerSpec(1, "sim://m", b"i" * 16, 65536, 16, "page", 1)
    engine.deliver(0, NewTable(1, 1, 1 << 20, 65536, 4096, False, [spec]))
    engine.deliver(0, SetEntry(2, 1, [EntryRun(0, 16, 1 << 63 | 1 << 44, 1)], False))
    engine.set_lease(0, 1 << 60)
    engine.effects(), engine.events()
    began = time.perf_counter()
    for token in range(1, TURNS + 1):
        engine.host_io(0, token, 1, "write", 4096, 4096)
        piece = engine.effects()[0][1]
        engine.piece_done(0, piece, 0)
        engine.effects()
        engine.events()
    print(f"engine  {1e6 * (time.perf_counter() - began) / TURNS:.2f} us a host I/O of 5 calls")


def whole_cost(seeds: range) -> None:
    """Drawn worlds."""

    def nothing(self: Checks, *args: object) -> None:
        pass

    def run(label: str) -> None:
        began = time.process_time()
        outcomes = [run_seed(seed) for seed in seeds]
        took = time.process_time() - began
        events, ios = sum(o.steps for o in outcomes), sum(o.host_ios for o in outcomes)
        print(
            f"whole   {label}: {1e6 * took / events:.1f} us an event, {1e3 * took / ios:.2f} ms a "
            f"host I/O, {len(seeds) / took:.1f} seeds a second of CPU, {events} events"
        )

    run("every rule checked")
    skipped = (
        "_check_entries",
        "_committed",
        "_request_starts",
        "check_lost",
        "check_owners",
    )
    kept: dict[str, Callable[..., None]] = {name: getattr(Checks, name) for name in skipped}
    for name in skipped:
        setattr(Checks, name, nothing)
    run("rules 3 to 12 not looked at")
    for name, method in kept.items():
        setattr(Checks, name, method)


def traces(seeds: range) -> None:
    """The same seeds under other hash seeds."""
    found = []
    for hash_seed in ("1", "77"):
        command = [sys.executable, "-m", "segue.sim", "--digest", "--keep-going"]
        done = subprocess.run(
            [*command, f"--seeds={len(seeds)}", f"--start={seeds.start}"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=False,
        )
        found.append([line for line in done.stdout.splitlines() if line.startswith("seed ")])
    verdict = "the same" if found[0] == found[1] else "THEY DIFFER"
    print(f"traces  {len(found[0])} seeds in two processes: {verdict}")


def main() -> None:
    """Runs all four."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=60)
    options = parser.parse_args()
    seeds = range(500, 500 + options.seeds)
    loop_cost()
    engine_cost()
    whole_cost(seeds)
    traces(seeds)


if __name__ == "__main__":
    import logging

    logging.disable(logging.CRITICAL)
    main()
