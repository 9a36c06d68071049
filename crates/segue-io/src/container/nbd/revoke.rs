//! Ending another holder's sessions at a server with a fence (`docs/protocol.md`, "The fence").

use std::io;
use std::time::{Duration, Instant};

use segue_nbd::client::{ClientConn, Config, Event, Goal};
use segue_nbd::fence::Revocation;

use super::address::{Address, Place};
use super::limits::Limits;
use super::link::JOIN_NS;
use crate::client::Stream;
use crate::container::backing::Ending;

/// Whether no I/O of the holder is under way at the server, or can begin there.
///
/// Only a server with a fence gives proof; it is asked over a connection of its own.
///
/// # Errors
/// Those of the connection; TimedOut while the holder's requests go on.
pub(super) fn revoke(
    address: &Address,
    limits: &Limits,
    holder: u64,
    ending: Ending,
) -> io::Result<bool> {
    if ending == Ending::Ask || !limits.fenced {
        return Ok(false);
    }
    let revocation = Revocation {
        holder,
        forever: ending == Ending::Forever,
    };
    let mut conn = ClientConn::new(Config {
        goal: Goal::Revoke(revocation),
        export: String::new(),
        structured: false,
        block_status: false,
        hold: None,
    });
    let limit = Duration::from_nanos(JOIN_NS);
    let deadline = Instant::now() + limit;
    let mut stream = match &address.place {
        Place::Unix(path) => Stream::unix(path)?,
        Place::Tcp(host, port) => Stream::tcp(host, *port, limit)?,
    };
    let mut received = Vec::new();
    loop {
        let step = conn.feed(&received).map_err(io::Error::other)?;
        received.drain(..step.consumed);
        let mut output = Vec::new();
        if conn.take_output(&mut output) {
            stream.write_all(&output)?;
        }
        match step.event {
            Some(Event::Revoked) => return Ok(true),
            Some(Event::Refused(refused)) => return Err(io::Error::other(refused.message)),
            Some(_) => {}
            None => {
                let left = deadline.saturating_duration_since(Instant::now());
                stream.set_timeout(left.max(Duration::from_millis(1)))?;
                let mut buffer = [0; 4096];
                match stream.read(&mut buffer)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    got => received.extend_from_slice(&buffer[..got]),
                }
            }
        }
    }
}
