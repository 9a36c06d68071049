//! What a client bears from a server, and what it does not.
#![allow(missing_docs)]

mod support;

use segue_nbd::client::{ClientConn, Command, Event, Request, Wants};
use segue_nbd::{Errno, Extent, ProtocolError, consts as c};
use support::server_script::{asking_go, connected};

const LENGTH: u32 = 1000;
const OFFSET: u64 = 4000;

fn chunk(cookie: u64, kind: u16, done: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = c::STRUCTURED_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend(u16::from(done).to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend((payload.len() as u32).to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn data(at: u64, length: usize) -> Vec<u8> {
    [&OFFSET.wrapping_add(at).to_be_bytes()[..], &vec![1; length]].concat()
}

fn hole(at: u64, length: u32) -> Vec<u8> {
    [
        &OFFSET.wrapping_add(at).to_be_bytes()[..],
        &length.to_be_bytes(),
    ]
    .concat()
}

fn error(errno: u32, message: &[u8]) -> Vec<u8> {
    [
        &errno.to_be_bytes()[..],
        &(message.len() as u16).to_be_bytes(),
        message,
    ]
    .concat()
}

fn error_at(at: u64) -> Vec<u8> {
    [
        error(5, b""),
        OFFSET.wrapping_add(at).to_be_bytes().to_vec(),
    ]
    .concat()
}

fn extents(id: u32, pairs: &[(u32, u32)]) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    for (length, flags) in pairs {
        bytes.extend([length.to_be_bytes(), flags.to_be_bytes()].concat());
    }
    bytes
}

/// Feeds all of `bytes`, taking announced data, and gives the events, or the rule broken.
fn feed_all(conn: &mut ClientConn, mut bytes: &[u8]) -> Result<Vec<Event>, ProtocolError> {
    let mut events = Vec::new();
    loop {
        if let Wants::Payload(count) = conn.wants() {
            let there = bytes.len().min(count as usize);
            conn.payload_received(there as u32);
            bytes = &bytes[there..];
        }
        let step = conn.feed(bytes)?;
        bytes = &bytes[step.consumed..];
        match step.event {
            Some(event) => events.push(event),
            None => return Ok(events),
        }
    }
}

fn submit(conn: &mut ClientConn, command: Command, flags: u16) -> u64 {
    let (offset, length) = if command == Command::Flush {
        (0, 0)
    } else {
        (OFFSET, LENGTH)
    };
    let request = Request {
        command,
        flags,
        offset,
        length,
    };
    conn.submit(&request, &mut [0; c::REQUEST_BYTES])
        .expect("a legal request")
}

/// The rule that chunks of (type, payload) break; the last has DONE.
fn rule(command: Command, flags: u16, chunks: &[Chunk]) -> &'static str {
    let mut conn = connected(true);
    let cookie = submit(&mut conn, command, flags);
    for (index, (kind, payload)) in chunks.iter().enumerate() {
        let bytes = chunk(cookie, *kind, index + 1 == chunks.len(), payload);
        match feed_all(&mut conn, &bytes) {
            Ok(_) => {}
            Err(ProtocolError::ReplyInvalid {
                cookie: named,
                rule,
            }) => {
                assert_eq!(named, cookie);
                assert_eq!(conn.wants(), Wants::Nothing);
                return rule;
            }
            Err(error) => panic!("{error}"),
        }
    }
    ""
}

/// Type and payload of a chunk.
type Chunk = (u16, Vec<u8>);
/// Command flags, chunks, and the rule they break.
type Case<'a> = (u16, &'a [Chunk], &'a str);

const NONE: u16 = c::REPLY_TYPE_NONE;
const DATA: u16 = c::REPLY_TYPE_OFFSET_DATA;
const HOLE: u16 = c::REPLY_TYPE_OFFSET_HOLE;
const STATUS: u16 = c::REPLY_TYPE_BLOCK_STATUS;
const ERROR: u16 = c::REPLY_TYPE_ERROR;
const ERROR_AT: u16 = c::REPLY_TYPE_ERROR_OFFSET;

#[test]
fn reads_that_keep_the_rules_are_borne() {
    let df = c::CMD_FLAG_DF;
    let cases: [(u16, &[Chunk]); 8] = [
        (0, &[(DATA, data(0, 1000))]),
        (df, &[(HOLE, hole(0, 1000))]),
        (0, &[(DATA, data(500, 500)), (HOLE, hole(0, 500))]),
        (
            0,
            &[
                (HOLE, hole(0, 1)),
                (DATA, data(2, 998)),
                (HOLE, hole(1, 1)),
                (NONE, vec![]),
            ],
        ),
        (df, &[(DATA, data(0, 1000)), (NONE, vec![])]),
        (0, &[(DATA, data(0, 10)), (ERROR, error(5, b"gone"))]),
        (
            0,
            &[
                (ERROR_AT, error_at(100)),
                (DATA, data(0, 100)),
                (NONE, vec![]),
            ],
        ),
        (0, &[(0x8fff, error(5, b"")), (NONE, vec![])]),
    ];
    for (flags, chunks) in cases {
        assert_eq!(rule(Command::Read, flags, chunks), "", "{chunks:?}");
    }
}

#[test]
fn reads_that_break_a_rule_end_the_connection() {
    let df = c::CMD_FLAG_DF;
    let outside = "a content chunk is empty or outside the request";
    let missing = "a read succeeded without all its data";
    let wrong_kind = "a chunk of a kind that does not fit the request";
    let cases: [Case; 17] = [
        (0, &[(NONE, vec![])], missing),
        (0, &[(DATA, data(0, 999))], missing),
        (0, &[(DATA, data(0, 500)), (HOLE, hole(501, 499))], missing),
        (0, &[(DATA, data(1, 1000))], outside),
        (0, &[(DATA, data(u64::MAX - OFFSET, 1000))], outside),
        (0, &[(HOLE, hole(0, u32::MAX))], outside),
        (0, &[(HOLE, hole(0, 0))], outside),
        (0, &[(HOLE, hole(0u64.wrapping_sub(1), 10))], outside),
        (
            0,
            &[(DATA, data(0, 500)), (DATA, data(499, 501))],
            "content chunks overlap",
        ),
        (
            df,
            &[(DATA, data(0, 500)), (DATA, data(500, 500))],
            "a reply to DF has more than one content chunk",
        ),
        (0, &[(DATA, data(0, 0))], "a chunk of data without data"),
        (
            0,
            &[(HOLE, data(0, 5))],
            "a chunk of zeroes is not 12 bytes long",
        ),
        (
            0,
            &[(NONE, vec![1])],
            "an empty chunk with payload or not the last",
        ),
        (
            0,
            &[(NONE, vec![]), (NONE, vec![])],
            "an empty chunk with payload or not the last",
        ),
        (0, &[(STATUS, extents(7, &[(1000, 0)]))], wrong_kind),
        (0, &[(3, vec![])], wrong_kind),
        (
            0,
            &[(ERROR_AT, error_at(100)), (DATA, data(0, 101))],
            "a content chunk overlaps an earlier error",
        ),
    ];
    for (flags, chunks, broken) in cases {
        assert_eq!(rule(Command::Read, flags, chunks), broken, "{chunks:?}");
    }
}

#[test]
fn errors_that_break_a_rule_end_the_connection() {
    let mut long_message = error(5, b"x");
    long_message[5] = 2;
    let cases: [(u16, Vec<u8>, &str); 7] = [
        (ERROR, vec![0; 5], "an error chunk is too short"),
        (ERROR, vec![], "an error chunk is too short"),
        (ERROR, error(0, b""), "an error chunk without an error"),
        (
            ERROR,
            long_message,
            "an error's message is longer than its chunk",
        ),
        (
            ERROR_AT,
            error(5, b"no offset"),
            "an error chunk has no offset",
        ),
        (
            ERROR_AT,
            error_at(1000),
            "an error's offset is outside the request",
        ),
        (ERROR, vec![1; 65_537], "a chunk is longer than is borne"),
    ];
    for (kind, payload, broken) in cases {
        assert_eq!(rule(Command::Write, 0, &[(kind, payload)]), broken);
    }
}

#[test]
fn block_status_that_breaks_a_rule_ends_the_connection() {
    let one = c::CMD_FLAG_REQ_ONE;
    let shape = "the length of a block status does not fit whole extents";
    let too_many = "a reply to REQ_ONE has more than one extent, or one that is too long";
    let twice = [
        (STATUS, extents(7, &[(1000, 0)])),
        (STATUS, extents(7, &[(1000, 0)])),
    ];
    let cases: [Case; 11] = [
        (0, &[(STATUS, extents(7, &[(999, 0), (5000, 3)]))], ""),
        (0, &[(STATUS, extents(7, &[(1, 0)]))], ""),
        (one, &[(STATUS, extents(7, &[(1000, 1)]))], ""),
        (0, &[(STATUS, extents(7, &[]))], shape),
        (0, &[(STATUS, vec![0; 13])], shape),
        (0, &[(STATUS, extents(7, &[(0, 0)]))], "an extent is empty"),
        (
            0,
            &[(STATUS, extents(7, &[(1000, 0), (1, 0)]))],
            "an extent begins beyond the request",
        ),
        (one, &[(STATUS, extents(7, &[(1001, 0)]))], too_many),
        (one, &[(STATUS, extents(7, &[(1, 0), (1, 1)]))], too_many),
        (
            0,
            &[(STATUS, extents(1, &[(1000, 0)]))],
            "a block status of a context that was not selected",
        ),
        (
            0,
            &[(NONE, vec![])],
            "a block status succeeded without extents",
        ),
    ];
    for (flags, chunks, broken) in cases {
        assert_eq!(
            rule(Command::BlockStatus, flags, chunks),
            broken,
            "{chunks:?}"
        );
    }
    assert_eq!(
        rule(Command::BlockStatus, 0, &twice),
        "a second block status of one context"
    );
}

#[test]
fn extents_are_told_before_the_end() {
    let mut conn = connected(true);
    let cookie = submit(&mut conn, Command::BlockStatus, 0);
    let bytes = chunk(cookie, STATUS, true, &extents(7, &[(999, 0), (5000, 3)]));
    let told = vec![
        Extent {
            length: 999,
            flags: 0,
        },
        Extent {
            length: 5000,
            flags: 3,
        },
    ];
    let events = feed_all(&mut conn, &bytes).unwrap();
    let expected = [
        Event::Extents {
            cookie,
            extents: told,
        },
        Event::Done {
            cookie,
            result: Ok(()),
        },
    ];
    assert_eq!(events, expected);
}

#[test]
fn the_first_error_of_a_reply_is_told() {
    let mut conn = connected(true);
    let cookie = submit(&mut conn, Command::Read, 0);
    let mut bytes = chunk(cookie, ERROR_AT, false, &error_at(10));
    bytes.extend(chunk(cookie, ERROR, true, &error(28, b"second")));
    match &feed_all(&mut conn, &bytes).unwrap()[..] {
        [
            Event::Progress,
            Event::Done {
                result: Err(failure),
                ..
            },
        ] => {
            assert_eq!(
                (failure.errno, failure.offset),
                (Errno::Eio, Some(OFFSET + 10))
            );
        }
        events => panic!("{events:?}"),
    }
}

#[test]
fn replies_to_nothing_end_the_connection() {
    for structured in [false, true] {
        let mut conn = connected(structured);
        let cookie = submit(&mut conn, Command::Flush, 0);
        let mut reply = [0; 16];
        segue_nbd::reply::simple(&mut reply, cookie, None);
        assert_eq!(
            feed_all(&mut conn, &reply).unwrap(),
            [Event::Done {
                cookie,
                result: Ok(())
            }]
        );
        assert_eq!(
            feed_all(&mut conn, &reply),
            Err(ProtocolError::ReplyStray(cookie))
        );
    }
}

#[test]
fn replies_of_the_wrong_style_end_the_connection() {
    let mut conn = connected(false);
    let cookie = submit(&mut conn, Command::Read, 0);
    let error = feed_all(&mut conn, &chunk(cookie, NONE, true, &[])).unwrap_err();
    assert_eq!(error, ProtocolError::ReplyMagic(c::STRUCTURED_REPLY_MAGIC));

    let mut conn = connected(true);
    let cookie = submit(&mut conn, Command::Read, 0);
    let mut reply = [0; 16];
    segue_nbd::reply::simple(&mut reply, cookie, Some(Errno::Eio));
    assert!(matches!(
        feed_all(&mut conn, &reply),
        Err(ProtocolError::ReplyInvalid { .. })
    ));

    let mut conn = connected(true);
    let cookie = submit(&mut conn, Command::Write, 0);
    feed_all(&mut conn, &chunk(cookie, ERROR, false, &error_payload())).unwrap();
    segue_nbd::reply::simple(&mut reply, cookie, None);
    assert!(matches!(
        feed_all(&mut conn, &reply),
        Err(ProtocolError::ReplyInvalid { .. })
    ));
}

fn error_payload() -> Vec<u8> {
    error(5, b"")
}

#[test]
fn a_stream_that_ends_early_is_told() {
    let mut conn = connected(false);
    assert_eq!(conn.handle_eof(0), Ok(()));
    let mut conn = connected(false);
    submit(&mut conn, Command::Flush, 0);
    assert_eq!(conn.handle_eof(0), Err(ProtocolError::Truncated));
    assert_eq!(connected(true).handle_eof(1), Err(ProtocolError::Truncated));
    assert_eq!(asking_go().handle_eof(0), Err(ProtocolError::Truncated));
}
