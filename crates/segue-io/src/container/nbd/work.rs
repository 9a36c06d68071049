//! What an NBD container is asked to do, and how each request is taken apart.

use std::fmt::Debug;
use std::sync::Arc;

use segue_nbd::client::Command;

use crate::buffer::Buffer;

/// What to do with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Read into the buffer.
    Read,
    /// Write from the buffer, durably.
    Write,
    /// Make it read as zeroes, durably.
    Zero {
        /// Leave it allocated.
        no_hole: bool,
        /// EOPNOTSUPP rather than slower than that.
        fast: bool,
    },
    /// Give it back, if it then reads as zeroes and that is quick; otherwise do nothing.
    Trim,
}

impl Op {
    /// Whether it changes what the container holds.
    pub(super) fn writes(self) -> bool {
        self != Op::Read
    }
}

/// How a job ended: none of its requests is under way at the server any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// With this errno; 0: well.
    Done(i32),
    /// With this errno, and nothing of it was ever sent.
    Refused(i32),
    /// It may not begin, or was given back: it has had no effect, or one that has ended.
    NotBegun,
}

/// Who waits for a job. Called on the container's own thread: must not block.
pub trait Waiter: Send + Debug {
    /// Asked right before each request is sent, on a connection made before that.
    fn may_begin(&self) -> bool;

    /// Whether it may be given back to be decided again.
    fn returns(&self) -> bool {
        true
    }

    /// How long it waits at most, in ns, if that is not the container's policy.
    fn patience_ns(&self) -> Option<u64> {
        None
    }

    /// The policy's time is over: whoever waits is to hear of an error, though requests may still
    /// be under way. Comes once at most; `ended` still follows.
    fn gave_up(&mut self);

    /// All is over.
    fn ended(self: Box<Self>, how: How);
}

/// One thing to do. Ranges are multiples of the container's unit.
#[derive(Debug)]
pub struct Job {
    /// What.
    pub op: Op,
    /// From the start of the export, bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Of reads and writes: the memory, and where in it.
    pub buffer: Option<(Arc<Buffer>, usize)>,
    /// Who waits.
    pub waiter: Box<dyn Waiter>,
}

/// One request of a job, as long as a server takes it.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// The job's place in the port's table; nobody's for the port's own reads of the header.
    pub(super) job: Option<usize>,
    pub(super) command: Command,
    pub(super) flags: u16,
    pub(super) offset: u64,
    pub(super) length: u32,
    pub(super) buffer: Option<(Arc<Buffer>, usize)>,
}

impl Part {
    pub(super) fn writes(&self) -> bool {
        matches!(
            self.command,
            Command::Write | Command::WriteZeroes | Command::Trim
        )
    }
}
