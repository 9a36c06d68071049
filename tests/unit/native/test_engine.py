"""`segue._native.Engine`: every message goes in, every effect and event comes out as the stub says.

What the engine decides is tested in Rust (crates/segue-map/tests); here only the crossing.
"""

from __future__ import annotations

from typing import Any

import pytest

from segue import _native
from segue.wire import messages as m

DISK = 7
SEGMENT = 1 << 20
BLOCK = 4096
CONTAINER = m.ContainerSpec(
    container=1,
    uri="file:///pool",
    identity=bytes(range(16)),
    segment_bytes=SEGMENT,
    segments=100,
    cache="direct",
    write_unit_bytes=4096,
)


def location(segment: int) -> int:
    return _native.entry_pack(1, segment)


class Rig:
    """An engine with a lease and one disk of ten segments, all invalid."""

    def __init__(self, host_timeout_ns: int | None = None) -> None:
        self.engine = _native.Engine(park_limit_bytes=1 << 20, host_timeout_ns=host_timeout_ns)
        self.engine.set_lease(0, 10_000)
        self.say(m.NewTable(1, DISK, 10 * SEGMENT, SEGMENT, BLOCK, False, [CONTAINER]))
        assert self.engine.events() == [("answer", 1, m.Outcome.DONE, 0, [], False)]

    def say(self, message: m.Message) -> None:
        self.engine.deliver(0, message)
        self.engine.self_check()

    def answer(self, message: m.Message) -> tuple[Any, ...]:
        self.say(message)
        (event,) = self.engine.events()
        return event

    def host_io(self, op: str, offset: int, length: int, flags: int = 0) -> list[tuple[Any, ...]]:
        self.engine.host_io(0, 100, DISK, op, offset, length, flags)
        return self.engine.effects()


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def mapped(rig: Rig) -> Rig:
    rig.say(m.SetEntry(2, DISK, [m.EntryRun(0, 10, location(20), 1)], False))
    rig.engine.events()
    return rig


def test_entry_constants_pack_as_documented() -> None:
    word = _native.entry_pack(3, 9, no_write=True)
    assert word == _native.ENTRY_VALID | _native.ENTRY_NO_WRITE | 3 << 44 | 9
    assert word >> _native.ENTRY_CONTAINER_SHIFT & 0xFFFF == 3
    assert word & _native.ENTRY_SEGMENT_MASK == 9
    assert _native.ENTRY_VALID == 1 << 63
    assert _native.ENTRY_ERROR == 1 << 62
    assert _native.ENTRY_ZERO == 1 << 61
    with pytest.raises(ValueError, match="44 bits"):
        _native.entry_pack(1, 1 << 44)
    with pytest.raises(OverflowError):
        _native.entry_pack(1 << 16, 0)


def test_a_write_faults_and_goes_after_retry(rig: Rig) -> None:
    assert rig.host_io("write", SEGMENT + BLOCK, 2 * BLOCK, _native.FLAG_FUA) == []
    assert rig.engine.events() == [("fault", 1, DISK, 1, 1, m.Operation.WRITE, 1, 2, 0)]
    rig.say(m.Retry(1, DISK, [m.EntryRun(1, 1, location(5))]))
    ((name, piece, *rest),) = rig.engine.effects()
    assert (name, rest) == (
        "io",
        [100, "write", 1, 5 * SEGMENT + BLOCK, 2 * BLOCK, 0, True, False, False],
    )
    rig.engine.piece_done(1, piece, 0)
    assert rig.engine.effects() == [("reply", 100, 0, False)]


@pytest.mark.parametrize("op", ["read", "write", "zero", "trim"])
def test_kinds_of_io(mapped: Rig, op: str) -> None:
    flags = _native.FLAG_NO_HOLE | _native.FLAG_FAST_ZERO
    ((_, _, _, kind, *_, no_hole, fast),) = mapped.host_io(op, BLOCK, BLOCK, flags)
    assert (kind, no_hole, fast) == (op, op == "zero", op == "zero")


def test_a_merge_names_its_edges(mapped: Rig) -> None:
    ((name, _, *rest),) = mapped.host_io("write", BLOCK + 10, BLOCK)
    first = 20 * SEGMENT + BLOCK
    edges = [(1, first), (1, first + BLOCK)]
    assert name == "rmw"
    assert rest == [100, 1, first, 2 * BLOCK, 0, 10, BLOCK, False, *edges, False, 4096]


def test_zero_edges_are_none(rig: Rig) -> None:
    rig.host_io("zero", BLOCK + 10, BLOCK)
    ((_, request, *_),) = rig.engine.events()
    rig.say(m.DoWrite(9, request, location(3), 0, 0))
    ((name, piece, *_, zeroes, head, tail, fua, _),) = rig.engine.effects()
    assert (name, zeroes, head, tail, fua) == ("rmw", True, None, None, True)
    rig.engine.piece_done(0, piece, 0)
    assert rig.engine.events() == [("answer", 9, m.Outcome.DONE, 0, [], False)]
    rig.say(m.CompleteToHost(request))
    assert rig.engine.effects() == [("reply", 100, 0, False)]


def test_a_split_read(rig: Rig) -> None:
    rig.host_io("read", 0, 2 * BLOCK)
    ((_, request, *_),) = rig.engine.events()
    runs = [m.BlockRun(0, 1, location(4)), m.BlockRun(1, 1, 0)]
    rig.say(m.DoSplitRead(9, request, runs))
    read, fill = rig.engine.effects()
    assert read[2:7] == (100, "read", 1, 4 * SEGMENT, BLOCK)
    assert fill == ("fill", 100, BLOCK, BLOCK)
    rig.engine.list_faults()
    fault = (request, DISK, 0, 1, int(m.Operation.READ), 0, 2, 0)
    pending = (fault, int(m.FaultStatus.RUNNING), 9, 0, 0)
    assert rig.engine.events() == [("faults", [DISK], [pending])]


def test_flush_and_a_failed_container(mapped: Rig) -> None:
    ((name, piece, token, container),) = mapped.host_io("flush", 0, 0)
    assert (name, token, container) == ("flush", 100, 1)
    mapped.engine.piece_done(0, piece, 28)
    ((name, request, *rest),) = mapped.engine.events()
    assert (name, rest) == ("container_failed", [DISK, 1, 28])
    mapped.say(m.Failure(request, 5))
    assert mapped.engine.effects() == [("reply", 100, 5, False)]


def test_what_was_not_begun_or_refused_fails_no_container(mapped: Rig) -> None:
    ((_, piece, *_),) = mapped.host_io("flush", 0, 0)
    mapped.engine.piece_not_begun(0, piece)
    ((name, piece, *_),) = mapped.engine.effects()
    assert name == "flush"
    mapped.engine.piece_refused(0, piece, 5)
    assert mapped.engine.effects() == [("reply", 100, 5, False)]
    assert mapped.engine.events() == []


def test_pieces_at_once() -> None:
    engine = _native.Engine(park_limit_bytes=1 << 20, pieces_at_once=2)
    engine.set_lease(0, 1000)
    engine.deliver(0, m.NewTable(1, DISK, 4 * SEGMENT, SEGMENT, BLOCK, False, []))
    engine.events()
    engine.host_io(0, 1, DISK, "read", 0, 4 * SEGMENT)
    assert [event[0] for event in engine.events()] == ["fault", "fault"]


def test_block_status(mapped: Rig) -> None:
    mapped.say(m.SetEntryState(3, DISK, 1, 1, _native.STATE_ZERO, False, False, False))
    hole = _native.STATUS_HOLE | _native.STATUS_ZERO
    assert mapped.host_io("status", 0, 3 * SEGMENT) == [
        ("status", 100, [(SEGMENT, 0), (SEGMENT, hole), (SEGMENT, 0)])
    ]


def test_every_table_command_is_answered(mapped: Rig) -> None:
    done: tuple[Any, ...] = (m.Outcome.DONE, 0, [], False)
    assert mapped.answer(m.GetEntry(3, DISK, 8, 2))[2:] == (
        m.Outcome.DONE,
        0,
        [location(28), location(29)],
        False,
    )
    invalid = m.SetEntryState(4, DISK, 0, 1, _native.STATE_INVALID, False, False, True)
    assert mapped.answer(invalid)[2:] == done
    assert mapped.answer(m.ResizeTable(5, DISK, 12 * SEGMENT, True))[2:] == done
    assert mapped.answer(m.SetContainers(6, DISK, [CONTAINER]))[2:] == done
    assert mapped.answer(m.Quiesce(7, DISK, 1, 10, 20))[2:] == done
    assert mapped.answer(m.Activate(8, DISK, 1))[2:] == (m.Outcome.DONE, 0, [], True)
    assert mapped.answer(m.DeleteTable(9, DISK))[2:] == done
    failed = mapped.answer(m.DeleteTable(10, DISK))
    assert failed == ("answer", 10, m.Outcome.FAILED, 2, [], False)


def test_quiesces_and_leases_end_by_themselves(rig: Rig) -> None:
    rig.say(m.Quiesce(3, DISK, 5, 10, 20))
    rig.engine.events()
    assert rig.engine.deadline() == 20
    rig.engine.tick(20)
    assert rig.engine.events() == [("quiesce_expired", DISK, 5)]
    assert rig.engine.deadline() == 10_000
    rig.engine.tick(10_000)
    assert rig.engine.events() == [("lease_ended",)]
    assert rig.engine.deadline() is None


def test_hosts_that_do_not_wait() -> None:
    rig = Rig(host_timeout_ns=50)
    rig.say(m.SetEntry(2, DISK, [m.EntryRun(0, 10, location(20), 1)], False))
    ((_, piece, *_),) = rig.host_io("write", 0, BLOCK)
    rig.engine.tick(50)
    assert rig.engine.effects() == [("reply", 100, 5, True)]
    rig.engine.piece_done(60, piece, 0)
    assert rig.engine.effects() == [("release", 100)]
    rig.host_io("flush", 0, 0)
    rig.engine.host_gone(100)
    assert rig.engine.effects() == []
    assert rig.engine.stats()["hosts"] == 1
    assert rig.engine.accepts(DISK)


def test_what_is_no_message_is_refused_and_changes_nothing(rig: Rig) -> None:
    digest = rig.engine.digest()
    with pytest.raises(TypeError, match="Lease is not for"):
        rig.engine.deliver(0, m.Lease(1, 2, 3))
    with pytest.raises(OverflowError):
        rig.engine.deliver(0, m.DeleteTable(1, 1 << 32))
    short = m.ContainerSpec(1, "file:///p", b"short", SEGMENT, 9, "page", 1)
    with pytest.raises(ValueError, match="16 bytes"):
        rig.engine.deliver(0, m.SetContainers(1, DISK, [short]))
    with pytest.raises(ValueError, match="no host operation"):
        rig.host_io("scribble", 0, 1)
    assert rig.engine.digest() == digest
    assert rig.engine.events() == []


def test_a_driver_that_finishes_what_is_not_under_way_is_found_out(rig: Rig) -> None:
    with pytest.raises(BaseException, match="not under way"):
        rig.engine.piece_done(0, 12345, 0)
