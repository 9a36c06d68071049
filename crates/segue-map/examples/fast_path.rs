//! What the engine costs a clean I/O: `host_io`, its effect, `piece_done`, its reply.
//!
//! `cargo run --release -p segue-map --example fast_path [thousands]` prints ns an I/O, the median of
//! rounds; two runs under `perf stat -e instructions:u` or `callgrind` give instructions an I/O.

use std::hint::black_box;
use std::time::Instant;

use segue_map::{Config, ContainerSpec, Control, Effect, Engine, EntryRun, HostOp};

const SEGMENT: u64 = 1 << 20;
const SEGMENTS: u64 = 1 << 20;
const BLOCK: u64 = 4096;

/// An engine with disks of 1 TiB, all mapped.
fn engine(disks: u32) -> Engine {
    let config = Config {
        park_limit_bytes: 64 << 20,
        host_timeout_ns: Some(60_000_000_000),
        pieces_at_once: segue_map::PIECES_AT_ONCE,
    };
    let mut engine = Engine::new(config);
    engine.set_lease(0, u64::MAX);
    for disk in 0..disks {
        let container = ContainerSpec {
            container: 1,
            uri: String::new(),
            identity: [0; 16],
            segment_bytes: SEGMENT,
            segments: SEGMENTS,
            cache: String::new(),
            write_unit_bytes: 4096,
            failed: false,
        };
        engine.control(
            0,
            Control::NewTable {
                command: 1,
                disk,
                size_bytes: SEGMENT * SEGMENTS,
                segment_bytes: SEGMENT,
                block_bytes: 4096,
                read_only: false,
                containers: vec![container],
            },
        );
        let word = segue_map::Entry::at(1, 0).0;
        let runs = vec![EntryRun {
            first: 0,
            count: SEGMENTS,
            word,
            step: 1,
        }];
        engine.control(
            0,
            Control::SetEntry {
                command: 2,
                disk,
                runs,
                blocking: false,
            },
        );
    }
    while engine.poll_event().is_some() {}
    engine
}

/// `count` random 4 KiB I/Os, `depth` under way at a time.
fn run(engine: &mut Engine, count: u64, disks: u32, depth: usize, op: HostOp) {
    let mut under_way = std::collections::VecDeque::with_capacity(depth);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for now in 0..count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let offset = random % (SEGMENT * SEGMENTS / BLOCK) * BLOCK;
        engine.host_io(
            now,
            now,
            (random >> 32) as u32 % disks,
            op,
            offset,
            BLOCK,
            0,
        );
        let Some(Effect::Io { piece, .. }) = black_box(engine.poll_effect()) else {
            panic!("not a clean I/O");
        };
        under_way.push_back(piece);
        if under_way.len() == depth {
            engine.piece_done(now, under_way.pop_front().unwrap(), 0);
            let reply = black_box(engine.poll_effect());
            assert!(matches!(reply, Some(Effect::Reply { errno: 0, .. })));
        }
    }
    for piece in under_way {
        engine.piece_done(count, piece, 0);
        engine.poll_effect();
    }
}

fn main() {
    let thousands: u64 = std::env::args()
        .nth(1)
        .map_or(2000, |text| text.parse().expect("a number"));
    let count = thousands * 1000 / 9;
    // The tables of 16 TiB (128 MiB) do not fit the cache: that adds one miss an I/O.
    for disks in [1, 16] {
        let mut engine = engine(disks);
        for (op, depth) in [
            (HostOp::Read, 1),
            (HostOp::Write, 1),
            (HostOp::Read, 32),
            (HostOp::Write, 32),
        ] {
            let mut rounds: Vec<f64> = (0..9)
                .map(|_| {
                    let begun = Instant::now();
                    run(&mut engine, count, disks, depth, op);
                    begun.elapsed().as_nanos() as f64 / count as f64
                })
                .collect();
            rounds.sort_by(f64::total_cmp);
            let (median, least, most) = (rounds[4], rounds[0], rounds[8]);
            println!(
                "{disks} TiB, {op:?}, depth {depth}: {median:.1} ns an I/O ({least:.1} to {most:.1})"
            );
        }
    }
}
