//! What a log wants to know of host I/O that was not clean: which fault it raised, how it ended.
//!
//! Off unless asked for; clean I/O is never told of.

use segue_map::Cause;
use segue_nbd::server::Command;

use super::mailbox::PlaneEvent;
use super::tokens::HostIo;

/// A host I/O as its host knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoTrace {
    /// Number of the connection; never used again by this plane.
    pub connection: u64,
    /// The host's name for it.
    pub cookie: u64,
    /// Of the table.
    pub disk: u32,
    /// What it asks for.
    pub command: Command,
    /// Bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
}

/// What is to be told, in order.
#[derive(Debug, Default)]
pub(super) struct Traces {
    pub(super) on: bool,
    pub(super) told: Vec<PlaneEvent>,
}

impl Traces {
    pub(super) fn faulted(&mut self, io: &HostIo, request: u64) {
        if self.on {
            self.told.push(PlaneEvent::IoFaulted(trace(io), request));
        }
    }

    #[inline]
    pub(super) fn answered(&mut self, io: &HostIo, errno: i32, took_ns: u64) {
        if self.on && io.cause != Cause::Clean {
            self.told.push(PlaneEvent::IoAnswered {
                io: trace(io),
                cause: io.cause as u8,
                errno,
                took_ns,
            });
        }
    }
}

fn trace(io: &HostIo) -> IoTrace {
    IoTrace {
        connection: io.conn.id,
        cookie: io.request.cookie,
        disk: io.disk,
        command: io.request.command,
        offset: io.request.offset,
        length: io.request.length,
    }
}
