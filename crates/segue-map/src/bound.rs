//! How many pieces one host I/O may have: a request of 4 GiB names 65,536 segments of 64 KiB.
//!
//! `Config::pieces_at_once` are acted on (parked, faulted, under way); what lies behind them is held
//! back, undecided, in one piece, and goes on as they finish.  Finished neighbours are joined, so a
//! host I/O of any size has few pieces, faults and events at any time.

use crate::engine::Engine;
use crate::in_flight::{Life, NONE, Piece, State};

impl Engine {
    /// Adds a piece of a host I/O, or a part of a `do_*`.
    #[inline]
    pub(crate) fn add_piece(&mut self, piece: Piece) -> u32 {
        self.disks[piece.disk].pieces += 1;
        self.pieces.insert(piece)
    }

    #[inline]
    pub(crate) fn remove_piece(&mut self, piece: u32) {
        self.disks[self.pieces[piece].disk].pieces -= 1;
        self.pieces.remove(piece);
    }

    /// Whether a piece that is being decided must be held back.
    #[inline]
    pub(crate) fn must_hold(&self, piece: u32) -> bool {
        // The piece itself is one of those acted on.
        self.hosts[self.pieces[piece].host].acted_on() > self.config.pieces_at_once.max(1)
    }

    /// Holds back a piece that is being decided.
    pub(crate) fn hold(&mut self, piece: u32) {
        let this = &mut self.pieces[piece];
        this.state = State::Held;
        self.hosts[this.host].held += 1;
        self.count_bytes(piece);
    }

    /// Decides a piece that was held back.
    pub(crate) fn unhold(&mut self, piece: u32) {
        self.hosts[self.pieces[piece].host].held -= 1;
        self.decide(piece);
    }

    /// Lets pieces that were held back go on, of hosts in order of arrival.
    ///
    /// To be called at the end of every call that may have finished a piece.
    #[inline]
    pub(crate) fn go_on(&mut self) {
        if !self.going_on.is_empty() {
            self.let_held_go();
        }
    }

    fn let_held_go(&mut self) {
        let mut hosts = core::mem::take(&mut self.going_on);
        hosts.retain(|host| self.hosts.contains(*host));
        hosts.sort_by_key(|host| self.hosts[*host].seq);
        for host in hosts {
            while self.may_go_on(host) {
                self.join_finished(host);
                let first = self.first_held(host);
                self.unhold(first);
            }
        }
        // Pieces of the same hosts that were done at once.
        self.going_on.clear();
    }

    fn may_go_on(&self, host: u32) -> bool {
        if !self.hosts.contains(host) {
            return false;
        }
        let host = &self.hosts[host];
        let waits = host.held > 0 && host.life == Life::Waiting;
        waits && host.acted_on() < self.config.pieces_at_once.max(1)
    }

    fn first_held(&self, host: u32) -> u32 {
        let mut piece = self.hosts[host].first_piece;
        while self.pieces[piece].state != State::Held {
            piece = self.pieces[piece].next;
        }
        piece
    }

    /// Makes one piece of finished neighbours.
    pub(crate) fn join_finished(&mut self, host: u32) {
        let mut piece = self.hosts[host].first_piece;
        while piece != NONE {
            let next = self.pieces[piece].next;
            if next == NONE || !self.joins(piece, next) {
                piece = next;
                continue;
            }
            let Piece {
                len, next: after, ..
            } = self.pieces[next];
            let this = &mut self.pieces[piece];
            this.len += len;
            this.next = after;
            self.remove_piece(next);
        }
    }

    /// Whether two pieces are finished neighbours; those of a flush have no bytes.
    fn joins(&self, piece: u32, next: u32) -> bool {
        let (this, next) = (&self.pieces[piece], &self.pieces[next]);
        let finished = this.state == State::Finished && next.state == State::Finished;
        finished && this.len > 0 && next.len > 0 && this.offset + this.len == next.offset
    }
}
