//! Read-merge-writes: which writes become one, and that nobody else writes what they hold.
#![allow(missing_docs)]

mod harness;

use harness::{DIRECT, DISK, PAGE, Rig, SEGMENT, at, piece, reply};
use segue_map::{Control, Effect, HostOp, Src, host_flags};

const UNIT: u64 = 4096;

#[test]
fn an_unaligned_write_merges_whole_units_in_place() {
    let mut rig = Rig::mapped(DIRECT);
    let effects = rig.io_with(1, HostOp::Write, SEGMENT + 5000, 6000, host_flags::FUA);
    let Effect::Rmw {
        offset_bytes,
        len,
        data_skip,
        data_len,
        head,
        tail,
        fua,
        unit_bytes,
        ..
    } = effects[0]
    else {
        panic!("{effects:?}");
    };
    assert_eq!((offset_bytes, len), (SEGMENT + UNIT, 2 * UNIT));
    assert_eq!(
        (data_skip, data_len, unit_bytes, fua),
        (904, 6000, 4096, true)
    );
    let unit = |index: u64| Src::Location {
        container: DIRECT,
        offset_bytes: SEGMENT + index * UNIT,
    };
    assert_eq!((head, tail), (unit(1), unit(2)));
    assert_eq!(rig.done(piece(&effects[0]), 0), [reply(1, 0)]);
}

#[test]
fn aligned_writes_trims_and_other_containers_do_not_merge() {
    let mut rig = Rig::mapped(DIRECT);
    rig.set(1, 1, at(PAGE, 50), 0);
    let plain = |effects: Vec<Effect>| matches!(effects[..], [Effect::Io { .. }]);
    assert!(plain(rig.write(1, 8192, 4096)));
    assert!(plain(rig.io(2, HostOp::Trim, 100, 100)));
    assert!(plain(rig.write(3, SEGMENT + 100, 100)));
    assert!(plain(rig.read(4, 100, 100)));
}

#[test]
fn zeroes_merge_too_and_the_last_unit_may_pass_the_end_of_the_disk() {
    let mut rig = Rig::mapped(DIRECT);
    let effects = rig.io(1, HostOp::WriteZeroes, 9 * SEGMENT + 8192, 1808);
    let Effect::Rmw {
        zeroes,
        len,
        data_skip,
        data_len,
        ..
    } = effects[0]
    else {
        panic!("{effects:?}");
    };
    assert_eq!((zeroes, len, data_skip, data_len), (true, UNIT, 0, 1808));
}

#[test]
fn others_wait_for_the_units_it_holds() {
    let mut rig = Rig::mapped(DIRECT);
    let merge = rig.start(1, HostOp::Write, 100, 10);
    assert_eq!(rig.write(2, 0, UNIT), [], "the same unit");
    assert_eq!(rig.write(3, 500, 10), [], "behind both");
    assert_eq!(rig.io(4, HostOp::Trim, 200, 10), [], "a trim as well");
    assert_eq!(rig.write(5, UNIT, UNIT).len(), 1, "the next unit");
    assert_eq!(rig.read(6, 0, UNIT).len(), 1, "reads do not wait");
    let effects = rig.done(merge, 0);
    assert_eq!(effects.len(), 2, "the reply, and the write that came next");
    let effects = rig.done(piece(&effects[1]), 0);
    assert!(
        matches!(effects[1], Effect::Rmw { token: 3, .. }),
        "then the merge behind it"
    );
    let effects = rig.done(piece(&effects[1]), 0);
    assert!(
        matches!(effects[1], Effect::Io { token: 4, .. }),
        "then the trim"
    );
}

#[test]
fn it_waits_for_writes_under_way() {
    let mut rig = Rig::mapped(DIRECT);
    let write = rig.start(1, HostOp::Write, 0, UNIT);
    assert_eq!(rig.write(2, 100, 10), []);
    assert_eq!(rig.engine.stats().parked_bytes, 10);
    let effects = rig.done(write, 0);
    assert!(matches!(effects[1], Effect::Rmw { token: 2, .. }));
}

#[test]
fn one_that_waits_is_decided_under_the_entries_of_then() {
    let mut rig = Rig::mapped(DIRECT);
    let merge = rig.start(1, HostOp::Write, 100, 10);
    rig.write(2, 200, 10);
    assert_eq!(rig.invalidate(0, 1), None);
    let command = rig.last_command();
    assert_eq!(rig.done(merge, 0), [reply(1, 0)]);
    assert_eq!(
        rig.answer_to(command),
        Some(segue_map::Outcome::Done),
        "it had not started"
    );
    assert_eq!(rig.faults().len(), 1);
}

#[test]
fn one_whose_host_is_gone_holds_nobody_up() {
    let mut rig = Rig::mapped(DIRECT);
    let first = rig.start(1, HostOp::Write, 0, UNIT);
    rig.write(2, 100, 2 * UNIT);
    assert_eq!(
        rig.write(3, 2 * UNIT, 10),
        [],
        "it waits for the one that waits"
    );
    rig.engine.host_gone(2);
    let effects = rig.effects();
    assert_eq!(effects[0], Effect::Release { token: 2 });
    assert!(matches!(effects[1], Effect::Rmw { token: 3, .. }));
    rig.done(first, 0);
}

#[test]
fn what_waits_parks_with_the_lease_or_a_quiesce() {
    let mut rig = Rig::mapped(DIRECT);
    let merge = rig.start(1, HostOp::Write, 100, 10);
    rig.write(2, 200, 10);
    rig.command(|command| Control::Quiesce {
        command,
        disk: DISK,
        quiesce: 1,
        drain_ns: 100,
        hold_ns: 100,
    });
    assert_eq!(rig.done(merge, 0), [reply(1, 0)]);
    assert_eq!(rig.tick(100).len(), 1, "it goes when the quiesce is over");
}
