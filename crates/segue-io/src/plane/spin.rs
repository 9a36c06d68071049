//! Whether to look again before sleeping.
//!
//! At depth 1 the dearest part of an I/O is to sleep and be woken (decision 0001). Looking again
//! for a short while avoids it, and is paid for only while it pays: a hit earns credit, a miss
//! costs two, and without credit the next sleeps are taken at once.

use crate::sys::boottime_ns;

/// How long one spin lasts at most.
const SPIN_NS: u64 = 50_000;
const CREDIT_MAX: i32 = 8;
const MISS_COST: i32 = 2;
/// Sleeps without a spin after the credit is used up.
const REST_SLEEPS: u32 = 64;

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Spin {
    credit: i32,
    rest: u32,
}

impl Spin {
    /// Calls `look` until it finds something or the time is over; gives whether it did.
    pub(super) fn run(&mut self, mut look: impl FnMut() -> bool) -> bool {
        if self.rest > 0 {
            self.rest -= 1;
            return false;
        }
        let end = boottime_ns() + SPIN_NS;
        loop {
            if look() {
                self.credit = (self.credit + 1).min(CREDIT_MAX);
                return true;
            }
            if boottime_ns() >= end {
                break;
            }
            std::hint::spin_loop();
        }
        self.credit -= MISS_COST;
        if self.credit < 0 {
            (self.credit, self.rest) = (0, REST_SLEEPS);
        }
        false
    }
}
