//! `self_check`: the engine's invariants, spelled out; `digest`: its state in one number.

use crate::blocking::Blocker;
use crate::disk::Disk;
use crate::engine::{Engine, HostOp};
use crate::in_flight::{Host, Life, NONE, Piece, State, Work};

impl Engine {
    /// Asserts all invariants.  Costs O(everything): for tests and the simulator.
    pub fn self_check(&self) {
        assert!(
            self.wake <= self.deadline().unwrap_or(u64::MAX),
            "would sleep too long"
        );
        for (index, piece) in self.pieces.iter() {
            self.check_piece(index, piece);
        }
        for (index, host) in self.hosts.iter() {
            self.check_host(index, host);
        }
        for (index, disk) in self.disks.iter() {
            self.check_disk(index, disk);
        }
        for (request, fault) in &self.faults {
            assert_eq!(self.pieces[fault.piece].state, State::Faulted(*request));
            assert_eq!(fault.info.request, *request);
        }
        for blocker in &self.blockers {
            self.check_blocker(blocker);
        }
        for pair in self.ids.windows(2) {
            assert!(pair[0].0 < pair[1].0, "ids are not in order");
        }
        for (id, slot) in &self.ids {
            assert!(self.disks[*slot].id == *id && !self.disks[*slot].deleted);
        }
        self.check_due_list();
    }

    fn check_piece(&self, index: u32, piece: &Piece) {
        let disk = &self.disks[piece.disk];
        let host = &self.hosts[piece.host];
        assert_eq!(host.disk, piece.disk);
        let counts = host.op == HostOp::Write && host.life == Life::Waiting;
        let at_rest = match piece.state {
            State::Deciding => panic!("a piece was left undecided"),
            State::Parked(seq) => {
                assert_eq!(disk.parked.get(&seq), Some(&index));
                assert!(!self.leased || !disk.quiesces.is_empty(), "parked idly");
                true
            }
            State::Waiting(seq) => {
                assert_eq!(disk.waiting.get(&seq), Some(&index));
                assert!(self.leased, "waits for blocks without a lease");
                true
            }
            State::Faulted(request) => {
                let fault = &self.faults[&request];
                assert_eq!(fault.piece, index);
                let running = matches!(fault.work, Work::Running { .. });
                assert_eq!(piece.started, running);
                assert!(self.leased || !matches!(fault.work, Work::Done { .. }));
                true
            }
            State::Running => false,
            State::Failed(request) => {
                let mut failed = self.failed.values();
                assert!(
                    failed.any(|waits_for| *waits_for == request),
                    "waits for nothing"
                );
                false
            }
            State::Held => {
                assert_eq!(host.life, Life::Waiting);
                true
            }
            State::Finished => {
                assert!(
                    self.leased || host.errno != 0,
                    "a result outlived its lease"
                );
                false
            }
            State::PartOf(whole) => {
                assert!(self.pieces[whole].started, "a part outlived its whole");
                assert!(!piece.counted && !piece.started);
                return;
            }
        };
        assert_eq!(piece.counted, at_rest && counts, "park limit");
        if piece.state == State::Running {
            assert!(piece.started);
        }
        assert!(host.life == Life::Waiting || !matches!(piece.state, State::Finished));
    }

    fn check_host(&self, index: u32, host: &Host) {
        let mut remaining = 0;
        let mut pieces = 0;
        let mut held = 0;
        let mut piece = host.first_piece;
        while piece != NONE {
            let this = &self.pieces[piece];
            assert_eq!(this.host, index);
            remaining += u32::from(this.state != State::Finished);
            pieces += 1;
            held += u32::from(this.state == State::Held);
            piece = this.next;
        }
        assert_eq!(host.held, held);
        let at_once = self.config.pieces_at_once.max(1);
        assert!(held == 0 || host.acted_on() >= at_once, "held back idly");
        assert!(pieces > 0, "a host without pieces");
        if host.life == Life::Waiting {
            assert_eq!(host.remaining, remaining);
            assert!(remaining > 0, "not answered");
            assert!(host.token_live);
        }
        let listed = host.due != u64::MAX;
        assert_eq!(
            listed,
            self.config.host_timeout_ns.is_some() && host.life == Life::Waiting
        );
    }

    fn check_disk(&self, index: u32, disk: &Disk) {
        disk.table.self_check();
        let pieces = || {
            self.pieces
                .iter()
                .map(|(_, piece)| piece)
                .filter(|p| p.disk == index)
        };
        let parked: u64 = pieces()
            .filter(|piece| piece.counted)
            .map(|piece| piece.len)
            .sum();
        assert_eq!(disk.parked_bytes, parked);
        assert_eq!(disk.pieces as usize, pieces().count());
        let is_running = |piece: &&Piece| piece.state == State::Running;
        let merging = pieces()
            .filter(is_running)
            .filter(|piece| piece.merges)
            .count();
        assert_eq!(disk.merging as usize, merging);
        let orphaned = |piece: &&Piece| {
            piece.writes && self.hosts[piece.host].life != Life::Waiting && is_running(piece)
        };
        assert_eq!(disk.orphans as usize, pieces().filter(orphaned).count());
        let writes: alloc::vec::Vec<_> = pieces()
            .filter(is_running)
            .filter(|piece| piece.writes)
            .collect();
        for (place, write) in writes.iter().enumerate() {
            assert!(
                !writes[place + 1..]
                    .iter()
                    .any(|other| write.excludes(other)),
                "held blocks"
            );
        }
        assert!(
            disk.waiting.is_empty() || !writes.is_empty(),
            "waits for nothing"
        );
        for (seq, piece) in &disk.parked {
            assert_eq!(self.pieces[*piece].state, State::Parked(*seq));
        }
        for (seq, piece) in &disk.waiting {
            assert_eq!(self.pieces[*piece].state, State::Waiting(*seq));
        }
        let hosts = self
            .hosts
            .iter()
            .filter(|(_, host)| host.disk == index)
            .count();
        assert_eq!(disk.hosts as usize, hosts);
        let blockers = self
            .blockers
            .iter()
            .filter(|blocker| blocker.disk == index)
            .count();
        assert_eq!(disk.blockers as usize, blockers);
        assert_eq!(disk.deleted, self.slot(disk.id) != Some(index));
        assert!(
            !disk.deleted || hosts + blockers > 0,
            "a deleted disk was kept"
        );
        assert!(!disk.deleted || disk.quiesces.is_empty());
    }

    fn check_blocker(&self, blocker: &Blocker) {
        let pieces = self
            .pieces
            .iter()
            .filter(|(_, piece)| blocker.waits_for(piece));
        assert_eq!(blocker.left as usize, pieces.count());
        assert!(blocker.left > 0, "not answered");
        if let Some(id) = blocker.quiesce {
            let mut quiesces = self.disks[blocker.disk].quiesces.iter();
            assert!(quiesces.any(|quiesce| quiesce.id == id && quiesce.draining.is_some()));
        }
    }

    fn check_due_list(&self) {
        let mut earlier = NONE;
        let mut host = self.first_due;
        let mut count = 0;
        while host != NONE {
            let this = &self.hosts[host];
            assert_eq!(this.earlier, earlier);
            assert!(earlier == NONE || self.hosts[earlier].due <= this.due);
            count += 1;
            earlier = host;
            host = this.later;
        }
        assert_eq!(self.last_due, earlier);
        assert_eq!(
            count,
            self.hosts
                .iter()
                .filter(|(_, host)| host.due != u64::MAX)
                .count()
        );
    }

    /// A hash of the whole state: tables as they read, sets, quiesces, I/O, faults, lease.
    ///
    /// Not of queued effects and events, the time, nor of counters.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
        hash.add(u64::from(self.leased));
        hash.add(self.lease_until);
        hash.add(self.epoch);
        for (_, disk) in self.disks.iter() {
            digest_disk(disk, &mut hash);
        }
        for (index, host) in self.hosts.iter() {
            hash.add(u64::from(index));
            hash.add_debug(&(
                host.token,
                host.token_live,
                host.life,
                host.remaining,
                host.held,
                host.errno,
            ));
        }
        for (index, piece) in self.pieces.iter() {
            hash.add(u64::from(index));
            hash.add_debug(piece);
        }
        hash.add_debug(&self.faults);
        hash.add_debug(&self.failed);
        hash.add_debug(&self.blockers);
        hash.0
    }
}

fn digest_disk(disk: &Disk, hash: &mut Fnv) {
    hash.add(u64::from(disk.id));
    hash.add(disk.size);
    hash.add(disk.table.segments());
    disk.table.any(|segment, entry| {
        hash.add(segment);
        hash.add(entry.0);
        false
    });
    hash.add_debug(&(&disk.containers, disk.sync_failed, disk.deleted));
    hash.add_debug(&(&disk.quiesces, &disk.parked, &disk.waiting));
    hash.add_debug(&(
        disk.merging,
        disk.orphans,
        disk.parked_bytes,
        disk.hosts,
        disk.blockers,
    ));
}

/// FNV-1a, by words and by what `Debug` prints.
struct Fnv(u64);

impl Fnv {
    fn add(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        self.0 ^= self.0 >> 29;
    }

    fn add_debug(&mut self, value: &impl core::fmt::Debug) {
        use core::fmt::Write;
        write!(self, "{value:?}").expect("hashing cannot fail");
    }
}

impl core::fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            self.add(u64::from(byte));
        }
        Ok(())
    }
}
