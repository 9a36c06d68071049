//! Hosts that do not wait: time limits and lost connections; the park limit; failed flushes.
#![allow(missing_docs)]

mod harness;

use harness::{DISK, PAGE, Rig, SEGMENT, SIZE, at, pieces, reply, spec};
use segue_map::{Config, Control, Effect, Event, HostOp, Outcome, host_flags};

fn limited() -> Rig {
    let mut rig = Rig::with(Config {
        park_limit_bytes: 10_000,
        host_timeout_ns: Some(50),
        pieces_at_once: segue_map::PIECES_AT_ONCE,
    });
    rig.set(0, 5, at(PAGE, 0), 1);
    rig
}

#[test]
fn at_its_time_limit_a_host_gets_eio() {
    let mut rig = limited();
    rig.write(1, 7 * SEGMENT, 100);
    rig.tick(20);
    rig.write(2, 7 * SEGMENT, 100);
    assert_eq!(rig.engine.deadline(), Some(50));
    assert_eq!(rig.tick(50), [reply(1, 5)]);
    assert_eq!(rig.engine.deadline(), Some(70));
    assert_eq!(rig.tick(70), [reply(2, 5)]);
}

#[test]
fn the_time_limit_holds_without_a_lease() {
    let mut rig = limited();
    rig.engine.end_lease(0);
    rig.write(1, 0, 100);
    assert_eq!(rig.tick(50), [reply(1, 5)]);
    rig.assert_idle();
}

#[test]
fn a_buffer_in_use_is_released_later() {
    let mut rig = limited();
    let effects = rig.write(1, SEGMENT - 50, 100);
    let in_use = Effect::Reply {
        token: 1,
        errno: 5,
        in_use: true,
    };
    assert_eq!(rig.tick(50), [in_use]);
    let ids = pieces(&effects);
    assert_eq!(rig.done(ids[0], 0), []);
    assert_eq!(rig.done(ids[1], 0), [Effect::Release { token: 1 }]);
    rig.assert_idle();
}

#[test]
fn what_was_not_started_by_the_time_limit_never_is() {
    let mut rig = limited();
    rig.write(1, 7 * SEGMENT, 100);
    let fault = rig.fault();
    rig.tick(50);
    rig.assert_idle();
    assert_eq!(
        rig.retry(fault, at(PAGE, 7)),
        [],
        "the host was told of an error"
    );
    assert_eq!(rig.engine.stats().ignored_answers, 1);
}

#[test]
fn a_discard_is_not_asked_for_any_more_after_its_time_limit() {
    let mut rig = limited();
    rig.io(1, HostOp::Trim, 0, 2 * SEGMENT);
    let fault = rig.fault();
    assert_eq!(rig.tick(50), [reply(1, 5)]);
    rig.engine.list_faults();
    let listed = Event::Faults {
        tables: vec![DISK],
        pending: vec![],
    };
    let request = fault.request;
    assert_eq!(rig.events(), [Event::FaultGone { request }, listed]);
    assert_eq!(rig.complete(fault.request), []);
    rig.assert_idle();
}

#[test]
fn a_discard_of_a_short_segment_is_asked_for_no_more_when_that_has_grown() {
    let mut rig = Rig::new();
    rig.set(0, 10, at(PAGE, 0), 1);
    rig.io(1, HostOp::Trim, 8 * SEGMENT, SIZE - 8 * SEGMENT);
    let before = rig.fault();
    assert_eq!((before.segment, before.segments), (8, 2));
    // Within its last block.
    rig.command(|command| Control::ResizeTable {
        command,
        disk: DISK,
        size_bytes: SIZE + 512,
        blocking: false,
    });
    let request = before.request;
    let [Event::FaultGone { request: gone }, Event::Fault(now), ..] = rig.events()[..] else {
        panic!("it is said to be over, then asked for anew");
    };
    assert_eq!((gone, now.segment, now.segments), (request, 8, 1));
}

#[test]
fn a_do_write_under_way_at_the_time_limit_is_answered_as_it_ends() {
    let mut rig = limited();
    rig.write(1, 7 * SEGMENT, 100);
    let fault = rig.fault();
    rig.do_write(fault.request, at(PAGE, 7), 0, 0);
    let (command, effects) = (rig.last_command(), rig.effects());
    rig.tick(50);
    assert_eq!(
        rig.done(pieces(&effects)[0], 0),
        [Effect::Release { token: 1 }]
    );
    assert_eq!(rig.answer_to(command), Some(Outcome::Done));
    assert_eq!(rig.complete(fault.request), []);
    rig.assert_idle();
}

#[test]
fn a_lost_connection_drops_what_has_not_started() {
    let mut rig = limited();
    rig.write(1, 7 * SEGMENT, 100);
    let fault = rig.fault();
    rig.engine.host_gone(1);
    assert_eq!(rig.effects(), [Effect::Release { token: 1 }]);
    rig.assert_idle();
    assert_eq!(rig.complete(fault.request), []);
    assert_eq!(rig.engine.stats().ignored_answers, 1);
}

#[test]
fn a_lost_connection_lets_the_rest_run_out() {
    let mut rig = limited();
    let effects = rig.write(1, 4 * SEGMENT + 10, SEGMENT);
    rig.engine.host_gone(1);
    assert_eq!(rig.effects(), []);
    rig.engine.host_gone(1);
    assert_eq!(
        rig.done(pieces(&effects)[0], 0),
        [Effect::Release { token: 1 }]
    );
    rig.assert_idle();
}

#[test]
fn a_write_sent_again_waits_for_its_first_attempt() {
    for gone in [true, false] {
        let mut rig = limited();
        let first = rig.start(1, HostOp::Write, 100, 100);
        if gone {
            rig.engine.host_gone(1);
        } else {
            rig.tick(50);
        }
        assert_eq!(rig.write(2, 199, 10), [], "it would be undone");
        assert_eq!(rig.read(3, 0, 4096).len(), 1);
        assert_eq!(rig.write(4, 200, 10).len(), 1, "elsewhere");
        let effects = rig.done(first, 0);
        assert_eq!(effects.len(), 2, "{effects:?}");
        assert!(effects.contains(&Effect::Release { token: 1 }));
        assert!(matches!(effects[1], Effect::Io { token: 2, .. }));
    }
}

#[test]
fn parked_writes_are_limited_by_their_bytes() {
    let mut rig = limited();
    rig.write(1, 7 * SEGMENT, 6000);
    rig.read(2, 7 * SEGMENT, 60_000);
    assert!(rig.engine.accepts(DISK));
    rig.write(3, 7 * SEGMENT, 4000);
    assert!(
        rig.engine.accepts(DISK),
        "10,000 bytes are not over the limit"
    );
    rig.write(4, 7 * SEGMENT, 1);
    assert!(!rig.engine.accepts(DISK));
    assert!(rig.engine.accepts(DISK + 1));
    let faults = rig.faults();
    rig.do_write(faults[0].request, at(PAGE, 7), 0, 0);
    assert!(
        !rig.engine.accepts(DISK),
        "its buffer is kept until the fault is answered"
    );
    let effects = rig.retry(faults[2], at(PAGE, 7));
    assert!(rig.engine.accepts(DISK), "what has started is not parked");
    rig.done(pieces(&effects)[1], 0);
}

#[test]
fn a_failed_flush_is_answered_when_that_is_durable() {
    let mut rig = Rig::mapped(PAGE);
    let effects = rig.io(1, HostOp::Flush, 0, 0);
    rig.done(pieces(&effects)[1], 0);
    assert_eq!(rig.done(pieces(&effects)[0], 28), []);
    let failed = Event::ContainerFailed {
        request: 1,
        disk: DISK,
        container: PAGE,
        errno: 28,
    };
    assert_eq!(rig.events(), [failed]);
    assert_eq!(
        rig.io(2, HostOp::Flush, 0, 0),
        [],
        "nor is another one before"
    );
    // The controller tells the set first, then answers: from then on the set alone says it.
    let sets = |rig: &mut Rig, failed| {
        let containers = vec![segue_map::ContainerSpec {
            failed,
            ..spec(PAGE, 1)
        }];
        rig.set(0, 10, 0, 0);
        rig.command(|command| Control::SetContainers {
            command,
            disk: DISK,
            containers,
        });
        rig.set(0, 10, at(PAGE, 0), 1);
    };
    sets(&mut rig, true);
    assert_eq!(rig.fail(1, 5), [reply(1, 5), reply(2, 5)]);
    assert_eq!(rig.io(3, HostOp::Flush, 0, 0), [reply(3, 5)]);
    assert_eq!(
        rig.io_with(4, HostOp::Write, 0, 100, host_flags::FUA),
        [reply(4, 5)]
    );
    assert_eq!(
        rig.write(5, 0, 100).len(),
        1,
        "only what must be durable fails"
    );
    sets(&mut rig, false);
    assert_eq!(
        rig.io(6, HostOp::Flush, 0, 0).len(),
        1,
        "an operator has cleared it"
    );
}

#[test]
fn the_failure_of_a_stale_flush_is_not_forgotten() {
    let mut rig = Rig::mapped(PAGE);
    let effects = rig.io(1, HostOp::Flush, 0, 0);
    rig.tick(1000);
    assert_eq!(rig.done(pieces(&effects)[0], 5), []);
    rig.done(pieces(&effects)[1], 0);
    rig.lease(2000);
    assert_eq!(
        rig.effects(),
        [],
        "no second flush that would succeed falsely"
    );
    assert_eq!(rig.fail(1, 5), [reply(1, 5)]);
}

#[test]
fn what_a_failure_overtook_has_failed_too() {
    let mut rig = Rig::mapped(PAGE);
    let first = rig.io(1, HostOp::Flush, 0, 0);
    let second = rig.io(2, HostOp::Flush, 0, 0);
    let write = rig.io_with(3, HostOp::Write, 0, 100, host_flags::FUA);
    rig.done(pieces(&first)[1], 0);
    rig.done(pieces(&second)[1], 0);
    rig.done(pieces(&first)[0], 5);
    assert_eq!(rig.done(pieces(&second)[0], 0), [], "told once");
    assert_eq!(rig.done(pieces(&write)[0], 0), []);
    assert_eq!(rig.events().len(), 1, "one failure");
    assert_eq!(rig.fail(1, 5), [reply(1, 5), reply(2, 5), reply(3, 5)]);
    let later = rig.io(4, HostOp::Flush, 0, 0);
    rig.done(pieces(&later)[1], 0);
    assert_eq!(rig.done(pieces(&later)[0], 0), [reply(4, 0)]);
}

#[test]
fn a_failed_do_write_fails_the_container() {
    let mut rig = Rig::new();
    rig.write(1, 0, 4096);
    let fault = rig.fault();
    rig.do_write(fault.request, at(PAGE, 3), 0, 0);
    let (command, effects) = (rig.last_command(), rig.effects());
    rig.done(pieces(&effects)[0], 5);
    assert_eq!(rig.answer_to(command), Some(Outcome::Failed));
    assert!(matches!(
        rig.events()[..],
        [Event::ContainerFailed {
            container: PAGE,
            ..
        }]
    ));
}

#[test]
fn a_set_that_says_failed_fails_flushes_at_once() {
    let mut rig = Rig::mapped(PAGE);
    let failed = segue_map::ContainerSpec {
        failed: true,
        ..spec(PAGE, 1)
    };
    rig.command(|command| Control::SetContainers {
        command,
        disk: DISK,
        containers: vec![failed],
    });
    assert_eq!(rig.io(1, HostOp::Flush, 0, 0), [reply(1, 5)]);
    assert_eq!(rig.events(), []);
}

#[test]
fn a_fast_zero_refused_is_no_failure_of_the_container() {
    let mut rig = Rig::mapped(PAGE);
    let flags = host_flags::FUA | host_flags::FAST_ZERO;
    let effects = rig.io_with(1, HostOp::WriteZeroes, 0, 100, flags);
    assert_eq!(rig.done(pieces(&effects)[0], 95), [reply(1, 95)]);
    assert_eq!(rig.events(), []);
}

#[test]
fn what_was_not_begun_or_refused_is_no_failure_of_the_container() {
    let mut rig = Rig::mapped(PAGE);
    let flush = rig.io(1, HostOp::Flush, 0, 0);
    rig.done(pieces(&flush)[1], 0);
    let write = rig.io_with(2, HostOp::Write, 0, 100, host_flags::FUA);
    rig.engine.piece_not_begun(rig.now, pieces(&flush)[0]);
    let flush = rig.effects();
    assert_eq!(flush.len(), 2, "the lease holds: it is decided again");
    rig.engine.piece_refused(rig.now, pieces(&write)[0], 22);
    assert_eq!(rig.effects(), [reply(2, 22)]);
    rig.now = 2000;
    for piece in pieces(&flush) {
        rig.engine.piece_not_begun(rig.now, piece);
    }
    assert_eq!(rig.events(), [Event::LeaseEnded], "nothing has failed");
    assert_eq!(rig.lease(3000).len(), 2, "a flush of its own lease");
}

#[test]
fn a_do_write_that_was_not_begun_has_failed_without_a_mark() {
    let mut rig = Rig::new();
    rig.write(1, 0, 4096);
    let fault = rig.fault();
    for end in [
        segue_map::Engine::piece_not_begun,
        |engine: &mut segue_map::Engine, now, piece| engine.piece_refused(now, piece, 5),
    ] {
        assert_eq!(rig.do_write(fault.request, at(PAGE, 3), 0, 0), None);
        let (command, effects) = (rig.last_command(), rig.effects());
        end(&mut rig.engine, rig.now, pieces(&effects)[0]);
        assert_eq!(rig.answer_to(command), Some(Outcome::Failed));
    }
    assert_eq!(rig.events(), []);
}

#[test]
fn a_disk_without_containers_flushes_at_once() {
    let mut rig = Rig::new();
    rig.command(|command| Control::SetContainers {
        command,
        disk: DISK,
        containers: vec![],
    });
    assert_eq!(rig.io(1, HostOp::Flush, 0, 0), [reply(1, 0)]);
}

#[test]
#[should_panic(expected = "not under way")]
fn a_driver_that_finishes_a_piece_twice_is_found_out() {
    let mut rig = Rig::mapped(PAGE);
    let piece = rig.start(1, HostOp::Write, 0, 100);
    rig.done(piece, 0);
    rig.done(piece, 0);
}
