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
from segue.sim.stage import DiskPlan, MediumPlan, Stage, settings
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
