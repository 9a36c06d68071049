//! What an export is, as far as the protocol cares.

use alloc::string::String;
use core::fmt;

use crate::consts as c;

/// Block size constraints ("Block size constraints"), valid by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    minimum: u32,
    preferred: u32,
    maximum: u32,
}

/// Block sizes that the document forbids to advertise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizesError(&'static str);

impl fmt::Display for BlockSizesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl core::error::Error for BlockSizesError {}

impl BlockSizes {
    /// Minimum 1, preferred 4096, maximum 32 MiB: Segue's usual constraints.
    pub const DEFAULT: BlockSizes = BlockSizes {
        minimum: 1,
        preferred: 4096,
        maximum: c::PAYLOAD_BYTES_MAX,
    };

    /// Checks and takes the three sizes, in bytes.
    ///
    /// # Errors
    /// If `minimum` is not a power of two up to 65,536; `preferred` not a power of two of at
    /// least 512 and `minimum`; or `maximum` neither 0xffffffff nor a multiple of `minimum` of at
    /// least `preferred`.
    pub fn new(minimum: u32, preferred: u32, maximum: u32) -> Result<Self, BlockSizesError> {
        Self::received(minimum, preferred, maximum, u64::MAX)
    }

    /// Takes sizes that a server advertised for an export of `size_bytes`: `maximum` may be
    /// smaller than `preferred` if the export is.
    pub(crate) fn received(
        minimum: u32,
        preferred: u32,
        maximum: u32,
        size_bytes: u64,
    ) -> Result<Self, BlockSizesError> {
        if !minimum.is_power_of_two() || minimum > 1 << 16 {
            return Err(BlockSizesError("minimum is not a power of two up to 65536"));
        }
        if !preferred.is_power_of_two() || preferred < minimum.max(512) {
            return Err(BlockSizesError(
                "preferred is not a power of two of at least 512",
            ));
        }
        let maximum_min = u64::from(preferred).min(size_bytes);
        if maximum != u32::MAX && (maximum % minimum != 0 || u64::from(maximum) < maximum_min) {
            return Err(BlockSizesError(
                "maximum is not a multiple of minimum above preferred",
            ));
        }
        Ok(BlockSizes {
            minimum,
            preferred,
            maximum,
        })
    }

    /// What a server of this crate advertises and enforces: no payload over 32 MiB.
    pub(crate) fn served(self) -> BlockSizes {
        BlockSizes {
            minimum: self.minimum,
            preferred: self.preferred.min(c::PAYLOAD_BYTES_MAX),
            maximum: self.maximum.min(c::PAYLOAD_BYTES_MAX),
        }
    }

    /// Smallest length and alignment, in bytes.
    #[must_use]
    pub fn minimum(self) -> u32 {
        self.minimum
    }

    /// Smallest efficient length and alignment, in bytes.
    #[must_use]
    pub fn preferred(self) -> u32 {
        self.preferred
    }

    /// Longest read, write, cache or write-zeroes, in bytes; 0xffffffff means no limit.
    #[must_use]
    pub fn maximum(self) -> u32 {
        self.maximum
    }
}

impl Default for BlockSizes {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// What the server offers on an export beyond READ, WRITE and DISC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// FLUSH.
    pub flush: bool,
    /// The FUA flag.
    pub fua: bool,
    /// TRIM.
    pub trim: bool,
    /// WRITE_ZEROES and NO_HOLE.
    pub write_zeroes: bool,
    /// The FAST_ZERO flag; without effect unless `write_zeroes`.
    pub fast_zero: bool,
    /// CACHE.
    pub cache: bool,
    /// The DF flag; advertised only after structured replies were agreed.
    pub df: bool,
    /// `base:allocation` may be selected, and BLOCK_STATUS used.
    pub block_status: bool,
}

impl Features {
    /// All that a Segue disk serves: everything but CACHE.
    pub const DISK: Features = Features {
        flush: true,
        fua: true,
        trim: true,
        write_zeroes: true,
        fast_zero: true,
        cache: false,
        df: true,
        block_status: true,
    };
}

/// An export as the driver describes it to the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportInfo {
    /// Canonical name; at most 4096 bytes, no NUL (longer is cut).
    pub name: String,
    /// For people; may be empty. At most 4096 bytes (longer is cut).
    pub description: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Writes, trims and write-zeroes are refused with EPERM.
    pub read_only: bool,
    /// A FLUSH or FUA on one connection covers what all connections have had acknowledged.
    pub can_multi_conn: bool,
    /// Block size constraints, advertised if asked for and always enforced.
    pub block_sizes: BlockSizes,
    /// What is offered.
    pub features: Features,
}

impl ExportInfo {
    /// The transmission flags to send ("Transmission flags").
    #[must_use]
    pub fn transmission_flags(&self, structured: bool) -> u16 {
        let features = self.features;
        let write_zeroes = features.write_zeroes;
        [
            (true, c::FLAG_HAS_FLAGS),
            (self.read_only, c::FLAG_READ_ONLY),
            (features.flush, c::FLAG_SEND_FLUSH),
            (features.fua, c::FLAG_SEND_FUA),
            (features.trim, c::FLAG_SEND_TRIM),
            (write_zeroes, c::FLAG_SEND_WRITE_ZEROES),
            (features.df && structured, c::FLAG_SEND_DF),
            (self.can_multi_conn, c::FLAG_CAN_MULTI_CONN),
            (features.cache, c::FLAG_SEND_CACHE),
            (features.fast_zero && write_zeroes, c::FLAG_SEND_FAST_ZERO),
        ]
        .iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |flags, (_, flag)| flags | flag)
    }
}

/// A run of bytes of one status, as BLOCK_STATUS reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes; never zero.
    pub length: u32,
    /// [`c::STATE_HOLE`] and [`c::STATE_ZERO`] for `base:allocation`.
    pub flags: u32,
}
