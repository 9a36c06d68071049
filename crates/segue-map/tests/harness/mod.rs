//! An engine with one disk, and short words for what tests say to it.
#![allow(dead_code, missing_docs)]

use segue_map::entry::{NO_WRITE, VALID, ZERO};
use segue_map::{
    BlockRun, Config, ContainerSpec, Control, Effect, Engine, EntryRun, Event, HostOp, IoKind,
    MapFault, Outcome, PieceId,
};

pub const DISK: u32 = 7;
pub const SEGMENT: u64 = 65536;
pub const BLOCK: u64 = 4096;
/// Ten segments, the last one short.
pub const SIZE: u64 = 9 * SEGMENT + 10_000;
pub const ZEROES: u64 = VALID | ZERO;

/// Page cache: takes writes of any size.
pub const PAGE: u16 = 1;
/// O_DIRECT: takes whole 4 KiB.
pub const DIRECT: u16 = 2;

pub struct Rig {
    pub engine: Engine,
    pub now: u64,
    commands: u64,
    /// Events that `answer_to` met and did not want.
    kept: Vec<Event>,
}

pub fn spec(container: u16, write_unit_bytes: u32) -> ContainerSpec {
    ContainerSpec {
        container,
        uri: String::new(),
        identity: [0; 16],
        segment_bytes: SEGMENT,
        segments: 100,
        cache: String::new(),
        write_unit_bytes,
        failed: false,
    }
}

pub fn at(container: u16, segment: u64) -> u64 {
    segue_map::Entry::at(container, segment).0
}

pub fn read_only(container: u16, segment: u64) -> u64 {
    at(container, segment) | NO_WRITE
}

impl Rig {
    /// A lease until 1000, the table all invalid.
    pub fn new() -> Rig {
        Rig::with(Config {
            park_limit_bytes: 1 << 20,
            host_timeout_ns: None,
            pieces_at_once: segue_map::PIECES_AT_ONCE,
        })
    }

    pub fn with(config: Config) -> Rig {
        let mut rig = Rig {
            engine: Engine::new(config),
            now: 0,
            commands: 0,
            kept: Vec::new(),
        };
        rig.engine.set_lease(0, 1000);
        let answer = rig.new_table(DISK, vec![spec(PAGE, 1), spec(DIRECT, 4096)]);
        assert_eq!(answer, Some(Outcome::Done));
        rig
    }

    /// The same, with segment n at (container, n).
    pub fn mapped(container: u16) -> Rig {
        let mut rig = Rig::new();
        rig.set(0, 10, at(container, 0), 1);
        rig
    }

    pub fn new_table(&mut self, disk: u32, containers: Vec<ContainerSpec>) -> Option<Outcome> {
        self.command(|command| Control::NewTable {
            command,
            disk,
            size_bytes: SIZE,
            segment_bytes: SEGMENT,
            block_bytes: BLOCK as u32,
            read_only: false,
            containers,
        })
    }

    pub fn set(&mut self, first: u64, count: u64, word: u64, step: u64) {
        let runs = vec![EntryRun {
            first,
            count,
            word,
            step,
        }];
        let answer = self.command(|command| Control::SetEntry {
            command,
            disk: DISK,
            runs,
            blocking: false,
        });
        assert_eq!(answer, Some(Outcome::Done));
    }

    /// Makes segments invalid, blocking: whether it was answered at once.
    pub fn invalidate(&mut self, first: u64, count: u64) -> Option<Outcome> {
        self.command(|command| Control::SetEntryState {
            command,
            disk: DISK,
            first,
            count,
            flags: 1,
            clear_no_write: false,
            whole_table: false,
            blocking: true,
        })
    }

    /// Sends a command; its outcome if it is answered at once.
    pub fn command(&mut self, make: impl FnOnce(u64) -> Control) -> Option<Outcome> {
        self.commands += 1;
        let sent = self.commands;
        self.engine.control(self.now, make(sent));
        self.engine.self_check();
        self.answer_to(sent)
    }

    /// The number of the last command.
    pub fn last_command(&self) -> u64 {
        self.commands
    }

    /// The outcome of a command, if it has been answered; other events stay.
    pub fn answer_to(&mut self, sent: u64) -> Option<Outcome> {
        let mut found = None;
        for event in self.events() {
            match event {
                Event::Answer {
                    command, outcome, ..
                } if command == sent => {
                    assert_eq!(found.replace(outcome), None, "answered twice");
                }
                other => self.kept.push(other),
            }
        }
        found
    }

    pub fn events(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.kept);
        while let Some(event) = self.engine.poll_event() {
            events.push(event);
        }
        events
    }

    pub fn faults(&mut self) -> Vec<MapFault> {
        let faults = self.events().into_iter().filter_map(|event| match event {
            Event::Fault(fault) => Some(fault),
            _ => None,
        });
        faults.collect()
    }

    /// The one fault that was raised.
    pub fn fault(&mut self) -> MapFault {
        let faults = self.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults[0]
    }

    pub fn io(&mut self, token: u64, op: HostOp, offset: u64, len: u64) -> Vec<Effect> {
        self.io_with(token, op, offset, len, 0)
    }

    pub fn io_with(
        &mut self,
        token: u64,
        op: HostOp,
        offset: u64,
        len: u64,
        flags: u16,
    ) -> Vec<Effect> {
        self.engine
            .host_io(self.now, token, DISK, op, offset, len, flags);
        self.effects()
    }

    pub fn write(&mut self, token: u64, offset: u64, len: u64) -> Vec<Effect> {
        self.io(token, HostOp::Write, offset, len)
    }

    pub fn read(&mut self, token: u64, offset: u64, len: u64) -> Vec<Effect> {
        self.io(token, HostOp::Read, offset, len)
    }

    /// Starts an I/O that is one piece.
    pub fn start(&mut self, token: u64, op: HostOp, offset: u64, len: u64) -> PieceId {
        let effects = self.io(token, op, offset, len);
        assert_eq!(effects.len(), 1, "{effects:?}");
        piece(&effects[0])
    }

    pub fn done(&mut self, piece: PieceId, errno: i32) -> Vec<Effect> {
        self.engine.piece_done(self.now, piece, errno);
        self.effects()
    }

    pub fn retry(&mut self, fault: MapFault, word: u64) -> Vec<Effect> {
        let (first, count, step) = (fault.segment, fault.segments, 0);
        let runs = vec![EntryRun {
            first,
            count,
            word,
            step,
        }];
        self.send(Control::Retry {
            request: fault.request,
            disk: fault.disk,
            runs,
        })
    }

    pub fn fail(&mut self, request: u64, errno: i32) -> Vec<Effect> {
        self.send(Control::Failure {
            request,
            errno,
            set_error: false,
        })
    }

    pub fn complete(&mut self, request: u64) -> Vec<Effect> {
        self.send(Control::CompleteToHost { request })
    }

    pub fn do_write(
        &mut self,
        request: u64,
        location: u64,
        head: u64,
        tail: u64,
    ) -> Option<Outcome> {
        self.command(|command| Control::DoWrite {
            command,
            request,
            location,
            head,
            tail,
        })
    }

    pub fn do_split_read(&mut self, request: u64, runs: &[(u64, u64, u64)]) -> Option<Outcome> {
        let run = |&(first_block, count_blocks, location): &(u64, u64, u64)| BlockRun {
            first_block,
            count_blocks,
            location,
        };
        let runs = runs.iter().map(run).collect();
        self.command(|command| Control::DoSplitRead {
            command,
            request,
            runs,
        })
    }

    pub fn send(&mut self, control: Control) -> Vec<Effect> {
        self.engine.control(self.now, control);
        self.effects()
    }

    pub fn tick(&mut self, now: u64) -> Vec<Effect> {
        self.now = now;
        self.engine.tick(now);
        self.effects()
    }

    pub fn lease(&mut self, until: u64) -> Vec<Effect> {
        self.engine.set_lease(self.now, until);
        self.effects()
    }

    pub fn effects(&mut self) -> Vec<Effect> {
        self.engine.self_check();
        let mut effects = Vec::new();
        while let Some(effect) = self.engine.poll_effect() {
            effects.push(effect);
        }
        effects
    }

    /// Nothing is left of any I/O.
    pub fn assert_idle(&self) {
        let stats = self.engine.stats();
        assert_eq!(
            (stats.hosts, stats.pieces, stats.faults, stats.blockers),
            (0, 0, 0, 0)
        );
        assert_eq!(stats.parked_bytes, 0);
    }
}

pub fn piece(effect: &Effect) -> PieceId {
    match *effect {
        Effect::Io { piece, .. } | Effect::Rmw { piece, .. } | Effect::Flush { piece, .. } => piece,
        ref other => panic!("not an I/O: {other:?}"),
    }
}

pub fn pieces(effects: &[Effect]) -> Vec<PieceId> {
    effects.iter().map(piece).collect()
}

/// (kind, container, offset, length) of an `Effect::Io`.
pub fn place(effect: &Effect) -> (IoKind, u16, u64, u64) {
    match *effect {
        Effect::Io {
            kind,
            container,
            offset_bytes,
            len,
            ..
        } => (kind, container, offset_bytes, len),
        ref other => panic!("not a plain I/O: {other:?}"),
    }
}

pub fn reply(token: u64, errno: i32) -> Effect {
    Effect::Reply {
        token,
        errno,
        in_use: false,
    }
}
