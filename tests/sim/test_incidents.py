"""Incidents, written down: each test is a story with an end that holds.

All checkers watch all of it (rules 1 and 3 to 12), so a test needs to say only what is special.
"""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import pytest

from segue.controller.api.latency import latency_of
from segue.controller.api.status import _store_without_room
from segue.controller.api.waits import stuck
from segue.controller.changes import Detached
from segue.controller.commits import TermEnded
from segue.controller.peer import PeerState
from segue.controller.procedures.declare_dead import declare_dead, set_linger
from segue.controller.procedures.job_verbs import move_disk
from segue.controller.procedures.resize import resize_disk
from segue.controller.procedures.verbs import Refusal, add_container, clear_error
from segue.sim.containers import SECTOR_BYTES, Medium, Request
from segue.sim.host import EIO, ENOSPC, LOST, Host
from segue.sim.host_io import FUA, NO_HOLE
from segue.sim.loop import MS, SECOND
from segue.sim.plane import Part
from segue.sim.stage import FENCED, UNSAID, DiskPlan, MediumPlan, Plan, Stage, settings

T = TypeVar("T")
Build = Callable[..., Stage]
SEGMENT = 128
UNCLEAN = [MediumPlan(segments=12, clean=False)]


def through(stage: Stage, number: int, name: str = "h", disk: int = 0) -> Host:
    """A host that uses the agent of that number only."""
    return stage.host(f"{name}{number}", disk, [stage.machines[number]], [0])


def done(stage: Stage, host: Host, op: str, first: int = 0, count: int = 0, flags: int = 0) -> int:
    """Does one I/O to its end; its errno."""
    task = host.do(op, first, count, flags)
    stage.wait(task.done, f"{op} {first}+{count} is not answered")
    return task.result()


def medium(stage: Stage) -> Medium:
    """The first container's."""
    return stage.media["sim://m0"]


def writing(stage: Stage, *, commanded: bool) -> bool:
    """Whether a host's write (or a `do_write`) is under way at the first container."""
    return any(
        r.kind == "write" and isinstance(r.tag, Part) and r.tag.commanded == commanded
        for r in medium(stage).under_way.values()
    )


def end(stage: Stage) -> None:
    """All heals, converges, and reads back right through every agent."""
    stage.mend()
    stage.converge()
    stage.read_everything()


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


def test_controller_killed_between_do_write_and_the_commit_of_its_bit(stage: Build) -> None:
    """The block is durable and no bit says so: the fault comes again, and the write is not lost."""
    s = stage(media=UNCLEAN)
    host = through(s, 0)
    write = host.do("write", 3, 2)
    s.wait(lambda: writing(s, commanded=True), "no do_write has started")
    s.wait(lambda: not writing(s, commanded=True), "the do_write does not end")
    commits = s.store.number
    assert not write.done()
    s.office.terms[-1].process.kill()
    s.wait(write.done, "the write is not answered")
    assert write.result() == 0
    assert s.store.number > commits
    assert done(s, host, "read", 0, 16) == 0
    end(s)
    assert s.checks.counts["listed done"] + s.checks.counts.get("listed waiting", 0) >= 1


def test_a_lost_agent_comes_back_to_a_new_term_with_a_do_write_of_the_old_one(stage: Build) -> None:
    """It raises the fault anew, and nobody keeps the old one (a drawn world, seed 5500000132)."""
    s = stage(media=UNCLEAN)
    host = through(s, 0)
    write = host.do("write", 3, 2)
    s.wait(lambda: writing(s, commanded=True), "no do_write has started")
    [request] = [r for r in medium(s).under_way.values() if isinstance(r.tag, Part)]
    request.stuck_until_ns = s.world.now_ns + 6 * SECOND
    s.network.partitioned[s.agent(0).process.name] = s.world.now_ns + 4 * SECOND
    for wire in list(s.network.wires):
        wire.cut()
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    s.wait(write.done, "the write is not answered")
    assert write.result() == 0
    assert s.checks.counts["welcomed as lost"] >= 1
    assert s.checks.counts["listed running"] >= 1
    end(s)


def test_an_older_terms_do_write_keeps_its_blocks_while_a_resize_waits(stage: Build) -> None:
    """The new term's first work is a resize, which holds the disk (seed 4000995)."""
    s = stage(media=UNCLEAN)
    host = through(s, 0)
    write = host.do("write", 3, 2)
    s.wait(lambda: writing(s, commanded=True), "no do_write has started")
    [request] = [r for r in medium(s).under_way.values() if isinstance(r.tag, Part)]
    request.stuck_until_ns = s.world.now_ns + 3 * SECOND
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    assert s.controller.inherited
    grown = s.office.terms[-1].process.run(resize_disk(s.controller, "vd0", 7 * SEGMENT * 512))
    s.wait(lambda: not s.controller.inherited, "the extent is not taken over")
    assert writing(s, commanded=True)
    s.wait(lambda: grown.done() and write.done(), "something waits for good")
    assert write.result() == 0
    s.oracles[0].begin_resize(s.world.now_ns, 7 * SEGMENT)
    s.oracles[0].settle_size(s.world.now_ns, 7 * SEGMENT)
    assert done(s, host, "read", 0, 16) == 0
    end(s)


def test_a_lost_agents_do_write_keeps_its_blocks_while_a_discard_waits(stage: Build) -> None:
    """It is back and lists the write as running.  A discard that waits for its extent has the
    segment, a write to its blocks is next, then another discard (seed 1795426366).
    """
    s = stage(media=UNCLEAN)
    one, two = through(s, 0), through(s, 1)
    assert done(s, one, "read", 0, 8) == 0
    write = two.do("write", 3, 2)
    s.wait(lambda: writing(s, commanded=True), "no do_write has started")
    [request] = [r for r in medium(s).under_way.values() if isinstance(r.tag, Part)]
    request.stuck_until_ns = s.world.now_ns + 8 * SECOND
    process = s.agent(1).process
    process.pause()
    s.world.run_for(2 * SECOND)
    trim = one.do("trim", 0, SEGMENT)
    s.world.run_for(MS)
    over = one.do("write", 0, 8)
    s.world.run_for(MS)
    for wire in list(s.network.wires):
        wire.cut()  # the discard is void now, and comes again behind the write
    s.world.run_for(SECOND)
    process.resume()
    s.wait(lambda: write.done() and over.done() and trim.done(), "something waits for good")
    assert s.checks.counts["listed running"]
    assert (write.result(), over.result(), trim.result()) == (0, 0, 0)
    end(s)


def test_link_cut_while_a_do_write_runs(stage: Build) -> None:
    """The agent lists it as running, and its answer comes in the new session."""
    s = stage(media=UNCLEAN, agents=1, settings=settings(lease_s=8.0))
    host = through(s, 0)
    write = host.do("write", 0, 8)
    s.wait(lambda: writing(s, commanded=True), "no do_write has started")
    [request] = [r for r in medium(s).under_way.values() if isinstance(r.tag, Part)]
    request.stuck_until_ns = s.world.now_ns + 6 * SECOND
    for wire in list(s.network.wires):
        wire.cut()
    s.wait(write.done, "the write is not answered")
    assert write.result() == 0
    assert s.checks.counts["listed running"]
    end(s)


def test_two_agents_write_the_same_zero_segment_at_once(stage: Build) -> None:
    """One extent is made; neither write is lost."""
    s = stage()
    hosts = [through(s, 0), through(s, 1)]
    tasks = [host.do("write", at, 8) for at, host in zip((0, 64), hosts, strict=True)]
    s.wait(lambda: all(t.done() for t in tasks), "the writes are not answered")
    assert [t.result() for t in tasks] == [0, 0]
    assert s.checks.counts["allocated clean"] == 1
    end(s)


def test_clean_io_goes_on_for_the_lease_without_a_controller(stage: Build) -> None:
    """P6: hosts see nothing of the controller's death until the lease ends, then slowness."""
    s = stage(settings=settings(lease_s=2.0))
    host = through(s, 0)
    assert done(s, host, "write", 0, 8) == 0
    s.office.autostart = False
    s.office.terms[-1].process.kill()
    agent = s.agent(0)
    count = 0
    while agent.process.now_ns() < agent.lease_until_ns - 20 * MS:
        assert done(s, host, "write", 0, 8) == 0
        s.world.run_for(10 * MS)
        count += 1
    assert count > 50
    s.world.run_for(SECOND)
    late = host.do("read", 0, 8)
    s.world.run_for(5 * SECOND)
    assert not late.done()
    s.office.start()
    s.wait(late.done, "the read is not answered")
    assert late.result() == 0
    end(s)


@pytest.mark.parametrize("crash", [False, True])
def test_a_full_store_makes_commits_wait_and_nothing_else(stage: Build, crash: bool) -> None:
    """P6 and P9: the term lives, leases are renewed, first touches are answered; so do starts."""
    s = stage(settings=settings(lease_s=2.0))
    host, other = through(s, 0), through(s, 1)
    assert done(s, host, "write", 0, 8) == 0
    assert done(s, other, "read", 0, 8) == 0
    s.store.full_until_ns = s.world.now_ns + 100 * SECOND
    number = s.store.number
    waiting = other.do("write", SEGMENT, 8)
    for _ in range(60):
        assert done(s, host, "write", 0, 8) == 0
        s.world.run_for(SECOND // 10)
    # A first touch; then one who asks where a commit is under way.
    assert done(s, host, "read", 3 * SEGMENT, 8) == 0
    late = host.do("read", SEGMENT, 8)
    if crash:
        s.office.terms[-1].process.kill()
        s.world.run_for(10 * SECOND)
        assert len(s.office.terms) == 2
        assert s.office.terms[-1].process.alive
    else:
        [said] = _store_without_room(s.controller)
        assert "full for 6 s: 1 thing waits" in said
        assert len(s.office.terms) == 1
    assert s.store.number == number
    assert not waiting.done()
    s.store.full_until_ns = 0
    s.wait(lambda: waiting.done() and late.done(), "what waited is not answered")
    assert waiting.result() == late.result() == 0
    end(s)
    assert s.controller.store.no_room() is None


def test_power_loss_keeps_what_fua_and_flush_acknowledged(stage: Build) -> None:
    """P1, on media that forget every sector that was not flushed (the oracle judges)."""
    s = stage(seed=3)
    host = through(s, 0)
    assert done(s, host, "write", 0, 64) == 0
    assert done(s, host, "flush") == 0
    assert done(s, host, "write", 8, 8, FUA) == 0
    assert done(s, host, "write", 64, 64) == 0  # covered by nothing
    s.lose_power()
    s.office.start() if s.office.newest is None else None
    end(s)


def test_failed_flush_is_an_error_until_it_is_cleared(stage: Build) -> None:
    """P5: no later flush of the same data succeeds, at any agent, in any term."""
    s = stage(errors_allowed=True)
    one, two = through(s, 0), through(s, 1)
    assert done(s, one, "write", 0, 8) == 0
    assert done(s, two, "read", 0, 8) == 0
    medium(s).failing = frozenset({"flush"})
    while done(s, one, "flush") == 0:
        medium(s).fail_until_ns = s.world.now_ns + 10 * SECOND
    medium(s).heal()
    assert s.store.history, "the failure is committed before the host hears of it"
    s.world.run_for(SECOND)
    assert done(s, one, "flush") == EIO
    assert done(s, two, "flush") == EIO
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    assert done(s, two, "flush") == EIO
    clearing = s.office.terms[-1].process.run(clear_error(s.controller, "vd0"))
    s.wait(clearing.done, "the error is not cleared")
    s.wait(lambda: done(s, one, "flush") == 0, "the flush fails after the error was cleared")
    end(s)


def test_growing_over_a_failing_flush_is_refused_and_holds_nothing_up(stage: Build) -> None:
    """The failure is marked while the disk is held for growing (seed 3002431)."""
    s = stage(errors_allowed=True, disks=[DiskPlan(sectors=SEGMENT + 8)])
    host = through(s, 0)
    assert done(s, host, "write", SEGMENT, 8, FUA) == 0
    medium(s).failing = frozenset({"flush"})
    medium(s).fail_until_ns = s.world.now_ns + 100 * SECOND
    medium(s).failure_odds = 1.0
    grown = s.office.terms[-1].process.run(resize_disk(s.controller, "vd0", SEGMENT * 1024))
    s.wait(grown.done, "growing hangs")
    with pytest.raises(Refusal, match="cannot be zeroed"):
        grown.result()
    medium(s).heal()
    assert done(s, host, "flush") == EIO
    assert done(s, host, "read", SEGMENT, 8) == 0
    end(s)


def zeroing(stage: Stage) -> list[Request]:
    """Writes of zeroes by a copier that are under way at the first container."""
    under_way = medium(stage).under_way.values()
    return [r for r in under_way if r.kind == "write" and r.tag == ("zero",)]


def grown_halfway(stage: Stage, sectors: int) -> Request:
    """The first disk is to grow; its controller is stopped with a write of zeroes in the device,
    and replaced.  It goes on when that write has ended.
    """
    older, grow = stage.office.terms[-1], resize_disk(stage.controller, "vd0", sectors * 512)

    async def ask_in_vain() -> None:
        with pytest.raises(TermEnded):
            await grow

    older.process.run(ask_in_vain())
    stage.wait(lambda: bool(zeroing(stage)), "nothing is zeroed")
    [request] = zeroing(stage)
    request.stuck_until_ns = stage.world.now_ns + 10 * SECOND
    older.process.pause()
    stage.world.call_in(11 * SECOND, older.process.resume)
    stage.office.start()
    for wire in list(stage.network.wires):
        wire.cut()
    stage.wait(lambda: stage.office.serving is not None, "no newer controller serves")
    peers = stage.controller.peers
    present = PeerState.PRESENT
    stage.wait(lambda: all(p.state is present for p in peers.values()), "an agent is not back")
    return request


def test_growing_waits_for_the_zeroes_of_an_older_term(stage: Build) -> None:
    """They would land on what hosts write to the grown disk (seed 1795427832)."""
    s = stage(disks=[DiskPlan(sectors=2 * SEGMENT - 8)])
    assert done(s, through(s, 0), "write", SEGMENT, SEGMENT - 8) == 0
    late = grown_halfway(s, 2 * SEGMENT)
    ask(s, resize_disk(s.controller, "vd0", 2 * SEGMENT * 512))
    s.oracles[0].begin_resize(s.world.now_ns, 2 * SEGMENT)
    s.oracles[0].settle_size(s.world.now_ns, 2 * SEGMENT)
    assert done(s, through(s, 0, "n"), "write", 2 * SEGMENT - 8, 8) == 0
    assert s.world.now_ns >= late.stuck_until_ns
    end(s)


def test_a_location_is_not_reused_under_the_zeroes_of_an_older_term(stage: Build) -> None:
    """The segment that was to grow is trimmed meanwhile, and its location the only one there is."""
    s = stage(media=[MediumPlan(segments=1)], disks=[DiskPlan(sectors=2 * SEGMENT - 8)])
    host = through(s, 0)
    assert done(s, host, "write", SEGMENT, 8) == 0
    late = grown_halfway(s, 2 * SEGMENT)
    assert done(s, host, "trim", SEGMENT, SEGMENT - 8) == 0
    s.wait(lambda: done(s, host, "write", 0, SEGMENT) == 0, "the location is not free")
    assert s.world.now_ns >= late.stuck_until_ns
    end(s)


def test_a_write_is_not_undone_by_the_zeroes_of_an_older_term(stage: Build) -> None:
    """The disk ends within a write unit: what is zeroed there is read, merged and written."""
    media = [MediumPlan(segments=12, write_unit_bytes=4096)]
    s = stage(media=media, disks=[DiskPlan(2 * SEGMENT - 3, block_sectors=1)], agents=1)
    host, last = through(s, 0), 2 * SEGMENT - 4
    assert done(s, host, "write", last, 1) == 0
    late = grown_halfway(s, 2 * SEGMENT)
    assert done(s, host, "write", last, 1) == 0
    assert s.world.now_ns >= late.stuck_until_ns
    end(s)


def test_failed_flush_is_told_again_when_the_link_breaks(stage: Build) -> None:
    """The host waits until the failure is durable; the next session says it anew."""
    s = stage(errors_allowed=True, agents=1)
    host = through(s, 0)
    assert done(s, host, "write", 0, 8) == 0
    medium(s).failing = frozenset({"flush"})
    medium(s).fail_until_ns = s.world.now_ns + 100 * SECOND
    session = s.agent(0).session
    while not session._failures:
        flush = host.do("flush")
        s.wait(lambda f=flush: f.done() or bool(session._failures), "no flush ends")  # type: ignore[misc]
    for wire in list(s.network.wires):
        wire.cut()
    s.wait(flush.done, "the flush is not answered")
    assert flush.result() == EIO
    end(s)


def test_zombie_controller_commits_nothing_and_grants_no_lease(stage: Build) -> None:
    """Stopped, superseded, woken: its agents have left it, its next commit ends it."""
    s = stage()
    host = through(s, 0)
    assert done(s, host, "write", 0, 8) == 0
    zombie = s.office.terms[-1]
    zombie.process.pause()
    s.office.start()
    s.wait(lambda: s.office.serving is not None, "the new term does not serve")
    zombie.process.resume()
    write = host.do("write", 2 * SEGMENT, 8)
    s.wait(lambda: not zombie.process.alive, "the zombie lives on")
    s.wait(write.done, "the write is not answered")
    assert write.result() == 0
    end(s)


def test_full_pool_says_so_and_a_trim_makes_room(stage: Build) -> None:
    """ENOSPC for that write alone; then the freed location serves it."""
    s = stage(media=[MediumPlan(segments=2)], agents=1)
    host = through(s, 0)
    assert done(s, host, "write", 0, 8) == 0
    assert done(s, host, "write", SEGMENT, 8) == 0
    assert done(s, host, "write", 2 * SEGMENT, 8) == ENOSPC
    assert done(s, host, "read", 2 * SEGMENT, 8) == 0
    assert done(s, host, "trim", 0, SEGMENT) == 0
    assert done(s, host, "write", 2 * SEGMENT, 8) == 0
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


def test_write_zeroes_with_no_hole_to_a_zero_segment_is_written(stage: Build) -> None:
    """It faults like a write, and the segment has a location afterwards."""
    s = stage()
    host = through(s, 0)
    assert done(s, host, "zero", 0, SEGMENT, NO_HOLE) == 0
    assert len(s.checks.replica.owner) == 1
    assert done(s, host, "zero", 0, SEGMENT) == 0
    assert len(s.checks.replica.owner) == 0
    end(s)


@pytest.mark.parametrize("block_sectors", [1, 8])
def test_unclean_locations_never_show_what_was_there(stage: Build, block_sectors: int) -> None:
    """Small writes to a disk on rubbish: the rest of each segment reads as zeroes, always."""
    s = stage(
        media=UNCLEAN, disks=[DiskPlan(6 * SEGMENT - 3 * block_sectors, block_sectors)], agents=1
    )
    host = through(s, 0)
    for at in (1, 130, 200, 700):
        write = host.do("write", at, 3)
        read = host.do("read", at // SEGMENT * SEGMENT, 64)
        s.wait(lambda t=(write, read): all(x.done() for x in t), "not answered")  # type: ignore[misc]
        assert (write.result(), read.result()) == (0, 0)
    end(s)


def test_two_writes_within_one_write_unit_are_both_kept(stage: Build) -> None:
    """The first reads the unit to merge it; the second waits until it has written it."""
    media = [MediumPlan(segments=12, write_unit_bytes=4096)]
    s = stage(media=media, disks=[DiskPlan(6 * SEGMENT, block_sectors=1)], agents=1)
    host = through(s, 0)
    assert done(s, host, "write", 0, 8) == 0
    one = host.do("write", 1, 1)
    s.wait(lambda: writing(s, commanded=False), "the unit is not written")
    [late] = medium(s).under_way.values()
    late.stuck_until_ns = s.world.now_ns + SECOND // 2
    two = host.do("write", 5, 2)
    s.wait(lambda: one.done() and two.done(), "a write is not answered")
    assert (one.result(), two.result()) == (0, 0)
    assert s.world.now_ns >= late.stuck_until_ns
    assert done(s, host, "read", 0, 8) == 0
    end(s)


def test_zeroes_that_nothing_flushed_do_not_count_after_power_loss(stage: Build) -> None:
    """The copier has zeroed, the table is checkpointed, the power goes: old bytes stay hidden."""
    eager = msgspec.structs.replace(settings(), checkpoint_log_bytes=1, copy_piece_bytes=4096)
    for seed in range(8):
        s = stage(seed=seed, media=UNCLEAN, settings=eager)
        host = through(s, 0)
        assert done(s, host, "write", 8, 8) == 0
        checkpoints = s.store.checkpoints
        assert done(s, host, "write", 2 * SEGMENT, 8) == 0
        assert s.store.checkpoints > checkpoints
        s.lose_power()
        end(s)


def test_plan_is_checked() -> None:
    """The fixture's changes are real ones."""
    names: dict[str, Any] = Plan.__dataclass_fields__
    assert {"media", "disks", "agents", "settings", "errors_allowed"} <= set(names)


def declare(stage: Stage, name: str) -> list[int]:
    """`segue agent declare-dead`."""
    return ask(stage, declare_dead(stage.controller, name))


def ask(stage: Stage, verb: Coroutine[Any, Any, T]) -> T:
    """What an operator's verb comes to."""
    task = stage.office.terms[-1].process.run(verb)
    stage.wait(task.done, "nothing comes of the verb")
    return task.result()


def test_an_operator_declares_an_agent_dead_that_no_fence_ends(stage: Build) -> None:
    """What it might still write waits for the operator's word, and that is durable."""
    s = stage(media=[MediumPlan(segments=4)], settings=settings(lease_s=0.5))
    one, two = through(s, 0), through(s, 1)
    assert done(s, two, "read", 0, 8) == 0
    assert done(s, one, "write", 0, 8) == 0
    assert done(s, one, "write", 0, 8) == 0  # by an entry that it holds
    incarnation = s.agent(0).incarnation
    proof = medium(s).fence_ended
    medium(s).fence_ended = lambda fence: fence != incarnation and proof(fence)  # type: ignore[method-assign]
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


def test_an_operator_declares_dead_what_an_older_term_has_lost(stage: Build) -> None:
    """No disk is attached to it any more: it has no name, only a number."""
    s = stage(media=[MediumPlan(segments=4)], settings=settings(lease_s=0.5))
    one, two = through(s, 0), through(s, 1)
    assert done(s, two, "read", 0, 8) == 0
    assert done(s, one, "write", 0, 8) == 0
    assert done(s, one, "write", 0, 8) == 0  # by an entry that it holds
    incarnation = s.agent(0).incarnation
    proof = medium(s).fence_ended
    medium(s).fence_ended = lambda fence: fence != incarnation and proof(fence)  # type: ignore[method-assign]
    s.agent(0).process.kill()
    assert done(s, two, "trim", 0, SEGMENT) == 0
    task = s.office.terms[-1].process.run(s.controller.commit(Detached(1, incarnation)))
    s.wait(task.done, "no commit")
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    s.world.run_for(5 * SECOND)
    assert incarnation not in s.controller.peers
    assert list(s.controller.table.quarantine.values()) == [[incarnation]]
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
    proof = medium(s).fence_ended
    medium(s).fence_ended = lambda fence: fence != incarnation and proof(fence)  # type: ignore[method-assign]
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


def test_what_a_declared_dead_agent_could_not_flush_is_heard_of(stage: Build) -> None:
    """P5: its flush failed with nobody left to tell; no flush of the same data succeeds later."""
    media = [MediumPlan(segments=2), MediumPlan(segments=12, place=UNSAID)]
    s = stage(media=media, settings=settings(lease_s=0.5), errors_allowed=True)
    one = through(s, 0)
    for segment in range(4):
        assert done(s, one, "write", segment * SEGMENT, 8) == 0
    assert s.controller.table.disks[1].containers == [1, 2]
    medium(s).failing, medium(s).failure_odds = frozenset({"flush"}), 1.0
    medium(s).fail_until_ns = s.world.now_ns + SECOND
    agent = s.agent(0)
    s.network.partitioned[agent.process.name] = s.world.now_ns + 60 * SECOND
    for wire in list(s.network.wires):
        wire.cut()
    one.do("flush")
    s.wait(lambda: bool(agent.session._failures), "no flush fails")
    incarnation = agent.incarnation
    agent.process.kill()
    s.wait(lambda: s.controller.peers[incarnation].state is PeerState.LOST, "a1 is not lost")
    assert medium(s).dropped
    medium(s).heal()
    s.world.run_for(10 * SECOND)
    assert not s.controller.table.disks[1].failed
    assert declare(s, "a1") == [incarnation]
    assert done(s, through(s, 1), "flush") == EIO
    ask(s, clear_error(s.controller, "vd0"))
    end(s)


@pytest.mark.parametrize("dark", [False, True])
def test_a_failed_flush_outlives_all_who_were_told_of_it(stage: Build, dark: bool) -> None:
    """P5: no controller serves, the agent dies before one does: its note says it to the next."""
    s = stage(errors_allowed=True)
    one = through(s, 0)
    assert done(s, one, "write", 0, 8) == 0
    assert done(s, one, "write", 0, 8) == 0
    s.office.autostart = False
    s.office.terms[-1].process.kill()
    medium(s).failing, medium(s).failure_odds = frozenset({"flush"}), 1.0
    medium(s).fail_until_ns = s.world.now_ns + SECOND // 2
    agent = s.agent(0)
    flush = one.do("flush")
    s.wait(lambda: bool(agent.session._failures), "no flush fails")
    medium(s).heal()
    s.world.run_for(SECOND // 4)
    assert not flush.done(), "the host was answered before the failure was durable"
    if dark:
        s.lose_power()
    else:
        agent.process.kill()
        s.machines[0].boot_when_over()
    s.office.autostart = True
    s.office.start()
    s.wait(flush.done, "the flush is not answered")
    assert flush.result() == LOST
    assert done(s, through(s, 1), "flush") == EIO
    assert done(s, one, "flush") == EIO
    s.world.run_for(SECOND)
    assert medium(s).note is None, "what is marked needs no note"
    ask(s, clear_error(s.controller, "vd0"))
    assert done(s, one, "flush") == 0, "the error comes back after it was cleared"
    end(s)


def test_what_a_remote_container_has_answered_is_durable(stage: Build) -> None:
    """Its agent dies after a flush while no controller serves, then power goes (seed 3333327531).

    It is written through (decision 0008): no flush of it fails that somebody had to hear of.
    """
    s = stage(media=[MediumPlan(segments=12, place=FENCED)], errors_allowed=True)
    one, two, [remote] = through(s, 0), through(s, 1), s.media.values()
    assert done(s, one, "write", 0, 64) == 0
    assert done(s, one, "flush") == 0
    assert done(s, one, "write", 0, 64) == 0
    assert not remote.dirty, "an answered write could be lost"
    s.office.autostart = False
    s.office.terms[-1].process.kill()
    remote.failing, remote.failure_odds = frozenset({"flush"}), 1.0
    remote.fail_until_ns = s.world.now_ns + SECOND // 4
    flush = one.do("flush")
    s.world.run_for(SECOND // 4)
    assert flush.done() and flush.result() == 0, "a flush has failed that has nothing to do"
    s.agent(0).process.kill()
    s.machines[0].boot_when_over()
    s.office.autostart = True
    s.office.start()
    assert done(s, two, "flush") == 0
    s.lose_power()
    end(s)


def test_an_error_that_was_reported_does_not_come_back(stage: Build) -> None:
    """Its note is gone when the operator has cleared it: the next controller finds none."""
    s = stage(errors_allowed=True)
    host = through(s, 0)
    assert done(s, host, "write", 0, 8) == 0
    medium(s).failing, medium(s).failure_odds = frozenset({"flush"}), 1.0
    medium(s).fail_until_ns = s.world.now_ns + SECOND
    assert done(s, host, "flush") == EIO
    medium(s).heal()
    ask(s, clear_error(s.controller, "vd0"))
    assert medium(s).note is None
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    s.world.run_for(SECOND)
    assert done(s, host, "flush") == 0
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


def test_a_stopped_agent_holds_up_nobody_who_asks_for_latencies(stage: Build) -> None:
    """It counts as present until its lease ends; what the others have counted is told."""
    s = stage(settings=msgspec.structs.replace(settings(), lease_s=30.0))
    for number in (0, 1):
        assert done(s, through(s, number), "read", 0, 8) == 0
    s.agent(0).process.pause()
    c, begun_ns = s.controller, s.world.now_ns
    told = ask(s, latency_of(c, c.table.disks[1], c.peers_of(1)))
    assert s.world.now_ns - begun_ns < 2 * SECOND
    assert all(peer.state is PeerState.PRESENT for peer in c.peers_of(1))
    assert (told.silent, told.agents) == (["a1"], ["a2"])
    assert [row.operation for row in told.rows] == ["read"]
    end(s)
