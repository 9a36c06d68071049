//! The client against the server, bytes in random fragments, replies in any order and shape.
#![allow(missing_docs)]

mod support;

use segue_nbd::client::{Command, Config, Goal, Request, RequestError};
use segue_nbd::{BlockSizes, Errno, ExportInfo, Features, consts as c};
use support::disk::{Client, Disk, Outcome, settle};
use support::{Random, export};

const SLOT_BYTES: u32 = 4096;
const SLOTS: u64 = 16;

fn config(structured: bool, block_status: bool) -> Config {
    Config {
        goal: Goal::Connect,
        export: "disk".into(),
        structured,
        block_status,
        hold: None,
    }
}

fn connect(config: Config, export: ExportInfo, random: &mut Random) -> (Client, Disk) {
    let mut client = Client::new(config);
    let mut disk = Disk::new(export);
    settle(&mut client, &mut disk, random);
    assert!(client.connected && disk.conn.is_transmission());
    (client, disk)
}

/// Requests on different slots of the disk, so that each has one outcome whatever the order.
struct Batch {
    sent: Vec<(u64, Request, Vec<u8>)>,
}

impl Batch {
    fn send(client: &mut Client, random: &mut Random) -> Batch {
        let agreed = client.conn.negotiated().unwrap().clone();
        let mut sent = Vec::new();
        for slot in 0..SLOTS {
            let command = [
                Command::Read,
                Command::Read,
                Command::Write,
                Command::WriteZeroes,
                Command::BlockStatus,
                Command::Flush,
            ][random.below(6) as usize];
            if command == Command::BlockStatus && agreed.allocation_id.is_none() {
                continue;
            }
            let at = random.below(u64::from(SLOT_BYTES)) as u32;
            let length = 1 + random.below(u64::from(SLOT_BYTES - at)) as u32;
            let flags = match command {
                Command::Read if agreed.structured => [0, c::CMD_FLAG_DF][random.below(2) as usize],
                Command::Write => [0, c::CMD_FLAG_FUA][random.below(2) as usize],
                Command::BlockStatus => [0, c::CMD_FLAG_REQ_ONE][random.below(2) as usize],
                _ => 0,
            };
            let offset = slot * u64::from(SLOT_BYTES) + u64::from(at);
            let (offset, length) = if command == Command::Flush {
                (0, 0)
            } else {
                (offset, length)
            };
            let request = Request {
                command,
                flags,
                offset,
                length,
            };
            let payload = match command {
                // Half of the bytes are zeroes, in runs, so that there are holes.
                Command::Write if random.below(2) == 0 => vec![0; length as usize],
                Command::Write => random.bytes(length as usize),
                _ => Vec::new(),
            };
            sent.push((client.submit(request, &payload), request, payload));
        }
        Batch { sent }
    }

    /// Checks every outcome against the model and brings the model up to date.
    fn check(self, client: &mut Client, model: &mut [u8], fails: &mut u64) {
        for (cookie, request, payload) in self.sent {
            let outcome = client.outcomes.remove(&cookie).expect("an outcome");
            let start = request.offset as usize;
            let range = start..start + request.length as usize;
            if let Some(Err(failure)) = &outcome.result {
                assert_eq!(failure.errno, Errno::Eio);
                *fails += 1;
                continue;
            }
            assert_eq!(outcome.result, Some(Ok(())), "{request:?}");
            match request.command {
                Command::Read => assert!(outcome.data == model[range], "{request:?}"),
                Command::Write => model[range].copy_from_slice(&payload),
                Command::WriteZeroes => model[range].fill(0),
                Command::BlockStatus => check_extents(&request, &outcome, &model[range]),
                _ => {}
            }
        }
    }
}

fn check_extents(request: &Request, outcome: &Outcome, bytes: &[u8]) {
    assert!(!outcome.extents.is_empty());
    let one = request.flags & c::CMD_FLAG_REQ_ONE != 0;
    assert!(!one || outcome.extents.len() == 1);
    let mut at = 0;
    for extent in &outcome.extents {
        let end = at + extent.length as usize;
        let zero = extent.flags & c::STATE_ZERO != 0;
        assert!(bytes[at..end].iter().all(|byte| (*byte == 0) == zero));
        at = end;
    }
    assert!(one || at == bytes.len());
}

fn run(seed: u64, structured: bool, block_status: bool, fails_one_in: u64) -> u64 {
    let mut random = Random::new(seed);
    let size_bytes = SLOTS * u64::from(SLOT_BYTES);
    let (mut client, mut disk) = connect(
        config(structured, block_status),
        export(size_bytes),
        &mut random,
    );
    disk.fails_one_in = fails_one_in;
    let mut model = vec![0; size_bytes as usize];
    let mut fails = 0;
    for _ in 0..12 {
        let batch = Batch::send(&mut client, &mut random);
        settle(&mut client, &mut disk, &mut random);
        assert_eq!((client.conn.in_flight(), disk.conn.in_flight()), (0, 0));
        batch.check(&mut client, &mut model, &mut fails);
        assert!(client.outcomes.is_empty());
        assert!(disk.bytes == model, "seed {seed}");
    }
    let mut head = [0; c::REQUEST_BYTES];
    client.conn.disconnect(&mut head).unwrap();
    client.outbox.extend(head);
    settle(&mut client, &mut disk, &mut random);
    assert!(disk.conn.is_drained());
    assert_eq!(client.conn.handle_eof(0), Ok(()));
    fails
}

#[test]
fn simple_replies_carry_every_command() {
    for seed in 0..40 {
        assert_eq!(run(seed, false, false, 0), 0);
    }
}

#[test]
fn structured_replies_carry_every_command_in_any_shape() {
    for seed in 0..80 {
        assert_eq!(run(seed, true, seed % 2 == 0, 0), 0);
    }
}

#[test]
fn errors_end_their_own_request_alone() {
    let fails: u64 = (0..40).map(|seed| run(seed, seed % 2 == 0, true, 6)).sum();
    assert!(fails > 100, "only {fails} failures were tried");
}

#[test]
fn what_was_agreed_on_is_told() {
    let mut random = Random::new(1);
    let (client, _) = connect(config(true, true), export(SLOTS * 4096), &mut random);
    let agreed = client.conn.negotiated().unwrap();
    assert_eq!(agreed.size_bytes, SLOTS * 4096);
    assert_eq!(agreed.flags, support::ALL_FLAGS | c::FLAG_SEND_DF);
    assert_eq!(agreed.block_sizes, Some(BlockSizes::DEFAULT));
    assert_eq!(agreed.allocation_id, Some(1));
    assert!(agreed.structured);
    assert_eq!(agreed.name.as_deref(), Some("disk"));
    assert_eq!(agreed.description.as_deref(), Some("a disk"));
}

#[test]
fn a_list_is_given_and_the_session_aborted() {
    let mut random = Random::new(2);
    let mut client = Client::new(Config {
        goal: Goal::List,
        ..config(true, false)
    });
    let mut disk = Disk::new(export(4096));
    settle(&mut client, &mut disk, &mut random);
    let listed = client.listed.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&*listed[0].name, &*listed[0].description),
        ("disk", "a disk")
    );
    assert!(disk.conn.is_drained());
}

#[test]
fn a_refusal_is_told_and_the_session_aborted() {
    let mut random = Random::new(3);
    for block_status in [false, true] {
        let other = Config {
            export: "other".into(),
            ..config(true, block_status)
        };
        let mut client = Client::new(other);
        let mut disk = Disk::new(export(4096));
        settle(&mut client, &mut disk, &mut random);
        let refused = client.refused.unwrap();
        assert_eq!(
            (refused.reply, &*refused.message),
            (c::REP_ERR_UNKNOWN, "none")
        );
        assert!(disk.conn.is_drained() && !client.connected);
    }
}

#[test]
fn eshutdown_leaves_only_the_disconnect() {
    let mut random = Random::new(4);
    for structured in [false, true] {
        let (mut client, mut disk) = connect(config(structured, false), export(4096), &mut random);
        disk.conn.begin_shutdown();
        let read = Request {
            command: Command::Read,
            flags: 0,
            offset: 0,
            length: 512,
        };
        let cookie = client.submit(read, &[]);
        settle(&mut client, &mut disk, &mut random);
        let outcome = client.outcomes.remove(&cookie).unwrap();
        assert_eq!(outcome.result.unwrap().unwrap_err().errno, Errno::Eshutdown);
        let mut head = [0; c::REQUEST_BYTES];
        assert_eq!(
            client.conn.submit(&read, &mut head),
            Err(RequestError::ShuttingDown)
        );
        assert_eq!(client.conn.disconnect(&mut head), Ok(()));
        assert_eq!(
            client.conn.disconnect(&mut head),
            Err(RequestError::NotConnected)
        );
        assert_eq!(
            client.conn.submit(&read, &mut head),
            Err(RequestError::NotConnected)
        );
    }
}

#[test]
fn requests_that_the_document_forbids_are_not_sent() {
    use Command as C;
    use RequestError as E;
    let mut random = Random::new(5);
    let block_sizes = BlockSizes::new(512, 4096, 8192).unwrap();
    let slow = Features {
        fast_zero: false,
        cache: false,
        ..Features::DISK
    };
    let info = ExportInfo {
        block_sizes,
        features: slow,
        ..export(16384)
    };
    let (mut client, _) = connect(config(false, false), info.clone(), &mut random);
    let cases = [
        (C::Cache, 0, 0, 512, E::CommandNotOffered),
        (C::BlockStatus, 0, 0, 512, E::CommandNotOffered),
        (C::Read, c::CMD_FLAG_DF, 0, 512, E::FlagNotOffered),
        (
            C::WriteZeroes,
            c::CMD_FLAG_FAST_ZERO,
            0,
            512,
            E::FlagNotOffered,
        ),
        (C::Write, c::CMD_FLAG_NO_HOLE, 0, 512, E::FlagNotOffered),
        (C::Read, 0, 16384, 512, E::Range),
        (C::Read, 0, u64::MAX, 512, E::Range),
        (C::Write, 0, 0, 0, E::Range),
        (C::Flush, 0, 0, 512, E::Range),
        (C::Read, 0, 256, 512, E::Alignment),
        (C::Trim, 0, 0, 100, E::Alignment),
        (C::Write, 0, 0, 8704, E::TooLong),
        (C::WriteZeroes, 0, 0, 8704, E::TooLong),
    ];
    let mut head = [0; c::REQUEST_BYTES];
    for (command, flags, offset, length, error) in cases {
        let request = Request {
            command,
            flags,
            offset,
            length,
        };
        assert_eq!(
            client.conn.submit(&request, &mut head),
            Err(error),
            "{request:?}"
        );
    }
    assert_eq!(client.conn.in_flight(), 0);
    let info = ExportInfo {
        read_only: true,
        ..info
    };
    let (mut client, _) = connect(config(false, false), info, &mut random);
    for command in [C::Write, C::Trim, C::WriteZeroes] {
        let request = Request {
            command,
            flags: 0,
            offset: 0,
            length: 512,
        };
        assert_eq!(client.conn.submit(&request, &mut head), Err(E::ReadOnly));
    }
}
