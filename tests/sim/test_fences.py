"""Who is gone, or seems so, and may still have I/O under way: what waits for its end (rules 5, 8).

In most of them a request in a device outlives the lease, or the process, of whoever sent it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from segue.controller.api.waits import stuck
from segue.controller.changes import Detached
from segue.controller.peer import PeerState
from segue.controller.procedures.declare_dead import declare_dead, set_linger
from segue.controller.procedures.job_verbs import move_disk
from segue.controller.procedures.remove_container import remove_container
from segue.controller.procedures.verbs import Refusal, add_container, delete_disk
from segue.sim.containers import SECTOR_BYTES, Request
from segue.sim.host import ENOSPC, LOST
from segue.sim.loop import MS, SECOND
from segue.sim.plane import Part
from segue.sim.stage import FENCED, UNSAID, DiskPlan, MediumPlan, Stage, settings
from tests.sim.stories import SEGMENT, ask, declare, done, end, medium, through, writing, zeroing
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


def unproven(stage: Stage, incarnation: int) -> Callable[[], None]:
    """Has the first container prove no end of this one's I/O, until what it gives is called."""
    place = medium(stage)
    proof = place.fence_ended

    def mend() -> None:
        place.fence_ended = proof  # type: ignore[method-assign]

    place.fence_ended = lambda fence: fence != incarnation and proof(fence)  # type: ignore[method-assign]
    return mend


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


def test_agent_stopped_past_its_lease_with_a_write_under_way(stage: Build) -> None:
    """a1 is stopped while a write is in the kernel; a2 goes on; a1 acknowledges nothing old."""
    s = stage()
    one, two = through(s, 0), through(s, 1)
    assert done(s, one, "write", 0, 8) == 0
    assert done(s, two, "read", 0, 8) == 0
    write = one.do("write", 0, 8)
    s.wait(lambda: writing(s, commanded=False), "the write has not started")
    process = s.agent(0).process
    process.pause()
    s.world.run_for(3 * SECOND)
    assert process.now_ns() > s.agent(0).lease_until_ns
    assert done(s, two, "write", 8, 8) == 0
    trim = two.do("trim", 0, SEGMENT)  # wants a1's lease to be over, and its fence, before reuse
    s.world.run_for(SECOND)
    assert not write.done()
    process.resume()
    s.wait(lambda: write.done() and trim.done(), "something was not answered")
    assert (write.result(), trim.result()) == (0, 0)
    assert s.checks.counts["lease expired"] >= 1
    end(s)


def test_a_lost_agents_disks_go_on_elsewhere_one_by_one(stage: Build) -> None:
    """vd0 lies where a fence proves the end of a1's I/O, vd1 where nothing does."""
    media = [MediumPlan(6, place=FENCED), MediumPlan(6, place=UNSAID)]
    s = stage(media=media, disks=[DiskPlan(6 * SEGMENT), DiskPlan(6 * SEGMENT)])
    apart = [through(s, 0, "a", disk=0), through(s, 0, "b", disk=1)]
    for host in apart:
        assert done(s, host, "write", 0, 8) == 0
    assert [s.controller.table.disks[n].containers for n in (1, 2)] == [[1], [2]]
    process = s.agent(0).process
    process.pause()
    two = [through(s, 1, "c", disk=0), through(s, 1, "d", disk=1)]
    waits = two[1].do("write", 0, 8)
    assert done(s, two[0], "write", 0, 8) == 0
    s.world.run_for(3 * SECOND)
    assert not waits.done()
    again = [host.do("write", 8, 8) for host in apart]
    process.resume()
    s.wait(waits.done, "vd1 is not opened elsewhere")
    s.wait(lambda: all(each.done() for each in again), "a1 does not go on")
    end(s)


def test_a_lost_agent_was_back_for_a_moment_with_a_do_write(stage: Build) -> None:
    """It listed it as running, and died.  When vd0 is taken from it, its blocks go on elsewhere."""
    media = [MediumPlan(12, clean=False, place=FENCED), MediumPlan(12, place=UNSAID)]
    s = stage(media=media, disks=[DiskPlan(6 * SEGMENT), DiskPlan(6 * SEGMENT)])
    assert done(s, through(s, 0, "b", disk=1), "write", 0, 8) == 0
    through(s, 0, "a").do("write", 3, 2)

    def do_writes() -> list[Request]:
        requests = s.media[FENCED.format(0)].under_way.values()
        parts = [r for r in requests if r.kind == "write" and isinstance(r.tag, Part)]
        return [r for r in parts if r.tag.commanded]

    s.wait(lambda: bool(do_writes()), "no do_write has started")
    do_writes()[0].stuck_until_ns = s.world.now_ns + 8 * SECOND
    process = s.agent(0).process
    process.pause()
    s.world.run_for(3 * SECOND)
    process.resume()
    s.wait(lambda: "listed running" in s.checks.counts, "it is not back")
    s.world.run_for(100 * MS)
    process.kill()
    again = through(s, 1, "c").do("write", 3, 2)
    s.wait(lambda: not do_writes(), "the old write does not end")
    s.wait(again.done, "its blocks are kept", limit_ns=5 * SECOND)
    s.wait(lambda: s.is_over(s.agent(0).incarnation), "something of it is under way")
    [lost] = [p for p in s.controller.peers.values() if p.state is PeerState.LOST]
    ended = s.office.terms[-1].process.run(declare_dead(s.controller, f"{lost.incarnation:x}"))
    s.wait(ended.done, "it is not declared dead")
    end(s)


def test_a_trimmed_segments_old_write_does_not_keep_a_disk(stage: Build) -> None:
    """a1 is lost with a write where vd0 lies no more: it lands in quarantine (seed 7000102)."""
    media = [MediumPlan(12, place=FENCED), MediumPlan(12, place=UNSAID)]
    s = stage(media=media, disks=[DiskPlan(6 * SEGMENT)])
    one, two = through(s, 0), through(s, 1)
    assert done(s, one, "write", 0, 8) == 0
    assert done(s, two, "read", 0, 8) == 0
    job = s.office.terms[-1].process.run(move_disk(s.controller, "vd0", "m1", first=0, count=1))
    s.wait(lambda: job.done() and not s.controller.jobs.running, "nothing is moved")
    there = s.media[UNSAID.format(1)]
    one.do("write", 0, 8)
    s.wait(lambda: any(r.kind == "write" for r in there.under_way.values()), "no write")
    [old] = [r for r in there.under_way.values() if r.kind == "write"]
    old.stuck_until_ns = s.world.now_ns + 20 * SECOND
    s.agent(0).process.pause()
    s.world.run_for(2 * SECOND)
    assert done(s, two, "trim", 0, SEGMENT) == 0
    job = s.office.terms[-1].process.run(move_disk(s.controller, "vd0", "m0"))
    s.wait(lambda: s.controller.table.disks[1].containers == [1], "it keeps its flush set")
    s.agent(1).process.kill()
    s.machines[1].boot_when_over()
    assert done(s, through(s, 1, "again"), "write", 0, 8) == 0
    assert s.world.now_ns < old.stuck_until_ns
    s.agent(0).process.resume()
    end(s)


@pytest.mark.parametrize("returns", [True, False])
def test_a_disk_opened_elsewhere_waits_for_a_lost_agents_write(stage: Build, returns: bool) -> None:
    """a1 is lost with a write in the device; its host goes to a2, and is not overtaken by it."""
    s = stage()
    one, two = through(s, 0), through(s, 1)
    assert done(s, one, "write", 0, 8) == 0
    old = one.do("write", 0, 8)
    s.wait(lambda: writing(s, commanded=False), "the write has not started")
    [request] = medium(s).under_way.values()
    request.stuck_until_ns = s.world.now_ns + 8 * SECOND
    process = s.agent(0).process
    process.pause()
    s.world.run_for(2 * SECOND)
    new = two.do("write", 0, 8)
    if not returns:
        process.kill()  # what is in the device goes on, and with it the lock
    s.world.run_for(4 * SECOND)
    assert not new.done()
    process.resume()
    s.wait(new.done, "the disk is not opened elsewhere")
    assert new.result() == 0
    assert s.world.now_ns >= request.stuck_until_ns
    if returns:
        s.wait(old.done, "the old write is not answered")
        assert s.checks.counts["lease expired"] >= 1
    assert done(s, two, "read", 0, 8) == 0
    end(s)


def test_freed_location_waits_for_the_fence_of_a_dead_agent(stage: Build) -> None:
    """a1 dies with a write in the kernel; its segment is trimmed: nobody gets the location yet."""
    s = stage(media=[MediumPlan(segments=1)])
    one, two = through(s, 0), through(s, 1)
    one.gives_up = 1.0
    assert done(s, one, "write", 0, 8) == 0
    lost = one.do("write", 0, 8)
    s.wait(lambda: writing(s, commanded=False), "the write has not started")
    [request] = medium(s).under_way.values()
    request.stuck_until_ns = s.world.now_ns + 6 * SECOND
    s.agent(0).process.kill()
    s.wait(lost.done, "the host does not see that its agent died")
    assert lost.result() == LOST
    assert done(s, two, "trim", 0, SEGMENT) == 0
    while (errno := done(s, two, "write", SEGMENT, 8)) == ENOSPC:
        s.world.run_for(20 * MS)
    assert errno == 0
    assert s.world.now_ns >= request.stuck_until_ns
    s.machines[0].boot_when_over()
    end(s)


def test_an_operator_declares_an_agent_dead_that_no_fence_ends(stage: Build) -> None:
    """What it might still write waits for the operator's word, and that is durable."""
    s = stage(media=[MediumPlan(segments=4)], settings=settings(lease_s=0.5))
    one, two = through(s, 0), through(s, 1)
    assert done(s, two, "read", 0, 8) == 0
    assert done(s, one, "write", 0, 8) == 0
    assert done(s, one, "write", 0, 8) == 0  # by an entry that it holds
    incarnation = s.agent(0).incarnation
    unproven(s, incarnation)
    with pytest.raises(Refusal, match="connected: it is not dead"):
        declare(s, "a1")
    s.agent(0).process.kill()
    s.wait(lambda: s.controller.peers[incarnation].link is None, "the link does not end")
    with pytest.raises(Refusal, match="the lease of agent a1 runs for another"):
        declare(s, "a1")
    # a2 frees the segment: its location waits for a1, however long.
    assert done(s, two, "trim", 0, SEGMENT) == 0
    s.world.run_for(20 * SECOND)
    assert list(s.controller.table.quarantine.values()) == [[incarnation]]
    assert declare(s, "a1") == [incarnation]
    assert not s.controller.table.quarantine
    with pytest.raises(Refusal, match="agent a1 has ended already"):
        declare(s, "a1")
    with pytest.raises(Refusal, match="no agent is called a9"):
        declare(s, "a9")
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    assert not s.controller.table.quarantine
    end(s)


def test_declaring_dead_names_the_incarnation_that_is_to_be_waited_for(stage: Build) -> None:
    """Not the agent, of which a newer one is there."""
    s = stage(media=[MediumPlan(segments=4)], settings=settings(lease_s=5.0))
    assert done(s, through(s, 0), "write", 0, 8) == 0
    incarnation = s.agent(0).incarnation
    proven = unproven(s, incarnation)
    s.agent(0).process.kill()
    s.machines[0].boot_when_over()
    s.wait(lambda: len([p for p in s.controller.peers.values() if p.name == "a1"]) == 2, "no new")
    with pytest.raises(Refusal, match=f"lease of incarnation {incarnation:x} of agent a1 runs"):
        declare(s, "a1")
    proven()
    end(s)


def test_an_operator_declares_dead_what_an_older_term_has_lost(stage: Build) -> None:
    """No disk is attached to it any more: it has no name, only a number."""
    s = stage(media=[MediumPlan(segments=4)], settings=settings(lease_s=0.5))
    one, two = through(s, 0), through(s, 1)
    assert done(s, two, "read", 0, 8) == 0
    assert done(s, one, "write", 0, 8) == 0
    assert done(s, one, "write", 0, 8) == 0  # by an entry that it holds
    incarnation = s.agent(0).incarnation
    unproven(s, incarnation)
    s.agent(0).process.kill()
    assert done(s, two, "trim", 0, SEGMENT) == 0
    task = s.office.terms[-1].process.run(s.controller.commit(Detached(1, incarnation)))
    s.wait(task.done, "no commit")
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    s.world.run_for(5 * SECOND)
    assert incarnation not in s.controller.peers
    assert list(s.controller.table.quarantine.values()) == [[incarnation]]
    with pytest.raises(Refusal, match=f"it is not dead; what is lost is {incarnation:x}: name"):
        declare(s, "a2")
    assert declare(s, f"{incarnation:x}") == [incarnation]
    assert not s.controller.table.quarantine
    end(s)


def test_a_linger_time_ends_what_no_fence_does(stage: Build) -> None:
    """Counted from the end of the lease, not from the death; kept over a term and a checkpoint."""
    s = stage(media=[MediumPlan(segments=4)], settings=settings(lease_s=2.0))
    one, two = through(s, 0), through(s, 1)
    assert done(s, two, "read", 0, 8) == 0
    assert done(s, one, "write", 0, 8) == 0
    assert done(s, one, "write", 0, 8) == 0  # by an entry that it holds
    incarnation = s.agent(0).incarnation
    unproven(s, incarnation)
    [name] = s.controller.table.container_names
    for wrong in (-1.0, 0.5, 1e9):
        with pytest.raises(Refusal, match="a linger time is"):
            ask(s, set_linger(s.controller, name, wrong))
    ask(s, set_linger(s.controller, name, 5.0))
    ask(s, s.controller.checkpoint())
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    assert done(s, one, "write", 0, 8) == 0
    s.agent(0).process.kill()
    assert done(s, two, "trim", 0, SEGMENT) == 0
    until_ns = s.controller.peers[incarnation].lease_until_ns + 5 * SECOND
    clock = s.office.terms[-1].process
    assert s.controller.table.quarantine
    while clock.now_ns() < until_ns - 10 * MS:
        s.world.run_for(10 * MS)
        assert s.controller.table.quarantine
    s.wait(lambda: not s.controller.table.quarantine, "the quarantine does not end")
    end(s)


def test_a_linger_time_said_while_it_is_waited_for_is_counted_down(stage: Build) -> None:
    """Status says what to say, and when that has been said, when the wait ends."""
    s = stage(media=[MediumPlan(segments=4, place=UNSAID)], settings=settings(lease_s=2.0))
    assert done(s, through(s, 0), "write", 0, 8) == 0
    [name] = s.controller.table.container_names
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    s.world.run_for(11 * SECOND)
    [said] = stuck(s.controller)
    assert f"an older controller at container {name} (no fence proves its end at {name}" in said
    assert "`segue container linger`" in said
    ask(s, set_linger(s.controller, name, 20.0))
    now_ns = s.office.terms[-1].process.now_ns()
    left_s = (s.controller.old_leases_until_ns + 20 * SECOND - now_ns) / SECOND
    [said] = stuck(s.controller)
    assert f"(ends at {name} in {left_s:.0f} s at the latest (linger))" in said
    s.world.run_for(round(left_s + 2) * SECOND)
    assert list(stuck(s.controller)) == []
    end(s)


def test_an_older_copier_at_a_server_with_a_fence_is_shut_out(stage: Build) -> None:
    """It is stopped between two pieces and goes on within its lease: none of it has an effect."""
    media = [MediumPlan(segments=12, clean=False, place=FENCED)]
    slow = msgspec.structs.replace(settings(lease_s=3.0), copy_piece_bytes=4096)
    s = stage(media=media, settings=slow)
    host, [remote] = through(s, 0), s.media.values()
    host.do("write", 8, 8)
    s.wait(lambda: any(r.tag == ("zero",) for r in remote.under_way.values()), "nothing is zeroed")
    older = s.office.terms[-1]
    older.process.pause()
    fence = older.controller.fence if older.controller is not None else 0
    s.office.start()
    s.wait(lambda: s.office.serving is not older.controller, "no newer term serves")
    s.wait(lambda: fence in s.checks.replica.ended, "the older copier does not end")
    older.process.resume()
    s.world.run_for(100 * MS)
    assert s.checks.counts["fence: shut out for good"] >= 1
    end(s)


def test_an_older_controller_takes_over_no_container_of_a_newer_one(stage: Build) -> None:
    """It wakes while it makes one, and the newer has died before a stamp (seed 1795428116)."""
    s = stage(spares=[MediumPlan(segments=4)])
    older, spare = s.office.terms[-1], s.media["sim://m1"]
    size_bytes = spare.segment_sectors * SECTOR_BYTES * 4
    late = older.process.run(add_container(s.controller, "late", spare.uri, size_bytes))
    locks = s.controller.locks
    s.wait(lambda: locks.state(("containers",)) is not None, "no container is being made")
    older.process.pause()
    s.office.start()
    s.wait(lambda: s.office.serving is not None, "the new term does not serve")
    row = ask(s, add_container(s.controller, "new", spare.uri, size_bytes))
    s.office.autostart = False
    s.office.terms[-1].process.kill()
    older.process.resume()
    s.wait(lambda: late.done() or not older.process.alive, "nothing comes of the verb")
    assert spare.identity == row.identity
    with pytest.raises(Refusal, match="is a container already"):
        late.result()
    s.office.start()
    end(s)
