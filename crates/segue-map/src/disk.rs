//! What an engine knows of one disk: its table, its containers, its quiesces, what is parked.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::control::{ContainerSpec, EntryRun};
use crate::entry::{self, Entry};
use crate::errno::{EINVAL, Errno};
use crate::table::Table;

/// The largest segment a pool may have (design, section 2).
const MAX_SEGMENT_BYTES: u64 = 64 << 20;
/// Bounds the memory of an untouched table (8 bytes for 4096 of these).
const MAX_SEGMENTS: u64 = 1 << 32;

/// What the engine keeps of a container of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub number: u16,
    pub segments: u64,
    pub write_unit: u64,
    /// Durably known to have failed a flush.
    pub failed: bool,
}

/// A quiesce of a disk.  It holds from receipt, drained or not.
#[derive(Debug)]
pub(crate) struct Quiesce {
    pub id: u64,
    pub hold_until: u64,
    /// (command to answer, deadline) while I/O started before it is under way.
    pub draining: Option<(u64, u64)>,
}

/// One table and what belongs to it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub id: u32,
    pub table: Table,
    pub size: u64,
    pub segment_shift: u32,
    pub block: u64,
    pub read_only: bool,
    /// `delete_table` has come: only I/O under way keeps this alive.
    pub deleted: bool,
    /// The set, by number.
    pub containers: Vec<Container>,
    /// Largest write unit of the set.
    pub max_write_unit: u64,
    /// A container of the set has failed a flush: FLUSH and FUA fail.
    pub sync_failed: bool,
    pub quiesces: Vec<Quiesce>,
    /// Pieces that wait to be decided (lease, quiesce), in order of arrival.
    pub parked: BTreeMap<u64, u32>,
    /// Writes that wait for blocks held by a read-merge-write, in order of arrival.
    pub waiting: BTreeMap<u64, u32>,
    /// Read-merge-writes under way.
    pub merging: u32,
    /// Writes under way whose hosts wait no longer.
    pub orphans: u32,
    /// Bytes of writes parked, faulted or waiting.
    pub parked_bytes: u64,
    /// Pieces of its host I/O.
    pub pieces: u32,
    /// Host I/Os that refer to this.
    pub hosts: u32,
    /// Blocking commands and draining quiesces not answered.
    pub blockers: u32,
}

impl Disk {
    /// A disk with an all-invalid table; EINVAL where sizes are out of range.
    pub(crate) fn new(
        id: u32,
        size: u64,
        segment_bytes: u64,
        block_bytes: u32,
        read_only: bool,
    ) -> Result<Disk, Errno> {
        let block = u64::from(block_bytes);
        let segment_ok =
            segment_bytes.is_power_of_two() && (block..=MAX_SEGMENT_BYTES).contains(&segment_bytes);
        if !(block == 512 || block == 4096) || !segment_ok || !size_fits(size, segment_bytes) {
            return Err(EINVAL);
        }
        Ok(Disk {
            id,
            table: Table::new(size.div_ceil(segment_bytes)),
            size,
            segment_shift: segment_bytes.trailing_zeros(),
            block,
            read_only,
            deleted: false,
            containers: Vec::new(),
            max_write_unit: 1,
            sync_failed: false,
            quiesces: Vec::new(),
            parked: BTreeMap::new(),
            waiting: BTreeMap::new(),
            merging: 0,
            orphans: 0,
            parked_bytes: 0,
            pieces: 0,
            hosts: 0,
            blockers: 0,
        })
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        1 << self.segment_shift
    }

    /// Where a segment ends on the disk: the last one may be short.
    #[inline]
    pub(crate) fn segment_end(&self, segment: u64) -> u64 {
        ((segment + 1) << self.segment_shift).min(self.size)
    }

    pub(crate) fn container(&self, number: u16) -> Option<&Container> {
        self.containers
            .iter()
            .find(|container| container.number == number)
    }

    /// The write unit of the entry's container.
    pub(crate) fn write_unit(&self, entry: Entry) -> u64 {
        self.container(entry.container())
            .map_or(1, |container| container.write_unit)
    }

    /// Where in the container's data area byte `offset` of the disk lies under that entry.
    #[inline]
    pub(crate) fn offset_at(&self, entry: Entry, offset: u64) -> u64 {
        (entry.segment() << self.segment_shift) + (offset & (self.segment_bytes() - 1))
    }

    /// EINVAL where the size cannot be this disk's.
    pub(crate) fn check_size(&self, size: u64) -> Result<(), Errno> {
        if size_fits(size, self.segment_bytes()) {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    /// EINVAL where a run is empty or not within the table.
    pub(crate) fn check_run(&self, first: u64, count: u64) -> Result<(), Errno> {
        match first.checked_add(count) {
            Some(end) if count > 0 && end <= self.table.segments() => Ok(()),
            _ => Err(EINVAL),
        }
    }

    /// EINVAL where a run must not be written to the table.
    pub(crate) fn check_entries(&self, run: &EntryRun) -> Result<(), Errno> {
        self.check_run(run.first, run.count)?;
        let steps = match run.step {
            0 => 0,
            1 => run.count - 1,
            _ => return Err(EINVAL),
        };
        let first = Entry(run.word);
        // The step must not carry out of the segment number.
        let last_segment = first
            .segment()
            .checked_add(steps)
            .filter(|s| *s <= entry::SEGMENT_MASK);
        let last = Entry(first.0 & !entry::SEGMENT_MASK | last_segment.ok_or(EINVAL)?);
        if run.word == 0 && steps == 0 {
            return Ok(());
        }
        if !first.is_valid() || (last.has_location() && !self.has(last)) {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// EINVAL where a word is not the plain location of a container of the set.
    pub(crate) fn check_location(&self, word: u64) -> Result<Entry, Errno> {
        let entry = Entry(word);
        if entry.is_plain_location() && self.has(entry) {
            Ok(entry)
        } else {
            Err(EINVAL)
        }
    }

    /// Whether the entry's container is in the set and has its segment.
    fn has(&self, entry: Entry) -> bool {
        self.container(entry.container())
            .is_some_and(|c| entry.segment() < c.segments)
    }

    /// The engine's view of a set of containers; EINVAL where it cannot be this disk's.
    pub(crate) fn check_set(&self, specs: &[ContainerSpec]) -> Result<Vec<Container>, Errno> {
        let mut set: Vec<Container> = Vec::with_capacity(specs.len());
        for spec in specs {
            let write_unit = u64::from(spec.write_unit_bytes);
            let fits = spec.segment_bytes == self.segment_bytes()
                && write_unit.is_power_of_two()
                && write_unit <= spec.segment_bytes
                && spec.segments <= entry::SEGMENT_MASK
                && !set.iter().any(|other| other.number == spec.container);
            if !fits {
                return Err(EINVAL);
            }
            set.push(Container {
                number: spec.container,
                segments: spec.segments,
                write_unit,
                failed: spec.failed,
            });
        }
        set.sort_by_key(|container| container.number);
        Ok(set)
    }

    /// Whether an entry names what the set `set` has no longer.
    pub(crate) fn strands_entries(&self, set: &[Container]) -> bool {
        let kept = |old: &Container| {
            set.iter()
                .any(|new| new.number == old.number && new.segments >= old.segments)
        };
        if self.containers.iter().all(kept) {
            return false;
        }
        self.table.any(|_, entry| {
            let within =
                |c: &Container| c.number == entry.container() && entry.segment() < c.segments;
            entry.has_location() && !set.iter().any(within)
        })
    }

    /// Takes the set.
    pub(crate) fn set_containers(&mut self, set: Vec<Container>) {
        self.max_write_unit = set.iter().map(|c| c.write_unit).max().unwrap_or(1);
        self.containers = set;
    }
}

fn size_fits(size: u64, segment_bytes: u64) -> bool {
    size > 0 && size < 1 << 63 && size.div_ceil(segment_bytes) <= MAX_SEGMENTS
}
