//! O_DIRECT reads and writes through io_uring (decision 0001): a third of the pool's CPU.
//!
//! Tasks are gathered during a turn and submitted together at its end; completions are announced
//! by an eventfd. What the ring cannot do as it is (memory or offsets that O_DIRECT refuses, what
//! is cut short) is for the pool, which does it again from the start.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, squeue, types};

use super::task::{Ended, LeaseGuard, Task, What};
use crate::buffer::ALIGN_BYTES;
use crate::sys::EventFd;

/// Requests under way in the ring; more wait in the queue.
const ENTRIES: u32 = 256;
/// io_uring_enter's flag to run what completions have left to do.
const ENTER_GETEVENTS: u32 = 1;

/// How a task left the ring.
#[derive(Debug)]
pub(super) enum Left {
    Finished(Task, Ended),
    /// A sync, with its number: handed over in its order.
    Synced(Task, u64, Ended),
    /// The pool has to do it.
    Unsuited(Task),
}

/// See the module's text. It belongs to the thread that made it.
pub(super) struct Ring {
    ring: IoUring,
    pub(super) wake: EventFd,
    queue: Vec<Task>,
    /// With its number, if it is a sync.
    tasks: Vec<Option<(Task, Option<u64>)>>,
    free: Vec<usize>,
}

impl Ring {
    /// A ring for this thread.
    ///
    /// # Errors
    /// Those of io_uring_setup(2): many sandboxes forbid it.
    pub(super) fn new() -> io::Result<Ring> {
        let mut builder = IoUring::builder();
        let ring = builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(ENTRIES)?;
        let wake = EventFd::new()?;
        ring.submitter().register_eventfd(wake.as_raw_fd())?;
        Ok(Ring {
            ring,
            wake,
            queue: Vec::new(),
            tasks: Vec::new(),
            free: Vec::new(),
        })
    }

    /// Whether the ring can do this.
    pub(super) fn suits(task: &Task) -> bool {
        entry(task).is_some()
    }

    /// Takes a task that suits; it is begun by `submit`.
    pub(super) fn push(&mut self, task: Task) {
        self.queue.push(task);
    }

    /// Whether io_uring_enter has left something behind (it may fail for want of memory).
    pub(super) fn must_enter(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    fn in_flight(&self) -> usize {
        self.tasks.len() - self.free.len()
    }

    /// Begins what is queued; what may not be begun any more is given back.
    pub(super) fn submit(&mut self, guard: &LeaseGuard) -> Vec<Left> {
        let mut left = Vec::new();
        let room = ENTRIES as usize - self.in_flight();
        for task in self.queue.drain(..room.min(self.queue.len())) {
            if !task.may_begin(guard) {
                left.push(Left::Finished(task, Ended::NotBegun));
                continue;
            }
            let Some(entry) = entry(&task) else {
                left.push(Left::Unsuited(task));
                continue;
            };
            let index = self.free.pop().unwrap_or_else(|| {
                self.tasks.push(None);
                self.tasks.len() - 1
            });
            let begun = task.begin_sync();
            self.tasks[index] = Some((task, begun));
            let entry = entry.user_data(index as u64);
            // SAFETY: the task, kept until the completion, holds the buffer and the descriptor.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            pushed.expect("no more in flight than the ring has entries");
        }
        if self.in_flight() > 0 {
            if let Err(error) = self.ring.submit() {
                // Nothing is lost: what was not submitted goes with the next call.
                crate::log(format_args!("io_uring_enter: {error}"));
            }
        }
        left
    }

    /// Takes what has completed.
    pub(super) fn reap(&mut self) -> Vec<Left> {
        // SAFETY: no argument is passed. EINTR and the like show at the next call.
        let _ = unsafe {
            self.ring
                .submitter()
                .enter::<()>(0, 0, ENTER_GETEVENTS, None)
        };
        let mut left = Vec::new();
        for completion in self.ring.completion() {
            let index = completion.user_data() as usize;
            let (task, begun) = self.tasks[index]
                .take()
                .expect("a completion for each task");
            self.free.push(index);
            let (What::Read { length, .. } | What::Write { length, .. }) = task.what else {
                unreachable!("only reads and writes are pushed");
            };
            let ended = match completion.result() {
                done if done as usize == length && done >= 0 => Some(Ended::Done(0)),
                // Cut short, or refused for its alignment or for being non-blocking.
                0.. => None,
                error if matches!(-error, libc::EINVAL | libc::EAGAIN | libc::EINTR) => None,
                error => Some(Ended::Done(-error)),
            };
            left.push(match (ended, begun) {
                (Some(ended), None) => Left::Finished(task, ended),
                (Some(ended), Some(number)) => Left::Synced(task, number, ended),
                (None, begun) => {
                    if let Some(number) = begun {
                        task.container.syncs().end(number, false, Box::new(drop));
                    }
                    Left::Unsuited(task)
                }
            });
        }
        left
    }
}

impl Ring {
    /// Waits for all that is in flight.
    pub(super) fn drain(&mut self) -> Vec<Left> {
        let mut left = Vec::new();
        while self.in_flight() > 0 {
            if self.ring.submit_and_wait(1).is_ok() {
                left.extend(self.reap());
            }
        }
        left
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel writes into buffers of tasks in flight: they must outlive that.
        self.drain();
    }
}

/// The ring's entry for a task, if the ring can do it as it is.
fn entry(task: &Task) -> Option<squeue::Entry> {
    let (offset, at, length) = match task.what {
        What::Read { offset, at, length }
        | What::Write {
            offset, at, length, ..
        } => (offset, at, length),
        _ => return None,
    };
    let (fd, file_offset) = task.container.direct(offset, length as u64)?;
    let buffer = task.buffer.as_ref()?;
    // SAFETY: the engine gave this piece that part of the buffer alone.
    let memory = unsafe { buffer.part_mut(at, length) }.as_mut_ptr();
    if memory as usize % ALIGN_BYTES != 0 {
        return None;
    }
    let (fd, count) = (types::Fd(fd), u32::try_from(length).ok()?);
    Some(match task.what {
        What::Write { fua, .. } => {
            let flags = if fua { libc::RWF_DSYNC } else { 0 };
            opcode::Write::new(fd, memory, count)
                .offset(file_offset)
                .rw_flags(flags)
                .build()
        }
        _ => opcode::Read::new(fd, memory, count)
            .offset(file_offset)
            .build(),
    })
}
