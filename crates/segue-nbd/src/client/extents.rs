//! The payload of a block status chunk ("Structured reply types").

use alloc::vec::Vec;

use crate::Extent;
use crate::wire::Reader;

/// Longest payload of a block status chunk that is borne: 128 Ki extents.
pub(super) const STATUS_BYTES_MAX: u32 = 4 + 8 * (128 << 10);

/// Gives context id and extents. `length`: of the request, in bytes. On a breach of the
/// document, the rule that was broken.
pub(super) fn parse(
    payload: &[u8],
    length: u32,
    one: bool,
) -> Result<(u32, Vec<Extent>), &'static str> {
    const SHAPE: &str = "the length of a block status does not fit whole extents";
    if payload.len() < 12 || payload.len() % 8 != 4 {
        return Err(SHAPE);
    }
    let mut reader = Reader::new(payload);
    let context_id = reader.u32().ok_or(SHAPE)?;
    let mut extents = Vec::with_capacity(payload.len() / 8);
    let mut sum: u64 = 0;
    while let (Some(extent_length), Some(flags)) = (reader.u32(), reader.u32()) {
        if extent_length == 0 {
            return Err("an extent is empty");
        }
        if sum >= u64::from(length) {
            return Err("an extent begins beyond the request");
        }
        sum += u64::from(extent_length);
        extents.push(Extent {
            length: extent_length,
            flags,
        });
    }
    if one && (extents.len() != 1 || sum > u64::from(length)) {
        return Err("a reply to REQ_ONE has more than one extent, or one that is too long");
    }
    Ok((context_id, extents))
}
