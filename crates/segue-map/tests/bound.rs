//! One host I/O has few pieces at any time, however many segments it names; so has a disk.
#![allow(missing_docs)]

mod harness;

use harness::{DISK, PAGE, Rig, SEGMENT, at, pieces, place, reply};
use segue_map::{Config, HostOp, PIECES_AT_ONCE, host_flags};

const SEGMENTS: u64 = 65536;
const ALL: u64 = SEGMENTS * SEGMENT - 1;

/// A disk of 4 GiB of the smallest segments.
fn large() -> Rig {
    let mut rig = Rig::with(Config {
        park_limit_bytes: 1 << 20,
        host_timeout_ns: None,
        pieces_at_once: PIECES_AT_ONCE,
    });
    let grown = rig.command(|command| segue_map::Control::ResizeTable {
        command,
        disk: DISK,
        size_bytes: SEGMENTS * SEGMENT,
        blocking: false,
    });
    assert_eq!(grown, Some(segue_map::Outcome::Done));
    rig
}

#[test]
fn a_request_of_very_many_segments_has_few_pieces_and_is_answered_once() {
    let mut rig = large();
    rig.io_with(1, HostOp::WriteZeroes, 0, ALL, host_flags::NO_HOLE);
    let mut faults = rig.faults();
    assert_eq!(faults.len(), PIECES_AT_ONCE as usize);
    for answered in 1..=SEGMENTS {
        assert!(rig.engine.stats().pieces <= 2 * PIECES_AT_ONCE as usize);
        let request = faults.remove(0).request;
        // Checked as a whole now and then: it takes its time.
        rig.engine
            .control(0, segue_map::Control::CompleteToHost { request });
        while let Some(event) = rig.engine.poll_event() {
            if let segue_map::Event::Fault(fault) = event {
                faults.push(fault);
            }
        }
        if answered == SEGMENTS {
            assert_eq!(rig.effects(), [reply(1, 0)]);
        }
    }
    rig.assert_idle();
}

#[test]
fn what_is_done_at_once_does_not_pile_up() {
    let mut rig = large();
    rig.set(
        0,
        SEGMENTS,
        segue_map::entry::VALID | segue_map::entry::ERROR,
        0,
    );
    rig.set(SEGMENTS - 1, 1, 0, 0);
    let flags = host_flags::NO_HOLE;
    assert_eq!(rig.io_with(1, HostOp::WriteZeroes, 0, ALL, flags), []);
    assert!(rig.engine.stats().pieces <= 2 * PIECES_AT_ONCE as usize);
    let fault = rig.fault();
    assert_eq!(rig.fail(fault.request, 28), [reply(1, 5)]);
}

#[test]
fn what_is_held_back_goes_on_in_order_as_pieces_finish() {
    let mut rig = Rig::with(Config {
        park_limit_bytes: 1 << 20,
        host_timeout_ns: None,
        pieces_at_once: 2,
    });
    rig.set(0, 10, at(PAGE, 0), 1);
    let effects = rig.write(1, 0, 5 * SEGMENT);
    assert_eq!(effects.len(), 2);
    let offset = |effects: &[segue_map::Effect]| {
        assert_eq!(effects.len(), 1);
        place(&effects[0]).2
    };
    let third = rig.done(pieces(&effects)[1], 0);
    assert_eq!(offset(&third), 2 * SEGMENT);
    let fourth = rig.done(pieces(&effects)[0], 0);
    assert_eq!(offset(&fourth), 3 * SEGMENT);
    // The end of the lease voids what is done, too; then all is decided again.
    rig.tick(1000);
    rig.done(pieces(&third)[0], 0);
    rig.done(pieces(&fourth)[0], 0);
    rig.lease(2000);
    rig.set(0, 10, at(PAGE, 20), 1);
    let mut waiting = rig.faults();
    assert_eq!(waiting.len(), 2);
    let mut written = Vec::new();
    while let Some(fault) = waiting.pop() {
        let mut effects = rig.retry(fault, at(PAGE, 20 + fault.segment));
        while let Some(effect) = effects.pop() {
            if effect == reply(1, 0) {
                continue;
            }
            written.push(place(&effect).2 / SEGMENT);
            effects.extend(rig.done(harness::piece(&effect), 0));
        }
        waiting.extend(rig.faults());
    }
    written.sort_unstable();
    assert_eq!(written, [20, 21, 22, 23, 24]);
    rig.assert_idle();
}

#[test]
fn pieces_held_back_go_with_their_host_and_with_their_table() {
    for delete in [false, true] {
        let mut rig = large();
        let piece = rig.read(1, 0, 100).len();
        assert_eq!(piece, 0);
        rig.read(2, 0, 512 * SEGMENT);
        if delete {
            let answer = rig.command(|command| segue_map::Control::DeleteTable {
                command,
                disk: DISK,
            });
            assert_eq!(answer, Some(segue_map::Outcome::Done));
            assert_eq!(rig.effects(), [reply(1, 108), reply(2, 108)]);
        } else {
            rig.engine.host_gone(2);
            rig.engine.host_gone(1);
        }
        rig.assert_idle();
    }
}

#[test]
fn a_disk_with_very_many_pieces_takes_no_more_requests() {
    let mut rig = large();
    let mut token = 0;
    while rig.engine.accepts(DISK) {
        token += 1;
        rig.engine
            .host_io(0, token, DISK, HostOp::Read, 0, 256 * SEGMENT, 0);
        assert!(token < 1000, "there is no bound");
    }
    assert!(rig.engine.stats().faults < 20_000);
    assert!(rig.engine.accepts(DISK + 1), "others are served");
    for gone in 1..=token {
        rig.engine.host_gone(gone);
    }
    assert!(rig.engine.accepts(DISK));
    rig.assert_idle();
}
