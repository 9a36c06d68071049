"""``python -m segue.sim``: run seeds, say what was met in them, fail if a rule was broken.

Exit 0 if every seed passed and, with ``--require-coverage`` or at least 1,000 seeds, every fault,
crash point and outcome of `REQUIRED` was met; 1 otherwise; 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import functools
import logging
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from segue.sim.crash_points import AGENT_POINTS, CONTROLLER_POINTS, FAILPOINTS, LINK_POINTS, SELDOM
from segue.sim.faults import KINDS
from segue.sim.scenario import Outcome, run_seed

BATCH = 20
"""Seeds at a time beyond those asked for."""
AIMED = 1000
"""At most so many for one failpoint: of 200, 4 to 136 came there, but for those `SELDOM` met."""

FAILPOINT = "crash point failpoint "
REQUIRED = (
    *(f"fault {kind}" for kind in KINDS if not kind.startswith("ambush")),
    *(f"crash point controller: {point}" for point in CONTROLLER_POINTS),
    *(f"{FAILPOINT}{point}" for point in FAILPOINTS if point not in SELDOM),
    *(f"crash point agent: {point}" for point in AGENT_POINTS),
    *(f"crash point link: {point}" for point in LINK_POINTS),
    "crash point stuck write",
    "crash point agent lost",
    "crash point flush failure untold",
    "crash point power: writes under way",
    "crash point power: append",
    "crash point power: flush",
    "power loss",
    "faults",
    "clean I/O",
    "lease expired",
    "lease expired with I/O under way",
    "agent paused past its lease",
    "agent crashed with I/O under way",
    "welcomed as lost",
    "cut lost messages",
    "fence: lock gone",
    "fence: sessions ended",
    "fence: shut out for good",
    "fence: none, ended all the same",
    "declared dead",
    "operator linger",
    "allocated clean",
    "allocated incomplete",
    "do_write committed",
    "completed",
    "movement begun",
    "movement ended",
    "movement ended after writes",
    "movement abandoned",
    "copied hints",
    "disk created",
    "disk renamed",
    "disk deleted",
    "table deleted with I/O under way",
    "disk deleted while it moves",
    "disk deleted incomplete",
    "disk deleted under a lost agent",
    "disk taken from a lost agent",
    "fault missing_container",
    "crash point extra incomplete",
    "create known by a newer term",
    "rename known by a newer term",
    "delete known by a newer term",
    "create refused",
    "rename refused",
    "host found its disk gone",
    "host opened another disk",
    "jobs done",
    "jobs cancelled",
    "read-merge-write",
    "container_failed",
    "listed waiting",
    "listed running",
    "listed done",
    "checkpoints",
    "host read",
    "host write",
    "host zero",
    "host trim",
    "host flush",
    "host status",
    "host sent again",
    "host given up",
)
"""What no campaign may miss."""


def main() -> int:
    """Parses arguments and runs."""
    parser = argparse.ArgumentParser(prog="python -m segue.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds (default 100)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seed", type=int, help="run this one seed only")
    parser.add_argument("--aim", default="", help="a failpoint at which controllers or agents die")
    parser.add_argument("--trace", action="store_true", help="print every event (with --seed)")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at a failing seed")
    parser.add_argument("--digest", action="store_true", help="print each seed's trace digest")
    parser.add_argument("--require-coverage", action="store_true", help="fail if something is 0")
    options = parser.parse_args()
    if options.aim not in ("", *FAILPOINTS):
        parser.error(f"there is no failpoint {options.aim!r}")
    if not options.trace:
        logging.disable(logging.CRITICAL)
    if options.seed is not None:
        return _one(options.seed, options.trace, options.aim)
    return _many(options)


def _one(seed: int, trace: bool, aim: str) -> int:
    if trace:
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    outcome = run_seed(seed, print if trace else None, aim)
    if outcome.failure and not trace:
        print("\n".join(outcome.tail))
    _print_table(Counter(outcome.counts), 1)
    print(f"seed {seed}: {outcome.failure or 'passed'}")
    print(f"digest {outcome.digest}, {outcome.steps} events, {outcome.world_ns / 1e9:.1f} s inside")
    return 1 if outcome.failure else 0


def _many(options: argparse.Namespace) -> int:
    began = time.monotonic()
    counts: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    total = Outcome(0)
    failed: list[int] = []
    ran = 0
    for outcome in _seeds(options, counts):
        ran += 1
        counts.update(outcome.counts)
        seen.update(what for what, count in outcome.counts.items() if count)
        total.single += outcome.single
        total.checked += outcome.checked
        total.steps += outcome.steps
        total.host_ios += outcome.host_ios
        if options.digest:
            print(f"seed {outcome.seed} {outcome.digest}", flush=True)
        if outcome.failure:
            failed.append(outcome.seed)
            print(f"seed {outcome.seed} FAILED: {outcome.failure}")
            aim = f" --aim {outcome.aim}" if outcome.aim else ""
            print(f"  replay: python -m segue.sim --seed {outcome.seed}{aim} --trace", flush=True)
            if not options.keep_going:
                break
    _print_table(counts, ran)
    took = time.monotonic() - began
    print(
        f"{ran} seeds in {took:.1f} s ({ran / took:.1f} a second): {total.host_ios} host I/Os, "
        f"{total.steps} events checked"
    )
    if total.checked:
        share = 100 * total.single / total.checked
        print(f"sectors read with exactly one allowed value: {share:.2f} % of {total.checked}")
    missing = [what for what in REQUIRED if not counts[what]]
    if missing:
        print(f"never met: {', '.join(missing)}")
    print(f"{len(failed)} seeds failed" if failed else "all passed")
    return 1 if failed or (missing and _must_meet_all(options)) else 0


def _must_meet_all(options: argparse.Namespace) -> bool:
    return bool(options.require_coverage or options.seeds >= 1000)


def _seeds(options: argparse.Namespace, counts: Counter[str]) -> Iterator[Outcome]:
    """The seeds asked for; where everything must be met, then others until it is.

    Those are aimed at one failpoint after another, `AIMED` at most at each; for the rest as many
    again as were asked for.
    """
    end = options.start + options.seeds
    yield from _outcomes(range(options.start, end), options.jobs, options.aim)
    if not _must_meet_all(options):
        return
    for what in REQUIRED:
        aim = what.removeprefix(FAILPOINT) if what.startswith(FAILPOINT) else ""
        last = end + (AIMED if aim else options.seeds)
        for first in range(end, last, BATCH):
            if counts[what]:
                break
            yield from _outcomes(range(first, first + BATCH), options.jobs, aim)


def _outcomes(seeds: Iterable[int], jobs: int, aim: str) -> Iterator[Outcome]:
    run = functools.partial(run_seed, aim=aim)
    if jobs <= 1:
        yield from map(run, seeds)
        return
    with multiprocessing.Pool(jobs) as pool:
        yield from pool.imap_unordered(run, seeds, chunksize=4)


def _print_table(counts: Counter[str], seeds: int) -> None:
    print(f"{'per 1,000 seeds':>16}")
    for what in sorted(counts):
        print(f"{counts[what] * 1000 / seeds:16.0f}  {what}")


if __name__ == "__main__":
    sys.exit(main())
