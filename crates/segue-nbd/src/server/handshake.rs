//! The handshake: greeting, client flags, options ("Fixed newstyle negotiation").
//!
//! At most one option is under way, and none is begun while output waits to be taken: so what a
//! client can make the server hold is one option and the answer to it.

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use super::options::{InfoWanted, parse_info, parse_meta_context};
use super::output::Output;
use super::rules::Rules;
use super::transmission::Transmission;
use super::{Event, OPTION_DATA_BYTES_MAX, OPTION_SKIP_BYTES_MAX, OPTIONS_MAX};
use super::{Purpose, Refusal, RefusalKind, Step, Wants};
use crate::consts as c;
use crate::fence::{Hold, Revocation, Session};
use crate::wire::{string, u32_at, u64_at};
use crate::{ExportInfo, ProtocolError};

const SHUTTING_DOWN: &str = "the server is shutting down";

#[derive(Debug)]
pub(crate) struct Handshake {
    state: State,
    pub(crate) output: Output,
    pub(crate) structured: bool,
    fenced: bool,
    fixed_newstyle: bool,
    no_zeroes: bool,
    /// Options so far.
    options: u32,
    /// For which export, by the name the client used, `base:allocation` is selected.
    context_export: Option<String>,
}

#[derive(Debug)]
enum State {
    ClientFlags,
    OptionHeader,
    OptionData {
        option: u32,
        length: usize,
        data: Vec<u8>,
    },
    OptionSkipped {
        option: u32,
        left: u32,
    },
    WantExport {
        name: String,
        question: Question,
    },
    WantList,
    WantFence {
        option: u32,
    },
}

/// What the answer about an export is needed for.
#[derive(Clone, Copy, Debug)]
enum Question {
    ExportName,
    Info { option: u32, wanted: InfoWanted },
    MetaContext { option: u32, matched: bool },
}

impl Handshake {
    pub(crate) fn new(fenced: bool) -> Self {
        let mut output = Output::default();
        output.greeting();
        Handshake {
            state: State::ClientFlags,
            output,
            structured: false,
            fenced,
            fixed_newstyle: false,
            no_zeroes: false,
            options: 0,
            context_export: None,
        }
    }

    pub(crate) fn wants(&self) -> Wants {
        match self.state {
            State::WantExport { .. } => Wants::ExportAnswer,
            State::WantList => Wants::ListAnswer,
            State::WantFence { .. } => Wants::FenceAnswer,
            _ => Wants::Bytes,
        }
    }

    pub(crate) fn is_inside_message(&self) -> bool {
        matches!(
            self.state,
            State::OptionData { .. } | State::OptionSkipped { .. }
        )
    }

    pub(crate) fn feed(
        &mut self,
        input: &[u8],
        shutting_down: bool,
    ) -> Result<Step, ProtocolError> {
        if !self.output.is_empty() {
            return Ok(Step::new(0, Event::Output));
        }
        match &mut self.state {
            State::WantExport { .. } | State::WantList | State::WantFence { .. } => {
                Ok(Step::quiet(0))
            }
            State::ClientFlags => self.feed_client_flags(input, shutting_down),
            State::OptionHeader => self.feed_option_header(input, shutting_down),
            State::OptionData {
                option,
                length,
                data,
            } => {
                let count = input.len().min(*length - data.len());
                data.extend_from_slice(&input[..count]);
                if data.len() < *length {
                    return Ok(Step::quiet(count));
                }
                let (option, data) = (*option, core::mem::take(data));
                self.state = State::OptionHeader;
                self.option(option, &data, shutting_down).map(|event| Step {
                    consumed: count,
                    event: Some(event),
                })
            }
            State::OptionSkipped { option, left } => {
                // At most `left`, so the cast is exact.
                let count = input.len().min(*left as usize);
                *left -= count as u32;
                if *left > 0 {
                    return Ok(Step::quiet(count));
                }
                let option = *option;
                self.state = State::OptionHeader;
                let event = self.option_too_big(option, shutting_down);
                Ok(Step::new(count, event))
            }
        }
    }

    fn feed_client_flags(
        &mut self,
        input: &[u8],
        shutting_down: bool,
    ) -> Result<Step, ProtocolError> {
        if input.len() < 4 {
            return Ok(Step::quiet(0));
        }
        let flags = u32_at(input, 0);
        if flags & !(c::FLAG_C_FIXED_NEWSTYLE | c::FLAG_C_NO_ZEROES) != 0 {
            return Err(ProtocolError::ClientFlags(flags));
        }
        self.fixed_newstyle = flags & c::FLAG_C_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & c::FLAG_C_NO_ZEROES != 0;
        self.state = State::OptionHeader;
        let step = self.feed_option_header(&input[4..], shutting_down)?;
        Ok(Step {
            consumed: step.consumed + 4,
            event: step.event,
        })
    }

    fn feed_option_header(
        &mut self,
        input: &[u8],
        shutting_down: bool,
    ) -> Result<Step, ProtocolError> {
        // The magic is judged as soon as it is there: a stranger may never send more.
        if input.len() < 8 {
            return Ok(Step::quiet(0));
        }
        let magic = u64_at(input, 0);
        if magic != c::OPTION_MAGIC {
            return Err(ProtocolError::OptionMagic(magic));
        }
        if input.len() < c::OPTION_BYTES {
            return Ok(Step::quiet(0));
        }
        let (option, length) = (u32_at(input, 8), u32_at(input, 12));
        if !self.fixed_newstyle && option != c::OPT_EXPORT_NAME {
            return Err(ProtocolError::OptionNotFixed(option));
        }
        self.options += 1;
        if self.options > OPTIONS_MAX {
            return Err(ProtocolError::TooManyOptions);
        }
        let name_too_long = option == c::OPT_EXPORT_NAME && length as usize > c::STRING_BYTES_MAX;
        if name_too_long || length > OPTION_SKIP_BYTES_MAX {
            return Err(ProtocolError::OptionTooLong { option, length });
        }
        if length > OPTION_DATA_BYTES_MAX {
            self.state = State::OptionSkipped {
                option,
                left: length,
            };
        } else if length > 0 {
            self.state = State::OptionData {
                option,
                length: length as usize,
                data: Vec::new(),
            };
        } else {
            let event = self.option(option, &[], shutting_down)?;
            return Ok(Step::new(c::OPTION_BYTES, event));
        }
        // The caller's loop ends on a step without event, so go on with the data at once.
        let step = self.feed(&input[c::OPTION_BYTES..], shutting_down)?;
        Ok(Step {
            consumed: c::OPTION_BYTES + step.consumed,
            event: step.event,
        })
    }

    /// Acts upon a whole option.
    fn option(
        &mut self,
        option: u32,
        data: &[u8],
        shutting_down: bool,
    ) -> Result<Event, ProtocolError> {
        if option == c::OPT_ABORT {
            self.output.ack(option);
            return Ok(Event::Finished);
        }
        if option == c::OPT_SET_META_CONTEXT {
            // "Issuing this command replaces all previously-set metadata contexts (including
            // when this command fails)".
            self.context_export = None;
        }
        if shutting_down {
            if option == c::OPT_EXPORT_NAME {
                return Err(ProtocolError::ExportNameRefused);
            }
            return Ok(self.refuse(option, c::REP_ERR_SHUTDOWN, SHUTTING_DOWN));
        }
        Ok(match option {
            c::OPT_EXPORT_NAME => {
                let name = string(data).ok_or(ProtocolError::ExportNameRefused)?;
                self.ask(name, Question::ExportName)
            }
            c::OPT_LIST if data.is_empty() => {
                self.state = State::WantList;
                Event::WantList
            }
            c::OPT_STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                self.output.ack(option);
                Event::Output
            }
            c::OPT_LIST | c::OPT_STRUCTURED_REPLY => {
                self.refuse(option, c::REP_ERR_INVALID, "the option takes no data")
            }
            c::OPT_INFO | c::OPT_GO => match parse_info(data) {
                Ok((name, wanted)) => self.ask(name, Question::Info { option, wanted }),
                Err(why) => self.refuse(option, c::REP_ERR_INVALID, why),
            },
            c::OPT_LIST_META_CONTEXT | c::OPT_SET_META_CONTEXT => {
                self.option_meta_context(option, data)
            }
            c::OPT_SEGUE_HOLD | c::OPT_SEGUE_REVOKE if self.fenced => {
                self.option_fence(option, data)
            }
            c::OPT_STARTTLS => self.refuse(
                option,
                c::REP_ERR_UNSUP,
                "TLS is not supported by this server",
            ),
            _ => self.refuse(
                option,
                c::REP_ERR_UNSUP,
                "the option is not known to this server",
            ),
        })
    }

    fn option_meta_context(&mut self, option: u32, data: &[u8]) -> Event {
        if !self.structured {
            let why = "structured replies must be negotiated before metadata contexts";
            return self.refuse(option, c::REP_ERR_INVALID, why);
        }
        match parse_meta_context(data, option == c::OPT_SET_META_CONTEXT) {
            Ok((name, matched)) => self.ask(name, Question::MetaContext { option, matched }),
            Err(why) => self.refuse(option, c::REP_ERR_INVALID, why),
        }
    }

    fn option_fence(&mut self, option: u32, data: &[u8]) -> Event {
        let event = match option {
            c::OPT_SEGUE_HOLD => Hold::decode(data).map(Event::WantHold),
            _ => Revocation::decode(data).map(Event::WantRevoke),
        };
        let Some(event) = event else {
            return self.refuse(option, c::REP_ERR_INVALID, "the option's data is malformed");
        };
        self.state = State::WantFence { option };
        event
    }

    /// Takes the answer to a question about the fence.
    pub(crate) fn fence_answer(&mut self, answer: Result<Option<Session>, Refusal>) {
        let state = core::mem::replace(&mut self.state, State::OptionHeader);
        let State::WantFence { option } = state else {
            panic!("an answer about the fence, though nothing was asked");
        };
        match answer {
            Err(refusal) => {
                self.refuse(option, refusal.kind.reply(), &refusal.message);
            }
            Ok(session) => {
                if let Some(session) = session {
                    self.output.session(option, session);
                }
                self.output.ack(option);
            }
        }
    }

    fn option_too_big(&mut self, option: u32, shutting_down: bool) -> Event {
        match option {
            // Data sent with ABORT is to be ignored, however much.
            c::OPT_ABORT => {
                self.output.ack(option);
                return Event::Finished;
            }
            c::OPT_SET_META_CONTEXT => self.context_export = None,
            _ => {}
        }
        if shutting_down {
            return self.refuse(option, c::REP_ERR_SHUTDOWN, SHUTTING_DOWN);
        }
        match option {
            c::OPT_LIST | c::OPT_STRUCTURED_REPLY => {
                self.refuse(option, c::REP_ERR_INVALID, "the option takes no data")
            }
            c::OPT_INFO | c::OPT_GO | c::OPT_LIST_META_CONTEXT | c::OPT_SET_META_CONTEXT => self
                .refuse(
                    option,
                    c::REP_ERR_TOO_BIG,
                    "the option has over 65536 bytes of data",
                ),
            _ => self.refuse(
                option,
                c::REP_ERR_UNSUP,
                "the option is not known to this server",
            ),
        }
    }

    fn ask(&mut self, name: &str, question: Question) -> Event {
        let opens = match question {
            Question::ExportName => true,
            Question::Info { option, .. } => option == c::OPT_GO,
            Question::MetaContext { .. } => false,
        };
        let purpose = if opens {
            Purpose::Open
        } else {
            Purpose::Describe
        };
        self.state = State::WantExport {
            name: name.to_owned(),
            question,
        };
        Event::WantExport {
            name: name.to_owned(),
            purpose,
        }
    }

    /// Takes the answer to the question about an export; gives the next phase if it begins.
    pub(crate) fn export_answer(
        &mut self,
        answer: Result<ExportInfo, Refusal>,
    ) -> Result<Option<Transmission>, ProtocolError> {
        let state = core::mem::replace(&mut self.state, State::OptionHeader);
        let State::WantExport { name, question } = state else {
            panic!("export_answer, though no export was asked for");
        };
        let option = match question {
            Question::ExportName => c::OPT_EXPORT_NAME,
            Question::Info { option, .. } | Question::MetaContext { option, .. } => option,
        };
        let export = match answer {
            Ok(export) => export,
            Err(_) if option == c::OPT_EXPORT_NAME => {
                return Err(ProtocolError::ExportNameRefused);
            }
            Err(refusal) => {
                self.refuse(option, refusal.kind.reply(), &refusal.message);
                return Ok(None);
            }
        };
        match question {
            Question::ExportName => {
                self.output
                    .export_name(&export, self.structured, self.no_zeroes);
                Ok(Some(self.open(&name, export)))
            }
            Question::Info { option, wanted } => {
                self.output.infos(option, wanted, &export, self.structured);
                let opens = option == c::OPT_GO;
                Ok(opens.then(|| self.open(&name, export)))
            }
            Question::MetaContext { option, matched } => {
                let set = option == c::OPT_SET_META_CONTEXT;
                if matched && export.features.block_status {
                    self.output.meta_context(option, set);
                    if set {
                        self.context_export = Some(name);
                    }
                }
                self.output.ack(option);
                Ok(None)
            }
        }
    }

    /// Begins transmission, with what was agreed on for the export of this name.
    fn open(&mut self, name: &str, export: ExportInfo) -> Transmission {
        let context = self.context_export.as_deref() == Some(name);
        let block_status = context && self.structured && export.features.block_status;
        let rules = Rules::new(&export, self.structured, block_status);
        Transmission::new(
            rules,
            self.structured,
            core::mem::take(&mut self.output),
            export,
        )
    }

    /// Takes the answer to the question for a list.
    pub(crate) fn list_answer<N, D>(
        &mut self,
        answer: Result<impl IntoIterator<Item = (N, D)>, Refusal>,
    ) where
        N: AsRef<str>,
        D: AsRef<str>,
    {
        let state = core::mem::replace(&mut self.state, State::OptionHeader);
        assert!(
            matches!(state, State::WantList),
            "list_answer, though no list was asked for"
        );
        match answer {
            Err(refusal) => {
                self.refuse(c::OPT_LIST, refusal.kind.reply(), &refusal.message);
            }
            Ok(exports) => {
                for (name, description) in exports {
                    self.output.listed(name.as_ref(), description.as_ref());
                }
                self.output.ack(c::OPT_LIST);
            }
        }
    }

    fn refuse(&mut self, option: u32, kind: u32, message: &str) -> Event {
        self.output.error(option, kind, message);
        Event::Output
    }
}

impl RefusalKind {
    fn reply(self) -> u32 {
        match self {
            RefusalKind::Unknown => c::REP_ERR_UNKNOWN,
            RefusalKind::Policy => c::REP_ERR_POLICY,
            RefusalKind::Shutdown => c::REP_ERR_SHUTDOWN,
        }
    }
}
