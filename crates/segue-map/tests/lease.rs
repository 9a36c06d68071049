//! Leases: rule 8 (nothing starts, nothing is acknowledged without one), and what a lease's end voids.
#![allow(missing_docs)]

mod harness;

use harness::{DISK, PAGE, Rig, SEGMENT, ZEROES, at, pieces, reply, spec};
use segue_map::{Control, Effect, Event, FaultStatus, HostOp, Outcome};

#[test]
fn without_a_lease_host_io_parks_and_faults_are_not_raised() {
    let mut rig = Rig::mapped(PAGE);
    rig.tick(1000);
    assert_eq!(rig.events(), [Event::LeaseEnded]);
    assert_eq!(rig.write(1, 0, 100), []);
    assert_eq!(rig.io(2, HostOp::BlockStatus, 0, 100), []);
    assert_eq!(rig.faults(), []);
    rig.lease(2000);
    assert_eq!(
        rig.faults().len(),
        2,
        "all entries are invalid after the lease"
    );
}

#[test]
fn the_lease_ends_before_a_result_is_looked_at() {
    let mut rig = Rig::mapped(PAGE);
    let piece = rig.start(1, HostOp::Write, 0, 100);
    rig.now = 1000;
    assert_eq!(rig.done(piece, 0), [], "not acknowledged");
    rig.lease(2000);
    let fault = rig.fault();
    let effects = rig.retry(fault, at(PAGE, 3));
    assert_eq!(rig.done(pieces(&effects)[0], 0), [reply(1, 0)]);
}

#[test]
fn io_not_taken_by_the_driver_when_the_lease_ends_is_taken_back() {
    let mut rig = Rig::mapped(PAGE);
    rig.engine
        .host_io(0, 1, DISK, HostOp::Write, 0, 2 * SEGMENT, 0);
    let Some(Effect::Io { piece, .. }) = rig.engine.poll_effect() else {
        panic!("nothing was started")
    };
    rig.engine.host_io(0, 2, DISK, HostOp::Flush, 0, 0, 0);
    assert_eq!(rig.invalidate(0, 10), None);
    let command = rig.last_command();
    // The driver is slow over the first: the lease ends before the others are begun.
    rig.now = 1000;
    assert_eq!(rig.done(piece, 0), []);
    assert_eq!(
        rig.answer_to(command),
        Some(Outcome::Done),
        "nothing is under way"
    );
    assert_eq!(rig.events(), [Event::LeaseEnded]);
    let flush = rig.lease(2000);
    assert_eq!(flush.len(), 2);
    assert_eq!(rig.faults().len(), 2, "the write is decided again");
}

#[test]
fn a_result_not_replied_yet_is_void() {
    let mut rig = Rig::mapped(PAGE);
    rig.set(1, 1, ZEROES, 0);
    let effects = rig.read(1, 0, 2 * SEGMENT);
    assert_eq!(
        effects[1],
        Effect::ZeroFill {
            token: 1,
            buf_off: SEGMENT,
            len: SEGMENT
        }
    );
    rig.tick(1000);
    // The first half comes after the end, the second was filled before.
    assert_eq!(rig.done(pieces(&effects[..1])[0], 5), []);
    rig.lease(2000);
    let faults = rig.faults();
    assert_eq!(faults.len(), 2, "both are decided again");
    rig.retry(faults[0], ZEROES);
    let effects = rig.retry(faults[1], ZEROES);
    assert_eq!(
        effects.last(),
        Some(&reply(1, 0)),
        "the stale error is forgotten"
    );
}

#[test]
fn a_new_lease_in_time_keeps_the_entries_and_one_that_is_over_is_none() {
    let mut rig = Rig::mapped(PAGE);
    rig.lease(3000);
    rig.lease(2000);
    rig.tick(2999);
    assert_eq!(rig.write(1, 0, 100).len(), 1);
    assert_eq!(rig.engine.deadline(), Some(3000));
    rig.tick(3000);
    assert_eq!(rig.write(2, 0, 100), [], "no lease");
    rig.events();
    rig.lease(3000);
    assert_eq!(rig.events(), [], "what is over is not even begun");
    assert_eq!(rig.engine.deadline(), None);
}

#[test]
fn a_waiting_fault_keeps_its_request() {
    let mut rig = Rig::new();
    rig.write(1, 0, 100);
    let fault = rig.fault();
    rig.tick(1000);
    rig.lease(2000);
    assert_eq!(rig.faults(), [], "it is not raised twice");
    let effects = rig.retry(fault, at(PAGE, 3));
    assert_eq!(rig.done(pieces(&effects)[0], 0), [reply(1, 0)]);
}

#[test]
fn a_do_write_that_had_ended_faults_anew() {
    let mut rig = Rig::new();
    rig.write(1, 0, 4096);
    let fault = rig.fault();
    rig.do_write(fault.request, at(PAGE, 3), 0, 0);
    let effects = rig.effects();
    rig.done(pieces(&effects)[0], 0);
    let command = rig.last_command();
    assert_eq!(rig.answer_to(command), Some(Outcome::Done));
    rig.tick(1000);
    rig.lease(2000);
    assert_eq!(rig.complete(fault.request), [], "the old request is over");
    let again = rig.fault();
    assert_ne!(again.request, fault.request);
    assert_eq!(
        rig.do_write(fault.request, at(PAGE, 3), 0, 0),
        Some(Outcome::Gone)
    );
}

#[test]
fn a_do_write_at_work_is_answered_gone_when_it_has_finished() {
    let mut rig = Rig::new();
    rig.write(1, 0, 4096);
    let fault = rig.fault();
    assert_eq!(rig.do_write(fault.request, at(PAGE, 3), 0, 0), None);
    let (command, effects) = (rig.last_command(), rig.effects());
    rig.tick(1000);
    rig.lease(2000);
    rig.engine.list_faults();
    let Some(Event::Faults { pending, .. }) = rig.events().pop() else {
        panic!("no list")
    };
    assert_eq!(
        (pending[0].status, pending[0].command),
        (FaultStatus::Running, command)
    );
    rig.done(pieces(&effects)[0], 0);
    assert_eq!(rig.answer_to(command), Some(Outcome::Gone));
    assert_ne!(rig.fault().request, fault.request);
}

#[test]
fn a_do_write_without_a_lease_starts_nothing() {
    let mut rig = Rig::new();
    rig.write(1, 0, 4096);
    let fault = rig.fault();
    rig.tick(1000);
    assert_eq!(
        rig.do_write(fault.request, at(PAGE, 3), 0, 0),
        Some(Outcome::Gone)
    );
    assert_eq!(rig.effects(), []);
    rig.events();
    rig.lease(2000);
    assert_ne!(rig.fault().request, fault.request);
}

#[test]
fn answers_that_come_without_a_lease_acknowledge_nothing() {
    let mut rig = Rig::new();
    rig.io(1, HostOp::Trim, 0, SEGMENT);
    let fault = rig.fault();
    rig.tick(1000);
    assert_eq!(rig.complete(fault.request), []);
    rig.lease(2000);
    assert_ne!(rig.fault().request, fault.request, "it is decided again");
}

#[test]
fn a_flush_of_an_ended_lease_is_decided_again_as_one() {
    let mut rig = Rig::mapped(PAGE);
    let effects = rig.io(1, HostOp::Flush, 0, 0);
    assert_eq!(effects.len(), 2, "one for each container");
    rig.tick(1000);
    for piece in pieces(&effects) {
        assert_eq!(rig.done(piece, 0), []);
    }
    let containers = vec![spec(PAGE, 1)];
    rig.command(|command| Control::SetContainers {
        command,
        disk: DISK,
        containers,
    });
    let effects = rig.lease(2000);
    assert_eq!(
        effects.len(),
        1,
        "one for each container of the new set, not for each old piece"
    );
    assert_eq!(rig.done(pieces(&effects)[0], 0), [reply(1, 0)]);
    rig.assert_idle();
}

#[test]
fn end_lease_voids_what_was_granted_since() {
    let mut rig = Rig::mapped(PAGE);
    rig.tick(1000);
    rig.set(0, 1, at(PAGE, 9), 0);
    rig.engine.end_lease(1000);
    assert_eq!(
        rig.events(),
        [Event::LeaseEnded],
        "once, for the lease there was"
    );
    rig.lease(2000);
    assert_eq!(rig.write(1, 0, 100), []);
    assert_eq!(rig.faults().len(), 1);
}

#[test]
fn io_of_an_ended_lease_still_delays_blocking_commands() {
    let mut rig = Rig::mapped(PAGE);
    let piece = rig.start(1, HostOp::Write, 0, 100);
    rig.tick(1000);
    assert_eq!(rig.invalidate(0, 1), None);
    let command = rig.last_command();
    rig.done(piece, 0);
    assert_eq!(rig.answer_to(command), Some(Outcome::Done));
}
