"""Who reads or writes blocks of an incomplete extent holds them, before until after (rule 12)."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from segue.sim.loop import SECOND
from segue.sim.stage import Stage, settings
from tests.sim.stories import SEGMENT, UNCLEAN, done, end, medium, through, writing, zeroing

Build = Callable[..., Stage]


def test_nobody_touches_what_an_agent_is_told_to_write(stage: Build) -> None:
    """Neither the copier, which has all the rest to zero, nor another agent's host."""
    s = stage(media=UNCLEAN, settings=msgspec.structs.replace(settings(), copy_piece_bytes=4096))
    one, two = through(s, 0), through(s, 1)
    assert done(s, two, "read", SEGMENT, 8) == 0
    write = one.do("write", SEGMENT - 3, 2)
    s.wait(lambda: writing(s, commanded=True), "no do_write has started")
    [late] = [r for r in medium(s).under_way.values() if r.holder is s.agent(0).plane.holder]
    late.stuck_until_ns = s.world.now_ns + SECOND // 2
    assert done(s, two, "write", 0, 8) == 0, "other blocks are free"
    assert s.world.now_ns < late.stuck_until_ns
    assert done(s, two, "write", SEGMENT - 8, 8) == 0
    assert s.world.now_ns >= late.stuck_until_ns
    s.wait(write.done, "the write is not answered")
    assert write.result() == 0
    end(s)


def test_a_discard_waits_for_the_zeroes_that_are_being_written(stage: Build) -> None:
    """They would land on whatever lies there next."""
    s = stage(media=UNCLEAN)
    host = through(s, 0)
    host.do("write", 3, 2)
    s.wait(lambda: bool(zeroing(s)), "nothing is zeroed")
    [late] = zeroing(s)
    late.stuck_until_ns = s.world.now_ns + SECOND // 2
    assert done(s, host, "trim", 0, SEGMENT) == 0
    assert s.world.now_ns >= late.stuck_until_ns
    end(s)
