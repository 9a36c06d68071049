"""`segue disk explain` in words: who holds and who waits, and where nothing lies."""

from __future__ import annotations

import msgspec

from segue.api.explain import Decision, Explanation, Holding, LockInfo, Place
from segue.api.status import FaultInfo, WaitInfo, WorkInfo
from segue.cli.explain import lines

HOLDER = WorkInfo("job 3: segment 5", 2.0, [WaitInfo("answer", "agent one to answer", 1.5)])
WAITER = WorkInfo("fault 8 of agent two", 1.0, [])
DOES = {
    "read": ("zeroes", ""),
    "write": ("fault WRITE", "the controller gives the segment a location"),
    "zeroes, part": ("done", ""),
    "trim, part": ("done", ""),
    "trim, whole": ("done", ""),
}
ZERO = Explanation(
    disk="d",
    offset_bytes=5 << 20,
    segment=5,
    segment_bytes=1 << 20,
    block=0,
    block_bytes=4096,
    extent=0,
    entry="zero",
    why=["nothing was written here"],
    lies_at=None,
    reads_from=None,
    record=None,
    decisions=[Decision(io, does, then) for io, (does, then) in DOES.items()],
    agents=[],
    locks=[],
    blocks_taken=False,
    faults=[],
)


def test_a_zero_segment_lies_nowhere() -> None:
    assert list(lines(ZERO)) == [
        ("byte", "5242880 (5M) of disk d: segment 5, block 0 of 256"),
        ("entry", "zero: nothing was written here"),
        ("read", "zeroes"),
        ("write", "fault WRITE: the controller gives the segment a location"),
        ("zeroes", "done"),
        ("trim", "done"),
        ("discard", "of the whole segment: done"),
        ("agents", "none has a table of the disk"),
    ]


def test_who_is_at_it_is_said() -> None:
    fault = FaultInfo("two", "ab", 8, "d", 5, "write", 1.0, HOLDER.waits)
    info = msgspec.structs.replace(
        ZERO,
        extent=7,
        lies_at=Place("c", 3, "nbd://far/", 4 << 20, away_s=12.0),
        reads_from=Place("c", 3, "nbd://far/", 4 << 20, away_s=12.0),
        agents=[Holding("one", "ab", "present", True), Holding("two", "cd", "lost", False)],
        locks=[LockInfo("disk d segment 5", "exclusive, 1 waiting", [HOLDER], [WAITER])],
        blocks_taken=True,
        faults=[fault],
    )
    assert list(lines(info))[2:3] + list(lines(info))[8:] == [
        (
            "lies at",
            "container c segment 3, byte 4194304 of nbd://far/; its server is away for 12 s",
        ),
        ("agents", "one may hold the entry; two (lost) holds nothing"),
        ("lock", "disk d segment 5: exclusive, 1 waiting"),
        ("", "held by job 3: segment 5, 2.0 s, waits for agent one to answer (1.5 s)"),
        ("", "wanted by fault 8 of agent two, 1.0 s"),
        ("block", "held by I/O under way"),
        ("fault", "write at two, 1.0 s ago, waits for agent one to answer (1.5 s)"),
    ]
