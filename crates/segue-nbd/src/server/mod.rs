//! The server's half: one [`ServerConn`] per connection of a host.
//!
//! ```text
//! greeting -> client flags -> options ... -> transmission -> finished
//! ```
//!
//! How the driver works with it:
//!
//! 1. Make it with [`ServerConn::new`] and send what [`ServerConn::take_output`] gives (the
//!    greeting). Do the same after every `feed`, `export_answer` and `list_answer` during the
//!    handshake: transmission has no output of its own.
//! 2. Call [`ServerConn::feed`] with the received bytes. It consumes at most one message, says
//!    how many bytes it used, and gives one [`Event`]; call again until `event` is `None`, keep
//!    the bytes not consumed (fewer than 28 while `wants()` is `Bytes`) and read more.
//! 3. After a WRITE's [`Event::Request`], `wants()` is [`Wants::Payload`]: the next bytes of the
//!    stream belong to the driver, which puts them into the request's own buffer and reports them
//!    with [`ServerConn::payload_received`].
//! 4. Each [`Request`] gets one reply: [`ServerConn::read_reply`], [`ServerConn::done_reply`],
//!    [`ServerConn::block_status_reply`] or [`ServerConn::error_reply`], in any order. They
//!    write the head into a buffer of the driver; the data of a read follows it on the wire.
//! 5. After [`Event::Finished`] or an orderly end of stream, wait until
//!    [`ServerConn::is_drained`], send what is queued and close. After an error close at once.

mod handshake;
mod options;
mod output;
mod request;
mod rules;
mod transmission;

use alloc::string::String;
use alloc::vec::Vec;

use crate::fence::{Hold, Revocation, Session};
use crate::{Errno, ExportInfo, ProtocolError};
use handshake::Handshake;
use output::Output;
pub use request::{Command, Request};
use transmission::Transmission;

/// Metadata context id of `base:allocation`, the only context there is.
pub const BASE_ALLOCATION_ID: u32 = 1;
/// Longest option data that is looked at, in bytes; what is longer is skipped and refused.
pub const OPTION_DATA_BYTES_MAX: u32 = 64 * 1024;
/// Longest option data that is skipped, in bytes; what is longer ends the connection.
pub const OPTION_SKIP_BYTES_MAX: u32 = 1 << 25;

/// Options that one client may send; more end the connection.
pub const OPTIONS_MAX: u32 = 1024;

/// What one call of [`ServerConn::feed`] did.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the input that are used up; the driver offers the others again.
    pub consumed: usize,
    /// What happened; `None`: nothing more without what [`ServerConn::wants`] says, even if input
    /// is left over (the beginning of a header, or a payload for the driver).
    pub event: Option<Event>,
}

impl Step {
    #[inline]
    fn new(consumed: usize, event: Event) -> Step {
        Step {
            consumed,
            event: Some(event),
        }
    }

    #[inline]
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
    /// Bytes wait in [`ServerConn::take_output`]; nothing further is parsed before they are taken.
    Output,
    /// Look up an export, then call [`ServerConn::export_answer`]. An empty name means the
    /// default export.
    WantExport {
        /// The name as the client sent it.
        name: String,
        /// Whether the connection will use the export or only describe it.
        purpose: Purpose,
    },
    /// List the exports, then call [`ServerConn::list_answer`].
    WantList,
    /// With a fence only: whom the connection acts for; then call [`ServerConn::hold_answer`].
    WantHold(Hold),
    /// With a fence only: end a holder's sessions; then call [`ServerConn::revoke_answer`].
    WantRevoke(Revocation),
    /// A valid request, to be carried out and replied to. If it is a WRITE, its payload comes
    /// next: `wants()` is now `Payload(length)`. Its length is never 0, except a FLUSH's.
    Request(Request),
    /// A request that needs no I/O (refused, or of no length): encode its reply with
    /// [`ServerConn::answer_reply`] and send it. A refused WRITE's payload is already skipped.
    Answer(Answer),
    /// The client asked for the end (DISC or OPT_ABORT). No more input is looked at.
    Finished,
}

/// Why an export is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// For information only.
    Describe,
    /// A positive answer enters transmission: attach to the export.
    Open,
}

/// The reply to a request that the connection decided itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The client's name for the request.
    pub cookie: u64,
    /// The command's number as sent, which may be unknown.
    pub command: u16,
    /// `None` for success.
    pub error: Option<Errno>,
    /// One sentence for people, empty on success.
    pub why: &'static str,
}

/// What the connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Received bytes, by [`ServerConn::feed`].
    Bytes,
    /// This many bytes of a WRITE's payload, by [`ServerConn::payload_received`].
    Payload(u32),
    /// [`ServerConn::export_answer`].
    ExportAnswer,
    /// [`ServerConn::list_answer`].
    ListAnswer,
    /// [`ServerConn::hold_answer`] or [`ServerConn::revoke_answer`].
    FenceAnswer,
    /// Nothing: it has finished.
    Nothing,
}

/// Why an export or the list of exports is refused ("Option reply types").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of refusal.
    pub kind: RefusalKind,
    /// One sentence for people; may be empty. At most 4096 bytes (longer is cut).
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// No such export (`ERR_UNKNOWN`).
    Unknown,
    /// Forbidden (`ERR_POLICY`).
    Policy,
    /// Shutting down (`ERR_SHUTDOWN`).
    Shutdown,
}

/// One connection of a host. See the module's text for how it is driven.
///
/// Memory: at most [`OPTION_DATA_BYTES_MAX`] for an option under way plus the answer to it;
/// nothing is allocated in transmission.
#[derive(Debug)]
pub struct ServerConn {
    phase: Phase,
    shutting_down: bool,
    in_flight: u32,
}

#[derive(Debug)]
enum Phase {
    Handshake(Handshake),
    Transmission(Transmission),
    /// Output of the handshake may still wait (the ACK of OPT_ABORT); requests may be in flight.
    Finished {
        output: Output,
        structured: bool,
    },
}

impl Default for ServerConn {
    fn default() -> Self {
        Self::new()
    }
}

impl ServerConn {
    /// A new connection, its greeting waiting in the output.
    #[must_use]
    pub fn new() -> Self {
        Self::make(false)
    }

    /// A new connection to a server with a fence ([`crate::fence`]).
    #[must_use]
    pub fn fenced() -> Self {
        Self::make(true)
    }

    fn make(fenced: bool) -> Self {
        ServerConn {
            phase: Phase::Handshake(Handshake::new(fenced)),
            shutting_down: false,
            in_flight: 0,
        }
    }

    /// Parses at most one message off the front of `input`.
    ///
    /// # Errors
    /// The client broke the protocol: log the error and close. Feeding on does nothing.
    #[inline]
    pub fn feed(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        let result = match &mut self.phase {
            Phase::Transmission(transmission) => transmission.feed(input, self.shutting_down),
            Phase::Handshake(handshake) => handshake.feed(input, self.shutting_down),
            Phase::Finished { .. } => return Ok(Step::quiet(0)),
        };
        match &result {
            Ok(Step {
                event: Some(Event::Request(_)),
                ..
            }) => self.in_flight += 1,
            Ok(Step {
                event: Some(Event::Finished),
                ..
            })
            | Err(_) => self.finish(),
            Ok(_) => {}
        }
        result
    }

    /// What the connection waits for now.
    #[must_use]
    pub fn wants(&self) -> Wants {
        match &self.phase {
            Phase::Handshake(handshake) => handshake.wants(),
            Phase::Transmission(transmission) => transmission.wants(),
            Phase::Finished { .. } => Wants::Nothing,
        }
    }

    /// Appends the handshake's waiting bytes to `out`, in the order they must be sent and before
    /// any reply. Gives whether there were any.
    pub fn take_output(&mut self, out: &mut Vec<u8>) -> bool {
        let output = match &mut self.phase {
            Phase::Handshake(handshake) => &mut handshake.output,
            Phase::Transmission(transmission) => &mut transmission.output,
            Phase::Finished { output, .. } => output,
        };
        output.take(out)
    }

    /// Answers [`Event::WantExport`].
    ///
    /// With purpose `Open` and `Ok`, the connection is in transmission from here on, and
    /// [`ServerConn::export`] gives the export back. Then take the output and feed on.
    ///
    /// # Errors
    /// The refusal cannot be told to the client (OPT_EXPORT_NAME): close the connection.
    ///
    /// # Panics
    /// If no export was asked for: a mistake of the driver.
    pub fn export_answer(
        &mut self,
        answer: Result<ExportInfo, Refusal>,
    ) -> Result<(), ProtocolError> {
        let Phase::Handshake(handshake) = &mut self.phase else {
            panic!("export_answer outside the handshake");
        };
        match handshake.export_answer(answer) {
            Ok(None) => Ok(()),
            Ok(Some(transmission)) => {
                self.phase = Phase::Transmission(transmission);
                Ok(())
            }
            Err(error) => {
                self.finish();
                Err(error)
            }
        }
    }

    /// Answers [`Event::WantList`] with names and descriptions (which may be empty). Names that
    /// are no legal strings (over 4096 bytes, or with NUL) are left out. Then take the output.
    ///
    /// # Panics
    /// If no list was asked for: a mistake of the driver.
    pub fn list_answer<N, D>(&mut self, answer: Result<impl IntoIterator<Item = (N, D)>, Refusal>)
    where
        N: AsRef<str>,
        D: AsRef<str>,
    {
        let Phase::Handshake(handshake) = &mut self.phase else {
            panic!("list_answer outside the handshake");
        };
        handshake.list_answer(answer);
    }

    /// Answers [`Event::WantHold`] with the session made, once those it ends have ended. Then take
    /// the output.
    ///
    /// # Panics
    /// If it was not asked: a mistake of the driver.
    pub fn hold_answer(&mut self, answer: Result<Session, Refusal>) {
        self.fence_answer(answer.map(Some));
    }

    /// Answers [`Event::WantRevoke`], once nothing of the holder is under way. Then take the output.
    ///
    /// # Panics
    /// If it was not asked: a mistake of the driver.
    pub fn revoke_answer(&mut self, answer: Result<(), Refusal>) {
        self.fence_answer(answer.map(|()| None));
    }

    fn fence_answer(&mut self, answer: Result<Option<Session>, Refusal>) {
        let Phase::Handshake(handshake) = &mut self.phase else {
            panic!("an answer about the fence outside the handshake");
        };
        handshake.fence_answer(answer);
    }

    /// Reports that the driver has taken `count` bytes of the payload off the stream.
    ///
    /// # Panics
    /// If that is more than `wants()` said: a mistake of the driver.
    #[inline]
    pub fn payload_received(&mut self, count: u32) {
        match &mut self.phase {
            Phase::Transmission(transmission) => transmission.payload_received(count),
            _ => assert_eq!(count, 0, "payload outside transmission"),
        }
    }

    /// The driver has no use for the rest of the payload (no memory, say): `feed` skips it. The
    /// request still needs its reply, which may be sent at once.
    pub fn discard_payload(&mut self) {
        if let Phase::Transmission(transmission) = &mut self.phase {
            transmission.discard_payload();
        }
    }

    /// The client has closed its side of the stream. `rest` is how many received bytes are still
    /// unconsumed. Requests in flight may still be replied to; no more input is looked at.
    ///
    /// # Errors
    /// [`ProtocolError::Truncated`] if the stream ended inside a message.
    pub fn handle_eof(&mut self, rest: usize) -> Result<(), ProtocolError> {
        let inside = match &self.phase {
            Phase::Handshake(handshake) => handshake.is_inside_message(),
            Phase::Transmission(transmission) => transmission.is_inside_message(),
            Phase::Finished { .. } => return Ok(()),
        };
        self.finish();
        if inside || rest > 0 {
            Err(ProtocolError::Truncated)
        } else {
            Ok(())
        }
    }

    /// The server is going away: from now on every option but OPT_ABORT is refused, and every
    /// request is answered with ESHUTDOWN. Requests already handed out are not touched.
    pub fn begin_shutdown(&mut self) {
        self.shutting_down = true;
    }

    /// The export in use, once in transmission.
    #[must_use]
    pub fn export(&self) -> Option<&ExportInfo> {
        match &self.phase {
            Phase::Transmission(transmission) => Some(&transmission.export),
            _ => None,
        }
    }

    /// Whether requests are being served (false once finished).
    #[must_use]
    pub fn is_transmission(&self) -> bool {
        matches!(self.phase, Phase::Transmission(_))
    }

    /// Whether structured replies were agreed on.
    #[must_use]
    pub fn is_structured(&self) -> bool {
        match &self.phase {
            Phase::Handshake(handshake) => handshake.structured,
            Phase::Transmission(transmission) => transmission.structured,
            Phase::Finished { structured, .. } => *structured,
        }
    }

    /// Requests handed out whose last reply has not been encoded yet.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether the connection has finished and every request has its reply: once the driver's
    /// queue is sent, it can close.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        matches!(self.phase, Phase::Finished { .. }) && self.in_flight == 0
    }

    fn finish(&mut self) {
        let structured = self.is_structured();
        let output = match &mut self.phase {
            Phase::Handshake(handshake) => core::mem::take(&mut handshake.output),
            Phase::Transmission(transmission) => core::mem::take(&mut transmission.output),
            Phase::Finished { .. } => return,
        };
        self.phase = Phase::Finished { output, structured };
    }

    #[inline]
    fn finish_request(&mut self) {
        self.in_flight = self
            .in_flight
            .checked_sub(1)
            .expect("a reply to a request in flight");
    }
}
