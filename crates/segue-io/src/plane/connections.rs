//! All connections of the data thread: reading, parsing, answering, sending, closing.
//!
//! A connection that may not be read now (its disk is over the limit of parked writes, it holds
//! too much, or it waits for the agent) is *stalled*: what was received waits, epoll is not asked
//! about input, and every turn looks whether it may go on.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use segue_nbd::ProtocolError;
use segue_nbd::server::{Command, Event, Request};

use super::connection::{Connection, Payload};
use super::executor::{Answered, Executor};
use super::limits::{HANDSHAKES_MAX, HostLimits};
use super::mailbox::{Outbox, PlaneEvent};
use super::stats::Stats;
use super::thread::KEY_CONNECTIONS;
use super::tokens::ConnKey;
use crate::handshakes::Handshakes;
use crate::sys::{Epoll, boottime_ns};

/// Room for what one turn receives: 32 writes of 4 KiB and some.
pub(super) const RECEIVE_BYTES: usize = 192 << 10;
/// A read of this size is sent as soon as it is answered, while the CPU's cache has it.
const SEND_AT_ONCE_BYTES: u32 = 64 << 10;

/// See the module's text.
pub(super) struct Connections {
    pub(super) slots: Vec<Option<Box<Connection>>>,
    free: Vec<usize>,
    next_id: u64,
    epoll: Arc<Epoll>,
    receive: Vec<u8>,
    dirty: Vec<usize>,
    stalled: Vec<usize>,
    /// The connection that was answered last, all of it sent.
    pub(super) answered_last: Option<usize>,
    pub(super) questions: HashMap<u64, ConnKey>,
    pub(super) next_question: u64,
    /// Connections by disk.
    pub(super) users: HashMap<u32, u32>,
    /// Answers that gave a disk to a host, by disk.
    pub(super) given: HashMap<u32, u64>,
    pub(super) events: Vec<PlaneEvent>,
    closed_some: bool,
    is_shutting_down: bool,
    pub(super) handshakes: Handshakes,
    pub(super) limits: HostLimits,
}

impl Connections {
    pub(super) fn new(epoll: Arc<Epoll>, limits: HostLimits) -> Connections {
        Connections {
            slots: Vec::new(),
            free: Vec::new(),
            next_id: 1,
            epoll,
            receive: vec![0; RECEIVE_BYTES],
            dirty: Vec::new(),
            stalled: Vec::new(),
            answered_last: None,
            questions: HashMap::new(),
            next_question: 1,
            users: HashMap::new(),
            given: HashMap::new(),
            events: Vec::new(),
            closed_some: false,
            is_shutting_down: false,
            handshakes: Handshakes::new(limits.handshake_ns),
            limits,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// Whether a connection has closed since the last call.
    pub(super) fn closed_some(&mut self) -> bool {
        std::mem::take(&mut self.closed_some)
    }

    pub(super) fn take_events(&mut self, outbox: &Outbox) {
        if !self.events.is_empty() {
            outbox.push_all(self.events.drain(..));
        }
    }

    pub(super) fn add(&mut self, socket: OwnedFd, peer: String, executor: &mut Executor) {
        if let Err(in_the_way) = self.limits.room(&self.handshakes) {
            let Some(index) = in_the_way else {
                return crate::log(format_args!(
                    "host {peer}: {HANDSHAKES_MAX} others are waiting for their disks; its \
                     connection is closed"
                ));
            };
            self.end_handshake(index, "others want to connect", executor);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let connection = Connection::new(
            ConnKey {
                index,
                id: self.next_id,
            },
            socket,
            peer,
        );
        self.next_id += 1;
        let key = KEY_CONNECTIONS + index as u64;
        if let Err(error) = self.epoll.add(connection.fd(), key, connection.interest) {
            crate::log(format_args!("a connection could not be watched: {error}"));
            return self.free.push(index);
        }
        let connection = self.slots[index].insert(Box::new(connection));
        connection.turn = self.handshakes.begin(index, boottime_ns());
        Stats::add(&executor.stats.connections, 1);
        self.mark_dirty(index);
    }

    pub(super) fn mark_dirty(&mut self, index: usize) {
        let Some(connection) = &mut self.slots[index] else {
            return;
        };
        if !std::mem::replace(&mut connection.is_dirty, true) {
            self.dirty.push(index);
        }
    }

    fn mark_stalled(&mut self, index: usize) {
        let Some(connection) = &mut self.slots[index] else {
            return;
        };
        if !std::mem::replace(&mut connection.is_stalled, true) {
            self.stalled.push(index);
        }
        // Epoll's interest is set where the turn ends.
        self.mark_dirty(index);
    }

    // Reading ---------------------------------------------------------------------------------

    pub(super) fn ready(&mut self, index: usize, readiness: u32, executor: &mut Executor) {
        let Some(connection) = self.slots.get(index).and_then(Option::as_deref) else {
            return;
        };
        let reads = connection.interest & libc::EPOLLIN as u32 != 0;
        if readiness & libc::EPOLLOUT as u32 != 0 {
            self.mark_dirty(index);
        }
        if reads && readiness != libc::EPOLLOUT as u32 {
            self.read(index, executor);
        } else if readiness & (libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0 {
            // Nobody is there to be answered.
            self.close(index, executor);
        }
    }

    /// Receives once and serves what has come; gives whether anything has.
    pub(super) fn read(&mut self, index: usize, executor: &mut Executor) -> bool {
        let Some(connection) = self.slots[index].as_deref_mut() else {
            return false;
        };
        if connection.is_stalled {
            return false;
        }
        let mut receive = std::mem::take(&mut self.receive);
        let start = connection.rest.len();
        receive[..start].copy_from_slice(&connection.rest);
        let end = receive.len().min(start + connection.room_bytes);
        let got = connection.receive(&mut receive[start..end]);
        let found = match got {
            Ok((0, 0)) => {
                let ended = connection.server.handle_eof(start);
                self.ended(index, ended, executor);
                true
            }
            Ok((to_payload, got)) => {
                connection.rest.clear();
                executor.stats_written(to_payload);
                self.payload_arrived(index, executor);
                self.parse(index, &receive[..start + got], executor);
                true
            }
            Err(error) if is_transient(&error) => false,
            Err(_) => {
                self.close(index, executor);
                true
            }
        };
        self.receive = receive;
        found
    }

    /// The stream has ended, in order or not.
    fn ended(&mut self, index: usize, ended: Result<(), ProtocolError>, executor: &mut Executor) {
        match ended {
            Ok(()) => self.mark_dirty(index),
            Err(error) => self.broken(index, error, executor),
        }
    }

    /// The client broke the protocol: one line, and its own connection.
    fn broken(&mut self, index: usize, error: ProtocolError, executor: &mut Executor) {
        let peer = self.slots[index]
            .as_ref()
            .map_or("", |connection| &connection.peer);
        crate::log(format_args!(
            "host {peer}: {error}; its connection is closed"
        ));
        Stats::add(&executor.stats.protocol_errors, 1);
        self.close(index, executor);
    }

    /// Begins the write whose payload is complete.
    fn payload_arrived(&mut self, index: usize, executor: &mut Executor) {
        let Some(connection) = self.slots[index].as_deref_mut() else {
            return;
        };
        let is_full = |payload: &Payload| payload.filled == payload.request.length as usize;
        if !connection.payload.as_ref().is_some_and(is_full) {
            return;
        }
        let Some(Payload {
            request, buffer, ..
        }) = connection.payload.take()
        else {
            return;
        };
        if let Some(disk) = connection.disk {
            executor.host_io(connection.key, disk, request, Some(buffer));
        }
    }

    /// Serves the messages in `input`; keeps what is not used.
    fn parse(&mut self, index: usize, input: &[u8], executor: &mut Executor) {
        let mut at = 0;
        while let Some(connection) = self.slots[index].as_deref_mut() {
            let accepts = connection.disk.is_none_or(|disk| executor.accepts(disk));
            if !accepts || !connection.has_room() {
                connection.rest.extend_from_slice(&input[at..]);
                return self.mark_stalled(index);
            }
            let step = match connection.server.feed(&input[at..]) {
                Ok(step) => step,
                Err(error) => return self.broken(index, error, executor),
            };
            at += step.consumed;
            match step.event {
                None => return connection.rest.extend_from_slice(&input[at..]),
                Some(Event::Request(request)) => {
                    at += begin(connection, request, &input[at..], executor);
                    let large = |answered: &Answered| {
                        let read = answered.request.command == Command::Read;
                        read && answered.request.length >= SEND_AT_ONCE_BYTES
                    };
                    if executor.answers.last().is_some_and(large) {
                        self.take_answers(executor);
                        self.send(index, executor);
                    }
                }
                Some(Event::Answer(answer)) => {
                    connection.answer(&answer);
                    self.mark_dirty(index);
                }
                Some(event) => self.handshake(index, event, executor),
            }
        }
    }

    // Sending ---------------------------------------------------------------------------------

    /// Answers, sends, and lets stalled connections go on, until nothing more can be done now.
    pub(super) fn finish_turn(&mut self, executor: &mut Executor) {
        loop {
            self.take_answers(executor);
            let dirty = std::mem::take(&mut self.dirty);
            for &index in &dirty {
                self.send(index, executor);
            }
            self.dirty = dirty;
            self.dirty.clear();
            if !self.resume(executor) && executor.answers.is_empty() && self.dirty.is_empty() {
                return;
            }
        }
    }

    fn take_answers(&mut self, executor: &mut Executor) {
        let mut answers = std::mem::take(&mut executor.answers);
        for answered in answers.drain(..) {
            let key = answered.conn;
            let connection = self.slots.get_mut(key.index).and_then(Option::as_deref_mut);
            let Some(connection) = connection.filter(|connection| connection.key == key) else {
                continue;
            };
            executor.stats_answered(&answered);
            connection.reply(answered, &mut executor.buffers);
            self.answered_last = Some(key.index);
            self.mark_dirty(key.index);
        }
        executor.answers = answers;
        while let Some((key, request)) = executor.released.pop() {
            let connection = self.slots.get_mut(key.index).and_then(Option::as_deref_mut);
            if let Some(connection) = connection.filter(|connection| connection.key == key) {
                connection.released(&request);
            }
        }
    }

    fn send(&mut self, index: usize, executor: &mut Executor) {
        let Some(connection) = self.slots[index].as_deref_mut() else {
            return;
        };
        connection.is_dirty = false;
        let fd = connection.fd();
        let Ok(sent_all) = connection.out.send(fd, &mut executor.buffers) else {
            return self.close(index, executor);
        };
        let server = &connection.server;
        let is_over = server.is_drained() || (self.is_shutting_down && server.in_flight() == 0);
        if is_over && sent_all {
            return self.close(index, executor);
        }
        let mut interest = 0;
        if !connection.is_stalled && server.wants() != segue_nbd::server::Wants::Nothing {
            interest |= libc::EPOLLIN as u32;
        }
        if !sent_all {
            interest |= libc::EPOLLOUT as u32;
        }
        if interest != connection.interest {
            connection.interest = interest;
            if self
                .epoll
                .change(fd, KEY_CONNECTIONS + index as u64, interest)
                .is_err()
            {
                self.close(index, executor);
            }
        }
    }

    /// Lets those stalled connections go on that may; gives whether there were any.
    fn resume(&mut self, executor: &mut Executor) -> bool {
        let mut resumed = false;
        for index in std::mem::take(&mut self.stalled) {
            let Some(connection) = self.slots[index].as_deref_mut() else {
                continue;
            };
            let accepts = connection.disk.is_none_or(|disk| executor.accepts(disk));
            if !accepts || !connection.has_room() {
                self.stalled.push(index);
                continue;
            }
            resumed = true;
            connection.is_stalled = false;
            let rest = std::mem::take(&mut connection.rest);
            self.mark_dirty(index);
            self.parse(index, &rest, executor);
        }
        resumed
    }

    // Closing ---------------------------------------------------------------------------------

    pub(super) fn close(&mut self, index: usize, executor: &mut Executor) {
        let Some(connection) = self.slots[index].take() else {
            return;
        };
        self.free.push(index);
        self.handshakes.gone(index, connection.turn);
        Stats::subtract(&executor.stats.connections, 1);
        self.stalled.retain(|&stalled| stalled != index);
        self.closed_some = true;
        if let Some((token, _)) = connection.question {
            self.questions.remove(&token);
            self.events.push(PlaneEvent::QuestionGone { token });
        }
        executor.connection_gone(connection.key);
        if let Some(disk) = connection.disk {
            self.let_go(disk, true);
        }
    }

    pub(super) fn begin_shutdown(&mut self, executor: &mut Executor) {
        self.is_shutting_down = true;
        for index in 0..self.slots.len() {
            let Some(connection) = self.slots[index].as_deref_mut() else {
                continue;
            };
            if connection.server.is_transmission() {
                connection.server.begin_shutdown();
                self.mark_dirty(index);
            } else {
                self.close(index, executor);
            }
        }
    }

    pub(super) fn close_all(&mut self, executor: &mut Executor) {
        for index in 0..self.slots.len() {
            self.close(index, executor);
        }
    }
}

/// Begins a request; gives how many bytes of `input` were its payload.
#[inline]
fn begin(
    connection: &mut Connection,
    request: Request,
    input: &[u8],
    executor: &mut Executor,
) -> usize {
    connection.request_begun(&request);
    let Some(disk) = connection.disk else {
        return 0;
    };
    let length = request.length as usize;
    let buffer = match request.command {
        Command::Read => Some(executor.buffers.take(length)),
        Command::Write => {
            let buffer = executor.buffers.take(length);
            let filled = length.min(input.len());
            // SAFETY: a buffer just taken is nobody else's.
            unsafe { buffer.part_mut(0, filled) }.copy_from_slice(&input[..filled]);
            connection.server.payload_received(filled as u32);
            executor.stats_written(filled);
            if filled < length {
                connection.payload = Some(Payload {
                    request,
                    buffer,
                    filled,
                });
                return filled;
            }
            executor.host_io(connection.key, disk, request, Some(buffer));
            return filled;
        }
        _ => None,
    };
    executor.host_io(connection.key, disk, request, buffer);
    0
}

fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
