//! Rule 8 for work on other threads, and merged writes.

use std::sync::Arc;

use super::*;
use crate::container::{Cache, DATA_AT_BYTES, create};

const HOUR_NS: u64 = 3_600_000_000_000;
const SEGMENT: u64 = 64 << 10;

fn container(folder: &tempfile::TempDir) -> Arc<Container> {
    let uri = format!("file://{}/box", folder.path().display());
    let size = DATA_AT_BYTES + 4 * SEGMENT;
    create(&uri, size, SEGMENT, [1; 16], [2; 16], Cache::Page).unwrap();
    Arc::new(Container::open(&uri, Cache::Page, [1; 16], None, 3).unwrap())
}

fn task(container: &Arc<Container>, epoch: u64, byte: u8, what: What) -> Task {
    let buffer = Arc::new(Buffer::new(8192));
    // SAFETY: the buffer is this function's own.
    unsafe { buffer.part_mut(0, 8192) }.fill(byte);
    let container = container.clone();
    Task {
        piece: 1,
        epoch,
        container,
        buffer: Some(buffer),
        cancelled: Arc::default(),
        what,
    }
}

fn write(length: usize) -> What {
    What::Write {
        offset: 0,
        at: 0,
        length,
        fua: false,
    }
}

#[test]
fn nothing_is_begun_under_a_lease_that_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let container = container(&folder);
    let guard = Arc::new(LeaseGuard::default());
    let old = task(&container, guard.epoch(), 1, write(4096));
    assert_eq!(old.run(&guard), Ended::NotBegun, "there has been no lease");
    guard.extend(boottime_ns() + HOUR_NS);
    assert_eq!(old.run(&guard), Ended::Done(0));
    guard.end();
    let late = task(&container, old.epoch, 2, write(4096));
    assert_eq!(late.run(&guard), Ended::NotBegun, "the lease has ended");
    guard.extend(boottime_ns() + HOUR_NS);
    assert_eq!(
        late.run(&guard),
        Ended::NotBegun,
        "a new lease is not the old"
    );
    let mut back = [0; 4096];
    container.read(0, &mut back).unwrap();
    assert_eq!(back, [1; 4096]);
    guard.end();
    guard.extend(boottime_ns() - 1);
    let expired = task(&container, guard.epoch(), 3, write(4096));
    assert_eq!(expired.run(&guard), Ended::NotBegun, "it ran out by itself");
}

#[test]
fn nothing_is_begun_for_a_host_that_waits_no_longer() {
    let folder = tempfile::tempdir().unwrap();
    let container = container(&folder);
    let guard = Arc::new(LeaseGuard::default());
    guard.extend(boottime_ns() + HOUR_NS);
    let gone = task(&container, 0, 1, write(4096));
    gone.cancelled.store(true, Ordering::Release);
    assert_eq!(gone.run(&guard), Ended::NotBegun);
    let mut back = [9; 4096];
    container.read(0, &mut back).unwrap();
    assert_eq!(back, [0; 4096]);
}

#[test]
fn a_merged_write_takes_its_edges_from_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let container = container(&folder);
    container.write(SEGMENT, &[5; 4096], false).unwrap();
    container
        .write(2 * SEGMENT + 4096, &[6; 4096], false)
        .unwrap();
    let guard = Arc::new(LeaseGuard::default());
    guard.extend(boottime_ns() + HOUR_NS);
    let merge = |head: Option<u64>, tail: Option<u64>, zeroes: bool| Merge {
        offset: 0,
        length: 8192,
        at: (!zeroes).then_some(100),
        skip: 1000,
        data_length: 5000,
        head: head.map(|offset| (container.clone(), offset)),
        tail: tail.map(|offset| (container.clone(), offset)),
        unit_bytes: 4096,
        fua: true,
    };
    let cases = [
        (Some(SEGMENT), Some(2 * SEGMENT + 4096), false, [5, 9, 6]),
        (None, Some(SEGMENT), false, [0, 9, 5]),
        (Some(SEGMENT), None, true, [5, 0, 0]),
    ];
    for (head, tail, zeroes, expected) in cases {
        container.write(0, &[1; 8192], false).unwrap();
        let what = What::Merge(Box::new(merge(head, tail, zeroes)));
        assert_eq!(task(&container, 0, 9, what).run(&guard), Ended::Done(0));
        let mut back = [0; 8192];
        container.read(0, &mut back).unwrap();
        let parts = [&back[..1000], &back[1000..6000], &back[6000..]];
        for (part, byte) in parts.iter().zip(expected) {
            assert!(part.iter().all(|&found| found == byte), "{expected:?}");
        }
    }
}

#[test]
fn an_edge_that_cannot_be_read_is_no_failure_of_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let container = container(&folder);
    let guard = Arc::new(LeaseGuard::default());
    guard.extend(boottime_ns() + HOUR_NS);
    let merge = Merge {
        offset: 0,
        length: 4096,
        at: Some(0),
        skip: 100,
        data_length: 3996,
        head: Some((container.clone(), 4 * SEGMENT)),
        tail: None,
        unit_bytes: 4096,
        fua: true,
    };
    let unread = task(&container, 0, 9, What::Merge(Box::new(merge)));
    assert_eq!(unread.run(&guard), Ended::Refused(libc::EINVAL));
    let what = What::Write {
        offset: 4 * SEGMENT,
        at: 0,
        length: 4096,
        fua: true,
    };
    let outside = task(&container, 0, 9, what);
    assert_eq!(outside.run(&guard), Ended::Refused(libc::EINVAL));
}
