//! The engine beside a slow and obvious one: the same random calls, word for word the same answers.
//!
//! After every call: effects and events equal, `self_check`, park limit and deadline equal, refused
//! commands changed nothing.  At the end everything is finished and answered, and nothing is left.
//! `SEGUE_ORACLE_RUNS` and `SEGUE_ORACLE_SEED` choose how many runs, from which seed.
#![allow(missing_docs)]

mod decisions;
mod faults;
mod model;
mod random;
mod run;
mod tables;

use std::collections::BTreeMap;

use model::{Ending, Oracle, Owner, Said};
use random::{Call, Random};
use segue_map::{Config, Control, Effect, Engine, Event, IoKind, Outcome, PieceId, Src};

/// Both engines, and the I/O of the driver.
pub struct Pair {
    pub engine: Engine,
    pub oracle: Oracle,
    /// Outstanding I/O: the engine's name, the oracle's, in order of their starts.
    pub running: Vec<(PieceId, Owner)>,
    /// Tokens the driver may not use again yet: whether they are answered.
    pub tokens: BTreeMap<u64, bool>,
    /// Commands sent and not answered.
    pub commands: Vec<u64>,
    /// How often each thing happened, to see that the random calls reach it.
    pub seen: BTreeMap<String, u64>,
}

impl Pair {
    fn new(park_limit_bytes: u64, host_timeout_ns: Option<u64>, pieces_at_once: u32) -> Pair {
        Pair {
            engine: Engine::new(Config {
                park_limit_bytes,
                host_timeout_ns,
                pieces_at_once,
            }),
            oracle: Oracle::new(park_limit_bytes, host_timeout_ns, pieces_at_once as usize),
            running: Vec::new(),
            tokens: BTreeMap::new(),
            commands: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    fn call(&mut self, call: &Call) {
        let now = call.now;
        self.engine.tick(now);
        self.oracle.pass(now);
        self.compare(&format!("tick before {call:?}"));
        match &call.what {
            random::What::HostIo {
                token,
                disk,
                op,
                offset,
                len,
                flags,
            } => {
                self.tokens.insert(*token, false);
                self.engine
                    .host_io(now, *token, *disk, *op, *offset, *len, *flags);
                self.oracle
                    .host_io(*token, *disk, *op, *offset, *len, *flags);
            }
            random::What::Gone { token } => {
                self.engine.host_gone(*token);
                self.oracle.host_gone(*token);
            }
            random::What::Done { index, ending } => {
                let (piece, owner) = self.running.remove(*index);
                match *ending {
                    Ending::Done(errno) => self.engine.piece_done(now, piece, errno),
                    Ending::Refused(errno) => self.engine.piece_refused(now, piece, errno),
                    Ending::NotBegun => self.engine.piece_not_begun(now, piece),
                }
                self.oracle.done(owner, *ending);
            }
            random::What::Control(control) => self.control(now, control),
            random::What::Lease { until } => {
                self.engine.set_lease(now, *until);
                self.oracle.set_lease(*until);
            }
            random::What::EndLease => {
                self.engine.end_lease(now);
                self.oracle.lose_lease();
            }
            random::What::List => {
                self.engine.list_faults();
                self.oracle.list_faults();
            }
            random::What::Nothing => {}
        }
        // The engine's calls let held pieces go at their end, effects taken or not.
        self.oracle.go_on();
        if !call.effects_wait {
            self.compare(&format!("{call:?}"));
        }
    }

    fn control(&mut self, now: u64, control: &Control) {
        let before = self.engine.digest();
        self.engine.control(now, control.clone());
        self.oracle.control(control);
        let Some(command) = control.command() else {
            return;
        };
        self.commands.push(command);
        let refused = self.oracle.events.iter().any(|event| {
            matches!(event, Event::Answer { command: answered, outcome: Outcome::Failed, .. }
                if *answered == command)
        });
        if refused {
            assert_eq!(
                self.engine.digest(),
                before,
                "{control:?} was refused and changed state"
            );
            self.note("refused");
        }
    }

    /// What both said is the same; whom to give results back to is noted.
    fn compare(&mut self, context: &str) {
        self.oracle.go_on();
        let mut effects = Vec::new();
        while let Some(effect) = self.engine.poll_effect() {
            effects.push(self.said(effect));
        }
        let mut expected = std::mem::take(&mut self.oracle.said);
        effects.sort();
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        let only_said: Vec<&Said> = effects.iter().map(|(said, _)| said).collect();
        let only_expected: Vec<&Said> = expected.iter().map(|(said, _)| said).collect();
        assert_eq!(only_said, only_expected, "effects of {context}");
        for ((said, piece), (_, owner)) in effects.into_iter().zip(expected) {
            self.note_effect(&said);
            if let (Some(piece), Some(owner)) = (piece, owner) {
                assert!(
                    !self.running.iter().any(|(other, _)| *other == piece),
                    "id used twice"
                );
                self.running.push((piece, owner));
            }
        }
        let mut events = Vec::new();
        while let Some(event) = self.engine.poll_event() {
            events.push(event);
        }
        let expected = std::mem::take(&mut self.oracle.events);
        assert_eq!(events, expected, "events of {context}");
        events.iter().for_each(|event| self.note_event(event));
        self.engine.self_check();
        assert_eq!(
            self.engine.deadline(),
            self.oracle.deadline(),
            "deadline after {context}"
        );
        for disk in random::DISKS {
            assert_eq!(
                self.engine.accepts(disk),
                self.oracle.accepts(disk),
                "accepts {context}"
            );
        }
    }

    fn said(&self, effect: Effect) -> (Said, Option<PieceId>) {
        match effect {
            Effect::Io {
                piece,
                token,
                kind,
                container,
                offset_bytes,
                len,
                buf_off,
                fua,
                no_hole,
                fast,
            } => {
                let kind = match kind {
                    IoKind::Read => 0,
                    IoKind::Write => 1,
                    IoKind::WriteZeroes => 2,
                    IoKind::Trim => 3,
                };
                let (at, flags) = ((container, offset_bytes), (fua, no_hole, fast));
                (
                    Said::Io {
                        token,
                        kind,
                        at,
                        len,
                        buf_off,
                        flags,
                    },
                    Some(piece),
                )
            }
            Effect::Rmw { piece, .. } => (said_rmw(&effect), Some(piece)),
            Effect::Flush {
                piece,
                token,
                container,
            } => (Said::Flush { token, container }, Some(piece)),
            Effect::ZeroFill {
                token,
                buf_off,
                len,
            } => (
                Said::Fill {
                    token,
                    buf_off,
                    len,
                },
                None,
            ),
            Effect::Reply {
                token,
                errno,
                in_use,
            } => (
                Said::Reply {
                    token,
                    errno,
                    in_use,
                },
                None,
            ),
            Effect::Release { token } => (Said::Release { token }, None),
            Effect::StatusReply { token, extents } => (Said::Status { token, extents }, None),
        }
    }

    /// One answer a host I/O, and one last word.
    fn note_effect(&mut self, said: &Said) {
        let kind = format!("{said:?}");
        self.note(kind.split(' ').next().unwrap());
        match said {
            Said::Reply {
                token,
                in_use,
                errno,
            } => {
                self.note(&format!("errno {errno}"));
                let answered = self.tokens.insert(*token, true);
                assert_eq!(answered, Some(false), "answered twice, or out of turn");
                if !in_use {
                    self.tokens.remove(token);
                }
            }
            Said::Release { token } => {
                assert!(self.tokens.remove(token).is_some(), "released twice");
            }
            Said::Status { token, .. } => {
                assert_eq!(self.tokens.remove(token), Some(false));
            }
            Said::Io { token, .. } | Said::Rmw { token, .. } | Said::Flush { token, .. } => {
                assert_eq!(self.tokens.get(token), Some(&false), "I/O for nobody");
            }
            Said::Fill { token, .. } => assert_eq!(self.tokens.get(token), Some(&false)),
        }
    }

    fn note_event(&mut self, event: &Event) {
        let name = format!("{event:?}");
        self.note(name.split([' ', '(']).next().unwrap());
        if let Event::Answer {
            command, outcome, ..
        } = event
        {
            let place = self.commands.iter().position(|sent| sent == command);
            self.commands
                .remove(place.expect("a command was answered twice"));
            self.note(&format!("{outcome:?}"));
        }
    }

    fn note(&mut self, what: &str) {
        *self.seen.entry(what.to_string()).or_default() += 1;
    }

    /// Everything is finished and answered: then nothing may be left.
    fn settle(&mut self, random: &mut Random) {
        let mut call = |pair: &mut Pair, what| {
            pair.call(&Call {
                now: random.settle_now(),
                what,
                effects_wait: false,
            })
        };
        for disk in random::DISKS {
            for quiesce in 0..random::QUIESCES {
                let command = u64::MAX - u64::from(disk) * 100 - quiesce;
                let what = Control::Activate {
                    command,
                    disk,
                    quiesce,
                };
                call(self, random::What::Control(what));
            }
        }
        call(self, random::What::Lease { until: 1 << 60 });
        for _ in 0..10_000 {
            if let Some(index) = self.running.len().checked_sub(1) {
                call(self, well(index));
                continue;
            }
            let waiting = self.oracle.faults.keys().next().copied();
            let failed = self.oracle.failed.values().next().copied();
            let Some(request) = waiting.or(failed) else {
                break;
            };
            let what = Control::Failure {
                request,
                errno: 5,
                set_error: false,
            };
            call(self, random::What::Control(what));
        }
        for disk in random::DISKS {
            let containers = Vec::new();
            let command = u64::MAX / 2 - u64::from(disk);
            let what = Control::SetContainers {
                command,
                disk,
                containers,
            };
            call(self, random::What::Control(what));
            let command = u64::MAX / 4 - u64::from(disk);
            call(
                self,
                random::What::Control(Control::DeleteTable { command, disk }),
            );
        }
        for index in (0..self.running.len()).rev() {
            call(self, well(index));
        }
        let stats = self.engine.stats();
        assert_eq!(
            (stats.hosts, stats.pieces, stats.faults, stats.blockers),
            (0, 0, 0, 0)
        );
        assert_eq!(
            (stats.parked_bytes, stats.disks, stats.table_pages),
            (0, 0, 0)
        );
        assert!(
            self.tokens.is_empty(),
            "hosts without an answer: {:?}",
            self.tokens
        );
        assert!(
            self.commands.is_empty(),
            "commands without an answer: {:?}",
            self.commands
        );
    }
}

fn well(index: usize) -> random::What {
    let ending = Ending::Done(0);
    random::What::Done { index, ending }
}

fn said_rmw(effect: &Effect) -> Said {
    let Effect::Rmw {
        token,
        container,
        offset_bytes,
        len,
        buf_off,
        data_skip,
        data_len,
        zeroes,
        head,
        tail,
        fua,
        unit_bytes,
        ..
    } = *effect
    else {
        unreachable!();
    };
    assert_eq!(len % u64::from(unit_bytes), 0);
    assert_eq!(offset_bytes % u64::from(unit_bytes), 0);
    let source = |src: Src| match src {
        Src::Zeroes => None,
        Src::Location {
            container,
            offset_bytes,
        } => Some((container, offset_bytes)),
    };
    let head = (data_skip > 0).then_some(source(head));
    let tail = (data_skip + data_len < len).then_some(source(tail));
    Said::Rmw {
        token,
        at: (container, offset_bytes),
        len,
        data: (buf_off, data_skip, data_len),
        zeroes,
        edges: (head, tail, fua, unit_bytes),
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn the_engine_says_what_the_oracle_says() {
    let runs = setting("SEGUE_ORACLE_RUNS", 60);
    let first = setting("SEGUE_ORACLE_SEED", 1);
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    for seed in first..first + runs {
        println!("seed {seed}");
        let mut random = Random::new(seed);
        let timeout = (seed % 3 == 0).then_some(400);
        let at_once = if seed % 2 == 0 {
            1 + (seed % 3) as u32
        } else {
            64
        };
        let mut pair = Pair::new(6000, timeout, at_once);
        for _ in 0..400 {
            let call = random.call(&pair);
            pair.call(&call);
        }
        pair.settle(&mut random);
        for (what, count) in pair.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    println!("{seen:#?}");
    // What the random calls must reach, or they test little.
    let expected = [
        "Io",
        "Rmw",
        "Flush",
        "Fill",
        "Reply",
        "Release",
        "Status",
        "Fault",
        "Answer",
        "ContainerFailed",
        "QuiesceExpired",
        "FaultGone",
        "Faults",
        "LeaseEnded",
        "Done",
        "Failed",
        "Gone",
        "refused",
    ];
    for what in expected {
        assert!(
            seen.get(what).is_some_and(|count| *count >= runs / 10),
            "{what} is too rare"
        );
    }
}
