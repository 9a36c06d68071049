"""Movement whose bits are on their way: what a failure in that moment must not make of them.

Each was thought up by a reviewer, and was red on the code of its day.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from segue import failpoints
from segue.controller.procedures.job_verbs import cancel_job, move_disk
from segue.controller.procedures.remove_container import remove_container
from segue.controller.record import Record
from segue.sim.host import EIO
from segue.sim.loop import MS, SECOND
from segue.sim.stage import DiskPlan, Stage
from tests.sim.stories import SEGMENT, Build, done, end, through
from tests.sim.test_movement import SLOW, TWO, ask, medium, no_job, records, resized, written


def fails(stage: Stage, number: int, kind: str) -> None:
    """From now on, until `Medium.heal`, every such request of that container fails."""
    place = medium(stage, number)
    place.failing = frozenset({kind})
    place.failure_odds = 1.0
    place.fail_until_ns = stage.world.now_ns + 100 * SECOND


def test_a_disk_does_not_join_a_container_that_is_leaving(stage: Build) -> None:
    """The job of an empty disk waits for its flush set while the container goes (rule 4)."""
    s = stage(media=TWO)
    host = through(s, 0)
    assert done(s, host, "read", 0, 8) == 0
    c, key = s.controller, ("containers", 1)
    assert c.locks.try_acquire(key, exclusive=True), "an attach holds it for a commit, say"
    ask(s, move_disk, "vd0", "m1")
    s.wait(lambda: "1 waiting" in str(c.locks.state(key)), "the job does not wait")

    def passed(point: str) -> None:
        if point == "remove.flushed":
            c.locks.release(key, exclusive=True)

    with failpoints.watched(passed):
        ask(s, remove_container, "m1")
    s.wait(lambda: no_job(s), "the job does not end")
    assert 2 not in c.table.disks[1].containers
    end(s)


@pytest.mark.parametrize("seed", range(4))
def test_a_hint_that_is_being_committed_is_doubted_as_well(stage: Build, seed: int) -> None:
    """A write over a block goes wrong while the block's copied bit is on its way to the store.

    What may be of that write was read at the new location, so the movement cannot be given up.
    """
    s = stage(
        seed=seed,
        media=TWO,
        errors_allowed=True,
        settings=msgspec.structs.replace(SLOW, copy_hint_bytes=4096),
    )
    host, other = through(s, 0), through(s, 1)
    written(s, host, 1)
    assert done(s, other, "read", 0, 8) == 0
    ask(s, move_disk, "vd0", "m1", bandwidth=50_000)
    s.wait(lambda: bool(records(s)), "nothing moves")
    [record] = records(s)
    fails(s, 1, "write")
    assert done(s, host, "write", SEGMENT - 8, 8) == EIO, "it closes the source"
    medium(s, 1).heal()
    tried: list[tuple[int, asyncio.Task[int]]] = []

    def passed(point: str) -> None:
        if point == "complete.hints_flushed" and not tried:
            s.store.slow_until_ns = s.world.now_ns + SECOND
            fails(s, 1, "write")
            block = lowest(record.fresh)
            tried.append((block, host.do("write", 8 * block, 8)))

    with failpoints.watched(passed):
        s.wait(lambda: bool(tried) and tried[0][1].done(), "no write")
    block = tried[0][0]
    s.store.slow_until_ns = 0
    s.wait(lambda: bool(record.copied >> block & 1), "no hint")
    assert done(s, other, "read", 8 * block, 8) == 0
    ask(s, cancel_job, 1)
    s.wait(lambda: no_job(s) or s.world.now_ns > 60 * SECOND, "the job does not end")
    assert done(s, other, "read", 8 * block, 8) == 0
    medium(s, 1).heal()
    end(s)


def lowest(bits: int) -> int:
    """The number of the lowest bit that is set."""
    return (bits & -bits).bit_length() - 1


@pytest.mark.parametrize("seed", range(4))
def test_a_block_copied_before_a_failed_flush_is_not_kept_by_growing(
    stage: Build, seed: int
) -> None:
    """Its copy may be lost, and growing writes down for good that it is there (rule 6)."""
    s = stage(
        seed=seed, media=TWO, disks=[DiskPlan(sectors=64)], errors_allowed=True, settings=SLOW
    )
    host = through(s, 0)
    assert done(s, host, "write", 0, 64) == 0
    assert done(s, host, "flush") == 0
    record = all_but_the_first_copied(s)
    assert record.fresh == 0xFE
    fails(s, 1, "flush")
    flushed = s.office.terms[-1].process.run(s.controller.flushes.flush(2))
    s.wait(flushed.done, "another extent's flush, or the cleaner's, does not end")
    assert flushed.exception() is not None
    medium(s, 1).heal()
    s.world.run_for(50 * MS)
    resized(s, SEGMENT)
    s.wait(lambda: no_job(s), "the job does not end")
    s.lose_power()
    end(s)


def all_but_the_first_copied(s: Stage) -> Record:
    """Begins to move the disk; reading the source fails at first.  Its record."""
    fails(s, 0, "read")
    ask(s, move_disk, "vd0", "m1")
    reads = medium(s, 0).under_way
    s.wait(lambda: any(r.tag == ("copy",) for r in reads.values()), "nothing is copied")
    medium(s, 0).heal()
    s.wait(lambda: bool(s.controller.background.trouble), "the first block was copied all the same")
    [record] = records(s)
    return record
