//! A slow and obvious engine: the rules of `docs/mapping.md` without any structure for speed.
//!
//! Tables are plain vectors, table-wide states are applied to every entry at once, whatever must be
//! known is found by looking through everything.  It must say exactly what the engine says.

use std::collections::{BTreeMap, BTreeSet};

use segue_map::entry::{ERROR, NO_WRITE, VALID, ZERO};
use segue_map::{ContainerSpec, Event, FaultStatus, HostOp, MapFault, Operation, Outcome};
use segue_map::{PendingFault, host_flags};

/// An effect without the id of its piece; `part` is the oracle's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    Io {
        token: u64,
        kind: u8,
        at: (u16, u64),
        len: u64,
        buf_off: u64,
        flags: (bool, bool, bool),
    },
    Rmw {
        token: u64,
        at: (u16, u64),
        len: u64,
        data: (u64, u64, u64),
        zeroes: bool,
        edges: Edges,
    },
    Flush {
        token: u64,
        container: u16,
    },
    Fill {
        token: u64,
        buf_off: u64,
        len: u64,
    },
    Reply {
        token: u64,
        errno: i32,
        in_use: bool,
    },
    Release {
        token: u64,
    },
    Status {
        token: u64,
        extents: Vec<(u64, u32)>,
    },
}

/// (head if any byte of it is used, tail likewise, FUA, unit); a source is `None` for zeroes.
pub type Edges = (
    Option<Option<(u16, u64)>>,
    Option<Option<(u16, u64)>>,
    bool,
    u32,
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Waiting,
    TimedOut,
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Parked,
    Waiting,
    Fault(u64),
    Running,
    Failed(u64),
    Held,
    Over,
}

#[derive(Clone, Debug)]
pub struct Part {
    pub key: u64,
    pub offset: u64,
    pub len: u64,
    pub at: At,
    /// Order among those parked or waiting.
    pub order: u64,
    /// The start under way, if any; every start has its own number.
    pub start: Option<u64>,
    pub segments: (u64, u64),
    pub stale: bool,
    pub syncs: bool,
    pub container: u16,
    /// Bytes a write under way (or waiting to be) touches, and whether it merges.
    pub touches: Option<(u64, u64, bool)>,
}

#[derive(Clone, Debug)]
pub struct Io {
    pub token: u64,
    pub live: bool,
    pub disk: u64,
    pub op: HostOp,
    pub flags: u16,
    pub offset: u64,
    pub life: Life,
    pub due: Option<u64>,
    pub errno: i32,
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug)]
pub struct Quiesce {
    pub id: u64,
    pub hold: u64,
    pub drain: Option<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub struct Disk {
    /// Tells tables of the same disk apart.
    pub key: u64,
    pub id: u32,
    pub words: Vec<u64>,
    pub size: u64,
    pub segment: u64,
    pub block: u64,
    pub read_only: bool,
    pub deleted: bool,
    pub set: Vec<ContainerSpec>,
    pub quiesces: Vec<Quiesce>,
}

#[derive(Clone, Debug)]
pub enum Work {
    None,
    Running {
        command: u64,
        left: u32,
        errno: i32,
    },
    Done {
        command: u64,
        outcome: Outcome,
        errno: i32,
    },
}

#[derive(Clone, Debug)]
pub struct Fault {
    pub part: u64,
    pub info: MapFault,
    pub work: Work,
}

/// A command that waits for starts to end.
#[derive(Clone, Debug)]
pub struct Wait {
    pub command: u64,
    pub disk: u64,
    pub starts: BTreeSet<u64>,
    pub quiesce: Option<u64>,
}

/// How the driver ended an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Done(i32),
    Refused(i32),
    NotBegun,
}

/// What an outstanding I/O of the driver belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Part(u64),
    /// One I/O of the `do_*` of this part: (part, syncs, container).
    Work(u64, bool, u16),
}

#[derive(Debug)]
pub struct Oracle {
    pub park_limit: u64,
    pub timeout: Option<u64>,
    pub at_once: usize,
    pub now: u64,
    pub lease: Option<u64>,
    pub disks: Vec<Disk>,
    pub ios: Vec<Io>,
    pub faults: BTreeMap<u64, Fault>,
    pub failed: BTreeMap<u16, u64>,
    /// Every failed flush or FUA write: (container, when).
    pub failures: Vec<(u16, u64)>,
    pub waits: Vec<Wait>,
    pub next_request: u64,
    pub counter: u64,
    /// What was said since the harness last looked, with the owner of each I/O to be finished.
    pub said: Vec<(Said, Option<Owner>)>,
    pub events: Vec<Event>,
}

impl Oracle {
    pub fn new(park_limit: u64, timeout: Option<u64>, at_once: usize) -> Oracle {
        Oracle {
            park_limit,
            timeout,
            at_once,
            now: 0,
            lease: None,
            disks: Vec::new(),
            ios: Vec::new(),
            faults: BTreeMap::new(),
            failed: BTreeMap::new(),
            failures: Vec::new(),
            waits: Vec::new(),
            next_request: 1,
            counter: 1,
            said: Vec::new(),
            events: Vec::new(),
        }
    }

    pub fn count(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub fn say(&mut self, said: Said) {
        self.said.push((said, None));
    }

    pub fn answer(&mut self, command: u64, outcome: Outcome, errno: i32) {
        let entries = Vec::new();
        self.events.push(Event::Answer {
            command,
            outcome,
            errno,
            entries,
            held: false,
        });
    }

    /// The live table of a disk.
    pub fn live(&self, id: u32) -> Option<u64> {
        self.disks
            .iter()
            .find(|disk| disk.id == id && !disk.deleted)
            .map(|disk| disk.key)
    }

    /// A deleted table of that number with I/O under way.
    pub fn draining(&self, id: u32) -> Option<u64> {
        let busy = |disk: u64| {
            let mut parts = self
                .ios
                .iter()
                .filter(|io| io.disk == disk)
                .flat_map(|io| io.parts.iter());
            parts.any(|part| part.start.is_some())
        };
        let mut deleted = self
            .disks
            .iter()
            .filter(|disk| disk.deleted && disk.id == id);
        deleted.find(|disk| busy(disk.key)).map(|disk| disk.key)
    }

    /// The live tables, by disk.
    pub fn tables(&self) -> Vec<u64> {
        let mut live: Vec<&Disk> = self.disks.iter().filter(|disk| !disk.deleted).collect();
        live.sort_by_key(|disk| disk.id);
        live.iter().map(|disk| disk.key).collect()
    }

    pub fn disk(&mut self, key: u64) -> &mut Disk {
        self.disks
            .iter_mut()
            .find(|disk| disk.key == key)
            .expect("disk")
    }

    pub fn part(&mut self, key: u64) -> &mut Part {
        let parts = self.ios.iter_mut().flat_map(|io| io.parts.iter_mut());
        parts
            .into_iter()
            .find(|part| part.key == key)
            .expect("part")
    }

    pub fn has_part(&self, key: u64) -> bool {
        self.ios
            .iter()
            .any(|io| io.parts.iter().any(|part| part.key == key))
    }

    /// The I/O a part belongs to.
    pub fn io_of(&mut self, part: u64) -> &mut Io {
        let owns = |io: &&mut Io| io.parts.iter().any(|p| p.key == part);
        self.ios.iter_mut().find(owns).expect("io")
    }

    /// Keys of the parts of a disk that are in a state, in their order.
    pub fn parts_at(&self, disk: u64, at: At) -> Vec<u64> {
        let ios = self.ios.iter().filter(|io| io.disk == disk);
        let mut found: Vec<(u64, u64)> = ios
            .flat_map(|io| io.parts.iter())
            .filter(|part| part.at == at)
            .map(|part| (part.order, part.key))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, key)| key).collect()
    }

    pub fn parked_bytes(&self, disk: u64) -> u64 {
        let waits =
            |part: &&Part| matches!(part.at, At::Parked | At::Waiting | At::Fault(_) | At::Held);
        let ios = self
            .ios
            .iter()
            .filter(|io| io.disk == disk && io.op == HostOp::Write && io.life == Life::Waiting);
        ios.flat_map(|io| io.parts.iter().filter(waits))
            .map(|part| part.len)
            .sum()
    }

    pub fn accepts(&self, id: u32) -> bool {
        self.live(id)
            .is_none_or(|disk| self.parked_bytes(disk) <= self.park_limit)
    }

    pub fn deadline(&self) -> Option<u64> {
        let quiesces = self.disks.iter().flat_map(|disk| disk.quiesces.iter());
        let holds = quiesces.flat_map(|q| [Some(q.hold), q.drain.map(|(_, until)| until)]);
        let hosts = self
            .ios
            .iter()
            .filter(|io| io.life == Life::Waiting)
            .map(|io| io.due);
        holds.chain(hosts).chain([self.lease]).flatten().min()
    }

    pub fn list_faults(&mut self) {
        let mut tables: Vec<u32> = self
            .disks
            .iter()
            .filter(|disk| !disk.deleted)
            .map(|disk| disk.id)
            .collect();
        let draining = |id: &u32| self.draining(*id).is_some();
        tables.extend(crate::random::DISKS.into_iter().filter(draining));
        tables.sort_unstable();
        let list = |fault: &Fault| {
            let (status, command, outcome, errno) = match fault.work {
                Work::None => (FaultStatus::Waiting, 0, Outcome::Done, 0),
                Work::Running { command, .. } => (FaultStatus::Running, command, Outcome::Done, 0),
                Work::Done {
                    command,
                    outcome,
                    errno,
                } => (FaultStatus::Done, command, outcome, errno),
            };
            PendingFault {
                fault: fault.info,
                status,
                command,
                outcome,
                errno,
            }
        };
        let pending = self.faults.values().map(list).collect();
        self.events.push(Event::Faults { tables, pending });
    }

    pub fn has_failed(&self, disk: &Disk) -> bool {
        disk.set
            .iter()
            .any(|c| c.failed || self.failed.contains_key(&c.container))
    }
}

impl Disk {
    pub fn end_of(&self, segment: u64) -> u64 {
        ((segment + 1) * self.segment).min(self.size)
    }

    pub fn has(&self, word: u64) -> bool {
        let (container, segment) = place(word);
        self.set
            .iter()
            .any(|c| c.container == container && segment < c.segments)
    }

    pub fn unit(&self, container: u16) -> u64 {
        let found = self.set.iter().find(|c| c.container == container);
        found.map_or(1, |c| u64::from(c.write_unit_bytes))
    }

    pub fn is_plain(&self, word: u64) -> bool {
        word & (VALID | ERROR | ZERO | NO_WRITE) == VALID && self.has(word)
    }
}

pub fn place(word: u64) -> (u16, u64) {
    ((word >> 44) as u16, word & ((1 << 44) - 1))
}

/// What happens to a part, told as the design tells it (section 3), not as a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    Go,
    Zeroes,
    Nothing,
    Fail,
    Fault(Operation),
}

pub fn rule(word: u64, op: HostOp, flags: u16, whole: bool) -> Do {
    let no_hole = flags & host_flags::NO_HOLE != 0;
    let discards = whole && (op == HostOp::Trim || (op == HostOp::WriteZeroes && !no_hole));
    let partial_trim = op == HostOp::Trim && !whole;
    let fault = Do::Fault(match op {
        HostOp::Read => Operation::Read,
        _ if discards => Operation::Discard,
        _ => Operation::Write,
    });
    if word & VALID == 0 {
        return if partial_trim { Do::Nothing } else { fault };
    }
    if word & ERROR != 0 {
        return Do::Fail;
    }
    if word & ZERO != 0 {
        return match op {
            HostOp::Read => Do::Zeroes,
            HostOp::Trim => Do::Nothing,
            HostOp::WriteZeroes if !no_hole => Do::Nothing,
            _ => fault,
        };
    }
    if op == HostOp::Read {
        return Do::Go;
    }
    if discards {
        return fault;
    }
    if word & NO_WRITE != 0 {
        return if partial_trim { Do::Nothing } else { fault };
    }
    Do::Go
}
