//! Segue's fence over NBD: two options of its own (`docs/protocol.md`, "The fence").
//!
//! ```text
//! HOLD    holder u64, count u32, count x (server u64, number u64)  -> SESSION server u64, number u64; ACK
//! REVOKE  holder u64, flags u32 (bit 0: for ever)                  -> ACK
//! ```
//!
//! HOLD says whom the connection acts for, and which of that holder's earlier sessions are to end
//! before it begins: the ACK proves that none of their requests is under way any more. REVOKE asks
//! the same of all sessions of a holder. A server without a fence answers UNSUP to both.

use alloc::vec::Vec;

use crate::wire::{Reader, put_u32, put_u64};

/// Bit 0 of REVOKE's flags.
const FOR_EVER: u32 = 1;
/// Most sessions that one HOLD may name.
pub const ENDED_MAX: usize = 1024;

/// One connection of a holder, as a server with a fence names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// This start of the server: random.
    pub server: u64,
    /// Unique within it.
    pub number: u64,
}

impl Session {
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Session> {
        let (server, number) = (reader.u64()?, reader.u64()?);
        Some(Session { server, number })
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        put_u64(out, self.server);
        put_u64(out, self.number);
    }
}

/// Whom a connection acts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// An agent's incarnation or a copier's fence.
    pub holder: u64,
    /// Earlier sessions of the holder that are to end first; at most [`ENDED_MAX`].
    pub ended: Vec<Session>,
}

impl Hold {
    pub(crate) fn decode(data: &[u8]) -> Option<Hold> {
        let mut reader = Reader::new(data);
        let (holder, count) = (reader.u64()?, reader.u32()? as usize);
        if count > ENDED_MAX {
            return None;
        }
        let mut ended = Vec::new();
        for _ in 0..count {
            ended.push(Session::decode(&mut reader)?);
        }
        reader.rest().is_empty().then_some(Hold { holder, ended })
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.holder);
        put_u32(out, self.ended.len() as u32);
        for session in &self.ended {
            session.encode(out);
        }
    }
}

/// An order to end a holder's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Whose.
    pub holder: u64,
    /// Refuse the holder from now on, over restarts of the server too.
    pub forever: bool,
}

impl Revocation {
    pub(crate) fn decode(data: &[u8]) -> Option<Revocation> {
        let mut reader = Reader::new(data);
        let (holder, flags) = (reader.u64()?, reader.u32()?);
        let known = flags & !FOR_EVER == 0 && reader.rest().is_empty();
        let forever = flags & FOR_EVER != 0;
        known.then_some(Revocation { holder, forever })
    }

    pub(crate) fn encode(self, out: &mut Vec<u8>) {
        put_u64(out, self.holder);
        put_u32(out, if self.forever { FOR_EVER } else { 0 });
    }
}
