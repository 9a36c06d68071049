"""Grants are never smaller than what was sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.controller.grants import Grants

RUN = st.tuples(st.integers(0, 9000), st.integers(1, 5000))


@given(
    st.booleans(), st.lists(st.tuples(st.sampled_from(["mark", "clear"]), RUN), max_size=12), RUN
)
def test_like_a_set(
    everything: bool, steps: list[tuple[str, tuple[int, int]]], asked: tuple[int, int]
) -> None:
    grants, held = Grants(everything), [everything] * 15000
    for verb, (first, count) in steps:
        getattr(grants, verb)(first, count)
        held[first : first + count] = [verb == "mark"] * count
    assert grants.any(*asked) == any(held[asked[0] : asked[0] + asked[1]])


def test_clear_all_forgets_the_assumption_of_a_new_term() -> None:
    grants = Grants(everything=True)
    assert grants.any(1 << 40, 1)
    grants.clear_all()
    assert not grants.any(0, 1 << 20)
