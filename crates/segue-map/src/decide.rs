//! The decision: what an I/O does on an entry (design, section 3).  Pure; one table.
//!
//! `docs/mapping.md` shows the same table; a test compares them cell by cell.

use crate::entry::{self, Entry};

/// What an I/O is, for the decision: one row of columns below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpClass {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Write-zeroes over a whole segment, where a hole will do.
    ZeroWholeHole,
    /// Write-zeroes over a whole segment, with `NO_HOLE`.
    ZeroWholeNoHole,
    /// Write-zeroes over part of a segment, where a hole will do.
    ZeroPartHole,
    /// Write-zeroes over part of a segment, with `NO_HOLE`.
    ZeroPartNoHole,
    /// Trim of a whole segment.
    TrimWhole,
    /// Trim of part of a segment.
    TrimPart,
}

impl OpClass {
    /// All classes, in the order of the table's columns.
    pub const ALL: [OpClass; 8] = [
        OpClass::Read,
        OpClass::Write,
        OpClass::ZeroWholeHole,
        OpClass::ZeroWholeNoHole,
        OpClass::ZeroPartHole,
        OpClass::ZeroPartNoHole,
        OpClass::TrimWhole,
        OpClass::TrimPart,
    ];

    /// Its column's heading in `docs/mapping.md`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            OpClass::Read => "read",
            OpClass::Write => "write",
            OpClass::ZeroWholeHole => "zeroes, whole",
            OpClass::ZeroWholeNoHole => "zeroes, whole, NO_HOLE",
            OpClass::ZeroPartHole => "zeroes, part",
            OpClass::ZeroPartNoHole => "zeroes, part, NO_HOLE",
            OpClass::TrimWhole => "trim, whole",
            OpClass::TrimPart => "trim, part",
        }
    }
}

/// What an entry is, for the decision: one line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryClass {
    /// Not valid, whatever else is set.
    Invalid,
    /// In the error state.
    Error,
    /// In the zero state.
    Zero,
    /// A location that may be read.
    NoWrite,
    /// A location that may be read and written.
    Clean,
}

impl EntryClass {
    /// All classes, in the order of the table's lines.
    pub const ALL: [EntryClass; 5] = [
        EntryClass::Invalid,
        EntryClass::Error,
        EntryClass::Zero,
        EntryClass::NoWrite,
        EntryClass::Clean,
    ];

    /// Invalid beats error beats zero beats `no_write`.
    #[inline]
    #[must_use]
    pub fn of(entry: Entry) -> EntryClass {
        let word = entry.0;
        if word & entry::VALID == 0 {
            EntryClass::Invalid
        } else if word & entry::ERROR != 0 {
            EntryClass::Error
        } else if word & entry::ZERO != 0 {
            EntryClass::Zero
        } else if word & entry::NO_WRITE != 0 {
            EntryClass::NoWrite
        } else {
            EntryClass::Clean
        }
    }

    /// Its line's heading in `docs/mapping.md`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            EntryClass::Invalid => "invalid",
            EntryClass::Error => "error",
            EntryClass::Zero => "zero",
            EntryClass::NoWrite => "no_write",
            EntryClass::Clean => "none",
        }
    }
}

/// What happens to a piece of I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to the entry's location.
    Go,
    /// Zeroes are given to the host; storage is untouched.
    Zeroes,
    /// Done at once, nothing changed.
    Done,
    /// EIO.
    Fail,
    /// A map fault of operation READ.
    FaultRead,
    /// A map fault of operation WRITE.
    FaultWrite,
    /// A map fault of operation DISCARD.
    FaultDiscard,
}

impl Action {
    /// What `docs/mapping.md` calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Action::Go => "go",
            Action::Zeroes => "zeroes",
            Action::Done => "done",
            Action::Fail => "EIO",
            Action::FaultRead => "fault READ",
            Action::FaultWrite => "fault WRITE",
            Action::FaultDiscard => "fault DISCARD",
        }
    }
}

/// The truth table: lines are [`EntryClass`], columns [`OpClass`].
#[rustfmt::skip]
pub const TRUTH_TABLE: [[Action; 8]; 5] = {
    use Action::{Done, Fail, FaultDiscard, FaultRead, FaultWrite, Go, Zeroes};
    [
        //            read       write       zero whole    whole NO_HOLE zero part   part NO_HOLE trim whole    trim part
        /* invalid */ [FaultRead, FaultWrite, FaultDiscard, FaultWrite,  FaultWrite, FaultWrite, FaultDiscard, Done],
        /* error   */ [Fail,      Fail,       Fail,         Fail,        Fail,       Fail,       Fail,         Fail],
        /* zero    */ [Zeroes,    FaultWrite, Done,         FaultWrite,  Done,       FaultWrite, Done,         Done],
        /* no_write*/ [Go,        FaultWrite, FaultDiscard, FaultWrite,  FaultWrite, FaultWrite, FaultDiscard, Done],
        /* none    */ [Go,        Go,         FaultDiscard, Go,          Go,         Go,         FaultDiscard, Go],
    ]
};

/// What an I/O of `class` does on `entry`.
#[inline]
#[must_use]
pub fn decide(entry: Entry, class: OpClass) -> Action {
    TRUTH_TABLE[EntryClass::of(entry) as usize][class as usize]
}

/// What block status says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Invalid: must be fetched first.
    Unknown,
    /// EIO.
    Fail,
    /// A hole that reads as zeroes.
    Hole,
    /// Data.
    Data,
}

/// What block status says of `entry`.
#[must_use]
pub fn status(entry: Entry) -> Status {
    match EntryClass::of(entry) {
        EntryClass::Invalid => Status::Unknown,
        EntryClass::Error => Status::Fail,
        EntryClass::Zero => Status::Hole,
        EntryClass::NoWrite | EntryClass::Clean => Status::Data,
    }
}
