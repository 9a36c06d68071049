//! Host I/Os as a whole: parked bytes, the one reply, time limits, connections that vanish.

use crate::cause::Cause;
use crate::engine::{Engine, HostOp};
use crate::errno::{EIO, Errno};
use crate::in_flight::{Life, NONE, State, Work};
use crate::output::Effect;

impl Engine {
    /// The piece waits to be decided: there is no lease, or its disk is quiesced.
    pub(crate) fn park(&mut self, piece: u32) {
        let seq = self.take_seq();
        let disk = self.pieces[piece].disk;
        self.note(piece, Cause::Parked);
        self.pieces[piece].state = State::Parked(seq);
        self.disks[disk].parked.insert(seq, piece);
        self.count_bytes(piece);
    }

    /// Decides what is parked on the disk, in order of arrival.
    pub(crate) fn unpark(&mut self, disk: u32) {
        let parked = core::mem::take(&mut self.disks[disk].parked);
        for piece in parked.into_values() {
            self.decide(piece);
        }
    }

    /// Counts a write's bytes towards the park limit of its disk.
    pub(crate) fn count_bytes(&mut self, piece: u32) {
        let piece = &mut self.pieces[piece];
        if self.hosts[piece.host].op == HostOp::Write && !piece.counted {
            piece.counted = true;
            self.disks[piece.disk].parked_bytes += piece.len;
        }
    }

    /// The reverse: it has started, or its buffer is not needed any more.
    #[inline]
    pub(crate) fn uncount_bytes(&mut self, piece: u32) {
        let piece = &mut self.pieces[piece];
        if piece.counted {
            piece.counted = false;
            self.disks[piece.disk].parked_bytes -= piece.len;
        }
    }

    /// The piece is done.  The host is answered with the last one; the first error wins.
    #[inline]
    pub(crate) fn finish(&mut self, piece: u32, errno: Errno) {
        self.uncount_bytes(piece);
        let this = &mut self.pieces[piece];
        let index = this.host;
        let host = &mut self.hosts[index];
        if host.life != Life::Waiting {
            self.drop_piece(piece);
            return;
        }
        this.state = State::Finished;
        if host.errno == 0 {
            host.errno = errno;
        }
        host.remaining -= 1;
        if host.held > 0 {
            self.going_on.push(index);
        } else if host.remaining == 0 {
            let (token, errno) = (host.token, host.errno);
            self.effects.push_back(Effect::Reply {
                token,
                errno,
                in_use: false,
            });
            self.close_host(index);
        }
    }

    /// The host has been answered and nothing of its I/O is under way.
    pub(crate) fn close_host(&mut self, host: u32) {
        // Rule 8: only an error that owes nothing to a table is given without a lease.
        assert!(
            self.leased || self.hosts[host].errno != 0,
            "acknowledged without a lease"
        );
        self.unexpect(host);
        let mut piece = self.hosts[host].first_piece;
        while piece != NONE {
            let next = self.pieces[piece].next;
            self.remove_piece(piece);
            piece = next;
        }
        self.free_host(host);
    }

    fn free_host(&mut self, host: u32) {
        let disk = self.hosts[host].disk;
        self.hosts.remove(host);
        self.disks[disk].hosts -= 1;
        if self.disks[disk].deleted {
            self.free_deleted(disk);
        }
    }

    /// The host waits no longer: gone, or at its time limit (then it gets EIO).
    ///
    /// What has not started is dropped, and so is a fault that no `do_*` has touched: an answer to
    /// it is ignored.  What has started runs out.
    pub(crate) fn leave_host(&mut self, host: u32, life: Life) {
        self.unexpect(host);
        let was = core::mem::replace(&mut self.hosts[host].life, life);
        if was != Life::Waiting {
            return;
        }
        let token = self.hosts[host].token;
        let in_use = self.buffer_in_use(host);
        if life == Life::TimedOut {
            self.effects.push_back(Effect::Reply {
                token,
                errno: EIO,
                in_use,
            });
            self.hosts[host].token_live = in_use;
        } else if !in_use {
            self.effects.push_back(Effect::Release { token });
            self.hosts[host].token_live = false;
        }
        self.drop_unstarted(host);
    }

    fn drop_unstarted(&mut self, host: u32) {
        let disk = self.hosts[host].disk;
        let mut piece = self.hosts[host].first_piece;
        while piece != NONE {
            let next = self.pieces[piece].next;
            self.uncount_bytes(piece);
            let keep = match self.pieces[piece].state {
                State::Running => {
                    self.disks[disk].orphans += u32::from(self.pieces[piece].writes);
                    true
                }
                // A discard carried out later could undo what others write meanwhile.
                State::Faulted(request) => self.faults[&request].work != Work::None,
                _ => false,
            };
            if !keep {
                // The last piece takes the host with it.
                self.drop_piece(piece);
            }
            piece = next;
        }
        if self.disks.contains(disk) {
            self.let_waiting_go(disk);
        }
    }

    /// Whether a piece is under way on the host's buffer.
    fn buffer_in_use(&self, host: u32) -> bool {
        let mut piece = self.hosts[host].first_piece;
        while piece != NONE {
            if self.pieces[piece].started {
                return true;
            }
            piece = self.pieces[piece].next;
        }
        false
    }

    /// A piece that nobody waits for is gone, and its host with the last one.
    pub(crate) fn drop_piece(&mut self, piece: u32) {
        assert!(!self.pieces[piece].started, "a piece under way was dropped");
        self.uncount_bytes(piece);
        let (host, disk) = (self.pieces[piece].host, self.pieces[piece].disk);
        match self.pieces[piece].state {
            State::Parked(seq) => {
                self.disks[disk].parked.remove(&seq);
            }
            State::Waiting(seq) => {
                self.disks[disk].waiting.remove(&seq);
            }
            State::Faulted(request) => self.forget_fault(request),
            State::Held => self.hosts[host].held -= 1,
            _ => {}
        }
        self.unlink_piece(host, piece);
        self.release_buffer(host);
        if self.hosts[host].first_piece == NONE {
            self.free_host(host);
        }
    }

    fn unlink_piece(&mut self, host: u32, piece: u32) {
        let next = self.pieces[piece].next;
        self.remove_piece(piece);
        let mut before = self.hosts[host].first_piece;
        if before == piece {
            self.hosts[host].first_piece = next;
            return;
        }
        while self.pieces[before].next != piece {
            before = self.pieces[before].next;
        }
        self.pieces[before].next = next;
    }

    /// Tells the driver when nothing runs on the buffer of a host that waits no longer.
    pub(crate) fn release_buffer(&mut self, host: u32) {
        let waiting = self.hosts[host].life == Life::Waiting;
        if waiting || !self.hosts[host].token_live || self.buffer_in_use(host) {
            return;
        }
        self.hosts[host].token_live = false;
        self.effects.push_back(Effect::Release {
            token: self.hosts[host].token,
        });
    }

    /// Puts the host at the end of those with a time limit.
    pub(crate) fn expect_by(&mut self, host: u32, due: u64) {
        let earlier = core::mem::replace(&mut self.last_due, host);
        // u64::MAX marks a host without a limit.
        let due = due.min(u64::MAX - 1);
        self.hosts[host].due = due;
        self.hosts[host].earlier = earlier;
        if earlier == NONE {
            self.first_due = host;
            self.wake_by(due);
        } else {
            self.hosts[earlier].later = host;
        }
    }

    /// Takes the host out of those with a time limit.
    #[inline]
    pub(crate) fn unexpect(&mut self, host: u32) {
        let this = &mut self.hosts[host];
        if this.due == u64::MAX {
            return;
        }
        this.due = u64::MAX;
        let (earlier, later) = (this.earlier, this.later);
        match earlier {
            NONE => self.first_due = later,
            before => self.hosts[before].later = later,
        }
        match later {
            NONE => self.last_due = earlier,
            after => self.hosts[after].earlier = earlier,
        }
    }
}
