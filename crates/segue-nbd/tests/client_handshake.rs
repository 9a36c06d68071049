//! The client's handshake with servers of every kind.
#![allow(missing_docs)]

mod support;

use segue_nbd::client::{ClientConn, Event, Goal, Wants};
use segue_nbd::{ProtocolError, consts as c};
use support::server_script::{asking_go, config, go, greeting, info_export, turn};
use support::{option, option_reply};

#[test]
fn a_server_without_go_is_asked_by_export_name() {
    for (flags, padding) in [(1_u16, 124), (3, 0)] {
        let mut conn = ClientConn::new(config(Goal::Connect, false));
        turn(&mut conn, &greeting(flags));
        let (_, output) = turn(
            &mut conn,
            &option_reply(c::OPT_GO, c::REP_ERR_UNSUP, b"old"),
        );
        assert_eq!(output, option(c::OPT_EXPORT_NAME, b"disk"));
        let mut answer = info_export()[2..].to_vec();
        answer.extend(vec![0; padding]);
        assert_eq!(conn.feed(&answer[..answer.len() - 1]).unwrap().consumed, 0);
        assert_eq!(turn(&mut conn, &answer).0, Event::Connected);
        assert_eq!(conn.negotiated().unwrap().size_bytes, 1 << 30);
    }
}

#[test]
fn a_server_without_fixed_newstyle_is_asked_by_export_name() {
    let mut conn = ClientConn::new(config(Goal::Connect, true));
    let (_, output) = turn(&mut conn, &greeting(0));
    assert_eq!(
        output,
        [vec![0; 4], option(c::OPT_EXPORT_NAME, b"disk")].concat()
    );
    assert_eq!(conn.handle_eof(0), Err(ProtocolError::ExportNameRefused));
    let mut conn = ClientConn::new(config(Goal::List, true));
    assert_eq!(
        conn.feed(&greeting(0)),
        Err(ProtocolError::NotFixedNewstyle)
    );
}

#[test]
fn what_the_server_does_not_know_is_done_without() {
    let mut conn = ClientConn::new(config(Goal::Connect, true));
    turn(&mut conn, &greeting(3));
    let unsupported = option_reply(c::OPT_STRUCTURED_REPLY, c::REP_ERR_UNSUP, &[]);
    assert_eq!(turn(&mut conn, &unsupported).1, go());

    let mut conn = ClientConn::new(config(Goal::Connect, true));
    turn(&mut conn, &greeting(3));
    turn(
        &mut conn,
        &option_reply(c::OPT_STRUCTURED_REPLY, c::REP_ACK, &[]),
    );
    let context = [&[0, 0, 0, 7][..], b"base:allocation"].concat();
    turn(
        &mut conn,
        &option_reply(c::OPT_SET_META_CONTEXT, c::REP_META_CONTEXT, &context),
    );
    let failed = option_reply(c::OPT_SET_META_CONTEXT, c::REP_ERR_POLICY, &[]);
    assert_eq!(turn(&mut conn, &failed).1, go());
    turn(
        &mut conn,
        &option_reply(c::OPT_GO, c::REP_INFO, &info_export()),
    );
    turn(&mut conn, &option_reply(c::OPT_GO, c::REP_ACK, &[]));
    let agreed = conn.negotiated().unwrap();
    assert!(agreed.structured);
    assert_eq!(agreed.allocation_id, None);
}

#[test]
fn strangers_and_oldstyle_servers_are_told_apart() {
    let mut oldstyle = greeting(0);
    oldstyle[8..16].copy_from_slice(&c::OLDSTYLE_MAGIC.to_be_bytes());
    let feed = |bytes: &[u8]| {
        ClientConn::new(config(Goal::List, false))
            .feed(bytes)
            .unwrap_err()
    };
    assert_eq!(feed(&oldstyle), ProtocolError::Oldstyle);
    assert_eq!(
        feed(b"SSH-2.0-"),
        ProtocolError::NotNbd(u64::from_be_bytes(*b"SSH-2.0-"))
    );
    oldstyle[8..16].fill(0);
    assert_eq!(feed(&oldstyle), ProtocolError::NotNbd(0));
}

#[test]
fn replies_that_do_not_fit_the_option_end_the_connection() {
    let mut long = option_reply(c::OPT_GO, c::REP_INFO, &[]);
    long[16..].copy_from_slice(&65_537_u32.to_be_bytes());
    let sizes = [0, 3, 0, 0, 0, 3, 0, 0, 16, 0, 2, 0, 0, 0];
    let cases: [&[Vec<u8>]; 9] = [
        &[vec![0; 8]],
        &[option_reply(c::OPT_LIST, c::REP_ACK, &[])],
        &[option_reply(c::OPT_GO, c::REP_SERVER, &[0; 4])],
        &[option_reply(c::OPT_GO, c::REP_ACK, b"x")],
        &[option_reply(c::OPT_GO, c::REP_INFO, &[0, 0, 1])],
        &[option_reply(c::OPT_GO, c::REP_INFO, &[0])],
        &[long],
        // Success without the export's size.
        &[option_reply(c::OPT_GO, c::REP_ACK, &[])],
        // A minimum that is no power of two.
        &[
            option_reply(c::OPT_GO, c::REP_INFO, &info_export()),
            option_reply(c::OPT_GO, c::REP_INFO, &sizes),
            option_reply(c::OPT_GO, c::REP_ACK, &[]),
        ],
    ];
    for replies in cases {
        let mut conn = asking_go();
        let results: Vec<_> = replies.iter().map(|reply| conn.feed(reply)).collect();
        let (last, before) = results.split_last().unwrap();
        assert!(before.iter().all(Result::is_ok));
        assert!(last.is_err(), "{replies:?}");
        assert_eq!(conn.wants(), Wants::Nothing);
    }
}

#[test]
fn a_list_is_bounded() {
    let mut conn = ClientConn::new(config(Goal::List, false));
    turn(&mut conn, &greeting(3));
    let entry = option_reply(
        c::OPT_LIST,
        c::REP_SERVER,
        &support::text(&"x".repeat(4096)),
    );
    let refused = (0..10_000).find_map(|_| conn.feed(&entry).err());
    assert!(matches!(
        refused,
        Some(ProtocolError::OptionReplyInvalid { .. })
    ));
}
