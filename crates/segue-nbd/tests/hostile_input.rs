//! Bytes from a stranger: no panic, no endless loop, no memory beyond the limits.
//!
//! Seeds are fixed, so a failure repeats. `NBD_HOSTILE_ROUNDS` makes the runs longer.
#![allow(missing_docs, unsafe_code)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use segue_nbd::client::{self, ClientConn, Config, Goal};
use segue_nbd::consts as c;
use segue_nbd::fence::Session;
use segue_nbd::server::{Event, OPTION_DATA_BYTES_MAX, Refusal, RefusalKind, ServerConn, Wants};
use support::{Random, export, info_data, meta_data, option, option_reply, request};

/// Counts what the present thread holds, and the most it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

// SAFETY: every call is passed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that `run` held at once beyond what was held before.
fn most_held(run: impl FnOnce()) -> isize {
    let before = HELD.get();
    MOST.set(before);
    run();
    MOST.get() - before
}

fn rounds() -> u64 {
    std::env::var("NBD_HOSTILE_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3000)
}

/// Sends `bytes` in random pieces, as a driver would that keeps the rest in a buffer of 256 KiB.
/// Gives whether the connection still stands.
fn drive_server(conn: &mut ServerConn, bytes: &[u8], random: &mut Random) -> bool {
    let mut output = Vec::new();
    conn.take_output(&mut output);
    let (mut at, mut end) = (0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + 1 + random.below(200) as usize);
        loop {
            if let Wants::Payload(count) = conn.wants() {
                let there = (end - at).min(count as usize);
                conn.payload_received(there as u32);
                at += there;
            }
            let Ok(step) = conn.feed(&bytes[at..end]) else {
                return false;
            };
            at += step.consumed;
            assert!(at <= end);
            let Some(event) = step.event else { break };
            if !act(conn, event, random) {
                return false;
            }
            output.clear();
            conn.take_output(&mut output);
        }
        assert!(
            end - at < 28 || conn.wants() != Wants::Bytes,
            "bytes were left over"
        );
    }
    conn.handle_eof(end - at).is_ok()
}

fn act(conn: &mut ServerConn, event: Event, random: &mut Random) -> bool {
    let mut head = [0; segue_nbd::reply::HEAD_BYTES_MAX];
    match event {
        Event::Output | Event::Finished => {}
        Event::WantExport { .. } if random.below(4) == 0 => {
            let refusal = Refusal {
                kind: RefusalKind::Unknown,
                message: String::new(),
            };
            return conn.export_answer(Err(refusal)).is_ok();
        }
        Event::WantExport { .. } => return conn.export_answer(Ok(export(1 << 20))).is_ok(),
        Event::WantList => conn.list_answer(Ok([("disk", "a disk")])),
        Event::WantHold(hold) => conn.hold_answer(Ok(Session {
            server: 1,
            number: hold.ended.len() as u64,
        })),
        Event::WantRevoke(_) => conn.revoke_answer(Ok(())),
        Event::Answer(answer) => {
            conn.answer_reply(&answer, &mut head);
        }
        Event::Request(request) => {
            // The limits that `Request` promises to the driver.
            assert!(request.offset + u64::from(request.length) <= 1 << 20);
            conn.error_reply(&request, segue_nbd::Errno::Eio, "", &mut head);
        }
    }
    true
}

/// Mostly legal messages, so that the deep states are reached.
fn client_message(random: &mut Random, transmission: bool) -> Vec<u8> {
    if transmission {
        let length = [0, 1, 512, 4096, 1 << 25, u32::MAX][random.below(6) as usize];
        let offset = [0, 1, 1 << 20, u64::MAX][random.below(4) as usize];
        let command = random.below(9) as u16;
        let mut bytes = request(
            random.below(32) as u16,
            command,
            random.next(),
            offset,
            length,
        );
        if command == c::CMD_WRITE && length <= 4096 {
            bytes.extend(vec![0; length as usize]);
        }
        return bytes;
    }
    let name = ["disk", "", "other"][random.below(3) as usize];
    match random.below(10) {
        0 => option(c::OPT_LIST, &[]),
        1 => option(c::OPT_STRUCTURED_REPLY, &[]),
        2 => option(c::OPT_INFO, &info_data(name, &[0, 1, 2, 3])),
        3 => option(c::OPT_GO, &info_data(name, &[3])),
        4 => option(c::OPT_LIST_META_CONTEXT, &meta_data(name, &["base:"])),
        5 => option(
            c::OPT_SET_META_CONTEXT,
            &meta_data(name, &["base:allocation"]),
        ),
        6 => option(random.below(20) as u32, &random.bytes(40)),
        7 => option(c::OPT_SEGUE_HOLD, &vec![0; random.below(40) as usize]),
        8 => option(c::OPT_SEGUE_REVOKE, &[0; 12]),
        _ => option(c::OPT_INFO, &vec![0; 70_000]),
    }
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len() as u64) as usize;
    match random.below(5) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes.truncate(at),
        2 => bytes.insert(at, random.next() as u8),
        3 => bytes[at] = [0, 0xff][random.below(2) as usize],
        _ => {}
    }
}

#[test]
fn a_server_bears_damaged_conversations() {
    let mut random = Random::new(11);
    let mut survived = 0;
    for round in 0..rounds() {
        let mut bytes = vec![0, 0, 0, 3];
        let options = random.below(6);
        for _ in 0..options {
            bytes.extend(client_message(&mut random, false));
        }
        if random.below(2) == 0 {
            bytes.extend(option(c::OPT_GO, &info_data("disk", &[3])));
            for _ in 0..random.below(12) {
                bytes.extend(client_message(&mut random, true));
            }
        }
        damage(&mut bytes, &mut random);
        let most = most_held(|| {
            let mut conn = ServerConn::fenced();
            survived += u64::from(drive_server(&mut conn, &bytes, &mut random));
        });
        // The option's buffer grows by doubling; a short answer is held beside it.
        assert!(
            most < 2 * OPTION_DATA_BYTES_MAX as isize + 16_384,
            "round {round}: {most} bytes"
        );
    }
    assert!(
        survived > 0 && survived < rounds(),
        "{survived} survived: the mix is wrong"
    );
}

#[test]
fn a_server_bears_noise() {
    let mut random = Random::new(12);
    for _ in 0..rounds() {
        let count = random.below(300) as usize;
        let mut bytes = random.bytes(count);
        if random.below(2) == 0 {
            bytes.splice(0..0, [0, 0, 0, 3]);
        }
        drive_server(&mut ServerConn::fenced(), &bytes, &mut random);
    }
}

#[test]
fn a_claimed_length_takes_no_memory_before_the_bytes_come() {
    for length in [OPTION_DATA_BYTES_MAX, OPTION_DATA_BYTES_MAX + 1, 1 << 25] {
        let mut bytes = option(c::OPT_GO, &[]);
        bytes[12..].copy_from_slice(&length.to_be_bytes());
        let mut conn = ServerConn::new();
        conn.take_output(&mut Vec::new());
        conn.feed(&[0, 0, 0, 3]).unwrap();
        assert!(
            most_held(|| assert!(conn.feed(&bytes).is_ok())) < 64,
            "{length}"
        );
    }
}

#[test]
fn transmission_allocates_nothing() {
    let mut conn = ServerConn::new();
    let mut output = Vec::new();
    conn.take_output(&mut output);
    conn.feed(&[0, 0, 0, 3]).unwrap();
    conn.feed(&option(c::OPT_STRUCTURED_REPLY, &[])).unwrap();
    conn.take_output(&mut output);
    conn.feed(&option(c::OPT_GO, &info_data("disk", &[])))
        .unwrap();
    conn.export_answer(Ok(export(1 << 20))).unwrap();
    conn.take_output(&mut output);
    let read = request(0, c::CMD_READ, 1, 0, 4096);
    let write = request(0, c::CMD_WRITE, 2, 0, 4096);
    let refused = request(0x8000, c::CMD_TRIM, 3, 0, 4096);
    let mut head = [0; segue_nbd::reply::HEAD_BYTES_MAX];
    let most = most_held(|| {
        for bytes in [&read, &write, &refused] {
            match conn.feed(bytes).unwrap().event {
                Some(Event::Request(request)) if request.length == 4096 => {
                    if let Wants::Payload(count) = conn.wants() {
                        conn.payload_received(count);
                        conn.done_reply(&request, &mut head);
                    } else {
                        conn.read_reply(&request, &mut head);
                    }
                }
                Some(Event::Answer(answer)) => {
                    conn.answer_reply(&answer, &mut head);
                }
                event => panic!("{event:?}"),
            }
        }
    });
    assert_eq!(most, 0);
}

/// A client in transmission with requests in flight.
fn waiting_client() -> (ClientConn, Vec<u64>) {
    let export = "disk".into();
    let config = Config {
        goal: Goal::Connect,
        export,
        structured: true,
        block_status: true,
        hold: None,
    };
    let mut conn = ClientConn::new(config);
    let mut bytes = c::INIT_MAGIC.to_be_bytes().to_vec();
    bytes.extend(c::OPTION_MAGIC.to_be_bytes());
    bytes.extend([0, 3]);
    conn.feed(&bytes).unwrap();
    conn.feed(&option_reply(c::OPT_STRUCTURED_REPLY, c::REP_ACK, &[]))
        .unwrap();
    let context = [&[0, 0, 0, 1][..], b"base:allocation"].concat();
    conn.feed(&option_reply(
        c::OPT_SET_META_CONTEXT,
        c::REP_META_CONTEXT,
        &context,
    ))
    .unwrap();
    conn.feed(&option_reply(c::OPT_SET_META_CONTEXT, c::REP_ACK, &[]))
        .unwrap();
    let mut info = vec![0, 0];
    info.extend((1_u64 << 30).to_be_bytes());
    info.extend(support::ALL_FLAGS.to_be_bytes());
    conn.feed(&option_reply(c::OPT_GO, c::REP_INFO, &info))
        .unwrap();
    conn.feed(&option_reply(c::OPT_GO, c::REP_ACK, &[]))
        .unwrap();
    use client::Command as C;
    let commands = [C::Read, C::Read, C::Write, C::BlockStatus, C::Read];
    let cookies = commands.map(|command| {
        let request = client::Request {
            command,
            flags: 0,
            offset: 0,
            length: 4096,
        };
        conn.submit(&request, &mut [0; 28]).unwrap()
    });
    (conn, cookies.to_vec())
}

fn server_message(random: &mut Random, cookies: &[u64]) -> Vec<u8> {
    let cookie = cookies[random.below(cookies.len() as u64) as usize];
    if random.below(6) == 0 {
        let mut head = [0; 16];
        segue_nbd::reply::simple(&mut head, cookie, None);
        return head.to_vec();
    }
    let kinds = [0, 1, 1, 1, 2, 2, 5, 0x8001, 0x8002, 0x8003];
    let kind = kinds[random.below(10) as usize];
    let offset = random.below(4096).to_be_bytes();
    let payload = match kind {
        1 => [&offset[..], &vec![1; 1 + random.below(64) as usize]].concat(),
        2 => [&offset[..], &(1 + random.below(64) as u32).to_be_bytes()].concat(),
        5 => [&[0, 0, 0, 1][..], &[0, 0, 16, 0, 0, 0, 0, 1]].concat(),
        0x8001 | 0x8003 => [&[0, 0, 0, 5, 0, 1][..], b"x"].concat(),
        0x8002 => [&[0, 0, 0, 5, 0, 0][..], &offset].concat(),
        _ => Vec::new(),
    };
    let mut bytes = vec![0; 20];
    let done = kind == 0 || random.below(4) == 0;
    segue_nbd::reply::chunk(&mut bytes, cookie, kind, done, payload.len() as u32);
    bytes.extend(payload);
    bytes
}

fn drive_client(conn: &mut ClientConn, bytes: &[u8], random: &mut Random) -> bool {
    let (mut at, mut end) = (0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + 1 + random.below(50) as usize);
        loop {
            if let client::Wants::Payload(count) = conn.wants() {
                let there = (end - at).min(count as usize);
                conn.payload_received(there as u32);
                at += there;
            }
            let Ok(step) = conn.feed(&bytes[at..end]) else {
                return false;
            };
            at += step.consumed;
            if step.event.is_none() {
                break;
            }
        }
    }
    true
}

#[test]
fn a_client_bears_damaged_replies() {
    let mut random = Random::new(13);
    let mut survived = 0;
    for round in 0..rounds() {
        let (mut conn, cookies) = waiting_client();
        let mut bytes = Vec::new();
        for _ in 0..1 + random.below(4) {
            bytes.extend(server_message(&mut random, &cookies));
        }
        damage(&mut bytes, &mut random);
        let most = most_held(|| {
            survived += u64::from(drive_client(&mut conn, &bytes, &mut random));
        });
        assert!(
            most < 16_384,
            "round {round}: {most} bytes for {} bytes",
            bytes.len()
        );
    }
    assert!(
        survived > 0 && survived < rounds(),
        "{survived} survived: the mix is wrong"
    );
}

#[test]
fn a_client_bears_noise() {
    let mut random = Random::new(14);
    let greeting = [
        &c::INIT_MAGIC.to_be_bytes()[..],
        &c::OPTION_MAGIC.to_be_bytes(),
        &[0, 3],
    ];
    for _ in 0..rounds() {
        let (mut conn, _) = waiting_client();
        let count = random.below(200) as usize;
        drive_client(&mut conn, &random.bytes(count), &mut random);
        let export = "disk".into();
        let config = Config {
            goal: Goal::List,
            export,
            structured: true,
            block_status: true,
            hold: None,
        };
        let mut bytes = greeting.concat();
        let kind = [1, 2, 3, 4, c::REP_ERR_UNSUP][random.below(5) as usize];
        let data = random.bytes(20);
        bytes.extend(option_reply(c::OPT_STRUCTURED_REPLY, c::REP_ACK, &[]));
        bytes.extend(option_reply(c::OPT_SET_META_CONTEXT, kind, &data));
        damage(&mut bytes, &mut random);
        drive_client(&mut ClientConn::new(config), &bytes, &mut random);
    }
}

#[test]
fn a_client_bounds_what_a_reply_can_make_it_hold() {
    let (mut conn, cookies) = waiting_client();
    let read = client::Request {
        command: client::Command::Read,
        flags: 0,
        offset: 0,
        length: 1 << 25,
    };
    let cookie = conn.submit(&read, &mut [0; 28]).unwrap();
    assert!(!cookies.contains(&cookie));
    let most = most_held(|| {
        // Every second byte, so that no two pieces ever touch.
        let refused = (0_u64..1 << 24).find_map(|piece| {
            let mut hole = [0; 32];
            segue_nbd::reply::offset_hole(&mut hole, cookie, false, 2 * piece + 1, 1);
            conn.feed(&hole).err()
        });
        assert!(refused.is_some());
    });
    assert!(most < 1 << 20, "{most} bytes");
}
