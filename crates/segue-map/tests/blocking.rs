//! Exactly "prior I/O finished": blocking commands, delete_table, quiesce and activate.
#![allow(missing_docs)]

mod harness;

use harness::{DISK, PAGE, Rig, SEGMENT, at, pieces, reply, spec};
use segue_map::{Control, Event, HostOp, Outcome};

fn quiesce(rig: &mut Rig, quiesce: u64, drain_ns: u64, hold_ns: u64) -> Option<Outcome> {
    rig.command(|command| Control::Quiesce {
        command,
        disk: DISK,
        quiesce,
        drain_ns,
        hold_ns,
    })
}

/// What `activate` says of the quiesce.
fn activate(rig: &mut Rig, quiesce: u64) -> bool {
    rig.engine.control(
        rig.now,
        Control::Activate {
            command: 999,
            disk: DISK,
            quiesce,
        },
    );
    let held = rig.events().into_iter().find_map(|event| match event {
        Event::Answer {
            command: 999,
            outcome: Outcome::Done,
            held,
            ..
        } => Some(held),
        _ => None,
    });
    held.expect("activate is answered at once")
}

#[test]
fn it_waits_for_io_started_on_the_run_and_for_no_other() {
    let mut rig = Rig::mapped(PAGE);
    let inside = rig.start(1, HostOp::Write, 2 * SEGMENT, 100);
    let outside = rig.start(2, HostOp::Write, 5 * SEGMENT, 100);
    rig.write(3, 3 * SEGMENT, 100);
    assert_eq!(
        rig.invalidate(0, 2),
        Some(Outcome::Done),
        "nothing started there"
    );
    assert_eq!(rig.invalidate(2, 1), None);
    let command = rig.last_command();
    rig.done(outside, 0);
    assert_eq!(rig.answer_to(command), None);
    rig.done(inside, 5);
    assert_eq!(
        rig.answer_to(command),
        Some(Outcome::Done),
        "an error is an end as well"
    );
}

#[test]
fn parked_and_faulted_io_delays_nothing() {
    let mut rig = Rig::new();
    rig.write(1, 0, 100);
    assert_eq!(rig.invalidate(0, 1), Some(Outcome::Done));
    rig.tick(1000);
    rig.write(2, 0, 100);
    assert_eq!(rig.invalidate(0, 1), Some(Outcome::Done));
}

#[test]
fn io_decided_again_is_a_new_start() {
    let mut rig = Rig::mapped(PAGE);
    let old = rig.start(1, HostOp::Write, 0, 100);
    assert_eq!(rig.invalidate(0, 1), None);
    let command = rig.last_command();
    rig.now = 1000;
    rig.done(old, 0);
    assert_eq!(rig.answer_to(command), Some(Outcome::Done));
    rig.lease(2000);
    let fault = rig.fault();
    assert_eq!(
        rig.invalidate(0, 1),
        Some(Outcome::Done),
        "it waits for its fault again"
    );
    let effects = rig.retry(fault, at(PAGE, 4));
    assert_eq!(rig.invalidate(0, 1), None, "and has started anew");
    rig.done(pieces(&effects)[0], 0);
    let command = rig.last_command();
    assert_eq!(rig.answer_to(command), Some(Outcome::Done));
}

#[test]
fn a_do_write_counts_from_receipt_to_answer() {
    let mut rig = Rig::new();
    rig.write(1, 0, 4096);
    let fault = rig.fault();
    rig.do_write(fault.request, at(PAGE, 3), 0, 0);
    let (written, effects) = (rig.last_command(), rig.effects());
    assert_eq!(rig.invalidate(0, 1), None);
    let blocked = rig.last_command();
    rig.done(pieces(&effects)[0], 0);
    let answers: Vec<u64> = rig.events().iter().map(answered).collect();
    assert_eq!(answers, [written, blocked]);
    assert_eq!(
        rig.invalidate(0, 1),
        Some(Outcome::Done),
        "the fault that waits is no I/O"
    );
}

fn answered(event: &Event) -> u64 {
    match event {
        Event::Answer { command, .. } => *command,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_error_given_to_the_host_finishes_nothing() {
    let mut rig = Rig::with(segue_map::Config {
        park_limit_bytes: 1 << 20,
        host_timeout_ns: Some(50),
        pieces_at_once: segue_map::PIECES_AT_ONCE,
    });
    rig.set(0, 10, at(PAGE, 0), 1);
    let timed_out = rig.start(1, HostOp::Write, 0, 100);
    let vanished = rig.start(2, HostOp::Write, 0, 100);
    rig.engine.host_gone(2);
    rig.tick(60);
    assert_eq!(rig.invalidate(0, 1), None);
    let command = rig.last_command();
    rig.done(timed_out, 0);
    assert_eq!(rig.answer_to(command), None);
    rig.done(vanished, 0);
    assert_eq!(rig.answer_to(command), Some(Outcome::Done));
}

#[test]
fn delete_table_waits_for_all_and_shuts_down_what_is_parked() {
    let mut rig = Rig::mapped(PAGE);
    let running = rig.start(1, HostOp::Write, 0, 100);
    let flush = rig.io(2, HostOp::Flush, 0, 0);
    rig.set(5, 1, 0, 0);
    rig.write(3, 5 * SEGMENT, 100);
    rig.events();
    assert_eq!(
        rig.command(|command| Control::DeleteTable {
            command,
            disk: DISK
        }),
        None
    );
    let command = rig.last_command();
    assert_eq!(rig.effects(), [reply(3, 108)]);
    assert_eq!(rig.write(4, 0, 100), [reply(4, 108)]);
    assert_eq!(rig.done(running, 0), [reply(1, 0)]);
    assert_eq!(
        rig.new_table(DISK, vec![]),
        Some(Outcome::Failed),
        "it is still draining"
    );
    rig.engine.list_faults();
    assert!(matches!(rig.events().pop(), Some(Event::Faults { tables, .. }) if tables == [DISK]));
    // Another session, to which the answer was lost, asks again.
    assert_eq!(
        rig.command(|command| Control::DeleteTable {
            command,
            disk: DISK
        }),
        None
    );
    let again = rig.last_command();
    for piece in pieces(&flush) {
        assert_eq!((rig.answer_to(command), rig.answer_to(again)), (None, None));
        rig.done(piece, 0);
    }
    let answers: Vec<u64> = rig.events().iter().map(answered).collect();
    assert_eq!(answers, [command, again]);
    assert_eq!(rig.new_table(DISK, vec![]), Some(Outcome::Done));
    rig.assert_idle();
}

#[test]
fn a_quiesce_parks_at_the_start_and_drains() {
    let mut rig = Rig::mapped(PAGE);
    rig.set(1, 1, 0, 0);
    let running = rig.start(1, HostOp::Write, 0, 100);
    rig.write(2, SEGMENT, 100);
    let fault = rig.fault();
    assert_eq!(quiesce(&mut rig, 5, 100, 500), None);
    let command = rig.last_command();
    assert_eq!(rig.read(3, 0, 100), []);
    assert_eq!(rig.io(4, HostOp::Flush, 0, 0), []);
    assert_eq!(
        rig.retry(fault, at(PAGE, 1)),
        [],
        "what is decided again parks too"
    );
    assert_eq!(rig.done(running, 0), [reply(1, 0)]);
    assert_eq!(rig.answer_to(command), Some(Outcome::Done));
    assert!(activate(&mut rig, 5));
    assert_eq!(rig.effects().len(), 4, "read, two flushes, write go");
}

#[test]
fn quiesces_nest() {
    let mut rig = Rig::mapped(PAGE);
    assert_eq!(quiesce(&mut rig, 1, 100, 500), Some(Outcome::Done));
    assert_eq!(quiesce(&mut rig, 2, 100, 500), Some(Outcome::Done));
    assert_eq!(quiesce(&mut rig, 2, 100, 500), Some(Outcome::Failed));
    rig.write(1, 0, 100);
    assert!(activate(&mut rig, 1));
    assert_eq!(rig.effects(), []);
    assert!(!activate(&mut rig, 1), "it does not hold any more");
    assert!(activate(&mut rig, 2));
    assert_eq!(rig.effects().len(), 1);
}

#[test]
fn a_quiesce_that_does_not_drain_fails_and_the_disk_is_active() {
    let mut rig = Rig::mapped(PAGE);
    let running = rig.start(1, HostOp::Write, 0, 100);
    quiesce(&mut rig, 5, 100, 500);
    let command = rig.last_command();
    rig.write(2, 0, 100);
    assert_eq!(rig.engine.deadline(), Some(100));
    assert_eq!(rig.tick(100).len(), 1, "the parked write goes");
    assert_eq!(rig.answer_to(command), Some(Outcome::Failed));
    rig.done(running, 0);
    assert_eq!(rig.answer_to(command), None);
}

#[test]
fn a_quiesce_ends_by_itself() {
    let mut rig = Rig::mapped(PAGE);
    quiesce(&mut rig, 5, 100, 500);
    rig.write(1, 0, 100);
    assert_eq!(rig.tick(499), []);
    assert_eq!(rig.tick(500).len(), 1);
    assert_eq!(
        rig.events(),
        [Event::QuiesceExpired {
            disk: DISK,
            quiesce: 5
        }]
    );
    assert!(!activate(&mut rig, 5));
}

#[test]
fn a_draining_quiesce_can_be_called_off() {
    let mut rig = Rig::mapped(PAGE);
    rig.start(1, HostOp::Write, 0, 100);
    quiesce(&mut rig, 5, 100, 500);
    let command = rig.last_command();
    rig.engine.control(
        0,
        Control::Activate {
            command: 77,
            disk: DISK,
            quiesce: 5,
        },
    );
    let events = rig.events();
    let failed = |event: &Event| matches!(event, Event::Answer { command: c, outcome: Outcome::Failed, errno: 125, .. } if *c == command);
    assert!(failed(&events[0]));
    assert!(matches!(
        events[1],
        Event::Answer {
            command: 77,
            held: false,
            ..
        }
    ));
    assert_eq!(rig.write(2, 0, 100).len(), 1, "the disk is active");
}

#[test]
fn a_deleted_table_takes_its_quiesces_along() {
    let mut rig = Rig::mapped(PAGE);
    assert_eq!(quiesce(&mut rig, 4, 100, 500), Some(Outcome::Done));
    rig.write(2, 0, 100);
    activate(&mut rig, 4);
    let running = pieces(&rig.effects())[0];
    assert_eq!(quiesce(&mut rig, 5, 100, 500), None);
    let command = rig.last_command();
    rig.write(3, 0, 100);
    rig.command(|command| Control::DeleteTable {
        command,
        disk: DISK,
    });
    assert_eq!(rig.answer_to(command), Some(Outcome::Failed));
    assert_eq!(rig.effects(), [reply(3, 108)]);
    assert_eq!(
        rig.engine.deadline(),
        Some(1000),
        "the lease's end, nothing else"
    );
    rig.done(running, 0);
    rig.assert_idle();
}

#[test]
fn a_do_write_goes_on_while_quiesced() {
    let mut rig = Rig::new();
    rig.write(1, 0, 4096);
    let fault = rig.fault();
    assert_eq!(
        quiesce(&mut rig, 5, 100, 500),
        Some(Outcome::Done),
        "a fault delays nothing"
    );
    rig.do_write(fault.request, at(PAGE, 3), 0, 0);
    let effects = rig.effects();
    rig.done(pieces(&effects)[0], 0);
    assert_eq!(rig.complete(fault.request), [reply(1, 0)]);
}

#[test]
fn a_set_that_would_strand_entries_is_refused() {
    let mut rig = Rig::mapped(PAGE);
    let digest = rig.engine.digest();
    let containers = vec![spec(harness::DIRECT, 4096)];
    let shrink = |command| Control::SetContainers {
        command,
        disk: DISK,
        containers: containers.clone(),
    };
    assert_eq!(rig.command(shrink), Some(Outcome::Failed));
    assert_eq!(rig.engine.digest(), digest);
    rig.invalidate(0, 10);
    assert_eq!(rig.command(shrink), Some(Outcome::Done));
}
