"""Histograms: what an interval is, what a percentile is, and what an agent may say."""

from __future__ import annotations

from segue import _native
from segue.controller.latency import Histogram, merged
from segue.wire.messages import Cause, LatencyRow


def of(*times_ns: int) -> Histogram:
    histogram = Histogram()
    for ns in times_ns:
        histogram.take(LatencyRow(1, Cause.CLEAN, ns, ns, [_native.latency_bucket(ns)], [1]))
    return histogram


def test_a_percentile_is_the_end_of_its_bucket_but_no_more_than_the_longest() -> None:
    times = of(*[1_000] * 98, 50_000, 9_000_000)
    assert 1_000 <= (times.percentile_ns(50) or 0) <= 1_064
    assert 50_000 <= (times.percentile_ns(99) or 0) <= 53_200
    assert times.percentile_ns(99.9) == 9_000_000
    assert Histogram().percentile_ns(99) is None


def test_an_interval_is_a_difference() -> None:
    before, after = of(1_000, 9_000_000), of(1_000, 9_000_000, 2_000, 1_000)
    interval = after.since(before)
    assert (interval.count, interval.sum_ns) == (2, 3_000)
    assert 2_000 <= interval.max_ns <= 2_128, "the longest of all came before"
    assert after.since(after) == Histogram()
    assert after.since(Histogram()).max_ns == 9_000_000


def test_after_a_table_made_anew_all_counts() -> None:
    assert of(2_000).since(of(1_000)) == of(2_000)
    assert of(1_000, 1_000).since(of(1_000, 1_000, 1_000)) == of(1_000, 1_000)


def test_histograms_of_several_agents_are_merged() -> None:
    total = merged([of(1_000, 2_000), of(2_000, 7_000)])
    assert (total.count, total.sum_ns, total.max_ns) == (4, 12_000, 7_000)


def test_a_bucket_that_there_is_not_counts_as_the_last() -> None:
    histogram = Histogram()
    histogram.take(LatencyRow(1, Cause.CLEAN, 5, 1 << 62, [10**9], [3]))
    longest_ns = _native.latency_bucket_ns(_native.LATENCY_BUCKETS)
    assert histogram.percentile_ns(50) == longest_ns
    assert histogram.since(Histogram()).max_ns == longest_ns
