//! The engine: one for each data thread, holding the tables of all its disks.
//!
//! Here are its state, what the driver calls, and time.  What the calls do is beside it: `plan`
//! (decide and split), `start` (I/O begun and finished), `hosts` (answers to hosts), `faults`,
//! `do_commands`, `commands`, `blocking` (prior I/O finished, quiesce), `lease`, `check`.
//!
//! Nothing here recurses: a call decides what it freed, in loops, and leaves effects in a queue.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::blocking::Blocker;
use crate::cause::Note;
use crate::control::Control;
use crate::disk::Disk;
use crate::errno::{EINVAL, ENOSPC, EPERM, ESHUTDOWN, Errno};
use crate::in_flight::{Fault, Host, Life, NONE, Piece, State};
use crate::output::{Effect, Event, PieceId};
use crate::slab::Slab;
use crate::start::End;

/// `Config::pieces_at_once` for use: more than storage does at once anyway.
pub const PIECES_AT_ONCE: u32 = 64;

/// Pieces of a disk beyond which no more I/O of its hosts is read: each may be a fault, which the
/// controller has to answer and `Hello` to list.
const MAX_DISK_PIECES: u32 = 1 << 14;
/// The same of all disks: a list of so many faults fits a message.
const MAX_PIECES: usize = 1 << 17;

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

impl HostOp {
    /// Whether it changes the disk.
    pub(crate) fn writes(self) -> bool {
        matches!(self, HostOp::Write | HostOp::WriteZeroes | HostOp::Trim)
    }

    /// Whether it must be durable when it is answered.
    pub(crate) fn syncs(self, flags: u16) -> bool {
        self == HostOp::Flush || (self.writes() && flags & host_flags::FUA != 0)
    }

    /// The errno where it goes beyond the end of the disk (NBD: ENOSPC for what writes).
    pub(crate) fn out_of_range(self) -> Errno {
        if self.writes() { ENOSPC } else { EINVAL }
    }
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
    /// Pieces of one host I/O that are acted on at once, at least 1; the rest of it waits.
    pub pieces_at_once: u32,
}

/// How much an engine holds, for operators and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Tables.
    pub disks: usize,
    /// Host I/Os not answered, or answered with pieces left.
    pub hosts: usize,
    /// Pieces.
    pub pieces: usize,
    /// Faults not answered.
    pub faults: usize,
    /// Blocking commands and quiesces not answered.
    pub blockers: usize,
    /// Bytes of writes parked.
    pub parked_bytes: u64,
    /// Pages of tables in memory.
    pub table_pages: usize,
    /// Answers to faults that are not (any more).
    pub ignored_answers: u64,
}

/// The mapping engine.  See the methods for its contract, `docs/mapping.md` for its rules.
///
/// Every call that takes `now` (nanoseconds of one clock that never goes back) first lets time
/// pass: the lease ends before anything else is done.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: Config,
    pub(crate) now: u64,
    /// When time has something to do next, or earlier.
    pub(crate) wake: u64,
    pub(crate) leased: bool,
    pub(crate) lease_until: u64,
    /// Counts leases that have ended.
    pub(crate) epoch: u64,
    pub(crate) disks: Slab<Disk>,
    /// (disk, its index in `disks`), by disk; those deleted are not in it.
    pub(crate) ids: Vec<(u32, u32)>,
    pub(crate) hosts: Slab<Host>,
    /// Ends of the list of hosts with a time limit, in order of arrival.
    pub(crate) first_due: u32,
    pub(crate) last_due: u32,
    pub(crate) pieces: Slab<Piece>,
    /// By request.
    pub(crate) faults: BTreeMap<u64, Fault>,
    /// Requests of `container_failed` that are not answered, by container: until then the engine
    /// itself remembers the failure; after that the sets say it.
    pub(crate) failed: BTreeMap<u16, u64>,
    /// When a flush or FUA write of the container last failed: what had begun before has, too.
    pub(crate) last_failure: BTreeMap<u16, u64>,
    pub(crate) blockers: Vec<Blocker>,
    /// The next request number of a fault.
    pub(crate) next_request: u64,
    /// Orders starts, parked pieces and blocking commands.
    pub(crate) next_seq: u64,
    pub(crate) ignored_answers: u64,
    /// Hosts with pieces held back, of which others have finished in this call.
    pub(crate) going_on: Vec<u32>,
    /// For the driver to measure by.
    pub(crate) notes: Vec<Note>,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) events: VecDeque<Event>,
}

impl Engine {
    /// An engine without tables and without a lease.
    #[must_use]
    pub fn new(config: Config) -> Engine {
        Engine {
            config,
            now: 0,
            wake: u64::MAX,
            leased: false,
            lease_until: 0,
            epoch: 0,
            disks: Slab::new(),
            ids: Vec::new(),
            hosts: Slab::new(),
            first_due: NONE,
            last_due: NONE,
            pieces: Slab::new(),
            faults: BTreeMap::new(),
            failed: BTreeMap::new(),
            last_failure: BTreeMap::new(),
            blockers: Vec::new(),
            next_request: 1,
            next_seq: 1,
            ignored_answers: 0,
            going_on: Vec::new(),
            notes: Vec::new(),
            effects: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// A host's request.  `token` names it and its buffer in effects, and must not be in use.
    ///
    /// `offset` and `len` are bytes of the disk (ignored for a flush), any alignment; `flags` are
    /// [`host_flags`].  Bad ones are answered at once, lease or not: EINVAL (nothing to do, or a
    /// read out of range), ENOSPC (a write out of range), EPERM (read-only), ESHUTDOWN (no table).
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
        self.pass_time(now);
        let (offset, len) = if op == HostOp::Flush {
            (0, 0)
        } else {
            (offset, len)
        };
        let slot = match self.admit(disk, op, offset, len) {
            Ok(slot) => slot,
            Err(errno) => {
                self.effects.push_back(Effect::Reply {
                    token,
                    errno,
                    in_use: false,
                });
                return;
            }
        };
        if self.begin_clean(token, slot, op, offset, len, flags) {
            return;
        }
        let host = self.new_host(token, slot, op, offset, flags);
        let piece = self.add_piece(Piece::new(host, slot, offset, len));
        self.hosts[host].first_piece = piece;
        self.decide(piece);
        self.go_on();
    }

    /// The index of the disk, or why a host's request is bad.
    #[inline]
    fn admit(&self, disk: u32, op: HostOp, offset: u64, len: u64) -> Result<u32, Errno> {
        let slot = self.slot(disk).ok_or(ESHUTDOWN)?;
        let disk = &self.disks[slot];
        if op == HostOp::Flush {
            return Ok(slot);
        }
        if op.writes() && disk.read_only {
            return Err(EPERM);
        }
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if len == 0 {
            return Err(EINVAL);
        }
        if end > disk.size {
            return Err(op.out_of_range());
        }
        Ok(slot)
    }

    #[inline]
    pub(crate) fn new_host(
        &mut self,
        token: u64,
        disk: u32,
        op: HostOp,
        offset: u64,
        flags: u16,
    ) -> u32 {
        self.disks[disk].hosts += 1;
        let seq = self.take_seq();
        let host = self.hosts.insert(Host {
            seq,
            token,
            token_live: true,
            disk,
            op,
            flags,
            offset,
            life: Life::Waiting,
            first_piece: NONE,
            remaining: 1,
            held: 0,
            errno: 0,
            due: u64::MAX,
            earlier: NONE,
            later: NONE,
        });
        if let Some(limit) = self.config.host_timeout_ns {
            self.expect_by(host, self.now.saturating_add(limit));
        }
        host
    }

    /// The host's connection is gone: what has not started is dropped, nothing is answered.
    ///
    /// `Release` follows (at once, or when no piece runs on the buffer), unless the last word on
    /// this token is in the queue already.
    pub fn host_gone(&mut self, token: u64) {
        let named = |(_, host): &(u32, &Host)| host.token_live && host.token == token;
        let found = self.hosts.iter().find(named).map(|(index, _)| index);
        if let Some(host) = found {
            self.leave_host(host, Life::Gone);
        }
        self.go_on();
    }

    /// The driver has finished an `Io`, `Rmw` or `Flush`; errno 0: well.
    ///
    /// An error of a flush or of a FUA write is the container's: it counts as failed (see
    /// [`Engine::piece_refused`]).  Panics on an id that is not outstanding: a mistake of the
    /// driver's.
    pub fn piece_done(&mut self, now: u64, piece: PieceId, errno: Errno) {
        self.end_piece(now, piece, End::Done(errno));
    }

    /// An error before the driver began the write or flush itself: the edge of an `Rmw` could not
    /// be read, the container is not open.  The host gets `errno` (not 0); nothing was lost, so
    /// the container has not failed.
    pub fn piece_refused(&mut self, now: u64, piece: PieceId, errno: Errno) {
        self.end_piece(now, piece, End::Refused(errno));
    }

    /// The driver has not begun the effect, and will not: its lease has ended, or its host waits
    /// no longer.  The piece is decided again, or dropped; a `do_*` counts as failed.
    pub fn piece_not_begun(&mut self, now: u64, piece: PieceId) {
        self.end_piece(now, piece, End::NotBegun);
    }

    /// The driver cannot say when this piece will end: its host gets EIO now, as at its time limit,
    /// and nothing more of its I/O is begun. The piece stays under way until it is given back.
    ///
    /// Panics like [`Engine::piece_done`].
    pub fn piece_late(&mut self, now: u64, piece: PieceId) {
        self.pass_time(now);
        let host = self.pieces[self.under_way(piece)].host;
        self.leave_host(host, Life::TimedOut);
        self.go_on();
    }

    /// Whether the piece is part of a `do_*`: what is not begun of it fails, and is not decided
    /// again. Panics like [`Engine::piece_done`].
    #[must_use]
    pub fn is_commanded(&self, piece: PieceId) -> bool {
        matches!(self.pieces[self.under_way(piece)].state, State::PartOf(_))
    }

    fn under_way(&self, piece: PieceId) -> u32 {
        self.pieces
            .find(piece)
            .expect("a piece that is not under way was named")
    }

    fn end_piece(&mut self, now: u64, piece: PieceId, end: End) {
        self.pass_time(now);
        let piece = self.under_way(piece);
        if end == End::Done(0) && self.end_clean(piece) {
            return;
        }
        self.finish_io(piece, end);
        self.go_on();
    }

    /// A command (answered by one `Event::Answer`, at once or later) or an answer to a fault.
    ///
    /// A refused command changes nothing.
    pub fn control(&mut self, now: u64, control: Control) {
        self.pass_time(now);
        match control {
            Control::Retry {
                request,
                disk,
                runs,
            } => self.retry(request, disk, &runs),
            Control::Failure {
                request,
                errno,
                set_error,
            } => {
                self.failure(request, errno, set_error);
            }
            Control::CompleteToHost { request } => self.complete_to_host(request),
            command => self.command(command),
        }
        self.go_on();
    }

    /// There is a lease until `until_ns`.  Never shortens one; one that is over changes nothing.
    pub fn set_lease(&mut self, now: u64, until_ns: u64) {
        self.pass_time(now);
        self.extend_lease(until_ns);
        self.go_on();
    }

    /// The lease ends now: the controller has counted this agent as lost.
    ///
    /// Invalidates everything even where there is no lease any more: what was granted since is
    /// void as well.
    pub fn end_lease(&mut self, now: u64) {
        self.pass_time(now);
        self.lose_lease();
        self.go_on();
    }

    /// Pushes one `Event::Faults`, for the `Hello` of a new session.
    ///
    /// A deleted table stays listed while I/O started under it is under way: the controller must
    /// not take its locations for unused.
    pub fn list_faults(&mut self) {
        let mut tables: Vec<u32> = self.ids.iter().map(|(disk, _)| *disk).collect();
        tables.extend(self.draining_tables());
        tables.sort_unstable();
        let pending = self.faults.values().map(Fault::pending).collect();
        self.events.push_back(Event::Faults { tables, pending });
    }

    /// Lets time pass: to be called when [`Engine::deadline`] is reached.
    pub fn tick(&mut self, now: u64) {
        self.pass_time(now);
        self.go_on();
    }

    /// When `tick` must be called next, if nothing else happens; `None`: never.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let wake = self.next_wake();
        (wake != u64::MAX).then_some(wake)
    }

    /// The same in O(1), or earlier: then a `tick` at that time does nothing.
    #[inline]
    #[must_use]
    pub fn deadline_or_earlier(&self) -> Option<u64> {
        (self.wake != u64::MAX).then_some(self.wake)
    }

    /// The next effect; to be taken until there is none, after every call.
    ///
    /// Where a call made meanwhile ends the lease, I/O not taken yet is taken back.
    #[inline]
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The next event.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether the disk takes more I/O; false: do not read its connections.
    ///
    /// No: its parked writes are over the limit, or there are so many pieces that hosts could use
    /// up the memory, or the controller's patience, with requests that need no buffer.
    #[must_use]
    pub fn accepts(&self, disk: u32) -> bool {
        if self.pieces.len() > MAX_PIECES {
            return false;
        }
        let limit = self.config.park_limit_bytes;
        let takes = |disk: &Disk| disk.parked_bytes <= limit && disk.pieces <= MAX_DISK_PIECES;
        self.slot(disk).is_none_or(|slot| takes(&self.disks[slot]))
    }

    /// How much it holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let disks = || self.disks.iter().map(|(_, disk)| disk);
        Stats {
            disks: self.ids.len(),
            hosts: self.hosts.len(),
            pieces: self.pieces.len(),
            faults: self.faults.len(),
            blockers: self.blockers.len(),
            parked_bytes: disks().map(|disk| disk.parked_bytes).sum(),
            table_pages: disks().map(|disk| disk.table.pages_in_memory()).sum(),
            ignored_answers: self.ignored_answers,
        }
    }

    /// The index of a disk that has a table.
    #[inline]
    pub(crate) fn slot(&self, disk: u32) -> Option<u32> {
        let place = self.ids.binary_search_by_key(&disk, |(id, _)| *id).ok()?;
        Some(self.ids[place].1)
    }

    pub(crate) fn take_seq(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq - 1
    }

    /// Time has come to `now`: the lease ends before anything else.
    #[inline]
    fn pass_time(&mut self, now: u64) {
        self.now = self.now.max(now);
        if self.now >= self.wake {
            self.act_on_time();
        }
    }

    fn act_on_time(&mut self) {
        if self.leased && self.now >= self.lease_until {
            self.lose_lease();
        }
        self.expire_quiesces();
        while self.first_due != NONE && self.hosts[self.first_due].due <= self.now {
            self.leave_host(self.first_due, Life::TimedOut);
        }
        self.wake = self.next_wake();
    }

    /// The nearest of lease end, quiesce deadlines and hosts' time limits.
    fn next_wake(&self) -> u64 {
        let mut wake = if self.leased {
            self.lease_until
        } else {
            u64::MAX
        };
        if self.first_due != NONE {
            wake = wake.min(self.hosts[self.first_due].due);
        }
        for (_, disk) in self.disks.iter() {
            for quiesce in &disk.quiesces {
                let drain = quiesce.draining.map_or(u64::MAX, |(_, until)| until);
                wake = wake.min(quiesce.hold_until).min(drain);
            }
        }
        wake
    }

    /// To be called whenever a deadline is added.
    pub(crate) fn wake_by(&mut self, at: u64) {
        self.wake = self.wake.min(at);
    }
}
