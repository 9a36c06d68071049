//! Transmission as the client: requests out, replies in, every reply checked.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::in_flight::{CoverageError, InFlight, PIECES_MAX, Pending};
use super::request::encode_disc;
use super::{Command, Event, Failure, Negotiated, Request, RequestError, Step, Wants, extents};
use crate::consts as c;
use crate::wire::{Reader, prefix, u16_at, u32_at, u64_at};
use crate::{Errno, ProtocolError, reply};

/// Longest payload of an error chunk that is borne, in bytes.
const ERROR_BYTES_MAX: u32 = 64 * 1024;

#[derive(Debug)]
pub(super) struct Transmission {
    pub(super) negotiated: Negotiated,
    pub(super) in_flight: InFlight,
    state: State,
    pub(super) shutting_down: bool,
    disconnected: bool,
}

#[derive(Debug)]
enum State {
    /// Before a reply or chunk.
    Header,
    /// `left` bytes of data go to the driver; then, if `done`, the request is done.
    Data { cookie: u64, left: u32, done: bool },
    /// A payload that is looked at when it is whole.
    Chunk { head: ChunkHead, payload: Vec<u8> },
}

#[derive(Clone, Copy, Debug)]
struct ChunkHead {
    done: bool,
    kind: u16,
    cookie: u64,
    length: u32,
}

fn invalid<T>(cookie: u64, rule: &'static str) -> Result<T, ProtocolError> {
    Err(ProtocolError::ReplyInvalid { cookie, rule })
}

impl Transmission {
    pub(super) fn new(negotiated: Negotiated) -> Self {
        Transmission {
            negotiated,
            in_flight: InFlight::default(),
            state: State::Header,
            shutting_down: false,
            disconnected: false,
        }
    }

    pub(super) fn submit(
        &mut self,
        request: &Request,
        out: &mut [u8; c::REQUEST_BYTES],
    ) -> Result<u64, RequestError> {
        if self.disconnected {
            return Err(RequestError::NotConnected);
        }
        if self.shutting_down {
            return Err(RequestError::ShuttingDown);
        }
        request.check(&self.negotiated)?;
        let cookie = self.in_flight.insert(*request);
        request.encode(cookie, out);
        Ok(cookie)
    }

    pub(super) fn disconnect(
        &mut self,
        out: &mut [u8; c::REQUEST_BYTES],
    ) -> Result<(), RequestError> {
        if core::mem::replace(&mut self.disconnected, true) {
            return Err(RequestError::NotConnected);
        }
        encode_disc(out);
        Ok(())
    }

    pub(super) fn wants(&self) -> Wants {
        match self.state {
            State::Data { left, .. } if left > 0 => Wants::Payload(left),
            _ => Wants::Bytes,
        }
    }

    pub(super) fn is_inside_message(&self) -> bool {
        !matches!(self.state, State::Header)
    }

    pub(super) fn payload_received(&mut self, count: u32) {
        match &mut self.state {
            State::Data { left, .. } => {
                *left = left
                    .checked_sub(count)
                    .expect("no more payload than is wanted");
            }
            _ => assert_eq!(count, 0, "payload that is not wanted"),
        }
    }

    pub(super) fn feed(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        match &mut self.state {
            State::Data { left: 1.., .. } => Ok(Step::quiet(0)),
            State::Data { cookie, done, .. } => {
                let (cookie, done) = (*cookie, *done);
                self.state = State::Header;
                if done {
                    Ok(Step::new(0, self.done(cookie)?))
                } else {
                    self.feed_header(input)
                }
            }
            State::Header => self.feed_header(input),
            State::Chunk { head, payload } => {
                // The length was checked against a bound of its kind.
                let count = input.len().min(head.length as usize - payload.len());
                payload.extend_from_slice(&input[..count]);
                if payload.len() < head.length as usize {
                    return Ok(Step::quiet(count));
                }
                let (head, payload) = (*head, core::mem::take(payload));
                self.state = State::Header;
                let event = self.chunk(head, &payload)?;
                Ok(Step {
                    consumed: count,
                    event: Some(event),
                })
            }
        }
    }

    fn feed_header(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        if input.len() < 4 {
            return Ok(Step::quiet(0));
        }
        match u32_at(input, 0) {
            c::SIMPLE_REPLY_MAGIC if input.len() < reply::SIMPLE_BYTES => Ok(Step::quiet(0)),
            c::SIMPLE_REPLY_MAGIC => self.simple(u32_at(input, 4), u64_at(input, 8)),
            c::STRUCTURED_REPLY_MAGIC if self.negotiated.structured => {
                if input.len() < reply::CHUNK_BYTES {
                    return Ok(Step::quiet(0));
                }
                let head = ChunkHead {
                    done: u16_at(input, 4) & c::REPLY_FLAG_DONE != 0,
                    kind: u16_at(input, 6),
                    cookie: u64_at(input, 8),
                    length: u32_at(input, 16),
                };
                self.chunk_head(head, input)
            }
            magic => Err(ProtocolError::ReplyMagic(magic)),
        }
    }

    fn simple(&mut self, error: u32, cookie: u64) -> Result<Step, ProtocolError> {
        let structured = self.negotiated.structured;
        let pending = self.pending(cookie)?;
        let Request {
            command, length, ..
        } = pending.request;
        if structured && command == Command::Read {
            return invalid(cookie, "a simple reply to a read with structured replies");
        }
        if pending.content_chunks > 0 || pending.has_extents || pending.failure.is_some() {
            return invalid(cookie, "a simple reply after chunks");
        }
        if error != 0 {
            let errno = Errno::from_wire(error);
            pending.failure = Some(Failure {
                errno,
                message: String::new(),
                offset: None,
            });
        } else if command == Command::Read {
            let announced = pending.coverage.add(0, length);
            assert!(
                announced.is_ok(),
                "nothing was announced before a simple reply"
            );
            self.state = State::Data {
                cookie,
                left: length,
                done: true,
            };
            return Ok(Step::new(
                reply::SIMPLE_BYTES,
                Event::Data {
                    cookie,
                    at: 0,
                    length,
                },
            ));
        }
        let event = self.done(cookie)?;
        Ok(Step::new(reply::SIMPLE_BYTES, event))
    }

    /// `input` begins with the chunk's header.
    fn chunk_head(&mut self, head: ChunkHead, input: &[u8]) -> Result<Step, ProtocolError> {
        let ChunkHead {
            done,
            kind,
            cookie,
            length,
        } = head;
        let pending = self.pending(cookie)?;
        let command = pending.request.command;
        match kind {
            c::REPLY_TYPE_NONE if length == 0 && done => {
                let event = self.done(cookie)?;
                Ok(Step::new(reply::CHUNK_BYTES, event))
            }
            c::REPLY_TYPE_NONE => invalid(cookie, "an empty chunk with payload or not the last"),
            c::REPLY_TYPE_OFFSET_DATA if command == Command::Read => {
                if length < 9 {
                    return invalid(cookie, "a chunk of data without data");
                }
                if input.len() < reply::OFFSET_DATA_BYTES {
                    return Ok(Step::quiet(0));
                }
                let (offset, length) = (u64_at(input, reply::CHUNK_BYTES), length - 8);
                let at = Self::content(pending, cookie, offset, length)?;
                self.state = State::Data {
                    cookie,
                    left: length,
                    done,
                };
                Ok(Step::new(
                    reply::OFFSET_DATA_BYTES,
                    Event::Data { cookie, at, length },
                ))
            }
            c::REPLY_TYPE_OFFSET_HOLE if command == Command::Read => {
                if length != 12 {
                    return invalid(cookie, "a chunk of zeroes is not 12 bytes long");
                }
                if input.len() < reply::OFFSET_HOLE_BYTES {
                    return Ok(Step::quiet(0));
                }
                let (offset, length) = (u64_at(input, 20), u32_at(input, 28));
                let at = Self::content(pending, cookie, offset, length)?;
                // Done or not, the driver hears of the zeroes first.
                self.state = State::Data {
                    cookie,
                    left: 0,
                    done,
                };
                Ok(Step::new(
                    reply::OFFSET_HOLE_BYTES,
                    Event::Zeroes { cookie, at, length },
                ))
            }
            c::REPLY_TYPE_BLOCK_STATUS if command == Command::BlockStatus => {
                self.collect(head, extents::STATUS_BYTES_MAX, input)
            }
            _ if kind & c::REPLY_TYPE_FLAG_ERROR != 0 => self.collect(head, ERROR_BYTES_MAX, input),
            _ => invalid(cookie, "a chunk of a kind that does not fit the request"),
        }
    }

    /// Begins to gather a chunk's payload.
    fn collect(
        &mut self,
        head: ChunkHead,
        bytes_max: u32,
        input: &[u8],
    ) -> Result<Step, ProtocolError> {
        if head.length > bytes_max {
            return invalid(head.cookie, "a chunk is longer than is borne");
        }
        self.state = State::Chunk {
            head,
            payload: Vec::new(),
        };
        let step = self.feed(&input[reply::CHUNK_BYTES..])?;
        Ok(Step {
            consumed: reply::CHUNK_BYTES + step.consumed,
            event: step.event,
        })
    }

    /// Checks a content chunk against its request; gives where in the request it begins.
    fn content(
        pending: &mut Pending,
        cookie: u64,
        offset: u64,
        length: u32,
    ) -> Result<u32, ProtocolError> {
        let request = pending.request;
        let at = offset
            .checked_sub(request.offset)
            .and_then(|at| u32::try_from(at).ok());
        let end = at.and_then(|at| at.checked_add(length));
        let (at, end) = match (at, end) {
            (Some(at), Some(end)) if end <= request.length && length > 0 => (at, end),
            _ => return invalid(cookie, "a content chunk is empty or outside the request"),
        };
        if pending
            .error_offsets
            .iter()
            .any(|error_at| (at..end).contains(error_at))
        {
            return invalid(cookie, "a content chunk overlaps an earlier error");
        }
        match pending.coverage.add(at, end) {
            Ok(()) => {}
            Err(CoverageError::Overlap) => {
                return invalid(cookie, "content chunks overlap");
            }
            Err(CoverageError::TooManyRuns) => {
                return invalid(cookie, "a reply has more pieces than are borne");
            }
        }
        pending.content_chunks = pending.content_chunks.saturating_add(1);
        if pending.content_chunks > 1 && request.flags & c::CMD_FLAG_DF != 0 {
            return invalid(cookie, "a reply to DF has more than one content chunk");
        }
        Ok(at)
    }

    /// Acts upon a chunk whose payload was gathered.
    fn chunk(&mut self, head: ChunkHead, payload: &[u8]) -> Result<Event, ProtocolError> {
        let ChunkHead {
            done, kind, cookie, ..
        } = head;
        if kind != c::REPLY_TYPE_BLOCK_STATUS {
            self.error_chunk(kind, cookie, payload)?;
            return if done {
                self.done(cookie)
            } else {
                Ok(Event::Progress)
            };
        }
        let context_id = self.negotiated.allocation_id;
        let pending = self.pending(cookie)?;
        let one = pending.request.flags & c::CMD_FLAG_REQ_ONE != 0;
        let (id, extents) = match extents::parse(payload, pending.request.length, one) {
            Ok(parsed) => parsed,
            Err(rule) => return invalid(cookie, rule),
        };
        if Some(id) != context_id {
            return invalid(cookie, "a block status of a context that was not selected");
        }
        if core::mem::replace(&mut pending.has_extents, true) {
            return invalid(cookie, "a second block status of one context");
        }
        self.state = State::Data {
            cookie,
            left: 0,
            done,
        };
        Ok(Event::Extents { cookie, extents })
    }

    fn error_chunk(&mut self, kind: u16, cookie: u64, payload: &[u8]) -> Result<(), ProtocolError> {
        let mut reader = Reader::new(payload);
        let (Some(error), Some(message_bytes)) = (reader.u32(), reader.u16()) else {
            return invalid(cookie, "an error chunk is too short");
        };
        let Some(message) = reader.take(usize::from(message_bytes)) else {
            return invalid(cookie, "an error's message is longer than its chunk");
        };
        if error == 0 {
            return invalid(cookie, "an error chunk without an error");
        }
        let pending = self.pending(cookie)?;
        let offset = if kind == c::REPLY_TYPE_ERROR_OFFSET {
            Some(Self::error_offset(pending, cookie, reader.rest())?)
        } else {
            None
        };
        let message = String::from_utf8_lossy(message);
        let message = prefix(&message, c::STRING_BYTES_MAX).to_owned();
        let failure = Failure {
            errno: Errno::from_wire(error),
            message,
            offset,
        };
        // The first error of a reply is the one that is told.
        let first = pending.failure.get_or_insert(failure);
        self.shutting_down |= first.errno == Errno::Eshutdown;
        Ok(())
    }

    fn error_offset(pending: &mut Pending, cookie: u64, rest: &[u8]) -> Result<u64, ProtocolError> {
        if rest.len() < 8 {
            return invalid(cookie, "an error chunk has no offset");
        }
        let offset = u64_at(rest, 0);
        match offset
            .checked_sub(pending.request.offset)
            .map(u32::try_from)
        {
            Some(Ok(at)) if at < pending.request.length => pending.error_offsets.push(at),
            _ => return invalid(cookie, "an error's offset is outside the request"),
        }
        if pending.error_offsets.len() > PIECES_MAX {
            return invalid(cookie, "a reply has more errors than are borne");
        }
        Ok(offset)
    }

    /// Ends a request, if its reply is whole.
    fn done(&mut self, cookie: u64) -> Result<Event, ProtocolError> {
        let pending = self
            .in_flight
            .remove(cookie)
            .ok_or(ProtocolError::ReplyStray(cookie))?;
        let Request {
            command, length, ..
        } = pending.request;
        if let Some(failure) = pending.failure {
            self.shutting_down |= failure.errno == Errno::Eshutdown;
            return Ok(Event::Done {
                cookie,
                result: Err(failure),
            });
        }
        if command == Command::Read && !pending.coverage.is_complete(length) {
            return invalid(cookie, "a read succeeded without all its data");
        }
        if command == Command::BlockStatus && !pending.has_extents {
            return invalid(cookie, "a block status succeeded without extents");
        }
        Ok(Event::Done {
            cookie,
            result: Ok(()),
        })
    }

    fn pending(&mut self, cookie: u64) -> Result<&mut Pending, ProtocolError> {
        self.in_flight
            .get_mut(cookie)
            .ok_or(ProtocolError::ReplyStray(cookie))
    }
}
