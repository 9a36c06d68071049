//! Host I/Os and the pieces they are split into, from arrival to the answer.

use crate::engine::HostOp;
use crate::output::{MapFault, Outcome};

/// No index.
pub(crate) const NONE: u32 = u32::MAX;

/// What has become of the host behind an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It waits for its answer.
    Waiting,
    /// It was given EIO on its time limit.
    TimedOut,
    /// Its connection is gone.
    Gone,
}

/// One host I/O.  Once its host no longer waits it is a *zombie*: what has started runs out, faults
/// that a `do_*` has touched take their answer, and nothing is started any more (a write that were done
/// after the host was told of an error could undo a later one).
#[derive(Debug)]
pub(crate) struct Host {
    /// Order of arrival.
    pub seq: u64,
    pub token: u64,
    /// The driver still keeps the buffer of `token`.
    pub token_live: bool,
    pub disk: u32,
    pub op: HostOp,
    pub flags: u16,
    pub offset: u64,
    pub life: Life,
    /// Its pieces, linked by `Piece::next`, by offset.
    pub first_piece: u32,
    /// Pieces not finished.
    pub remaining: u32,
    /// Pieces of those that are held back.
    pub held: u32,
    /// The first error.
    pub errno: i32,
    /// When its time limit is reached.
    pub due: u64,
    /// Neighbours in order of arrival, while it has a time limit and waits.
    pub earlier: u32,
    pub later: u32,
}

impl Host {
    /// Pieces neither finished nor held back.
    pub(crate) fn acted_on(&self) -> u32 {
        self.remaining - self.held
    }
}

/// Where a piece stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Being decided; not between calls.
    Deciding,
    /// In `Disk::parked` under this number.
    Parked(u64),
    /// In `Disk::waiting` under this number.
    Waiting(u64),
    /// Its fault waits: for an answer, or for a `do_*` at work.
    Faulted(u64),
    /// Its I/O is under way.
    Running,
    /// Its flush or FUA write failed; waits for the answer to this `container_failed`.
    Failed(u64),
    /// Held back: enough pieces of its host I/O are acted on.
    Held,
    /// Done; its host I/O is not answered.
    Finished,
    /// Not a piece of its own: part of the `do_*` of this piece.
    PartOf(u32),
}

/// A piece of a host I/O, decided alone.
#[derive(Debug)]
pub(crate) struct Piece {
    pub host: u32,
    pub disk: u32,
    /// The host's next piece.
    pub next: u32,
    pub state: State,
    /// Bytes of the disk.
    pub offset: u64,
    pub len: u64,
    /// Segments it touches, as last decided; none for a flush.
    pub segment: u64,
    pub segments: u64,
    /// Its I/O, or a `do_*`, is under way: blocking commands wait for it.
    pub started: bool,
    /// Order of its (last) start among all starts.
    pub start_seq: u64,
    /// The lease it was started under: its result is stale under any other.
    pub epoch: u64,
    /// Its bytes are in `Disk::parked_bytes`.
    pub counted: bool,
    /// Bytes of the disk its write touches, rounded to the unit merged.
    pub touched: (u64, u64),
    /// Its write is a read-merge-write, which holds what it touches.
    pub merges: bool,
    /// It writes (or trims) at a container.
    pub writes: bool,
    /// It makes durable: its error is a container's failure.
    pub syncs: bool,
    pub container: u16,
}

impl Piece {
    pub(crate) fn new(host: u32, disk: u32, offset: u64, len: u64) -> Piece {
        Piece {
            host,
            disk,
            next: NONE,
            state: State::Deciding,
            offset,
            len,
            segment: 0,
            segments: 0,
            started: false,
            start_seq: 0,
            epoch: 0,
            counted: false,
            touched: (0, 0),
            merges: false,
            writes: false,
            syncs: false,
            container: 0,
        }
    }

    /// Whether it touches segments of `first..end`.
    pub(crate) fn overlaps(&self, first: u64, end: u64) -> bool {
        self.segment < end && first < self.segment + self.segments
    }

    /// Whether two writes may not be under way together.
    pub(crate) fn excludes(&self, other: &Piece) -> bool {
        (self.merges || other.merges) && self.overlaps_write(other)
    }

    /// Whether two writes touch a byte in common.
    pub(crate) fn overlaps_write(&self, other: &Piece) -> bool {
        self.touched.0 < other.touched.1 && other.touched.0 < self.touched.1
    }
}

/// What a `do_*` has done to a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing.
    None,
    /// It is at work: `left` I/Os are under way.
    Running { command: u64, left: u32, errno: i32 },
    /// It has ended and was answered.
    Done {
        command: u64,
        outcome: Outcome,
        errno: i32,
    },
}

/// A fault that has not been answered.
#[derive(Debug)]
pub(crate) struct Fault {
    pub piece: u32,
    pub info: MapFault,
    pub work: Work,
}
