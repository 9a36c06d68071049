//! The engine: one for each data thread, holding the tables of all its disks.

use alloc::collections::VecDeque;

use crate::control::Control;
use crate::errno::Errno;
use crate::output::{Effect, Event, PieceId};

/// What a host asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostOp {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Write zeroes.
    WriteZeroes,
    /// Trim.
    Trim,
    /// Flush; offset and length are 0.
    Flush,
    /// Block status (`base:allocation`).
    BlockStatus,
}

/// Flags of a host I/O; the values are NBD's command flags.
pub mod host_flags {
    /// Durable before it is answered (write kinds).
    pub const FUA: u16 = 1;
    /// Write-zeroes must leave zeroes written.
    pub const NO_HOLE: u16 = 2;
    /// Block status: one extent is enough.
    pub const REQ_ONE: u16 = 8;
    /// Write-zeroes: fail rather than be slow.
    pub const FAST_ZERO: u16 = 16;
}

/// What an operator sets.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of parked writes a disk may hold before [`Engine::accepts`] says no.
    pub park_limit_bytes: u64,
    /// A host I/O gets EIO when it is not answered by then.
    pub host_timeout_ns: Option<u64>,
}

/// The mapping engine.
#[derive(Debug)]
pub struct Engine {
    effects: VecDeque<Effect>,
    events: VecDeque<Event>,
}

#[allow(unused_variables, clippy::needless_pass_by_value)]
impl Engine {
    /// An engine without tables and without a lease.
    #[must_use]
    pub fn new(config: Config) -> Engine {
        Engine {
            effects: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A host's request.  `token` names it and its buffer in effects, and must not be in use.
    ///
    /// `offset` and `len` are bytes of the disk (0 for a flush), any alignment; `flags` are
    /// [`host_flags`].  Bad ones (out of range, read-only, unknown disk) are answered at once:
    /// EINVAL, ENOSPC, EPERM, ESHUTDOWN.
    pub fn host_io(
        &mut self,
        now: u64,
        token: u64,
        disk: u32,
        op: HostOp,
        offset: u64,
        len: u64,
        flags: u16,
    ) {
        unimplemented!()
    }

    /// The host's connection is gone: what has not started is dropped, nothing is answered.
    ///
    /// `Release` follows when no piece runs on the buffer, unless the last word on this token is
    /// in the queue already.
    pub fn host_gone(&mut self, token: u64) {
        unimplemented!()
    }

    /// The driver has finished an `Io`, `Rmw` or `Flush`; errno 0: well.
    pub fn piece_done(&mut self, now: u64, piece: PieceId, errno: Errno) {
        unimplemented!()
    }

    /// A command or an answer to a fault.
    pub fn control(&mut self, now: u64, control: Control) {
        unimplemented!()
    }

    /// There is a lease until `until_ns` (never shortens one).
    pub fn set_lease(&mut self, now: u64, until_ns: u64) {
        unimplemented!()
    }

    /// The lease has ended now: the controller has counted this agent as lost.
    pub fn end_lease(&mut self, now: u64) {
        unimplemented!()
    }

    /// Pushes one `Event::Faults`, for the `Hello` of a new session.
    pub fn list_faults(&mut self) {
        unimplemented!()
    }

    /// Lets time pass: to be called when [`Engine::deadline`] is reached.
    pub fn tick(&mut self, now: u64) {
        unimplemented!()
    }

    /// When `tick` must be called next, if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        unimplemented!()
    }

    /// The next effect; take them until there is none, after every call.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the disk takes more writes; false: do not read its connections.
    #[must_use]
    pub fn accepts(&self, disk: u32) -> bool {
        unimplemented!()
    }

    /// Asserts all invariants; for tests and the simulator.
    pub fn self_check(&self) {
        unimplemented!()
    }

    /// A hash of the whole state (not of queued effects and events, nor of counters).
    #[must_use]
    pub fn digest(&self) -> u64 {
        unimplemented!()
    }
}
