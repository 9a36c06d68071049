//! What a host I/O met on its way: notes for the driver, which measures how long each took.
//!
//! Nothing is decided by them.  Clean I/O has none, and costs nothing here.

use crate::engine::Engine;
use crate::in_flight::Life;

/// The dearest thing that a host I/O met; the values are those of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Nothing: its entries let it go ahead.
    #[default]
    Clean = 0,
    /// It was parked: a quiesce, or no lease.
    Parked = 1,
    /// A fault; if none of the below: answered by `retry`, or not before the host was.
    Faulted = 2,
    /// A fault, carried out by `do_split_read`.
    SplitRead = 3,
    /// A fault, carried out by `do_write`.
    DoWrite = 4,
    /// A fault, answered by `complete_to_host` alone: the table was changed (a discard).
    Completed = 5,
    /// A fault, answered by `failure`.
    Failed = 6,
}

/// How many causes there are.
pub const CAUSES: usize = 7;

impl Engine {
    /// The next note: the token of a host I/O that is not answered yet, and what it has met.
    ///
    /// To be taken until there is none after every call, before its effects.
    #[inline]
    pub fn poll_note(&mut self) -> Option<(u64, Cause)> {
        self.notes.pop()
    }

    /// The time of the last call.
    #[inline]
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Notes what the host I/O of a piece has met.
    pub(crate) fn note(&mut self, piece: u32, cause: Cause) {
        let host = &self.hosts[self.pieces[piece].host];
        if host.life == Life::Waiting {
            self.notes.push((host.token, cause));
        }
    }
}
