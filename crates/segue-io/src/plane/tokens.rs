//! Host I/O under way, by token: a slab whose names are never used twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use segue_map::Cause;
use segue_nbd::server::Request;

use crate::buffer::Buffer;

/// Which connection: its place in the thread's table and a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ConnKey {
    pub(super) index: usize,
    pub(super) id: u64,
}

/// One host I/O under way.
#[derive(Debug)]
pub(super) struct HostIo {
    pub(super) conn: ConnKey,
    pub(super) request: Request,
    /// Of reads and writes.
    pub(super) buffer: Option<Arc<Buffer>>,
    pub(super) disk: u32,
    /// When it was given to the engine, CLOCK_BOOTTIME.
    pub(super) begun_ns: u64,
    /// The dearest thing it has met.
    pub(super) cause: Cause,
    /// Made for its first task: set when the host waits no longer.
    pub(super) cancelled: Option<Arc<AtomicBool>>,
    /// Its connection has gone: its buffer counts against the disk.
    pub(super) is_abandoned: bool,
}

impl HostIo {
    /// The flag for a task of this I/O.
    pub(super) fn cancelled(&mut self) -> Arc<AtomicBool> {
        self.cancelled.get_or_insert_default().clone()
    }

    /// The host waits no longer: tasks not begun are not to be.
    pub(super) fn cancel(&self) {
        if let Some(cancelled) = &self.cancelled {
            cancelled.store(true, Ordering::Release);
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    held: Option<HostIo>,
}

/// The slab.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Tokens {
    /// Takes an I/O in and names it.
    pub(super) fn insert(&mut self, io: HostIo) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("fewer I/Os than 2^32")
        });
        let slot = &mut self.slots[index as usize];
        slot.held = Some(io);
        u64::from(slot.generation) << 32 | u64::from(index)
    }

    fn slot(&mut self, token: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut((token & 0xffff_ffff) as usize)?;
        (u64::from(slot.generation) == token >> 32).then_some(slot)
    }

    /// The I/O of this name.
    pub(super) fn get(&mut self, token: u64) -> Option<&mut HostIo> {
        self.slot(token)?.held.as_mut()
    }

    /// Ends the name.
    pub(super) fn remove(&mut self, token: u64) -> Option<HostIo> {
        let slot = self.slot(token)?;
        let io = slot.held.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push((token & 0xffff_ffff) as u32);
        Some(io)
    }

    /// The names of all I/O of one connection.
    pub(super) fn of_connection(&self, conn: ConnKey) -> Vec<u64> {
        let mine = |slot: &Slot| slot.held.as_ref().is_some_and(|io| io.conn == conn);
        let named = |(index, slot): (usize, &Slot)| u64::from(slot.generation) << 32 | index as u64;
        self.slots
            .iter()
            .enumerate()
            .filter(|(_, slot)| mine(slot))
            .map(named)
            .collect()
    }
}

/// Bytes of buffers, by disk, that I/O of gone connections is still under way on: what a host can
/// make an agent hold does not grow by connecting again.
#[derive(Debug)]
pub(super) struct Abandoned {
    pub(super) bytes: HashMap<u32, u64>,
    limit_bytes: u64,
}

impl Abandoned {
    pub(super) fn new(limit_bytes: u64) -> Abandoned {
        Abandoned {
            bytes: HashMap::new(),
            limit_bytes,
        }
    }

    pub(super) fn add(&mut self, disk: u32, bytes: usize) {
        if bytes > 0 {
            *self.bytes.entry(disk).or_default() += bytes as u64;
        }
    }

    pub(super) fn remove(&mut self, disk: u32, bytes: usize) {
        let Some(held) = self.bytes.get_mut(&disk) else {
            return;
        };
        *held -= bytes as u64;
        if *held == 0 {
            self.bytes.remove(&disk);
        }
    }

    /// Whether connections of the disk may be read.
    #[inline]
    pub(super) fn accepts(&self, disk: u32) -> bool {
        let held = || self.bytes.get(&disk).copied().unwrap_or_default();
        self.bytes.is_empty() || held() < self.limit_bytes
    }
}
