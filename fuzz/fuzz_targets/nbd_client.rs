//! Bytes of a server, in pieces, at the client's half of NBD; requests are put in flight when it
//! is ready for them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segue_nbd::client::{ClientConn, Command, Config, Goal, Request, Wants};

fn submit(conn: &mut ClientConn) {
    for command in [
        Command::Read,
        Command::Write,
        Command::BlockStatus,
        Command::Flush,
    ] {
        let length = if command == Command::Flush { 0 } else { 4096 };
        let request = Request {
            command,
            flags: 0,
            offset: 0,
            length,
        };
        let _ = conn.submit(&request, &mut [0; 28]);
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else {
        return;
    };
    let goal = if first & 1 == 0 {
        Goal::Connect
    } else {
        Goal::List
    };
    let mut conn = ClientConn::new(Config {
        goal,
        export: "disk".into(),
        structured: first & 2 != 0,
        block_status: first & 4 != 0,
        hold: None,
    });
    let piece = 1 + usize::from(first >> 3);
    let mut output = Vec::new();
    let (mut at, mut end) = (0, 0);
    while end < bytes.len() {
        end = bytes.len().min(end + piece);
        loop {
            if let Wants::Payload(count) = conn.wants() {
                let there = (end - at).min(count as usize);
                conn.payload_received(there as u32);
                at += there;
            }
            let Ok(step) = conn.feed(&bytes[at..end]) else {
                return;
            };
            at += step.consumed;
            assert!(at <= end);
            if conn.negotiated().is_some() && conn.in_flight() == 0 {
                submit(&mut conn);
            }
            output.clear();
            conn.take_output(&mut output);
            if step.event.is_none() {
                break;
            }
        }
    }
    let _ = conn.handle_eof(end - at);
});
