//! What an engine asks of its driver (effects) and tells the controller (events).

use alloc::vec::Vec;

use crate::errno::Errno;

/// Names one outstanding I/O; given back by `Engine::piece_done`.  Never used twice.
pub type PieceId = u64;

/// What an `Effect::Io` does at the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    /// Read into the host's buffer.
    Read,
    /// Write from the host's buffer.
    Write,
    /// Make the range read as zeroes.
    WriteZeroes,
    /// Discard, where the range then reads as zeroes; otherwise do nothing.
    Trim,
}

/// Where the missing part of the first or last unit of an `Effect::Rmw` comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Src {
    /// Zeroes.
    Zeroes,
    /// A container's data area: a whole unit (`unit_bytes` of the effect) from here holds the
    /// missing bytes, at the place they have in the first (`head`) or last (`tail`) unit.
    Location {
        /// The container to read from; it need not be the one written to.
        container: u16,
        /// Where the unit starts; aligned to it.
        offset_bytes: u64,
    },
}

/// One thing for the driver to do.  Effects are to be taken and begun in order, at once after
/// every call (an engine has decided them under the lease of that moment).
///
/// `token` is the host I/O as given to `Engine::host_io`; `buf_off` counts bytes in its buffer.
/// Container offsets count from the start of the data area (segment 0).  `Io`, `Rmw` and `Flush`
/// are each answered by one `Engine::piece_done`.  The engine's last word on a token is
/// `Reply { in_use: false }`, `StatusReply` or `Release`; then it may be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// One I/O within one segment of a container.
    Io {
        /// To be given back by `piece_done`.
        piece: PieceId,
        /// The host I/O.
        token: u64,
        /// What to do.
        kind: IoKind,
        /// The container.
        container: u16,
        /// Where in its data area.
        offset_bytes: u64,
        /// How much.
        len: u64,
        /// Where in the host's buffer (`Read` and `Write`).
        buf_off: u64,
        /// Durable before `piece_done` (write kinds).
        fua: bool,
        /// `WriteZeroes`: must leave zeroes written, not a hole.
        no_hole: bool,
        /// `WriteZeroes`: EOPNOTSUPP rather than slower than writing zeroes.
        fast: bool,
    },
    /// Read the missing edges, merge, and write the range in one write.
    Rmw {
        /// To be given back by `piece_done`.
        piece: PieceId,
        /// The host I/O.
        token: u64,
        /// The container.
        container: u16,
        /// Where in its data area; aligned to the unit merged.
        offset_bytes: u64,
        /// How much, a multiple of the unit.
        len: u64,
        /// Where the data starts in the host's buffer.
        buf_off: u64,
        /// Bytes of the first unit before the data: from `head`.
        data_skip: u64,
        /// Bytes of data; what is left of `len` after them is from `tail`.
        data_len: u64,
        /// The data is zeroes; the buffer is not used.
        zeroes: bool,
        /// Used only where `data_skip` > 0.
        head: Src,
        /// Used only where `data_skip + data_len` < `len`.
        tail: Src,
        /// Durable before `piece_done`.
        fua: bool,
        /// Bytes of a unit; `len` is a multiple of it.
        unit_bytes: u32,
    },
    /// Make durable what was written to the container.
    Flush {
        /// To be given back by `piece_done`.
        piece: PieceId,
        /// The host I/O.
        token: u64,
        /// The container.
        container: u16,
    },
    /// Fill part of the host's read buffer with zeroes, now.
    ZeroFill {
        /// The host I/O.
        token: u64,
        /// Where in its buffer.
        buf_off: u64,
        /// How much.
        len: u64,
    },
    /// Answer the host: 0, or the errno.  Comes once a token (or a `StatusReply` does).
    Reply {
        /// The host I/O.
        token: u64,
        /// 0: done.
        errno: Errno,
        /// Pieces still run on its buffer (a host timeout): `Release` follows.
        in_use: bool,
    },
    /// Nothing runs on the buffer any more: follows `Reply { in_use: true }`, and `host_gone`.
    Release {
        /// The host I/O.
        token: u64,
    },
    /// Answer a block status request.
    StatusReply {
        /// The host I/O.
        token: u64,
        /// (length in bytes, `STATUS_*` bits), in order, from the request's offset; at least one.
        extents: Vec<(u64, u32)>,
    },
}

/// `Effect::StatusReply`: no storage behind it (NBD_STATE_HOLE).
pub const STATUS_HOLE: u32 = 1;
/// `Effect::StatusReply`: reads as zeroes (NBD_STATE_ZERO).
pub const STATUS_ZERO: u32 = 2;

/// What a faulted I/O wants of its entry; values as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read (and block status).
    Read = 1,
    /// Write, and write-zeroes that must leave zeroes written.
    Write = 2,
    /// Trim, or write-zeroes without NO_HOLE, of whole segments.
    Discard = 3,
}

/// How a listed fault stands; values as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultStatus {
    /// Parked.
    Waiting = 1,
    /// A `do_*` is carrying it out.
    Running = 2,
    /// A `do_*` has ended; the host has not been answered.
    Done = 3,
}

/// How a command ended; values as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As asked.
    Done = 0,
    /// Refused or failed; the errno says why.
    Failed = 1,
    /// `do_*` only: no such unanswered fault (any more).
    Gone = 2,
}

/// A map fault: this I/O cannot proceed on this entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFault {
    /// Unique within the engine's life.
    pub request: u64,
    /// The disk.
    pub disk: u32,
    /// First segment of the disk.
    pub segment: u64,
    /// Segments from there.
    pub segments: u64,
    /// What it wants.
    pub operation: Operation,
    /// First block it touches, relative to `segment`.
    pub first_block: u64,
    /// Blocks it touches, rounded outward.
    pub count_blocks: u64,
    /// The entry met at `segment`, table-wide states taken in.
    pub word: u64,
}

/// One unanswered fault, as a new session lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingFault {
    /// The fault.
    pub fault: MapFault,
    /// How it stands.
    pub status: FaultStatus,
    /// The `do_*` command of Running or Done; else 0.
    pub command: u64,
    /// How it ended, when Done.
    pub outcome: Outcome,
    /// Its errno, when Done.
    pub errno: Errno,
}

/// What the engine tells the agent's session, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An I/O waits for its answer.
    Fault(MapFault),
    /// The answer to one command.
    Answer {
        /// The command.
        command: u64,
        /// How it ended.
        outcome: Outcome,
        /// Why, unless Done.
        errno: Errno,
        /// `get_entry` only: the words.
        entries: Vec<u64>,
        /// `activate` only: the quiesce named was still held.
        held: bool,
    },
    /// A flush or FUA write of a container failed; answered by `Control::Failure`.
    ContainerFailed {
        /// Answered like a fault's.
        request: u64,
        /// The disk of the I/O.
        disk: u32,
        /// The container.
        container: u16,
        /// What it said.
        errno: Errno,
    },
    /// A quiesce ended by itself at its `hold` deadline.
    QuiesceExpired {
        /// The disk.
        disk: u32,
        /// The quiesce's id.
        quiesce: u64,
    },
    /// Nobody waits for this discard any more: it must not be done behind what hosts do now.
    FaultGone {
        /// The fault's.
        request: u64,
    },
    /// Answers `Engine::list_faults`.
    Faults {
        /// Disks that have a table, ascending.
        tables: Vec<u32>,
        /// All unanswered faults, by request.
        pending: Vec<PendingFault>,
    },
    /// The lease has ended: all tables are invalid.
    LeaseEnded,
}
