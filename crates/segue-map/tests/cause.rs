//! Notes of what host I/O met: each way of a fault, parking, and nothing of clean I/O.
#![allow(missing_docs)]

mod harness;

use harness::{BLOCK, PAGE, Rig, SEGMENT, ZEROES, at, pieces};
use segue_map::{Cause, Config, HostOp};

fn noting() -> Rig {
    Rig::with(Config {
        park_limit_bytes: 1 << 20,
        host_timeout_ns: Some(50),
        pieces_at_once: segue_map::PIECES_AT_ONCE,
    })
}

/// The dearest note of the I/O 1; no other has one.
fn noted(rig: &mut Rig) -> Option<Cause> {
    let mut dearest = None;
    while let Some(note) = rig.engine.poll_note() {
        assert_eq!(note.token, 1);
        assert_eq!(note.request != 0, note.cause == Cause::Faulted);
        dearest = dearest.max(Some(note.cause));
    }
    dearest
}

#[test]
fn clean_io_is_not_noted() {
    let mut rig = noting();
    rig.set(0, 10, at(PAGE, 0), 1);
    let effects = rig.write(1, SEGMENT - 10, 20);
    for piece in pieces(&effects) {
        rig.done(piece, 0);
    }
    assert_eq!(noted(&mut rig), None);
}

#[test]
fn a_fault_is_noted_when_raised() {
    let mut rig = noting();
    rig.write(1, 0, BLOCK);
    let request = rig.fault().request;
    let note = rig.engine.poll_note().expect("a note");
    assert_eq!((note.cause, note.request), (Cause::Faulted, request));
    rig.tick(50);
    assert_eq!(noted(&mut rig), None, "its host was answered");
}

#[test]
fn what_carries_a_fault_out_is_dearer() {
    let mut rig = noting();
    rig.write(1, 0, BLOCK);
    let request = rig.fault().request;
    rig.do_write(request, at(PAGE, 9), 0, 0);
    assert_eq!(noted(&mut rig), Some(Cause::DoWrite));
    let effects = rig.effects();
    rig.done(pieces(&effects)[0], 0);
    rig.complete(request);
    assert_eq!(noted(&mut rig), None, "said already");

    rig.read(1, 0, BLOCK);
    let request = rig.fault().request;
    rig.do_split_read(request, &[(0, 1, 0)]);
    assert_eq!(noted(&mut rig), Some(Cause::SplitRead));
}

#[test]
fn the_controllers_word_alone_is_noted() {
    let mut rig = noting();
    rig.set(0, 1, at(PAGE, 0), 0);
    rig.io(1, HostOp::Trim, 0, SEGMENT);
    let request = rig.fault().request;
    rig.complete(request);
    assert_eq!(noted(&mut rig), Some(Cause::Completed));

    rig.set(0, 1, ZEROES, 0);
    rig.write(1, 0, BLOCK);
    let request = rig.fault().request;
    rig.fail(request, 28);
    assert_eq!(noted(&mut rig), Some(Cause::Failed));
}

#[test]
fn parked_io_is_noted_without_a_fault() {
    let mut rig = noting();
    rig.set(0, 1, at(PAGE, 0), 0);
    rig.engine.end_lease(0);
    rig.write(1, 0, BLOCK);
    assert_eq!(noted(&mut rig), Some(Cause::Parked));
}
