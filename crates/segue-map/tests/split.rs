//! How a host I/O is split, what its faults say, and its one reply.
#![allow(missing_docs)]

mod harness;

use harness::{DISK, PAGE, Rig, SEGMENT, SIZE, ZEROES, at, pieces, place, read_only, reply};
use segue_map::output::{STATUS_HOLE, STATUS_ZERO};
use segue_map::{Effect, HostOp, IoKind, MapFault, Operation, host_flags};

#[test]
fn an_io_over_segments_is_split_and_answered_once() {
    let mut rig = Rig::mapped(PAGE);
    let effects = rig.write(1, SEGMENT - 100, SEGMENT + 300);
    let expected = [
        (IoKind::Write, PAGE, SEGMENT - 100, 100),
        (IoKind::Write, PAGE, SEGMENT, SEGMENT),
        (IoKind::Write, PAGE, 2 * SEGMENT, 200),
    ];
    assert_eq!(effects.iter().map(place).collect::<Vec<_>>(), expected);
    let ids = pieces(&effects);
    assert_eq!(rig.done(ids[1], 0), []);
    assert_eq!(rig.done(ids[0], 28), []);
    assert_eq!(rig.done(ids[2], 5), [reply(1, 28)], "the first error wins");
    rig.assert_idle();
}

#[test]
fn a_fault_names_segment_blocks_and_word() {
    let mut rig = Rig::new();
    rig.set(3, 1, read_only(PAGE, 50), 0);
    rig.write(1, 3 * SEGMENT + 5000, 4096);
    let expected = MapFault {
        request: 1,
        disk: DISK,
        segment: 3,
        segments: 1,
        operation: Operation::Write,
        first_block: 1,
        count_blocks: 2,
        word: read_only(PAGE, 50),
    };
    assert_eq!(rig.fault(), expected);
}

#[test]
fn a_discard_of_many_segments_is_one_fault() {
    let mut rig = Rig::mapped(PAGE);
    rig.set(4, 2, ZEROES, 0);
    // Part of segment 0, whole 1 to 3, zero 4 and 5, whole 6 to the short end.
    let effects = rig.io(1, HostOp::Trim, 100, SIZE - 100);
    assert_eq!(place(&effects[0]), (IoKind::Trim, PAGE, 100, SEGMENT - 100));
    let faults = rig.faults();
    let runs: Vec<_> = faults
        .iter()
        .map(|f| (f.segment, f.segments, f.operation))
        .collect();
    assert_eq!(
        runs,
        [(1, 3, Operation::Discard), (6, 4, Operation::Discard)]
    );
    assert_eq!(faults[1].count_blocks, (SIZE - 6 * SEGMENT).div_ceil(4096));
    assert_eq!(rig.retry(faults[0], ZEROES), []);
    assert_eq!(rig.retry(faults[1], ZEROES), []);
    assert_eq!(rig.done(pieces(&effects)[0], 0), [reply(1, 0)]);
}

#[test]
fn a_run_whose_entries_changed_in_part_is_split_afresh() {
    let mut rig = Rig::mapped(PAGE);
    rig.io(1, HostOp::WriteZeroes, 0, 4 * SEGMENT);
    let fault = rig.fault();
    assert_eq!((fault.segment, fault.segments), (0, 4));
    rig.set(1, 1, ZEROES, 0);
    let runs = Vec::new();
    rig.send(segue_map::Control::Retry {
        request: fault.request,
        disk: DISK,
        runs,
    });
    let runs: Vec<_> = rig
        .faults()
        .iter()
        .map(|f| (f.segment, f.segments))
        .collect();
    assert_eq!(runs, [(0, 1), (2, 2)]);
}

#[test]
fn every_segment_of_a_read_faults_for_itself() {
    let mut rig = Rig::new();
    rig.read(1, 0, 3 * SEGMENT);
    let faults = rig.faults();
    assert_eq!(faults.len(), 3);
    assert_eq!(rig.retry(faults[1], ZEROES), [fill(1, SEGMENT, SEGMENT)]);
    let first = rig.retry(faults[0], at(PAGE, 8));
    assert_eq!(rig.done(pieces(&first)[0], 0), []);
    assert_eq!(rig.fail(faults[2].request, 28), [reply(1, 28)]);
    rig.assert_idle();
}

fn fill(token: u64, buf_off: u64, len: u64) -> Effect {
    Effect::ZeroFill {
        token,
        buf_off,
        len,
    }
}

#[test]
fn a_short_last_segment_is_whole_to_its_end() {
    let mut rig = Rig::mapped(PAGE);
    rig.io(1, HostOp::Trim, 9 * SEGMENT, 10_000);
    assert_eq!(rig.fault().operation, Operation::Discard);
    let effects = rig.io(2, HostOp::Trim, 9 * SEGMENT, 9_999);
    assert_eq!(place(&effects[0]), (IoKind::Trim, PAGE, 9 * SEGMENT, 9_999));
}

#[test]
fn zeroes_are_written_where_no_hole_is_asked() {
    let mut rig = Rig::mapped(PAGE);
    let flags = host_flags::NO_HOLE | host_flags::FAST_ZERO | host_flags::FUA;
    let effects = rig.io_with(1, HostOp::WriteZeroes, SEGMENT, SEGMENT, flags);
    let Effect::Io {
        kind,
        no_hole,
        fast,
        fua,
        ..
    } = effects[0]
    else {
        panic!("{effects:?}")
    };
    assert_eq!(
        (kind, no_hole, fast, fua),
        (IoKind::WriteZeroes, true, true, true)
    );
}

#[test]
fn block_status_is_the_longest_known_prefix() {
    let mut rig = Rig::mapped(PAGE);
    rig.set(2, 2, ZEROES, 0);
    rig.set(5, 1, 0, 0);
    let hole = STATUS_HOLE | STATUS_ZERO;
    let effects = rig.io(1, HostOp::BlockStatus, SEGMENT / 2, 8 * SEGMENT);
    let extents = vec![(SEGMENT * 3 / 2, 0), (2 * SEGMENT, hole), (SEGMENT, 0)];
    assert_eq!(effects, [Effect::StatusReply { token: 1, extents }]);
    let one = host_flags::REQ_ONE;
    let effects = rig.io_with(2, HostOp::BlockStatus, SEGMENT / 2, 8 * SEGMENT, one);
    assert_eq!(
        effects,
        [Effect::StatusReply {
            token: 2,
            extents: vec![(SEGMENT * 3 / 2, 0)]
        }]
    );
    rig.assert_idle();
}

#[test]
fn block_status_fetches_what_it_does_not_know() {
    let mut rig = Rig::mapped(PAGE);
    rig.set(5, 3, 0, 0);
    rig.io(1, HostOp::BlockStatus, 5 * SEGMENT + 100, 4 * SEGMENT);
    let fault = rig.fault();
    assert_eq!(
        (fault.segment, fault.segments, fault.operation),
        (5, 3, Operation::Read)
    );
    let effects = rig.retry(fault, ZEROES);
    let hole = STATUS_HOLE | STATUS_ZERO;
    let extents = vec![(3 * SEGMENT - 100, hole), (SEGMENT + 100, 0)];
    assert_eq!(effects, [Effect::StatusReply { token: 1, extents }]);
}

#[test]
fn what_cannot_be_is_answered_at_once() {
    let mut rig = Rig::mapped(PAGE);
    assert_eq!(rig.read(1, SIZE - 10, 11), [reply(1, 22)]);
    assert_eq!(rig.write(2, SIZE - 10, 11), [reply(2, 28)]);
    assert_eq!(rig.write(3, u64::MAX, 2), [reply(3, 22)]);
    assert_eq!(rig.write(4, 0, 0), [reply(4, 22)]);
    rig.engine.host_io(0, 5, DISK + 1, HostOp::Read, 0, 1, 0);
    assert_eq!(rig.effects(), [reply(5, 108)]);
}
