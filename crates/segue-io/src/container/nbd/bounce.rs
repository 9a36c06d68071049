//! Reads whose ends do not fit the server's minimum block: by way of another buffer.

use std::sync::Arc;

use super::work::{How, Job, Op, Waiter};
use crate::buffer::Buffer;

#[derive(Debug)]
struct Bounce {
    inner: Box<dyn Waiter>,
    around: Arc<Buffer>,
    skip: usize,
    into: (Arc<Buffer>, usize),
    length: usize,
}

impl Waiter for Bounce {
    fn may_begin(&self) -> bool {
        self.inner.may_begin()
    }

    fn returns(&self) -> bool {
        self.inner.returns()
    }

    fn patience_ns(&self) -> Option<u64> {
        self.inner.patience_ns()
    }

    fn gave_up(&mut self) {
        self.inner.gave_up();
    }

    fn ended(self: Box<Self>, how: How) {
        if how == How::Done(0) {
            let (buffer, at) = &self.into;
            // SAFETY: the job gave this part of the buffer to this read alone.
            unsafe { buffer.part_mut(*at, self.length) }
                .copy_from_slice(self.around.part(self.skip, self.length));
        }
        self.inner.ended(how);
    }
}

/// The job with its range rounded outward to the unit, if it is a read that needs that.
pub(super) fn aligned(job: Job, unit_bytes: u64) -> Job {
    let (start, end) = (job.offset, job.offset + job.length);
    if job.op != Op::Read || (start % unit_bytes == 0 && end % unit_bytes == 0) {
        return job;
    }
    let offset = start / unit_bytes * unit_bytes;
    let length = end.next_multiple_of(unit_bytes) - offset;
    let around = Arc::new(Buffer::new(length as usize));
    let waiter = Box::new(Bounce {
        inner: job.waiter,
        around: around.clone(),
        skip: (start - offset) as usize,
        into: job.buffer.expect("a read has a buffer"),
        length: job.length as usize,
    });
    Job {
        op: Op::Read,
        offset,
        length,
        buffer: Some((around, 0)),
        waiter,
    }
}
