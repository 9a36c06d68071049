//! Faults and failed containers: what waits for the controller, and its answers.

use alloc::vec::Vec;

use crate::cause::Cause;
use crate::control::EntryRun;
use crate::engine::{Engine, HostOp};
use crate::entry::{self, Entry};
use crate::errno::{EIO, Errno};
use crate::in_flight::{Fault, Life, Piece, State, Work};
use crate::output::{Effect, Event, FaultStatus, Operation, Outcome, PendingFault};

impl Fault {
    /// The fault as a new session lists it.
    pub(crate) fn pending(&self) -> PendingFault {
        let (status, command, outcome, errno) = match self.work {
            Work::None => (FaultStatus::Waiting, 0, Outcome::Done, 0),
            Work::Running { command, .. } => (FaultStatus::Running, command, Outcome::Done, 0),
            Work::Done {
                command,
                outcome,
                errno,
            } => (FaultStatus::Done, command, outcome, errno),
        };
        PendingFault {
            fault: self.info,
            status,
            command,
            outcome,
            errno,
        }
    }
}

impl Engine {
    /// Takes a fault that may be answered now out of those waiting; counts what is ignored.
    ///
    /// While a `do_*` is at work its answer must come first: an earlier one is ignored.
    fn answered(&mut self, request: u64) -> Option<Fault> {
        let fault = self.faults.get(&request);
        if fault.is_none_or(|fault| matches!(fault.work, Work::Running { .. })) {
            self.ignored_answers += 1;
            return None;
        }
        self.faults.remove(&request)
    }

    /// A fault is over without an answer.  The controller is told of a discard: it carries that out
    /// itself, and what hosts write from now on must not be undone by it.
    pub(crate) fn forget_fault(&mut self, request: u64) {
        let fault = self.faults.remove(&request);
        if fault.is_some_and(|fault| fault.info.operation == Operation::Discard) {
            self.events.push_back(Event::FaultGone { request });
        }
    }

    /// `retry`: take the entries, then decide the I/O again.
    pub(crate) fn retry(&mut self, request: u64, disk: u32, runs: &[EntryRun]) {
        let Some(fault) = self.answered(request) else {
            return;
        };
        let slot = self.pieces[fault.piece].disk;
        let mut bad = self.disks[slot].id != disk;
        bad |= runs
            .iter()
            .any(|run| self.disks[slot].check_entries(run).is_err());
        if bad {
            self.conclude(fault.piece, EIO);
            return;
        }
        self.write_entries(slot, runs);
        self.decide(fault.piece);
    }

    /// `failure`: an errno for this I/O alone, and the error state for its entries if asked.
    pub(crate) fn failure(&mut self, request: u64, errno: Errno, set_error: bool) {
        let errno = if errno > 0 { errno } else { EIO };
        if self.container_failure_answered(request, errno) {
            return;
        }
        let Some(fault) = self.answered(request) else {
            return;
        };
        self.note(fault.piece, Cause::Failed);
        if set_error {
            self.set_error(&fault);
        }
        self.conclude(fault.piece, errno);
    }

    /// `complete_to_host`: another command has done this I/O.
    pub(crate) fn complete_to_host(&mut self, request: u64) {
        let Some(fault) = self.answered(request) else {
            return;
        };
        let carried_out = matches!(
            fault.work,
            Work::Done {
                outcome: Outcome::Done,
                ..
            }
        );
        if !carried_out {
            self.note(fault.piece, Cause::Completed);
        }
        let op = self.hosts[self.pieces[fault.piece].host].op;
        // A discard may be done by changing the table; a read has no data and a write is lost
        // unless a `do_*` has carried it out here.
        let done = carried_out || matches!(op, HostOp::WriteZeroes | HostOp::Trim);
        let waiting = self.hosts[self.pieces[fault.piece].host].life == Life::Waiting;
        if carried_out && op == HostOp::BlockStatus && self.leased && waiting {
            self.report_data(fault.piece);
            return;
        }
        self.conclude(fault.piece, if done { 0 } else { EIO });
    }

    /// Answers a block status request whose first segment is incomplete: it holds data.
    fn report_data(&mut self, piece: u32) {
        let Piece {
            offset,
            len,
            host,
            disk,
            segment,
            ..
        } = self.pieces[piece];
        let end = self.disks[disk].segment_end(segment).min(offset + len);
        let token = self.hosts[host].token;
        let extents = Vec::from([(end - offset, 0)]);
        self.effects
            .push_back(Effect::StatusReply { token, extents });
        self.close_host(host);
    }

    /// The piece of an answered fault is done; without a lease it is decided again under the next.
    fn conclude(&mut self, piece: u32, errno: Errno) {
        if self.leased {
            self.finish(piece, errno);
        } else {
            self.decide(piece);
        }
    }

    fn set_error(&mut self, fault: &Fault) {
        let slot = self.pieces[fault.piece].disk;
        let table = &mut self.disks[slot].table;
        let end = (fault.info.segment + fault.info.segments).min(table.segments());
        for segment in fault.info.segment..end {
            let word = table.get(segment).0 | entry::VALID | entry::ERROR;
            table.set_run(segment, 1, Entry(word).0, 0);
        }
    }

    pub(crate) fn write_entries(&mut self, disk: u32, runs: &[EntryRun]) {
        let table = &mut self.disks[disk].table;
        for run in runs {
            table.set_run(run.first, run.count, run.word, run.step);
        }
    }

    /// A flush or FUA write failed: the container counts as failed for every disk, until the
    /// failure is durable; then the sets say it (they come before the answer).
    ///
    /// Returns the request that the host has to wait for.
    pub(crate) fn container_failed(&mut self, disk: u32, container: u16, errno: Errno) -> u64 {
        if let Some(request) = self.failed.get(&container) {
            return *request;
        }
        let request = self.next_request;
        self.next_request += 1;
        self.failed.insert(container, request);
        self.events.push_back(Event::ContainerFailed {
            request,
            disk,
            container,
            errno,
        });
        for index in self.disks.indexes() {
            self.refresh_sync_failed(index);
        }
        request
    }

    /// A FLUSH or FUA of a disk with a failed container: EIO, once that failure is durable.
    pub(crate) fn refuse_sync(&mut self, piece: u32, disk: u32) {
        let containers = &self.disks[disk].containers;
        if containers.iter().any(|c| c.failed) {
            self.finish(piece, EIO);
            return;
        }
        let request = containers.iter().find_map(|c| self.failed.get(&c.number));
        let request = request.expect("sync_failed comes from a container of the set");
        self.pieces[piece].state = State::Failed(*request);
    }

    /// Brings `sync_failed` up to date with the set and with what has failed.
    pub(crate) fn refresh_sync_failed(&mut self, disk: u32) {
        let failed = &self.failed;
        let disk = &mut self.disks[disk];
        let fails = |c: &crate::disk::Container| c.failed || failed.contains_key(&c.number);
        disk.sync_failed = disk.containers.iter().any(fails);
    }

    /// The failure of a container is durable: the hosts that wait for that get their error.
    fn container_failure_answered(&mut self, request: u64, errno: Errno) -> bool {
        let of_request = |(_, waits_for): &(&u16, &u64)| **waits_for == request;
        let Some(container) = self.failed.iter().find(of_request).map(|(c, _)| *c) else {
            return false;
        };
        self.failed.remove(&container);
        for index in self.disks.indexes() {
            self.refresh_sync_failed(index);
        }
        let failed = |(_, piece): &(u32, &Piece)| piece.state == State::Failed(request);
        let mut waiting: Vec<u32> = self
            .pieces
            .iter()
            .filter(failed)
            .map(|(at, _)| at)
            .collect();
        waiting.sort_by_key(|piece| {
            let piece = &self.pieces[*piece];
            (self.hosts[piece.host].seq, piece.offset, piece.container)
        });
        for piece in waiting {
            self.conclude(piece, errno);
        }
        true
    }
}
