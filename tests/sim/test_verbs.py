"""What operators ask for at the same moment: no commit contradicts another (contradictions.py).

A verb that has looked at a row whose removal is on its way to the store must not name that row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from segue.controller.procedures.declare_dead import set_linger
from segue.controller.procedures.job_verbs import drain_container, fill_container, move_disk
from segue.controller.procedures.remove_container import remove_container
from segue.controller.procedures.resize import resize_disk
from segue.controller.procedures.verbs import (
    Refusal,
    clear_error,
    create_disk,
    delete_disk,
    rename_disk,
)
from segue.sim.containers import SECTOR_BYTES
from segue.sim.host import EIO
from segue.sim.loop import SECOND, US
from segue.sim.stage import DiskPlan, MediumPlan, Stage, settings
from tests.sim.stories import SEGMENT, done, end, medium, through

Build = Callable[..., Stage]
TWO = [MediumPlan(segments=12), MediumPlan(segments=12)]
TWO_DISKS = [DiskPlan(sectors=6 * 128), DiskPlan(sectors=6 * 128)]


def asked(stage: Stage, verb: Coroutine[Any, Any, Any]) -> Callable[[], str]:
    """Asks for something; what it came to: ok, the sentence of a refusal, or nothing yet."""

    async def run() -> str:
        try:
            await verb
        except Refusal as refusal:
            return str(refusal)
        return "ok"

    task = stage.office.terms[-1].process.run(run())
    return lambda: task.result() if task.done() else ""


def outcomes(stage: Stage, *verbs: Coroutine[Any, Any, Any]) -> list[str]:
    """What came of verbs asked for at one moment."""
    asks = [asked(stage, verb) for verb in verbs]
    stage.wait(lambda: all(ask() for ask in asks), "a verb is not answered")
    return [ask() for ask in asks]


@pytest.mark.parametrize("verb", ["rename", "clear-error", "resize", "delete"])
def test_a_disk_is_deleted_and_wanted_at_once(stage: Build, verb: str) -> None:
    s = stage(disks=TWO_DISKS)
    host = through(s, 0, disk=1)
    assert done(s, host, "write", 0, 8) == 0
    medium(s).failing, medium(s).failure_odds = frozenset({"flush"}), 1.0
    medium(s).fail_until_ns = s.world.now_ns + SECOND
    s.watch.errors_expected = True
    assert done(s, host, "flush") == EIO
    medium(s).fail_until_ns = 0
    host.cut()
    c = s.controller
    verbs: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "rename": lambda: rename_disk(c, "vd1", "else"),
        "clear-error": lambda: clear_error(c, "vd1"),
        "resize": lambda: resize_disk(c, "vd1", 1 << 20),
        "delete": lambda: delete_disk(c, "vd1", force=True),
    }
    first, second = outcomes(s, delete_disk(c, "vd1", force=True), verbs[verb]())
    assert (first, second) == ("ok", "no disk is called vd1 any more")
    assert "vd1" not in s.controller.table.disk_names
    s.oracles.pop()
    end(s)


def test_a_name_that_is_another_disks_by_now_is_not_resized(stage: Build) -> None:
    """Who waits for a disk's lock has it, not whatever is called so then."""
    s = stage(disks=TWO_DISKS)
    c, replaced = s.controller, asyncio.Event()

    async def replace() -> None:
        await delete_disk(c, "vd1", force=True)
        await create_disk(c, "vd1", 1 << 18)
        replaced.set()

    async def stand_between() -> None:
        async with c.locks.hold(("disk", 2), exclusive=True):
            await replaced.wait()

    came = outcomes(s, replace(), stand_between(), resize_disk(c, "vd1", 1 << 20))
    assert came == ["ok", "ok", "no disk is called vd1 any more"]
    assert s.controller.table.disks[3].size_bytes == 1 << 18
    s.oracles.pop()
    end(s)


@pytest.mark.parametrize("verb", ["linger", "fill", "move"])
def test_a_container_is_removed_and_wanted_all_the_while(stage: Build, verb: str) -> None:
    quick = msgspec.structs.replace(settings(), stamp_interval_s=100.0)
    s = stage(media=TWO, settings=quick)
    c = s.controller
    assert outcomes(s, drain_container(c, "m1")) == ["ok"]
    s.wait(lambda: not c.jobs.running, "the drain does not end")
    if verb == "move":
        assert outcomes(s, fill_container(c, "m1")) == ["ok"]
    makers: dict[str, Callable[[int], Coroutine[Any, Any, Any]]] = {
        "linger": lambda at: set_linger(c, "m1", 1.0 + at),
        "fill": lambda at: fill_container(c, "m1"),
        "move": lambda at: move_disk(c, "vd0", "m1"),
    }
    removed = asked(s, remove_container(c, "m1"))
    asks: list[Callable[[], str]] = []
    while not removed():
        asks.append(asked(s, makers[verb](len(asks))))
        s.world.run_for(20 * US)
    s.wait(lambda: all(ask() for ask in asks), "a verb is not answered")
    assert removed() == "ok" or "about to be put there" in removed()
    assert len(asks) > 5
    end(s)


def test_a_disk_begins_where_it_is_told_to(stage: Build) -> None:
    """And nothing is made where nothing new is put, or for another pool."""
    s = stage(media=TWO)
    c, size = s.controller, SEGMENT * SECTOR_BYTES
    names = ("m0", "m1", "m0")
    made = outcomes(
        s, *(create_disk(c, f"d{n}", size, container=name) for n, name in enumerate(names))
    )
    assert made == ["ok"] * 3
    begun = [c.table.disks[c.table.disk_names[f"d{n}"]].containers for n in range(3)]
    assert begun == [[1], [2], [1]]
    [drained] = outcomes(s, drain_container(c, "m1"))
    assert drained == "ok"
    assert outcomes(
        s,
        create_disk(c, "d3", size, container="m1"),
        create_disk(c, "d4", size, container="m2"),
        create_disk(c, "d5", size, segment_bytes=1 << 20, container="m0"),
    ) == [
        "container m1 is being drained or removed: nothing new is put there",
        "no container is called m2",
        "container m0 has segments of 64K, not 1M",
    ]
    end(s)
