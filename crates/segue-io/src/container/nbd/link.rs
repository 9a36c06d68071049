//! One connection to a container's server: its socket, and the client's half of the protocol.
//!
//! Never blocks. What it gives the port are [`LinkEvent`]s; that it is lost shows as an error.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use segue_nbd::client::{self, ClientConn, Config, Event, Negotiated, Request, Wants};
use segue_nbd::consts as c;

use super::work::Part;
use crate::buffer::Buffer;
use crate::sys::{self, boottime_ns};

/// A server that has not let us in by then counts as away.
pub(super) const JOIN_NS: u64 = 10_000_000_000;
const RECEIVE_BYTES: usize = 64 << 10;
/// Receives of one turn: then others are looked at.
const RECEIVES_MAX: usize = 16;
/// Bytes queued beyond which it takes no further request.
const QUEUED_BYTES_MAX: usize = 512 << 10;
/// Requests under way beyond which it takes no further one.
const IN_FLIGHT_MAX: usize = 64;
/// Pieces of one sendmsg.
const PIECES_MAX: usize = 32;

/// What has happened on a link.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// In transmission.
    Connected,
    /// The server refuses the export (by `policy`, perhaps), or has revoked this holder for ever.
    Refused {
        policy: bool,
        revoked: bool,
        message: String,
    },
    /// A request has been answered.
    Done(Part, i32),
}

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Data(Arc<Buffer>, usize, usize),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Bytes(bytes) => bytes,
            Piece::Data(buffer, at, length) => buffer.part(*at, *length),
        }
    }
}

/// Where data of a read goes that is being received.
#[derive(Debug)]
struct Filling {
    buffer: Arc<Buffer>,
    at: usize,
    left: usize,
}

/// How far a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Connecting, or in the handshake.
    Joining,
    /// In transmission: the header is looked at.
    Probing,
    /// In use.
    Ready,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Link {
    fd: OwnedFd,
    conn: ClientConn,
    pub(super) stage: Stage,
    connecting: bool,
    inbox: Vec<u8>,
    filling: Option<Filling>,
    out: VecDeque<Piece>,
    sent: usize,
    queued_bytes: usize,
    in_flight: HashMap<u64, Part>,
    began_ns: u64,
    /// When it last heard of the server, or had nothing to wait for.
    pub(super) heard_ns: u64,
    /// Readiness asked of epoll.
    pub(super) interest: u32,
}

/// A socket that is connecting or connected.
pub(super) enum Dialled {
    Unix(OwnedFd),
    Tcp(SocketAddr),
}

impl Link {
    /// Begins to connect.
    ///
    /// # Errors
    /// Those of socket(2) and connect(2).
    pub(super) fn new(dialled: Dialled, config: Config) -> io::Result<Link> {
        let (fd, connecting) = match dialled {
            Dialled::Unix(fd) => (fd, false),
            Dialled::Tcp(address) => {
                let fd = sys::connect_begin(&address)?;
                // Whoever waits for the requests of a lost connection to end counts from its loss.
                sys::abort_on_close(fd.as_raw_fd(), true)?;
                (fd, true)
            }
        };
        Ok(Link {
            fd,
            conn: ClientConn::new(config),
            stage: Stage::Joining,
            connecting,
            inbox: Vec::new(),
            filling: None,
            out: VecDeque::new(),
            sent: 0,
            queued_bytes: 0,
            in_flight: HashMap::new(),
            began_ns: boottime_ns(),
            heard_ns: boottime_ns(),
            interest: 0,
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// What was agreed on, in transmission.
    pub(super) fn negotiated(&self) -> Option<&Negotiated> {
        self.conn.negotiated()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether it is in use and takes another request.
    pub(super) fn has_room(&self) -> bool {
        self.stage == Stage::Ready
            && !self.conn.is_shutting_down()
            && self.queued_bytes < QUEUED_BYTES_MAX
            && self.in_flight.len() < IN_FLIGHT_MAX
    }

    /// Whether its server is going away, and has answered all that it had.
    pub(super) fn is_spent(&self) -> bool {
        self.conn.is_shutting_down() && self.in_flight.is_empty()
    }

    /// When it counts as lost if nothing is heard until then, or if it is not in use by then.
    pub(super) fn due_ns(&self, timeout_ns: u64) -> Option<u64> {
        let silent_ns = self.heard_ns + timeout_ns;
        match self.stage {
            Stage::Ready if self.in_flight.is_empty() => None,
            Stage::Ready => Some(silent_ns),
            Stage::Joining | Stage::Probing => Some(silent_ns.min(self.began_ns + JOIN_NS)),
        }
    }

    /// The readiness it waits for.
    pub(super) fn wanted(&self) -> u32 {
        let writable = self.connecting || !self.out.is_empty();
        (libc::EPOLLIN | if writable { libc::EPOLLOUT } else { 0 }) as u32
    }

    /// Puts a request in flight; `Err` gives it back with an errno: the server does not take it.
    pub(super) fn submit(&mut self, part: Part) -> Result<(), (Part, i32)> {
        let request = Request {
            command: part.command,
            flags: part.flags,
            offset: part.offset,
            length: part.length,
        };
        let mut header = [0; c::REQUEST_BYTES];
        let Ok(cookie) = self.conn.submit(&request, &mut header) else {
            return Err((part, libc::EINVAL));
        };
        if self.in_flight.is_empty() {
            self.heard_ns = boottime_ns();
        }
        self.push(Piece::Bytes(header.to_vec()));
        if let (client::Command::Write, Some((buffer, at))) = (part.command, &part.buffer) {
            self.push(Piece::Data(buffer.clone(), *at, part.length as usize));
        }
        self.in_flight.insert(cookie, part);
        Ok(())
    }

    fn push(&mut self, piece: Piece) {
        self.queued_bytes += piece.bytes().len();
        self.out.push_back(piece);
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    /// Those of connect(2) and sendmsg(2): the link is lost.
    pub(super) fn send(&mut self) -> io::Result<()> {
        if self.connecting {
            return Ok(());
        }
        while !self.out.is_empty() {
            let mut iovs = Vec::with_capacity(PIECES_MAX);
            for piece in self.out.iter().take(PIECES_MAX) {
                let skip = if iovs.is_empty() { self.sent } else { 0 };
                iovs.push(&piece.bytes()[skip..]);
            }
            match sys::send_pieces(self.fd(), &iovs) {
                Ok(count) => self.drop_sent(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn drop_sent(&mut self, count: usize) {
        self.queued_bytes -= count;
        self.sent += count;
        while let Some(piece) = self.out.front() {
            let length = piece.bytes().len();
            if self.sent < length {
                break;
            }
            self.sent -= length;
            self.out.pop_front();
        }
    }

    /// The socket is writable for the first time: it is connected, or could not be.
    ///
    /// # Errors
    /// Those of connect(2).
    pub(super) fn writable(&mut self) -> io::Result<()> {
        if self.connecting {
            sys::connect_end(self.fd())?;
            self.connecting = false;
        }
        self.send()
    }

    /// Takes what has come.
    ///
    /// # Errors
    /// Those of recv(2); InvalidData for a server that breaks the protocol; UnexpectedEof. The
    /// link is lost.
    pub(super) fn receive(&mut self, events: &mut Vec<LinkEvent>) -> io::Result<()> {
        if self.connecting {
            return Ok(());
        }
        for _ in 0..RECEIVES_MAX {
            let got = match self.receive_once() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                got => got?,
            };
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.heard_ns = boottime_ns();
            self.digest(events)?;
        }
        self.send()
    }

    fn receive_once(&mut self) -> io::Result<usize> {
        if let (true, Some(filling)) = (self.inbox.is_empty(), &mut self.filling) {
            // SAFETY: the job gave this request that part of the buffer alone.
            let part = unsafe { filling.buffer.part_mut(filling.at, filling.left) };
            let got = sys::receive(self.fd.as_raw_fd(), part)?;
            self.filled(got);
            return Ok(got);
        }
        let before = self.inbox.len();
        self.inbox.resize(before + RECEIVE_BYTES, 0);
        let got = sys::receive(self.fd(), &mut self.inbox[before..]);
        self.inbox
            .truncate(before + got.as_ref().copied().unwrap_or(0));
        got
    }

    fn filled(&mut self, count: usize) {
        let Some(filling) = &mut self.filling else {
            return;
        };
        filling.at += count;
        filling.left -= count;
        if filling.left == 0 {
            self.filling = None;
        }
        self.conn.payload_received(count as u32);
    }

    fn digest(&mut self, events: &mut Vec<LinkEvent>) -> io::Result<()> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, format!("{error}"));
        let mut at = 0;
        loop {
            if let (Wants::Payload(_), Some(filling)) = (self.conn.wants(), &self.filling) {
                let count = filling.left.min(self.inbox.len() - at);
                // SAFETY: as in `receive_once`.
                unsafe { filling.buffer.part_mut(filling.at, count) }
                    .copy_from_slice(&self.inbox[at..at + count]);
                at += count;
                self.filled(count);
                if self.filling.is_some() {
                    break;
                }
            }
            let step = self.conn.feed(&self.inbox[at..]).map_err(invalid)?;
            at += step.consumed;
            let Some(event) = step.event else { break };
            self.act(event, events);
        }
        self.inbox.drain(..at);
        Ok(())
    }

    fn act(&mut self, event: Event, events: &mut Vec<LinkEvent>) {
        let mut output = Vec::new();
        if self.conn.take_output(&mut output) {
            self.push(Piece::Bytes(output));
        }
        match event {
            Event::Connected => {
                self.stage = Stage::Probing;
                events.push(LinkEvent::Connected);
            }
            Event::Refused(refused) => events.push(LinkEvent::Refused {
                policy: refused.reply == c::REP_ERR_POLICY,
                // The export itself is refused while the server has no room for it, say.
                revoked: refused.reply == c::REP_ERR_POLICY && refused.option == c::OPT_SEGUE_HOLD,
                message: refused.message,
            }),
            Event::Data { cookie, at, length } => {
                let buffer = self.in_flight.get(&cookie).and_then(|p| p.buffer.as_ref());
                let (buffer, start) = buffer.expect("a read has a buffer");
                self.filling = Some(Filling {
                    buffer: buffer.clone(),
                    at: start + at as usize,
                    left: length as usize,
                });
            }
            Event::Zeroes { cookie, at, length } => {
                let buffer = self.in_flight.get(&cookie).and_then(|p| p.buffer.as_ref());
                let (buffer, start) = buffer.expect("a read has a buffer");
                // SAFETY: as in `receive_once`.
                unsafe { buffer.part_mut(start + at as usize, length as usize) }.fill(0);
            }
            Event::Done { cookie, result } => {
                let part = self.in_flight.remove(&cookie).expect("a request in flight");
                let errno = result.map_or_else(|failure| failure.errno as i32, |()| 0);
                events.push(LinkEvent::Done(part, errno));
            }
            Event::Output
            | Event::Progress
            | Event::Listed(_)
            | Event::Revoked
            | Event::Extents { .. } => {}
        }
    }

    /// The link is lost: what was under way on it has an unknown outcome.
    pub(super) fn abandon(&mut self) -> Vec<Part> {
        self.filling = None;
        self.in_flight.drain().map(|(_, part)| part).collect()
    }

    /// Says goodbye, as far as the socket takes it.
    pub(super) fn disconnect(&mut self) {
        let mut header = [0; c::REQUEST_BYTES];
        if self.stage != Stage::Joining && self.conn.disconnect(&mut header).is_ok() {
            self.push(Piece::Bytes(header.to_vec()));
            // It is closed in any case.
            let _ = self.send();
            if self.in_flight.is_empty() {
                let _ = sys::abort_on_close(self.fd(), false);
            }
        }
    }
}
