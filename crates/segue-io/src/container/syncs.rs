//! Whose good news has to wait: the syncs of one container that are under way at once (promise P5).
//!
//! A sync is whatever makes durable: a flush, a FUA write. All of a process's syncs of a container
//! go to one open file description (the fence's lock rides on it: more descriptions would need more
//! locks), and **a loss is told once**: Linux tells a description of a page that it could not write
//! at the next sync of it and never again, and a device, a loop device or a virtual machine's disk
//! may well do the same with a failed cache flush, whatever the number of descriptions. So of two
//! syncs under way at once one may be told of a loss that is the other's as well, and the other ends
//! well. Who was told need not be first to say so: its thread may be taken off the CPU between the
//! kernel's answer and its own.
//!
//! **Rule.** A sync that ended well is handed over after all that had begun before it ended and
//! failed; those failures overtook it, and it has failed too. Why that is enough: let L be a loss
//! that B should have been told of, and A the sync that was. A was told of L before B asked, so A
//! began before B ended. If A has been handed over before B began, whoever began B knew of a failure
//! (the mapping engine begins no sync of such a container; `segue serve` no flush; the controller
//! marks the disks). Else A was *under way* when B began or began meanwhile, and under way means here
//! until it has been handed over: B waits for it. B waits for nothing that began after B ended, so
//! each wait ends, and good news never waits for good news, so none waits in a circle.
//!
//! **Price.** A FUA write waits for a flush that began before the write ended. What takes a flush
//! long is written back before it counts as begun ([`super::Backing::write_back`]).
//!
//! **Other descriptions** (other agents', the controller's) are each told of a page that was lost
//! while they were open, so they need no order among each other; what is closed is flushed first. A
//! loss below the file system, told once to all of a machine, reaches the operator through whoever
//! was told: the mark is the container's, for every disk on it.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};

use crate::sys::os_error;

/// Says how a sync ended; told whether a failure overtook it.
pub type HandOver = Box<dyn FnOnce(bool) + Send>;

/// One that ended well and waits.
struct Held {
    number: u64,
    /// For all below.
    until: u64,
    hand_over: HandOver,
}

#[derive(Default)]
struct State {
    /// Numbers of begun syncs: the next one.
    next: u64,
    /// Begun, and neither ended well nor handed over.
    under_way: BTreeSet<u64>,
    /// In the order they ended, so of rising `until`.
    held: VecDeque<Held>,
    /// What had begun before the last failure was handed over: all numbers below.
    overtaken: u64,
}

/// See the module's text.
#[derive(Default)]
pub struct Syncs {
    state: Mutex<State>,
}

impl std::fmt::Debug for Syncs {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Syncs")
    }
}

impl Syncs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sync is about to begin; its number is given back by `end`.
    pub fn begin(&self) -> u64 {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.under_way.insert(number);
        number
    }

    /// A sync has ended: hands it over, now or, after good news, by the thread that ends the last
    /// one it has to wait for.
    pub fn end(&self, number: u64, failed: bool, hand_over: HandOver) {
        let mut good_news = Some(hand_over);
        if failed {
            good_news.take().expect("there is one")(false);
        }
        let mut state = self.state();
        state.under_way.remove(&number);
        let until = state.next;
        match good_news {
            None => state.overtaken = until,
            Some(hand_over) => state.held.push_back(Held {
                number,
                until,
                hand_over,
            }),
        }
        let (free, overtaken) = (state.free(), state.overtaken);
        drop(state);
        for held in free {
            (held.hand_over)(held.number < overtaken);
        }
    }

    /// Carries out a sync and waits for its turn, for callers with a thread to spend.
    ///
    /// # Errors
    /// The sync's own; EIO if a failure overtook it.
    pub fn in_order(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let begun = Begun {
            syncs: self,
            number: self.begin(),
            failed: true,
            heard: None,
        };
        sync()?;
        match begun.ended_well() {
            false => Ok(()),
            true => Err(os_error(libc::EIO)),
        }
    }
}

impl State {
    /// Takes those that need not wait any longer.
    fn free(&mut self) -> Vec<Held> {
        let oldest = self.under_way.first().copied().unwrap_or(u64::MAX);
        let count = self
            .held
            .iter()
            .take_while(|held| held.until <= oldest)
            .count();
        self.held.drain(..count).collect()
    }
}

/// A sync of `in_order`: ends with its thread's interest in it, even by a panic.
struct Begun<'a> {
    syncs: &'a Syncs,
    number: u64,
    failed: bool,
    heard: Option<mpsc::Sender<bool>>,
}

impl Begun<'_> {
    /// Waits for its turn; whether a failure overtook it.
    fn ended_well(mut self) -> bool {
        let (heard, hear) = mpsc::channel();
        self.failed = false;
        self.heard = Some(heard);
        drop(self);
        hear.recv().expect("every sync is handed over")
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        let heard = self.heard.take();
        let hand_over = Box::new(move |overtaken| {
            if let Some(heard) = heard {
                // The receiver waits in `ended_well`.
                let _ = heard.send(overtaken);
            }
        });
        self.syncs.end(self.number, self.failed, hand_over);
    }
}

#[cfg(test)]
#[path = "syncs_tests.rs"]
mod tests;
