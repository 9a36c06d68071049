//! The data plane of one agent: a data thread that serves hosts over NBD.
//!
//! ```text
//! hosts  <-- sockets -->  connections  --requests-->  executor (mapping engine)
//!                                      <--answers---      |  in place, pool
//! agent  <-- mailbox -->  commands  --control-->          v
//!                                   <--events---     containers
//! ```
//!
//! [`Plane`] is what the agent holds: all its methods return at once.

mod commands;
mod connection;
mod connections;
mod executor;
mod hands;
mod latency;
mod limits;
mod listener;
mod mailbox;
mod negotiation;
mod opening;
mod remote;
mod ring;
mod spin;
mod stats;
mod task;
mod thread;
mod tokens;
mod trace;

use std::io;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use segue_map::{Config, Control};

pub use latency::{BUCKETS, LatencyRow, bucket_floor_ns, bucket_of};
pub use limits::HostLimits;
use listener::Listener;
pub use mailbox::{Export, PlaneEvent};
use mailbox::{Inbox, Message, Outbox};
pub use stats::Stats;
use thread::DataThread;
pub use trace::IoTrace;

/// See the module's text. Dropping it stops the data thread at once.
#[derive(Debug)]
pub struct Plane {
    inbox: Arc<Inbox>,
    outbox: Arc<Outbox>,
    stats: Arc<Stats>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Plane {
    /// Starts the data thread of an agent; `incarnation` (61 bits) is also its fence.
    ///
    /// A panic in the data thread ends the process: the incarnation is then gone, cleanly.
    ///
    /// # Errors
    /// Those of making descriptors and threads.
    pub fn new(incarnation: u64, config: Config, limits: HostLimits) -> io::Result<Plane> {
        let inbox = Arc::new(Inbox::new()?);
        let outbox = Arc::new(Outbox::new()?);
        let stats = Arc::new(Stats::default());
        let made = (inbox.clone(), outbox.clone(), stats.clone());
        let data = DataThread::new(incarnation, (config, limits), made.0, made.1, made.2)?;
        let thread = std::thread::Builder::new()
            .name("segue-data".into())
            .spawn(move || crate::abort_on_panic(|| data.run()))?;
        Ok(Plane {
            inbox,
            outbox,
            stats,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Readable while [`Plane::events`] has something.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.outbox.fd()
    }

    /// Takes all events so far, in order.
    #[must_use]
    pub fn events(&self) -> Vec<PlaneEvent> {
        self.outbox.take()
    }

    /// A command or an answer to a fault, for the mapping engine.
    ///
    /// Containers it names are opened first, and their fence taken; if that fails, its answer is
    /// FAILED with the errno.
    pub fn deliver(&self, control: Control) {
        self.inbox.push(Message::Control(control));
    }

    /// There is a lease until then, ns of CLOCK_BOOTTIME.
    pub fn set_lease(&self, until_ns: u64) {
        self.inbox.push(Message::SetLease(until_ns));
    }

    /// The controller has counted this agent as lost.
    pub fn end_lease(&self) {
        self.inbox.push(Message::EndLease);
    }

    /// A new session begins: asks for the event `Faults`. Commands delivered before that are not
    /// applied by then never will be.
    pub fn list_faults(&self) {
        self.inbox.push(Message::ListFaults);
    }

    /// Asks for the event `Latency`: how long the host I/O of a disk took.
    pub fn ask_latency(&self, request: u64, disk: u32) {
        self.inbox.push(Message::AskLatency(request, disk));
    }

    /// From now on events tell of each host I/O that faults, and how it ended.
    pub fn trace_io(&self) {
        self.inbox.push(Message::TraceIo);
    }

    /// Answers `WantExport`; `Err` is an errno, not 0.
    pub fn export_answer(&self, token: u64, answer: Result<Export, i32>) {
        self.inbox.push(Message::ExportAnswer(token, answer));
    }

    /// Answers `WantList`.
    pub fn list_answer(&self, token: u64, names: Vec<String>) {
        self.inbox.push(Message::ListAnswer(token, names));
    }

    /// Serves hosts on a unix socket.
    ///
    /// # Errors
    /// Those of bind(2): AddrInUse if somebody serves there.
    pub fn listen_unix(&self, path: &Path) -> io::Result<()> {
        self.inbox.push(Message::Listen(Listener::unix(path)?));
        Ok(())
    }

    /// Serves hosts on a TCP port (0: any); gives the port.
    ///
    /// # Errors
    /// Those of bind(2) and of looking up `host`.
    pub fn listen_tcp(&self, host: &str, port: u16) -> io::Result<u16> {
        let (listener, port) = Listener::tcp((host, port))?;
        self.inbox.push(Message::Listen(listener));
        Ok(port)
    }

    /// Takes no more requests, answers those under way for at most `drain_ns`, then closes all
    /// and ends the thread; the event `Stopped` is the last.
    pub fn shutdown(&self, drain_ns: u64) {
        self.inbox.push(Message::Shutdown(drain_ns));
    }

    /// Waits for the end of the thread after [`Plane::shutdown`].
    pub fn wait_stopped(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of the thread has ended the process already.
            let _ = thread.join();
        }
    }

    /// What has been counted so far.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.shutdown(0);
        self.wait_stopped();
    }
}
