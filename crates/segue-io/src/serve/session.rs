//! One connection to `segue serve`, on a thread of its own.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use segue_nbd::reply::HEAD_BYTES_MAX;
use segue_nbd::server::{Command, Event, Refusal, RefusalKind, Request, ServerConn, Wants};
use segue_nbd::{Errno, consts};

use super::Shared;
use crate::buffer::Buffer;
use crate::client::Stream;
use crate::container::ZeroHow;

const RECEIVE_BYTES: usize = 64 << 10;
/// A handshake has so long for all that the client has to say.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What answers need: the protocol's state, and the socket. One answer at a time.
type Answering = Arc<Mutex<ServerConn>>;

/// Serves a connection, on a thread of its own, until it ends.
pub(super) fn start(stream: Stream, shared: Arc<Shared>) {
    let stream = Arc::new(stream);
    let Some(number) = shared.sessions.join(stream.clone()) else {
        return;
    };
    let mut session = Session {
        conn: Arc::new(Mutex::new(ServerConn::fenced())),
        stream,
        shared: shared.clone(),
        number,
        received: Vec::new(),
        handshake_until: Some(Instant::now() + HANDSHAKE),
    };
    let started = std::thread::Builder::new()
        .name("segue-session".into())
        .spawn(move || {
            crate::abort_on_panic(|| {
                if let Err(error) = session.run() {
                    crate::log(format_args!("serve: connection {number}: {error}"));
                }
                session.stream.shutdown(std::net::Shutdown::Both);
                session.shared.sessions.leave(number);
            });
        });
    if started.is_err() {
        shared.sessions.leave(number);
    }
}

struct Session {
    conn: Answering,
    stream: Arc<Stream>,
    shared: Arc<Shared>,
    number: u64,
    received: Vec<u8>,
    /// `None`: it is over.
    handshake_until: Option<Instant>,
}

fn too_long() -> io::Error {
    io::Error::other("its handshake took too long")
}

fn lock(conn: &Answering) -> std::sync::MutexGuard<'_, ServerConn> {
    conn.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    fn run(&mut self) -> io::Result<()> {
        loop {
            self.send_output()?;
            let step = {
                let mut conn = lock(&self.conn);
                conn.feed(&self.received).map_err(io::Error::other)?
            };
            self.received.drain(..step.consumed);
            match step.event {
                Some(Event::Finished) => return self.send_output(),
                Some(event) => self.act(event)?,
                None => {
                    if !self.receive()? {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn send_output(&self) -> io::Result<()> {
        let mut conn = lock(&self.conn);
        let mut output = Vec::new();
        if conn.take_output(&mut output) {
            self.stream.send_all(&output)?;
        }
        Ok(())
    }

    /// What was waited for was not the client.
    fn begin_handshake_anew(&mut self) {
        self.handshake_until = Some(Instant::now() + HANDSHAKE);
    }

    /// Gives the client so long for the next bytes of its handshake as is left for all of it.
    fn limit_handshake(&mut self) -> io::Result<()> {
        let Some(until) = self.handshake_until else {
            return Ok(());
        };
        if lock(&self.conn).is_transmission() {
            self.handshake_until = None;
            return self.stream.set_timeout(None);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(too_long());
        }
        self.stream.set_timeout(Some(left))
    }

    /// Receives something; `false`: the client has gone.
    fn receive(&mut self) -> io::Result<bool> {
        self.limit_handshake()?;
        let before = self.received.len();
        self.received.resize(before + RECEIVE_BYTES, 0);
        let got = self.stream.receive(&mut self.received[before..]);
        let count = got.as_ref().copied().unwrap_or(0);
        self.received.truncate(before + count);
        match got {
            // Only a handshake has a limit.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(too_long()),
            got => Ok(got? > 0),
        }
    }

    fn act(&mut self, event: Event) -> io::Result<()> {
        let sessions = &self.shared.sessions;
        match event {
            Event::WantExport { name, .. } => {
                let export = &self.shared.export;
                let unknown = Refusal {
                    kind: RefusalKind::Unknown,
                    message: format!("there is no export {name:?}"),
                };
                let known = name.is_empty() || name == export.name;
                let answer = known.then(|| export.clone()).ok_or(unknown);
                let mut conn = lock(&self.conn);
                conn.export_answer(answer).map_err(io::Error::other)?;
            }
            Event::WantList => {
                let entry = (self.shared.export.name.as_str(), "");
                lock(&self.conn).list_answer(Ok([entry]));
            }
            Event::WantHold(hold) => {
                let answer = sessions.hold(self.number, &hold);
                lock(&self.conn).hold_answer(answer);
                self.begin_handshake_anew();
            }
            Event::WantRevoke(revocation) => {
                let answer = sessions.revoke(revocation);
                lock(&self.conn).revoke_answer(answer);
                self.begin_handshake_anew();
            }
            Event::Answer(answer) => {
                let mut head = [0; HEAD_BYTES_MAX];
                let conn = lock(&self.conn);
                let length = conn.answer_reply(&answer, &mut head);
                self.stream.send_all(&head[..length])?;
            }
            Event::Request(request) => return self.request(request),
            Event::Output | Event::Finished => {}
        }
        Ok(())
    }

    fn request(&mut self, request: Request) -> io::Result<()> {
        let carries = matches!(request.command, Command::Read | Command::Write);
        let buffer = carries.then(|| Buffer::new(request.length as usize));
        if let (Command::Write, Some(buffer)) = (request.command, &buffer) {
            self.take_payload(buffer)?;
        }
        let bytes = if carries { request.length.into() } else { 0 };
        if !self.shared.sessions.begin(self.number, bytes) {
            return Err(io::Error::other(
                "the session was ended by its holder or the controller",
            ));
        }
        let (conn, stream) = (self.conn.clone(), self.stream.clone());
        let (shared, number) = (self.shared.clone(), self.number);
        let pool = self.shared.clone();
        pool.pool.submit(Box::new(move || {
            let done = perform(&shared, &request, buffer.as_ref());
            shared.sessions.end(number, bytes);
            answer(&conn, &stream, &request, done, buffer.as_ref());
        }));
        Ok(())
    }

    fn take_payload(&mut self, buffer: &Buffer) -> io::Result<()> {
        let mut filled = 0;
        loop {
            let Wants::Payload(left) = lock(&self.conn).wants() else {
                return Ok(());
            };
            let left = left as usize;
            let ready = self.received.len().min(left);
            // SAFETY: nobody else has the buffer yet.
            let part = unsafe { buffer.part_mut(filled, left) };
            let count = if ready > 0 {
                part[..ready].copy_from_slice(&self.received[..ready]);
                self.received.drain(..ready);
                ready
            } else {
                self.stream.receive(part)?
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            filled += count;
            lock(&self.conn).payload_received(count as u32);
        }
    }
}

fn perform(shared: &Shared, request: &Request, buffer: Option<&Buffer>) -> io::Result<()> {
    let storage = &shared.storage;
    let (offset, length) = (request.offset, request.length as usize);
    let fua = request.flags & consts::CMD_FLAG_FUA != 0;
    let flush = || storage.flush();
    match (request.command, buffer) {
        // SAFETY: nobody else has the buffer.
        (Command::Read, Some(buffer)) => {
            storage.read(offset, unsafe { buffer.part_mut(0, length) })
        }
        (Command::Write, Some(buffer)) => {
            let write = || storage.write(offset, buffer.part(0, length), fua);
            if fua { shared.sync(write) } else { write() }
        }
        (Command::WriteZeroes, _) => {
            let how = ZeroHow {
                no_hole: request.flags & consts::CMD_FLAG_NO_HOLE != 0,
                fast: request.fast_zero(),
                fua: false,
            };
            storage.zero(offset, length as u64, how)?;
            if fua { shared.sync(flush) } else { Ok(()) }
        }
        (Command::Trim, _) => {
            storage.trim(offset, length as u64)?;
            if fua { shared.sync(flush) } else { Ok(()) }
        }
        (Command::Flush, _) => shared.flush(),
        _ => Ok(()),
    }
}

/// Answers; that the client has gone meanwhile is found out by its reader.
fn answer(
    conn: &Answering,
    stream: &Stream,
    request: &Request,
    done: io::Result<()>,
    buffer: Option<&Buffer>,
) {
    let mut head = [0; HEAD_BYTES_MAX];
    let mut conn = lock(conn);
    let sent = match (done, request.command) {
        (Ok(()), Command::Read) => {
            let length = conn.read_reply(request, &mut head);
            let data = buffer.map_or(&[][..], |buffer| buffer.part(0, request.length as usize));
            stream
                .send_all(&head[..length])
                .and_then(|()| stream.send_all(data))
        }
        (Ok(()), _) => {
            let length = conn.done_reply(request, &mut head);
            stream.send_all(&head[..length])
        }
        (Err(error), _) => {
            let errno = match error.raw_os_error() {
                Some(libc::EOPNOTSUPP) if request.fast_zero() => Errno::Enotsup,
                Some(errno) => Errno::from_linux(errno),
                None => Errno::Eio,
            };
            let length = conn.error_reply(request, errno, "", &mut head);
            stream.send_all(&head[..length])
        }
    };
    if sent.is_err() {
        stream.shutdown(std::net::Shutdown::Both);
    }
}
