//! The data thread: one epoll loop over sockets, messages and finished work.
//!
//! Each turn: readable connections are read and their requests given to the engine one by one;
//! messages of the agent and finished work of other threads are taken; time passes; what has been
//! answered is sent, one sendmsg for each connection. Then it sleeps, or looks again for a moment
//! if that pays ([`super::spin`]).

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use segue_map::Config;

use super::commands::Watched;
use super::connections::Connections;
use super::executor::Executor;
use super::limits::HostLimits;
use super::listener::Listener;
use super::mailbox::{Inbox, Message, Outbox, PlaneEvent};
use super::opening::Openings;
use super::spin::Spin;
use super::stats::Stats;
use crate::sys::{Epoll, boottime_ns};

/// Keys of epoll members: these, listeners, then connections by index.
const KEY_INBOX: u64 = 0;
const KEY_COMPLETIONS: u64 = 1;
pub(super) const KEY_RING: u64 = 2;
const KEY_LISTENERS: u64 = 1 << 32;
pub(super) const KEY_CONNECTIONS: u64 = 2 << 32;
const EVENTS_MAX: usize = 64;
/// When the ring is entered again that had no memory.
const RING_AGAIN_MS: i32 = 1;
/// Turns served from the last connection alone before everybody is looked at again.
const ALONE_MAX: u32 = 16;

/// See the module's text.
pub(super) struct DataThread {
    epoll: Arc<Epoll>,
    pub(super) inbox: Arc<Inbox>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) executor: Executor,
    pub(super) connections: Connections,
    pub(super) openings: Openings,
    pub(super) watched: Watched,
    listeners: Vec<Listener>,
    spin: Spin,
    /// While it stops: when it does so at the latest, CLOCK_BOOTTIME.
    stops_at_ns: Option<u64>,
}

impl DataThread {
    pub(super) fn new(
        incarnation: u64,
        (config, limits): (Config, HostLimits),
        inbox: Arc<Inbox>,
        outbox: Arc<Outbox>,
        stats: Arc<Stats>,
    ) -> io::Result<DataThread> {
        let epoll = Arc::new(Epoll::new()?);
        let executor = Executor::new(config, stats, epoll.clone())?;
        let readable = libc::EPOLLIN as u32;
        epoll.add(inbox.wake.as_raw_fd(), KEY_INBOX, readable)?;
        epoll.add(
            executor.completions.wake.as_raw_fd(),
            KEY_COMPLETIONS,
            readable,
        )?;
        Ok(DataThread {
            connections: Connections::new(epoll.clone(), limits),
            epoll,
            inbox,
            outbox,
            executor,
            openings: Openings::new(incarnation),
            watched: Watched::default(),
            listeners: Vec::new(),
            spin: Spin::default(),
            stops_at_ns: None,
        })
    }

    /// Runs until it has been told to stop and has stopped.
    ///
    /// # Panics
    /// If epoll itself fails: then nothing can be served.
    pub(super) fn run(mut self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        loop {
            let timeout_ms = if self.look_again() {
                0
            } else {
                self.timeout_ms()
            };
            let found = self
                .epoll
                .wait(&mut events, timeout_ms)
                .expect("epoll_wait works");
            for event in found {
                self.ready(event.u64, event.events);
            }
            self.finish_turn();
            if self.has_stopped() {
                break;
            }
        }
        self.flush_all();
        self.outbox.push(PlaneEvent::Stopped);
    }

    /// After a turn that answered something: looks at its connection for a while, and serves it.
    ///
    /// Gives whether everybody should be looked at without sleeping.
    fn look_again(&mut self) -> bool {
        for _ in 0..ALONE_MAX {
            let Some(index) = self.connections.answered_last.take() else {
                return false;
            };
            let (connections, executor) = (&mut self.connections, &mut self.executor);
            if !self.spin.run(|| connections.read(index, executor)) {
                return false;
            }
            self.finish_turn();
        }
        true
    }

    /// Until the next deadline, rounded up; -1: for ever.
    fn timeout_ms(&mut self) -> i32 {
        if self.executor.ring_waits() {
            return RING_AGAIN_MS;
        }
        let deadlines = [
            self.executor.deadline(),
            self.connections.deadline(),
            self.stops_at_ns,
        ];
        let Some(next) = deadlines.into_iter().flatten().min() else {
            return -1;
        };
        let left_ns = next.saturating_sub(boottime_ns());
        i32::try_from(left_ns.div_ceil(1_000_000)).unwrap_or(i32::MAX)
    }

    fn ready(&mut self, key: u64, readiness: u32) {
        match key {
            KEY_INBOX => self.take_messages(),
            KEY_COMPLETIONS => self.executor.take_completions(),
            KEY_RING => self.executor.reap_ring(),
            KEY_LISTENERS..KEY_CONNECTIONS => self.accept((key - KEY_LISTENERS) as usize),
            _ => {
                let index = (key - KEY_CONNECTIONS) as usize;
                self.connections.ready(index, readiness, &mut self.executor);
            }
        }
    }

    /// What belongs to the end of each turn, whatever happened in it.
    fn finish_turn(&mut self) {
        self.executor.tick();
        self.take_engine_events();
        self.connections.tick(&mut self.executor);
        self.connections.finish_turn(&mut self.executor);
        while self.executor.submit_ring() {
            self.connections.finish_turn(&mut self.executor);
        }
        // Sending ends connections, and that may end requests.
        self.take_engine_events();
        self.connections.take_events(&self.outbox);
        if self.connections.closed_some() {
            for (key, listener) in (KEY_LISTENERS..).zip(&mut self.listeners) {
                listener.resume(&self.epoll, key);
            }
        }
    }

    fn accept(&mut self, index: usize) {
        let Some(listener) = self.listeners.get_mut(index) else {
            return;
        };
        for (socket, peer) in listener.accept(&self.epoll) {
            self.connections.add(socket, peer, &mut self.executor);
        }
    }

    fn take_messages(&mut self) {
        for message in self.inbox.take() {
            match message {
                Message::Control(control) => self.control(control),
                Message::Opened(job, opened) => self.opened(job, opened),
                Message::SetLease(until_ns) => self.executor.set_lease(until_ns),
                Message::EndLease => self.executor.end_lease(),
                Message::ListFaults => {
                    self.openings.cancel();
                    self.executor.list_faults();
                }
                Message::TraceIo => self.executor.traces.on = true,
                Message::AskLatency(request, disk) => {
                    let rows = self.executor.latencies.rows(disk);
                    self.outbox.push(PlaneEvent::Latency { request, rows });
                }
                Message::ExportAnswer(token, answer) => {
                    self.connections
                        .export_answer(token, answer, &mut self.executor);
                }
                Message::ListAnswer(token, names) => {
                    self.connections.list_answer(token, &names);
                }
                Message::Listen(listener) => self.listen(listener),
                Message::Shutdown(drain_ns) => self.shutdown(drain_ns),
            }
            self.take_engine_events();
        }
    }

    fn listen(&mut self, listener: Listener) {
        let key = KEY_LISTENERS + self.listeners.len() as u64;
        match self.epoll.add(listener.fd(), key, libc::EPOLLIN as u32) {
            Ok(()) => self.listeners.push(listener),
            Err(error) => crate::log(format_args!("cannot listen: {error}")),
        }
    }

    fn shutdown(&mut self, drain_ns: u64) {
        self.listeners.clear();
        self.connections.begin_shutdown(&mut self.executor);
        let at_ns = boottime_ns().saturating_add(drain_ns);
        self.stops_at_ns = Some(self.stops_at_ns.map_or(at_ns, |earlier| earlier.min(at_ns)));
    }

    fn has_stopped(&mut self) -> bool {
        let Some(at_ns) = self.stops_at_ns else {
            return false;
        };
        if boottime_ns() >= at_ns {
            self.connections.close_all(&mut self.executor);
            self.take_engine_events();
        }
        self.connections.is_empty()
    }
}
