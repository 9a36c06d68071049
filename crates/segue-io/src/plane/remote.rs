//! Tasks on containers across the network: handed in at the container's port, and taken back.

use std::sync::Arc;

use super::task::{Completions, Ended, LeaseGuard, Said, Task, What};
use crate::container::ZeroHow;
use crate::container::nbd::{How, Job, Op, Waiter};
use crate::sys::errno_of;

/// A task at its port.
#[derive(Debug)]
struct Away {
    task: Option<Task>,
    guard: Arc<LeaseGuard>,
    completions: Arc<Completions>,
    /// Part of a `do_*`: not to be decided again.
    commanded: bool,
}

impl Away {
    fn end(mut self, ended: Ended) {
        if let Some(task) = self.task.take() {
            self.completions.push(Said::Ended(task, ended));
        }
    }
}

impl Waiter for Away {
    fn may_begin(&self) -> bool {
        self.task
            .as_ref()
            .is_some_and(|task| task.may_begin(&self.guard))
    }

    fn returns(&self) -> bool {
        !self.commanded
    }

    fn gave_up(&mut self) {
        if let Some(task) = &self.task {
            self.completions.push(Said::Late(task.piece));
        }
    }

    fn ended(self: Box<Self>, how: How) {
        let reads = self
            .task
            .as_ref()
            .is_some_and(|task| matches!(task.what, What::Read { .. }));
        let ended = match how {
            How::Done(errno) if errno == 0 || reads => Ended::Done(errno),
            // Every write is durable by itself, so an error of one says nothing of the others: the
            // container has not failed.
            How::Done(errno) | How::Refused(errno) => Ended::Refused(errno),
            How::NotBegun if self.commanded => Ended::NotBegun,
            How::NotBegun => Ended::GivenBack,
        };
        self.end(ended);
    }
}

/// Whether this is for a port: all but merged writes, which read first and block.
pub(super) fn suits(task: &Task) -> bool {
    task.container.port().is_some() && !matches!(task.what, What::Merge(_) | What::Flush)
}

/// Whether a merged write reads from across the network, or writes there.
pub(super) fn has_part_in(task: &Task) -> bool {
    let What::Merge(merge) = &task.what else {
        return false;
    };
    let edges = [&merge.head, &merge.tail].into_iter().flatten();
    let mut all = edges
        .map(|(container, _)| container)
        .chain([&task.container]);
    all.any(|container| container.port().is_some())
}

/// Hands a task in that suits.
pub(super) fn submit(
    task: Task,
    guard: &Arc<LeaseGuard>,
    completions: &Arc<Completions>,
    commanded: bool,
) {
    let buffer = |at: usize| task.buffer.clone().map(|buffer| (buffer, at));
    let (op, offset, length, buffer) = match task.what {
        What::Read { offset, at, length } => (Op::Read, offset, length as u64, buffer(at)),
        What::Write {
            offset, at, length, ..
        } => (Op::Write, offset, length as u64, buffer(at)),
        What::Zero {
            offset,
            length,
            how: ZeroHow { no_hole, fast, .. },
        } => (Op::Zero { no_hole, fast }, offset, length, None),
        What::Trim { offset, length, .. } => (Op::Trim, offset, length, None),
        What::Flush | What::Merge(_) => unreachable!("not for a port"),
    };
    let container = task.container.clone();
    let away = Away {
        task: Some(task),
        guard: guard.clone(),
        completions: completions.clone(),
        commanded,
    };
    match container.remote(offset, length) {
        Some(Ok((port, offset))) => port.submit(Job {
            op,
            offset,
            length,
            buffer,
            waiter: Box::new(away),
        }),
        Some(Err(error)) => away.end(Ended::Refused(errno_of(&error))),
        None => away.end(Ended::Refused(libc::EIO)),
    }
}
