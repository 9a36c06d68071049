//! Rule 8 for work on other threads, and merged writes.

use std::sync::{Arc, mpsc};

use super::*;
use crate::container::{Backing, Cache, DATA_AT_BYTES, create};
use crate::sys::os_error;

const HOUR_NS: u64 = 3_600_000_000_000;
const SEGMENT: u64 = 64 << 10;

fn container(folder: &tempfile::TempDir) -> Arc<Container> {
    let uri = format!("file://{}/box", folder.path().display());
    let size = DATA_AT_BYTES + 4 * SEGMENT;
    create(&uri, size, SEGMENT, [1; 16], [2; 16], 1, Cache::Page).unwrap();
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

/// A kernel that tells the first flush of a loss, takes its time to say so, and tells no other.
#[derive(Debug)]
struct TellsOnce {
    inner: Arc<dyn Backing>,
    told: AtomicBool,
    begun: mpsc::SyncSender<()>,
    may_end: Mutex<mpsc::Receiver<()>>,
}

impl Backing for TellsOnce {
    fn size_bytes(&self) -> io::Result<u64> {
        self.inner.size_bytes()
    }

    fn unit_bytes(&self) -> u32 {
        self.inner.unit_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        self.inner.write(offset, data, fua)
    }

    fn zero(&self, offset: u64, length: u64, how: ZeroHow) -> io::Result<()> {
        self.inner.zero(offset, length, how)
    }

    fn trim(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.trim(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        if self.told.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.begun.send(()).unwrap();
        self.may_end.lock().unwrap().recv().unwrap();
        Err(os_error(libc::EIO))
    }

    fn lock(&self, fence: u64) -> io::Result<()> {
        self.inner.lock(fence)
    }

    fn unlock(&self, fence: u64) -> io::Result<()> {
        self.inner.unlock(fence)
    }

    fn is_locked_elsewhere(&self, fence: u64) -> io::Result<bool> {
        self.inner.is_locked_elsewhere(fence)
    }
}

#[test]
fn a_flush_that_ended_well_is_not_heard_of_before_one_that_failed() {
    let folder = tempfile::tempdir().unwrap();
    let ((begun, has_begun), (go_on, may_end)) = (mpsc::sync_channel(1), mpsc::channel());
    let plain = Arc::into_inner(container(&folder)).unwrap();
    let tells_once = |inner| TellsOnce {
        inner,
        told: AtomicBool::new(false),
        begun,
        may_end: Mutex::new(may_end),
    };
    let container = Arc::new(plain.wrapped(|inner| Arc::new(tells_once(inner))));
    let guard = Arc::new(LeaseGuard::default());
    guard.extend(boottime_ns() + HOUR_NS);
    let completions = Arc::new(Completions::new().unwrap());
    let slow = task(&container, 0, 1, What::Flush);
    let (its_guard, its_completions) = (guard.clone(), completions.clone());
    let thread = std::thread::spawn(move || slow.carry_out(&its_guard, &its_completions));
    has_begun.recv().unwrap();
    let fua = What::Write {
        offset: 0,
        at: 0,
        length: 4096,
        fua: true,
    };
    for what in [What::Flush, fua, write(4096)] {
        task(&container, 0, 2, what).carry_out(&guard, &completions);
    }
    let ends = || -> Vec<Ended> {
        let said = completions.take().into_iter();
        said.map(|said| match said {
            Said::Ended(_, ended) => ended,
            Said::Late(_) => panic!("nothing is late"),
        })
        .collect()
    };
    assert_eq!(ends(), [Ended::Done(0)], "only the write that is no sync");
    go_on.send(()).unwrap();
    thread.join().unwrap();
    let all = [Ended::Done(libc::EIO), Ended::Done(0), Ended::Done(0)];
    assert_eq!(ends(), all);
    let note = container.note().unwrap().expect("left before it was told");
    assert_eq!(note.errno, libc::EIO);
}
