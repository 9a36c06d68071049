//! Both ends with their drivers, in memory: a disk behind a [`ServerConn`] that answers in any
//! order and in any legal shape, and a host behind a [`ClientConn`].

use std::collections::HashMap;

use segue_nbd::client::{self, ClientConn};
use segue_nbd::reply::HEAD_BYTES_MAX;
use segue_nbd::server::{Command, Event, Refusal, RefusalKind, Request, ServerConn, Wants};
use segue_nbd::{Errno, ExportInfo, Extent, ProtocolError, consts as c};

use super::Random;

pub struct Disk {
    pub conn: ServerConn,
    pub export: ExportInfo,
    pub bytes: Vec<u8>,
    /// One request in this many fails with EIO; 0: none.
    pub fails_one_in: u64,
    pub outbox: Vec<u8>,
    inbox: Vec<u8>,
    waiting: Vec<(Request, Vec<u8>)>,
    payload: Option<(Request, Vec<u8>)>,
}

impl Disk {
    pub fn new(export: ExportInfo) -> Self {
        let bytes = vec![0; export.size_bytes as usize];
        let mut conn = ServerConn::new();
        let mut outbox = Vec::new();
        conn.take_output(&mut outbox);
        let (inbox, waiting) = (Vec::new(), Vec::new());
        Disk {
            conn,
            export,
            bytes,
            fails_one_in: 0,
            outbox,
            inbox,
            waiting,
            payload: None,
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The driver's loop as the crate describes it.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.inbox.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            if let Wants::Payload(count) = self.conn.wants() {
                let there = (self.inbox.len() - at).min(count as usize);
                let (_, payload) = self.payload.as_mut().unwrap();
                payload.extend_from_slice(&self.inbox[at..at + there]);
                at += there;
                self.conn.payload_received(there as u32);
                if there < count as usize {
                    break;
                }
                self.waiting.push(self.payload.take().unwrap());
            }
            let step = self.conn.feed(&self.inbox[at..])?;
            at += step.consumed;
            let Some(event) = step.event else { break };
            self.act(event)?;
            self.conn.take_output(&mut self.outbox);
        }
        self.inbox.drain(..at);
        Ok(())
    }

    fn act(&mut self, event: Event) -> Result<(), ProtocolError> {
        match event {
            Event::Output | Event::Finished => {}
            Event::WantHold(_) | Event::WantRevoke(_) => unreachable!("a server without a fence"),
            Event::WantExport { name, .. } => {
                let unknown = Refusal {
                    kind: RefusalKind::Unknown,
                    message: "none".into(),
                };
                let known = name == self.export.name;
                self.conn
                    .export_answer(known.then(|| self.export.clone()).ok_or(unknown))?;
            }
            Event::WantList => {
                let entry = (self.export.name.as_str(), self.export.description.as_str());
                self.conn.list_answer(Ok([entry]));
            }
            Event::Request(request) if request.command == Command::Write => {
                self.payload = Some((request, Vec::new()));
            }
            Event::Request(request) => self.waiting.push((request, Vec::new())),
            Event::Answer(answer) => {
                let mut head = [0; HEAD_BYTES_MAX];
                let count = self.conn.answer_reply(&answer, &mut head);
                self.outbox.extend_from_slice(&head[..count]);
            }
        }
        Ok(())
    }

    /// Carries out any one request and replies to it.
    pub fn answer_any(&mut self, random: &mut Random) {
        if self.waiting.is_empty() {
            return;
        }
        let which = random.below(self.waiting.len() as u64) as usize;
        let (request, payload) = self.waiting.swap_remove(which);
        let mut head = [0; HEAD_BYTES_MAX];
        if self.fails_one_in > 0 && random.below(self.fails_one_in) == 0 {
            if request.command == Command::Read && self.conn.may_fragment(&request) {
                self.send_piece(&request, 0, 1, &mut head);
            }
            let count = self
                .conn
                .error_reply(&request, Errno::Eio, "as told", &mut head);
            self.outbox.extend_from_slice(&head[..count]);
            return;
        }
        let start = request.offset as usize;
        let range = start..start + request.length as usize;
        match request.command {
            Command::Read => return self.answer_read(&request, random),
            Command::BlockStatus => return self.answer_block_status(&request),
            Command::Write => self.bytes[range].copy_from_slice(&payload),
            Command::WriteZeroes | Command::Trim => self.bytes[range].fill(0),
            Command::Flush | Command::Cache => {}
        }
        let count = self.conn.done_reply(&request, &mut head);
        self.outbox.extend_from_slice(&head[..count]);
    }

    fn answer_read(&mut self, request: &Request, random: &mut Random) {
        let mut head = [0; HEAD_BYTES_MAX];
        let start = request.offset as usize;
        let range = start..start + request.length as usize;
        let zero = self.bytes[range.clone()].iter().all(|byte| *byte == 0);
        if zero && self.conn.is_structured() && random.below(2) == 0 {
            let count = self.conn.read_zeroes_reply(request, &mut head);
            self.outbox.extend_from_slice(&head[..count]);
        } else if self.conn.may_fragment(request) && random.below(2) == 0 {
            for (at, length) in pieces(request.length, random) {
                self.send_piece(request, at, length, &mut head);
            }
            let count = self.conn.done_reply(request, &mut head);
            self.outbox.extend_from_slice(&head[..count]);
        } else {
            let count = self.conn.read_reply(request, &mut head);
            self.outbox.extend_from_slice(&head[..count]);
            self.outbox.extend_from_slice(&self.bytes[range]);
        }
    }

    fn send_piece(&mut self, request: &Request, at: u32, length: u32, head: &mut [u8]) {
        let offset = request.offset + u64::from(at);
        let data = &self.bytes[offset as usize..(offset + u64::from(length)) as usize];
        if data.iter().all(|byte| *byte == 0) {
            let count = self.conn.read_hole_chunk(request, offset, length, head);
            self.outbox.extend_from_slice(&head[..count]);
        } else {
            let count = self.conn.read_data_chunk(request, offset, length, head);
            self.outbox.extend_from_slice(&head[..count]);
            self.outbox.extend_from_slice(data);
        }
    }

    fn answer_block_status(&mut self, request: &Request) {
        let start = request.offset as usize;
        let mut extents: Vec<Extent> = Vec::new();
        for byte in &self.bytes[start..start + request.length as usize] {
            let flags = if *byte == 0 {
                c::STATE_HOLE | c::STATE_ZERO
            } else {
                0
            };
            match extents.last_mut() {
                Some(last) if last.flags == flags => last.length += 1,
                _ => extents.push(Extent { length: 1, flags }),
            }
        }
        self.conn
            .block_status_reply(request, &extents, &mut self.outbox);
    }
}

/// Cuts a length into up to five pieces, in any order.
fn pieces(length: u32, random: &mut Random) -> Vec<(u32, u32)> {
    let mut cuts: Vec<u32> = (0..4)
        .map(|_| random.below(u64::from(length)) as u32)
        .collect();
    cuts.extend([0, length]);
    cuts.sort_unstable();
    cuts.dedup();
    let mut pieces: Vec<(u32, u32)> = cuts
        .windows(2)
        .map(|pair| (pair[0], pair[1] - pair[0]))
        .collect();
    for last in (1..pieces.len()).rev() {
        pieces.swap(last, random.below(last as u64 + 1) as usize);
    }
    pieces
}

/// What has come back for a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub data: Vec<u8>,
    pub extents: Vec<Extent>,
    pub result: Option<Result<(), client::Failure>>,
}

pub struct Client {
    pub conn: ClientConn,
    pub outbox: Vec<u8>,
    pub outcomes: HashMap<u64, Outcome>,
    pub connected: bool,
    pub listed: Option<Vec<client::ListedExport>>,
    pub refused: Option<client::OptionRefused>,
    inbox: Vec<u8>,
    /// Where the data that is due goes.
    due: (u64, usize),
}

impl Client {
    pub fn new(config: client::Config) -> Self {
        Client {
            conn: ClientConn::new(config),
            outbox: Vec::new(),
            outcomes: HashMap::new(),
            connected: false,
            listed: None,
            refused: None,
            inbox: Vec::new(),
            due: (0, 0),
        }
    }

    /// Sends a request, with its payload if it is a write.
    pub fn submit(&mut self, request: client::Request, payload: &[u8]) -> u64 {
        let mut head = [0; c::REQUEST_BYTES];
        let cookie = self
            .conn
            .submit(&request, &mut head)
            .expect("a legal request");
        self.outbox.extend_from_slice(&head);
        self.outbox.extend_from_slice(payload);
        let data = match request.command {
            // Not zero, so that a hole must be written too.
            Command::Read => vec![0xaa; request.length as usize],
            _ => Vec::new(),
        };
        self.outcomes.insert(
            cookie,
            Outcome {
                data,
                ..Outcome::default()
            },
        );
        cookie
    }

    pub fn receive(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        self.inbox.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            if let client::Wants::Payload(count) = self.conn.wants() {
                let there = (self.inbox.len() - at).min(count as usize);
                let (cookie, to) = self.due;
                let data = &mut self.outcomes.get_mut(&cookie).unwrap().data;
                data[to..to + there].copy_from_slice(&self.inbox[at..at + there]);
                self.due.1 += there;
                at += there;
                self.conn.payload_received(there as u32);
                if there < count as usize {
                    break;
                }
            }
            let step = self.conn.feed(&self.inbox[at..])?;
            at += step.consumed;
            let Some(event) = step.event else { break };
            self.act(event);
            self.conn.take_output(&mut self.outbox);
        }
        self.inbox.drain(..at);
        Ok(())
    }

    fn act(&mut self, event: client::Event) {
        use client::Event as E;
        match event {
            E::Output | E::Progress | E::Revoked => {}
            E::Connected => self.connected = true,
            E::Listed(listed) => self.listed = Some(listed),
            E::Refused(refused) => self.refused = Some(refused),
            E::Data { cookie, at, .. } => self.due = (cookie, at as usize),
            E::Zeroes { cookie, at, length } => {
                let data = &mut self.outcomes.get_mut(&cookie).unwrap().data;
                data[at as usize..(at + length) as usize].fill(0);
            }
            E::Extents { cookie, extents } => {
                self.outcomes.get_mut(&cookie).unwrap().extents = extents;
            }
            E::Done { cookie, result } => {
                let before = self
                    .outcomes
                    .get_mut(&cookie)
                    .unwrap()
                    .result
                    .replace(result);
                assert_eq!(before, None, "done twice");
            }
        }
    }
}

/// Carries bytes between the two in random fragments until nothing moves any more.
pub fn settle(client: &mut Client, disk: &mut Disk, random: &mut Random) {
    loop {
        let mut moved = false;
        let count = fragment(client.outbox.len(), random);
        let bytes: Vec<u8> = client.outbox.drain(..count).collect();
        moved |= count > 0;
        disk.receive(&bytes).expect("the client keeps the protocol");
        if random.below(2) == 0 || !moved {
            moved |= disk.waiting() > 0;
            disk.answer_any(random);
        }
        let count = fragment(disk.outbox.len(), random);
        let bytes: Vec<u8> = disk.outbox.drain(..count).collect();
        moved |= count > 0;
        client
            .receive(&bytes)
            .expect("the server keeps the protocol");
        if !moved {
            return;
        }
    }
}

fn fragment(there: usize, random: &mut Random) -> usize {
    let longest = [1, 7, 30, 5000][random.below(4) as usize];
    there.min(1 + random.below(longest) as usize)
}
