//! Every option, as the document wants it answered.
#![allow(missing_docs)]

mod support;

use segue_nbd::consts as c;
use segue_nbd::server::{Event, OPTIONS_MAX, Purpose, Refusal, RefusalKind, ServerConn, Wants};
use segue_nbd::{BlockSizes, ProtocolError};
use support::{ALL_FLAGS, Host, Reply, info_data, meta_data, option, request, text};

fn kinds(replies: &[Reply]) -> Vec<u32> {
    replies.iter().map(|reply| reply.kind).collect()
}

fn info_export(size: u64, flags: u16) -> Vec<u8> {
    [
        &c::INFO_EXPORT.to_be_bytes()[..],
        &size.to_be_bytes(),
        &flags.to_be_bytes(),
    ]
    .concat()
}

#[test]
fn client_flags_not_offered_end_the_connection() {
    let mut host = Host::greeted();
    assert_eq!(
        host.send(&4_u32.to_be_bytes()),
        Err(ProtocolError::ClientFlags(4))
    );
    assert_eq!(host.conn.wants(), Wants::Nothing);
    // A connection that has ended stays silent.
    assert_eq!(host.send(&option(c::OPT_LIST, &[])), Ok((vec![], vec![])));
}

#[test]
fn without_fixed_newstyle_only_export_name_is_allowed() {
    let mut host = Host::greeted();
    host.send(&0_u32.to_be_bytes()).unwrap();
    let error = host.send(&option(c::OPT_LIST, &[])).unwrap_err();
    assert_eq!(error, ProtocolError::OptionNotFixed(c::OPT_LIST));

    let mut host = Host::greeted();
    host.send(&0_u32.to_be_bytes()).unwrap();
    let (output, _) = host.send(&option(c::OPT_EXPORT_NAME, b"disk")).unwrap();
    assert_eq!(output.len(), 10 + 124);
    assert!(host.conn.is_transmission());
}

#[test]
fn export_name_enters_transmission_with_ten_bytes() {
    let mut host = Host::haggling();
    let (output, _) = host.send(&option(c::OPT_EXPORT_NAME, b"disk")).unwrap();
    assert_eq!(
        output,
        [&(1_u64 << 20).to_be_bytes()[..], &ALL_FLAGS.to_be_bytes()].concat()
    );
    assert_eq!(host.asked, [("disk".into(), Purpose::Open)]);
    assert_eq!(host.conn.export().unwrap().name, "disk");
}

#[test]
fn export_name_of_nothing_ends_the_connection() {
    for name in [&b"nothing"[..], b"\xff", b"a\0b"] {
        let error = Host::haggling()
            .send(&option(c::OPT_EXPORT_NAME, name))
            .unwrap_err();
        assert_eq!(error, ProtocolError::ExportNameRefused);
    }
    let long = vec![b'a'; 4097];
    let error = Host::haggling()
        .send(&option(c::OPT_EXPORT_NAME, &long))
        .unwrap_err();
    assert_eq!(
        error,
        ProtocolError::OptionTooLong {
            option: 1,
            length: 4097
        }
    );
    // The longest name that is legal is looked up.
    let mut host = Host::haggling();
    assert!(
        host.send(&option(c::OPT_EXPORT_NAME, &long[..4096]))
            .is_err()
    );
    assert_eq!(host.asked[0].0.len(), 4096);
}

#[test]
fn abort_is_acknowledged_and_ends() {
    for data in [&b""[..], b"ignored", &[0; 70_000]] {
        let mut host = Host::haggling();
        let mut bytes = option(c::OPT_ABORT, data);
        bytes.extend(option(c::OPT_LIST, &[]));
        let (output, events) = host.send(&bytes).unwrap();
        assert_eq!(
            support::replies(&output),
            [Reply {
                option: 2,
                kind: c::REP_ACK,
                data: vec![]
            }]
        );
        assert_eq!(events, [Event::Finished]);
        assert!(host.conn.is_drained());
    }
}

#[test]
fn list_gives_names_and_descriptions() {
    let mut host = Host::haggling();
    let illegal = "x".repeat(4097);
    host.listed.as_mut().unwrap().push((illegal, String::new()));
    let replies = host.option(c::OPT_LIST, &[]);
    assert_eq!(kinds(&replies), [c::REP_SERVER, c::REP_SERVER, c::REP_ACK]);
    assert_eq!(replies[0].data, [&text("disk")[..], b"a disk"].concat());
    assert_eq!(replies[1].data, text("other"));
}

#[test]
fn list_with_data_or_forbidden_is_refused() {
    let mut host = Host::haggling();
    assert_eq!(kinds(&host.option(c::OPT_LIST, b"x")), [c::REP_ERR_INVALID]);
    host.listed = Err(Refusal {
        kind: RefusalKind::Policy,
        message: "not here".into(),
    });
    let replies = host.option(c::OPT_LIST, &[]);
    assert_eq!(kinds(&replies), [c::REP_ERR_POLICY]);
    assert_eq!(replies[0].data, b"not here");
}

#[test]
fn info_sends_what_was_asked_and_go_enters_transmission() {
    let infos = [c::INFO_BLOCK_SIZE, c::INFO_NAME, c::INFO_DESCRIPTION, 77];
    for number in [c::OPT_INFO, c::OPT_GO] {
        let mut host = Host::haggling();
        let replies = host.option(number, &info_data("", &infos));
        assert_eq!(kinds(&replies), [3, 3, 3, 3, c::REP_ACK]);
        assert_eq!(replies[0].data, info_export(1 << 20, ALL_FLAGS));
        assert_eq!(replies[1].data, [0, 3, 0, 0, 0, 1, 0, 0, 16, 0, 2, 0, 0, 0]);
        assert_eq!(replies[2].data, b"\x00\x01disk");
        assert_eq!(replies[3].data, b"\x00\x02a disk");
        let opened = number == c::OPT_GO;
        assert_eq!(host.conn.is_transmission(), opened);
        let purpose = if opened {
            Purpose::Open
        } else {
            Purpose::Describe
        };
        assert_eq!(host.asked, [(String::new(), purpose)]);
    }
}

#[test]
fn info_sends_the_export_alone_when_nothing_is_asked() {
    let mut host = Host::haggling();
    let replies = host.option(c::OPT_INFO, &info_data("disk", &[]));
    assert_eq!(kinds(&replies), [c::REP_INFO, c::REP_ACK]);
    // DF is offered only after structured replies were agreed on.
    host.option(c::OPT_STRUCTURED_REPLY, &[]);
    let replies = host.option(c::OPT_INFO, &info_data("disk", &[]));
    assert_eq!(
        replies[0].data,
        info_export(1 << 20, ALL_FLAGS | c::FLAG_SEND_DF)
    );
}

#[test]
fn info_of_nothing_is_unknown_and_haggling_goes_on() {
    let mut host = Host::haggling();
    for number in [c::OPT_INFO, c::OPT_GO] {
        let replies = host.option(number, &info_data("nothing", &[]));
        assert_eq!(kinds(&replies), [c::REP_ERR_UNKNOWN]);
        assert_eq!(replies[0].data, b"no");
    }
    assert_eq!(
        kinds(&host.option(c::OPT_GO, &info_data("disk", &[]))),
        [3, c::REP_ACK]
    );
}

#[test]
fn info_that_is_malformed_is_invalid() {
    let mut long_name = info_data("disk", &[]);
    long_name[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut too_many = info_data("disk", &[1]);
    let at = too_many.len() - 4;
    too_many[at + 1] = 2;
    let mut too_few = info_data("disk", &[1, 2]);
    too_few[9] = 1;
    let nul = info_data("a\0b", &[]);
    let long = info_data(&"x".repeat(4097), &[]);
    for data in [
        &[][..],
        &long_name,
        &too_many,
        &too_few,
        &nul,
        &long,
        &text("disk"),
    ] {
        let mut host = Host::haggling();
        assert_eq!(
            kinds(&host.option(c::OPT_GO, data)),
            [c::REP_ERR_INVALID],
            "{data:?}"
        );
        assert_eq!(host.asked, []);
        assert_eq!(
            kinds(&host.option(c::OPT_GO, &info_data("disk", &[]))),
            [3, 1]
        );
    }
}

#[test]
fn advertised_sizes_never_exceed_the_payload_that_is_borne() {
    let mut host = Host::haggling();
    host.export.block_sizes = BlockSizes::new(512, 1 << 26, u32::MAX).unwrap();
    let replies = host.option(c::OPT_INFO, &info_data("disk", &[c::INFO_BLOCK_SIZE]));
    assert_eq!(replies[1].data, [0, 3, 0, 0, 2, 0, 2, 0, 0, 0, 2, 0, 0, 0]);
}

#[test]
fn structured_replies_are_agreed_on_without_data() {
    let mut host = Host::haggling();
    assert_eq!(
        kinds(&host.option(c::OPT_STRUCTURED_REPLY, b"x")),
        [c::REP_ERR_INVALID]
    );
    assert!(!host.conn.is_structured());
    assert_eq!(
        kinds(&host.option(c::OPT_STRUCTURED_REPLY, &[])),
        [c::REP_ACK]
    );
    assert!(host.conn.is_structured());
}

#[test]
fn options_not_served_are_unsupported_and_the_next_is_parsed() {
    let mut host = Host::haggling();
    for number in [c::OPT_STARTTLS, c::OPT_EXTENDED_HEADERS, 4, 12, u32::MAX] {
        for data in [&[][..], b"some data", &[7; 100_000]] {
            let replies = host.option(number, data);
            assert_eq!(kinds(&replies), [c::REP_ERR_UNSUP], "{number}");
            assert_eq!(replies[0].option, number);
        }
    }
    assert_eq!(
        kinds(&host.option(c::OPT_INFO, &info_data("disk", &[]))),
        [3, 1]
    );
}

#[test]
fn options_too_long_are_skipped_or_end_the_connection() {
    let mut host = Host::haggling();
    let data = vec![0; 65_537];
    for number in [
        c::OPT_GO,
        c::OPT_INFO,
        c::OPT_SET_META_CONTEXT,
        c::OPT_LIST_META_CONTEXT,
    ] {
        assert_eq!(kinds(&host.option(number, &data)), [c::REP_ERR_TOO_BIG]);
    }
    assert_eq!(
        kinds(&host.option(c::OPT_LIST, &data)),
        [c::REP_ERR_INVALID]
    );
    let mut bytes = option(c::OPT_GO, &[]);
    bytes[12..].copy_from_slice(&((1_u32 << 25) + 1).to_be_bytes());
    let error = host.send(&bytes).unwrap_err();
    assert_eq!(
        error,
        ProtocolError::OptionTooLong {
            option: 7,
            length: (1 << 25) + 1
        }
    );
}

#[test]
fn so_many_options_and_no_more() {
    let mut host = Host::haggling();
    for _ in 0..OPTIONS_MAX {
        assert_eq!(kinds(&host.option(12345, &[])), [c::REP_ERR_UNSUP]);
    }
    let error = host.send(&option(12345, &[])).unwrap_err();
    assert_eq!(error, ProtocolError::TooManyOptions);
}

#[test]
fn an_option_without_its_magic_ends_the_connection() {
    let error = Host::haggling().send(b"GET / HT").unwrap_err();
    assert_eq!(
        error,
        ProtocolError::OptionMagic(u64::from_be_bytes(*b"GET / HT"))
    );
}

#[test]
fn contexts_need_structured_replies() {
    let mut host = Host::haggling();
    for number in [c::OPT_LIST_META_CONTEXT, c::OPT_SET_META_CONTEXT] {
        let data = meta_data("disk", &["base:allocation"]);
        assert_eq!(kinds(&host.option(number, &data)), [c::REP_ERR_INVALID]);
    }
}

#[test]
fn context_queries_match_as_the_document_says() {
    // (queries, listed, set)
    let cases: [(&[&str], bool, bool); 8] = [
        (&[], true, false),
        (&["base:"], true, false),
        (&["base:allocation"], true, true),
        (&["base:allocation", "base:allocation", "base:"], true, true),
        (&["base:unheard-of"], false, false),
        (&["qemu:dirty-bitmap:x"], false, false),
        (&["x-foo:", "base:allocation"], true, true),
        (&[":"], false, false),
    ];
    for (queries, listed, set) in cases {
        let mut host = Host::haggling();
        host.option(c::OPT_STRUCTURED_REPLY, &[]);
        let data = meta_data("disk", queries);
        for (number, matched, id) in [
            (c::OPT_LIST_META_CONTEXT, listed, 0),
            (c::OPT_SET_META_CONTEXT, set, 1),
        ] {
            let replies = host.option(number, &data);
            if matched {
                assert_eq!(
                    kinds(&replies),
                    [c::REP_META_CONTEXT, c::REP_ACK],
                    "{queries:?}"
                );
                assert_eq!(
                    replies[0].data,
                    [&[0, 0, 0, id][..], b"base:allocation"].concat()
                );
            } else {
                assert_eq!(kinds(&replies), [c::REP_ACK], "{queries:?}");
            }
        }
    }
}

#[test]
fn context_options_that_are_malformed_or_of_nothing_are_refused() {
    let mut host = Host::haggling();
    host.option(c::OPT_STRUCTURED_REPLY, &[]);
    let mut count = meta_data("disk", &["base:"]);
    count[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    let trailing = [&meta_data("disk", &[])[..], b"x"].concat();
    let bad = [
        &[][..],
        &count,
        &trailing,
        &meta_data("disk", &["nocolon"]),
        &text("disk"),
    ];
    for number in [c::OPT_LIST_META_CONTEXT, c::OPT_SET_META_CONTEXT] {
        for data in bad {
            assert_eq!(
                kinds(&host.option(number, data)),
                [c::REP_ERR_INVALID],
                "{data:?}"
            );
        }
        let nothing = meta_data("nothing", &["base:allocation"]);
        assert_eq!(kinds(&host.option(number, &nothing)), [c::REP_ERR_UNKNOWN]);
    }
}

/// Whether BLOCK_STATUS is served after these options and GO.
fn serves_block_status(host: &mut Host, go: &str) -> bool {
    host.option(c::OPT_GO, &info_data(go, &[]));
    match host.event(&request(0, c::CMD_BLOCK_STATUS, 1, 0, 512)) {
        Event::Request(_) => true,
        Event::Answer(_) => false,
        event => panic!("{event:?}"),
    }
}

#[test]
fn a_context_holds_for_the_export_it_was_selected_for() {
    let select = meta_data("disk", &["base:allocation"]);
    let select_nothing = meta_data("disk", &[]);
    let fail = meta_data("nothing", &["base:allocation"]);
    // (options before GO, name of GO, served)
    let cases: [(&[&[u8]], &str, bool); 6] = [
        (&[], "disk", false),
        (&[&select], "disk", true),
        (&[&select], "", false),
        (&[&select, &select_nothing], "disk", false),
        (&[&select, &fail], "disk", false),
        (&[&select, b"malformed", &select], "disk", true),
    ];
    for (options, name, served) in cases {
        let mut host = Host::haggling();
        host.option(c::OPT_STRUCTURED_REPLY, &[]);
        for data in options {
            host.option(c::OPT_SET_META_CONTEXT, data);
        }
        // A list in between changes nothing.
        host.option(c::OPT_LIST_META_CONTEXT, &meta_data("disk", &[]));
        assert_eq!(
            serves_block_status(&mut host, name),
            served,
            "{options:?} {name}"
        );
    }
}

#[test]
fn an_export_without_block_status_has_no_context() {
    let mut host = Host::haggling();
    host.export.features.block_status = false;
    host.option(c::OPT_STRUCTURED_REPLY, &[]);
    let data = meta_data("disk", &["base:allocation"]);
    assert_eq!(
        kinds(&host.option(c::OPT_SET_META_CONTEXT, &data)),
        [c::REP_ACK]
    );
    assert!(!serves_block_status(&mut host, "disk"));
}

#[test]
fn a_server_shutting_down_refuses_options_but_abort() {
    let mut host = Host::haggling();
    host.conn.begin_shutdown();
    for number in [c::OPT_LIST, c::OPT_GO, c::OPT_STRUCTURED_REPLY, 99] {
        assert_eq!(kinds(&host.option(number, &[])), [c::REP_ERR_SHUTDOWN]);
    }
    assert_eq!(kinds(&host.option(c::OPT_ABORT, &[])), [c::REP_ACK]);

    let mut host = Host::haggling();
    host.conn.begin_shutdown();
    let error = host.send(&option(c::OPT_EXPORT_NAME, b"disk")).unwrap_err();
    assert_eq!(error, ProtocolError::ExportNameRefused);
}

#[test]
fn nothing_is_parsed_while_output_waits() {
    let mut conn = ServerConn::new();
    let flags = 3_u32.to_be_bytes();
    let step = conn.feed(&flags).unwrap();
    assert_eq!((step.consumed, step.event), (0, Some(Event::Output)));
    conn.take_output(&mut Vec::new());
    assert_eq!(conn.feed(&flags).unwrap().consumed, 4);
    assert!(!conn.take_output(&mut Vec::new()));
}

#[test]
fn end_of_stream_is_orderly_between_messages_only() {
    assert_eq!(Host::haggling().conn.handle_eof(0), Ok(()));
    assert_eq!(
        Host::haggling().conn.handle_eof(3),
        Err(ProtocolError::Truncated)
    );
    let mut host = Host::haggling();
    host.send(&option(c::OPT_GO, &info_data("disk", &[]))[..20])
        .unwrap();
    assert_eq!(host.conn.handle_eof(0), Err(ProtocolError::Truncated));
    assert!(host.conn.is_drained());
}

#[test]
fn block_sizes_are_checked() {
    assert!(BlockSizes::new(1, 512, 512).is_ok());
    assert!(BlockSizes::new(65_536, 65_536, u32::MAX).is_ok());
    for (minimum, preferred, maximum) in [
        (0, 512, 512),
        (3, 512, 513),
        (131_072, 131_072, 131_072),
        (1, 256, 512),
        (4096, 512, 4096),
        (1, 4096, 2048),
        (512, 512, 1000),
    ] {
        assert!(BlockSizes::new(minimum, preferred, maximum).is_err());
    }
}
