//! Bytes of a client, in pieces, at the server's half of NBD: no panic, nothing left over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segue_nbd::fence::Session;
use segue_nbd::server::{Event, Refusal, RefusalKind, ServerConn, Wants};
use segue_nbd::{BlockSizes, Errno, ExportInfo, Features};

const SIZE: u64 = 1 << 20;

fn export() -> ExportInfo {
    ExportInfo {
        name: "disk".into(),
        description: String::new(),
        size_bytes: SIZE,
        read_only: false,
        can_multi_conn: true,
        block_sizes: BlockSizes::new(1, 4096, 1 << 25).expect("sizes that are legal"),
        features: Features::DISK,
    }
}

/// Gives whether the connection still stands; `refuses`: exports are.
fn act(conn: &mut ServerConn, event: Event, refuses: bool) -> bool {
    let mut head = [0; segue_nbd::reply::HEAD_BYTES_MAX];
    match event {
        Event::Output | Event::Finished => {}
        Event::WantExport { .. } if refuses => {
            let refusal = Refusal {
                kind: RefusalKind::Unknown,
                message: String::new(),
            };
            return conn.export_answer(Err(refusal)).is_ok();
        }
        Event::WantExport { .. } => return conn.export_answer(Ok(export())).is_ok(),
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
            assert!(request.offset + u64::from(request.length) <= SIZE);
            conn.error_reply(&request, Errno::Eio, "", &mut head);
        }
    }
    true
}

fuzz_target!(|data: &[u8]| {
    let Some((&first, bytes)) = data.split_first() else {
        return;
    };
    let mut conn = if first & 1 == 0 {
        ServerConn::new()
    } else {
        ServerConn::fenced()
    };
    let (refuses, piece) = (first & 2 != 0, 1 + usize::from(first >> 2));
    let mut output = Vec::new();
    conn.take_output(&mut output);
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
            let Some(event) = step.event else { break };
            if !act(&mut conn, event, refuses) {
                return;
            }
            output.clear();
            conn.take_output(&mut output);
        }
    }
    let _ = conn.handle_eof(end - at);
});
