//! What the tests of both halves share: exports, messages as bytes, and a script-like driver.
#![allow(dead_code, missing_docs)] // Each test file uses its own part.

pub mod disk;
pub mod server_script;

use segue_nbd::consts as c;
use segue_nbd::server::{Event, Purpose, Refusal, RefusalKind, ServerConn, Wants};
use segue_nbd::{BlockSizes, ExportInfo, Features, ProtocolError};

/// A small generator, so that a seed names a run: xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// An export with everything on offer.
pub fn export(size_bytes: u64) -> ExportInfo {
    ExportInfo {
        name: "disk".into(),
        description: "a disk".into(),
        size_bytes,
        read_only: false,
        can_multi_conn: true,
        block_sizes: BlockSizes::DEFAULT,
        features: Features {
            cache: true,
            ..Features::DISK
        },
    }
}

pub const ALL_FLAGS: u16 = c::FLAG_HAS_FLAGS
    | c::FLAG_SEND_FLUSH
    | c::FLAG_SEND_FUA
    | c::FLAG_SEND_TRIM
    | c::FLAG_SEND_WRITE_ZEROES
    | c::FLAG_CAN_MULTI_CONN
    | c::FLAG_SEND_CACHE
    | c::FLAG_SEND_FAST_ZERO;

pub fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = c::OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

pub fn option_reply(number: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = c::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

pub fn text(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u32).to_be_bytes().to_vec();
    bytes.extend(text.as_bytes());
    bytes
}

/// The data of INFO and GO.
pub fn info_data(name: &str, infos: &[u16]) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((infos.len() as u16).to_be_bytes());
    infos
        .iter()
        .for_each(|info| bytes.extend(info.to_be_bytes()));
    bytes
}

/// The data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub fn meta_data(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| bytes.extend(text(query)));
    bytes
}

pub fn request(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut bytes = c::REQUEST_MAGIC.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes
}

/// One reply to an option, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub option: u32,
    pub kind: u32,
    pub data: Vec<u8>,
}

/// Splits a server's output into replies to options; nothing may be left over.
pub fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[..8], c::OPTION_REPLY_MAGIC.to_be_bytes());
        let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let end = 20 + word(16) as usize;
        replies.push(Reply {
            option: word(8),
            kind: word(12),
            data: bytes[20..end].to_vec(),
        });
        bytes = &bytes[end..];
    }
    replies
}

/// A server's connection whose driver knows the export "disk" (also as the default, "").
pub struct Host {
    pub conn: ServerConn,
    pub export: ExportInfo,
    /// What was looked up.
    pub asked: Vec<(String, Purpose)>,
    pub listed: Result<Vec<(String, String)>, Refusal>,
}

impl Host {
    /// A connection whose greeting was taken, still without client flags.
    pub fn greeted() -> Self {
        let mut conn = ServerConn::new();
        let mut greeting = Vec::new();
        assert!(conn.take_output(&mut greeting));
        let mut expected = c::INIT_MAGIC.to_be_bytes().to_vec();
        expected.extend(c::OPTION_MAGIC.to_be_bytes());
        expected.extend([0, 3]);
        assert_eq!(greeting, expected);
        let listed = Ok(vec![
            ("disk".into(), "a disk".into()),
            ("other".into(), String::new()),
        ]);
        Host {
            conn,
            export: export(1 << 20),
            asked: Vec::new(),
            listed,
        }
    }

    /// A connection in option haggling with fixed newstyle and no zeroes.
    pub fn haggling() -> Self {
        let mut host = Host::greeted();
        assert_eq!(
            host.send(&3_u32.to_be_bytes()),
            Ok((Vec::new(), Vec::new()))
        );
        host
    }

    /// A connection in transmission.
    pub fn transmitting(export: ExportInfo, structured: bool, context: bool) -> Self {
        let mut host = Host::haggling();
        host.export = export;
        if structured {
            assert_eq!(
                host.option(c::OPT_STRUCTURED_REPLY, &[])[0].kind,
                c::REP_ACK
            );
        }
        if context {
            let data = meta_data("disk", &[c::BASE_ALLOCATION]);
            assert_eq!(host.option(c::OPT_SET_META_CONTEXT, &data).len(), 2);
        }
        let data = info_data("disk", &[c::INFO_BLOCK_SIZE]);
        assert_eq!(
            host.option(c::OPT_GO, &data).last().unwrap().kind,
            c::REP_ACK
        );
        assert!(host.conn.is_transmission());
        host
    }

    /// Sends an option and gives the replies to it.
    pub fn option(&mut self, number: u32, data: &[u8]) -> Vec<Reply> {
        let (output, _) = self.send(&option(number, data)).expect("no breach");
        replies(&output)
    }

    /// Sends bytes, answers what the connection asks, and gives its output and other events.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(Vec<u8>, Vec<Event>), ProtocolError> {
        let mut output = Vec::new();
        let mut events = Vec::new();
        loop {
            let step = self.conn.feed(bytes)?;
            bytes = &bytes[step.consumed..];
            self.conn.take_output(&mut output);
            match step.event {
                None => break,
                Some(Event::Output) => {}
                Some(Event::WantExport { name, purpose }) => {
                    assert_eq!(self.conn.wants(), Wants::ExportAnswer);
                    assert_eq!(self.conn.feed(bytes)?.consumed, 0);
                    let known = name.is_empty() || name == "disk";
                    self.asked.push((name, purpose));
                    let unknown = Refusal {
                        kind: RefusalKind::Unknown,
                        message: "no".into(),
                    };
                    self.conn
                        .export_answer(known.then(|| self.export.clone()).ok_or(unknown))?;
                }
                Some(Event::WantList) => {
                    assert_eq!(self.conn.wants(), Wants::ListAnswer);
                    self.conn.list_answer(self.listed.clone());
                }
                Some(event) => {
                    events.push(event);
                    if let Wants::Payload(count) = self.conn.wants() {
                        let there = bytes.len().min(count as usize);
                        self.conn.payload_received(there as u32);
                        bytes = &bytes[there..];
                    }
                }
            }
            self.conn.take_output(&mut output);
        }
        self.conn.take_output(&mut output);
        Ok((output, events))
    }

    /// Sends bytes that must lead to exactly one event.
    pub fn event(&mut self, bytes: &[u8]) -> Event {
        let (output, mut events) = self.send(bytes).expect("no breach");
        assert_eq!(output, []);
        assert_eq!(events.len(), 1, "{events:?}");
        events.remove(0)
    }
}
