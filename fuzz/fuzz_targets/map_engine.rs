//! Any commands of a controller and any requests of hosts at the mapping engine: no panic, its own
//! invariants hold after every call, every command is answered once at most.
#![no_main]

use std::collections::BTreeSet;

use arbitrary::{Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use segue_map::{
    BlockRun, Config, ContainerSpec, Control, Effect, Engine, EntryRun, Event, HostOp, PieceId,
};

const SEGMENT: u64 = 65536;

/// Numbers that mean something more often than chance would have it.
fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=3)? {
        0 | 1 => u.int_in_range(0..=12)?,
        2 => 1 << u.int_in_range(0..=63)?,
        _ => u64::arbitrary(u)?,
    })
}

fn word(u: &mut Unstructured<'_>) -> Result<u64> {
    if u.ratio(1, 4)? {
        return u64::arbitrary(u);
    }
    let flags = u64::from(u.int_in_range(0..=15_u8)?) << 60;
    Ok(flags | u64::from(u.int_in_range(0..=3_u16)?) << 44 | u.int_in_range(0..=20)?)
}

fn several<T>(
    u: &mut Unstructured<'_>,
    make: impl Fn(&mut Unstructured<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let count = u.int_in_range(0..=3)?;
    (0..count).map(|_| make(u)).collect()
}

fn run(u: &mut Unstructured<'_>) -> Result<EntryRun> {
    Ok(EntryRun {
        first: number(u)?,
        count: number(u)?,
        word: word(u)?,
        step: u.int_in_range(0..=2)?,
    })
}

fn block_run(u: &mut Unstructured<'_>) -> Result<BlockRun> {
    Ok(BlockRun {
        first_block: number(u)?,
        count_blocks: number(u)?,
        location: word(u)?,
    })
}

fn spec(u: &mut Unstructured<'_>) -> Result<ContainerSpec> {
    Ok(ContainerSpec {
        container: u.int_in_range(0..=3)?,
        uri: String::new(),
        identity: [0; 16],
        segment_bytes: if u.ratio(1, 8)? { number(u)? } else { SEGMENT },
        segments: if u.ratio(1, 8)? { number(u)? } else { 100 },
        cache: String::new(),
        write_unit_bytes: *u.choose(&[1, 512, 4096, 0, 3])?,
        failed: u.ratio(1, 8)?,
    })
}

fn size(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(if u.ratio(1, 4)? {
        number(u)?
    } else {
        u.int_in_range(1..=10)? * SEGMENT - 512
    })
}

fn control(u: &mut Unstructured<'_>, command: u64) -> Result<Control> {
    let disk = u.int_in_range(0..=2)?;
    let (first, count) = (number(u)?, number(u)?);
    let (request, blocking) = (u.int_in_range(0..=12)?, bool::arbitrary(u)?);
    Ok(match u.int_in_range(0..=13)? {
        0 => Control::Retry {
            request,
            disk,
            runs: several(u, run)?,
        },
        1 => Control::Failure {
            request,
            errno: u.int_in_range(0..=200)?,
            set_error: blocking,
        },
        2 => Control::CompleteToHost { request },
        3 => Control::NewTable {
            command,
            disk,
            size_bytes: size(u)?,
            segment_bytes: if u.ratio(1, 8)? { number(u)? } else { SEGMENT },
            block_bytes: *u.choose(&[4096, 512, 0, 5])?,
            read_only: u.ratio(1, 8)?,
            containers: several(u, spec)?,
        },
        4 => Control::DeleteTable { command, disk },
        5 => Control::ResizeTable {
            command,
            disk,
            size_bytes: size(u)?,
            blocking,
        },
        6 => Control::GetEntry {
            command,
            disk,
            first,
            count,
        },
        7 => Control::SetEntry {
            command,
            disk,
            runs: several(u, run)?,
            blocking,
        },
        8 => Control::SetEntryState {
            command,
            disk,
            first,
            count,
            flags: u8::arbitrary(u)? & 31,
            clear_no_write: u.ratio(1, 4)?,
            whole_table: u.ratio(1, 4)?,
            blocking,
        },
        9 => Control::SetContainers {
            command,
            disk,
            containers: several(u, spec)?,
        },
        10 => Control::Quiesce {
            command,
            disk,
            quiesce: first,
            drain_ns: count,
            hold_ns: number(u)?,
        },
        11 => Control::Activate {
            command,
            disk,
            quiesce: first,
        },
        12 => Control::DoWrite {
            command,
            request,
            location: word(u)?,
            head: word(u)?,
            tail: word(u)?,
        },
        _ => Control::DoSplitRead {
            command,
            request,
            runs: several(u, block_run)?,
        },
    })
}

fn host_op(u: &mut Unstructured<'_>) -> Result<HostOp> {
    use HostOp as H;
    let all = [
        H::Read,
        H::Write,
        H::WriteZeroes,
        H::Trim,
        H::Flush,
        H::BlockStatus,
    ];
    Ok(*u.choose(&all)?)
}

#[derive(Default)]
struct Driver {
    pieces: Vec<PieceId>,
    tokens: u64,
    commands: BTreeSet<u64>,
}

impl Driver {
    fn take(&mut self, engine: &mut Engine) {
        while let Some(effect) = engine.poll_effect() {
            if let Effect::Io { piece, .. }
            | Effect::Rmw { piece, .. }
            | Effect::Flush { piece, .. } = effect
            {
                self.pieces.push(piece);
            }
        }
        while let Some(event) = engine.poll_event() {
            if let Event::Answer { command, .. } = event {
                assert!(
                    self.commands.remove(&command),
                    "command {command} answered twice"
                );
            }
        }
        engine.self_check();
    }

    fn step(&mut self, u: &mut Unstructured<'_>, engine: &mut Engine, now: u64) -> Result<()> {
        match u.int_in_range(0..=9)? {
            0..=3 => {
                let command = u.int_in_range(1..=1 << 40)?;
                let control = control(u, command)?;
                if control.command().is_some() && !self.commands.insert(command) {
                    return Ok(()); // the session refuses it
                }
                engine.control(now, control);
            }
            4..=6 => {
                self.tokens += 1;
                let (disk, op) = (u.int_in_range(0..=2)?, host_op(u)?);
                let offset = if u.ratio(1, 8)? {
                    number(u)?
                } else {
                    u.int_in_range(0..=700_000)?
                };
                let len = if u.ratio(1, 8)? {
                    number(u)?
                } else {
                    u.int_in_range(1..=200_000)?
                };
                let flags = u16::from(u8::arbitrary(u)? & 27);
                engine.host_io(now, self.tokens, disk, op, offset, len, flags);
            }
            7 if !self.pieces.is_empty() => {
                let piece = self.pieces.swap_remove(u.choose_index(self.pieces.len())?);
                match u.int_in_range(0..=3)? {
                    0 => engine.piece_not_begun(now, piece),
                    1 => engine.piece_refused(now, piece, 5),
                    2 => engine.piece_done(now, piece, 5),
                    _ => engine.piece_done(now, piece, 0),
                }
            }
            8 => match u.int_in_range(0..=3)? {
                0 => engine.end_lease(now),
                1 => engine.list_faults(),
                2 => engine.host_gone(u.int_in_range(0..=self.tokens)?),
                _ => engine.set_lease(now, now.saturating_add(number(u)?)),
            },
            _ => engine.tick(now),
        }
        self.take(engine);
        Ok(())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    let mut engine = Engine::new(Config {
        park_limit_bytes: 1 << 18,
        host_timeout_ns: (data.len() % 2 == 0).then_some(1 << 20),
        pieces_at_once: 1 + (data.len() % 5) as u32,
    });
    engine.set_lease(0, 1 << 40);
    let (mut driver, mut now) = (Driver::default(), 0_u64);
    while !u.is_empty() {
        now = now.saturating_add(u.int_in_range(0..=1 << 12).unwrap_or(0));
        if driver.step(&mut u, &mut engine, now).is_err() {
            return;
        }
    }
});
