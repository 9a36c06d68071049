//! Transmission: requests in, heads of replies out.

use alloc::vec::Vec;

use super::output::Output;
use super::rules::Rules;
use super::{Answer, BASE_ALLOCATION_ID, Command, Event, Request, ServerConn, Step, Wants};
use crate::consts as c;
use crate::wire::{u16_at, u32_at, u64_at};
use crate::{Errno, ExportInfo, Extent, ProtocolError, reply};

const SHUTTING_DOWN: &str = "the server is shutting down";

#[derive(Debug)]
pub(crate) struct Transmission {
    rules: Rules,
    payload: Payload,
    pub(crate) structured: bool,
    /// What the handshake left to be sent.
    pub(crate) output: Output,
    pub(crate) export: ExportInfo,
}

/// Where in the stream the connection stands.
#[derive(Debug)]
enum Payload {
    /// Before a header.
    None,
    /// This many bytes (never 0) go to the driver.
    Wanted(u32),
    /// This many bytes are skipped, then the answer, if any, is given.
    Skipped(u32, Option<Answer>),
}

impl Transmission {
    pub(crate) fn new(rules: Rules, structured: bool, output: Output, export: ExportInfo) -> Self {
        Transmission {
            rules,
            payload: Payload::None,
            structured,
            output,
            export,
        }
    }

    #[inline]
    pub(crate) fn feed(
        &mut self,
        input: &[u8],
        shutting_down: bool,
    ) -> Result<Step, ProtocolError> {
        match self.payload {
            Payload::None => {}
            Payload::Wanted(_) => return Ok(Step::quiet(0)),
            Payload::Skipped(..) => return self.skip(input, shutting_down),
        }
        let Some(header) = input.first_chunk::<{ c::REQUEST_BYTES }>() else {
            return Ok(Step::quiet(0));
        };
        let magic = u32_at(header, 0);
        if magic != c::REQUEST_MAGIC {
            return Err(ProtocolError::RequestMagic(magic));
        }
        let flags = u16_at(header, 4);
        let number = u16_at(header, 6);
        let cookie = u64_at(header, 8);
        let offset = u64_at(header, 16);
        let length = u32_at(header, 24);
        if number == c::CMD_DISC {
            return Ok(Step::new(c::REQUEST_BYTES, Event::Finished));
        }
        let (error, why) = match Command::from_wire(number) {
            _ if shutting_down => (Some(Errno::Eshutdown), SHUTTING_DOWN),
            None => (Some(Errno::Einval), "the command is unknown"),
            Some(command) => match self.rules.judge(command, flags, offset, length) {
                Err((errno, why)) => (Some(errno), why),
                Ok(()) if length == 0 && command != Command::Flush => (None, ""),
                Ok(()) => {
                    if command == Command::Write {
                        self.payload = Payload::Wanted(length);
                    }
                    let request = Request {
                        cookie,
                        offset,
                        length,
                        command,
                        flags,
                    };
                    return Ok(Step::new(c::REQUEST_BYTES, Event::Request(request)));
                }
            },
        };
        let answer = Answer {
            cookie,
            command: number,
            error,
            why,
        };
        self.answer(answer, length, &input[c::REQUEST_BYTES..])
    }

    /// Gives the answer, after the payload if the request has one. `rest`: what follows the
    /// header.
    fn answer(&mut self, answer: Answer, length: u32, rest: &[u8]) -> Result<Step, ProtocolError> {
        if answer.command != c::CMD_WRITE || length == 0 {
            return Ok(Step::new(c::REQUEST_BYTES, Event::Answer(answer)));
        }
        if length > c::PAYLOAD_BYTES_MAX {
            return Err(ProtocolError::PayloadTooLong(length));
        }
        self.payload = Payload::Skipped(length, Some(answer));
        // There is an answer, so this ends after the payload and looks at no further header.
        let step = self.skip(rest, false)?;
        Ok(Step {
            consumed: c::REQUEST_BYTES + step.consumed,
            event: step.event,
        })
    }

    /// Skips what of the payload is in `input`. A step without event says that all input is
    /// used up, so if no answer is due this goes on to the next request.
    fn skip(&mut self, input: &[u8], shutting_down: bool) -> Result<Step, ProtocolError> {
        let Payload::Skipped(left, answer) = &mut self.payload else {
            return Ok(Step::quiet(0));
        };
        // At most `left`, so the cast is exact.
        let count = input.len().min(*left as usize);
        *left -= count as u32;
        if *left > 0 {
            return Ok(Step::quiet(count));
        }
        let answer = answer.take();
        self.payload = Payload::None;
        if let Some(answer) = answer {
            return Ok(Step::new(count, Event::Answer(answer)));
        }
        let step = self.feed(&input[count..], shutting_down)?;
        Ok(Step {
            consumed: count + step.consumed,
            event: step.event,
        })
    }

    pub(crate) fn wants(&self) -> Wants {
        match self.payload {
            Payload::Wanted(count) => Wants::Payload(count),
            Payload::None | Payload::Skipped(..) => Wants::Bytes,
        }
    }

    pub(crate) fn is_inside_message(&self) -> bool {
        !matches!(self.payload, Payload::None)
    }

    #[inline]
    pub(crate) fn payload_received(&mut self, count: u32) {
        let Payload::Wanted(left) = &mut self.payload else {
            assert_eq!(count, 0, "payload that is not wanted");
            return;
        };
        *left = left
            .checked_sub(count)
            .expect("no more payload than is wanted");
        if *left == 0 {
            self.payload = Payload::None;
        }
    }

    pub(crate) fn discard_payload(&mut self) {
        if let Payload::Wanted(left) = self.payload {
            self.payload = Payload::Skipped(left, None);
        }
    }
}

/// Heads of replies. `out` must have [`reply::HEAD_BYTES_MAX`] bytes; the return value is how
/// many of them are to be sent. Every request gets exactly one method that ends its reply (all
/// but [`ServerConn::read_data_chunk`] and [`ServerConn::read_hole_chunk`] do).
impl ServerConn {
    /// Success of a READ, in one piece: `request.length` bytes of data must follow on the wire.
    #[inline]
    pub fn read_reply(&mut self, request: &Request, out: &mut [u8]) -> usize {
        debug_assert_eq!(request.command, Command::Read);
        self.finish_request();
        if self.is_structured() {
            reply::offset_data(out, request.cookie, true, request.offset, request.length)
        } else {
            reply::simple(out, request.cookie, None)
        }
    }

    /// Success of a request whose reply has no data, or the end of a READ's reply made of
    /// [`ServerConn::read_data_chunk`] and [`ServerConn::read_hole_chunk`].
    #[inline]
    pub fn done_reply(&mut self, request: &Request, out: &mut [u8]) -> usize {
        self.finish_request();
        if request.command == Command::Read {
            assert!(
                self.is_structured(),
                "a simple reply to a read has all its data"
            );
            return reply::none(out, request.cookie);
        }
        assert!(
            request.command != Command::BlockStatus,
            "a block status has extents"
        );
        reply::simple(out, request.cookie, None)
    }

    /// Failure of any request. After chunks of a READ it ends that reply. `message` is for
    /// people, may be empty, and is cut to fit; it is lost without structured replies.
    pub fn error_reply(
        &mut self,
        request: &Request,
        errno: Errno,
        message: &str,
        out: &mut [u8],
    ) -> usize {
        self.finish_request();
        if self.is_structured() {
            reply::error(out, request.cookie, true, errno, message)
        } else {
            reply::simple(out, request.cookie, Some(errno))
        }
    }

    /// The reply to a request that was answered by [`Event::Answer`].
    pub fn answer_reply(&self, answer: &Answer, out: &mut [u8]) -> usize {
        match answer.error {
            Some(errno) if self.is_structured() => {
                reply::error(out, answer.cookie, true, errno, answer.why)
            }
            // A read of no length has no byte for a chunk of data to describe.
            None if self.is_structured() && answer.command == c::CMD_READ => {
                reply::none(out, answer.cookie)
            }
            error => reply::simple(out, answer.cookie, error),
        }
    }

    /// One piece of data of a READ; `length` bytes (at least 1) must follow on the wire. Pieces
    /// must lie within the request, not overlap, and cover it in the end; end the reply by
    /// [`ServerConn::done_reply`]. Only if [`ServerConn::may_fragment`].
    pub fn read_data_chunk(
        &self,
        request: &Request,
        offset: u64,
        length: u32,
        out: &mut [u8],
    ) -> usize {
        assert!(
            self.may_fragment(request),
            "a reply that must be in one piece"
        );
        reply::offset_data(out, request.cookie, false, offset, length)
    }

    /// One piece of zeroes of a READ, without data on the wire. The rules of
    /// [`ServerConn::read_data_chunk`] hold.
    pub fn read_hole_chunk(
        &self,
        request: &Request,
        offset: u64,
        length: u32,
        out: &mut [u8],
    ) -> usize {
        assert!(
            self.may_fragment(request),
            "a reply that must be in one piece"
        );
        reply::offset_hole(out, request.cookie, false, offset, length)
    }

    /// Success of a READ all of whose bytes are zeroes, said in 32 bytes; nothing follows on the
    /// wire. Only with structured replies (with DF too: it is one content chunk).
    pub fn read_zeroes_reply(&mut self, request: &Request, out: &mut [u8]) -> usize {
        assert!(self.is_structured(), "a hole without structured replies");
        self.finish_request();
        reply::offset_hole(out, request.cookie, true, request.offset, request.length)
    }

    /// Whether a READ's reply may consist of several chunks.
    #[must_use]
    pub fn may_fragment(&self, request: &Request) -> bool {
        self.is_structured() && !request.dont_fragment()
    }

    /// Appends the whole reply to a BLOCK_STATUS. `extents` are consecutive from the request's
    /// offset, at least one, none empty; they may cover less than the request. What the
    /// document forbids is cut off: beyond the first with REQ_ONE, and beyond the request.
    pub fn block_status_reply(&mut self, request: &Request, extents: &[Extent], out: &mut Vec<u8>) {
        self.finish_request();
        let (cookie, id) = (request.cookie, BASE_ALLOCATION_ID);
        let mut left = request.length;
        let mut count = 0;
        for extent in extents {
            count += 1;
            if extent.length >= left || request.one_extent() {
                let length = extent.length.min(left);
                let last = Extent {
                    length,
                    flags: extent.flags,
                };
                if count == 1 {
                    return reply::block_status(out, cookie, true, id, &[last]);
                }
                let mut cut = extents[..count].to_vec();
                cut[count - 1] = last;
                return reply::block_status(out, cookie, true, id, &cut);
            }
            left -= extent.length;
        }
        reply::block_status(out, cookie, true, id, extents);
    }
}
