//! Threads for work that may block: flushes, O_DIRECT, cache misses, opening containers.
//!
//! Threads are started when work finds none idle, up to a limit, and stay. Work is begun in the
//! order it came.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// One piece of work.
pub type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    queue: VecDeque<Work>,
    threads: usize,
    idle: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    threads_max: usize,
}

/// See the module's text. Dropping it lets queued work run out on its threads.
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool without threads yet.
    #[must_use]
    pub fn new(threads_max: usize) -> Pool {
        let state = Mutex::new(State::default());
        Pool {
            shared: Arc::new(Shared {
                state,
                wake: Condvar::new(),
                threads_max,
            }),
        }
    }

    /// Queues work. It must not panic: that ends the process (nobody could answer for it).
    pub fn submit(&self, work: Work) {
        let mut state = self
            .shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.queue.push_back(work);
        if state.idle >= state.queue.len() || state.threads == self.shared.threads_max {
            self.shared.wake.notify_one();
            return;
        }
        let shared = self.shared.clone();
        let started = std::thread::Builder::new()
            .name("segue-pool".into())
            .spawn(move || crate::abort_on_panic(|| shared.run()));
        match started {
            Ok(_) => state.threads += 1,
            // With no thread at all the work would never be done, and its owner never answered.
            Err(error) => assert!(state.threads > 0, "no thread for blocking work: {error}"),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(work) = state.queue.pop_front() {
                drop(state);
                work();
                state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if state.closed {
                return;
            }
            state.idle += 1;
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}
