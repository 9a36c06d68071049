//! One connection of a host: its socket, its half of the protocol, what it has still to send.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use segue_nbd::server::{Answer, Request, ServerConn};
use segue_nbd::{Errno, Extent, reply};

use super::connections::RECEIVE_BYTES;
use super::executor::Answered;
use super::tokens::ConnKey;
use crate::buffer::{Buffer, Buffers};
use crate::handshakes::Turn;
use crate::outgoing::Outgoing;

/// A connection is not read while its requests and replies hold this many bytes.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Nor while it has this many requests under way.
const REQUESTS_MAX: u32 = 1024;

/// After a write as large as this another one is expected: its head is received alone, so that its
/// payload is received where it belongs, not copied there.
const LARGE_WRITE_BYTES: usize = 64 << 10;
const ROOM_AFTER_LARGE_BYTES: usize = 4 << 10;

/// A write whose payload has not all arrived.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) request: Request,
    pub(super) buffer: Arc<Buffer>,
    pub(super) filled: usize,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) key: ConnKey,
    socket: OwnedFd,
    pub(super) peer: String,
    pub(super) server: ServerConn,
    /// Received bytes that could not be used yet.
    pub(super) rest: Vec<u8>,
    pub(super) payload: Option<Payload>,
    pub(super) out: Outgoing,
    /// The disk in use, or held for a client that has asked about it.
    pub(super) disk: Option<u32>,
    /// The question about an export or the list that waits for the agent's answer.
    pub(super) question: Option<(u64, Question)>,
    /// Whose turn it is in the handshake.
    pub(super) turn: Turn,
    /// Bytes of requests under way, answered or not.
    held_bytes: usize,
    /// How much is received beyond the payload under way.
    pub(super) room_bytes: usize,
    /// What epoll waits for.
    pub(super) interest: u32,
    /// In the thread's list of connections with something to send.
    pub(super) is_dirty: bool,
    /// In the thread's list of connections that may not be read now.
    pub(super) is_stalled: bool,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Export(String),
    List,
}

impl Connection {
    pub(super) fn new(key: ConnKey, socket: OwnedFd, peer: String) -> Connection {
        let mut connection = Connection {
            key,
            socket,
            peer,
            server: ServerConn::new(),
            rest: Vec::new(),
            payload: None,
            out: Outgoing::default(),
            disk: None,
            question: None,
            turn: Turn::New,
            held_bytes: 0,
            room_bytes: RECEIVE_BYTES,
            interest: libc::EPOLLIN as u32,
            is_dirty: false,
            is_stalled: false,
        };
        connection.take_output();
        connection
    }

    pub(super) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Queues what the handshake has to say.
    pub(super) fn take_output(&mut self) {
        let server = &mut self.server;
        self.out.push_with(|arena| {
            server.take_output(arena);
        });
    }

    /// Whether another request, or option, may be taken in: an option's answer is sent first.
    pub(super) fn has_room(&self) -> bool {
        let may_talk = self.server.is_transmission() || self.out.bytes() == 0;
        self.question.is_none()
            && may_talk
            && self.held_bytes + self.out.bytes() < HELD_BYTES_MAX
            && self.server.in_flight() < REQUESTS_MAX
    }

    pub(super) fn request_begun(&mut self, request: &Request) {
        self.held_bytes += request.held_bytes();
        let is_large_write = request.command == segue_nbd::server::Command::Write
            && request.length as usize >= LARGE_WRITE_BYTES;
        self.room_bytes = if is_large_write {
            ROOM_AFTER_LARGE_BYTES
        } else {
            RECEIVE_BYTES
        };
    }

    /// Receives into the payload under way, then into `room`; gives the bytes of each.
    ///
    /// # Errors
    /// Those of recvmsg(2); WouldBlock if there is nothing. `Ok((0, 0))` is the end of the stream.
    pub(super) fn receive(&mut self, room: &mut [u8]) -> io::Result<(usize, usize)> {
        let Some(payload) = &self.payload else {
            let (memory, length) = (room.as_mut_ptr().cast(), room.len());
            // SAFETY: `room` is live and exclusive.
            let got = unsafe { libc::recv(self.fd(), memory, length, libc::MSG_DONTWAIT) };
            return Ok((
                0,
                usize::try_from(got).map_err(|_| io::Error::last_os_error())?,
            ));
        };
        let wanted = payload.request.length as usize - payload.filled;
        // SAFETY: no piece of I/O has begun on the buffer of a write not wholly received.
        let part = unsafe { payload.buffer.part_mut(payload.filled, wanted) };
        let iov = |bytes: &mut [u8]| libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut iovs = [iov(part), iov(room)];
        // SAFETY: all-zero is a valid msghdr.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = iovs.as_mut_ptr();
        message.msg_iovlen = 2;
        // SAFETY: the iovecs name live, exclusive memory.
        let got = unsafe { libc::recvmsg(self.fd(), &mut message, libc::MSG_DONTWAIT) };
        let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
        let to_payload = got.min(wanted);
        if let Some(payload) = &mut self.payload {
            payload.filled += to_payload;
            self.server.payload_received(to_payload as u32);
        }
        Ok((to_payload, got - to_payload))
    }

    /// Queues the reply to a request that needed no I/O.
    pub(super) fn answer(&mut self, answer: &Answer) {
        let mut head = [0; reply::HEAD_BYTES_MAX];
        let length = self.server.answer_reply(answer, &mut head);
        self.out.push(&head[..length]);
    }

    /// Nothing of a request is held any more.
    #[inline]
    pub(super) fn released(&mut self, request: &Request) {
        self.held_bytes -= request.held_bytes();
    }

    /// Queues the reply to a request.
    #[inline]
    pub(super) fn reply(&mut self, answered: Answered, buffers: &mut Buffers) {
        let Answered {
            request,
            buffer,
            errno,
            in_use,
            extents,
            ..
        } = answered;
        if !in_use {
            self.released(&request);
        }
        let mut head = [0; reply::HEAD_BYTES_MAX];
        if !extents.is_empty() {
            return self.reply_status(&request, &extents);
        }
        let is_read = request.command == segue_nbd::server::Command::Read;
        let length = match (errno, buffer) {
            (0, Some(buffer)) if is_read => {
                let length = self.server.read_reply(&request, &mut head);
                self.out
                    .push_framed(&head[..length], buffer, request.length as usize);
                return;
            }
            (errno, buffer) => {
                if let Some(buffer) = buffer {
                    buffers.give(buffer);
                }
                match errno {
                    0 => self.server.done_reply(&request, &mut head),
                    errno => {
                        let errno = wire_errno(errno, &request);
                        self.server.error_reply(&request, errno, "", &mut head)
                    }
                }
            }
        };
        self.out.push(&head[..length]);
    }

    fn reply_status(&mut self, request: &Request, extents: &[(u64, u32)]) {
        // A request's length has 32 bits, so what does not fit lies beyond it.
        let narrow = |&(length, flags): &(u64, u32)| Extent {
            length: u32::try_from(length).unwrap_or(u32::MAX),
            flags,
        };
        let extents: Vec<Extent> = extents.iter().map(narrow).collect();
        let server = &mut self.server;
        self.out
            .push_with(|arena| server.block_status_reply(request, &extents, arena));
    }
}

fn wire_errno(errno: i32, request: &Request) -> Errno {
    match errno {
        libc::EOPNOTSUPP if request.fast_zero() => Errno::Enotsup,
        errno => Errno::from_linux(errno),
    }
}
