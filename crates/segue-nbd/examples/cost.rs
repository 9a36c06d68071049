//! What the protocol costs per request: `cargo run --release -p segue-nbd --example cost`.
//!
//! Prints nanoseconds for parsing one request and encoding the head of its reply, the least of
//! several runs. Socket and storage are not part of it.

use std::hint::black_box;
use std::time::Instant;

use segue_nbd::reply::HEAD_BYTES_MAX;
use segue_nbd::server::{Event, ServerConn, Wants};
use segue_nbd::{BlockSizes, ExportInfo, Features, consts as c};

const REQUESTS: usize = 64;
const ROUNDS: usize = 50_000;
const RUNS: usize = 7;

fn export() -> ExportInfo {
    ExportInfo {
        name: String::new(),
        description: String::new(),
        size_bytes: 1 << 40,
        read_only: false,
        can_multi_conn: true,
        block_sizes: BlockSizes::DEFAULT,
        features: Features::DISK,
    }
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = c::OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(number.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn transmitting(structured: bool) -> ServerConn {
    let mut conn = ServerConn::new();
    let mut output = Vec::new();
    let mut messages = vec![vec![0, 0, 0, 3]];
    if structured {
        messages.push(option(c::OPT_STRUCTURED_REPLY, &[]));
    }
    messages.push(option(c::OPT_GO, &[0; 6]));
    for message in messages {
        conn.take_output(&mut output);
        conn.feed(&message).expect("a legal message");
    }
    conn.export_answer(Ok(export())).expect("GO was asked");
    conn.take_output(&mut output);
    assert!(conn.is_transmission());
    conn
}

/// A received buffer full of requests; payloads are not in it, they go past the parser.
fn requests(command: u16) -> Vec<u8> {
    (0..REQUESTS as u64)
        .flat_map(|number| {
            let mut bytes = c::REQUEST_MAGIC.to_be_bytes().to_vec();
            bytes.extend(0_u16.to_be_bytes());
            bytes.extend(command.to_be_bytes());
            bytes.extend(number.to_be_bytes());
            bytes.extend((number * 4096).to_be_bytes());
            bytes.extend(4096_u32.to_be_bytes());
            bytes
        })
        .collect()
}

fn pass(conn: &mut ServerConn, bytes: &[u8], head: &mut [u8; HEAD_BYTES_MAX]) {
    let mut at = 0;
    while at < bytes.len() {
        let step = conn.feed(&bytes[at..]).expect("a legal request");
        at += step.consumed;
        let Some(Event::Request(request)) = step.event else {
            panic!("no request")
        };
        let count = if let Wants::Payload(count) = conn.wants() {
            conn.payload_received(count);
            conn.done_reply(&request, head)
        } else {
            conn.read_reply(&request, head)
        };
        black_box(&head[..count]);
    }
}

fn main() {
    for (name, command) in [("read", c::CMD_READ), ("write", c::CMD_WRITE)] {
        for structured in [false, true] {
            let mut conn = transmitting(structured);
            let bytes = requests(command);
            let mut head = [0; HEAD_BYTES_MAX];
            let least_ns = (0..RUNS)
                .map(|_| {
                    let begun = Instant::now();
                    for _ in 0..ROUNDS {
                        pass(&mut conn, black_box(&bytes), &mut head);
                    }
                    begun.elapsed().as_nanos() as f64 / (ROUNDS * REQUESTS) as f64
                })
                .fold(f64::INFINITY, f64::min);
            let style = if structured { "structured" } else { "simple" };
            println!("{name:5} {style:10} {least_ns:6.1} ns a request, parse and reply head");
        }
    }
}
