//! How long host I/O took, by disk, operation and cause: log-linear histograms.
//!
//! A time is counted in one of 16 buckets for each power of two of nanoseconds, so a bucket is at
//! most 6 % wide; times under 16 ns have a bucket each, times over 18 minutes share the last.
//! Counting takes one shift and three additions in memory of the data thread's own; a histogram is
//! allocated when the first I/O of its kind is answered. The clock is not read for it: an I/O begins
//! when it is given to the engine and ends with the engine's last call.
//!
//! Counts only grow, so who wants those of an interval subtracts. They outlive the disk's table
//! (hosts come and go), for the last `KEPT` disks that have none.

use segue_map::{CAUSES, Cause};
use segue_nbd::server::Command;

use super::tokens::HostIo;

/// Buckets to an octave, as a power of two.
const SUB_BITS: u32 = 4;
const SUB: u64 = 1 << SUB_BITS;
/// The last octave: 2^39 ns to 18 minutes.
const TOP_BITS: u32 = 40;
/// How many buckets there are.
pub const BUCKETS: usize = ((TOP_BITS - SUB_BITS + 1) << SUB_BITS) as usize;
/// Operations told apart: read, write, write-zeroes, trim, flush.
const OPERATIONS: usize = 5;

/// Disks without a table whose histograms are kept.
const KEPT: usize = 64;

/// The bucket of a time.
#[inline]
#[must_use]
pub fn bucket_of(ns: u64) -> usize {
    let ns = ns.min((1 << TOP_BITS) - 1);
    let shift = (63 - (ns | SUB).leading_zeros()) - SUB_BITS;
    // The leading bit counts one octave more, so `shift` octaves lie below.
    ((u64::from(shift) << SUB_BITS) + (ns >> shift)) as usize
}

/// The shortest time of a bucket, ns; of one beyond the last: where that ends.
#[must_use]
pub fn bucket_floor_ns(bucket: usize) -> u64 {
    let (octave, sub) = (bucket as u64 >> SUB_BITS, bucket as u64 & (SUB - 1));
    match octave {
        0 => sub,
        octave => (SUB + sub) << (octave - 1),
    }
}

#[derive(Debug)]
struct Histogram {
    counts: [u64; BUCKETS],
    sum_ns: u64,
    max_ns: u64,
}

/// One histogram, for whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyRow {
    /// 1 read, 2 write, 3 write-zeroes, 4 trim, 5 flush.
    pub operation: u8,
    /// A [`Cause`].
    pub cause: u8,
    /// All times together, ns.
    pub sum_ns: u64,
    /// The longest, ns.
    pub max_ns: u64,
    /// (bucket, count) of those that are not empty, ascending.
    pub buckets: Vec<(u32, u64)>,
}

/// The histograms of one disk.
type OfDisk = [Option<Box<Histogram>>; OPERATIONS * CAUSES];

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// By disk, ascending.
    disks: Vec<(u32, Box<OfDisk>)>,
    /// Those without a table, the longest without one first: `KEPT` of them at most.
    closed: Vec<u32>,
    /// The place counted at last.
    last: usize,
}

/// The operation's place; `None` for what is not measured (status, cache).
#[inline]
fn operation_of(command: Command) -> Option<usize> {
    Some(match command {
        Command::Read => 0,
        Command::Write => 1,
        Command::WriteZeroes => 2,
        Command::Trim => 3,
        Command::Flush => 4,
        Command::BlockStatus | Command::Cache => return None,
    })
}

impl Latencies {
    /// The disk has a table: its I/O is counted from now on.
    pub(super) fn begin(&mut self, disk: u32) {
        if let Err(at) = self.disks.binary_search_by_key(&disk, |(id, _)| *id) {
            let empty = Box::new([const { None }; OPERATIONS * CAUSES]);
            self.disks.insert(at, (disk, empty));
        }
        self.closed.retain(|id| *id != disk);
    }

    /// Counts a host I/O whose answer the engine has just given, if the disk has, or had, a table.
    #[inline]
    pub(super) fn count(&mut self, io: &HostIo, took_ns: u64) {
        self.add(io.disk, io.request.command, io.cause, took_ns);
    }

    #[inline]
    fn add(&mut self, disk: u32, command: Command, cause: Cause, took_ns: u64) {
        let Some(operation) = operation_of(command) else {
            return;
        };
        if self.disks.get(self.last).is_none_or(|(id, _)| *id != disk) {
            self.find(disk);
        }
        let Some((_, places)) = self.disks.get_mut(self.last).filter(|(id, _)| *id == disk) else {
            return;
        };
        let place = &mut places[operation * CAUSES + cause as usize];
        let histogram = match place {
            Some(histogram) => histogram,
            None => place.insert(new_histogram()),
        };
        histogram.counts[bucket_of(took_ns)] += 1;
        histogram.sum_ns = histogram.sum_ns.wrapping_add(took_ns);
        histogram.max_ns = histogram.max_ns.max(took_ns);
    }

    /// Remembers the disk's place: hosts of one disk come in bursts.
    #[cold]
    fn find(&mut self, disk: u32) {
        let found = self.disks.binary_search_by_key(&disk, |(id, _)| *id);
        self.last = found.unwrap_or(usize::MAX);
    }

    /// The disk's table is gone: what was counted is kept, for so many disks.
    pub(super) fn end(&mut self, disk: u32) {
        self.closed.push(disk);
        if self.closed.len() > KEPT {
            let oldest = self.closed.remove(0);
            self.disks.retain(|(id, _)| *id != oldest);
        }
    }

    /// All that was counted for the disk.
    pub(super) fn rows(&self, disk: u32) -> Vec<LatencyRow> {
        let of_disk = self.disks.iter().find(|(id, _)| *id == disk);
        let places = of_disk.iter().flat_map(|(_, places)| places.iter());
        let filled = places
            .enumerate()
            .filter_map(|(place, histogram)| Some((place, histogram.as_deref()?)));
        filled
            .map(|(place, histogram)| row(place, histogram))
            .collect()
    }
}

#[cold]
fn new_histogram() -> Box<Histogram> {
    Box::new(Histogram {
        counts: [0; BUCKETS],
        sum_ns: 0,
        max_ns: 0,
    })
}

fn row(place: usize, histogram: &Histogram) -> LatencyRow {
    let filled = (0_u32..)
        .zip(histogram.counts)
        .filter(|(_, count)| *count > 0);
    LatencyRow {
        operation: (place / CAUSES + 1) as u8,
        cause: (place % CAUSES) as u8,
        sum_ns: histogram.sum_ns,
        max_ns: histogram.max_ns,
        buckets: filled.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_its_bucket_and_a_bucket_is_narrow() {
        let mut ns = 0_u64;
        while ns < 1 << TOP_BITS {
            let bucket = bucket_of(ns);
            let (floor, end) = (bucket_floor_ns(bucket), bucket_floor_ns(bucket + 1));
            assert!(floor <= ns && ns < end, "{ns} in {floor}..{end}");
            assert!((end - floor) * SUB <= floor.max(SUB), "{floor}..{end}");
            ns += 1 + ns / 37;
        }
        assert_eq!(bucket_of((1 << TOP_BITS) - 1), BUCKETS - 1);
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn buckets_follow_each_other() {
        for bucket in 0..BUCKETS {
            let floor = bucket_floor_ns(bucket);
            assert_eq!(bucket_of(floor), bucket);
            assert!(floor < bucket_floor_ns(bucket + 1));
        }
    }

    #[test]
    fn rows_are_of_one_disk_that_has_a_table() {
        let mut latencies = Latencies::default();
        latencies.begin(9);
        latencies.begin(3);
        latencies.add(9, Command::Read, Cause::Clean, 1000);
        latencies.add(9, Command::Read, Cause::Clean, 3000);
        latencies.add(9, Command::Write, Cause::DoWrite, 5);
        latencies.add(9, Command::BlockStatus, Cause::Clean, 5);
        latencies.add(3, Command::Flush, Cause::Clean, 7);
        let rows = latencies.rows(9);
        assert_eq!(rows.len(), 2);
        let read = &rows[0];
        assert_eq!((read.operation, read.cause), (1, 0));
        assert_eq!((read.sum_ns, read.max_ns), (4000, 3000));
        let expected = [1000, 3000].map(|ns| (bucket_of(ns) as u32, 1));
        assert_eq!(read.buckets, expected);
        assert_eq!((rows[1].operation, rows[1].cause), (2, 4));
        latencies.add(4, Command::Flush, Cause::Clean, 7);
        assert!(latencies.rows(4).is_empty(), "it has no table");
    }

    #[test]
    fn what_was_counted_outlives_the_table_for_so_many_disks() {
        let mut latencies = Latencies::default();
        for disk in 1..=KEPT as u32 + 2 {
            latencies.begin(disk);
            latencies.add(disk, Command::Read, Cause::Clean, 1000);
            latencies.end(disk);
            latencies.begin(1);
            latencies.end(1);
        }
        assert!(latencies.rows(2).is_empty() && latencies.rows(3).is_empty());
        assert_eq!(latencies.rows(1)[0].buckets[0].1, 1);
        assert_eq!(latencies.rows(4)[0].buckets[0].1, 1);
    }
}
