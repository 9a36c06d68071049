"""Incidents, written down: each test is a story with an end that holds.

All checkers watch all of it (rules 1 and 3 to 12), so a test needs to say only what is special.
"""

from typing import Any

import msgspec
import pytest

from segue.controller.api.latency import latency_of
from segue.controller.api.status import store_without_room
from segue.controller.commits import TermEnded
from segue.controller.peer import PeerState
from segue.controller.procedures.resize import resize_disk
from segue.sim.containers import Request
from segue.sim.host import ENOSPC, Host
from segue.sim.host_io import NO_HOLE
from segue.sim.loop import MS, SECOND
from segue.sim.plane import Part
from segue.sim.stage import DiskPlan, MediumPlan, Plan, Stage, settings
from tests.sim.stories import (
    SEGMENT,
    UNCLEAN,
    Build,
    ask,
    done,
    end,
    medium,
    through,
    writing,
    zeroing,
)


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
        [said] = store_without_room(s.controller)
        assert "full for 6 s: 1 thing waits" in said
        assert len(s.office.terms) == 1
    assert s.store.number == number
    assert not waiting.done()
    s.store.full_until_ns = 0
    s.wait(lambda: waiting.done() and late.done(), "what waited is not answered")
    assert waiting.result() == late.result() == 0
    end(s)
    assert s.controller.store.no_room() is None


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


def test_plan_is_checked() -> None:
    """The fixture's changes are real ones."""
    names: dict[str, Any] = Plan.__dataclass_fields__
    assert {"media", "disks", "agents", "settings", "errors_allowed"} <= set(names)


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


def test_a_dead_agents_discard_is_not_carried_out_behind_its_hosts_next_write(stage: Build) -> None:
    """It waits for one segment when its agent dies.  The host goes to another agent and writes the
    other segment: nothing that it sent before may land on that (decision 0007).
    """
    s = stage(media=UNCLEAN)
    late = _discard_that_waits(s, through(s, 0), through(s, 1))
    dead = s.agent(0)
    dead.process.kill()
    s.wait(
        lambda: all(p.incarnation != dead.incarnation for p in s.controller.peers.values()),
        "it does not end",
    )
    assert s.world.now_ns < late.stuck_until_ns
    _wrote_over_it(s, through(s, 1, "n"), late)


def test_an_ended_sessions_discard_that_its_host_gave_up_is_not_carried_out(stage: Build) -> None:
    """Its host has gone, and the next session does not list it: what the host writes then stays."""
    s = stage(media=UNCLEAN)
    host, next_host = through(s, 0), through(s, 0, "n")
    assert done(s, next_host, "read", 0, 8) == 0
    late = _discard_that_waits(s, host, through(s, 1))
    host.cut()
    for wire in list(s.network.wires):
        wire.cut()
    _wrote_over_it(s, next_host, late)


def test_a_discard_that_its_host_gave_up_is_not_carried_out(stage: Build) -> None:
    """The same within one session."""
    s = stage(media=UNCLEAN)
    host, next_host = through(s, 0), through(s, 0, "n")
    assert done(s, next_host, "read", 0, 8) == 0
    late = _discard_that_waits(s, host, through(s, 1))
    host.cut()
    _wrote_over_it(s, next_host, late)


def test_a_vanished_agents_discard_is_not_carried_out(stage: Build) -> None:
    """Its machine is gone and nobody has been told; it has nothing there that it would be asked to
    give back, and its host goes on at another agent, which has.
    """
    s = stage(media=UNCLEAN)
    host, next_host = through(s, 0), through(s, 1, "n")
    assert done(s, host, "read", 3 * SEGMENT, 8) == 0
    # The dead agent's lease goes on for longer.
    late = _discard_that_waits(s, host, through(s, 1), before=next_host, stuck_ns=SECOND)
    dead = s.agent(0)
    for wire in list(s.network.wires):
        if wire.agent_end.process is dead.process:
            wire.vanish()
    dead.process.kill()
    _wrote_over_it(s, next_host, late)


def _discard_that_waits(
    s: Stage, host: Host, other: Host, before: Host | None = None, stuck_ns: int = 8 * SECOND
) -> Request:
    """A trim of two segments; what keeps it from the first one, a `do_write` under way there.

    The second one was written before, by the same host or `before`.
    """
    writer = before or host
    assert done(s, writer, "write", SEGMENT, 8) == 0
    s.wait(lambda: not s.controller.table.records, "the second segment is not complete")
    assert done(s, writer, "write", SEGMENT, 8) == 0
    write = other.do("write", 3, 2)
    s.wait(lambda: writing(s, commanded=True), "no do_write has started")
    [request] = [r for r in medium(s).under_way.values() if isinstance(r.tag, Part)]
    request.stuck_until_ns = s.world.now_ns + stuck_ns
    trim = host.do("trim", 0, 2 * SEGMENT)
    s.world.run_for(20 * MS)
    assert not trim.done() and not write.done()
    return request


def _wrote_over_it(s: Stage, host: Host, late: Request) -> None:
    assert done(s, host, "write", SEGMENT, 8) == 0
    assert s.world.now_ns < late.stuck_until_ns
    s.wait(lambda: not writing(s, commanded=True), "the do_write does not end")
    s.world.run_for(2 * SECOND)
    [disk] = s.controller.table.disks.values()
    assert disk.map.get(1), "an acknowledged write is gone"
    end(s)


@pytest.mark.parametrize("grown", [5 * SEGMENT + 64, 6 * SEGMENT], ids=["in its block", "beyond"])
def test_a_discard_of_a_short_segment_leaves_what_it_has_grown_by(stage: Build, grown: int) -> None:
    """It was the whole last segment when its agent was cut off.  The disk has grown since, and
    another host has written behind the old end, when the agent comes back and asks.
    """
    end_sector = 5 * SEGMENT + 60
    s = stage(disks=[DiskPlan(sectors=end_sector)])
    one, two = through(s, 0), through(s, 1)
    assert done(s, one, "read", 0, 8) == 0
    assert done(s, two, "read", 0, 8) == 0
    s.network.partitioned[s.agent(0).process.name] = s.world.now_ns + 4 * SECOND
    for wire in list(s.network.wires):
        wire.cut()
    trim = one.do("trim", 5 * SEGMENT, 60)
    s.world.run_for(20 * MS)
    s.oracles[0].begin_resize(s.world.now_ns, grown)
    ask(s, resize_disk(s.controller, "vd0", grown * 512))
    s.oracles[0].settle_size(s.world.now_ns, grown)
    assert done(s, two, "write", end_sector, 4) == 0
    assert not trim.done()
    s.wait(trim.done, "the trim is not answered")
    assert trim.result() == 0
    assert done(s, two, "read", end_sector, 4) == 0
    end(s)
