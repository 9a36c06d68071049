//! The replies as they go on the wire.
#![allow(missing_docs)]

mod support;

use segue_nbd::consts as c;
use segue_nbd::reply::HEAD_BYTES_MAX;
use segue_nbd::server::{Event, Request};
use segue_nbd::{Errno, Extent};
use support::{Host, export, request};

const SIZE: u64 = 1 << 20;

/// A request of each command that an export with all features takes.
fn plain(command: u16) -> (u64, u32) {
    if command == c::CMD_FLUSH {
        (0, 0)
    } else {
        (512, 1024)
    }
}

fn in_flight(structured: bool, flags: u16, command: u16) -> (Host, Request) {
    let mut host = Host::transmitting(export(SIZE), structured, structured);
    let (offset, length) = plain(command);
    match host.event(&request(
        flags,
        command,
        0x0102_0304_0506_0708,
        offset,
        length,
    )) {
        Event::Request(request) => (host, request),
        event => panic!("{event:?}"),
    }
}

const COOKIE: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn simple_replies_are_sixteen_bytes() {
    let mut out = [0; HEAD_BYTES_MAX];
    let (mut host, read) = in_flight(false, 0, c::CMD_READ);
    let count = host.conn.read_reply(&read, &mut out);
    assert_eq!(
        out[..count],
        [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0][..], &COOKIE].concat()
    );
    let (mut host, flush) = in_flight(false, 0, c::CMD_FLUSH);
    let count = host
        .conn
        .error_reply(&flush, Errno::Enospc, "lost here", &mut out);
    assert_eq!(
        out[..count],
        [&[0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28][..], &COOKIE].concat()
    );
    // A success without data stays simple even with structured replies.
    let (mut host, flush) = in_flight(true, 0, c::CMD_FLUSH);
    assert_eq!(host.conn.done_reply(&flush, &mut out), 16);
}

#[test]
fn structured_replies_have_their_chunks() {
    let mut out = [0; HEAD_BYTES_MAX];
    let magic = [0x66, 0x8e, 0x33, 0xef];
    let (mut host, read) = in_flight(true, 0, c::CMD_READ);
    assert!(host.conn.may_fragment(&read));

    let count = host.conn.read_data_chunk(&read, 512, 256, &mut out);
    let tail = [0, 0, 1, 8, 0, 0, 0, 0, 0, 0, 2, 0];
    assert_eq!(
        out[..count],
        [&magic[..], &[0, 0, 0, 1], &COOKIE, &tail].concat()
    );

    let count = host.conn.read_hole_chunk(&read, 768, 768, &mut out);
    let tail = [0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 3, 0];
    assert_eq!(
        out[..count],
        [&magic[..], &[0, 0, 0, 2], &COOKIE, &tail].concat()
    );

    assert_eq!(host.conn.in_flight(), 1);
    let count = host.conn.done_reply(&read, &mut out);
    assert_eq!(
        out[..count],
        [&magic[..], &[0, 1, 0, 0], &COOKIE, &[0; 4]].concat()
    );
    assert_eq!(host.conn.in_flight(), 0);

    let (mut host, read) = in_flight(true, 0, c::CMD_READ);
    let count = host.conn.error_reply(&read, Errno::Eio, "broken", &mut out);
    let tail = [&[0, 0, 0, 12, 0, 0, 0, 5, 0, 6][..], b"broken"].concat();
    assert_eq!(
        out[..count],
        [&magic[..], &[0, 1, 0x80, 1], &COOKIE, &tail].concat()
    );
}

#[test]
fn df_gets_one_chunk() {
    let mut out = [0; HEAD_BYTES_MAX];
    let (mut host, read) = in_flight(true, c::CMD_FLAG_DF, c::CMD_READ);
    assert!(!host.conn.may_fragment(&read));
    let count = host.conn.read_zeroes_reply(&read, &mut out);
    assert_eq!((count, out[5], out[7]), (32, 1, 2));
    assert_eq!(host.conn.in_flight(), 0);
}

#[test]
fn a_message_is_cut_at_a_character() {
    let mut out = [0; HEAD_BYTES_MAX];
    let (mut host, read) = in_flight(true, 0, c::CMD_READ);
    let message = "ä".repeat(500);
    let count = host.conn.error_reply(&read, Errno::Eio, &message, &mut out);
    assert!(count <= HEAD_BYTES_MAX && count > HEAD_BYTES_MAX - 2);
    assert_eq!(
        std::str::from_utf8(&out[26..count]).unwrap(),
        "ä".repeat((count - 26) / 2)
    );
}

#[test]
fn block_status_is_cut_to_what_is_allowed() {
    let extents = [
        Extent {
            length: 512,
            flags: 0,
        },
        Extent {
            length: 256,
            flags: 3,
        },
        Extent {
            length: 4096,
            flags: 0,
        },
        Extent {
            length: 4096,
            flags: 3,
        },
    ];
    type Cut<'a> = (u16, &'a [Extent], &'a [(u32, u32)]);
    let cut: [Cut; 4] = [
        (0, &extents, &[(512, 0), (256, 3), (256, 0)]),
        (0, &extents[..1], &[(512, 0)]),
        (c::CMD_FLAG_REQ_ONE, &extents, &[(512, 0)]),
        (c::CMD_FLAG_REQ_ONE, &extents[2..], &[(1024, 0)]),
    ];
    for (flags, given, sent) in cut {
        let (mut host, status) = in_flight(true, flags, c::CMD_BLOCK_STATUS);
        let mut out = Vec::new();
        host.conn.block_status_reply(&status, given, &mut out);
        assert_eq!(out[4..8], [0, 1, 0, 5]);
        let length = u32::from_be_bytes(out[16..20].try_into().unwrap());
        assert_eq!(length as usize, out.len() - 20);
        let words: Vec<u32> = out[20..]
            .chunks(4)
            .map(|word| u32::from_be_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words[0], 1);
        let pairs: Vec<(u32, u32)> = words[1..]
            .chunks(2)
            .map(|pair| (pair[0], pair[1]))
            .collect();
        assert_eq!(pairs, sent);
        assert_eq!(host.conn.in_flight(), 0);
    }
}
