//! A client led through the handshake by a server's messages, written out.

use segue_nbd::client::{ClientConn, Config, Event, Goal};
use segue_nbd::consts as c;

use super::{info_data, meta_data, option, option_reply};

pub fn greeting(flags: u16) -> Vec<u8> {
    let mut bytes = c::INIT_MAGIC.to_be_bytes().to_vec();
    bytes.extend(c::OPTION_MAGIC.to_be_bytes());
    bytes.extend(flags.to_be_bytes());
    bytes
}

pub fn config(goal: Goal, structured: bool) -> Config {
    Config {
        goal,
        export: "disk".into(),
        structured,
        block_status: structured,
        hold: None,
    }
}

/// Feeds one message that must lead to one event, and gives what is sent back.
pub fn turn(conn: &mut ClientConn, bytes: &[u8]) -> (Event, Vec<u8>) {
    let step = conn.feed(bytes).expect("no breach");
    assert_eq!(step.consumed, bytes.len());
    let mut output = Vec::new();
    conn.take_output(&mut output);
    (step.event.expect("an event"), output)
}

pub fn go() -> Vec<u8> {
    option(
        c::OPT_GO,
        &info_data(
            "disk",
            &[c::INFO_BLOCK_SIZE, c::INFO_NAME, c::INFO_DESCRIPTION],
        ),
    )
}

pub fn info_export() -> Vec<u8> {
    let mut data = vec![0, 0];
    data.extend((1_u64 << 30).to_be_bytes());
    data.extend((super::ALL_FLAGS | c::FLAG_SEND_DF).to_be_bytes());
    data
}

/// A client that has asked GO.
pub fn asking_go() -> ClientConn {
    let mut conn = ClientConn::new(config(Goal::Connect, false));
    let (event, output) = turn(&mut conn, &greeting(3));
    assert_eq!(event, Event::Output);
    assert_eq!(output, [vec![0, 0, 0, 3], go()].concat());
    conn
}

pub fn connected(structured: bool) -> ClientConn {
    let mut conn = ClientConn::new(config(Goal::Connect, structured));
    let (_, output) = turn(&mut conn, &greeting(3));
    if structured {
        assert_eq!(output[4..], option(c::OPT_STRUCTURED_REPLY, &[]));
        let (_, output) = turn(
            &mut conn,
            &option_reply(c::OPT_STRUCTURED_REPLY, c::REP_ACK, &[]),
        );
        assert_eq!(
            output,
            option(
                c::OPT_SET_META_CONTEXT,
                &meta_data("disk", &["base:allocation"])
            )
        );
        let context = [&[0, 0, 0, 7][..], b"base:allocation"].concat();
        let reply = option_reply(c::OPT_SET_META_CONTEXT, c::REP_META_CONTEXT, &context);
        assert_eq!(turn(&mut conn, &reply).0, Event::Progress);
        let (_, output) = turn(
            &mut conn,
            &option_reply(c::OPT_SET_META_CONTEXT, c::REP_ACK, &[]),
        );
        assert_eq!(output, go());
    }
    turn(
        &mut conn,
        &option_reply(c::OPT_GO, c::REP_INFO, &info_export()),
    );
    let (event, _) = turn(&mut conn, &option_reply(c::OPT_GO, c::REP_ACK, &[]));
    assert_eq!(event, Event::Connected);
    conn
}
