"""Incidents of containers that a controller is started without (`Settings.without`)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from segue.controller.ports import Stamp
from segue.controller.procedures.job_verbs import drain_container, move_disk
from segue.controller.procedures.remove_container import remove_container
from segue.controller.procedures.resize import resize_disk
from segue.controller.procedures.verbs import Refusal, create_disk, delete_disk
from segue.sim.containers import SECTOR_BYTES, Holder
from segue.sim.host import EIO, ENOSPC, ESHUTDOWN, LOST, Host
from segue.sim.loop import SECOND
from segue.sim.stage import DiskPlan, MediumPlan, Stage
from tests.sim.stories import SEGMENT, done, end, through
from tests.sim.test_movement import ask, lies, medium, moving, no_job, written

Build = Callable[..., Stage]


def two_disks(stage: Build, **changes: object) -> tuple[Stage, Host]:
    """vd0 on m0, served by the first agent; vd1 on m1, served by the second, to that host."""
    disks = [DiskPlan(sectors=6 * SEGMENT), DiskPlan(sectors=6 * SEGMENT)]
    s = stage(media=[MediumPlan(segments=5), MediumPlan(segments=12)], disks=disks, **changes)
    assert done(s, through(s, 0), "write", 0, 8) == 0
    ask(s, move_disk, "vd0", "m0")
    s.wait(lambda: no_job(s), "vd0 is not moved")
    there = through(s, 1, "other", disk=1)
    assert done(s, there, "write", 0, 8) == 0
    ask(s, move_disk, "vd1", "m1")
    s.wait(lambda: no_job(s), "vd1 is not moved")
    assert lies(s) == {1: 1, 2: 1}
    return s, there


def restart(s: Stage, *, agents: bool = True) -> None:
    """Everything is killed, m1 is not found any more, everything is started."""
    medium(s, 1).missing_until_ns = 1 << 60
    for number, machine in enumerate(s.machines if agents else []):
        s.agent(number).process.kill()
        machine.boot_when_over()
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    assert s.controller.missing(2)


def found(s: Stage) -> None:
    """m1 is there again."""
    medium(s, 1).missing_until_ns = 0


def test_only_the_disks_of_a_missing_container_wait_for_it(stage: Build) -> None:
    s, _ = two_disks(stage)
    restart(s)
    here, there = through(s, 0, "h"), through(s, 1, "other", disk=1)
    read = there.do("read", 0, 8)
    for segment in range(5):
        assert done(s, here, "write", segment * SEGMENT, 8) == 0
    assert done(s, here, "write", 5 * SEGMENT, 8) == ENOSPC, "there is no other place"
    s.world.run_for(3 * SECOND)
    assert not read.done()
    assert lies(s) == {1: 5, 2: 1}
    found(s)
    s.wait(read.done, "vd1 is not opened")
    assert read.result() == 0
    end(s)


def test_an_agent_that_has_it_open_goes_on(stage: Build) -> None:
    """A controller's restart takes nothing from hosts that a file they have open did not."""
    s, host = two_disks(stage)
    restart(s, agents=False)
    assert done(s, host, "write", 0, 8) == 0
    assert done(s, host, "flush") == 0
    found(s)
    end(s)


def test_a_new_disk_begins_elsewhere(stage: Build) -> None:
    """It could not be opened there."""
    s, _ = two_disks(stage)
    restart(s)
    ask(s, create_disk, "new", 2 * SEGMENT * SECTOR_BYTES)
    assert s.controller.table.disks[3].containers == [1], "m1 has more room"
    ask(s, delete_disk, "new")
    ask(s, drain_container, "m0")
    with pytest.raises(Refusal, match="container m1 is missing"):
        ask(s, create_disk, "new", 2 * SEGMENT * SECTOR_BYTES)
    found(s)
    end(s)


def test_draining_it_is_no_failed_flush(stage: Build) -> None:
    s, _ = two_disks(stage)
    restart(s, agents=False)
    ask(s, drain_container, "m1")
    s.wait(lambda: bool(s.controller.background.trouble), "nothing is tried")
    assert not s.controller.table.disks[2].failed
    found(s)
    s.wait(lambda: no_job(s), "the job does not end")
    assert lies(s) == {1: 2}
    end(s)


def test_an_agent_alone_does_not_find_it(stage: Build) -> None:
    """The controller has it open; nobody is told that there is no such disk (seed 7400141)."""
    s, _ = two_disks(stage)
    medium(s, 1).missing_until_ns = 1 << 60
    s.agent(1).process.kill()
    s.machines[1].boot_when_over()
    read = through(s, 1, "other", disk=1).do("read", 0, 8)
    s.world.run_for(3 * SECOND)
    assert not read.done()
    found(s)
    s.wait(read.done, "vd1 is not opened")
    assert read.result() == 0
    end(s)


def test_a_note_in_it_is_heard_of_before_its_disk_is_opened(stage: Build) -> None:
    """Promise P5: whoever was told that a flush failed there has died."""
    s, _ = two_disks(stage, errors_allowed=True)
    restart(s)
    there = through(s, 1, "other", disk=1)
    flush = there.do("flush")
    medium(s, 1).leave_note(Holder(s.office.terms[-1].process, 7, "a dead one"), EIO)
    found(s)
    s.wait(flush.done, "vd1 is not opened")
    assert flush.result() == EIO
    end(s)


def test_what_is_newer_than_the_store_is_found_out_before_its_disk_is_opened(stage: Build) -> None:
    """Promise P7: an old copy of the store was put back while the container was away."""
    s, _ = two_disks(stage)
    restart(s, agents=False)
    through(s, 0, "new", disk=1).do("read", 0, 8)
    tried = s.controller.unreached[2]
    # Right after a look of the controller's: until the next one it is there for agents alone.
    s.wait(lambda: s.controller.unreached[2] is not tried, "it is not looked for again")
    s.office.autostart = False
    medium(s, 1).stamped = Stamp(s.controller.term + 1, 0)
    found(s)
    process = s.office.terms[-1].process
    s.wait(lambda: not process.alive, "the term goes on")
    assert s.checks.tables(s.agent(0).plane) == [1]


def test_storage_that_is_gone_for_good_is_removed(stage: Build) -> None:
    """When nothing lies there any more, whatever a lost agent or the cleaner had there."""
    s, _ = two_disks(stage)
    with pytest.raises(Refusal, match="is there: it is not lost"):
        ask(s, remove_container, "m1", lost=True)
    restart(s)
    with pytest.raises(Refusal, match="holds 1 segments of data"):
        ask(s, remove_container, "m1", lost=True)
    s.admin.disks.delete([s.oracles[1]])
    s.wait(lambda: not s.admin.busy, "vd1 is not deleted")
    with pytest.raises(Refusal, match="is away"):
        ask(s, remove_container, "m1")
    ask(s, remove_container, "m1", lost=True)
    assert list(s.controller.table.containers) == [1]
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    assert not s.controller.unreached
    end(s)


def test_a_dead_agents_other_disks_do_not_wait_for_the_missing_one(stage: Build) -> None:
    """Its lock is gone where vd0 lies; where vd1 lies nobody can look."""
    s, _ = two_disks(stage)
    there = through(s, 0, "there", disk=1)
    assert done(s, there, "write", 8, 8) == 0
    restart(s)
    again = there.do("read", 8, 8)
    assert done(s, through(s, 0, "new"), "write", 8, 8) == 0
    s.world.run_for(3 * SECOND)
    assert not again.done()
    found(s)
    s.wait(again.done, "vd1 is not opened")
    end(s)


@pytest.mark.parametrize("agents", [True, False])
def test_a_disk_left_incomplete_there_is_deleted(stage: Build, agents: bool) -> None:
    """Nobody will ever know whether older copiers have ended there, nor will hosts that wait."""
    s, host = two_disks(stage)
    written(s, host)
    ask(s, move_disk, "vd1", "m0", bandwidth=100_000)
    s.wait(lambda: moving(s), "nothing is moved")
    restart(s, agents=agents)
    ios = [] if agents else [host.do(op, 0, SEGMENT) for op in ("write", "trim")]
    s.world.run_for(5 * SECOND)
    assert s.controller.inherited and not any(io.done() for io in ios)
    with pytest.raises(Refusal, match="on storage that is away"):
        ask(s, resize_disk, "vd1", 7 * SEGMENT * SECTOR_BYTES)
    if not agents:
        with pytest.raises(Refusal, match="is in use"):
            ask(s, delete_disk, "vd1")
    s.admin.disks.delete([s.oracles[1]])
    s.wait(lambda: not s.admin.busy, "vd1 is not deleted")
    s.wait(lambda: all(io.done() for io in ios), "a host waits for good")
    assert {io.result() for io in ios} <= {ESHUTDOWN, LOST}
    assert not s.controller.inherited
    # What is freed elsewhere waits for those copiers, over another term's start.
    quarantine = s.controller.table.quarantine
    assert quarantine and all(s.controller.table.fences.keys() & h for h in quarantine.values())
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    s.world.run_for(2 * SECOND)
    assert s.controller.table.quarantine
    ask(s, remove_container, "m1", lost=True)
    assert list(s.controller.table.containers) == [1]
    end(s)
