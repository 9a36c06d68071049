//! The way to the thread that does a container's I/O: jobs are handed in, and their waiters hear of
//! their ends.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::address::{Address, Policy};
use super::driver::{Driver, Start};
use super::limits::Limits;
use super::link::JOIN_NS;
use super::work::Job;
use crate::container::header::Identity;
use crate::sys::{EventFd, boottime_ns};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whose header is expected: container and installation (`None`: any).
pub(super) type Expected = (Identity, Option<Identity>);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Message {
    Job(Box<Job>),
    GiveBack,
    Recall,
    Expect(Expected),
    Policy(Policy),
    Stop,
}

/// What the thread and its port both see.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) inbox: Mutex<Vec<Message>>,
    pub(super) wake: EventFd,
    pub(super) limits: Mutex<Option<Limits>>,
    /// CLOCK_BOOTTIME when the last connection was lost; 0: there is one.
    pub(super) away_since_ns: AtomicU64,
}

impl Shared {
    /// Of a container whose server is away.
    pub(super) fn new() -> io::Result<Arc<Shared>> {
        Ok(Arc::new(Shared {
            inbox: Mutex::default(),
            wake: EventFd::new()?,
            limits: Mutex::default(),
            away_since_ns: AtomicU64::new(boottime_ns()),
        }))
    }

    fn push(&self, message: Message) {
        let mut inbox = lock(&self.inbox);
        inbox.push(message);
        if inbox.len() == 1 {
            self.wake.signal();
        }
    }
}

/// The way to a container's thread. Dropping it closes all connections; nothing may be under way.
#[derive(Debug)]
pub struct Port {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Port {
    /// Connects, and learns what the server offers. `holder`: whom the connections act for at a
    /// server with a fence; 0: nobody (to look, or to make a container).
    ///
    /// # Errors
    /// Those of connecting; TimedOut; InvalidData for a server that breaks the protocol;
    /// Unsupported for an export that cannot be a container, saying why.
    pub fn open(address: Address, holder: u64) -> io::Result<Port> {
        let (opened, first) = mpsc::channel();
        let port = Port::start(address, holder, Start::Asked(opened))?;
        match first.recv_timeout(Duration::from_nanos(2 * JOIN_NS)) {
            Ok(Ok(())) => Ok(port),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// A port of a container whose server is away: it is waited for like one that was there before.
    ///
    /// Until it is there, no more is made use of than `presumed`, and the header is to be that of
    /// `expected`.
    ///
    /// # Errors
    /// Those of starting a thread.
    pub(super) fn open_away(
        address: Address,
        holder: u64,
        presumed: Limits,
        expected: Expected,
    ) -> io::Result<Port> {
        Port::start(address, holder, Start::Away(presumed, expected))
    }

    fn start(address: Address, holder: u64, start: Start) -> io::Result<Port> {
        let shared = Shared::new()?;
        let driver = Driver::new(shared.clone(), address, holder, start)?;
        let thread = std::thread::Builder::new()
            .name("segue-nbd".into())
            .spawn(move || crate::abort_on_panic(|| driver.run()))?;
        Ok(Port {
            shared,
            thread: Some(thread),
        })
    }

    /// What the server offers, as far as is made use of.
    ///
    /// # Panics
    /// Never: an open port knows.
    pub fn limits(&self) -> Limits {
        lock(&self.shared.limits).expect("an open port has limits")
    }

    /// Hands a job in; its waiter hears of the end.
    pub fn submit(&self, job: Job) {
        self.shared.push(Message::Job(Box::new(job)));
    }

    /// Ends with `NotBegun` what nothing is under way of: the table it was decided by may be older
    /// than what is to come. The rest like [`Port::recall`].
    pub fn give_back(&self) {
        self.shared.push(Message::GiveBack);
    }

    /// Ends with `NotBegun` what is under way now and loses its connection before it has ended, when
    /// that has provably no effect any more.
    pub fn recall(&self) {
        self.shared.push(Message::Recall);
    }

    /// From now on a connection is used only if that container's header is found there.
    pub fn expect(&self, container: Identity, installation: Option<Identity>) {
        self.shared.push(Message::Expect((container, installation)));
    }

    /// Changes what the operator has set; the number of connections stays.
    pub fn set_policy(&self, policy: Policy) {
        self.shared.push(Message::Policy(policy));
    }

    /// How long there has been no connection, in ns.
    pub fn away_ns(&self) -> Option<u64> {
        match self.shared.away_since_ns.load(Ordering::Acquire) {
            0 => None,
            since => Some(boottime_ns().saturating_sub(since).max(1)),
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shared.push(Message::Stop);
        if let Some(thread) = self.thread.take() {
            // The last reference may be given up by what this very thread has finished.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}
