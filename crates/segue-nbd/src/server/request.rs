//! A request as the driver sees it.

use crate::consts as c;

/// What a valid request asks for. DISC is an event of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Command {
    /// Read `length` bytes at `offset`.
    Read = c::CMD_READ,
    /// Write the payload at `offset`.
    Write = c::CMD_WRITE,
    /// Make durable what was acknowledged.
    Flush = c::CMD_FLUSH,
    /// The range is no longer needed.
    Trim = c::CMD_TRIM,
    /// The range will be used soon.
    Cache = c::CMD_CACHE,
    /// Make the range read as zeroes.
    WriteZeroes = c::CMD_WRITE_ZEROES,
    /// Report the extents of the range.
    BlockStatus = c::CMD_BLOCK_STATUS,
}

impl Command {
    /// Reads a command number; `None` for DISC and what is unknown.
    #[must_use]
    #[inline]
    pub fn from_wire(value: u16) -> Option<Command> {
        Some(match value {
            c::CMD_READ => Command::Read,
            c::CMD_WRITE => Command::Write,
            c::CMD_FLUSH => Command::Flush,
            c::CMD_TRIM => Command::Trim,
            c::CMD_CACHE => Command::Cache,
            c::CMD_WRITE_ZEROES => Command::WriteZeroes,
            c::CMD_BLOCK_STATUS => Command::BlockStatus,
            _ => return None,
        })
    }
}

/// A valid request: its flags are allowed, its range lies within the export and has a length
/// (except a FLUSH's), and the export may be written if it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client's name for it; need not be unique.
    pub cookie: u64,
    /// First byte, from the start of the export.
    pub offset: u64,
    /// Length in bytes: up to 32 MiB for READ and WRITE, up to 2^32 - 1 for the others.
    pub length: u32,
    /// What it asks for.
    pub command: Command,
    /// Command flags, all of them allowed for this command here.
    pub flags: u16,
}

impl Request {
    /// Bytes of data that it needs memory for until it is answered.
    #[must_use]
    #[inline]
    pub fn held_bytes(&self) -> usize {
        match self.command {
            Command::Read | Command::Write => self.length as usize,
            _ => 0,
        }
    }

    /// Durable before the reply. May stand on any command; means nothing on those that write
    /// nothing.
    #[must_use]
    #[inline]
    pub fn fua(&self) -> bool {
        self.flags & c::CMD_FLAG_FUA != 0
    }

    /// WRITE_ZEROES must leave the range allocated.
    #[must_use]
    #[inline]
    pub fn no_hole(&self) -> bool {
        self.flags & c::CMD_FLAG_NO_HOLE != 0
    }

    /// WRITE_ZEROES must fail at once with ENOTSUP unless it is faster than writing.
    #[must_use]
    #[inline]
    pub fn fast_zero(&self) -> bool {
        self.flags & c::CMD_FLAG_FAST_ZERO != 0
    }

    /// The reply to a READ may have one content chunk at most.
    #[must_use]
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.flags & c::CMD_FLAG_DF != 0
    }

    /// The reply to a BLOCK_STATUS must have one extent.
    #[must_use]
    #[inline]
    pub fn one_extent(&self) -> bool {
        self.flags & c::CMD_FLAG_REQ_ONE != 0
    }
}
