//! The volatile table of one disk: segment -> entry, in pages, under table-wide states.
//!
//! The table-wide states (invalid, `no_write`) are generations: raising one costs O(1), and every
//! page remembers which it has taken in.  Whatever changes a page takes the pending states into it
//! first, then writes its entry: what was sent later wins.  They are never cleared.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use crate::entry::Entry;

/// Entries of a page.
pub const PAGE_ENTRIES: u64 = 4096;
const PAGE_SHIFT: u32 = PAGE_ENTRIES.trailing_zeros();

/// Which table-wide states have been raised how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Generations {
    invalid: u32,
    no_write: u32,
}

/// A page.  What it has taken in lies beside the pointer, not with the words: a lookup costs one
/// miss of the cache, not two.
#[derive(Debug)]
struct Page {
    taken: Generations,
    /// `None`: all invalid.
    words: Option<Box<[u64; PAGE_ENTRIES as usize]>>,
}

impl Page {
    const ABSENT: Page = Page {
        taken: Generations {
            invalid: 0,
            no_write: 0,
        },
        words: None,
    };

    /// Its words, to be changed: takes in first what is pending, ORing the table-wide states into
    /// every entry.
    fn taken_in(&mut self, table: Generations) -> Option<&mut [u64; PAGE_ENTRIES as usize]> {
        let words = self.words.as_deref_mut()?;
        if self.taken.invalid != table.invalid {
            words.fill(0);
        } else if self.taken.no_write != table.no_write {
            for word in words.iter_mut() {
                *word = Entry(*word).with_states(crate::entry::STATE_NO_WRITE).0;
            }
        }
        self.taken = table;
        Some(words)
    }

    /// Gives it words if it has none.
    fn fill_in(&mut self, table: Generations) {
        if self.words.is_none() {
            self.taken = table;
            self.words = Some(Box::new([0; PAGE_ENTRIES as usize]));
        }
    }
}

/// The table of one disk.  A page nobody has written an entry to takes no memory.
#[derive(Debug)]
pub struct Table {
    pages: Vec<Page>,
    segments: u64,
    generations: Generations,
}

impl Table {
    /// A table of `segments` invalid entries.
    #[must_use]
    pub fn new(segments: u64) -> Table {
        let mut table = Table {
            pages: Vec::new(),
            segments: 0,
            generations: Generations {
                invalid: 0,
                no_write: 0,
            },
        };
        table.resize(segments);
        table
    }

    /// Number of entries.
    #[must_use]
    pub fn segments(&self) -> u64 {
        self.segments
    }

    /// The entry of `segment`, table-wide states taken in.
    #[inline]
    #[must_use]
    pub fn get(&self, segment: u64) -> Entry {
        assert!(
            segment < self.segments,
            "segment {segment} of {}",
            self.segments
        );
        let page = &self.pages[(segment >> PAGE_SHIFT) as usize];
        let Some(words) = &page.words else {
            return Entry::INVALID;
        };
        if page.taken.invalid != self.generations.invalid {
            return Entry::INVALID;
        }
        let entry = Entry(words[(segment % PAGE_ENTRIES) as usize]);
        if page.taken.no_write != self.generations.no_write {
            return entry.with_states(crate::entry::STATE_NO_WRITE);
        }
        entry
    }

    /// Replaces `count` entries: entry i becomes `word + i * step`.
    pub fn set_run(&mut self, first: u64, count: u64, word: u64, step: u64) {
        self.assert_within(first, count);
        let generations = self.generations;
        for (index, within) in pages_of(first, count) {
            let page = &mut self.pages[index];
            let clears = word == 0 && step == 0;
            if clears && (page.words.is_none() || within.len() as u64 == PAGE_ENTRIES) {
                page.words = None;
                continue;
            }
            page.fill_in(generations);
            let words = page.taken_in(generations).expect("just filled in");
            let done = index as u64 * PAGE_ENTRIES + within.start as u64 - first;
            for (i, place) in words[within].iter_mut().enumerate() {
                *place = word + (done + i as u64) * step;
            }
        }
    }

    /// Sets the states `flags` (`STATE_*`) of `count` entries.
    pub fn set_states(&mut self, first: u64, count: u64, flags: u8) {
        self.change(first, count, |entry| entry.with_states(flags));
    }

    /// Clears the `no_write` state of `count` entries.
    pub fn clear_no_write(&mut self, first: u64, count: u64) {
        self.change(first, count, Entry::without_no_write);
    }

    /// Makes every entry invalid, in O(1).
    pub fn invalidate_all(&mut self) {
        self.generations.invalid += 1;
    }

    /// Sets `no_write` in every entry, in O(1).
    pub fn forbid_writes(&mut self) {
        self.generations.no_write += 1;
    }

    /// Changes the number of entries: those beyond are gone, new ones invalid.
    pub fn resize(&mut self, segments: u64) {
        if segments < self.segments {
            // The rest of the last page may come back by growing: it must be invalid then.
            let end = (segments.next_multiple_of(PAGE_ENTRIES)).min(self.segments);
            self.set_run(segments, end - segments, 0, 0);
        }
        self.pages
            .resize_with(segments.div_ceil(PAGE_ENTRIES) as usize, || Page::ABSENT);
        self.segments = segments;
    }

    /// Calls `look` with every (segment, entry) that is not invalid, ascending, until it says true.
    pub fn any(&self, mut look: impl FnMut(u64, Entry) -> bool) -> bool {
        for (index, page) in self.pages.iter().enumerate() {
            if page.words.is_none() {
                continue;
            }
            let first = index as u64 * PAGE_ENTRIES;
            for segment in first..(first + PAGE_ENTRIES).min(self.segments) {
                let entry = self.get(segment);
                if entry.is_valid() && look(segment, entry) {
                    return true;
                }
            }
        }
        false
    }

    /// Pages that take memory.
    #[must_use]
    pub fn pages_in_memory(&self) -> usize {
        self.pages
            .iter()
            .filter(|page| page.words.is_some())
            .count()
    }

    fn change(&mut self, first: u64, count: u64, change: impl Fn(Entry) -> Entry) {
        self.assert_within(first, count);
        let generations = self.generations;
        for (index, within) in pages_of(first, count) {
            // An absent page is all invalid, and stays so whatever state is set or cleared.
            let Some(words) = self.pages[index].taken_in(generations) else {
                continue;
            };
            for word in &mut words[within] {
                *word = change(Entry(*word)).0;
            }
        }
    }

    fn assert_within(&self, first: u64, count: u64) {
        let end = first.checked_add(count).expect("callers check runs");
        assert!(
            end <= self.segments,
            "run {first}+{count} of {}",
            self.segments
        );
    }

    /// Asserts what must hold between calls.
    pub(crate) fn self_check(&self) {
        assert_eq!(
            self.pages.len() as u64,
            self.segments.div_ceil(PAGE_ENTRIES)
        );
        for (index, page) in self.pages.iter().enumerate() {
            let Some(words) = &page.words else { continue };
            assert!(page.taken.invalid <= self.generations.invalid);
            assert!(page.taken.no_write <= self.generations.no_write);
            let beyond = self.segments.saturating_sub(index as u64 * PAGE_ENTRIES);
            let beyond = beyond.min(PAGE_ENTRIES) as usize;
            assert!(
                words[beyond..].iter().all(|word| *word == 0),
                "entries beyond the end"
            );
            let broken = |word: &&u64| **word != 0 && !Entry(**word).is_valid();
            assert_eq!(words.iter().find(broken), None, "neither 0 nor valid");
        }
    }
}

/// The pages of a run: (index of the page, range of entries within it).
fn pages_of(first: u64, count: u64) -> impl Iterator<Item = (usize, Range<usize>)> {
    let end = first + count;
    let pages = if count == 0 {
        0..0
    } else {
        first >> PAGE_SHIFT..end.div_ceil(PAGE_ENTRIES)
    };
    pages.map(move |page| {
        let start = page << PAGE_SHIFT;
        let within = first.max(start) - start..end.min(start + PAGE_ENTRIES) - start;
        (page as usize, within.start as usize..within.end as usize)
    })
}
