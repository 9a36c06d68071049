//! What a server offers for an export, and whether that is enough for a container.

use std::io;

use segue_nbd::client::Negotiated;
use segue_nbd::consts as c;

/// Write-zeroes of one request, at most, where the server names no limit.
const ZERO_BYTES_MAX: u64 = 1 << 30;
/// The longest request of a server that nobody has seen yet.
const PRESUMED_BYTES: u32 = 64 << 10;
/// The largest write unit a container may have.
const UNIT_BYTES_MAX: u32 = 4096;

/// See the module's text. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of the export.
    pub size_bytes: u64,
    /// The smallest write: the server's minimum block.
    pub unit_bytes: u32,
    /// Longest read or write.
    pub payload_bytes: u32,
    /// Longest write-zeroes, a multiple of the unit.
    pub zero_bytes: u64,
    /// Writes can be made durable by themselves; else a flush follows each.
    pub fua: bool,
    /// Ranges can be zeroed without sending zeroes.
    pub zeroes: bool,
    /// The server says when zeroing would be slow.
    pub fast_zero: bool,
    /// Sessions can be ended by others (`segue serve`).
    pub fenced: bool,
}

impl Limits {
    /// What was agreed on, if a container can live with it.
    ///
    /// # Errors
    /// Unsupported, saying what is missing.
    pub(super) fn of(agreed: &Negotiated) -> io::Result<Limits> {
        let minimum = agreed.block_sizes.map_or(1, |sizes| sizes.minimum());
        let missing = [
            (agreed.offers(c::FLAG_READ_ONLY), "is read-only"),
            (!agreed.offers(c::FLAG_SEND_FLUSH), "has no FLUSH"),
            (
                !agreed.offers(c::FLAG_CAN_MULTI_CONN),
                "takes one connection at a time (no CAN_MULTI_CONN), and the controller and each \
                 agent need their own",
            ),
            (
                minimum > UNIT_BYTES_MAX,
                "takes no write as small as 4096 bytes",
            ),
        ];
        if let Some((_, what)) = missing.into_iter().find(|(is_missing, _)| *is_missing) {
            let what = format!("the export {what}");
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let zero_bytes = agreed
            .block_sizes
            .map_or(ZERO_BYTES_MAX, |sizes| u64::from(sizes.maximum()))
            .min(ZERO_BYTES_MAX);
        Ok(Limits {
            size_bytes: agreed.size_bytes,
            unit_bytes: minimum,
            payload_bytes: agreed.payload_bytes_max(),
            zero_bytes,
            fua: agreed.offers(c::FLAG_SEND_FUA),
            zeroes: agreed.offers(c::FLAG_SEND_WRITE_ZEROES),
            fast_zero: agreed.offers(c::FLAG_SEND_WRITE_ZEROES)
                && agreed.offers(c::FLAG_SEND_FAST_ZERO),
            fenced: agreed.session.is_some(),
        })
    }

    /// What any server can be supposed to offer for a container of that size and write unit.
    pub(super) fn presumed(size_bytes: u64, unit_bytes: u32) -> Limits {
        Limits {
            size_bytes,
            unit_bytes,
            payload_bytes: PRESUMED_BYTES,
            zero_bytes: u64::from(PRESUMED_BYTES),
            fua: false,
            zeroes: false,
            fast_zero: false,
            fenced: false,
        }
    }

    /// These, found where `presumed` was supposed: size and write unit are the container's.
    pub(super) fn instead_of(self, presumed: &Limits) -> Limits {
        Limits {
            size_bytes: presumed.size_bytes,
            unit_bytes: presumed.unit_bytes,
            ..self
        }
    }

    /// Whether a connection with these can do all that one with `earlier` could.
    pub(super) fn covers(&self, earlier: &Limits) -> bool {
        self.size_bytes >= earlier.size_bytes
            && self.unit_bytes <= earlier.unit_bytes
            && self.payload_bytes >= earlier.payload_bytes
            && self.zero_bytes >= earlier.zero_bytes
            && self.fua >= earlier.fua
            && self.zeroes >= earlier.zeroes
            && self.fast_zero >= earlier.fast_zero
    }
}
