//! The requests in flight, by cookie, and which bytes of a read have been announced.

use alloc::vec::Vec;

use super::{Failure, Request};

/// Most separate runs of announced bytes, and most errors with offsets, in one reply: bounds
/// what a server can make the client hold.
pub(super) const PIECES_MAX: usize = 4096;

/// One request in flight.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) coverage: Coverage,
    /// Content chunks so far; only the first two matter.
    pub(super) content_chunks: u32,
    pub(super) has_extents: bool,
    pub(super) failure: Option<Failure>,
    /// Where errors were told, from the request's offset.
    pub(super) error_offsets: Vec<u32>,
}

/// A slab of pending requests. A cookie is the slot's number (low 32 bits) and how often the
/// slot has been used (high 32 bits): a late reply to an old request finds nothing.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    slots: Vec<Slot>,
    free: Vec<u32>,
    count: usize,
}

#[derive(Debug)]
struct Slot {
    uses: u32,
    pending: Option<Pending>,
}

impl InFlight {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn insert(&mut self, request: Request) -> u64 {
        let number = self.free.pop().unwrap_or_else(|| {
            let number = u32::try_from(self.slots.len()).expect("fewer than 2^32 requests");
            self.slots.push(Slot {
                uses: 0,
                pending: None,
            });
            number
        });
        let slot = &mut self.slots[number as usize];
        slot.uses = slot.uses.wrapping_add(1);
        slot.pending = Some(Pending {
            request,
            coverage: Coverage::default(),
            content_chunks: 0,
            has_extents: false,
            failure: None,
            error_offsets: Vec::new(),
        });
        self.count += 1;
        u64::from(slot.uses) << 32 | u64::from(number)
    }

    pub(super) fn get_mut(&mut self, cookie: u64) -> Option<&mut Pending> {
        let slot = self.slots.get_mut(cookie as u32 as usize)?;
        if u64::from(slot.uses) == cookie >> 32 {
            slot.pending.as_mut()
        } else {
            None
        }
    }

    pub(super) fn remove(&mut self, cookie: u64) -> Option<Pending> {
        self.get_mut(cookie)?;
        let number = cookie as u32;
        let pending = self.slots[number as usize].pending.take();
        self.free.push(number);
        self.count -= 1;
        pending
    }
}

/// Which bytes of a read have been announced: a prefix, and runs beyond it (rare: only when
/// chunks come out of order), ascending, apart from each other and from the prefix.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    prefix: u32,
    runs: Vec<(u32, u32)>,
}

/// Why a run cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CoverageError {
    Overlap,
    TooManyRuns,
}

impl Coverage {
    /// Adds the bytes from `start` up to `end`, not included.
    pub(super) fn add(&mut self, start: u32, end: u32) -> Result<(), CoverageError> {
        let at = self.runs.partition_point(|run| run.0 < start);
        let before_end = if at == 0 {
            self.prefix
        } else {
            self.runs[at - 1].1
        };
        let after_start = self.runs.get(at).map_or(u32::MAX, |run| run.0);
        if start < before_end || end > after_start {
            return Err(CoverageError::Overlap);
        }
        if start == before_end && at > 0 {
            self.runs[at - 1].1 = end;
            self.join(at - 1);
        } else if start == before_end {
            self.prefix = end;
            if after_start == end && !self.runs.is_empty() {
                self.prefix = self.runs.remove(0).1;
            }
        } else if self.runs.len() == PIECES_MAX {
            return Err(CoverageError::TooManyRuns);
        } else {
            self.runs.insert(at, (start, end));
            self.join(at);
        }
        Ok(())
    }

    /// Joins the run at `index` with the next, if they touch.
    fn join(&mut self, index: usize) {
        if self
            .runs
            .get(index + 1)
            .is_some_and(|next| next.0 == self.runs[index].1)
        {
            self.runs[index].1 = self.runs.remove(index + 1).1;
        }
    }

    /// Whether exactly the bytes from 0 up to `length` were added.
    pub(super) fn is_complete(&self, length: u32) -> bool {
        self.prefix == length && self.runs.is_empty()
    }
}

#[cfg(test)]
#[path = "in_flight_tests.rs"]
mod tests;
