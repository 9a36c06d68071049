//! Every command, flag and refusal, and the replies.
#![allow(missing_docs)]

mod support;

use segue_nbd::consts as c;
use segue_nbd::reply::HEAD_BYTES_MAX;
use segue_nbd::server::{Command, Event, Wants};
use segue_nbd::{BlockSizes, Errno, ExportInfo, Features, ProtocolError};
use support::{Host, export, request};

const SIZE: u64 = 1 << 20;
const COMMANDS: [u16; 7] = [
    c::CMD_READ,
    c::CMD_WRITE,
    c::CMD_FLUSH,
    c::CMD_TRIM,
    c::CMD_CACHE,
    c::CMD_WRITE_ZEROES,
    c::CMD_BLOCK_STATUS,
];

/// The error a request meets, `None` if it is handed to the driver or succeeds at once.
fn error_of(host: &mut Host, flags: u16, command: u16, offset: u64, length: u32) -> Option<Errno> {
    let mut bytes = request(flags, command, 9, offset, length);
    if command == c::CMD_WRITE {
        bytes.extend(vec![1; length as usize]);
    }
    let error = match host.event(&bytes) {
        Event::Request(request) => {
            let expected = Command::from_wire(command).unwrap();
            let seen = (request.cookie, request.command, request.flags);
            assert_eq!(seen, (9, expected, flags));
            assert_eq!((request.offset, request.length), (offset, length));
            let mut out = [0; HEAD_BYTES_MAX];
            host.conn.error_reply(&request, Errno::Eio, "", &mut out);
            None
        }
        Event::Answer(answer) => {
            assert_eq!((answer.cookie, answer.command), (9, command));
            assert_eq!(answer.why.is_empty(), answer.error.is_none());
            answer.error
        }
        event => panic!("{event:?}"),
    };
    assert_eq!(host.conn.wants(), Wants::Bytes);
    assert_eq!(host.conn.in_flight(), 0);
    error
}

/// A plain request of each command that an export with all features takes.
fn plain(command: u16) -> (u64, u32) {
    if command == c::CMD_FLUSH {
        (0, 0)
    } else {
        (512, 1024)
    }
}

#[test]
fn every_command_and_flag_against_the_documents_list() {
    // FUA is good for all; of the others each is documented for one command.
    let documented = |command: u16| match command {
        c::CMD_READ => c::CMD_FLAG_FUA | c::CMD_FLAG_DF,
        c::CMD_WRITE_ZEROES => c::CMD_FLAG_FUA | c::CMD_FLAG_NO_HOLE | c::CMD_FLAG_FAST_ZERO,
        c::CMD_BLOCK_STATUS => c::CMD_FLAG_FUA | c::CMD_FLAG_REQ_ONE,
        _ => c::CMD_FLAG_FUA,
    };
    let mut host = Host::transmitting(export(SIZE), true, true);
    for command in COMMANDS {
        let (offset, length) = plain(command);
        for flags in (0..64).chain([1 << 6, 1 << 15]) {
            let expected = (flags & !documented(command) != 0).then_some(Errno::Einval);
            let error = error_of(&mut host, flags, command, offset, length);
            assert_eq!(error, expected, "command {command} flags {flags:#x}");
        }
    }
}

#[test]
fn what_is_not_offered_is_refused() {
    let bare = ExportInfo {
        features: Features::default(),
        ..export(SIZE)
    };
    let mut host = Host::transmitting(bare, true, false);
    for command in COMMANDS {
        let (offset, length) = plain(command);
        let served = matches!(command, c::CMD_READ | c::CMD_WRITE);
        let expected = (!served).then_some(Errno::Einval);
        assert_eq!(
            error_of(&mut host, 0, command, offset, length),
            expected,
            "{command}"
        );
        let fua = error_of(&mut host, c::CMD_FLAG_FUA, command, offset, length);
        assert_eq!(fua, Some(Errno::Einval));
    }
    for command in [8, 99, u16::MAX] {
        assert_eq!(error_of(&mut host, 0, command, 0, 512), Some(Errno::Einval));
    }
    // DF and FAST_ZERO are offered by their own flags.
    let mut host = Host::transmitting(export(SIZE), false, false);
    assert_eq!(
        error_of(&mut host, c::CMD_FLAG_DF, c::CMD_READ, 0, 512),
        Some(Errno::Einval)
    );
    let slow = Features {
        fast_zero: false,
        ..Features::DISK
    };
    let mut host = Host::transmitting(
        ExportInfo {
            features: slow,
            ..export(SIZE)
        },
        true,
        true,
    );
    let fast = error_of(
        &mut host,
        c::CMD_FLAG_FAST_ZERO,
        c::CMD_WRITE_ZEROES,
        0,
        512,
    );
    assert_eq!(fast, Some(Errno::Einval));
    let no_hole = error_of(&mut host, c::CMD_FLAG_NO_HOLE, c::CMD_WRITE_ZEROES, 0, 512);
    assert_eq!(no_hole, None);
}

#[test]
fn block_status_needs_a_context() {
    let mut host = Host::transmitting(export(SIZE), true, false);
    assert_eq!(
        error_of(&mut host, 0, c::CMD_BLOCK_STATUS, 0, 512),
        Some(Errno::Einval)
    );
}

#[test]
fn ranges_beyond_the_end_are_refused_by_command() {
    let mut host = Host::transmitting(export(SIZE), true, true);
    let beyond = [
        (SIZE - 511, 512),
        (SIZE, 1),
        (SIZE + 1, 0),
        (u64::MAX, 1),
        (u64::MAX - 3, 512),
    ];
    for command in COMMANDS
        .into_iter()
        .filter(|command| *command != c::CMD_FLUSH)
    {
        let writes = matches!(command, c::CMD_WRITE | c::CMD_WRITE_ZEROES);
        let expected = if writes { Errno::Enospc } else { Errno::Einval };
        for (offset, length) in beyond {
            let error = error_of(&mut host, 0, command, offset, length);
            assert_eq!(error, Some(expected), "command {command} at {offset}");
        }
        assert_eq!(error_of(&mut host, 0, command, SIZE - 512, 512), None);
    }
}

#[test]
fn a_flush_has_no_range() {
    let mut host = Host::transmitting(export(SIZE), false, false);
    assert_eq!(error_of(&mut host, 0, c::CMD_FLUSH, 0, 0), None);
    assert_eq!(
        error_of(&mut host, 0, c::CMD_FLUSH, 512, 0),
        Some(Errno::Einval)
    );
    assert_eq!(
        error_of(&mut host, 0, c::CMD_FLUSH, 0, 512),
        Some(Errno::Einval)
    );
}

#[test]
fn a_read_only_export_refuses_to_be_changed() {
    let mut host = Host::transmitting(
        ExportInfo {
            read_only: true,
            ..export(SIZE)
        },
        true,
        true,
    );
    for command in COMMANDS {
        let (offset, length) = plain(command);
        let changes = matches!(command, c::CMD_WRITE | c::CMD_TRIM | c::CMD_WRITE_ZEROES);
        let expected = changes.then_some(Errno::Eperm);
        assert_eq!(
            error_of(&mut host, 0, command, offset, length),
            expected,
            "{command}"
        );
    }
}

#[test]
fn alignment_to_the_minimum_block_is_demanded() {
    let block_sizes = BlockSizes::new(512, 4096, 1 << 16).unwrap();
    let mut host = Host::transmitting(
        ExportInfo {
            block_sizes,
            ..export(SIZE)
        },
        true,
        true,
    );
    for command in COMMANDS
        .into_iter()
        .filter(|command| *command != c::CMD_FLUSH)
    {
        assert_eq!(error_of(&mut host, 0, command, 512, 512), None);
        assert_eq!(
            error_of(&mut host, 0, command, 511, 512),
            Some(Errno::Einval)
        );
        assert_eq!(
            error_of(&mut host, 0, command, 512, 511),
            Some(Errno::Einval)
        );
    }
}

#[test]
fn lengths_over_the_maximum_are_refused_where_there_is_a_payload() {
    let block_sizes = BlockSizes::new(1, 4096, 1 << 16).unwrap();
    let mut host = Host::transmitting(
        ExportInfo {
            block_sizes,
            ..export(SIZE)
        },
        true,
        true,
    );
    let long = (1 << 16) + 1;
    for command in [c::CMD_READ, c::CMD_WRITE] {
        assert_eq!(error_of(&mut host, 0, command, 0, 1 << 16), None);
        assert_eq!(
            error_of(&mut host, 0, command, 0, long),
            Some(Errno::Einval),
            "{command}"
        );
    }
    // nbdcopy zeroes 128 MiB at once.
    for (command, flags) in [
        (c::CMD_TRIM, 0),
        (c::CMD_CACHE, 0),
        (c::CMD_WRITE_ZEROES, 0),
        (c::CMD_BLOCK_STATUS, 0),
        (c::CMD_WRITE_ZEROES, c::CMD_FLAG_FAST_ZERO),
    ] {
        assert_eq!(
            error_of(&mut host, flags, command, 0, long),
            None,
            "{command}"
        );
    }
}

#[test]
fn a_client_that_was_told_no_sizes_may_zero_any_length() {
    let mut host = Host::haggling();
    host.export = export(u64::MAX);
    host.option(c::OPT_GO, &support::info_data("disk", &[]));
    assert_eq!(
        error_of(&mut host, 0, c::CMD_WRITE_ZEROES, 0, u32::MAX),
        None
    );
    assert_eq!(error_of(&mut host, 0, c::CMD_READ, 0, 1 << 25), None);
    assert_eq!(
        error_of(&mut host, 0, c::CMD_READ, 0, (1 << 25) + 1),
        Some(Errno::Einval)
    );
}

#[test]
fn a_write_of_32_mib_is_borne_and_a_longer_one_ends_the_connection() {
    let mut host = Host::transmitting(export(SIZE << 10), false, false);
    assert_eq!(error_of(&mut host, 0, c::CMD_WRITE, 0, 1 << 25), None);
    let bytes = request(0, c::CMD_WRITE, 9, 0, (1 << 25) + 1);
    assert_eq!(
        host.send(&bytes),
        Err(ProtocolError::PayloadTooLong((1 << 25) + 1))
    );
}

#[test]
fn requests_of_no_length_succeed_without_the_driver() {
    let mut host = Host::transmitting(export(SIZE), true, true);
    for command in [
        c::CMD_READ,
        c::CMD_WRITE,
        c::CMD_TRIM,
        c::CMD_CACHE,
        c::CMD_WRITE_ZEROES,
    ] {
        for offset in [0, SIZE] {
            match host.event(&request(0, command, 5, offset, 0)) {
                Event::Answer(answer) => {
                    assert_eq!(answer.error, None);
                    let mut out = [0; HEAD_BYTES_MAX];
                    let count = host.conn.answer_reply(&answer, &mut out);
                    // A read's reply is structured whatever its length.
                    let magic = if command == c::CMD_READ {
                        0x668e_33ef
                    } else {
                        0x6744_6698
                    };
                    assert_eq!(out[..4], u32::to_be_bytes(magic));
                    assert_eq!(count, if command == c::CMD_READ { 20 } else { 16 });
                }
                event => panic!("{event:?}"),
            }
        }
    }
    assert_eq!(
        error_of(&mut host, 0, c::CMD_BLOCK_STATUS, 0, 0),
        Some(Errno::Einval)
    );
}

#[test]
fn a_payload_goes_to_the_driver_in_any_pieces() {
    let mut host = Host::transmitting(export(SIZE), false, false);
    let mut bytes = request(c::CMD_FLAG_FUA, c::CMD_WRITE, 1, 0, 1000);
    bytes.extend(request(0, c::CMD_READ, 2, 0, 512));
    let step = host.conn.feed(&bytes).unwrap();
    assert_eq!(step.consumed, 28);
    assert!(matches!(step.event, Some(Event::Request(write)) if write.fua()));
    assert_eq!(host.conn.wants(), Wants::Payload(1000));
    // Not even a header is taken while the payload is due.
    assert_eq!(host.conn.feed(&bytes[28..]).unwrap().consumed, 0);
    host.conn.payload_received(999);
    assert_eq!(host.conn.wants(), Wants::Payload(1));
    assert_eq!(host.conn.handle_eof(0), Err(ProtocolError::Truncated));
}

#[test]
fn a_payload_can_be_thrown_away() {
    let mut host = Host::transmitting(export(SIZE), false, false);
    let header = request(0, c::CMD_WRITE, 1, 0, 1000);
    host.conn.feed(&header).unwrap();
    host.conn.payload_received(100);
    host.conn.discard_payload();
    let mut bytes = vec![0xff; 900];
    bytes.extend(request(0, c::CMD_READ, 2, 0, 512));
    let step = host.conn.feed(&bytes[..100]).unwrap();
    assert_eq!((step.consumed, step.event), (100, None));
    let Event::Request(read) = host.event(&bytes[100..]) else {
        panic!("no request")
    };
    assert_eq!((read.cookie, host.conn.in_flight()), (2, 2));
}

#[test]
fn a_request_without_its_magic_ends_the_connection() {
    let mut host = Host::transmitting(export(SIZE), false, false);
    let error = host.send(&[0; 28]).unwrap_err();
    assert_eq!(error, ProtocolError::RequestMagic(0));
}

#[test]
fn headers_wait_until_they_are_whole() {
    let mut host = Host::transmitting(export(SIZE), false, false);
    let bytes = request(0, c::CMD_READ, 1, 0, 512);
    for count in 0..28 {
        let step = host.conn.feed(&bytes[..count]).unwrap();
        assert_eq!((step.consumed, step.event), (0, None));
    }
    assert_eq!(host.conn.feed(&bytes).unwrap().consumed, 28);
}

#[test]
fn disconnect_waits_for_what_is_in_flight() {
    let mut host = Host::transmitting(export(SIZE), true, false);
    let Event::Request(read) = host.event(&request(0, c::CMD_READ, 1, 0, 512)) else {
        panic!()
    };
    // Flags and range of DISC are not looked at: there is no reply to complain in.
    assert_eq!(
        host.event(&request(0xffff, c::CMD_DISC, 2, 7, 7)),
        Event::Finished
    );
    assert_eq!(host.conn.wants(), Wants::Nothing);
    assert!(!host.conn.is_drained());
    let mut out = [0; HEAD_BYTES_MAX];
    // The reply is still in the style that was agreed on.
    assert_eq!(host.conn.read_reply(&read, &mut out), 28);
    assert!(host.conn.is_drained());
    assert_eq!(
        host.send(&request(0, c::CMD_READ, 1, 0, 512)),
        Ok((vec![], vec![]))
    );
}

#[test]
fn a_closed_stream_leaves_what_is_in_flight() {
    let mut host = Host::transmitting(export(SIZE), false, false);
    let Event::Request(flush) = host.event(&request(0, c::CMD_FLUSH, 1, 0, 0)) else {
        panic!()
    };
    assert_eq!(host.conn.handle_eof(0), Ok(()));
    assert!(!host.conn.is_drained());
    host.conn.done_reply(&flush, &mut [0; HEAD_BYTES_MAX]);
    assert!(host.conn.is_drained());
}

#[test]
fn a_server_shutting_down_answers_eshutdown() {
    let mut host = Host::transmitting(export(SIZE), true, true);
    let Event::Request(early) = host.event(&request(0, c::CMD_READ, 1, 0, 512)) else {
        panic!()
    };
    host.conn.begin_shutdown();
    for command in COMMANDS.into_iter().chain([99]) {
        let (offset, length) = plain(command);
        let mut bytes = request(0, command, 9, offset, length);
        if command == c::CMD_WRITE {
            bytes.extend(vec![0; length as usize]);
        }
        match host.event(&bytes) {
            Event::Answer(answer) => assert_eq!(answer.error, Some(Errno::Eshutdown)),
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(host.conn.read_reply(&early, &mut [0; HEAD_BYTES_MAX]), 28);
    assert_eq!(
        host.event(&request(0, c::CMD_DISC, 2, 0, 0)),
        Event::Finished
    );
    assert!(host.conn.is_drained());
}

#[test]
fn linux_errors_fold_into_what_may_be_sent() {
    let cases = [
        (1, 1),
        (13, 1),
        (30, 1),
        (5, 5),
        (12, 12),
        (22, 22),
        (27, 28),
        (28, 28),
    ];
    let more = [(122, 28), (95, 5), (75, 5), (108, 108), (0, 5), (-1, 5)];
    for (linux, wire) in cases.into_iter().chain(more) {
        assert_eq!(Errno::from_linux(linux).wire(), wire);
    }
    for wire in [1, 5, 12, 22, 28, 75, 95, 108] {
        assert_eq!(Errno::from_wire(wire).wire(), wire);
    }
    assert_eq!(Errno::from_wire(9999), Errno::Einval);
}
