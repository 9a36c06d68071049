//! One connection to `segue serve`, on a thread of its own.

use std::io;
use std::sync::Arc;

use segue_nbd::consts;
use segue_nbd::server::{Command, Event, Purpose, Refusal, RefusalKind, Request, Wants};

use super::Shared;
use super::replies::Replies;
use crate::buffer::Buffer;
use crate::client::Stream;
use crate::container::ZeroHow;

const RECEIVE_BYTES: usize = 64 << 10;

/// Serves a connection, on a thread of its own, until it ends; closes it if there are too many.
///
/// # Errors
/// Those of starting a thread: it is closed.
pub(super) fn start(stream: Stream, peer: String, shared: Arc<Shared>) -> io::Result<()> {
    let stream = Arc::new(stream);
    let Some(number) = shared.places.take(stream.clone(), peer) else {
        return Ok(());
    };
    shared.sessions.join(number, stream.clone());
    let mut session = Session {
        replies: Replies::new(number, stream.clone()),
        stream,
        shared: shared.clone(),
        number,
        received: Vec::new(),
    };
    let started = std::thread::Builder::new()
        .name("segue-session".into())
        .spawn(move || {
            crate::abort_on_panic(|| {
                if let Err(error) = session.run() {
                    crate::log(format_args!("serve: connection {number}: {error}"));
                }
                session.end();
            });
        });
    started.map(drop).inspect_err(|_| {
        shared.sessions.leave(number);
        shared.places.leave(number);
    })
}

struct Session {
    replies: Arc<Replies>,
    stream: Arc<Stream>,
    shared: Arc<Shared>,
    number: u64,
    received: Vec<u8>,
}

impl Session {
    fn run(&mut self) -> io::Result<()> {
        loop {
            self.replies.send_output();
            let step = self.replies.feed(&self.received);
            let Some(step) = step.map_err(io::Error::other)? else {
                return Ok(());
            };
            self.received.drain(..step.consumed);
            match step.event {
                Some(Event::Finished) => {
                    self.replies.send_output();
                    return Ok(());
                }
                Some(event) => self.act(event)?,
                None => {
                    if !self.receive()? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Its place is free again once nothing of it is under way.
    fn end(&self) {
        self.replies.close();
        self.shared.sessions.leave(self.number);
        self.shared.places.leave(self.number);
    }

    /// Receives something; `false`: the client has gone.
    fn receive(&mut self) -> io::Result<bool> {
        let before = self.received.len();
        self.received.resize(before + RECEIVE_BYTES, 0);
        let got = self.stream.receive(&mut self.received[before..]);
        let count = got.as_ref().copied().unwrap_or(0);
        self.received.truncate(before + count);
        Ok(got? > 0)
    }

    fn act(&mut self, event: Event) -> io::Result<()> {
        let (sessions, places) = (&self.shared.sessions, &self.shared.places);
        match event {
            Event::WantExport { name, purpose } => {
                let export = &self.shared.export;
                let known = name.is_empty() || name == export.name;
                let answer = match (known, purpose) {
                    (false, _) => Err(Refusal {
                        kind: RefusalKind::Unknown,
                        message: format!("there is no export {name:?}"),
                    }),
                    (true, Purpose::Describe) => Ok(()),
                    (true, Purpose::Open) => places.serve(self.number),
                };
                let answer = answer.map(|()| export.clone());
                let told = self.replies.conn(|conn| conn.export_answer(answer));
                told.map_err(io::Error::other)?;
            }
            Event::WantList => {
                let entry = (self.shared.export.name.as_str(), "");
                self.replies.conn(|conn| conn.list_answer(Ok([entry])));
            }
            Event::WantHold(hold) => {
                let answer = places.at_our_cost(self.number, || sessions.hold(self.number, &hold));
                self.replies.conn(|conn| conn.hold_answer(answer));
            }
            Event::WantRevoke(revocation) => {
                let answer = places.at_our_cost(self.number, || sessions.revoke(revocation));
                self.replies.conn(|conn| conn.revoke_answer(answer));
            }
            Event::Answer(answer) => self.replies.answer(&answer),
            Event::Request(request) => return self.request(request),
            Event::Output | Event::Finished => {}
        }
        Ok(())
    }

    fn request(&mut self, request: Request) -> io::Result<()> {
        let carries = matches!(request.command, Command::Read | Command::Write);
        let buffer = carries.then(|| Arc::new(Buffer::new(request.length as usize)));
        if let (Command::Write, Some(buffer)) = (request.command, &buffer) {
            self.take_payload(buffer)?;
        }
        if !self.shared.sessions.begin(self.number) {
            return Err(io::Error::other(
                "the session was ended by its holder or the controller",
            ));
        }
        let (replies, shared, number) = (self.replies.clone(), self.shared.clone(), self.number);
        let pool = self.shared.clone();
        pool.pool.submit(Box::new(move || {
            let done = perform(&shared, &request, buffer.as_deref());
            shared.sessions.end(number);
            replies.reply(&request, done, buffer);
        }));
        Ok(())
    }

    fn take_payload(&mut self, buffer: &Buffer) -> io::Result<()> {
        let mut filled = 0;
        loop {
            let Wants::Payload(left) = self.replies.conn(|conn| conn.wants()) else {
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
            self.replies
                .conn(|conn| conn.payload_received(count as u32));
        }
    }
}

fn perform(shared: &Shared, request: &Request, buffer: Option<&Buffer>) -> io::Result<()> {
    let storage = &shared.storage;
    let (offset, length) = (request.offset, request.length as usize);
    let fua = request.flags & consts::CMD_FLAG_FUA != 0;
    let failed_syncs = shared.failed_syncs();
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
            if fua {
                shared.flush_since(failed_syncs)
            } else {
                Ok(())
            }
        }
        (Command::Trim, _) => {
            storage.trim(offset, length as u64)?;
            if fua {
                shared.flush_since(failed_syncs)
            } else {
                Ok(())
            }
        }
        (Command::Flush, _) => shared.flush(),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
