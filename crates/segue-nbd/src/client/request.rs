//! A request as the caller makes it, and the rules it must keep.

use core::fmt;

use super::Negotiated;
use crate::consts as c;
pub use crate::server::Command;

/// A request to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Command flags ([`c::CMD_FLAG_FUA`] and so on).
    pub flags: u16,
    /// First byte, from the start of the export; 0 for FLUSH.
    pub offset: u64,
    /// Length in bytes, at least 1; 0 for FLUSH.
    pub length: u32,
}

/// Why a request may not be sent; nothing has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Not in transmission, or already disconnected.
    NotConnected,
    /// The server has said that it is shutting down (ESHUTDOWN): only DISC may be sent.
    ShuttingDown,
    /// The server does not offer the command.
    CommandNotOffered,
    /// A flag is not for this command, or the server does not offer it.
    FlagNotOffered,
    /// The export is read-only.
    ReadOnly,
    /// The range is empty or goes beyond the end (or is not 0, 0 for a FLUSH).
    Range,
    /// The range is not aligned to the minimum block size.
    Alignment,
    /// Longer than the server takes.
    TooLong,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RequestError::NotConnected => "the connection is not in transmission",
            RequestError::ShuttingDown => "the server is shutting down",
            RequestError::CommandNotOffered => "the server does not offer this command",
            RequestError::FlagNotOffered => "a flag is not offered for this command",
            RequestError::ReadOnly => "the export is read-only",
            RequestError::Range => "the range is empty or beyond the end of the export",
            RequestError::Alignment => "the range is not aligned to the minimum block size",
            RequestError::TooLong => "the range is longer than the server takes",
        })
    }
}

impl core::error::Error for RequestError {}

impl Request {
    /// Whether the document lets a client send this, given what was agreed on.
    pub(super) fn check(&self, agreed: &Negotiated) -> Result<(), RequestError> {
        let (offered, flags, writes) = match self.command {
            Command::Read => (
                true,
                flag_if(agreed, c::FLAG_SEND_DF, c::CMD_FLAG_DF),
                false,
            ),
            Command::Write => (true, 0, true),
            Command::Flush => (agreed.offers(c::FLAG_SEND_FLUSH), 0, false),
            Command::Trim => (agreed.offers(c::FLAG_SEND_TRIM), 0, true),
            Command::Cache => (agreed.offers(c::FLAG_SEND_CACHE), 0, false),
            Command::WriteZeroes => {
                let fast = flag_if(agreed, c::FLAG_SEND_FAST_ZERO, c::CMD_FLAG_FAST_ZERO);
                (
                    agreed.offers(c::FLAG_SEND_WRITE_ZEROES),
                    c::CMD_FLAG_NO_HOLE | fast,
                    true,
                )
            }
            Command::BlockStatus => (agreed.allocation_id.is_some(), c::CMD_FLAG_REQ_ONE, false),
        };
        if !offered {
            return Err(RequestError::CommandNotOffered);
        }
        let fua = flag_if(agreed, c::FLAG_SEND_FUA, c::CMD_FLAG_FUA);
        if self.flags & !(flags | fua) != 0 {
            return Err(RequestError::FlagNotOffered);
        }
        if writes && agreed.offers(c::FLAG_READ_ONLY) {
            return Err(RequestError::ReadOnly);
        }
        self.check_range(agreed)
    }

    fn check_range(&self, agreed: &Negotiated) -> Result<(), RequestError> {
        if self.command == Command::Flush {
            let zero = self.offset == 0 && self.length == 0;
            return if zero {
                Ok(())
            } else {
                Err(RequestError::Range)
            };
        }
        let end = self.offset.checked_add(u64::from(self.length));
        if self.length == 0 || end.is_none_or(|end| end > agreed.size_bytes) {
            return Err(RequestError::Range);
        }
        let advertised = agreed.block_sizes;
        let mask = u64::from(advertised.map_or(1, |sizes| sizes.minimum())) - 1;
        if (self.offset | u64::from(self.length)) & mask != 0 {
            return Err(RequestError::Alignment);
        }
        let fast_zero = self.flags & c::CMD_FLAG_FAST_ZERO != 0;
        let length_max = match self.command {
            Command::Read | Command::Write => agreed.payload_bytes_max(),
            Command::Cache => advertised.map_or(u32::MAX, |sizes| sizes.maximum()),
            Command::WriteZeroes if !fast_zero => {
                advertised.map_or(u32::MAX, |sizes| sizes.maximum())
            }
            _ => u32::MAX,
        };
        if self.length > length_max {
            Err(RequestError::TooLong)
        } else {
            Ok(())
        }
    }

    /// Encodes the header ("Request message").
    pub(super) fn encode(&self, cookie: u64, out: &mut [u8; c::REQUEST_BYTES]) {
        encode(
            out,
            self.flags,
            self.command as u16,
            cookie,
            self.offset,
            self.length,
        );
    }
}

fn flag_if(agreed: &Negotiated, offer: u16, flag: u16) -> u16 {
    if agreed.offers(offer) { flag } else { 0 }
}

pub(super) fn encode_disc(out: &mut [u8; c::REQUEST_BYTES]) {
    encode(out, 0, c::CMD_DISC, 0, 0, 0);
}

fn encode(
    out: &mut [u8; c::REQUEST_BYTES],
    flags: u16,
    command: u16,
    cookie: u64,
    offset: u64,
    length: u32,
) {
    out[0..4].copy_from_slice(&c::REQUEST_MAGIC.to_be_bytes());
    out[4..6].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&command.to_be_bytes());
    out[8..16].copy_from_slice(&cookie.to_be_bytes());
    out[16..24].copy_from_slice(&offset.to_be_bytes());
    out[24..28].copy_from_slice(&length.to_be_bytes());
}
