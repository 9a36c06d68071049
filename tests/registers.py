"""Recorded histories of registers, and whether they are linearizable.

A register is read and written as a whole.  Every *attempt* of a write carries a value of its own
and is an operation of its own: from when it was sent to when it was answered, or to no end at all
if it never was.  So the reads say which attempts took effect, and the judgement is exact and fast
(Gibbons and Korach, "Testing shared memories", 1997): of each value take the *zone* between the
earliest end and the latest begin of its operations; the history is linearizable if

1. no read ended before its value's write began, or returned a value that nobody wrote;
2. no two *forward* zones (earliest end before latest begin) overlap;
3. no *backward* zone (the others) lies within a forward one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

FIRST = 0
"""The value before any write."""


@dataclass(frozen=True)
class Operation:
    """One attempt at one register; `end` is infinite if it was never answered."""

    register: int
    writes: bool
    value: int
    begin: float
    end: float = math.inf


@dataclass
class _Zone:
    value: int
    begin: float
    """Of the write."""
    latest_begin: float
    earliest_end: float

    @property
    def low(self) -> float:
        return min(self.earliest_end, self.latest_begin)

    @property
    def high(self) -> float:
        return max(self.earliest_end, self.latest_begin)

    @property
    def forward(self) -> bool:
        return self.earliest_end < self.latest_begin


def problems(history: Iterable[Operation]) -> list[str]:
    """One sentence for each register whose history is not linearizable."""
    by_register: dict[int, list[Operation]] = {}
    for operation in history:
        by_register.setdefault(operation.register, []).append(operation)
    found = []
    for register, operations in sorted(by_register.items()):
        wrong = _problem(operations)
        if wrong:
            found.append(f"register {register}: {wrong}")
    return found


def _problem(operations: list[Operation]) -> str:
    zones = {FIRST: _Zone(FIRST, -math.inf, -math.inf, -math.inf)}
    for write in (o for o in operations if o.writes):
        assert write.value not in zones, "every attempt of a write has a value of its own"
        zones[write.value] = _Zone(write.value, write.begin, write.begin, write.end)
    read = {FIRST}
    for o in (o for o in operations if not o.writes):
        if o.end == math.inf:
            continue
        zone = zones.get(o.value)
        if zone is None:
            return f"read {o.value:#x}, which nobody wrote"
        if o.end < zone.begin:
            return f"read {o.value:#x} before it was written"
        zone.latest_begin = max(zone.latest_begin, o.begin)
        zone.earliest_end = min(zone.earliest_end, o.end)
        read.add(o.value)
    # A write that was neither answered nor read may never have happened.
    sure = [z for z in zones.values() if z.value in read or z.earliest_end < math.inf]
    forward = sorted((z for z in sure if z.forward), key=lambda z: z.low)
    for one, other in pairwise(forward):
        if other.low < one.high:
            return f"{one.value:#x} and {other.value:#x} were both current between reads of each"
    lows = [zone.low for zone in forward]
    for zone in (z for z in sure if not z.forward):
        # Forward zones do not overlap: only the last that begins before it can hold it.
        at = bisect_left(lows, zone.low) - 1
        around = forward[at] if at >= 0 else None
        if around is not None and zone.high < around.high:
            return f"{around.value:#x} was read before and after {zone.value:#x} was written"
    return ""
