//! "Prior I/O finished": blocking commands, and quiesce, which drains a whole disk.
//!
//! A blocker counts the pieces that were started before it, and is answered when all of them have
//! finished at their container.  A piece that is decided again starts anew, and delays only later
//! blockers.  I/O parked on a fault has not started; a `do_*` counts from receipt to its answer.

use crate::disk::Quiesce;
use crate::engine::Engine;
use crate::errno::{ECANCELED, EEXIST, ENOENT, ETIMEDOUT, Errno};
use crate::in_flight::Piece;
use crate::output::Event;

/// Which I/O a blocker waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// I/O that touches segments of this range (first, end); flushes touch none.
    Run(u64, u64),
    /// All I/O of the disk, flushes too.
    Disk,
}

/// A command to be answered when the I/O started before it has finished.
#[derive(Debug)]
pub(crate) struct Blocker {
    pub command: u64,
    pub disk: u32,
    pub scope: Scope,
    /// Pieces with a smaller `start_seq` were started before it.
    pub seq: u64,
    /// How many of those are under way.
    pub left: u32,
    /// The quiesce it drains for.
    pub quiesce: Option<u64>,
}

impl Blocker {
    /// Whether it waits for this piece.
    pub(crate) fn waits_for(&self, piece: &Piece) -> bool {
        let in_scope = match self.scope {
            Scope::Disk => true,
            Scope::Run(first, end) => piece.overlaps(first, end),
        };
        piece.started && piece.disk == self.disk && piece.start_seq < self.seq && in_scope
    }
}

impl Engine {
    /// Answers `command` when the I/O of `scope` started so far has finished: now, or later.
    pub(crate) fn block(&mut self, command: u64, disk: u32, scope: Scope, quiesce: Option<u64>) {
        let seq = self.take_seq();
        let mut blocker = Blocker {
            command,
            disk,
            scope,
            seq,
            left: 0,
            quiesce,
        };
        let pieces = self.pieces.iter();
        blocker.left = pieces.filter(|(_, piece)| blocker.waits_for(piece)).count() as u32;
        if blocker.left == 0 {
            self.unblock(&blocker);
        } else {
            self.disks[disk].blockers += 1;
            self.blockers.push(blocker);
        }
    }

    /// A piece under way has ended: those that waited for it count it off.
    ///
    /// To be called when `started` has just been cleared.
    #[inline]
    pub(crate) fn prior_io_finished(&mut self, piece: u32) {
        if self.disks[self.pieces[piece].disk].blockers != 0 {
            self.count_off(piece);
        }
    }

    fn count_off(&mut self, piece: u32) {
        self.pieces[piece].started = true;
        for blocker in &mut self.blockers {
            blocker.left -= u32::from(blocker.waits_for(&self.pieces[piece]));
        }
        self.pieces[piece].started = false;
        while let Some(ready) = self.blockers.iter().position(|blocker| blocker.left == 0) {
            let blocker = self.blockers.remove(ready);
            self.disks[blocker.disk].blockers -= 1;
            self.unblock(&blocker);
        }
    }

    fn unblock(&mut self, blocker: &Blocker) {
        if let Some(id) = blocker.quiesce {
            let mut quiesces = self.disks[blocker.disk].quiesces.iter_mut();
            let quiesce = quiesces.find(|quiesce| quiesce.id == id);
            quiesce.expect("a blocker goes with its quiesce").draining = None;
        }
        self.answer_done(blocker.command);
        self.free_deleted(blocker.disk);
    }

    /// Forgets a deleted disk when nothing refers to it.
    pub(crate) fn free_deleted(&mut self, disk: u32) {
        let Some(this) = self.disks.contains(disk).then(|| &self.disks[disk]) else {
            return;
        };
        if this.deleted && this.hosts == 0 && this.blockers == 0 {
            self.disks.remove(disk);
        }
    }

    /// Parks new host I/O of the disk; answered when drained.
    pub(crate) fn quiesce(
        &mut self,
        command: u64,
        disk: u32,
        id: u64,
        drain_ns: u64,
        hold_ns: u64,
    ) -> Result<(), Errno> {
        let disk = self.slot(disk).ok_or(ENOENT)?;
        if self.disks[disk]
            .quiesces
            .iter()
            .any(|quiesce| quiesce.id == id)
        {
            return Err(EEXIST);
        }
        let drain_until = self.now.saturating_add(drain_ns);
        let hold_until = self.now.saturating_add(hold_ns);
        let draining = Some((command, drain_until));
        self.disks[disk].quiesces.push(Quiesce {
            id,
            hold_until,
            draining,
        });
        self.wake_by(drain_until.min(hold_until));
        self.block(command, disk, Scope::Disk, Some(id));
        Ok(())
    }

    /// Ends a quiesce; its answer says whether the disk was still held, and drained.
    pub(crate) fn activate(&mut self, command: u64, disk: u32, id: u64) -> Result<(), Errno> {
        let disk = self.slot(disk).ok_or(ENOENT)?;
        let held = self.end_quiesce(disk, id, ECANCELED);
        self.events.push_back(answer_held(command, held));
        Ok(())
    }

    /// Takes a quiesce away, and lets parked I/O go with the last one.
    ///
    /// If it was still draining, its command is answered with `errno`.  Returns whether it held.
    fn end_quiesce(&mut self, disk: u32, id: u64, errno: Errno) -> bool {
        let quiesces = &mut self.disks[disk].quiesces;
        let Some(place) = quiesces.iter().position(|quiesce| quiesce.id == id) else {
            return false;
        };
        let quiesce = quiesces.remove(place);
        if let Some((command, _)) = quiesce.draining {
            self.cancel_drain(disk, id);
            self.answer_failed(command, errno);
        }
        if self.disks[disk].quiesces.is_empty() {
            self.unpark(disk);
        }
        quiesce.draining.is_none()
    }

    fn cancel_drain(&mut self, disk: u32, id: u64) {
        let of = |blocker: &Blocker| blocker.disk == disk && blocker.quiesce == Some(id);
        let place = self
            .blockers
            .iter()
            .position(of)
            .expect("a draining quiesce has a blocker");
        self.blockers.remove(place);
        self.disks[disk].blockers -= 1;
    }

    /// The table is deleted: its quiesces are gone.
    pub(crate) fn drop_quiesces(&mut self, disk: u32) {
        let ids = self.disks[disk].quiesces.iter().map(|quiesce| quiesce.id);
        for id in ids.collect::<alloc::vec::Vec<u64>>() {
            self.end_quiesce(disk, id, ENOENT);
        }
    }

    /// Ends quiesces whose deadline has passed: `drain` while draining, `hold` in any case.
    pub(crate) fn expire_quiesces(&mut self) {
        for place in 0..self.ids.len() {
            let disk = self.ids[place].1;
            while let Some((id, drained)) = self.expired_quiesce(disk) {
                self.end_quiesce(disk, id, ETIMEDOUT);
                if drained {
                    let disk = self.disks[disk].id;
                    self.events
                        .push_back(Event::QuiesceExpired { disk, quiesce: id });
                }
            }
        }
    }

    /// One that is over, and whether it had been answered as holding.
    fn expired_quiesce(&self, disk: u32) -> Option<(u64, bool)> {
        let over = |quiesce: &&Quiesce| {
            let drain_over = quiesce.draining.is_some_and(|(_, until)| self.now >= until);
            drain_over || self.now >= quiesce.hold_until
        };
        let quiesce = self.disks[disk].quiesces.iter().find(over)?;
        Some((quiesce.id, quiesce.draining.is_none()))
    }
}

fn answer_held(command: u64, held: bool) -> Event {
    let outcome = crate::output::Outcome::Done;
    Event::Answer {
        command,
        outcome,
        errno: 0,
        entries: alloc::vec::Vec::new(),
        held,
    }
}
