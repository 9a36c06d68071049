//! `do_write` and `do_split_read`: where they go, what they refuse, and how a fault ends after them.
#![allow(missing_docs)]

mod harness;

use harness::{BLOCK, DIRECT, PAGE, Rig, SEGMENT, ZEROES, at, pieces, place, reply};
use segue_map::{Effect, Event, FaultStatus, HostOp, IoKind, Outcome, Src};

/// A rig with one faulted I/O in segment 2.
fn faulted(op: HostOp, offset: u64, len: u64) -> (Rig, u64) {
    let mut rig = Rig::new();
    rig.io(1, op, 2 * SEGMENT + offset, len);
    let request = rig.fault().request;
    (rig, request)
}

#[test]
fn a_write_of_whole_blocks_goes_to_the_location_durably() {
    let (mut rig, request) = faulted(HostOp::Write, 2 * BLOCK, 3 * BLOCK);
    assert_eq!(rig.do_write(request, at(PAGE, 9), 0, 0), None);
    let effects = rig.effects();
    let expected = (IoKind::Write, PAGE, 9 * SEGMENT + 2 * BLOCK, 3 * BLOCK);
    assert_eq!(place(&effects[0]), expected);
    assert!(matches!(effects[0], Effect::Io { fua: true, .. }));
    let command = rig.last_command();
    assert_eq!(
        rig.done(pieces(&effects)[0], 0),
        [],
        "the host waits for complete_to_host"
    );
    assert_eq!(rig.answer_to(command), Some(Outcome::Done));
    assert_eq!(rig.complete(request), [reply(1, 0)]);
    rig.assert_idle();
}

#[test]
fn the_rest_of_its_edge_blocks_comes_from_head_and_tail() {
    let (mut rig, request) = faulted(HostOp::Write, BLOCK + 100, 2 * BLOCK);
    rig.do_write(request, at(PAGE, 9), at(DIRECT, 4), 0);
    let Effect::Rmw {
        container,
        offset_bytes,
        len,
        data_skip,
        data_len,
        zeroes,
        head,
        tail,
        fua,
        unit_bytes,
        ..
    } = rig.effects()[0]
    else {
        panic!("not merged");
    };
    assert_eq!(
        (container, offset_bytes, len),
        (PAGE, 9 * SEGMENT + BLOCK, 3 * BLOCK)
    );
    assert_eq!(
        (data_skip, data_len, unit_bytes),
        (100, 2 * BLOCK, BLOCK as u32)
    );
    assert_eq!((zeroes, fua), (false, true));
    let offset_bytes = 4 * SEGMENT + BLOCK;
    assert_eq!(
        head,
        Src::Location {
            container: DIRECT,
            offset_bytes
        }
    );
    assert_eq!(tail, Src::Zeroes);
}

#[test]
fn the_tail_is_the_last_unit_of_the_source() {
    let (mut rig, request) = faulted(HostOp::Write, BLOCK, 2 * BLOCK + 5);
    rig.do_write(request, at(PAGE, 9), 0, at(DIRECT, 4));
    let Effect::Rmw { tail, .. } = rig.effects()[0] else {
        panic!("not merged")
    };
    let offset_bytes = 4 * SEGMENT + 3 * BLOCK;
    assert_eq!(
        tail,
        Src::Location {
            container: DIRECT,
            offset_bytes
        }
    );
}

#[test]
fn zeroes_and_whole_trims_are_written_as_zeroes() {
    for op in [HostOp::WriteZeroes, HostOp::Trim] {
        let (mut rig, request) = faulted(op, 0, SEGMENT);
        rig.do_write(request, at(PAGE, 9), 0, 0);
        let expected = (IoKind::WriteZeroes, PAGE, 9 * SEGMENT, SEGMENT);
        assert_eq!(place(&rig.effects()[0]), expected);
    }
    let (mut rig, request) = faulted(HostOp::WriteZeroes, 5, 100);
    rig.do_write(request, at(PAGE, 9), 0, 0);
    assert!(matches!(rig.effects()[0], Effect::Rmw { zeroes: true, .. }));
}

#[test]
fn a_split_read_is_clipped_to_the_bytes_asked() {
    let (mut rig, request) = faulted(HostOp::Read, BLOCK + 10, 3 * BLOCK);
    let runs = [(1, 1, at(PAGE, 9)), (2, 1, 0), (3, 2, at(DIRECT, 4))];
    assert_eq!(rig.do_split_read(request, &runs), None);
    let effects = rig.effects();
    let first = (IoKind::Read, PAGE, 9 * SEGMENT + BLOCK + 10, BLOCK - 10);
    let last = (IoKind::Read, DIRECT, 4 * SEGMENT + 3 * BLOCK, BLOCK + 10);
    assert_eq!((place(&effects[0]), place(&effects[2])), (first, last));
    let fill = Effect::ZeroFill {
        token: 1,
        buf_off: BLOCK - 10,
        len: BLOCK,
    };
    assert_eq!(effects[1], fill);
    let command = rig.last_command();
    rig.done(harness::piece(&effects[2]), 0);
    assert_eq!(rig.answer_to(command), None);
    rig.done(harness::piece(&effects[0]), 0);
    assert_eq!(rig.answer_to(command), Some(Outcome::Done));
    assert_eq!(rig.complete(request), [reply(1, 0)]);
}

#[test]
fn a_split_read_of_zeroes_is_done_at_once() {
    let (mut rig, request) = faulted(HostOp::Read, 0, BLOCK);
    assert_eq!(
        rig.do_split_read(request, &[(0, 1, 0)]),
        Some(Outcome::Done)
    );
    rig.effects();
    assert_eq!(rig.complete(request), [reply(1, 0)]);
}

#[test]
fn a_failed_one_leaves_the_fault_waiting_and_may_be_tried_again() {
    let (mut rig, request) = faulted(HostOp::Read, 0, 2 * BLOCK);
    rig.do_split_read(request, &[(0, 1, at(PAGE, 1)), (1, 1, at(PAGE, 2))]);
    let (command, effects) = (rig.last_command(), rig.effects());
    rig.done(pieces(&effects)[0], 5);
    rig.done(pieces(&effects)[1], 0);
    assert_eq!(rig.answer_to(command), Some(Outcome::Failed));
    rig.engine.list_faults();
    let Some(Event::Faults { pending, .. }) = rig.events().pop() else {
        panic!("no list")
    };
    let listed = (
        pending[0].status,
        pending[0].outcome,
        pending[0].errno,
        pending[0].command,
    );
    assert_eq!(listed, (FaultStatus::Done, Outcome::Failed, 5, command));
    assert_eq!(rig.do_split_read(request, &[(0, 2, at(PAGE, 2))]), None);
    let effects = rig.effects();
    rig.done(pieces(&effects)[0], 0);
    assert_eq!(rig.complete(request), [reply(1, 0)]);
}

#[test]
fn one_at_a_time() {
    let (mut rig, request) = faulted(HostOp::Write, 0, BLOCK);
    rig.do_write(request, at(PAGE, 9), 0, 0);
    let digest = rig.engine.digest();
    assert_eq!(
        rig.do_write(request, at(PAGE, 9), 0, 0),
        Some(Outcome::Failed)
    );
    rig.complete(request);
    rig.fail(request, 5);
    assert_eq!(
        rig.engine.digest(),
        digest,
        "its answer must come after the do_write's"
    );
    assert_eq!(rig.engine.stats().ignored_answers, 2);
}

#[test]
fn requests_that_are_over_are_gone() {
    let (mut rig, request) = faulted(HostOp::Write, 0, BLOCK);
    assert_eq!(
        rig.do_write(request + 1, at(PAGE, 9), 0, 0),
        Some(Outcome::Gone)
    );
    rig.fail(request, 5);
    assert_eq!(
        rig.do_write(request, at(PAGE, 9), 0, 0),
        Some(Outcome::Gone)
    );
    let (mut rig, request) = faulted(HostOp::Write, 0, BLOCK);
    rig.engine.host_gone(1);
    assert_eq!(
        rig.do_write(request, at(PAGE, 9), 0, 0),
        Some(Outcome::Gone)
    );
}

#[test]
fn bad_ones_are_refused_and_change_nothing() {
    let (mut rig, write) = faulted(HostOp::Write, 0, BLOCK);
    rig.read(2, 5 * SEGMENT, 2 * BLOCK);
    let read = rig.fault().request;
    rig.io(3, HostOp::Trim, 6 * SEGMENT, 2 * SEGMENT);
    let run = rig.fault().request;
    let digest = rig.engine.digest();
    let refused = Some(Outcome::Failed);
    for location in [
        0,
        ZEROES,
        at(PAGE, 9) | segue_map::entry::NO_WRITE,
        at(PAGE, 100),
        at(3, 1),
    ] {
        assert_eq!(
            rig.do_write(write, location, 0, 0),
            refused,
            "{location:#x}"
        );
        if location != 0 {
            assert_eq!(rig.do_write(write, at(PAGE, 9), location, 0), refused);
            assert_eq!(rig.do_write(write, at(PAGE, 9), 0, location), refused);
            assert_eq!(rig.do_split_read(read, &[(0, 2, location)]), refused);
        }
    }
    assert_eq!(
        rig.do_write(read, at(PAGE, 9), 0, 0),
        refused,
        "not a write"
    );
    assert_eq!(
        rig.do_write(run, at(PAGE, 9), 0, 0),
        refused,
        "several segments"
    );
    assert_eq!(
        rig.do_split_read(write, &[(0, 1, 0)]),
        refused,
        "not a read"
    );
    for runs in [
        &[][..],
        &[(0, 1, 0)],
        &[(1, 1, 0)],
        &[(0, 3, 0)],
        &[(0, 1, 0), (0, 1, 0)],
    ] {
        assert_eq!(rig.do_split_read(read, runs), refused, "{runs:?}");
    }
    assert_eq!(
        rig.do_split_read(read, &[(0, 2, 0), (2, u64::MAX, 0)]),
        refused
    );
    assert_eq!((rig.effects(), rig.engine.digest()), (vec![], digest));
}

#[test]
fn nothing_is_completed_that_nobody_did() {
    for (op, expected) in [
        (HostOp::Read, 5),
        (HostOp::Write, 5),
        (HostOp::WriteZeroes, 0),
    ] {
        let (mut rig, request) = faulted(op, 0, SEGMENT);
        assert_eq!(rig.complete(request), [reply(1, expected)], "{op:?}");
    }
}

#[test]
fn block_status_of_an_incomplete_segment_is_data() {
    let (mut rig, request) = faulted(HostOp::BlockStatus, 100, 2 * SEGMENT);
    assert_eq!(rig.do_split_read(request, &[]), Some(Outcome::Done));
    let extents = vec![(SEGMENT - 100, 0)];
    assert_eq!(
        rig.complete(request),
        [Effect::StatusReply { token: 1, extents }]
    );
    rig.assert_idle();
}
