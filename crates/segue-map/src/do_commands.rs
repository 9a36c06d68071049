//! `do_write` and `do_split_read`: the controller has a faulted I/O carried out at places it names.
//!
//! They are I/O under way from receipt to answer, whatever parks host I/O meanwhile.  The fault
//! still waits for its answer afterwards.

use crate::cause::Cause;
use crate::control::{BlockRun, Control};
use crate::engine::{Engine, HostOp};
use crate::entry::Entry;
use crate::errno::{EBUSY, EINVAL, EIO, Errno};
use crate::in_flight::{Host, Life, Piece, State, Work};
use crate::output::{Effect, IoKind, MapFault, Operation, Outcome, PieceId};
use crate::start::{Data, End, unit_at};

/// Why a `do_*` is not begun.
type Refusal = (Outcome, Errno);
const INVALID: Refusal = (Outcome::Failed, EINVAL);

impl Engine {
    /// `do_write`: write the faulted I/O at `location`, durably.
    pub(crate) fn do_write(
        &mut self,
        command: u64,
        request: u64,
        location: u64,
        edges: (u64, u64),
    ) {
        if let Err((outcome, errno)) = self.try_do_write(command, request, location, edges) {
            self.answer(command, outcome, errno);
        }
    }

    /// `do_split_read`: read the faulted I/O from `runs`, which cover its blocks in order.
    pub(crate) fn do_split_read(&mut self, command: u64, request: u64, runs: &[BlockRun]) {
        if let Err((outcome, errno)) = self.try_do_split_read(command, request, runs) {
            self.answer(command, outcome, errno);
        }
    }

    /// The piece of a fault that a `do_*` may carry out now.
    fn begin_do(&mut self, request: u64) -> Result<(u32, MapFault), Refusal> {
        let fault = self.faults.get(&request).ok_or((Outcome::Gone, 0))?;
        let (piece, info) = (fault.piece, fault.info);
        if matches!(fault.work, Work::Running { .. }) {
            return Err((Outcome::Failed, EBUSY));
        }
        let waiting = self.hosts[self.pieces[piece].host].life == Life::Waiting;
        if !self.leased || !waiting {
            // Nothing may be started.  Its request is over: it faults anew, if anybody waits.
            self.forget_fault(request);
            self.decide(piece);
            return Err((Outcome::Gone, 0));
        }
        Ok((piece, info))
    }

    fn try_do_write(
        &mut self,
        command: u64,
        request: u64,
        location: u64,
        (head, tail): (u64, u64),
    ) -> Result<(), Refusal> {
        let (piece, info) = self.begin_do(request)?;
        if info.operation == Operation::Read || info.segments != 1 {
            return Err(INVALID);
        }
        let disk = &self.disks[self.pieces[piece].disk];
        let location = disk.check_location(location).map_err(|_| INVALID)?;
        for edge in [head, tail] {
            if edge != 0 {
                disk.check_location(edge).map_err(|_| INVALID)?;
            }
        }
        let data = self.data_at(piece, location);
        let write_unit = disk
            .container(location.container())
            .map_or(1, |c| c.write_unit);
        // The controller has taken the blocks in whole write units.
        let (unit, shift) = (disk.block.max(write_unit), disk.segment_shift);
        let aligned = (data.offset_bytes | data.len) & (unit - 1) == 0;
        let (first, last) = data.edge_units(shift, unit);
        let (head, tail) = (
            unit_at(Entry(head), shift, first),
            unit_at(Entry(tail), shift, last),
        );
        let Host { token, op, .. } = self.hosts[self.pieces[piece].host];
        self.note(piece, Cause::DoWrite);
        self.work_starts(piece, command, 1);
        let id = self.add_part(piece, location.container(), true);
        let effect = if aligned {
            let kind = if op == HostOp::Write {
                IoKind::Write
            } else {
                IoKind::WriteZeroes
            };
            data.plain(id, token, kind, 0)
        } else {
            data.merged(id, token, unit, op != HostOp::Write, head, tail)
        };
        self.effects.push_back(effect);
        Ok(())
    }

    /// The piece's bytes at a location, to be written durably.
    fn data_at(&self, piece: u32, location: Entry) -> Data {
        let Piece {
            offset,
            len,
            disk,
            host,
            ..
        } = self.pieces[piece];
        let disk = &self.disks[disk];
        let in_segment = offset & (disk.segment_bytes() - 1);
        Data {
            container: location.container(),
            offset_bytes: (location.segment() << disk.segment_shift) + in_segment,
            buf_off: offset - self.hosts[host].offset,
            len,
            fua: true,
        }
    }

    fn try_do_split_read(
        &mut self,
        command: u64,
        request: u64,
        runs: &[BlockRun],
    ) -> Result<(), Refusal> {
        let (piece, info) = self.begin_do(request)?;
        let op = self.hosts[self.pieces[piece].host].op;
        if op == HostOp::BlockStatus {
            // Incomplete: `complete_to_host` will report it as data.
            self.work_starts(piece, command, 0);
            self.work_ended(piece);
            return Ok(());
        }
        if op != HostOp::Read {
            return Err(INVALID);
        }
        self.check_runs(piece, &info, runs).map_err(|_| INVALID)?;
        let reads = runs.iter().filter(|run| run.location != 0).count() as u32;
        self.note(piece, Cause::SplitRead);
        self.work_starts(piece, command, reads);
        for run in runs {
            self.read_run(piece, run);
        }
        if reads == 0 {
            self.work_ended(piece);
        }
        Ok(())
    }

    /// EINVAL unless the runs cover the blocks of the fault in order.
    fn check_runs(&self, piece: u32, info: &MapFault, runs: &[BlockRun]) -> Result<(), Errno> {
        let disk = &self.disks[self.pieces[piece].disk];
        let mut next = info.first_block;
        let end = info.first_block + info.count_blocks;
        for run in runs {
            let after = next.checked_add(run.count_blocks).ok_or(EINVAL)?;
            if run.first_block != next || run.count_blocks == 0 || after > end {
                return Err(EINVAL);
            }
            if run.location != 0 {
                disk.check_location(run.location)?;
            }
            next = after;
        }
        if next == end { Ok(()) } else { Err(EINVAL) }
    }

    /// Reads one run, clipped to the piece's bytes: `runs` are of blocks, the piece of any bytes.
    fn read_run(&mut self, piece: u32, run: &BlockRun) {
        let Piece {
            offset,
            len,
            disk,
            host,
            ..
        } = self.pieces[piece];
        let disk = &self.disks[disk];
        let segment_start = offset & !(disk.segment_bytes() - 1);
        let run_start = segment_start + run.first_block * disk.block;
        let run_end = run_start + run.count_blocks * disk.block;
        let (start, end) = (run_start.max(offset), run_end.min(offset + len));
        let Host {
            token,
            offset: host_offset,
            ..
        } = self.hosts[host];
        let (buf_off, len) = (start - host_offset, end - start);
        if run.location == 0 {
            self.effects.push_back(Effect::ZeroFill {
                token,
                buf_off,
                len,
            });
            return;
        }
        let location = Entry(run.location);
        let container = location.container();
        let in_segment = start - segment_start;
        let offset_bytes = (location.segment() << disk.segment_shift) + in_segment;
        let id = self.add_part(piece, container, false);
        let data = Data {
            container,
            offset_bytes,
            buf_off,
            len,
            fua: false,
        };
        self.effects
            .push_back(data.plain(id, token, IoKind::Read, 0));
    }

    /// The fault's `do_*` is under way with `left` I/Os.
    fn work_starts(&mut self, piece: u32, command: u64, left: u32) {
        let start_seq = self.take_seq();
        let this = &mut self.pieces[piece];
        this.started = true;
        this.start_seq = start_seq;
        this.epoch = self.epoch;
        let State::Faulted(request) = this.state else {
            unreachable!("only faults are done")
        };
        let work = Work::Running {
            command,
            left,
            errno: 0,
        };
        self.faults
            .get_mut(&request)
            .expect("it was found by its request")
            .work = work;
    }

    /// One I/O of the `do_*` of `whole`.
    fn add_part(&mut self, whole: u32, container: u16, syncs: bool) -> PieceId {
        let Piece {
            host,
            disk,
            offset,
            len,
            ..
        } = self.pieces[whole];
        let mut part = Piece::new(host, disk, offset, len);
        part.state = State::PartOf(whole);
        part.container = container;
        part.syncs = syncs;
        let part = self.add_piece(part);
        self.pieces.renew_id(part)
    }

    /// One I/O of the `do_*` of `whole` has ended.
    pub(crate) fn finish_part(&mut self, part: u32, whole: u32, end: End) {
        let start_seq = self.pieces[whole].start_seq;
        let failed = self.pieces[part].syncs && self.note_sync(part, start_seq, end).is_some();
        self.remove_piece(part);
        let Work::Running {
            left,
            errno: first_errno,
            ..
        } = self.work_of(whole)
        else {
            unreachable!("a part belongs to a `do_*` at work");
        };
        *left -= 1;
        if *first_errno == 0 {
            *first_errno = match end.errno() {
                0 if failed => EIO,
                errno => errno,
            };
        }
        if *left == 0 {
            self.work_ended(whole);
        }
    }

    fn work_of(&mut self, piece: u32) -> &mut Work {
        let State::Faulted(request) = self.pieces[piece].state else {
            unreachable!("only faults are done");
        };
        &mut self
            .faults
            .get_mut(&request)
            .expect("a faulted piece has a fault")
            .work
    }

    /// The `do_*` is answered.  Under another lease, or without its table, it counts as not done
    /// and its request is over: the I/O is decided again.
    fn work_ended(&mut self, piece: u32) {
        let work = self.work_of(piece);
        let Work::Running { command, errno, .. } = *work else {
            unreachable!("it was at work");
        };
        let outcome = if errno == 0 {
            Outcome::Done
        } else {
            Outcome::Failed
        };
        *work = Work::Done {
            command,
            outcome,
            errno,
        };
        let this = &mut self.pieces[piece];
        this.started = false;
        let (host, disk) = (this.host, this.disk);
        let void = this.epoch != self.epoch || self.disks[disk].deleted;
        if void {
            self.answer(command, Outcome::Gone, 0);
        } else {
            self.answer(command, outcome, errno);
        }
        self.prior_io_finished(piece);
        if void {
            self.void_fault(piece);
        } else {
            self.release_buffer(host);
        }
    }

    /// The request of a faulted piece is over without an answer: it is decided again.
    pub(crate) fn void_fault(&mut self, piece: u32) {
        if let State::Faulted(request) = self.pieces[piece].state {
            self.forget_fault(request);
        }
        self.decide(piece);
    }

    /// Carries out `do_write` or `do_split_read`.
    pub(crate) fn do_command(&mut self, control: Control) {
        match control {
            Control::DoWrite {
                command,
                request,
                location,
                head,
                tail,
            } => {
                self.do_write(command, request, location, (head, tail));
            }
            Control::DoSplitRead {
                command,
                request,
                runs,
            } => {
                self.do_split_read(command, request, &runs);
            }
            other => unreachable!("{other:?} is no do_*"),
        }
    }
}
