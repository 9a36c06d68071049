//! The header of a storage container: whose it is, how it is carved, how new what it has seen is.
//!
//! Two slots of 4 KiB at offsets 0 and 4096, written in turn, each durable before the next is
//! touched: a torn write costs the newer slot only (design, section 3, "Containers"). Behind them
//! lies the place of a [`super::Note`]. Numbers are little-endian:
//!
//! ```text
//!  0  8 magic "SEGUECON"     48  8 segment size, bytes     72  8 newest term seen
//!  8  4 format version       56  8 segments                80  8 newest commit number seen
//! 12  4 flags, see below      64  4 write unit, bytes       88  8 sequence of this slot
//! 16 16 installation         68  4 zero                  4092  4 crc32c of all before it
//! 32 16 container
//! ```
//!
//! Flags: bit 0 clean, bit 1 the file is Segue's own.

use std::io;

use super::backing::Backing;
use super::note;
use crate::buffer::Buffer;

/// Where segment 0 starts.
pub const DATA_AT_BYTES: u64 = 1 << 20;
/// Bytes of one slot.
pub const SLOT_BYTES: usize = 4096;
/// The format written; older ones are read, newer ones refused.
pub const FORMAT_VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"SEGUECON";
const FLAG_CLEAN: u32 = 1;
const FLAG_CREATED: u32 = 2;
/// A segment's number has 44 bits in a table's entry, and a file's size 63 in all.
const MAX_SEGMENTS: u64 = 1 << 37;
const CRC_AT: usize = SLOT_BYTES - 4;

/// A UUID: of an installation or a container.
pub type Identity = [u8; 16];

/// A container's header, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose it is.
    pub installation: Identity,
    /// Which it is.
    pub container: Identity,
    /// Segment size in bytes: a power of two, 64 KiB to 64 MiB.
    pub segment_bytes: u64,
    /// How many segments it is carved into.
    pub segments: u64,
    /// The smallest write, in bytes.
    pub write_unit_bytes: u32,
    /// When it was made, all segments read as zeroes.
    pub clean: bool,
    /// Segue made the file, and deletes it with the container.
    pub created: bool,
    /// Newest term seen; at first the one that made it.
    pub term: u64,
    /// Newest commit number seen; 0: not stamped yet.
    pub commit: u64,
    /// Grows with every write of the header.
    pub sequence: u64,
}

/// What one slot holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing of ours.
    Foreign,
    /// A header of ours that does not match its checksum.
    Damaged,
    /// A header of a format newer than [`FORMAT_VERSION`].
    TooNew(u32),
    /// A header.
    Valid(Header),
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl Header {
    /// The bytes of a slot.
    #[must_use]
    pub fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut out = [0; SLOT_BYTES];
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        let flags = if self.clean { FLAG_CLEAN } else { 0 };
        let flags = flags | if self.created { FLAG_CREATED } else { 0 };
        out[12..16].copy_from_slice(&flags.to_le_bytes());
        out[16..32].copy_from_slice(&self.installation);
        out[32..48].copy_from_slice(&self.container);
        out[48..56].copy_from_slice(&self.segment_bytes.to_le_bytes());
        out[56..64].copy_from_slice(&self.segments.to_le_bytes());
        out[64..68].copy_from_slice(&self.write_unit_bytes.to_le_bytes());
        out[72..80].copy_from_slice(&self.term.to_le_bytes());
        out[80..88].copy_from_slice(&self.commit.to_le_bytes());
        out[88..96].copy_from_slice(&self.sequence.to_le_bytes());
        let crc = crc32c::crc32c(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// What the bytes of a slot say.
    ///
    /// # Panics
    /// If `bytes` is not as long as a slot.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Slot {
        assert_eq!(bytes.len(), SLOT_BYTES, "a whole slot");
        if &bytes[0..8] != MAGIC {
            return Slot::Foreign;
        }
        if crc32c::crc32c(&bytes[..CRC_AT]) != u32_at(bytes, CRC_AT) {
            return Slot::Damaged;
        }
        if u32_at(bytes, 8) > FORMAT_VERSION {
            return Slot::TooNew(u32_at(bytes, 8));
        }
        let header = Header {
            clean: u32_at(bytes, 12) & FLAG_CLEAN != 0,
            created: u32_at(bytes, 12) & FLAG_CREATED != 0,
            installation: bytes[16..32].try_into().expect("sixteen bytes"),
            container: bytes[32..48].try_into().expect("sixteen bytes"),
            segment_bytes: u64_at(bytes, 48),
            segments: u64_at(bytes, 56),
            write_unit_bytes: u32_at(bytes, 64),
            term: u64_at(bytes, 72),
            commit: u64_at(bytes, 80),
            sequence: u64_at(bytes, 88),
        };
        if header.makes_sense() {
            Slot::Valid(header)
        } else {
            Slot::Damaged
        }
    }

    /// Whether some Segue can have written it: a checksum is no proof, anybody can make one.
    fn makes_sense(&self) -> bool {
        is_segment_size(self.segment_bytes)
            && (1..=MAX_SEGMENTS).contains(&self.segments)
            && self.write_unit_bytes.is_power_of_two()
            && self.write_unit_bytes as usize <= SLOT_BYTES
            && self.sequence < u64::MAX
    }

    /// Length of the data area, in bytes.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.segments * self.segment_bytes
    }

    /// Reads the newer valid slot; `None` if neither is ours.
    ///
    /// # Errors
    /// Those of reading; InvalidData if what there is of a header is damaged or too new.
    pub fn read(backing: &dyn Backing) -> io::Result<Option<Header>> {
        if backing.size_bytes()? < 2 * SLOT_BYTES as u64 {
            return Ok(None);
        }
        let buffer = Buffer::new(2 * SLOT_BYTES);
        // SAFETY: `buffer` is this function's own.
        let bytes = unsafe { buffer.part_mut(0, 2 * SLOT_BYTES) };
        backing.read(0, bytes)?;
        Self::newest(bytes)
    }

    /// The newer valid slot of the two at the start of `bytes`; `None` if neither is ours.
    ///
    /// # Errors
    /// InvalidData if what there is of a header is damaged or too new.
    pub(super) fn newest(bytes: &[u8]) -> io::Result<Option<Header>> {
        let slots = [
            Self::decode(&bytes[..SLOT_BYTES]),
            Self::decode(&bytes[SLOT_BYTES..2 * SLOT_BYTES]),
        ];
        let mut newest: Option<Header> = None;
        let mut flaw = None;
        for slot in slots {
            match slot {
                // A newer format anywhere means that a newer Segue has been here.
                Slot::TooNew(version) => {
                    return Err(invalid(format!(
                        "its format {version} is newer than this Segue"
                    )));
                }
                Slot::Damaged => flaw = Some(invalid("its header is damaged".into())),
                Slot::Valid(header)
                    if newest.as_ref().is_none_or(|n| n.sequence < header.sequence) =>
                {
                    newest = Some(header);
                }
                Slot::Valid(_) | Slot::Foreign => {}
            }
        }
        match (newest, flaw) {
            (None, Some(flaw)) => Err(flaw),
            (newest, _) => Ok(newest),
        }
    }

    /// Writes the header into the slot of its sequence, durably.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, backing: &dyn Backing) -> io::Result<()> {
        let buffer = Buffer::new(SLOT_BYTES);
        // SAFETY: `buffer` is this function's own.
        unsafe { buffer.part_mut(0, SLOT_BYTES) }.copy_from_slice(&self.encode());
        let at = (self.sequence % 2) * SLOT_BYTES as u64;
        backing.write(at, buffer.part(0, SLOT_BYTES), true)
    }
}

/// Overwrites both slots, and before them what note there is, with zeroes, durably: nobody's
/// container any more. One slot after the other: across the network a write may land late, and then
/// must not take both slots of what has been made there since (see `making.rs`).
///
/// # Errors
/// Those of writing.
pub fn wipe(backing: &dyn Backing) -> io::Result<()> {
    note::wipe(backing)?;
    let zeroes = Buffer::new(SLOT_BYTES);
    for slot in [1, 0] {
        backing.write(slot * SLOT_BYTES as u64, zeroes.part(0, SLOT_BYTES), true)?;
    }
    Ok(())
}

/// An error about what a container holds.
pub(crate) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Whether a segment size is one the design allows.
#[must_use]
pub fn is_segment_size(segment_bytes: u64) -> bool {
    segment_bytes.is_power_of_two() && (64 << 10..=64 << 20).contains(&segment_bytes)
}
