"""Incidents that a review thought up: each was red on the code of its day."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import msgspec

from segue import failpoints
from segue.controller.procedures.job_verbs import cancel_job, move_disk
from segue.controller.procedures.remove_container import remove_container
from segue.sim.host import EIO
from segue.sim.loop import SECOND
from segue.sim.stage import DiskPlan, Stage
from tests.sim.stories import SEGMENT, Build, done, end, through
from tests.sim.test_movement import SLOW, TWO, ask, medium, no_job, resized, written


def run(s: Stage, verb: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    return s.office.terms[-1].process.run(verb)


def test_a_disk_does_not_join_a_container_that_is_leaving(stage: Build) -> None:
    """The job of an empty disk waits for its flush set while the container goes."""
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
        removed = run(s, remove_container(c, "m1"))
        s.wait(removed.done, "nothing comes of the removal")
    s.wait(lambda: no_job(s), "the job does not end")
    assert 2 not in c.table.disks[1].containers
    end(s)


def test_a_hint_that_is_being_committed_is_doubted_as_well(stage: Build) -> None:
    """A write over a block goes wrong while the block's copied bit is on its way to the store."""
    for seed in range(8):
        hints = msgspec.structs.replace(SLOW, copy_hint_bytes=4096)
        s = stage(seed=seed, media=TWO, errors_allowed=True, settings=hints)
        host, other = through(s, 0), through(s, 1)
        written(s, host, 1)
        assert done(s, other, "read", 0, 8) == 0
        ask(s, move_disk, "vd0", "m1", bandwidth=50_000)
        s.wait(lambda s=s: bool(s.controller.table.records), "nothing moves")
        [record] = s.controller.table.records.values()

        def fail(*kinds: str, s: Stage = s) -> None:
            medium(s, 1).failing = frozenset(kinds)
            medium(s, 1).failure_odds = 1.0
            medium(s, 1).fail_until_ns = s.world.now_ns + 100 * SECOND

        fail("write")
        assert done(s, host, "write", SEGMENT - 8, 8) == EIO, "it closes the source"
        medium(s, 1).heal()
        tried: list[Any] = []

        def passed(point: str, s: Stage = s, tried: list[Any] = tried, host=host) -> None:
            if point == "complete.hints_flushed" and not tried:
                s.store.slow_until_ns = s.world.now_ns + SECOND
                fail("write", s=s)
                [record] = s.controller.table.records.values()
                block = (record.fresh & -record.fresh).bit_length() - 1
                tried.extend((block, host.do("write", 8 * block, 8)))

        with failpoints.watched(passed):
            s.wait(lambda tried=tried: bool(tried) and tried[1].done(), "no write")
        block = tried[0]
        s.store.slow_until_ns = 0
        s.wait(lambda r=record, b=block: bool(r.copied >> b & 1), "no hint")
        assert done(s, other, "read", 8 * block, 8) == 0
        ask(s, cancel_job, 1)
        s.wait(lambda s=s: no_job(s) or s.world.now_ns > 60 * SECOND, "the job does not end")
        assert done(s, other, "read", 8 * block, 8) == 0
        medium(s, 1).heal()
        end(s)


def test_a_block_copied_before_a_failed_flush_is_not_kept_by_growing(stage: Build) -> None:
    """Its copy may be lost, and growing writes down for good that it is there (rule 6)."""
    for seed in range(6):
        s = stage(
            seed=seed,
            media=TWO,
            disks=[DiskPlan(sectors=64)],
            errors_allowed=True,
            settings=SLOW,
        )
        host = through(s, 0)
        assert done(s, host, "write", 0, 64) == 0
        assert done(s, host, "flush") == 0
        medium(s, 0).failing = frozenset({"read"})
        medium(s, 0).failure_odds = 1.0
        medium(s, 0).fail_until_ns = s.world.now_ns + 100 * SECOND
        reads = medium(s, 0).under_way
        ask(s, move_disk, "vd0", "m1")
        s.wait(
            lambda reads=reads: any(r.tag == ("copy",) for r in reads.values()), "nothing is copied"
        )
        medium(s, 0).heal()
        c = s.controller
        s.wait(lambda c=c: bool(c.background.trouble), "the first block was copied all the same")
        [record] = c.table.records.values()
        assert record.fresh == 0xFE, "all others were"
        medium(s, 1).failing = frozenset({"flush"})
        medium(s, 1).failure_odds = 1.0
        medium(s, 1).fail_until_ns = s.world.now_ns + 100 * SECOND
        flushed = run(s, c.flushes.flush(2))
        s.wait(flushed.done, "another extent's flush, or the cleaner's, does not end")
        assert flushed.exception() is not None
        medium(s, 1).heal()
        s.world.run_for(SECOND // 20)
        resized(s, SEGMENT)
        s.wait(lambda s=s: no_job(s), "the job does not end")
        s.lose_power()
        end(s)
