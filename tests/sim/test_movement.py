"""Incidents of movement, written down; all checkers watch (rules 1, 3 to 12)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from segue.controller.api.jobs import job_info
from segue.controller.procedures.job_verbs import (
    cancel_job,
    drain_container,
    fill_container,
    move_disk,
)
from segue.controller.procedures.remove_container import remove_container
from segue.controller.procedures.resize import resize_disk
from segue.controller.procedures.verbs import Refusal, delete_disk
from segue.controller.record import Record
from segue.sim.containers import SECTOR_BYTES, Medium, Request
from segue.sim.host import EIO, Host
from segue.sim.loop import MS, SECOND
from segue.sim.plane import Part
from segue.sim.stage import DiskPlan, MediumPlan, Plan, Stage, settings
from tests.sim.stories import SEGMENT, done, end, through

Build = Callable[..., Stage]
TWO = [MediumPlan(segments=12), MediumPlan(segments=12)]
SLOW = msgspec.structs.replace(settings(), copy_piece_bytes=4096, extents_at_once=1)


def medium(stage: Stage, number: int) -> Medium:
    return stage.media[f"sim://m{number}"]


def ask(
    stage: Stage, verb: Callable[..., Coroutine[Any, Any, Any]], *args: object, **options: object
) -> None:
    """Lets the operator do something, to its end."""
    task = stage.office.terms[-1].process.run(verb(stage.controller, *args, **options))
    stage.wait(task.done, f"{verb.__name__} is not answered")
    task.result()


def written(stage: Stage, host: Host, segments: int = 4) -> None:
    """The first segments of the disk have data, at the first container."""
    for segment in range(segments):
        assert done(stage, host, "write", segment * SEGMENT, SEGMENT) == 0


def lies(stage: Stage) -> dict[int, int]:
    """Container -> how many locations there are in use, sources included."""
    found: dict[int, int] = {}
    for (_, container), count in stage.checks.replica.table.lying.items():
        found[container] = found.get(container, 0) + count
    return found


def moving(stage: Stage) -> bool:
    """Whether a record with a source is durable."""
    return bool(stage.checks.replica.sources)


def records(stage: Stage) -> list[Record]:
    """What the controller knows of incomplete extents."""
    return list(stage.controller.table.records.values())


def no_job(stage: Stage) -> bool:
    controller = stage.office.serving
    return controller is not None and not controller.jobs.running


def test_a_disk_moves_while_two_agents_write_it(stage: Build) -> None:
    s = stage(media=TWO, settings=SLOW)
    one, two = through(s, 0), through(s, 1)
    written(s, one)
    ask(s, move_disk, "vd0", "m1")
    at = 0
    while not no_job(s):
        tasks = [one.do("write", at % 500, 3), two.do("write", (at + 77) % 500, 5)]
        tasks.append(two.do("read", at % 500, 9))
        s.wait(lambda t=tasks: all(x.done() for x in t), "not answered")  # type: ignore[misc]
        assert [task.result() for task in tasks] == [0, 0, 0]
        at += 41
    assert lies(s) == {2: 4}
    assert s.checks.counts["movement ended after writes"]
    assert s.checks.replica.table.disks[1].containers == [2], "left the flush set"
    end(s)


def test_an_empty_disk_moves_as_well(stage: Build) -> None:
    """There is nothing to move, but what hosts write from now on goes there."""
    s = stage(media=TWO, settings=SLOW)
    host = through(s, 0)
    assert done(s, host, "read", 0, 8) == 0
    ask(s, move_disk, "vd0", "m1")
    s.wait(lambda: no_job(s), "the job does not end")
    assert s.checks.replica.table.disks[1].containers == [2]
    written(s, host)
    assert lies(s) == {2: 4}
    end(s)


def test_the_controller_dies_again_and_again(stage: Build) -> None:
    """Each term goes on from what is durable."""
    s = stage(media=TWO, settings=SLOW)
    host = through(s, 0)
    written(s, host)
    ask(s, move_disk, "vd0", "m1", bandwidth=1_000_000)
    terms = 0
    while lies(s) != {2: 4}:
        s.world.run_for(60 * MS)
        assert done(s, host, "write", 5, 3) == 0
        s.office.terms[-1].process.kill()
        s.wait(lambda: s.office.serving is not None, "no controller serves")
        terms += 1
    assert terms > 1
    end(s)
    assert s.controller.table.jobs[1].outcome == "done"


@pytest.mark.parametrize("count", [0, 3])
def test_what_was_moved_is_counted_over_the_controllers_death(stage: Build, count: int) -> None:
    """Of a whole disk and of a run of it; through the log and through checkpoints."""
    s = stage(media=TWO, settings=SLOW)
    host = through(s, 0)
    written(s, host)
    total = count or 4
    ask(s, move_disk, "vd0", "m1", count=count, bandwidth=1_000_000)
    terms, moved = 0, 0
    while not s.controller.table.jobs[1].outcome:
        s.world.run_for(60 * MS)
        s.office.terms[-1].process.kill()
        s.wait(lambda: s.office.serving is not None, "no controller serves")
        terms += 1
        c = s.controller
        info = job_info(c, c.table.jobs[1])
        assert info.moved_segments >= moved
        assert info.moved_segments + info.left_segments == total
        assert info.moved_bytes == info.moved_segments * SEGMENT * SECTOR_BYTES
        moved = info.moved_segments
        if 0 < moved < total:
            s.checks.count("counted on")
    assert terms > 1
    assert s.checks.counts["counted on"]
    assert job_info(s.controller, s.controller.table.jobs[1]).moved_segments == total
    end(s)


def test_a_lost_agent_that_still_reads_keeps_the_source_in_quarantine(stage: Build) -> None:
    """Rule 5: its read began under its lease; the old location is free when its fence says so."""
    s = stage(media=TWO, settings=SLOW)
    one, two = through(s, 0), through(s, 1)
    written(s, two, 1)
    ask(s, move_disk, "vd0", "m1", bandwidth=60_000)
    s.wait(lambda: moving(s), "nothing moves")
    assert done(s, one, "read", 0, 8) == 0
    read, holder = one.do("read", 0, 8), s.agent(0).plane.holder
    under_way = medium(s, 0).under_way
    s.wait(lambda: any(r.holder is holder for r in under_way.values()), "no read is under way")
    for request in under_way.values():
        if request.holder is holder:
            request.stuck_until_ns = s.world.now_ns + 6 * SECOND
    s.agent(0).process.pause()
    s.wait(lambda: lies(s) == {2: 1}, "the segment is not moved")
    assert list(s.checks.replica.table.quarantine.values()) == [[s.agent(0).incarnation]]
    s.agent(0).process.resume()
    s.wait(read.done, "the read is not answered")
    assert read.result() == 0
    end(s)


def test_a_lost_agent_that_still_writes_is_waited_for(stage: Build) -> None:
    """Its write may land at the old location: nothing is moved from under it."""
    s = stage(media=TWO)
    one, two = through(s, 0), through(s, 1)
    written(s, two, 1)
    assert done(s, one, "write", 8, 8) == 0
    write = one.do("write", 0, 8)
    under_way = medium(s, 0).under_way
    s.wait(lambda: any(isinstance(r.tag, Part) for r in under_way.values()), "no write runs")
    for request in under_way.values():
        request.stuck_until_ns = s.world.now_ns + 6 * SECOND
    s.agent(0).process.pause()
    ask(s, move_disk, "vd0", "m1")
    s.world.run_for(4 * SECOND)
    assert not moving(s)
    assert lies(s) == {1: 1}
    assert s.controller.jobs.running[1].waits_for == "an agent that is lost may still write there"
    s.agent(0).process.resume()
    s.wait(lambda: no_job(s) and write.done(), "the job does not go on")
    assert lies(s) == {2: 1}
    end(s)


@pytest.mark.parametrize("number", [0, 1])
def test_a_movement_waits_for_a_write_of_any_agent(stage: Build, number: int) -> None:
    """It is begun when nobody writes at what becomes the source (rule 4)."""
    s = stage(media=TWO)
    hosts, under_way = [through(s, 0), through(s, 1)], medium(s, 0).under_way
    for host in hosts:
        assert done(s, host, "write", 0, SEGMENT) == 0
    write = hosts[number].do("write", 8, 8)
    s.wait(lambda: bool(under_way), "the write has not started")
    [late] = under_way.values()
    late.stuck_until_ns = s.world.now_ns + SECOND // 2
    ask(s, move_disk, "vd0", "m1")
    s.wait(lambda: moving(s), "nothing moves")
    assert s.world.now_ns >= late.stuck_until_ns
    s.wait(lambda: no_job(s), "the job does not end")
    assert write.result() == 0
    end(s)


def test_a_full_destination_is_named_and_waited_for(stage: Build) -> None:
    s = stage(media=[MediumPlan(segments=12), MediumPlan(segments=2)], agents=1)
    host = through(s, 0)
    written(s, host, 3)
    ask(s, move_disk, "vd0", "m1")
    s.wait(lambda: lies(s) == {1: 1, 2: 2}, "what has room is not moved")
    s.wait(
        lambda: s.controller.jobs.running[1].waits_for == "no location is free", "it is not named"
    )
    assert done(s, host, "trim", 0, SEGMENT) == 0
    s.wait(lambda: no_job(s) and lies(s) == {2: 2}, "the job does not go on")
    end(s)


def test_trim_and_delete_of_what_is_moving_free_both_locations(stage: Build) -> None:
    # The second disk begins on the second container.
    s = stage(media=TWO, settings=SLOW, disks=[DiskPlan(512), DiskPlan(256)])
    host, other = through(s, 0), through(s, 0, "o", disk=1)
    written(s, host)
    written(s, other, 2)
    ask(s, move_disk, "vd0", "m1", bandwidth=100_000)
    ask(s, move_disk, "vd1", "m0", bandwidth=10_000)
    s.wait(lambda: moving(s), "nothing moves")
    s.world.run_for(200 * MS)
    for segment in range(4):
        assert done(s, host, "trim", segment * SEGMENT, SEGMENT) == 0
        assert done(s, host, "read", segment * SEGMENT, 8) == 0
    ask(s, delete_disk, "vd1", force=True)
    s.wait(lambda: no_job(s), "the jobs do not end")
    assert lies(s) == {}
    assert [job.outcome for job in s.controller.table.jobs.values()] == ["done", "failed"]
    s.oracles.pop()
    end(s)


def resized(stage: Stage, sectors: int) -> None:
    """The operator gives vd0 another size; what is beyond a smaller one is gone."""
    oracle, gone = stage.oracles[0], None
    if sectors < oracle.sectors:
        left = oracle.sectors - sectors
        gone = oracle.issue_write(stage.world.now_ns, sectors, left, 0, fua=True)
    oracle.begin_resize(stage.world.now_ns, sectors)
    ask(stage, resize_disk, "vd0", sectors * SECTOR_BYTES, force=True)
    if gone is not None:
        oracle.acknowledge(stage.world.now_ns, gone)
    oracle.settle_size(stage.world.now_ns, sectors)


@pytest.mark.parametrize("written_meanwhile", [False, True])
def test_a_disk_grows_whose_last_segment_is_moving(stage: Build, written_meanwhile: bool) -> None:
    """Old bytes behind the end, at the source and at the destination, are read by nobody."""
    s = stage(media=TWO, settings=SLOW)
    host = through(s, 0)
    written(s, host, 2)
    resized(s, SEGMENT + 35)
    ask(s, move_disk, "vd0", "m1", first=1, count=1, bandwidth=20_000)
    s.wait(lambda: any(r.copied or r.fresh for r in records(s)), "nothing is copied")
    host = through(s, 0, "n")
    if written_meanwhile:
        assert done(s, host, "write", SEGMENT + 24, 11) == 0
    resized(s, 2 * SEGMENT)
    assert moving(s)
    assert done(s, host, "read", SEGMENT, SEGMENT) == 0
    assert done(s, host, "write", SEGMENT + 50, 30) == 0
    assert done(s, host, "read", SEGMENT, SEGMENT) == 0
    s.wait(lambda: no_job(s), "the job does not end")
    end(s)


def test_cancel_finishes_what_was_begun(stage: Build) -> None:
    s = stage(media=TWO, settings=SLOW)
    written(s, through(s, 0))
    ask(s, move_disk, "vd0", "m1", bandwidth=200_000)
    s.wait(lambda: moving(s), "nothing moves")
    ask(s, cancel_job, 1)
    s.wait(lambda: no_job(s), "the job does not end")
    assert lies(s) == {1: 3, 2: 1}
    assert s.controller.table.jobs[1].outcome == "cancelled"
    end(s)


def test_a_destination_that_fails_is_given_up_by_cancel(stage: Build) -> None:
    """No host has written: the extent stays where it was, and every read is right."""
    s = stage(media=TWO, errors_allowed=True)
    host = through(s, 0)
    written(s, host, 1)
    medium(s, 1).failing = frozenset({"write"})
    medium(s, 1).failure_odds = 1.0
    medium(s, 1).fail_until_ns = s.world.now_ns + 100 * SECOND
    ask(s, move_disk, "vd0", "m1")
    s.wait(lambda: "cannot be copied" in s.controller.jobs.running[1].waits_for, "it is not named")
    assert done(s, host, "read", 0, 64) == 0
    ask(s, cancel_job, 1)
    s.wait(lambda: no_job(s), "the job does not end")
    assert lies(s) == {1: 1}
    assert s.checks.counts["movement abandoned"] == 1
    assert done(s, host, "write", 0, 8) == 0, "hosts go on at the old location"
    medium(s, 1).heal()
    end(s)


def test_stopping_a_drain_names_what_is_to_be_done(stage: Build) -> None:
    """Or what is being done: one that is cancelled need not be cancelled again."""
    s = stage(media=TWO, settings=SLOW)
    written(s, through(s, 0), 2)
    ask(s, drain_container, "m0", bandwidth=50_000)
    s.wait(lambda: moving(s), "nothing moves")
    with pytest.raises(Refusal, match="`segue job cancel 1` ends it"):
        ask(s, fill_container, "m0")
    ask(s, cancel_job, 1)
    with pytest.raises(Refusal, match="is being cancelled: with its end"):
        ask(s, fill_container, "m0")
    s.wait(lambda: no_job(s), "the job does not end")
    assert not s.controller.table.containers[1].draining
    end(s)


def test_a_destination_that_fails_after_a_write_is_not_given_up(stage: Build) -> None:
    """What hosts wrote there is EIO while it lasts, never reverted."""
    s = stage(media=TWO, errors_allowed=True, settings=SLOW)
    host = through(s, 0)
    written(s, host, 1)
    ask(s, move_disk, "vd0", "m1", bandwidth=50_000)
    s.wait(lambda: moving(s), "nothing moves")
    assert done(s, host, "write", 64, 8) == 0
    medium(s, 1).failing = frozenset({"read", "write"})
    medium(s, 1).failure_odds = 1.0
    medium(s, 1).fail_until_ns = s.world.now_ns + 100 * SECOND
    ask(s, cancel_job, 1)
    s.wait(lambda: no_job(s), "the job does not end")
    assert done(s, host, "read", 64, 8) == EIO
    assert done(s, host, "read", 120, 8) == 0, "not yet copied: it is where it was"
    assert len(s.checks.replica.table.records) == 1
    medium(s, 1).heal()
    end(s)
    assert lies(s) == {2: 1}


def test_a_source_that_cannot_be_read_stays_and_is_named(stage: Build) -> None:
    s = stage(media=TWO, errors_allowed=True)
    host = through(s, 0)
    written(s, host, 2)
    medium(s, 0).failing = frozenset({"read"})
    medium(s, 0).failure_odds = 1.0
    medium(s, 0).fail_until_ns = s.world.now_ns + 100 * SECOND
    ask(s, move_disk, "vd0", "m1")
    s.wait(
        lambda: "2 segments cannot be copied" in s.controller.jobs.running[1].waits_for,
        "it is not named",
    )
    assert done(s, host, "write", 0, SEGMENT) == 0, "hosts go on: nothing of it need be read"
    s.wait(lambda: lies(s) == {1: 1, 2: 2}, "what was written as a whole is not moved")
    medium(s, 0).heal()
    end(s)
    assert lies(s) == {2: 2}


def test_after_a_failed_flush_of_the_destination_all_is_copied_again(stage: Build) -> None:
    """The kernel may have dropped what was copied: none of it counts (rule 6)."""
    s = stage(media=TWO, errors_allowed=True)
    host = through(s, 0)
    written(s, host, 2)
    medium(s, 1).failing = frozenset({"flush"})
    medium(s, 1).failure_odds = 1.0
    medium(s, 1).fail_until_ns = s.world.now_ns + 100 * SECOND
    ask(s, move_disk, "vd0", "m1")
    s.wait(lambda: len(s.controller.background.trouble) == 2, "no flush fails")
    medium(s, 1).heal()
    s.wait(lambda: no_job(s), "the job does not end")
    assert lies(s) == {2: 2}
    assert s.checks.replica.table.disks[1].failed, "hosts hear of it (P5)"
    s.lose_power()
    end(s)


@pytest.mark.parametrize("seed", range(4))
def test_a_write_that_failed_is_not_seen_and_then_unseen(stage: Build, seed: int) -> None:
    """What was copied and not flushed is taken back: nothing that a host wrote may go with it."""
    s = stage(seed=seed, media=TWO, errors_allowed=True, settings=SLOW)
    host, other = through(s, 0), through(s, 1)
    written(s, host, 1)
    ask(s, move_disk, "vd0", "m1", bandwidth=50_000)
    s.wait(lambda: any(r.fresh & 1 for r in s.controller.table.records.values()), "not copied")
    medium(s, 1).failing = frozenset({"write"})
    medium(s, 1).failure_odds = 1.0
    medium(s, 1).fail_until_ns = s.world.now_ns + 100 * SECOND
    assert done(s, host, "write", 0, 8) == EIO
    medium(s, 1).failing = frozenset({"flush"})
    assert done(s, other, "read", 0, 8) == 0
    s.wait(lambda: bool(s.controller.background.trouble), "no flush fails")
    assert done(s, other, "read", 0, 8) == 0
    medium(s, 1).heal()
    end(s)


def test_a_write_cut_off_before_its_bit_has_one_place_to_be_read_from(stage: Build) -> None:
    """It is over a copied block, its agent and the term are gone: all later reads agree."""
    hints = msgspec.structs.replace(SLOW, copy_hint_bytes=4096)
    s = stage(media=TWO, settings=hints)
    one, two = through(s, 0), through(s, 1)
    one.gives_up = 1.0
    written(s, two, 1)
    ask(s, move_disk, "vd0", "m1", bandwidth=50_000)
    s.wait(lambda: any(r.copied & 1 for r in s.checks.replica.table.records.values()), "no hint")
    write = one.do("write", 0, 8)
    holder, under_way = s.agent(0).plane.holder, medium(s, 1).under_way
    s.wait(lambda: any(r.holder is holder for r in under_way.values()), "no do_write runs")
    s.wait(lambda: not any(r.holder is holder for r in under_way.values()), "it does not end")
    s.agent(0).process.kill()
    s.office.terms[-1].process.kill()
    s.wait(write.done, "the host does not see that its agent died")
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    assert done(s, two, "read", 0, 8) == 0
    assert done(s, two, "write", 64, 8) == 0
    assert done(s, two, "read", 0, 8) == 0
    s.machines[0].boot_when_over()
    end(s)


def test_a_write_waits_for_the_piece_that_is_being_copied(stage: Build) -> None:
    """The copier would write what it has read over it (rule 12)."""
    s = stage(media=TWO, settings=SLOW)
    host, under_way = through(s, 0), medium(s, 1).under_way
    written(s, host, 1)
    ask(s, move_disk, "vd0", "m1", bandwidth=50_000)
    s.wait(lambda: moving(s), "nothing moves")
    assert done(s, host, "write", SEGMENT - 8, 8) == 0, "the source is closed from here on"
    s.wait(lambda: any(r.tag == ("copy",) for r in under_way.values()), "nothing is copied")
    [late] = under_way.values()
    late.stuck_until_ns = s.world.now_ns + 2 * SECOND
    assert done(s, host, "write", late.sector % SEGMENT, 3) == 0
    assert s.world.now_ns >= late.stuck_until_ns
    end(s)


def test_a_source_closed_for_a_write_is_no_neighbour_of_a_first_touch(stage: Build) -> None:
    """A read just before it while the write is under way: its agent gets no word of the source."""
    s = stage(media=TWO, settings=SLOW)
    one, two = through(s, 0), through(s, 1)
    written(s, one, 2)
    assert done(s, two, "read", 4 * SEGMENT, 8) == 0
    ask(s, move_disk, "vd0", "m1", bandwidth=50_000)
    s.wait(lambda: any(r.segment == 1 for r in records(s)), "segment 1 does not move")
    write = one.do("write", SEGMENT, 8)
    holder, under_way = s.agent(0).plane.holder, medium(s, 1).under_way
    s.wait(lambda: any(r.holder is holder for r in under_way.values()), "no do_write runs")
    for request in under_way.values():
        if request.holder is holder:
            request.stuck_until_ns = s.world.now_ns + SECOND // 2
    assert done(s, two, "read", 0, 8) == 0
    s.wait(write.done, "the write is not answered")
    assert done(s, two, "read", SEGMENT, 8) == 0
    end(s)


def test_a_drain_asked_for_again_is_the_one_that_runs_or_ends_at_once(stage: Build) -> None:
    """Until the container is being removed; and what is gone keeps its name in a later term."""
    s = stage(media=TWO, settings=SLOW)
    written(s, through(s, 0), 2)
    ask(s, drain_container, "m0", bandwidth=50_000)
    ask(s, drain_container, "m0")
    ask(s, drain_container, "m0", bandwidth=50_000)
    assert list(s.controller.jobs.running) == [1]
    with pytest.raises(Refusal, match="job 1 drains container m0 already, at another pace"):
        ask(s, drain_container, "m0", bandwidth=60_000)
    s.wait(lambda: no_job(s), "the job does not end")
    ask(s, drain_container, "m0")
    s.wait(lambda: no_job(s), "the second job does not end")
    assert [job.outcome for job in s.controller.table.jobs.values()] == ["done", "done"]
    assert s.controller.table.containers[1].draining
    s.controller.leaving.add(1)
    with pytest.raises(Refusal, match="container m0 is being removed"):
        ask(s, drain_container, "m0")
    s.controller.leaving.discard(1)
    ask(s, remove_container, "m0")
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    c = s.controller
    assert [job_info(c, job).container for job in c.table.jobs.values()] == ["m0", "m0"]
    end(s)


def test_a_jobs_rate_is_of_the_time_in_which_it_went_on(stage: Build) -> None:
    """Not of that in which it found no room."""
    s = stage(media=[MediumPlan(segments=12), MediumPlan(segments=2)], settings=SLOW)
    written(s, through(s, 0))
    ask(s, drain_container, "m0")
    run = s.controller.jobs.running[1]
    s.wait(lambda: run.waits_for == "no location is free", "it is not named")
    begun_ns, moved = s.world.now_ns, s.controller.table.jobs[1].moved_bytes
    went_on_ns = begun_ns - run.begun_ns
    s.world.run_for(60 * SECOND)
    ask(s, cancel_job, 1)
    s.wait(lambda: no_job(s), "the job does not end")
    rate = job_info(s.controller, s.controller.table.jobs[1]).bytes_per_s
    assert moved and rate > moved * SECOND // (went_on_ns + 5 * SECOND)
    end(s)


def test_a_drained_container_takes_nothing_new(stage: Build) -> None:
    s = stage(media=TWO)
    host = through(s, 0)
    written(s, host, 2)
    ask(s, drain_container, "m0")
    assert done(s, host, "write", 3 * SEGMENT, 8) == 0
    s.wait(lambda: no_job(s), "the job does not end")
    assert lies(s) == {2: 3}
    s.office.terms[-1].process.kill()
    s.wait(lambda: s.office.serving is not None, "no controller serves")
    assert s.controller.table.containers[1].draining
    with pytest.raises(Refusal, match="is being drained"):
        ask(s, move_disk, "vd0", "m0")
    end(s)


def test_plan_is_checked() -> None:
    assert {"media", "disks", "agents", "settings"} <= set(Plan.__dataclass_fields__)


def test_a_container_is_removed_while_a_dead_agents_pages_are_heard_of(stage: Build) -> None:
    """The disk's flush set still had it when the agent died, and nothing lay there."""
    s = stage(media=TWO)
    host = through(s, 0)
    written(s, host, 2)
    ask(s, move_disk, "vd0", "m1", first=1, count=1)
    s.wait(lambda: no_job(s), "it is not moved")
    assert done(s, host, "trim", SEGMENT, SEGMENT) == 0
    s.world.run_for(2 * SECOND)
    assert s.controller.table.disks[1].containers == [1, 2]
    peer = s.controller.peers[s.agent(0).incarnation]
    s.agent(0).process.kill()

    def flushes() -> list[Request]:
        return [r for r in medium(s, 0).under_way.values() if r.kind == "flush"]

    s.wait(lambda: peer.hearing is not None and bool(flushes()), "nothing is heard of")
    flushes()[0].stuck_until_ns = s.world.now_ns + 6 * SECOND
    ask(s, remove_container, "m1")
    assert peer.hearing is not None and not peer.hearing.done()
    end(s)
