//! The handshake as the client: greeting, options in a fixed order, then transmission.
//!
//! ```text
//! STRUCTURED_REPLY? -> SET_META_CONTEXT? -> HOLD? -> GO --UNSUP--> EXPORT_NAME
//!                                                    LIST, REVOKE -> ABORT
//! ```
//!
//! A refusal of the first three is borne (not one of HOLD by policy: the holder was revoked); one
//! of the others ends the session with ABORT.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Config, Event, Goal, ListedExport, Negotiated, OptionRefused, Step};
use crate::consts as c;
use crate::fence::Session;
use crate::wire::{Reader, prefix, put_u16, put_u32, put_u64, string, u16_at, u32_at, u64_at};
use crate::{BlockSizes, ProtocolError};

/// Longest reply to an option that is borne, in bytes of data.
const REPLY_BYTES_MAX: u32 = 64 * 1024;
/// Most bytes of names and descriptions that a list may have.
const LIST_BYTES_MAX: usize = 16 << 20;
/// Bytes of a newstyle greeting.
const GREETING_BYTES: usize = 18;
/// Bytes of the answer to EXPORT_NAME without its zeroes.
const EXPORT_BYTES: usize = 10;

#[derive(Debug)]
pub(super) struct Handshake {
    config: Config,
    pub(super) negotiated: Negotiated,
    state: State,
    no_zeroes: bool,
    listed: Vec<ListedExport>,
    listed_bytes: usize,
    has_export_info: bool,
    has_held: bool,
    /// Minimum, preferred, maximum as received; judged when the export's size is known.
    sizes: Option<[u32; 3]>,
}

#[derive(Debug)]
enum State {
    Greeting,
    /// An option was sent; before the header of its (next) reply.
    Reply {
        option: u32,
    },
    ReplyData {
        option: u32,
        kind: u32,
        length: usize,
        data: Vec<u8>,
    },
    ExportName,
}

impl Handshake {
    pub(super) fn new(config: Config) -> Self {
        Handshake {
            config,
            negotiated: Negotiated::default(),
            state: State::Greeting,
            no_zeroes: false,
            listed: Vec::new(),
            listed_bytes: 0,
            has_export_info: false,
            has_held: false,
            sizes: None,
        }
    }

    pub(super) fn eof_error(&self) -> ProtocolError {
        match self.state {
            State::ExportName => ProtocolError::ExportNameRefused,
            _ => ProtocolError::Truncated,
        }
    }

    pub(super) fn feed(
        &mut self,
        input: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Step, ProtocolError> {
        match &mut self.state {
            State::Greeting => self.feed_greeting(input, output),
            State::ExportName => Ok(self.feed_export_name(input)),
            State::Reply { option } => {
                let option = *option;
                self.feed_reply_header(option, input, output)
            }
            State::ReplyData {
                option,
                kind,
                length,
                data,
            } => {
                let count = input.len().min(*length - data.len());
                data.extend_from_slice(&input[..count]);
                if data.len() < *length {
                    return Ok(Step::quiet(count));
                }
                let (option, kind, data) = (*option, *kind, core::mem::take(data));
                let step = self.reply(option, kind, &data, output)?;
                Ok(Step {
                    consumed: count,
                    event: step.event,
                })
            }
        }
    }

    fn feed_greeting(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<Step, ProtocolError> {
        if input.len() >= 8 && u64_at(input, 0) != c::INIT_MAGIC {
            return Err(ProtocolError::NotNbd(u64_at(input, 0)));
        }
        if input.len() < GREETING_BYTES {
            return Ok(Step::quiet(0));
        }
        match u64_at(input, 8) {
            c::OPTION_MAGIC => {}
            c::OLDSTYLE_MAGIC => return Err(ProtocolError::Oldstyle),
            magic => return Err(ProtocolError::NotNbd(magic)),
        }
        let flags = u16_at(input, 16);
        let fixed = flags & c::FLAG_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & c::FLAG_NO_ZEROES != 0;
        if !fixed && self.config.goal != Goal::Connect {
            return Err(ProtocolError::NotFixedNewstyle);
        }
        let fixed_flag = if fixed { c::FLAG_C_FIXED_NEWSTYLE } else { 0 };
        let zeroes_flag = if self.no_zeroes {
            c::FLAG_C_NO_ZEROES
        } else {
            0
        };
        put_u32(output, fixed_flag | zeroes_flag);
        if fixed && self.config.structured {
            self.send(c::OPT_STRUCTURED_REPLY, &[], output);
        } else if fixed {
            self.send_goal(output);
        } else {
            self.send_export_name(output);
        }
        Ok(Step::new(GREETING_BYTES, Event::Output))
    }

    fn feed_export_name(&mut self, input: &[u8]) -> Step {
        let padding = if self.no_zeroes {
            0
        } else {
            c::EXPORT_NAME_PADDING_BYTES
        };
        if input.len() < EXPORT_BYTES + padding {
            return Step::quiet(0);
        }
        self.negotiated.size_bytes = u64_at(input, 0);
        self.negotiated.flags = u16_at(input, 8);
        Step::new(EXPORT_BYTES + padding, Event::Connected)
    }

    fn feed_reply_header(
        &mut self,
        option: u32,
        input: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Step, ProtocolError> {
        if input.len() >= 8 && u64_at(input, 0) != c::OPTION_REPLY_MAGIC {
            return Err(ProtocolError::OptionReplyMagic(u64_at(input, 0)));
        }
        if input.len() < c::OPTION_REPLY_BYTES {
            return Ok(Step::quiet(0));
        }
        let (answered, kind, length) = (u32_at(input, 8), u32_at(input, 12), u32_at(input, 16));
        if answered != option {
            return Err(ProtocolError::OptionReplyStray(answered));
        }
        if length > REPLY_BYTES_MAX {
            return Err(ProtocolError::OptionReplyInvalid {
                option,
                reply: kind,
                length,
            });
        }
        let length = length as usize;
        self.state = State::ReplyData {
            option,
            kind,
            length,
            data: Vec::new(),
        };
        let step = self.feed(&input[c::OPTION_REPLY_BYTES..], output)?;
        Ok(Step {
            consumed: c::OPTION_REPLY_BYTES + step.consumed,
            event: step.event,
        })
    }

    /// Acts upon a whole reply; the step's `consumed` means nothing.
    fn reply(
        &mut self,
        option: u32,
        kind: u32,
        data: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Step, ProtocolError> {
        self.state = State::Reply { option };
        // A reply that is not an option's last, or does not fit it.
        let invalid = ProtocolError::OptionReplyInvalid {
            option,
            reply: kind,
            length: data.len() as u32,
        };
        if kind & c::REP_FLAG_ERROR != 0 {
            return Ok(self.reply_error(option, kind, data, output));
        }
        let event = match (option, kind) {
            (_, c::REP_ACK) if data.is_empty() => self.reply_ack(option, output).ok_or(invalid)?,
            (c::OPT_SET_META_CONTEXT, c::REP_META_CONTEXT) => {
                self.take_context(data).ok_or(invalid)?;
                Event::Progress
            }
            (c::OPT_GO, c::REP_INFO) => {
                self.take_info(data).ok_or(invalid)?;
                Event::Progress
            }
            (c::OPT_SEGUE_HOLD, c::REP_SEGUE_SESSION) => {
                let session = Session::decode(&mut Reader::new(data)).ok_or(invalid)?;
                self.negotiated.session = Some(session);
                Event::Progress
            }
            (c::OPT_LIST, c::REP_SERVER) => {
                self.take_listed(data).ok_or(invalid)?;
                Event::Progress
            }
            _ => return Err(invalid),
        };
        Ok(Step::new(0, event))
    }

    /// The last, positive reply to an option; `None` if something before it is missing.
    fn reply_ack(&mut self, option: u32, output: &mut Vec<u8>) -> Option<Event> {
        match option {
            c::OPT_STRUCTURED_REPLY => {
                self.negotiated.structured = true;
                if self.config.block_status {
                    self.send_meta_context(output);
                } else {
                    self.send_goal(output);
                }
                Some(Event::Output)
            }
            c::OPT_SET_META_CONTEXT => {
                self.send_goal(output);
                Some(Event::Output)
            }
            c::OPT_SEGUE_HOLD => {
                self.negotiated.session?;
                self.send_goal(output);
                Some(Event::Output)
            }
            c::OPT_SEGUE_REVOKE => {
                self.send(c::OPT_ABORT, &[], output);
                Some(Event::Revoked)
            }
            c::OPT_LIST => {
                self.send(c::OPT_ABORT, &[], output);
                Some(Event::Listed(core::mem::take(&mut self.listed)))
            }
            _ => {
                if let Some([minimum, preferred, maximum]) = self.sizes {
                    let size_bytes = self.negotiated.size_bytes;
                    let sizes = BlockSizes::received(minimum, preferred, maximum, size_bytes);
                    self.negotiated.block_sizes = Some(sizes.ok()?);
                }
                self.has_export_info.then_some(Event::Connected)
            }
        }
    }

    fn reply_error(&mut self, option: u32, kind: u32, data: &[u8], output: &mut Vec<u8>) -> Step {
        let goal = matches!(option, c::OPT_GO | c::OPT_LIST | c::OPT_SEGUE_REVOKE)
            || (option == c::OPT_SEGUE_HOLD && kind == c::REP_ERR_POLICY);
        if option == c::OPT_SET_META_CONTEXT {
            // "If an error is returned, the client MUST disregard any context replies".
            self.negotiated.allocation_id = None;
        }
        if option == c::OPT_SEGUE_HOLD {
            self.negotiated.session = None;
        }
        if option == c::OPT_GO && kind == c::REP_ERR_UNSUP {
            self.send_export_name(output);
        } else if goal || kind == c::REP_ERR_SHUTDOWN {
            self.send(c::OPT_ABORT, &[], output);
            let text = String::from_utf8_lossy(data);
            let message = prefix(&text, c::STRING_BYTES_MAX).to_owned();
            return Step::new(
                0,
                Event::Refused(OptionRefused {
                    option,
                    reply: kind,
                    message,
                }),
            );
        } else {
            self.send_goal(output);
        }
        Step::new(0, Event::Output)
    }

    fn take_context(&mut self, data: &[u8]) -> Option<()> {
        let mut reader = Reader::new(data);
        let id = reader.u32()?;
        // One query was sent, so one answer may come.
        let fits = string(reader.rest())? == c::BASE_ALLOCATION;
        let first = self.negotiated.allocation_id.replace(id).is_none();
        (fits && first).then_some(())
    }

    fn take_info(&mut self, data: &[u8]) -> Option<()> {
        let mut reader = Reader::new(data);
        match reader.u16()? {
            c::INFO_EXPORT if data.len() == 12 => {
                self.negotiated.size_bytes = u64_at(data, 2);
                self.negotiated.flags = u16_at(data, 10);
                self.has_export_info = true;
            }
            c::INFO_BLOCK_SIZE if data.len() == 14 => {
                self.sizes = Some([u32_at(data, 2), u32_at(data, 6), u32_at(data, 10)]);
            }
            c::INFO_EXPORT | c::INFO_BLOCK_SIZE => return None,
            c::INFO_NAME => self.negotiated.name = Some(string(reader.rest())?.to_owned()),
            c::INFO_DESCRIPTION => {
                self.negotiated.description = Some(string(reader.rest())?.to_owned());
            }
            _ => {}
        }
        Some(())
    }

    fn take_listed(&mut self, data: &[u8]) -> Option<()> {
        let mut reader = Reader::new(data);
        let name_bytes = usize::try_from(reader.u32()?).ok()?;
        let name = string(reader.take(name_bytes)?)?.to_owned();
        let description = string(reader.rest())?.to_owned();
        self.listed_bytes += data.len() + size_of::<ListedExport>();
        self.listed.push(ListedExport { name, description });
        (self.listed_bytes <= LIST_BYTES_MAX).then_some(())
    }

    fn send_goal(&mut self, output: &mut Vec<u8>) {
        let mut data = Vec::new();
        match self.config.goal {
            Goal::List => return self.send(c::OPT_LIST, &[], output),
            Goal::Revoke(revocation) => {
                revocation.encode(&mut data);
                return self.send(c::OPT_SEGUE_REVOKE, &data, output);
            }
            Goal::Connect => {}
        }
        if let (Some(hold), false) = (&self.config.hold, self.has_held) {
            self.has_held = true;
            hold.encode(&mut data);
            return self.send(c::OPT_SEGUE_HOLD, &data, output);
        }
        put_string(&mut data, &self.config.export);
        let infos = [c::INFO_BLOCK_SIZE, c::INFO_NAME, c::INFO_DESCRIPTION];
        put_u16(&mut data, infos.len() as u16);
        for info in infos {
            put_u16(&mut data, info);
        }
        self.send(c::OPT_GO, &data, output);
    }

    fn send_meta_context(&mut self, output: &mut Vec<u8>) {
        let mut data = Vec::new();
        put_string(&mut data, &self.config.export);
        put_u32(&mut data, 1);
        put_string(&mut data, c::BASE_ALLOCATION);
        self.send(c::OPT_SET_META_CONTEXT, &data, output);
    }

    fn send_export_name(&mut self, output: &mut Vec<u8>) {
        // What GO may have told before it was refused does not count.
        self.sizes = None;
        let name = self.config.export.clone();
        self.send(c::OPT_EXPORT_NAME, name.as_bytes(), output);
        self.state = State::ExportName;
    }

    fn send(&mut self, option: u32, data: &[u8], output: &mut Vec<u8>) {
        put_u64(output, c::OPTION_MAGIC);
        put_u32(output, option);
        put_u32(output, data.len() as u32);
        output.extend_from_slice(data);
        self.state = State::Reply { option };
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_u32(out, text.len() as u32);
    out.extend_from_slice(text.as_bytes());
}
