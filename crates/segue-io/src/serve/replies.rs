//! What one client has still to be told, and how much it may make the server hold (promise P9).
//!
//! Whoever has carried out a request queues the reply and sends what the socket takes, **never
//! waiting**: the pool's threads are everybody's, and a revocation is answered when they have
//! carried out what was begun. What the socket does not take is sent by a thread of the
//! connection's own, which is started when it is first needed. A client that takes nothing at all
//! for [`STALL_LIMIT`] has its connection ended.
//!
//! No request is taken in while requests under way and replies not taken hold [`HELD_BYTES_MAX`],
//! or while there are [`REQUESTS_MAX`] under way. So a connection has that many bytes and one more
//! request's at the most, beside a handshake's option and its answer
//! (`segue_nbd::server::ServerConn`), which is sent before the next option is looked at.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use segue_nbd::reply::HEAD_BYTES_MAX;
use segue_nbd::server::{Answer, Command, Event, Request, ServerConn, Step};
use segue_nbd::{Errno, ProtocolError};

use crate::buffer::{Buffer, Buffers};
use crate::client::Stream;
use crate::outgoing::Outgoing;
use crate::sys::wait_writable;

/// Requests of one connection under way at once.
const REQUESTS_MAX: u32 = 64;
/// Bytes of its requests and of the replies that it has not taken.
const HELD_BYTES_MAX: usize = 64 << 20;
/// A client that takes nothing of its replies for so long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);

struct State {
    conn: ServerConn,
    out: Outgoing,
    /// Keeps none: a connection that does nothing holds nothing.
    buffers: Buffers,
    /// Bytes of requests under way.
    held_bytes: usize,
    /// The socket takes no more now: its own thread waits for it.
    is_full: bool,
    has_sender: bool,
    /// Nobody is told anything any more.
    is_over: bool,
}

impl State {
    fn has_room(&self) -> bool {
        let may_talk = self.conn.is_transmission() || self.out.bytes() == 0;
        let bytes = self.held_bytes + self.out.bytes();
        may_talk && self.conn.in_flight() < REQUESTS_MAX && bytes < HELD_BYTES_MAX
    }

    fn queue(&mut self, request: &Request, done: io::Result<()>, buffer: Option<Arc<Buffer>>) {
        let mut head = [0; HEAD_BYTES_MAX];
        let length = match (done, request.command, buffer) {
            (Ok(()), Command::Read, Some(buffer)) => {
                let length = self.conn.read_reply(request, &mut head);
                let data_bytes = request.length as usize;
                return self.out.push_framed(&head[..length], buffer, data_bytes);
            }
            (Ok(()), ..) => self.conn.done_reply(request, &mut head),
            (Err(error), ..) => {
                let errno = wire_errno(&error, request);
                self.conn.error_reply(request, errno, "", &mut head)
            }
        };
        self.out.push(&head[..length]);
    }
}

fn wire_errno(error: &io::Error, request: &Request) -> Errno {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) if request.fast_zero() => Errno::Enotsup,
        Some(errno) => Errno::from_linux(errno),
        None => Errno::Eio,
    }
}

fn wait<'a>(changed: &Condvar, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    changed.wait(state).unwrap_or_else(PoisonError::into_inner)
}

/// See the module's text.
pub(super) struct Replies {
    number: u64,
    stream: Arc<Stream>,
    state: Mutex<State>,
    /// There may be room.
    room: Condvar,
    /// The socket is full.
    full: Condvar,
}

impl Replies {
    pub(super) fn new(number: u64, stream: Arc<Stream>) -> Arc<Replies> {
        let state = State {
            conn: ServerConn::fenced(),
            out: Outgoing::default(),
            buffers: Buffers::keeping(0),
            held_bytes: 0,
            is_full: false,
            has_sender: false,
            is_over: false,
        };
        Arc::new(Replies {
            number,
            stream,
            state: Mutex::new(state),
            room: Condvar::new(),
            full: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the protocol's state.
    pub(super) fn conn<T>(&self, with: impl FnOnce(&mut ServerConn) -> T) -> T {
        with(&mut self.lock().conn)
    }

    /// Parses the next message, once there is room for what it may ask; `None`: it is over.
    pub(super) fn feed(&self, input: &[u8]) -> Result<Option<Step>, ProtocolError> {
        let mut state = self.lock();
        while !state.has_room() && !state.is_over {
            state = wait(&self.room, state);
        }
        if state.is_over {
            return Ok(None);
        }
        let step = state.conn.feed(input)?;
        if let Some(Event::Request(request)) = &step.event {
            state.held_bytes += request.held_bytes();
        }
        Ok(Some(step))
    }

    /// Sends what the handshake has to say.
    pub(super) fn send_output(self: &Arc<Self>) {
        let mut state = self.lock();
        let State { conn, out, .. } = &mut *state;
        let before = out.bytes();
        out.push_with(|arena| {
            conn.take_output(arena);
        });
        if out.bytes() > before {
            self.send(&mut state);
        }
    }

    /// Replies to a request that needed no I/O.
    pub(super) fn answer(self: &Arc<Self>, answer: &Answer) {
        let mut state = self.lock();
        let mut head = [0; HEAD_BYTES_MAX];
        let length = state.conn.answer_reply(answer, &mut head);
        state.out.push(&head[..length]);
        self.send(&mut state);
    }

    /// Replies to a request that has been carried out.
    pub(super) fn reply(
        self: &Arc<Self>,
        request: &Request,
        done: io::Result<()>,
        buffer: Option<Arc<Buffer>>,
    ) {
        let mut state = self.lock();
        state.held_bytes -= request.held_bytes();
        state.queue(request, done, buffer);
        self.send(&mut state);
    }

    /// Nobody is told anything any more.
    pub(super) fn close(&self) {
        self.end(&mut self.lock());
    }

    fn end(&self, state: &mut State) {
        state.is_over = true;
        state.out = Outgoing::default();
        self.stream.shutdown(Shutdown::Both);
        self.room.notify_all();
        self.full.notify_all();
    }

    /// Sends what the socket takes now.
    fn send(self: &Arc<Self>, state: &mut State) {
        if state.is_over {
            return self.end(state);
        }
        if !state.is_full {
            let State { out, buffers, .. } = state;
            match out.send(self.stream.as_raw_fd(), buffers) {
                Ok(sent_all) => state.is_full = !sent_all,
                // That the client has gone is found out by its reader.
                Err(_) => return self.end(state),
            }
        }
        if state.is_full && !state.has_sender {
            state.has_sender = true;
            let replies = self.clone();
            let started = std::thread::Builder::new()
                .name("segue-replies".into())
                .spawn(move || crate::abort_on_panic(|| replies.send_rest()));
            if started.is_err() {
                return self.end(state);
            }
        }
        self.room.notify_all();
        if state.is_full {
            self.full.notify_all();
        }
    }

    /// Sends what the socket does not take at once, until the connection ends.
    fn send_rest(self: &Arc<Self>) {
        let mut state = self.lock();
        while !state.is_over {
            if !state.is_full {
                state = wait(&self.full, state);
                continue;
            }
            drop(state);
            let writable = wait_writable(self.stream.as_raw_fd(), STALL_LIMIT);
            state = self.lock();
            let before = state.out.bytes();
            state.is_full = false;
            self.send(&mut state);
            // A socket that has room for little only is not called writable.
            let has_taken = writable.unwrap_or(false) || state.out.bytes() < before;
            if !has_taken && !state.is_over {
                crate::log(format_args!(
                    "serve: connection {}: its client has taken nothing of its replies for {} s; \
                     it is closed",
                    self.number,
                    STALL_LIMIT.as_secs()
                ));
                self.end(&mut state);
            }
        }
    }
}
