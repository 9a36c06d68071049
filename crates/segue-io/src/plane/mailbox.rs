//! Messages between the agent's thread and the data thread, either way.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use segue_map::{Control, Event};

use super::latency::LatencyRow;
use super::listener::Listener;
use super::opening::Opened;
use super::trace::IoTrace;
use crate::sys::EventFd;

/// The answer to a question about an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Export {
    /// The disk's number.
    pub disk: u32,
    /// Its size, in bytes.
    pub size_bytes: u64,
    /// Its block, in bytes.
    pub block_bytes: u32,
    /// Writes are refused.
    pub read_only: bool,
}

/// To the data thread.
#[derive(Debug)]
pub(super) enum Message {
    Control(Control),
    Opened(u64, Opened),
    SetLease(u64),
    EndLease,
    ListFaults,
    TraceIo,
    /// Request and disk.
    AskLatency(u64, u32),
    /// The errno is not 0.
    ExportAnswer(u64, Result<Export, i32>),
    ListAnswer(u64, Vec<String>),
    Listen(Listener),
    Shutdown(u64),
}

/// From the data thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaneEvent {
    /// What the mapping engine has to say to the controller.
    Engine(Event),
    /// A host asks for the export of this name: answer by `export_answer`.
    WantExport {
        /// Names the question.
        token: u64,
        /// The name as the host gave it.
        name: String,
    },
    /// A host asks for the list of exports: answer by `list_answer`.
    WantList {
        /// Names the question.
        token: u64,
    },
    /// The host that asked has gone: the answer to this question is for nobody.
    QuestionGone {
        /// Names the question.
        token: u64,
    },
    /// The last connection that used the disk has gone.
    Unused {
        /// The disk.
        disk: u32,
        /// How many answers had given the disk to a host by then: with more on the way, this is
        /// out of date already.
        given: u64,
    },
    /// Answers `ask_latency`.
    Latency {
        /// Of the question.
        request: u64,
        /// By operation and cause; empty if nothing was counted.
        rows: Vec<LatencyRow>,
    },
    /// A host I/O raised a fault, of this request.
    IoFaulted(IoTrace, u64),
    /// A host I/O that met anything on its way was answered.
    IoAnswered {
        /// Which.
        io: IoTrace,
        /// A [`segue_map::Cause`].
        cause: u8,
        /// To the host; 0: done.
        errno: i32,
        /// From its arrival.
        took_ns: u64,
    },
    /// The data thread has ended after `shutdown`; nothing comes after this.
    Stopped,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Messages for the data thread.
#[derive(Debug)]
pub(super) struct Inbox {
    messages: Mutex<VecDeque<Message>>,
    pub(super) wake: EventFd,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Inbox> {
        Ok(Inbox {
            messages: Mutex::default(),
            wake: EventFd::new()?,
        })
    }

    pub(super) fn push(&self, message: Message) {
        let mut messages = lock(&self.messages);
        messages.push_back(message);
        if messages.len() == 1 {
            self.wake.signal();
        }
    }

    pub(super) fn take(&self) -> VecDeque<Message> {
        self.wake.clear();
        std::mem::take(&mut *lock(&self.messages))
    }
}

/// Events for the agent.
#[derive(Debug)]
pub(super) struct Outbox {
    events: Mutex<Vec<PlaneEvent>>,
    wake: EventFd,
}

impl Outbox {
    pub(super) fn new() -> io::Result<Outbox> {
        Ok(Outbox {
            events: Mutex::default(),
            wake: EventFd::new()?,
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    pub(super) fn push(&self, event: PlaneEvent) {
        self.push_all(std::iter::once(event));
    }

    pub(super) fn push_all(&self, more: impl Iterator<Item = PlaneEvent>) {
        let mut events = lock(&self.events);
        let was_empty = events.is_empty();
        events.extend(more);
        if was_empty && !events.is_empty() {
            self.wake.signal();
        }
    }

    pub(super) fn take(&self) -> Vec<PlaneEvent> {
        self.wake.clear();
        std::mem::take(&mut *lock(&self.events))
    }
}
