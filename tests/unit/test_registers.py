"""The judge of register histories, beside a slow and obvious one."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.registers import FIRST, Operation, problems


def write(value: int, begin: float, end: float = math.inf) -> Operation:
    return Operation(0, True, value, begin, end)


def read(value: int, begin: float, end: float) -> Operation:
    return Operation(0, False, value, begin, end)


def slow(history: list[Operation]) -> bool:
    """Whether some order of some of the unanswered writes, and all else, explains the history."""
    sure = [o for o in history if o.end < math.inf]
    doubtful = [o for o in history if o.end == math.inf and o.writes]
    for count in range(len(doubtful) + 1):
        for some in itertools.combinations(doubtful, count):
            if any(_explains(order) for order in itertools.permutations([*sure, *some])):
                return True
    return False


def _explains(order: tuple[Operation, ...]) -> bool:
    value = FIRST
    for at, operation in enumerate(order):
        if any(later.end < operation.begin for later in order[at + 1 :]):
            return False
        if operation.writes:
            value = operation.value
        elif operation.value != value:
            return False
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    times = draw(st.permutations(range(10)))
    count = draw(st.integers(1, 5))
    history = []
    writes = [False] * count
    for n in range(count):
        begin, end = sorted(times[2 * n : 2 * n + 2])
        writes[n] = draw(st.booleans())
        if writes[n]:
            last = draw(st.sampled_from([float(end), math.inf]))
            history.append(write(n + 1, begin, last))
        else:
            history.append(read(draw(st.integers(0, count)), begin, end))
    return history


@settings(max_examples=400, deadline=None)
@given(histories())
def test_it_says_what_trying_all_orders_says(history: list[Operation]) -> None:
    assert (problems(history) == []) == slow(history)


def test_a_lost_write_is_seen() -> None:
    assert problems([write(1, 0, 1), read(FIRST, 2, 3)])
    assert problems([write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)])


def test_a_write_that_was_not_answered_may_come_late_once() -> None:
    assert problems([write(1, 0), write(2, 1, 2), read(2, 3, 4), read(1, 5, 6)]) == []
    assert problems([write(1, 0), write(2, 1, 2), read(1, 3, 4), read(2, 5, 6), read(1, 7, 8)])
