//! What the controller sends to an engine: commands and answers to faults.
//!
//! Mirrors the structs of `python/segue/wire/messages.py` field for field; units are the same
//! (bytes, segments, blocks of the disk, nanoseconds), entries are words of `entry`.

use alloc::string::String;
use alloc::vec::Vec;

/// A container of a disk's set.  The engine uses its number, sizes, write unit and `failed`;
/// `uri`, `identity` and `cache` are for whoever opens it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSpec {
    /// The container's number.
    pub container: u16,
    /// Where it is.
    pub uri: String,
    /// UUID its header must carry.
    pub identity: [u8; 16],
    /// Bytes of a segment; must be the disk's.
    pub segment_bytes: u64,
    /// Segments it has: locations beyond are refused.
    pub segments: u64,
    /// "page" or "direct".
    pub cache: String,
    /// The smallest write it takes, a power of two.
    pub write_unit_bytes: u32,
    /// A flush of it failed, durably known: FLUSH and FUA of the disk get EIO.
    pub failed: bool,
}

/// `count` entries from segment `first`: entry i is `word + i * step` (step 0 or 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRun {
    /// First segment of the disk.
    pub first: u64,
    /// Number of entries, at least 1.
    pub count: u64,
    /// Entry word of the first.
    pub word: u64,
    /// 0 or 1.
    pub step: u64,
}

/// Where `count_blocks` blocks from `first_block` (relative to the segment) of a faulted read lie:
/// a plain location word, or 0 for zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRun {
    /// First block, relative to the segment.
    pub first_block: u64,
    /// Number of blocks, at least 1.
    pub count_blocks: u64,
    /// A plain location word, or 0: the blocks read as zeroes.
    pub location: u64,
}

/// A command or an answer to a fault; the fields are documented in `wire/messages.py`.
#[allow(missing_docs)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    // Answers to faults; never answered themselves.
    Retry {
        request: u64,
        disk: u32,
        runs: Vec<EntryRun>,
    },
    Failure {
        request: u64,
        errno: i32,
        set_error: bool,
    },
    CompleteToHost {
        request: u64,
    },
    // Commands; each is answered by exactly one `Event::Answer`.
    NewTable {
        command: u64,
        disk: u32,
        size_bytes: u64,
        segment_bytes: u64,
        block_bytes: u32,
        read_only: bool,
        containers: Vec<ContainerSpec>,
    },
    DeleteTable {
        command: u64,
        disk: u32,
    },
    ResizeTable {
        command: u64,
        disk: u32,
        size_bytes: u64,
        blocking: bool,
    },
    GetEntry {
        command: u64,
        disk: u32,
        first: u64,
        count: u64,
    },
    SetEntry {
        command: u64,
        disk: u32,
        runs: Vec<EntryRun>,
        blocking: bool,
    },
    SetEntryState {
        command: u64,
        disk: u32,
        first: u64,
        count: u64,
        flags: u8,
        clear_no_write: bool,
        whole_table: bool,
        blocking: bool,
    },
    SetContainers {
        command: u64,
        disk: u32,
        containers: Vec<ContainerSpec>,
    },
    Quiesce {
        command: u64,
        disk: u32,
        quiesce: u64,
        drain_ns: u64,
        hold_ns: u64,
    },
    Activate {
        command: u64,
        disk: u32,
        quiesce: u64,
    },
    DoWrite {
        command: u64,
        request: u64,
        location: u64,
        head: u64,
        tail: u64,
    },
    DoSplitRead {
        command: u64,
        request: u64,
        runs: Vec<BlockRun>,
    },
}

impl Control {
    /// The command's number; `None` for an answer to a fault.
    #[must_use]
    pub fn command(&self) -> Option<u64> {
        match *self {
            Control::Retry { .. } | Control::Failure { .. } | Control::CompleteToHost { .. } => {
                None
            }
            Control::NewTable { command, .. }
            | Control::DeleteTable { command, .. }
            | Control::ResizeTable { command, .. }
            | Control::GetEntry { command, .. }
            | Control::SetEntry { command, .. }
            | Control::SetEntryState { command, .. }
            | Control::SetContainers { command, .. }
            | Control::Quiesce { command, .. }
            | Control::Activate { command, .. }
            | Control::DoWrite { command, .. }
            | Control::DoSplitRead { command, .. } => Some(command),
        }
    }

    /// Whether its answer waits for I/O under way.
    #[must_use]
    pub fn is_blocking(&self) -> bool {
        match *self {
            Control::SetEntry { blocking, .. }
            | Control::SetEntryState { blocking, .. }
            | Control::ResizeTable { blocking, .. } => blocking,
            Control::DeleteTable { .. } | Control::Quiesce { .. } => true,
            _ => false,
        }
    }
}
