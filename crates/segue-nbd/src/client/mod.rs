//! The client's half: one [`ClientConn`] per connection to a server.
//!
//! How the driver works with it:
//!
//! 1. Make it with [`ClientConn::new`] and feed it what is received. It consumes at most one
//!    message per [`ClientConn::feed`] and gives one [`Event`]; on [`Event::Output`] send what
//!    [`ClientConn::take_output`] gives. Feed again until `event` is `None`, keep the bytes not
//!    consumed (fewer than 134 while `wants()` is `Bytes`) and read more.
//! 2. After [`Event::Connected`], [`ClientConn::submit`] encodes requests; after the header of a
//!    WRITE the driver sends the payload itself.
//! 3. [`Event::Data`] announces bytes of a READ: `wants()` is [`Wants::Payload`], the driver puts
//!    them where they belong and reports them with [`ClientConn::payload_received`], then feeds
//!    again (even nothing): the request may be done. [`Event::Zeroes`] has no bytes to follow.
//! 4. [`Event::Done`] ends a request. A READ that is done without error has had every byte of
//!    its range announced exactly once.
//! 5. [`ClientConn::disconnect`] encodes the end; wait until nothing is in flight first.
//!
//! The server is not trusted: what it makes the connection hold is bounded, and a reply that
//! breaks a rule of the document ends the connection with one sentence.

mod extents;
mod handshake;
mod in_flight;
mod request;
mod transmission;

use alloc::string::String;
use alloc::vec::Vec;

use crate::consts as c;
use crate::fence::{Hold, Revocation, Session};
use crate::{BlockSizes, Errno, Extent, ProtocolError};
use handshake::Handshake;
pub use request::{Command, Request, RequestError};
use transmission::Transmission;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Enter transmission with the export.
    Connect,
    /// List the exports and leave.
    List,
    /// End a holder's sessions and leave ([`crate::fence`]).
    Revoke(Revocation),
}

/// What to ask the server for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What the connection is for.
    pub goal: Goal,
    /// The export's name, at most 4096 bytes; empty for the default one. Unused in a list.
    pub export: String,
    /// Ask for structured replies.
    pub structured: bool,
    /// Ask for `base:allocation`; needs `structured`.
    pub block_status: bool,
    /// Whom the connection acts for, if the server has a fence ([`crate::fence`]).
    pub hold: Option<Hold>,
}

/// What was agreed on with the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// Size of the export in bytes.
    pub size_bytes: u64,
    /// Transmission flags ([`c::FLAG_READ_ONLY`] and so on).
    pub flags: u16,
    /// Block sizes, if the server told.
    pub block_sizes: Option<BlockSizes>,
    /// Structured replies are in use.
    pub structured: bool,
    /// The id of `base:allocation`, if it was selected: BLOCK_STATUS may be used.
    pub allocation_id: Option<u32>,
    /// Canonical name, if the server told.
    pub name: Option<String>,
    /// Description, if the server told.
    pub description: Option<String>,
    /// The session that `Config::hold` was given; `None`: the server has no fence.
    pub session: Option<Session>,
}

impl Negotiated {
    /// Whether a transmission flag is set.
    #[must_use]
    pub fn offers(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Longest READ and WRITE, in bytes: what was advertised, never over 32 MiB.
    #[must_use]
    pub fn payload_bytes_max(&self) -> u32 {
        self.block_sizes
            .map_or(c::PAYLOAD_BYTES_MAX, |sizes| sizes.served().maximum())
    }
}

/// One export of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedExport {
    /// Its name.
    pub name: String,
    /// For people; may be empty.
    pub description: String,
}

/// What one call of [`ClientConn::feed`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that are used up; the driver offers the others again.
    pub consumed: usize,
    /// What happened; `None`: nothing more without what [`ClientConn::wants`] says.
    pub event: Option<Event>,
}

impl Step {
    fn new(consumed: usize, event: Event) -> Step {
        Step {
            consumed,
            event: Some(event),
        }
    }

    fn quiet(consumed: usize) -> Step {
        Step {
            consumed,
            event: None,
        }
    }
}

/// What the driver must act upon.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes wait in [`ClientConn::take_output`].
    Output,
    /// A message was taken in that asks nothing of the driver: feed on.
    Progress,
    /// In transmission; see [`ClientConn::negotiated`].
    Connected,
    /// The list that was asked for. Send the output (OPT_ABORT) and close.
    Listed(Vec<ListedExport>),
    /// All I/O of the holder has ended at the server. Send the output (OPT_ABORT) and close.
    Revoked,
    /// The server refused the export or the list. Send the output (OPT_ABORT) and close.
    Refused(OptionRefused),
    /// `length` bytes of a READ follow, beginning `at` bytes into its range.
    Data {
        /// The request.
        cookie: u64,
        /// First byte, counted from the request's offset.
        at: u32,
        /// Bytes that follow; at least 1.
        length: u32,
    },
    /// `length` bytes of a READ, beginning `at` bytes into its range, are zeroes.
    Zeroes {
        /// The request.
        cookie: u64,
        /// First byte, counted from the request's offset.
        at: u32,
        /// Number of bytes; at least 1.
        length: u32,
    },
    /// Extents from a BLOCK_STATUS's offset on; the last may go beyond its range.
    Extents {
        /// The request.
        cookie: u64,
        /// At least one, none empty.
        extents: Vec<Extent>,
    },
    /// The request has ended.
    Done {
        /// The request; the cookie is free again.
        cookie: u64,
        /// Success, or why not.
        result: Result<(), Failure>,
    },
}

/// The server's answer to an option that could not be done without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionRefused {
    /// The option ([`c::OPT_GO`] and so on).
    pub option: u32,
    /// The reply's type ([`c::REP_ERR_UNKNOWN`] and so on).
    pub reply: u32,
    /// The server's sentence; may be empty.
    pub message: String,
}

/// Why a request failed at the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The error.
    pub errno: Errno,
    /// The server's sentence; may be empty.
    pub message: String,
    /// Where, from the start of the export, if the server told.
    pub offset: Option<u64>,
}

/// What the connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// A call of [`ClientConn::feed`].
    Bytes,
    /// This many bytes of a READ's data, by [`ClientConn::payload_received`].
    Payload(u32),
    /// Nothing: it has finished.
    Nothing,
}

/// One connection to a server. See the module's text for how it is driven.
#[derive(Debug)]
pub struct ClientConn {
    phase: Phase,
    output: Vec<u8>,
}

#[derive(Debug)]
enum Phase {
    Handshake(Handshake),
    Transmission(Transmission),
    Finished,
}

impl ClientConn {
    /// A new connection; the server speaks first.
    #[must_use]
    pub fn new(config: Config) -> Self {
        ClientConn {
            phase: Phase::Handshake(Handshake::new(config)),
            output: Vec::new(),
        }
    }

    /// Parses at most one message off the front of `input`.
    ///
    /// # Errors
    /// The server broke the protocol: close. What is in flight has an unknown outcome.
    pub fn feed(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        let result = match &mut self.phase {
            Phase::Handshake(handshake) => handshake.feed(input, &mut self.output),
            Phase::Transmission(transmission) => transmission.feed(input),
            Phase::Finished => return Ok(Step::quiet(0)),
        };
        match &result {
            Ok(Step {
                event: Some(Event::Connected),
                ..
            }) => {
                if let Phase::Handshake(handshake) = &mut self.phase {
                    let negotiated = core::mem::take(&mut handshake.negotiated);
                    self.phase = Phase::Transmission(Transmission::new(negotiated));
                }
            }
            Ok(Step {
                event: Some(Event::Listed(_) | Event::Refused(_) | Event::Revoked),
                ..
            })
            | Err(_) => {
                self.phase = Phase::Finished;
            }
            Ok(_) => {}
        }
        result
    }

    /// What the connection waits for now.
    #[must_use]
    pub fn wants(&self) -> Wants {
        match &self.phase {
            Phase::Handshake(_) => Wants::Bytes,
            Phase::Transmission(transmission) => transmission.wants(),
            Phase::Finished => Wants::Nothing,
        }
    }

    /// Appends the handshake's waiting bytes to `out`. Gives whether there were any.
    pub fn take_output(&mut self, out: &mut Vec<u8>) -> bool {
        let taken = core::mem::take(&mut self.output);
        out.extend_from_slice(&taken);
        !taken.is_empty()
    }

    /// What was agreed on, once in transmission.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        match &self.phase {
            Phase::Transmission(transmission) => Some(&transmission.negotiated),
            _ => None,
        }
    }

    /// Puts a request in flight and encodes its header into `out`; gives its cookie. After the
    /// header of a WRITE, `request.length` bytes of payload must follow on the wire.
    ///
    /// # Errors
    /// The caller's mistake, nothing is in flight: see [`RequestError`].
    pub fn submit(
        &mut self,
        request: &Request,
        out: &mut [u8; c::REQUEST_BYTES],
    ) -> Result<u64, RequestError> {
        match &mut self.phase {
            Phase::Transmission(transmission) => transmission.submit(request, out),
            _ => Err(RequestError::NotConnected),
        }
    }

    /// Reports that the driver has taken `count` bytes of the data off the stream; then feed.
    ///
    /// # Panics
    /// If that is more than `wants()` said: a mistake of the driver.
    pub fn payload_received(&mut self, count: u32) {
        match &mut self.phase {
            Phase::Transmission(transmission) => transmission.payload_received(count),
            _ => assert_eq!(count, 0, "payload outside transmission"),
        }
    }

    /// Encodes DISC; nothing may be sent after it. Requests in flight may still be answered.
    ///
    /// # Errors
    /// [`RequestError::NotConnected`] outside transmission or if called before.
    pub fn disconnect(&mut self, out: &mut [u8; c::REQUEST_BYTES]) -> Result<(), RequestError> {
        match &mut self.phase {
            Phase::Transmission(transmission) => transmission.disconnect(out),
            _ => Err(RequestError::NotConnected),
        }
    }

    /// Whether the server has said that it is shutting down: it still answers what is in flight, and
    /// takes nothing more.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        match &self.phase {
            Phase::Transmission(transmission) => transmission.shutting_down,
            _ => false,
        }
    }

    /// Number of requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match &self.phase {
            Phase::Transmission(transmission) => transmission.in_flight.len(),
            _ => 0,
        }
    }

    /// The server has closed the stream; `rest` is how many received bytes are unconsumed. What
    /// is in flight has an unknown outcome.
    ///
    /// # Errors
    /// [`ProtocolError::ExportNameRefused`] if that is how it refused the export, and
    /// [`ProtocolError::Truncated`] if the end came inside a message, in the handshake, or with
    /// requests in flight.
    pub fn handle_eof(&mut self, rest: usize) -> Result<(), ProtocolError> {
        let result = match &self.phase {
            Phase::Handshake(handshake) => Err(handshake.eof_error()),
            Phase::Transmission(transmission) => {
                let inside = transmission.is_inside_message() || rest > 0;
                let waiting = transmission.in_flight.len() > 0;
                if inside || waiting {
                    Err(ProtocolError::Truncated)
                } else {
                    Ok(())
                }
            }
            Phase::Finished => Ok(()),
        };
        self.phase = Phase::Finished;
        result
    }
}
