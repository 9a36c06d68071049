//! Heads of replies, encoded into a buffer of the caller.
//!
//! The data of a read never passes through here: the driver sends head and data by one vectored
//! write. Every function returns the number of bytes written, and panics if `out` is too short
//! ([`HEAD_BYTES_MAX`] is always enough). Which of them a reply may consist of is decided by
//! [`crate::server::ServerConn`], whose methods call these.

use alloc::vec::Vec;

use crate::consts as c;
use crate::wire::{prefix, put_u32};
use crate::{Errno, Extent};

/// Bytes of a simple reply before its data.
pub const SIMPLE_BYTES: usize = 16;
/// Bytes of a chunk's header before its payload.
pub const CHUNK_BYTES: usize = 20;
/// Bytes of a chunk of data before the data.
pub const OFFSET_DATA_BYTES: usize = 28;
/// Bytes of a chunk of zeroes, whole.
pub const OFFSET_HOLE_BYTES: usize = 32;
/// Bytes of an error chunk without its message.
pub const ERROR_BYTES: usize = 26;
/// A buffer of this size is long enough for every head, with an error message cut to fit.
pub const HEAD_BYTES_MAX: usize = 128;

/// Encodes a simple reply ("Simple reply message"); `error` is `None` for success.
#[inline]
pub fn simple(out: &mut [u8], cookie: u64, error: Option<Errno>) -> usize {
    let out = &mut out[..SIMPLE_BYTES];
    out[0..4].copy_from_slice(&c::SIMPLE_REPLY_MAGIC.to_be_bytes());
    out[4..8].copy_from_slice(&error.map_or(0, Errno::wire).to_be_bytes());
    out[8..16].copy_from_slice(&cookie.to_be_bytes());
    SIMPLE_BYTES
}

/// Encodes the header of a chunk ("Structured reply chunk message") whose payload is
/// `payload_bytes` long.
#[inline]
pub fn chunk(out: &mut [u8], cookie: u64, kind: u16, done: bool, payload_bytes: u32) -> usize {
    let flags = if done { c::REPLY_FLAG_DONE } else { 0 };
    let out = &mut out[..CHUNK_BYTES];
    out[0..4].copy_from_slice(&c::STRUCTURED_REPLY_MAGIC.to_be_bytes());
    out[4..6].copy_from_slice(&flags.to_be_bytes());
    out[6..8].copy_from_slice(&kind.to_be_bytes());
    out[8..16].copy_from_slice(&cookie.to_be_bytes());
    out[16..20].copy_from_slice(&payload_bytes.to_be_bytes());
    CHUNK_BYTES
}

/// Encodes an empty chunk, which is always the last: success, unless an error chunk went before.
#[inline]
pub fn none(out: &mut [u8], cookie: u64) -> usize {
    chunk(out, cookie, c::REPLY_TYPE_NONE, true, 0)
}

/// Encodes the head of a chunk of `length` bytes of data (1 to 2^32 - 9) at `offset` of the
/// export. The data must be at hand when `done` is set: the peer cannot be told of an error later.
#[inline]
pub fn offset_data(out: &mut [u8], cookie: u64, done: bool, offset: u64, length: u32) -> usize {
    assert!(length > 0, "a chunk of data describes at least one byte");
    let payload_bytes = length
        .checked_add(8)
        .expect("a chunk's length fits 32 bits");
    let at = chunk(out, cookie, c::REPLY_TYPE_OFFSET_DATA, done, payload_bytes);
    out[at..OFFSET_DATA_BYTES].copy_from_slice(&offset.to_be_bytes());
    OFFSET_DATA_BYTES
}

/// Encodes a chunk saying that `length` bytes (at least 1) at `offset` of the export are zeroes.
/// Not allowed in the reply to a read with DF that also has data.
#[inline]
pub fn offset_hole(out: &mut [u8], cookie: u64, done: bool, offset: u64, length: u32) -> usize {
    assert!(length > 0, "a hole describes at least one byte");
    let at = chunk(out, cookie, c::REPLY_TYPE_OFFSET_HOLE, done, 12);
    out[at..at + 8].copy_from_slice(&offset.to_be_bytes());
    out[at + 8..OFFSET_HOLE_BYTES].copy_from_slice(&length.to_be_bytes());
    OFFSET_HOLE_BYTES
}

/// Encodes a whole error chunk. `message` is for people and is cut to what `out` and the
/// document's 4096 bytes leave room for.
pub fn error(out: &mut [u8], cookie: u64, done: bool, errno: Errno, message: &str) -> usize {
    let room = (out.len() - ERROR_BYTES).min(c::STRING_BYTES_MAX);
    let message = prefix(message, room).as_bytes();
    // At most 4096, so both casts are exact.
    let at = chunk(
        out,
        cookie,
        c::REPLY_TYPE_ERROR,
        done,
        6 + message.len() as u32,
    );
    out[at..at + 4].copy_from_slice(&errno.wire().to_be_bytes());
    out[at + 4..ERROR_BYTES].copy_from_slice(&(message.len() as u16).to_be_bytes());
    out[ERROR_BYTES..ERROR_BYTES + message.len()].copy_from_slice(message);
    ERROR_BYTES + message.len()
}

/// Appends a whole block status chunk of one metadata context. `extents` has at least one, each
/// of nonzero length.
pub fn block_status(
    out: &mut Vec<u8>,
    cookie: u64,
    done: bool,
    context_id: u32,
    extents: &[Extent],
) {
    assert!(
        !extents.is_empty(),
        "a block status has at least one extent"
    );
    let payload_bytes = u32::try_from(4 + 8 * extents.len()).expect("extents fit a chunk");
    let mut head = [0; CHUNK_BYTES];
    chunk(
        &mut head,
        cookie,
        c::REPLY_TYPE_BLOCK_STATUS,
        done,
        payload_bytes,
    );
    out.reserve(CHUNK_BYTES + 4 + 8 * extents.len());
    out.extend_from_slice(&head);
    put_u32(out, context_id);
    for extent in extents {
        assert!(extent.length > 0, "an extent is never empty");
        put_u32(out, extent.length);
        put_u32(out, extent.flags);
    }
}
