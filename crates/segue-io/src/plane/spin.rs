//! Whether to look again before sleeping.
//!
//! At depth 1 the dearest part of an I/O may be to sleep and be woken: looking again for a short while
//! avoids it (decision 0001).  But where CPUs are short, the time is taken from the very client that
//! is waited for.  So it is tried: some turns are spent each way, and what was clearly faster is done
//! for many turns, until it is tried again.

use crate::sys::boottime_ns;

/// How long one spin lasts at most.
const SPIN_NS: u64 = 50_000;
/// Turns of each trial.
const TRIAL_TURNS: u32 = 128;
/// Turns between trials.
const HELD_TURNS: u32 = 4096;
/// A turn counts as no longer than this: a client that rests says nothing.
const TURN_NS_MAX: u64 = 200_000;

/// What the present turns are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Tried without.
    TrialAsleep,
    /// Tried with it; the other way took so long.
    TrialAwake { asleep_ns: u64 },
    /// Done as the last trials said.
    Held { awake: bool },
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Spin {
    phase: Phase,
    turns_left: u32,
    spent_ns: u64,
    last_ns: u64,
}

impl Default for Spin {
    fn default() -> Spin {
        Spin {
            phase: Phase::TrialAsleep,
            turns_left: TRIAL_TURNS,
            spent_ns: 0,
            last_ns: 0,
        }
    }
}

impl Spin {
    /// At the end of a turn that answered something: calls `look` until it finds something or the
    /// time is over; gives whether it did.
    pub(super) fn run(&mut self, mut look: impl FnMut() -> bool) -> bool {
        let now = boottime_ns();
        if !self.pays(now) {
            return false;
        }
        let end = now + SPIN_NS;
        loop {
            if look() {
                return true;
            }
            if boottime_ns() >= end {
                return false;
            }
            std::hint::spin_loop();
        }
    }

    /// Counts a turn that ended `now`; whether to look again after it.
    fn pays(&mut self, now: u64) -> bool {
        self.spent_ns += now.saturating_sub(self.last_ns).min(TURN_NS_MAX);
        self.last_ns = now;
        self.turns_left -= 1;
        if self.turns_left == 0 {
            let spent_ns = std::mem::take(&mut self.spent_ns);
            (self.phase, self.turns_left) = match self.phase {
                Phase::TrialAsleep => (
                    Phase::TrialAwake {
                        asleep_ns: spent_ns,
                    },
                    TRIAL_TURNS,
                ),
                Phase::TrialAwake { asleep_ns } => {
                    // It costs CPU: a fifth faster, or not at all.
                    let awake = spent_ns < asleep_ns / 5 * 4;
                    (Phase::Held { awake }, HELD_TURNS)
                }
                Phase::Held { .. } => (Phase::TrialAsleep, TRIAL_TURNS),
            };
        }
        matches!(
            self.phase,
            Phase::TrialAwake { .. } | Phase::Held { awake: true }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of so many ns each way, until the first trials are over; whether it spins then.
    fn held_after(asleep_ns: u64, awake_ns: u64) -> bool {
        let mut spin = Spin::default();
        let mut now = 1;
        let mut awake = false;
        for _ in 0..2 * TRIAL_TURNS {
            now += if awake { awake_ns } else { asleep_ns };
            awake = spin.pays(now);
        }
        assert!(matches!(spin.phase, Phase::Held { .. }));
        awake
    }

    #[test]
    fn what_was_faster_is_done() {
        assert!(held_after(40_000, 20_000));
        assert!(!held_after(20_000, 40_000));
    }

    #[test]
    fn what_is_hardly_faster_is_not_worth_its_cpu() {
        assert!(!held_after(20_000, 18_000));
        assert!(!held_after(3_000_000, 1_000_000), "a client that rests");
    }

    #[test]
    fn it_is_tried_again() {
        let mut spin = Spin::default();
        let mut now = 1;
        let mut awake = 0;
        for _ in 0..10 * (2 * TRIAL_TURNS + HELD_TURNS) {
            now += 30_000;
            awake += u32::from(spin.pays(now));
        }
        assert_eq!(awake, 10 * TRIAL_TURNS);
    }
}
