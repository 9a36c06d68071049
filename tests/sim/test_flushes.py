"""What was acknowledged as durable, and flushes that fail: who hears of it (promises P1, P5)."""

import msgspec
import pytest

from segue.controller.peer import PeerState
from segue.controller.procedures.resize import resize_disk
from segue.controller.procedures.verbs import Refusal, clear_error
from segue.sim.host import EIO, LOST
from segue.sim.host_io import FUA
from segue.sim.loop import SECOND
from segue.sim.stage import FENCED, UNSAID, DiskPlan, MediumPlan, settings
from tests.sim.stories import SEGMENT, UNCLEAN, Build, ask, declare, done, end, medium, through


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


def test_a_flush_that_fails_while_an_older_failure_is_cleared_is_remembered(stage: Build) -> None:
    """The operator has not heard of this one."""
    s = stage(errors_allowed=True)
    one, two = through(s, 0), through(s, 1)
    for host in (one, two):
        assert done(s, host, "write", 0, 8) == 0
    failing = medium(s)
    failing.failing, failing.failure_odds = frozenset({"flush"}), 1.0
    failing.fail_until_ns = s.world.now_ns + 100 * SECOND
    assert done(s, one, "flush") == EIO
    clearing = s.office.terms[-1].process.run(clear_error(s.controller, "vd0"))
    s.store.slow_until_ns = s.world.now_ns + SECOND
    s.wait(lambda: bool(s.controller.flushes.clearing[1]), "the error is not being cleared")
    failed = s.office.terms[-1].process.run(s.controller.flushes.flush(1))
    s.wait(failed.done, "the flush does not end")
    assert isinstance(failed.exception(), OSError)
    s.wait(clearing.done, "the error is not cleared")
    failing.heal()
    assert s.controller.table.disks[1].failed == {1: EIO}
    assert done(s, two, "flush") == EIO
    ask(s, clear_error(s.controller, "vd0"))
    s.wait(lambda: done(s, two, "flush") == 0, "the flush fails after the error was cleared")
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
