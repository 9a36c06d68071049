//! The entry word: what one segment of a disk is at an agent (design, section 3).
//!
//! This is the only definition of its bits; Python takes them from `segue._native`.

use core::fmt;

/// Bits 0..=43: the segment number within the container.
pub const SEGMENT_BITS: u32 = 44;
/// Mask of the segment number.
pub const SEGMENT_MASK: u64 = (1 << SEGMENT_BITS) - 1;
/// Bits 44..=59: the container number starts here.
pub const CONTAINER_SHIFT: u32 = SEGMENT_BITS;
/// Mask of the container number, in place.
pub const CONTAINER_MASK: u64 = 0xffff << CONTAINER_SHIFT;
/// Writes fault; reads go ahead.
pub const NO_WRITE: u64 = 1 << 60;
/// Reads as zeroes; the location means nothing.
pub const ZERO: u64 = 1 << 61;
/// Every I/O gets EIO; the location means nothing.
pub const ERROR: u64 = 1 << 62;
/// Set in every entry that is not invalid.
pub const VALID: u64 = 1 << 63;

/// `SetEntryState.flags`: make the entries invalid.
pub const STATE_INVALID: u8 = 1;
/// `SetEntryState.flags`: set the error state.
pub const STATE_ERROR: u8 = 2;
/// `SetEntryState.flags`: set the zero state.
pub const STATE_ZERO: u8 = 4;
/// `SetEntryState.flags`: set the no_write state.
pub const STATE_NO_WRITE: u8 = 8;

/// One table entry.  The all-zero word is invalid, so an untouched table costs no memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Entry(pub u64);

impl Entry {
    /// The invalid entry.
    pub const INVALID: Entry = Entry(0);
    /// An entry of the zero state.
    pub const ZEROES: Entry = Entry(VALID | ZERO);

    /// A clean entry for a location: `segment` < 2^44.
    #[must_use]
    pub fn at(container: u16, segment: u64) -> Entry {
        assert!(
            segment <= SEGMENT_MASK,
            "segment number {segment} has more than 44 bits"
        );
        Entry(VALID | (u64::from(container) << CONTAINER_SHIFT) | segment)
    }

    /// The container of its location.
    #[inline]
    #[must_use]
    pub fn container(self) -> u16 {
        ((self.0 & CONTAINER_MASK) >> CONTAINER_SHIFT) as u16
    }

    /// The segment number of its location.
    #[inline]
    #[must_use]
    pub fn segment(self) -> u64 {
        self.0 & SEGMENT_MASK
    }

    /// Whether it is not invalid.
    #[inline]
    #[must_use]
    pub fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Whether I/O may go to its location: neither invalid, error nor zero.
    #[inline]
    #[must_use]
    pub fn has_location(self) -> bool {
        self.0 & (VALID | ERROR | ZERO) == VALID
    }

    /// Whether it is a bare location, as `do_write` and `do_split_read` name them.
    #[must_use]
    pub fn is_plain_location(self) -> bool {
        self.0 & (VALID | ERROR | ZERO | NO_WRITE) == VALID
    }

    /// The entry with the states `flags` (`STATE_*`) set as well.
    ///
    /// Setting invalid makes it 0; an invalid entry stays invalid whatever is set.
    #[must_use]
    pub fn with_states(self, flags: u8) -> Entry {
        if flags & STATE_INVALID != 0 || !self.is_valid() {
            return Entry::INVALID;
        }
        let mut word = self.0;
        if flags & STATE_ERROR != 0 {
            word |= ERROR;
        }
        if flags & STATE_ZERO != 0 {
            word |= ZERO;
        }
        if flags & STATE_NO_WRITE != 0 {
            word |= NO_WRITE;
        }
        Entry(word)
    }

    /// The entry without the no_write state.
    #[must_use]
    pub fn without_no_write(self) -> Entry {
        Entry(self.0 & !NO_WRITE)
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_valid() {
            return write!(out, "invalid({:#x})", self.0);
        }
        write!(out, "{}:{}", self.container(), self.segment())?;
        for (bit, name) in [(ERROR, "+error"), (ZERO, "+zero"), (NO_WRITE, "+no_write")] {
            if self.0 & bit != 0 {
                out.write_str(name)?;
            }
        }
        Ok(())
    }
}
