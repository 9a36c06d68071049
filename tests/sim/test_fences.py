"""Who is gone, or seems so, and may still have I/O under way: what waits for its end (rules 5, 8).

In most of them a request in a device outlives the lease, or the process, of whoever sent it.
"""

from __future__ import annotations

from collections.abc import Callable

from segue.controller.procedures.remove_container import remove_container
from segue.controller.procedures.verbs import delete_disk
from segue.sim.containers import Request
from segue.sim.host import ENOSPC
from segue.sim.loop import MS, SECOND
from segue.sim.stage import FENCED, DiskPlan, MediumPlan, Stage, settings
from tests.sim.test_incidents import SEGMENT, ask, done, end, medium, through, writing, zeroing
from tests.sim.test_verbs import outcomes

Build = Callable[..., Stage]
TWO_DISKS = [DiskPlan(sectors=2 * SEGMENT), DiskPlan(sectors=2 * SEGMENT)]


def lost_writing(stage: Stage, disk: int = 0) -> Request:
    """a1 is stopped past its lease; a write of its to the first segment stays in the device."""
    host = through(stage, 0, "lost", disk)
    assert done(stage, host, "write", 0, 8) == 0
    host.do("write", 0, 8)
    stage.wait(lambda: writing(stage, commanded=False), "the write has not started")
    [request] = medium(stage).under_way.values()
    request.stuck_until_ns = stage.world.now_ns + 6 * SECOND
    stage.agent(0).process.pause()
    stage.world.run_for(3 * SECOND)
    return request


def written_when_free(stage: Stage) -> int:
    """a2 has no place for the first segment until a1, which goes on, has one less; when."""
    host = through(stage, 1, "next")
    assert done(stage, host, "write", 0, 8) == ENOSPC
    stage.agent(0).process.resume()
    while (errno := done(stage, host, "write", 0, 8)) == ENOSPC:
        stage.world.run_for(50 * MS)
    assert errno == 0
    return stage.world.now_ns


def test_a_disk_is_deleted_while_a_lost_agent_still_writes(stage: Build) -> None:
    """Nobody gets the place where it lay before that write has ended."""
    s = stage(disks=TWO_DISKS, media=[MediumPlan(segments=1)])
    late = lost_writing(s, disk=1)
    ask(s, delete_disk(s.controller, "vd1", force=True))
    assert written_when_free(s) >= late.stuck_until_ns
    s.oracles.pop()
    end(s)


def test_a_disk_is_deleted_while_its_rest_is_being_zeroed(stage: Build) -> None:
    """The deletion waits for the copier's write: it would land on whatever lies there next."""
    s = stage(disks=TWO_DISKS, media=[MediumPlan(segments=1, clean=False)])
    through(s, 0, disk=1).do("write", 3, 2)
    s.wait(lambda: bool(zeroing(s)), "nothing is zeroed")
    [late] = zeroing(s)
    late.stuck_until_ns = s.world.now_ns + 4 * SECOND
    s.admin.disks.delete([s.oracles[1]])
    s.wait(lambda: not s.admin.busy, "the disk is not deleted")
    assert s.world.now_ns >= late.stuck_until_ns
    assert done(s, through(s, 1), "write", 0, 8) == 0
    end(s)


def test_what_waits_for_a_lost_agent_waits_in_the_next_term(stage: Build) -> None:
    """It stands in the checkpoint that the term is begun from: the log before it is gone."""
    s = stage(media=[MediumPlan(segments=1)])
    assert done(s, through(s, 1), "read", 0, 8) == 0
    late = lost_writing(s)
    assert done(s, through(s, 1), "trim", 0, SEGMENT) == 0
    ask(s, s.controller.checkpoint())
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    assert written_when_free(s) >= late.stuck_until_ns
    end(s)


def test_a_container_is_not_removed_under_a_lost_agents_write(stage: Build) -> None:
    """It is empty; its storage is given back when the write into it has ended, not before."""
    s = stage(media=[MediumPlan(segments=4), MediumPlan(segments=4)])
    two = through(s, 1)
    assert done(s, two, "read", 0, 8) == 0
    late = lost_writing(s)
    assert done(s, two, "trim", 0, SEGMENT) == 0
    [refusal] = outcomes(s, remove_container(s.controller, "m0"))
    assert "a lost agent may still write there" in refusal
    s.agent(0).process.resume()
    s.wait(lambda: outcomes(s, remove_container(s.controller, "m0")) == ["ok"], "it is not removed")
    assert s.world.now_ns >= late.stuck_until_ns
    assert done(s, two, "write", 0, 8) == 0
    end(s)


def test_a_lease_runs_from_when_it_was_asked_for(stage: Build) -> None:
    """On a slow network its answer comes late, and the controller has counted all the while."""
    s = stage()
    host, agent = through(s, 0), s.agent(0)
    assert done(s, host, "write", 0, 8) == 0
    s.network.delay_ns = lambda: 150 * MS  # type: ignore[method-assign]
    s.world.run_for(3 * SECOND)
    s.network.partitioned[agent.process.name] = s.world.now_ns + 3 * SECOND
    for wire in list(s.network.wires):
        wire.cut()
    reads = []
    while agent.process.now_ns() < agent.lease_until_ns + 400 * MS:
        reads.append(host.do("read", 0, 8))
        s.world.run_for(20 * MS)
    assert reads[0].done()
    assert not reads[-1].done(), "it is served after the lease"
    end(s)


def test_who_cannot_be_asked_is_waited_for_until_its_lease_is_over(stage: Build) -> None:
    """By its own clock: until then it serves what it was granted, and nobody relies on less."""
    s = stage()
    host, two, agent = through(s, 0), through(s, 1), s.agent(0)
    assert done(s, two, "read", 0, 8) == 0
    assert done(s, host, "write", 0, 8) == 0
    s.world.run_for(SECOND)
    s.network.partitioned[agent.process.name] = s.world.now_ns + 3 * SECOND
    for wire in list(s.network.wires):
        wire.cut()
    trim = two.do("trim", 0, SEGMENT)
    while agent.process.now_ns() < agent.lease_until_ns:
        assert not trim.done()
        host.do("read", 0, 8)
        s.world.run_for(5 * MS)
    s.wait(trim.done, "the trim is not answered")
    assert trim.result() == 0
    end(s)


def test_an_incarnation_that_was_replaced_is_shut_out_for_good(stage: Build) -> None:
    """Its agent is back before its lease is over: nothing but that keeps it from beginning anew."""
    s = stage(media=[MediumPlan(4, place=FENCED)], settings=settings(lease_s=8.0), agents=1)
    [remote] = s.media.values()
    assert done(s, through(s, 0), "write", 0, 8) == 0
    old = s.agent(0)
    old.process.kill()
    s.machines[0].boot()
    assert done(s, through(s, 0, "next"), "write", 0, 8) == 0
    assert old.process.now_ns() < old.lease_until_ns
    assert old.incarnation in remote.shut_out
    end(s)


def test_who_is_replaced_elsewhere_is_waited_for_until_its_lease_is_over(stage: Build) -> None:
    """Shut out of its server it still answers from entries that are zero, as it may until then."""
    plan = settings(lease_s=8.0)
    s = stage(media=[MediumPlan(4, place=FENCED)], settings=plan, agents=1)
    host, old = through(s, 0), s.agent(0)
    assert done(s, host, "write", 0, 8) == 0
    assert done(s, host, "read", 2 * SEGMENT, 8) == 0
    old.process.pause()
    for wire in list(s.network.wires):
        wire.cut()
    s.machines.append(s._machine("a1"))
    s.machines[1].boot()
    write = through(s, 1, "next").do("write", 2 * SEGMENT, 8)
    s.world.run_for(SECOND)
    old.process.resume()
    while old.process.now_ns() < old.lease_until_ns:
        assert not write.done()
        host.do("read", 2 * SEGMENT, 8)
        s.world.run_for(50 * MS)
    s.wait(write.done, "the disk is not opened where its agent is now")
    assert write.result() == 0
    old.process.kill()
    s.machines.pop(0)
    end(s)
