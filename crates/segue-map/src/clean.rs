//! Clean I/O, the short way: within one segment, its entry lets it go, nothing is in its way, and it
//! makes nothing durable.
//!
//! Nearly every I/O is so.  It is begun and ended here as `plan`, `start` and `hosts` would, step for
//! step, but without looking at the same host, piece and disk anew at each step.  Whatever is not
//! plainly so takes the long way; the tests with the oracle go both.

use crate::decide::{Action, OpClass, decide};
use crate::disk::Disk;
use crate::engine::{Engine, HostOp};
use crate::entry::Entry;
use crate::in_flight::{Life, NONE, Piece, State};
use crate::output::Effect;
use crate::plan::io_kind;
use crate::start::Data;

impl Disk {
    /// The entry to which a read or write of these bytes plainly goes ahead.
    #[inline]
    fn clean_entry(&self, op: HostOp, offset: u64, len: u64) -> Option<Entry> {
        let class = match op {
            HostOp::Read => OpClass::Read,
            HostOp::Write => OpClass::Write,
            _ => return None,
        };
        let segment = offset >> self.segment_shift;
        let whole = (offset + len - 1) >> self.segment_shift == segment;
        if !whole || !self.quiesces.is_empty() {
            return None;
        }
        if op == HostOp::Write {
            let merges = (offset | len) & (self.max_write_unit - 1) != 0;
            if merges || self.merging != 0 || self.orphans != 0 || !self.waiting.is_empty() {
                return None;
            }
        }
        let entry = self.table.get(segment);
        (decide(entry, class) == Action::Go).then_some(entry)
    }
}

impl Engine {
    /// Begins a host I/O, admitted; false: nothing was done, it needs the long way.
    #[inline]
    pub(crate) fn begin_clean(
        &mut self,
        token: u64,
        slot: u32,
        op: HostOp,
        offset: u64,
        len: u64,
        flags: u16,
    ) -> bool {
        let disk = &mut self.disks[slot];
        let entry = disk.clean_entry(op, offset, len);
        let goes = self.leased && !op.syncs(flags);
        let (true, Some(entry)) = (goes, entry) else {
            return false;
        };
        let segment = offset >> disk.segment_shift;
        let data = Data {
            container: entry.container(),
            offset_bytes: disk.offset_at(entry, offset),
            buf_off: 0,
            len,
            fua: false,
        };
        disk.pieces += 1;
        let host = self.new_host(token, slot, op, offset, flags);
        let start_seq = self.take_seq();
        let (piece, id) = self.pieces.insert_named(Piece {
            state: State::Running,
            segment,
            segments: 1,
            started: true,
            start_seq,
            epoch: self.epoch,
            touched: (offset, offset + len),
            writes: op == HostOp::Write,
            container: data.container,
            ..Piece::new(host, slot, offset, len)
        });
        self.hosts[host].first_piece = piece;
        self.effects
            .push_back(data.plain(id, token, io_kind(op), flags));
        true
    }

    /// Ends a piece whose I/O went well, if its host is answered with it; false: the long way.
    #[inline]
    pub(crate) fn end_clean(&mut self, piece: u32) -> bool {
        let this = &self.pieces[piece];
        let (index, disk) = (this.host, &mut self.disks[this.disk]);
        let host = &self.hosts[index];
        let alone = host.first_piece == piece && this.next == NONE;
        let valid = self.leased && this.epoch == self.epoch && this.state == State::Running;
        let waited_for = disk.blockers != 0 || !disk.waiting.is_empty() || disk.deleted;
        let plain = host.life == Life::Waiting && host.errno == 0;
        let plain = plain && !this.merges && !this.syncs;
        if !(alone && valid && plain) || waited_for {
            return false;
        }
        disk.pieces -= 1;
        disk.hosts -= 1;
        let token = host.token;
        self.pieces.remove(piece);
        self.unexpect(index);
        self.hosts.remove(index);
        self.effects.push_back(Effect::Reply {
            token,
            errno: 0,
            in_use: false,
        });
        true
    }
}
