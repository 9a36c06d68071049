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

/// What a host I/O that is not answered yet has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// The host I/O.
    pub token: u64,
    /// What it met.
    pub cause: Cause,
    /// The fault that was raised for it, with [`Cause::Faulted`]; else 0.
    pub request: u64,
}

/// How many causes there are.
pub const CAUSES: usize = 7;

impl Engine {
    /// The next note; to be taken until there is none after every call, before its effects.
    #[inline]
    pub fn poll_note(&mut self) -> Option<Note> {
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
        self.note_fault(piece, cause, 0);
    }

    /// The same, of a fault.
    pub(crate) fn note_fault(&mut self, piece: u32, cause: Cause, request: u64) {
        let host = &self.hosts[self.pieces[piece].host];
        if host.life == Life::Waiting {
            let token = host.token;
            self.notes.push(Note {
                token,
                cause,
                request,
            });
        }
    }
}
