//! Places for connections: how many there may be, and how long a handshake may take (promise P9).
//!
//! Every connection takes a place before anything of it is read, and keeps it until nothing of it
//! is held any more. When all are taken, more connections are closed at once. A handshake whose
//! client takes too long is ended: its socket is shut, whatever its thread waits for there.
//!
//! An eighth of the places is never served an export over. They are for who comes to end another's
//! sessions: clients that hold all they can get must not keep a revocation out.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segue_nbd::server::{Refusal, RefusalKind};

use crate::Seldom;
use crate::client::Stream;
use crate::handshakes::{HANDSHAKE_NS, Handshakes, Turn};
use crate::sys::boottime_ns;

/// What clients may take of a server; what goes beyond is closed or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a client may take from connecting until the export is agreed on, in ns.
    pub handshake_ns: u64,
    /// Connections at once, those in their handshake among them.
    pub connections_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // Each connection has a thread or two and up to 96 MiB. An agent makes four, as the
        // controller does: these do for fifty agents.
        Limits {
            handshake_ns: HANDSHAKE_NS,
            connections_max: 256,
        }
    }
}

impl Limits {
    fn served_max(&self) -> usize {
        (self.connections_max - self.connections_max / 8) as usize
    }
}

#[derive(Debug)]
struct Place {
    turn: Turn,
    peer: String,
    socket: Arc<Stream>,
}

#[derive(Debug)]
struct State {
    last: u64,
    taken: HashMap<u64, Place>,
    handshakes: Handshakes,
    /// Lines about those that were turned away.
    told: Seldom,
    /// No more will come.
    is_over: bool,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Places {
    limits: Limits,
    state: Mutex<State>,
    /// The first time that ends is another one, or there will be none.
    changed: Condvar,
}

impl Places {
    /// All free, and a thread that ends handshakes.
    pub(super) fn new(limits: Limits) -> io::Result<Arc<Places>> {
        let state = State {
            last: 0,
            taken: HashMap::new(),
            handshakes: Handshakes::new(limits.handshake_ns),
            told: Seldom::default(),
            is_over: false,
        };
        let places = Arc::new(Places {
            limits,
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let watched = places.clone();
        std::thread::Builder::new()
            .name("segue-deadlines".into())
            .spawn(move || crate::abort_on_panic(|| watched.watch()))?;
        Ok(places)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has come; gives its number, `None` if all places are taken.
    pub(super) fn take(&self, socket: Arc<Stream>, peer: String) -> Option<u64> {
        let mut state = self.lock();
        let max = self.limits.connections_max;
        if state.taken.len() >= max as usize {
            state.told.log(format_args!(
                "serve: {peer}: there are {max} connections already, as many as there may be; \
                 it is closed"
            ));
            return None;
        }
        state.last += 1;
        let number = state.last;
        let turn = state.handshakes.begin(number as usize, boottime_ns());
        let place = Place { turn, peer, socket };
        state.taken.insert(number, place);
        self.changed.notify_one();
        Some(number)
    }

    /// It has gone, and holds nothing any more.
    pub(super) fn leave(&self, number: u64) {
        let mut state = self.lock();
        if let Some(place) = state.taken.remove(&number) {
            state.handshakes.gone(number as usize, place.turn);
        }
    }

    /// What the server does for a handshake is not the client's time.
    pub(super) fn at_our_cost<T>(&self, number: u64, work: impl FnOnce() -> T) -> T {
        self.lock().asks(number);
        let done = work();
        self.lock().answered(number, false);
        self.changed.notify_one();
        done
    }

    /// The export is to be served over this connection: its handshake is over, or it is refused.
    pub(super) fn serve(&self, number: u64) -> Result<(), Refusal> {
        let mut state = self.lock();
        let max = self.limits.served_max();
        if state.handshakes.served() >= max {
            let message = format!("{max} connections are served already, as many as may be");
            state
                .told
                .log(format_args!("serve: connection {number}: {message}"));
            return Err(Refusal {
                kind: RefusalKind::Policy,
                message,
            });
        }
        state.asks(number);
        state.answered(number, true);
        Ok(())
    }

    /// No more will come; handshakes under way still have their time.
    pub(super) fn close(&self) {
        self.lock().is_over = true;
        self.changed.notify_one();
    }

    /// Ends handshakes that take too long.
    fn watch(&self) {
        let mut state = self.lock();
        loop {
            let now_ns = boottime_ns();
            while let Some(index) = state.handshakes.overdue(now_ns) {
                state.end_handshake(index as u64);
            }
            state = match state.handshakes.first_due_ns() {
                None if state.is_over => return,
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(due_ns) => {
                    let left = Duration::from_nanos(due_ns.saturating_sub(now_ns));
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl State {
    fn asks(&mut self, number: u64) {
        if let Some(place) = self.taken.get_mut(&number) {
            let (index, now_ns) = (number as usize, boottime_ns());
            place.turn = self.handshakes.asks(index, place.turn, now_ns);
        }
    }

    fn answered(&mut self, number: u64, over: bool) {
        if let Some(place) = self.taken.get_mut(&number) {
            let (index, now_ns) = (number as usize, boottime_ns());
            place.turn = self.handshakes.answered(index, place.turn, over, now_ns);
        }
    }

    /// Its place stays taken until its thread has found out.
    fn end_handshake(&mut self, number: u64) {
        let Some(place) = self.taken.get_mut(&number) else {
            return;
        };
        let turn = std::mem::take(&mut place.turn);
        self.handshakes.gone(number as usize, turn);
        crate::log(format_args!(
            "serve: {}: its handshake is not over, and it has taken {} s for it; its connection \
             is closed",
            place.peer,
            self.handshakes.limit_s()
        ));
        place.socket.shutdown(Shutdown::Both);
    }
}
