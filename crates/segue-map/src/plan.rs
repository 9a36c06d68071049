//! Plan: gate a piece, split it at segments, and do with each part what the truth table says.
//!
//! A piece comes here when its host I/O arrives and again whenever it is decided anew (unparked,
//! `retry`, stale after a lease); entries may have changed meanwhile, so it is split afresh.

use alloc::vec::Vec;

use crate::cause::Cause;
use crate::decide::{Action, OpClass, Status, decide, status};
use crate::engine::{Engine, HostOp, host_flags};
use crate::entry::Entry;
use crate::errno::{EIO, ESHUTDOWN};
use crate::in_flight::{Fault, Host, Life, Piece, State, Work};
use crate::output::{Effect, Event, IoKind, MapFault, Operation, STATUS_HOLE, STATUS_ZERO};

/// Segments a block status request asks for in one fault.
const STATUS_FAULT_SEGMENTS: u64 = 4096;
/// Extents of one answer to a block status request.
const STATUS_EXTENTS: usize = 4096;

/// Finished parts of one piece are joined each time so many have been acted on.
const JOIN_EACH_PARTS: u32 = 64;

/// The first part of a piece: one segment's, or a run of whole segments of the same decision.
struct Part {
    segment: u64,
    segments: u64,
    len: u64,
    entry: Entry,
    action: Action,
}

impl Engine {
    /// Decides a piece that is in no list: starts it, answers it, raises its fault or parks it.
    pub(crate) fn decide(&mut self, piece: u32) {
        self.uncount_bytes(piece);
        let this = &mut self.pieces[piece];
        assert!(!this.started, "a piece under way was decided again");
        this.state = State::Deciding;
        let (host, disk) = (&mut self.hosts[this.host], &self.disks[this.disk]);
        let (op, flags, slot) = (host.op, host.flags, this.disk);
        if host.life != Life::Waiting {
            self.drop_piece(piece);
        } else if op == HostOp::Flush && host.remaining > 1 {
            // A flush is decided again as a whole, by the last of its pieces.
            host.remaining -= 1;
            self.drop_piece(piece);
        } else if disk.deleted {
            self.finish(piece, ESHUTDOWN);
        } else if !self.leased || !disk.quiesces.is_empty() {
            self.park(piece);
        } else if this.offset + this.len > disk.size {
            // A resize has come between arrival and now.
            self.finish(piece, op.out_of_range());
        } else if disk.sync_failed && op.syncs(flags) {
            self.refuse_sync(piece, slot);
        } else {
            match op {
                HostOp::Flush => self.decide_flush(piece),
                HostOp::BlockStatus => self.decide_status(piece),
                _ => self.decide_data(piece, op, flags),
            }
        }
    }

    /// Splits off part after part and acts on each, on so many at once; the rest is held back.
    fn decide_data(&mut self, piece: u32, op: HostOp, flags: u16) {
        let mut piece = piece;
        for parts in 1_u32.. {
            if self.must_hold(piece) {
                return self.hold(piece);
            }
            if parts % JOIN_EACH_PARTS == 0 {
                // What is done at once counts for nothing, but must not pile up either.
                self.join_finished(self.pieces[piece].host);
            }
            let part = self.first_part(piece, op, flags);
            let this = &mut self.pieces[piece];
            this.segment = part.segment;
            this.segments = part.segments;
            let all = this.len == part.len;
            let rest = if all {
                None
            } else {
                Some(self.cut(piece, part.len))
            };
            match part.action {
                Action::Go => self.start(piece, part.entry, op, flags),
                Action::Zeroes => self.zero_fill(piece),
                Action::Done => self.finish(piece, 0),
                Action::Fail => self.finish(piece, EIO),
                Action::FaultRead => self.raise_fault(piece, part.len, Operation::Read, part.entry),
                Action::FaultWrite => {
                    self.raise_fault(piece, part.len, Operation::Write, part.entry)
                }
                Action::FaultDiscard => {
                    self.raise_fault(piece, part.len, Operation::Discard, part.entry)
                }
            }
            match rest {
                Some(rest) => piece = rest,
                None => return,
            }
        }
    }

    #[inline]
    fn first_part(&self, piece: u32, op: HostOp, flags: u16) -> Part {
        let Piece {
            offset, len, disk, ..
        } = self.pieces[piece];
        let disk = &self.disks[disk];
        let segment = offset >> disk.segment_shift;
        let segment_end = disk.segment_end(segment);
        let piece_end = offset + len;
        let whole = offset == segment << disk.segment_shift && segment_end <= piece_end;
        let class = class_of(op, flags, whole);
        let entry = disk.table.get(segment);
        let action = decide(entry, class);
        let mut end = segment_end.min(piece_end);
        let mut segments = 1;
        if whole && joins_runs(class, action) {
            while end < piece_end {
                let next = segment + segments;
                let next_whole = disk.segment_end(next) <= piece_end;
                if !next_whole || decide(disk.table.get(next), class) != action {
                    break;
                }
                end = disk.segment_end(next);
                segments += 1;
            }
        }
        Part {
            segment,
            segments,
            len: end - offset,
            entry,
            action,
        }
    }

    /// Shortens the piece to `len`; what is left becomes a piece of its own, not decided.
    fn cut(&mut self, piece: u32, len: u64) -> u32 {
        let whole = &mut self.pieces[piece];
        let mut rest = Piece::new(whole.host, whole.disk, whole.offset + len, whole.len - len);
        rest.next = whole.next;
        whole.len = len;
        let host = whole.host;
        let rest = self.add_piece(rest);
        self.pieces[piece].next = rest;
        self.hosts[host].remaining += 1;
        rest
    }

    fn zero_fill(&mut self, piece: u32) {
        let Piece {
            offset, len, host, ..
        } = self.pieces[piece];
        let Host {
            token,
            offset: start,
            ..
        } = self.hosts[host];
        self.effects.push_back(Effect::ZeroFill {
            token,
            buf_off: offset - start,
            len,
        });
        self.finish(piece, 0);
    }

    /// Raises the fault of a piece, for its first `len` bytes: it waits for its own answer.
    fn raise_fault(&mut self, piece: u32, len: u64, operation: Operation, entry: Entry) {
        let Piece {
            offset,
            disk,
            segment,
            segments,
            ..
        } = self.pieces[piece];
        let disk = &self.disks[disk];
        let start = offset - (segment << disk.segment_shift);
        let first_block = start / disk.block;
        let request = self.next_request;
        let info = MapFault {
            request,
            disk: disk.id,
            segment,
            segments,
            operation,
            first_block,
            count_blocks: (start + len).div_ceil(disk.block) - first_block,
            word: entry.0,
        };
        self.next_request += 1;
        self.faults.insert(
            request,
            Fault {
                piece,
                info,
                work: Work::None,
            },
        );
        self.pieces[piece].state = State::Faulted(request);
        self.count_bytes(piece);
        self.note_fault(piece, Cause::Faulted, request);
        self.events.push_back(Event::Fault(info));
    }

    /// One piece for each container of the set.
    fn decide_flush(&mut self, piece: u32) {
        let disk = self.pieces[piece].disk;
        let host = self.pieces[piece].host;
        let containers = self.disks[disk].containers.len();
        if containers == 0 {
            self.finish(piece, 0);
            return;
        }
        for index in 0..containers {
            let container = self.disks[disk].containers[index].number;
            let last = index + 1 == containers;
            let this = if last {
                piece
            } else {
                self.add_flush_piece(piece, host)
            };
            self.start_flush(this, container);
        }
    }

    fn add_flush_piece(&mut self, piece: u32, host: u32) -> u32 {
        let mut another = Piece::new(host, self.pieces[piece].disk, 0, 0);
        another.next = self.pieces[piece].next;
        let another = self.add_piece(another);
        self.pieces[piece].next = another;
        self.hosts[host].remaining += 1;
        another
    }

    /// Answers with the longest prefix that is known; faults for the first run that is not.
    fn decide_status(&mut self, piece: u32) {
        let Piece {
            offset,
            len,
            host,
            disk,
            ..
        } = self.pieces[piece];
        let one = self.hosts[host].flags & host_flags::REQ_ONE != 0;
        let (extents, stopped_by) = self.known_status(disk, offset, offset + len, one);
        if !extents.is_empty() {
            let token = self.hosts[host].token;
            self.effects
                .push_back(Effect::StatusReply { token, extents });
            self.close_host(host);
            return;
        }
        if stopped_by == Status::Fail {
            self.finish(piece, EIO);
            return;
        }
        let table = &self.disks[disk];
        let first = offset >> table.segment_shift;
        let end = (offset + len)
            .div_ceil(table.segment_bytes())
            .min(first + STATUS_FAULT_SEGMENTS);
        let invalid = |segment: &u64| status(table.table.get(*segment)) == Status::Unknown;
        let segments = (first..end).take_while(invalid).count() as u64;
        // The piece may be longer than the run it asks for.
        let run_end = table.segment_end(first + segments - 1);
        self.pieces[piece].segment = first;
        self.pieces[piece].segments = segments;
        self.raise_fault(
            piece,
            len.min(run_end - offset),
            Operation::Read,
            Entry::INVALID,
        );
    }

    /// Extents from `offset` up to what is not known or fails (and what it is), or the end.
    fn known_status(
        &self,
        disk: u32,
        mut offset: u64,
        end: u64,
        one: bool,
    ) -> (Vec<(u64, u32)>, Status) {
        let disk = &self.disks[disk];
        let mut extents: Vec<(u64, u32)> = Vec::new();
        while offset < end {
            let segment = offset >> disk.segment_shift;
            let found = status(disk.table.get(segment));
            let flags = match found {
                Status::Unknown | Status::Fail => return (extents, found),
                Status::Hole => STATUS_HOLE | STATUS_ZERO,
                Status::Data => 0,
            };
            let len = disk.segment_end(segment).min(end) - offset;
            let full = one || extents.len() == STATUS_EXTENTS;
            match extents.last_mut() {
                Some(last) if last.1 == flags => last.0 += len,
                Some(_) if full => break,
                _ => extents.push((len, flags)),
            }
            offset += len;
        }
        (extents, Status::Data)
    }
}

/// The truth table's column.
#[inline]
fn class_of(op: HostOp, flags: u16, whole: bool) -> OpClass {
    let no_hole = flags & host_flags::NO_HOLE != 0;
    match (op, whole) {
        (HostOp::Read, _) => OpClass::Read,
        (HostOp::Write, _) => OpClass::Write,
        (HostOp::WriteZeroes, true) if no_hole => OpClass::ZeroWholeNoHole,
        (HostOp::WriteZeroes, true) => OpClass::ZeroWholeHole,
        (HostOp::WriteZeroes, false) if no_hole => OpClass::ZeroPartNoHole,
        (HostOp::WriteZeroes, false) => OpClass::ZeroPartHole,
        (HostOp::Trim, true) => OpClass::TrimWhole,
        (HostOp::Trim, false) => OpClass::TrimPart,
        (HostOp::Flush | HostOp::BlockStatus, _) => unreachable!("has no data"),
    }
}

/// Whether whole segments of the same decision are one piece: nothing of it goes to one location.
fn joins_runs(class: OpClass, action: Action) -> bool {
    let discards = matches!(class, OpClass::ZeroWholeHole | OpClass::TrimWhole);
    discards && action != Action::Go
}

/// What an `Effect::Io` is for an operation of a host.
pub(crate) fn io_kind(op: HostOp) -> IoKind {
    match op {
        HostOp::Read => IoKind::Read,
        HostOp::Write => IoKind::Write,
        HostOp::WriteZeroes => IoKind::WriteZeroes,
        HostOp::Trim => IoKind::Trim,
        HostOp::Flush | HostOp::BlockStatus => unreachable!("has no data"),
    }
}
