"""`segue disk latency`."""

from __future__ import annotations

import json

import pytest

from segue.cli.latency import format_us
from tests.unit.cli.conftest import LATENCY, Api


def test_a_row_for_each_operation_and_cause(api: Api) -> None:
    lines = api.run("disk", "latency", "d").output.splitlines()
    assert lines[0].split() == [
        "OPERATION",
        "CAUSE",
        "COUNT",
        "MEAN",
        "P50",
        "P99",
        "P99.9",
        "P99.99",
        "MAX",
    ]
    assert " ".join(lines[1].split()) == "write-zeroes do_write 12 1.23 ms 12 us 1 ms 2 s 3 s 61 s"
    assert lines[2] == "not counted, for they do not answer: two"
    assert json.loads(api.run("disk", "latency", "d", "--json").output) == LATENCY


@pytest.mark.parametrize(
    ("us", "text"),
    [(0.0, "0 us"), (12.34, "12.3 us"), (999.7, "1 ms"), (999_700, "1 s"), (3.7e9, "3700 s")],
)
def test_times_have_three_digits_and_a_unit(us: float, text: str) -> None:
    assert format_us(us) == text
