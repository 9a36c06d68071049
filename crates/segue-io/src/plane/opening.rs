//! Opening containers before the engine hears of them, without holding up anything else.
//!
//! `new_table` and `set_containers` name containers; those not open yet are opened on the pool, a
//! job for each such command, each container by one job at a time (a second descriptor would find
//! the fence taken by the first): a server that hangs holds up those that need it. One across the network whose server is away is opened all the same: only I/O that needs
//! it waits. Until then the disk's other commands wait, in order; other disks' do not, nor do answers
//! to faults that carry no entries. So whoever answers a `container_failed` must first have had the
//! answers to the sets that say so (the controller does).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, Weak};

use segue_map::{ContainerSpec, Control};

use crate::container::{Cache, Container, ContainerError, Header, Identity, is_remote};

/// What says that a container's server is away, rather than that something is wrong there.
const AWAY: [i32; 9] = [
    libc::ECONNREFUSED,
    libc::ECONNRESET,
    libc::EHOSTUNREACH,
    libc::EIO,
    libc::ENETUNREACH,
    libc::ENOENT,
    libc::ENOTCONN,
    libc::EPIPE,
    libc::ETIMEDOUT,
];

/// What a job opened, or why it could not.
pub(super) type Opened = Result<Vec<(u16, Arc<Container>)>, ContainerError>;

/// Jobs at once: the pool has other things to do than to wait for servers that hang.
const JOBS_AT_ONCE: usize = 4;

/// One job for the pool.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    specs: Vec<ContainerSpec>,
    fence: u64,
    closing: Arc<RwLock<()>>,
}

impl Job {
    /// Opens all or none.
    pub(super) fn run(&self) -> Opened {
        self.specs
            .iter()
            .map(|spec| Ok((spec.container, Arc::new(self.open(spec)?))))
            .collect()
    }

    fn open(&self, spec: &ContainerSpec) -> Result<Container, ContainerError> {
        let refuse = |what: String| ContainerError {
            errno: libc::EINVAL,
            what: format!("container {}: {what}", spec.uri),
        };
        let cache = Cache::parse(&spec.cache).map_err(|error| refuse(error.to_string()))?;
        let open = || Container::open(&spec.uri, cache, spec.identity, None, self.fence);
        let open = open().or_else(|error| match error.errno {
            // One that is being closed still has the fence, and nobody can take it up again.
            libc::EBUSY => {
                drop(self.closing.write().unwrap_or_else(PoisonError::into_inner));
                open()
            }
            errno if AWAY.contains(&errno) && is_remote(&spec.uri) => {
                crate::log(format_args!("{error}; I/O there waits for its server"));
                Container::open_away(&spec.uri, header_of(spec), self.fence)
            }
            _ => Err(error),
        })?;
        check(spec, &open).map_err(refuse)?;
        Ok(open)
    }
}

/// What the controller says a container's header says.
fn header_of(spec: &ContainerSpec) -> Header {
    Header {
        installation: Identity::default(),
        container: spec.identity,
        segment_bytes: spec.segment_bytes,
        segments: spec.segments,
        write_unit_bytes: spec.write_unit_bytes,
        clean: false,
        created: false,
        term: 0,
        commit: 0,
        sequence: 0,
    }
}

/// Whether an open container is what the controller says it is.
fn check(spec: &ContainerSpec, open: &Container) -> Result<(), String> {
    let header = open.header();
    if header.container != spec.identity {
        return Err("another container is open under its number".into());
    }
    if header.segment_bytes != spec.segment_bytes || header.segments < spec.segments {
        return Err(format!(
            "it has {} segments of {} bytes, not {} of {}",
            header.segments, header.segment_bytes, spec.segments, spec.segment_bytes
        ));
    }
    if open.unit_bytes() > spec.write_unit_bytes {
        return Err(format!(
            "it takes writes of {} bytes and more, not of {}",
            open.unit_bytes(),
            spec.write_unit_bytes
        ));
    }
    // What the operator has set may have changed since it was opened.
    open.set_policy(&spec.uri);
    Ok(())
}

/// A job that has not ended.
#[derive(Debug)]
struct Running {
    number: u64,
    disk: u32,
    containers: Vec<u16>,
    /// It belongs to a session that has ended.
    is_cancelled: bool,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Openings {
    fence: u64,
    /// The commands that wait, by disk, first the one that names containers.
    waiting: HashMap<u32, VecDeque<Control>>,
    /// Disks whose first command waits for its containers, in order.
    queue: VecDeque<u32>,
    running: Vec<Running>,
    last_job: u64,
    /// Closed ones that I/O still holds: their descriptor has the fence, so it is used again.
    closed: HashMap<u16, Weak<Container>>,
    /// Held to read while a container is closed on another thread.
    closing: Arc<RwLock<()>>,
    /// Container numbers by disk, as the engine has taken them.
    sets: HashMap<u32, HashSet<u16>>,
}

/// What is to happen with a command.
#[derive(Debug)]
pub(super) enum Admitted {
    /// Give it to the engine.
    Now(Control),
    /// It waits.
    Later,
    /// Refuse it: the errno and why.
    Refused(Control, i32, String),
}

fn disk_of(control: &Control) -> Option<u32> {
    match *control {
        Control::Failure { .. }
        | Control::CompleteToHost { .. }
        | Control::DoWrite { .. }
        | Control::DoSplitRead { .. } => None,
        Control::Retry { disk, .. }
        | Control::NewTable { disk, .. }
        | Control::DeleteTable { disk, .. }
        | Control::ResizeTable { disk, .. }
        | Control::GetEntry { disk, .. }
        | Control::SetEntry { disk, .. }
        | Control::SetEntryState { disk, .. }
        | Control::SetContainers { disk, .. }
        | Control::Quiesce { disk, .. }
        | Control::Activate { disk, .. } => Some(disk),
    }
}

/// The disk and the containers that a command names.
pub(super) fn set_of(control: &Control) -> Option<(u32, &[ContainerSpec])> {
    match control {
        Control::NewTable {
            disk, containers, ..
        }
        | Control::SetContainers {
            disk, containers, ..
        } => Some((*disk, containers)),
        _ => None,
    }
}

impl Openings {
    /// For an incarnation, whose number is its fence.
    pub(super) fn new(fence: u64) -> Openings {
        Openings {
            fence,
            ..Openings::default()
        }
    }

    /// Decides about a command. `open` finds open containers by number.
    pub(super) fn admit<'a>(
        &mut self,
        control: Control,
        open: impl Fn(u16) -> Option<&'a Arc<Container>>,
    ) -> Admitted {
        let Some(disk) = disk_of(&control) else {
            return Admitted::Now(control);
        };
        if let Some(waiting) = self.waiting.get_mut(&disk) {
            waiting.push_back(control);
            return Admitted::Later;
        }
        let Some((_, specs)) = set_of(&control) else {
            return Admitted::Now(control);
        };
        let mut all_open = true;
        for spec in specs {
            match open(spec.container).map(|container| check(spec, container)) {
                Some(Err(what)) => return Admitted::Refused(control, libc::EINVAL, what),
                Some(Ok(())) => {}
                None => all_open = false,
            }
        }
        if all_open {
            return Admitted::Now(control);
        }
        self.waiting.insert(disk, VecDeque::from([control]));
        self.queue.push_back(disk);
        Admitted::Later
    }

    /// The next job, if there is one that wants nothing of those that run.
    pub(super) fn next_job(&mut self, is_open: impl Fn(u16) -> bool) -> Option<Job> {
        if self.running.len() >= JOBS_AT_ONCE {
            return None;
        }
        for at in 0..self.queue.len() {
            let disk = self.queue[at];
            let Some((_, specs)) = self.front(disk).and_then(set_of) else {
                continue;
            };
            let specs = specs.iter().filter(|spec| !is_open(spec.container));
            let specs: Vec<_> = specs.cloned().collect();
            let containers: Vec<_> = specs.iter().map(|spec| spec.container).collect();
            let mut taken = self.running.iter().flat_map(|running| &running.containers);
            if taken.any(|number| containers.contains(number)) {
                continue;
            }
            self.queue.remove(at);
            return Some(self.begin(disk, specs, containers));
        }
        None
    }

    fn front(&self, disk: u32) -> Option<&Control> {
        self.waiting.get(&disk)?.front()
    }

    fn begin(&mut self, disk: u32, specs: Vec<ContainerSpec>, containers: Vec<u16>) -> Job {
        self.last_job += 1;
        self.running.push(Running {
            number: self.last_job,
            disk,
            containers,
            is_cancelled: false,
        });
        Job {
            number: self.last_job,
            specs,
            fence: self.fence,
            closing: self.closing.clone(),
        }
    }

    /// A job has ended: its disk's waiting commands, in order; `None` if nobody wants them now.
    pub(super) fn job_ended(&mut self, number: u64) -> Option<VecDeque<Control>> {
        let at = self.running.iter().position(|job| job.number == number)?;
        let job = self.running.swap_remove(at);
        if job.is_cancelled {
            return None;
        }
        self.waiting.remove(&job.disk)
    }

    /// A new session lists what this agent has: commands that still wait count as not received.
    pub(super) fn cancel(&mut self) {
        self.waiting.clear();
        self.queue.clear();
        for job in &mut self.running {
            job.is_cancelled = true;
        }
    }

    /// The engine has taken a set of containers.
    pub(super) fn set_taken(&mut self, disk: u32, numbers: HashSet<u16>) {
        self.sets.insert(disk, numbers);
    }

    /// The engine has forgotten a table.
    pub(super) fn table_gone(&mut self, disk: u32) {
        self.sets.remove(&disk);
    }

    /// Whether some table may use the container.
    pub(super) fn is_used(&self, number: u16) -> bool {
        self.sets.values().any(|numbers| numbers.contains(&number))
    }

    /// Remembers a closed container, as long as I/O under way holds it.
    pub(super) fn closed(&mut self, number: u16, container: &Arc<Container>) {
        self.closed.retain(|_, weak| weak.strong_count() > 0);
        self.closed.insert(number, Arc::downgrade(container));
    }

    /// To be held to read by whoever closes a container elsewhere, from before it drops it.
    pub(super) fn closing(&self) -> Arc<RwLock<()>> {
        self.closing.clone()
    }

    /// A closed container that I/O under way still holds.
    pub(super) fn revive(&mut self, number: u16) -> Option<Arc<Container>> {
        self.closed.remove(&number)?.upgrade()
    }
}

#[cfg(test)]
#[path = "opening_tests.rs"]
mod tests;
