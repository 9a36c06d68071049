//! Leases: what may be decided, and what becomes of I/O when a lease ends (design, section 4).

use alloc::vec::Vec;

use crate::engine::Engine;
use crate::in_flight::{Life, NONE, State, Work};
use crate::output::{Effect, Event};
use crate::start::End;

impl Engine {
    /// There is a lease until `until`; the first one of a row decides what was parked.
    pub(crate) fn extend_lease(&mut self, until: u64) {
        if until <= self.now {
            return;
        }
        if self.leased {
            self.lease_until = self.lease_until.max(until);
            return;
        }
        self.leased = true;
        self.lease_until = until;
        self.wake_by(until);
        // Nothing is parked on deleted disks.
        for place in 0..self.ids.len() {
            self.unpark(self.ids[place].1);
        }
    }

    /// All tables are invalid, and no host is answered from a result obtained so far.
    ///
    /// The container sets stay: the controller extends a set without this agent only when it has
    /// counted it lost, and then sends the set before it grants another lease.
    pub(crate) fn lose_lease(&mut self) {
        if self.leased {
            self.events.push_back(Event::LeaseEnded);
        }
        self.leased = false;
        // Pieces and `do_*` under way are stale by this.
        self.epoch += 1;
        let taken_back = self.take_back_io();
        for index in self.disks.indexes() {
            let disk = &mut self.disks[index];
            disk.table.invalidate_all();
            self.let_waiting_go(index);
        }
        for piece in taken_back {
            self.finish_io(piece, End::NotBegun);
        }
        self.void_finished();
        self.void_done();
    }

    /// Takes I/O that the driver has not taken yet out of the effects: nothing starts any more.
    fn take_back_io(&mut self) -> Vec<u32> {
        let mut taken = Vec::new();
        let pieces = &self.pieces;
        self.effects.retain(|effect| {
            let (Effect::Io { piece, .. }
            | Effect::Rmw { piece, .. }
            | Effect::Flush { piece, .. }) = effect
            else {
                return true;
            };
            taken.push(
                pieces
                    .find(*piece)
                    .expect("an effect not taken is under way"),
            );
            false
        });
        taken
    }

    /// Pieces that are done but not replied are not answered: they park, to be decided again.
    fn void_finished(&mut self) {
        let mut hosts = self.hosts.indexes();
        hosts.sort_by_key(|host| self.hosts[*host].seq);
        for host in hosts {
            if self.hosts[host].life != Life::Waiting {
                continue;
            }
            self.hosts[host].errno = 0;
            self.join_finished(host);
            let mut piece = self.hosts[host].first_piece;
            while piece != NONE {
                let next = self.pieces[piece].next;
                if self.pieces[piece].state == State::Finished {
                    self.hosts[host].remaining += 1;
                    self.decide(piece);
                }
                piece = next;
            }
        }
    }

    /// Faults that a `do_*` has carried out are void: their requests are over.
    fn void_done(&mut self) {
        let done = self
            .faults
            .values()
            .filter(|fault| matches!(fault.work, Work::Done { .. }));
        let pieces: Vec<u32> = done.map(|fault| fault.piece).collect();
        for piece in pieces {
            self.void_fault(piece);
        }
    }
}
