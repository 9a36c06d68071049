"""Free space is derived, and what is clean is taken first only when asked for."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from segue.controller.space import CLEANING, FREE, QUARANTINED, RESERVED, USED, Space


def test_fresh_segments_of_a_created_file_are_clean_and_come_in_order() -> None:
    space = Space(3, default_clean=True)
    assert [space.take(clean=True) for _ in range(4)] == [(0, False), (1, False), (2, False), None]


def test_freed_segment_is_unclean_until_it_is_marked() -> None:
    space = Space(1, default_clean=True)
    assert space.take(clean=True) == (0, False)
    space.move(0, USED)
    space.set_clean(0, clean=False)
    space.move(0, FREE)
    assert space.take(clean=True) is None
    assert space.take(clean=False) == (0, True)
    space.move(0, CLEANING)
    space.set_clean(0, clean=True)
    space.move(0, FREE)
    assert space.take(clean=True) == (0, True)


def test_existing_storage_is_unclean() -> None:
    space = Space(2, default_clean=False)
    assert space.take(clean=True) is None
    assert space.take(clean=False) == (0, False)


@given(st.integers(0, 2**32), st.booleans())
def test_counts_hold_over_random_histories(seed: int, default_clean: bool) -> None:
    rng = random.Random(seed)
    space = Space(8, default_clean)
    for _ in range(60):
        segment = rng.randrange(8)
        state = space.state(segment)
        if state == FREE:
            found = space.take(rng.random() < 0.5)
            if found is not None:
                assert space.state(found[0]) == RESERVED
        elif state == RESERVED:
            space.move(segment, rng.choice([USED, FREE, CLEANING]))
            if space.state(segment) == USED:
                space.set_clean(segment, clean=False)
        elif state in (USED, QUARANTINED):
            space.move(segment, rng.choice([FREE, QUARANTINED]))
        else:
            space.set_clean(segment, clean=True)
            space.move(segment, FREE)
        space.self_check()
