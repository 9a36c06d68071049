"""How long simulated host I/O took: what the data thread counts in Rust (`plane/latency.rs`)."""

from __future__ import annotations

from segue import _native

OPERATIONS = {"read": 1, "write": 2, "zero": 3, "trim": 4, "flush": 5}
Row = tuple[int, int, int, int, list[int], list[int]]


class Latencies:
    """Histograms by disk, operation and cause; counts only grow."""

    def __init__(self) -> None:
        self._times: dict[int, dict[tuple[int, int], list[int]]] = {}

    def count(self, disk: int, op: str, cause: int, took_ns: int) -> None:
        """A host I/O was answered."""
        if op in OPERATIONS:
            of_disk = self._times.setdefault(disk, {})
            of_disk.setdefault((OPERATIONS[op], cause), []).append(took_ns)

    def rows(self, disk: int) -> list[Row]:
        """As the event ``latency`` carries them."""
        return [_row(kind, times) for kind, times in sorted(self._times.get(disk, {}).items())]


def _row(kind: tuple[int, int], times: list[int]) -> Row:
    counts: dict[int, int] = {}
    for ns in times:
        bucket = _native.latency_bucket(ns)
        counts[bucket] = counts.get(bucket, 0) + 1
    buckets = sorted(counts)
    return *kind, sum(times), max(times), buckets, [counts[bucket] for bucket in buckets]
