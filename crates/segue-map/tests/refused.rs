//! Illegal commands are refused with a reason and change nothing.
#![allow(missing_docs)]

mod harness;

use harness::{BLOCK, DISK, PAGE, Rig, SEGMENT, SIZE, ZEROES, at, spec};
use segue_map::entry::{ERROR, NO_WRITE, VALID};
use segue_map::{ContainerSpec, Control, EntryRun, Event, Outcome};

const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENOENT: i32 = 2;

/// Asserts that the command is refused with `expected`, and changes nothing.
fn refused(rig: &mut Rig, control: Control, expected: i32) {
    let digest = rig.engine.digest();
    rig.engine.control(rig.now, control.clone());
    let events = rig.events();
    let [
        Event::Answer {
            outcome: Outcome::Failed,
            errno,
            ..
        },
    ] = events[..]
    else {
        panic!("{control:?}: {events:?}");
    };
    assert_eq!(errno, expected, "{control:?}");
    assert_eq!(
        (rig.effects(), rig.engine.digest()),
        (vec![], digest),
        "{control:?}"
    );
}

/// Runs that are not within ten segments.
const BAD_RUNS: [(u64, u64); 6] = [
    (0, 0),
    (0, 11),
    (10, 1),
    (9, 2),
    (5, u64::MAX),
    (u64::MAX, u64::MAX),
];

#[test]
fn runs_outside_the_table() {
    let mut rig = Rig::mapped(PAGE);
    for (first, count) in BAD_RUNS {
        refused(
            &mut rig,
            Control::GetEntry {
                command: 1,
                disk: DISK,
                first,
                count,
            },
            EINVAL,
        );
        let runs = vec![run(0, 1, ZEROES, 0), run(first, count, ZEROES, 0)];
        refused(
            &mut rig,
            Control::SetEntry {
                command: 1,
                disk: DISK,
                runs,
                blocking: true,
            },
            EINVAL,
        );
        refused(&mut rig, states(first, count, 1, false, false), EINVAL);
    }
}

fn run(first: u64, count: u64, word: u64, step: u64) -> EntryRun {
    EntryRun {
        first,
        count,
        word,
        step,
    }
}

fn states(first: u64, count: u64, flags: u8, clear_no_write: bool, whole_table: bool) -> Control {
    Control::SetEntryState {
        command: 1,
        disk: DISK,
        first,
        count,
        flags,
        clear_no_write,
        whole_table,
        blocking: true,
    }
}

#[test]
fn entries_that_are_none() {
    let mut rig = Rig::mapped(PAGE);
    for bad in [
        run(0, 1, 5, 0),
        run(0, 1, NO_WRITE, 0),
        run(0, 2, 0, 1),
        run(0, 1, at(9, 0), 0),
        run(0, 1, at(PAGE, 100), 0),
        run(0, 2, at(PAGE, 99), 1),
        run(0, 2, at(PAGE, 0), 2),
        run(0, 2, VALID | ERROR | ((1 << 44) - 1), 1),
    ] {
        let runs = vec![run(1, 1, ZEROES, 0), bad];
        let control = Control::SetEntry {
            command: 1,
            disk: DISK,
            runs,
            blocking: false,
        };
        refused(&mut rig, control, EINVAL);
    }
}

#[test]
fn states_that_may_not_be_set_or_cleared_so() {
    let mut rig = Rig::mapped(PAGE);
    for (flags, clear_no_write, whole_table) in [
        (0, false, false),
        (16, false, false),
        (8, true, false),
        (1, true, false),
        (0, true, true),
        (2, false, true),
        (4, false, true),
        (0, false, true),
    ] {
        refused(
            &mut rig,
            states(0, 1, flags, clear_no_write, whole_table),
            EINVAL,
        );
    }
}

#[test]
fn tables_that_cannot_be() {
    let mut rig = Rig::new();
    let table = |disk, size_bytes, segment_bytes, block_bytes, containers| Control::NewTable {
        command: 1,
        disk,
        size_bytes,
        segment_bytes,
        block_bytes,
        read_only: false,
        containers,
    };
    let block = BLOCK as u32;
    refused(&mut rig, table(DISK, SIZE, SEGMENT, block, vec![]), EEXIST);
    refused(&mut rig, table(8, 0, SEGMENT, block, vec![]), EINVAL);
    refused(&mut rig, table(8, u64::MAX, SEGMENT, block, vec![]), EINVAL);
    refused(&mut rig, table(8, SIZE, 0, block, vec![]), EINVAL);
    refused(&mut rig, table(8, SIZE, 3 * SEGMENT, block, vec![]), EINVAL);
    refused(&mut rig, table(8, SIZE, 128 << 20, block, vec![]), EINVAL);
    refused(&mut rig, table(8, SIZE, 2048, block, vec![]), EINVAL);
    refused(&mut rig, table(8, SIZE, SEGMENT, 1024, vec![]), EINVAL);
    for bad in bad_sets() {
        refused(&mut rig, table(8, SIZE, SEGMENT, block, bad), EINVAL);
    }
    refused(&mut rig, resize(0), EINVAL);
    refused(&mut rig, resize(1 << 63), EINVAL);
}

fn resize(size_bytes: u64) -> Control {
    Control::ResizeTable {
        command: 1,
        disk: DISK,
        size_bytes,
        blocking: false,
    }
}

fn bad_sets() -> Vec<Vec<ContainerSpec>> {
    vec![
        vec![spec(PAGE, 1), spec(PAGE, 1)],
        vec![spec(PAGE, 0)],
        vec![spec(PAGE, 3)],
        vec![spec(PAGE, 2 * SEGMENT as u32)],
        vec![ContainerSpec {
            segment_bytes: 2 * SEGMENT,
            ..spec(PAGE, 1)
        }],
        vec![ContainerSpec {
            segments: u64::MAX,
            ..spec(PAGE, 1)
        }],
    ]
}

#[test]
fn sets_that_cannot_be() {
    let mut rig = Rig::new();
    for containers in bad_sets() {
        refused(
            &mut rig,
            Control::SetContainers {
                command: 1,
                disk: DISK,
                containers,
            },
            EINVAL,
        );
    }
    rig.set(0, 1, at(PAGE, 60), 0);
    let containers = vec![ContainerSpec {
        segments: 60,
        ..spec(PAGE, 1)
    }];
    refused(
        &mut rig,
        Control::SetContainers {
            command: 1,
            disk: DISK,
            containers,
        },
        EINVAL,
    );
}

#[test]
fn disks_without_a_table() {
    let mut rig = Rig::new();
    let disk = DISK + 1;
    let (command, first, count, quiesce) = (1, 0, 1, 1);
    for control in [
        Control::DeleteTable { command, disk },
        Control::ResizeTable {
            command,
            disk,
            size_bytes: SIZE,
            blocking: false,
        },
        Control::GetEntry {
            command,
            disk,
            first,
            count,
        },
        Control::SetEntry {
            command,
            disk,
            runs: vec![],
            blocking: false,
        },
        Control::SetContainers {
            command,
            disk,
            containers: vec![],
        },
        Control::Quiesce {
            command,
            disk,
            quiesce,
            drain_ns: 1,
            hold_ns: 1,
        },
        Control::Activate {
            command,
            disk,
            quiesce,
        },
    ] {
        refused(&mut rig, control, ENOENT);
    }
}

#[test]
fn too_many_entries_at_once() {
    let mut rig = Rig::new();
    let size_bytes = 100_000 * SEGMENT;
    rig.command(|command| Control::ResizeTable {
        command,
        disk: DISK,
        size_bytes,
        blocking: false,
    });
    let ask = |count| Control::GetEntry {
        command: 1,
        disk: DISK,
        first: 0,
        count,
    };
    refused(&mut rig, ask(65_537), EINVAL);
    rig.engine.control(0, ask(65_536));
    let events = rig.events();
    assert!(matches!(&events[..], [Event::Answer { entries, .. }] if entries.len() == 65_536));
}

#[test]
fn a_retry_whose_entries_cannot_be_taken_is_an_error_for_that_io() {
    let mut rig = Rig::new();
    for runs in [
        vec![run(0, 1, ZEROES, 0), run(50, 1, ZEROES, 0)],
        vec![run(0, 1, at(9, 1), 0)],
    ] {
        rig.read(1, 0, 100);
        let request = rig.fault().request;
        let effects = rig.send(Control::Retry {
            request,
            disk: DISK,
            runs,
        });
        assert_eq!(effects, [harness::reply(1, 5)]);
        rig.read(2, 0, 100);
        assert_eq!(rig.fault().word, 0, "none of them was taken");
        rig.engine.host_gone(2);
        rig.effects();
    }
    rig.read(3, 0, 100);
    let request = rig.fault().request;
    let effects = rig.send(Control::Retry {
        request,
        disk: DISK + 1,
        runs: vec![],
    });
    assert_eq!(effects, [harness::reply(3, 5)], "another disk's");
}
