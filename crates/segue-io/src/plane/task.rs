//! Container I/O that may block, done on the pool's threads.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::buffer::Buffer;
use crate::container::{Container, Gate, ZeroHow};
use crate::sys::{EventFd, boottime_ns, errno_of};

/// Rule 8 for other threads: work queued under a lease that has ended is not begun.
#[derive(Debug, Default)]
pub(super) struct LeaseGuard {
    /// Counts the leases that have ended.
    epoch: AtomicU64,
    /// End of the present one, CLOCK_BOOTTIME; 0: none.
    until_ns: AtomicU64,
}

impl LeaseGuard {
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The lease runs at least until then.
    pub(super) fn extend(&self, until_ns: u64) {
        self.until_ns.fetch_max(until_ns, Ordering::AcqRel);
    }

    /// The lease has ended.
    pub(super) fn end(&self) {
        self.until_ns.store(0, Ordering::Release);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn allows(&self, epoch: u64) -> bool {
        // The epoch is read last: an end between the two reads is seen.
        boottime_ns() < self.until_ns.load(Ordering::Acquire) && self.epoch() == epoch
    }
}

/// A unit's worth of bytes that a merged write takes from elsewhere; `None`: zeroes.
pub(super) type Edge = Option<(Arc<Container>, u64)>;

/// What to do. Offsets are bytes of the container's data area; `at` counts in the buffer.
#[derive(Debug)]
pub(super) enum What {
    Read {
        offset: u64,
        at: usize,
        length: usize,
    },
    Write {
        offset: u64,
        at: usize,
        length: usize,
        fua: bool,
    },
    Zero {
        offset: u64,
        length: u64,
        how: ZeroHow,
    },
    Trim {
        offset: u64,
        length: u64,
        fua: bool,
    },
    Flush,
    Merge(Box<Merge>),
}

/// A write whose first and last unit are completed from elsewhere, done as one write.
#[derive(Debug)]
pub(super) struct Merge {
    pub(super) offset: u64,
    pub(super) length: usize,
    /// Where the data starts in the host's buffer; `None`: zeroes.
    pub(super) at: Option<usize>,
    pub(super) skip: usize,
    pub(super) data_length: usize,
    pub(super) head: Edge,
    pub(super) tail: Edge,
    pub(super) unit_bytes: usize,
    pub(super) fua: bool,
}

/// One piece of I/O with all that it needs; holding the container keeps its fence.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) piece: u64,
    pub(super) epoch: u64,
    pub(super) container: Arc<Container>,
    pub(super) buffer: Option<Arc<Buffer>>,
    /// The host waits no longer.
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) what: What,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this errno; 0: well.
    Done(i32),
    /// With this errno, before the write or flush itself was begun.
    Refused(i32),
    /// It was not begun: the lease it was queued under seemed over, or the host had gone.
    NotBegun,
    /// It was not begun, or what was has ended: it is to be decided again.
    GivenBack,
}

/// What another thread has to say of a task.
#[derive(Debug)]
pub(super) enum Said {
    /// It has ended.
    Ended(Task, Ended),
    /// Nobody knows when this piece will end: its host is to hear of an error.
    Late(u64),
}

/// Finished tasks on their way back to the data thread.
#[derive(Debug)]
pub(super) struct Completions {
    said: Mutex<Vec<Said>>,
    pub(super) wake: EventFd,
}

impl Completions {
    pub(super) fn new() -> io::Result<Completions> {
        Ok(Completions {
            said: Mutex::default(),
            wake: EventFd::new()?,
        })
    }

    pub(super) fn push(&self, said: Said) {
        let mut all = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(said);
        // One signal for each time the data thread takes them.
        if all.len() == 1 {
            self.wake.signal();
        }
    }

    pub(super) fn take(&self) -> Vec<Said> {
        self.wake.clear();
        std::mem::take(&mut *self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Task {
    /// Whether it may be begun: its lease holds, and its host waits for it.
    ///
    /// A host that has gone may have sent the write again, and others after it.
    pub(super) fn may_begin(&self, guard: &LeaseGuard) -> bool {
        !self.is_cancelled() && guard.allows(self.epoch)
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Whether it makes durable what another sync of its container may be told is lost.
    ///
    /// Across the network each request is durable, or fails, by itself.
    pub(super) fn syncs(&self) -> bool {
        let syncs = match &self.what {
            What::Read { .. } => false,
            What::Write { fua, .. } | What::Trim { fua, .. } => *fua,
            What::Zero { how, .. } => how.fua,
            What::Merge(merge) => merge.fua,
            What::Flush => true,
        };
        syncs && self.container.port().is_none()
    }

    /// Its number among the syncs of its container, if it is one; given back by `hand_over`.
    pub(super) fn begin_sync(&self) -> Option<u64> {
        self.syncs().then(|| self.container.syncs().begin())
    }

    /// Does it on this thread and hands it over.
    pub(super) fn carry_out(self, guard: &Arc<LeaseGuard>, completions: &Arc<Completions>) {
        if matches!(self.what, What::Flush) && self.may_begin(guard) {
            self.container.write_back();
        }
        let begun = self.begin_sync();
        let ended = self.run(guard);
        self.hand_over(begun, ended, completions);
    }

    /// Hands it over to the data thread: a sync that ended well when no failure can overtake it any
    /// more (the engine fails those that one did overtake), one that failed when its note is left.
    ///
    /// That may block if it is a [`Task::failed_sync`].
    pub(super) fn hand_over(
        self,
        begun: Option<u64>,
        ended: Ended,
        completions: &Arc<Completions>,
    ) {
        let Some(number) = begun else {
            return completions.push(Said::Ended(self, ended));
        };
        let (container, completions) = (self.container.clone(), completions.clone());
        let failed = Self::failed_sync(ended);
        if let Some(errno) = failed {
            container.leave_note(errno);
        }
        let push = Box::new(move |_| completions.push(Said::Ended(self, ended)));
        container.syncs().end(number, failed.is_some(), push);
    }

    /// With which errno what was to make durable has failed, if it has.
    pub(super) fn failed_sync(ended: Ended) -> Option<i32> {
        match ended {
            Ended::Done(errno) if errno != 0 && errno != libc::EOPNOTSUPP => Some(errno),
            _ => None,
        }
    }

    /// Does it, if it may still be begun.
    pub(super) fn run(&self, guard: &Arc<LeaseGuard>) -> Ended {
        if !self.may_begin(guard) {
            return Ended::NotBegun;
        }
        if let What::Merge(merge) = &self.what {
            return self.merge(merge, guard);
        }
        match self.perform().map_err(|error| errno_of(&error)) {
            Ok(()) => Ended::Done(0),
            // Arguments that a write did not like: it has done nothing and lost nothing.
            Err(libc::EINVAL) if !matches!(self.what, What::Flush) => Ended::Refused(libc::EINVAL),
            Err(errno) => Ended::Done(errno),
        }
    }

    fn buffer(&self) -> &Buffer {
        self.buffer
            .as_ref()
            .expect("reads and writes have a buffer")
    }

    fn perform(&self) -> io::Result<()> {
        match &self.what {
            What::Read { offset, at, length } => {
                // SAFETY: the engine gave this piece that part of the buffer alone.
                let part = unsafe { self.buffer().part_mut(*at, *length) };
                self.container.read(*offset, part)
            }
            What::Write {
                offset,
                at,
                length,
                fua,
            } => self
                .container
                .write(*offset, self.buffer().part(*at, *length), *fua),
            What::Zero {
                offset,
                length,
                how,
            } => self.container.zero(*offset, *length, *how),
            What::Trim {
                offset,
                length,
                fua,
            } => {
                self.container.trim(*offset, *length)?;
                if *fua { self.container.flush() } else { Ok(()) }
            }
            What::Flush => self.container.flush(),
            What::Merge(_) => unreachable!("a merge says itself how it ended"),
        }
    }

    /// Asked again before the write itself, which may be long after the edges were read.
    fn gate(&self, guard: &Arc<LeaseGuard>) -> Gate {
        let (guard, epoch, cancelled) = (guard.clone(), self.epoch, self.cancelled.clone());
        Arc::new(move || !cancelled.load(Ordering::Acquire) && guard.allows(epoch))
    }

    fn merge(&self, merge: &Merge, guard: &Arc<LeaseGuard>) -> Ended {
        let bytes = match self.merged(merge) {
            Ok(bytes) => bytes,
            Err(error) => return Ended::Refused(errno_of(&error)),
        };
        let bytes = bytes.part(0, merge.length);
        let gate = self.gate(guard);
        let written = self
            .container
            .write_if(merge.offset, bytes, merge.fua, &gate);
        match written.map_err(|error| errno_of(&error)) {
            Ok(()) => Ended::Done(0),
            Err(libc::ECANCELED) => Ended::NotBegun,
            Err(libc::EINVAL) => Ended::Refused(libc::EINVAL),
            // Across the network every write is durable by itself: no other has been lost.
            Err(errno) if self.container.port().is_some() => Ended::Refused(errno),
            Err(errno) => Ended::Done(errno),
        }
    }

    /// All that a merge writes: its data, and what is read for its edges.
    fn merged(&self, merge: &Merge) -> io::Result<Buffer> {
        let Merge {
            length,
            skip,
            data_length,
            unit_bytes,
            ..
        } = *merge;
        let whole = Buffer::new(length);
        // SAFETY: `whole` is this function's own.
        let bytes = unsafe { whole.part_mut(0, length) };
        let (edge, end) = (Buffer::new(unit_bytes), skip + data_length);
        // SAFETY: `edge` is this function's own.
        let unit = unsafe { edge.part_mut(0, unit_bytes) };
        if let (1.., Some((container, offset))) = (skip, &merge.head) {
            container.read(*offset, unit)?;
            bytes[..skip].copy_from_slice(&unit[..skip]);
        }
        if let (true, Some((container, offset))) = (end < length, &merge.tail) {
            container.read(*offset, unit)?;
            let missing = length - end;
            bytes[end..].copy_from_slice(&unit[unit_bytes - missing..]);
        }
        if let Some(at) = merge.at {
            bytes[skip..end].copy_from_slice(self.buffer().part(at, data_length));
        }
        Ok(whole)
    }
}

#[cfg(test)]
#[path = "task_tests.rs"]
mod tests;
