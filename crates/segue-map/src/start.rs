//! I/O begun and finished: effects out, results in, and the blocks a read-merge-write holds.
//!
//! Where a container's write unit is larger than a write's alignment, the unit is read, merged and
//! written.  Until that is done no other write of the disk touches these blocks: a later one waits,
//! and the read-merge-write itself waits for those under way, all in order of arrival.
//!
//! Nor does a write start over one under way whose host waits no longer: that host may have sent it
//! again, and what comes last must not be undone by the first attempt.

use crate::engine::{Engine, HostOp, host_flags};
use crate::entry::Entry;
use crate::errno::{ECANCELED, EIO, EOPNOTSUPP, Errno};
use crate::in_flight::{Life, Piece, State};
use crate::output::{Effect, IoKind, PieceId, Src};
use crate::plan::io_kind;

/// How the driver ended a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The container has answered: 0, or its errno.
    Done(Errno),
    /// An error before the write or flush itself was begun: nothing is lost by it.
    Refused(Errno),
    /// Nothing of it was begun.
    NotBegun,
}

impl End {
    pub(crate) fn errno(self) -> Errno {
        match self {
            End::Done(errno) | End::Refused(errno) => errno,
            End::NotBegun => ECANCELED,
        }
    }
}

impl Engine {
    /// The piece, which lies in one segment, goes to the entry's location.
    #[inline]
    pub(crate) fn start(&mut self, piece: u32, entry: Entry, op: HostOp, flags: u16) {
        if op == HostOp::Read || self.claim(piece, entry, op) {
            self.start_io(piece, entry, op, flags);
        }
    }

    /// Claims the blocks of a write: false where it has to wait for another write's.
    #[inline]
    fn claim(&mut self, piece: u32, entry: Entry, op: HostOp) -> bool {
        let this = &mut self.pieces[piece];
        let disk = &self.disks[this.disk];
        this.writes = true;
        this.merges = false;
        this.touched = (this.offset, this.offset + this.len);
        // Units and segments are powers of two: alignment on the disk is alignment in the segment.
        if (this.offset | this.len) & (disk.max_write_unit - 1) != 0 && op != HostOp::Trim {
            let unit = disk.write_unit(entry);
            let (start, end) = this.touched;
            this.touched = (start / unit * unit, end.next_multiple_of(unit));
            this.merges = this.touched != (start, end);
        }
        if !this.merges && disk.merging == 0 && disk.orphans == 0 && disk.waiting.is_empty() {
            return true;
        }
        self.claim_slowly(piece)
    }

    fn claim_slowly(&mut self, piece: u32) -> bool {
        let this = &self.pieces[piece];
        let disk = this.disk;
        let before = |other: &Piece| other.disk == disk && other.writes && other.excludes(this);
        let orphan = |other: &Piece| {
            let here = other.disk == disk && other.writes && other.overlaps_write(this);
            here && self.hosts[other.host].life != Life::Waiting
        };
        let under_way =
            |other: &Piece| other.state == State::Running && (before(other) || orphan(other));
        let blocked = self.pieces.iter().any(|(_, other)| under_way(other))
            || self.disks[disk]
                .waiting
                .values()
                .any(|other| before(&self.pieces[*other]));
        if blocked {
            let seq = self.take_seq();
            self.pieces[piece].state = State::Waiting(seq);
            self.disks[disk].waiting.insert(seq, piece);
            self.count_bytes(piece);
            return false;
        }
        if self.pieces[piece].merges {
            self.disks[disk].merging += 1;
        }
        true
    }

    /// Decides again, in order, the writes that wait for blocks of others.
    pub(crate) fn let_waiting_go(&mut self, disk: u32) {
        if self.disks[disk].waiting.is_empty() {
            return;
        }
        let waiting = core::mem::take(&mut self.disks[disk].waiting);
        for piece in waiting.into_values() {
            self.decide(piece);
        }
    }

    /// Emits the I/O of a piece.
    #[inline]
    fn start_io(&mut self, piece: u32, entry: Entry, op: HostOp, flags: u16) {
        let fua = op.syncs(flags);
        let id = self.mark_started(piece, entry.container(), fua);
        let this = &self.pieces[piece];
        let (disk, host) = (&self.disks[this.disk], &self.hosts[this.host]);
        let token = host.token;
        let data = Data {
            container: entry.container(),
            offset_bytes: disk.offset_at(entry, this.offset),
            buf_off: this.offset - host.offset,
            len: this.len,
            fua,
        };
        let effect = if this.merges {
            let unit = disk.write_unit(entry);
            let (first, last) = data.edge_units(disk.segment_shift, unit);
            let head = unit_at(entry, disk.segment_shift, first);
            let tail = unit_at(entry, disk.segment_shift, last);
            data.merged(id, token, unit, op == HostOp::WriteZeroes, head, tail)
        } else {
            data.plain(id, token, io_kind(op), flags)
        };
        self.effects.push_back(effect);
    }

    pub(crate) fn start_flush(&mut self, piece: u32, container: u16) {
        let id = self.mark_started(piece, container, true);
        let token = self.hosts[self.pieces[piece].host].token;
        self.effects.push_back(Effect::Flush {
            piece: id,
            token,
            container,
        });
    }

    /// From here until `finish_io` the piece is under way.
    #[inline]
    pub(crate) fn mark_started(&mut self, piece: u32, container: u16, syncs: bool) -> PieceId {
        let start_seq = self.take_seq();
        let this = &mut self.pieces[piece];
        this.state = State::Running;
        this.started = true;
        this.start_seq = start_seq;
        this.epoch = self.epoch;
        this.container = container;
        this.syncs = syncs;
        self.pieces.renew_id(piece)
    }

    /// The I/O of a piece has ended.
    pub(crate) fn finish_io(&mut self, piece: u32, end: End) {
        let this = &self.pieces[piece];
        if let State::PartOf(whole) = this.state {
            self.finish_part(piece, whole, end);
            return;
        }
        assert!(
            this.state == State::Running,
            "a piece that is not under way was finished"
        );
        let (disk, stale) = (this.disk, this.epoch != self.epoch);
        let failed_sync = if this.syncs {
            self.note_sync(piece, this.start_seq, end)
        } else {
            None
        };
        let this = &mut self.pieces[piece];
        this.started = false;
        let host = this.host;
        if this.writes && self.hosts[host].life != Life::Waiting {
            self.disks[disk].orphans -= 1;
        }
        this.writes = false;
        self.disks[disk].merging -= u32::from(this.merges);
        this.merges = false;
        self.prior_io_finished(piece);
        match failed_sync {
            Some(request) if self.hosts[host].life == Life::Waiting => {
                self.pieces[piece].state = State::Failed(request);
            }
            _ if stale || end == End::NotBegun => self.decide(piece),
            _ => self.finish(piece, end.errno()),
        }
        if self.disks.contains(disk) {
            self.let_waiting_go(disk);
        }
    }

    /// Notes a failed flush or FUA write, stale or not: its container counts as failed from now on.
    ///
    /// One that ended well failed nevertheless if another of its container has failed since
    /// `start_seq`, when it began: a kernel tells a descriptor of a lost page only once.
    ///
    /// Returns the request of the `container_failed` the host has to wait for.
    pub(crate) fn note_sync(&mut self, piece: u32, start_seq: u64, end: End) -> Option<u64> {
        // What was not begun or refused has lost nothing; nor has a fast zero refused.
        let End::Done(errno) = end else { return None };
        let this = &self.pieces[piece];
        let (disk, container) = (self.disks[this.disk].id, this.container);
        if errno == 0 {
            let last = self.last_failure.get(&container);
            let overtaken = last.is_some_and(|failed_seq| *failed_seq > start_seq);
            return overtaken.then(|| self.container_failed(disk, container, EIO));
        }
        if !this.syncs || errno == EOPNOTSUPP {
            return None;
        }
        let failed_seq = self.take_seq();
        self.last_failure.insert(container, failed_seq);
        Some(self.container_failed(disk, container, errno))
    }
}

/// Where the data of a write or read goes.
pub(crate) struct Data {
    pub container: u16,
    /// In the container's data area.
    pub offset_bytes: u64,
    pub buf_off: u64,
    pub len: u64,
    pub fua: bool,
}

impl Data {
    pub(crate) fn plain(&self, piece: PieceId, token: u64, kind: IoKind, flags: u16) -> Effect {
        let zeroes = kind == IoKind::WriteZeroes;
        Effect::Io {
            piece,
            token,
            kind,
            container: self.container,
            offset_bytes: self.offset_bytes,
            len: self.len,
            buf_off: self.buf_off,
            fua: self.fua,
            no_hole: zeroes && flags & host_flags::NO_HOLE != 0,
            fast: zeroes && flags & host_flags::FAST_ZERO != 0,
        }
    }

    pub(crate) fn merged(
        &self,
        piece: PieceId,
        token: u64,
        unit: u64,
        zeroes: bool,
        head: Src,
        tail: Src,
    ) -> Effect {
        let start = self.offset_bytes / unit * unit;
        let end = (self.offset_bytes + self.len).next_multiple_of(unit);
        Effect::Rmw {
            piece,
            token,
            container: self.container,
            offset_bytes: start,
            len: end - start,
            buf_off: self.buf_off,
            data_skip: self.offset_bytes - start,
            data_len: self.len,
            zeroes,
            head,
            tail,
            fua: self.fua,
            unit_bytes: unit as u32,
        }
    }

    /// Where the first and the last unit of this range start within the segment.
    pub(crate) fn edge_units(&self, segment_shift: u32, unit: u64) -> (u64, u64) {
        let in_segment = self.offset_bytes & ((1 << segment_shift) - 1);
        (
            in_segment / unit * unit,
            (in_segment + self.len - 1) / unit * unit,
        )
    }
}

/// The unit that starts `in_segment` bytes into a location; zeroes for the word 0.
pub(crate) fn unit_at(entry: Entry, segment_shift: u32, in_segment: u64) -> Src {
    if entry.0 == 0 {
        return Src::Zeroes;
    }
    let offset_bytes = (entry.segment() << segment_shift) + in_segment;
    Src::Location {
        container: entry.container(),
        offset_bytes,
    }
}
