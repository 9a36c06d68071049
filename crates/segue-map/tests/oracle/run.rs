//! What the oracle does with time, leases and hosts, and when I/O ends.

use segue_map::errno::{ECANCELED, EINVAL, EIO, ENOSPC, EOPNOTSUPP, EPERM, ESHUTDOWN, ETIMEDOUT};
use segue_map::{Event, HostOp, Operation, Outcome};

use super::model::{At, Ending, Io, Life, Oracle, Owner, Part, Said, Work};

impl Oracle {
    // Time --------------------------------------------------------------------------------------

    pub fn pass(&mut self, now: u64) {
        self.now = now;
        if self.lease.is_some_and(|until| now >= until) {
            self.lose_lease();
        }
        for disk in self.tables() {
            while let Some(id) = self.expired(disk) {
                let drained = self.end_quiesce(disk, id, ETIMEDOUT);
                if drained {
                    let disk = self.disk(disk).id;
                    self.events
                        .push(Event::QuiesceExpired { disk, quiesce: id });
                }
            }
        }
        let due = |io: &&Io| io.life == Life::Waiting && io.due.is_some_and(|due| due <= now);
        while let Some(token) = self.ios.iter().find(due).map(|io| io.token) {
            self.leave(token, Life::TimedOut);
        }
    }

    fn expired(&mut self, disk: u64) -> Option<u64> {
        let now = self.now;
        let disk = self.disks.iter().find(|d| d.key == disk)?;
        let over = disk
            .quiesces
            .iter()
            .find(|q| now >= q.hold || q.drain.is_some_and(|(_, until)| now >= until));
        over.map(|q| q.id)
    }

    pub fn set_lease(&mut self, until: u64) {
        if until <= self.now {
            return;
        }
        let before = self.lease;
        self.lease = Some(before.map_or(until, |old| old.max(until)));
        if before.is_none() {
            for disk in self.tables() {
                self.unpark(disk);
            }
        }
    }

    pub fn lose_lease(&mut self) {
        if self.lease.take().is_some() {
            self.events.push(Event::LeaseEnded);
        }
        for disk in self.disks.iter().map(|disk| disk.key).collect::<Vec<u64>>() {
            self.disk(disk).words.fill(0);
            self.wake(disk);
        }
        for part in self.ios.iter_mut().flat_map(|io| io.parts.iter_mut()) {
            part.stale = true;
        }
        // What the driver has not taken is taken back.
        let queued = std::mem::take(&mut self.said).into_iter();
        let (taken, kept): (Vec<_>, Vec<_>) = queued.partition(|(_, owner)| owner.is_some());
        self.said = kept;
        for owner in taken.into_iter().filter_map(|(_, owner)| owner) {
            self.done(owner, Ending::NotBegun);
        }
        for index in 0..self.ios.len() {
            if self.ios[index].life != Life::Waiting {
                continue;
            }
            self.ios[index].errno = 0;
            join(&mut self.ios[index].parts);
            let over = |part: &&Part| part.at == At::Over;
            let keys: Vec<u64> = self.ios[index]
                .parts
                .iter()
                .filter(over)
                .map(|part| part.key)
                .collect();
            for key in keys {
                self.decide(key);
            }
        }
        let done = self
            .faults
            .iter()
            .filter(|(_, f)| matches!(f.work, Work::Done { .. }));
        for (request, part) in done.map(|(r, f)| (*r, f.part)).collect::<Vec<_>>() {
            self.forget(request);
            self.decide(part);
        }
    }

    /// Parts that were held back go on as others have finished.
    pub fn go_on(&mut self) {
        for token in self.ios.iter().map(|io| io.token).collect::<Vec<u64>>() {
            loop {
                let io = self.ios.iter().find(|io| io.token == token && io.live);
                let Some(io) = io else { break };
                let held = io.parts.iter().find(|part| part.at == At::Held);
                let acted_on = |part: &&Part| !matches!(part.at, At::Held | At::Over);
                let busy = io.parts.iter().filter(acted_on).count();
                let Some(key) = held.map(|part| part.key).filter(|_| busy < self.at_once) else {
                    break;
                };
                self.part(key).at = At::Parked;
                self.decide(key);
            }
        }
    }

    // Hosts -------------------------------------------------------------------------------------

    pub fn host_io(&mut self, token: u64, id: u32, op: HostOp, offset: u64, len: u64, flags: u16) {
        let (offset, len) = if op == HostOp::Flush {
            (0, 0)
        } else {
            (offset, len)
        };
        let refuse = |errno| Said::Reply {
            token,
            errno,
            in_use: false,
        };
        let Some(key) = self.live(id) else {
            self.say(refuse(ESHUTDOWN));
            return;
        };
        let writes = matches!(op, HostOp::Write | HostOp::WriteZeroes | HostOp::Trim);
        let disk = self.disk(key);
        if writes && disk.read_only {
            return self.say(refuse(EPERM));
        }
        if op != HostOp::Flush && (len == 0 || offset.checked_add(len).is_none()) {
            return self.say(refuse(EINVAL));
        }
        if op != HostOp::Flush && offset + len > disk.size {
            return self.say(refuse(if writes { ENOSPC } else { EINVAL }));
        }
        let due = self.timeout.map(|limit| self.now + limit);
        let part = self.new_part(offset, len);
        let first = part.key;
        self.ios.push(Io {
            token,
            live: true,
            disk: key,
            op,
            flags,
            offset,
            life: Life::Waiting,
            due,
            errno: 0,
            parts: vec![part],
        });
        self.decide(first);
    }

    pub fn new_part(&mut self, offset: u64, len: u64) -> Part {
        Part {
            key: self.count(),
            offset,
            len,
            at: At::Parked,
            order: 0,
            start: None,
            segments: (0, 0),
            stale: false,
            syncs: false,
            container: 0,
            touches: None,
        }
    }

    pub fn host_gone(&mut self, token: u64) {
        if self.ios.iter().any(|io| io.token == token && io.live) {
            self.leave(token, Life::Gone);
        }
    }

    fn leave(&mut self, token: u64, life: Life) {
        let io = self
            .ios
            .iter_mut()
            .find(|io| io.token == token && io.live)
            .expect("io");
        let was = io.life;
        io.life = life;
        if was != Life::Waiting {
            return;
        }
        let in_use = io.parts.iter().any(|part| part.start.is_some());
        io.live = in_use;
        let disk = io.disk;
        let keys: Vec<u64> = io.parts.iter().map(|part| part.key).collect();
        match life {
            Life::TimedOut => self.say(Said::Reply {
                token,
                errno: EIO,
                in_use,
            }),
            _ if !in_use => self.say(Said::Release { token }),
            _ => {}
        }
        for key in keys {
            let keep = match self.part(key).at {
                At::Running => true,
                At::Fault(request) => !matches!(self.faults[&request].work, Work::None),
                _ => false,
            };
            if !keep {
                self.drop_part(key);
            }
        }
        self.wake(disk);
    }

    /// A fault is over without an answer; of a discard that is said.
    pub fn forget(&mut self, request: u64) {
        let fault = self.faults.remove(&request).expect("fault");
        if fault.info.operation == Operation::Discard {
            self.events.push(Event::FaultGone { request });
        }
    }

    pub fn drop_part(&mut self, key: u64) {
        if let At::Fault(request) = self.part(key).at {
            self.forget(request);
        }
        let io = self.io_of(key);
        io.parts.retain(|part| part.key != key);
        let token = io.token;
        self.release(token);
        self.ios.retain(|io| !io.parts.is_empty());
    }

    pub fn release(&mut self, token: u64) {
        let io = self.ios.iter_mut().find(|io| io.token == token && io.live);
        if let Some(io) = io {
            let busy = io.parts.iter().any(|part| part.start.is_some());
            if io.life != Life::Waiting && !busy {
                io.live = false;
                self.say(Said::Release { token });
            }
        }
    }

    // Ends --------------------------------------------------------------------------------------

    pub fn finish(&mut self, key: u64, errno: i32) {
        self.part(key).at = At::Over;
        let io = self.io_of(key);
        if io.life != Life::Waiting {
            return self.drop_part(key);
        }
        if io.errno == 0 {
            io.errno = errno;
        }
        if io.parts.iter().all(|part| part.at == At::Over) {
            let (token, errno) = (io.token, io.errno);
            self.say(Said::Reply {
                token,
                errno,
                in_use: false,
            });
            self.ios
                .retain(|io| !io.parts.iter().any(|part| part.key == key));
        }
    }

    pub fn done(&mut self, owner: Owner, ending: Ending) {
        let key = match owner {
            Owner::Part(key) => key,
            Owner::Work(key, syncs, container) => {
                return self.work_done(key, syncs, container, ending);
            }
        };
        let (syncs, container) = (self.part(key).syncs, self.part(key).container);
        let disk = self.io_of(key).disk;
        let failed = self.sync_error(key, syncs, container, ending);
        let part = self.part(key);
        let start = part.start.take().expect("started");
        let stale = part.stale;
        part.touches = None;
        self.ended(start);
        let waiting = self.io_of(key).life == Life::Waiting;
        match failed {
            Some(request) if waiting => self.part(key).at = At::Failed(request),
            _ if stale => self.decide(key),
            _ => match ending {
                Ending::Done(errno) | Ending::Refused(errno) => self.finish(key, errno),
                Ending::NotBegun => self.decide(key),
            },
        }
        self.wake(disk);
    }

    fn sync_error(&mut self, key: u64, syncs: bool, at: u16, ending: Ending) -> Option<u64> {
        let (disk, begun) = (self.io_of(key).disk, self.part(key).start.expect("started"));
        let errno = match ending {
            Ending::Done(0) if syncs && self.failures.iter().any(|f| f.0 == at && f.1 > begun) => {
                EIO
            }
            Ending::Done(errno) if syncs && errno != 0 && errno != EOPNOTSUPP => {
                let now = self.count();
                self.failures.push((at, now));
                errno
            }
            _ => return None,
        };
        if let Some(request) = self.failed.get(&at) {
            return Some(*request);
        }
        let request = self.next_request;
        self.next_request += 1;
        self.failed.insert(at, request);
        let disk = self.disk(disk).id;
        self.events.push(Event::ContainerFailed {
            request,
            disk,
            container: at,
            errno,
        });
        Some(request)
    }

    fn work_done(&mut self, key: u64, syncs: bool, container: u16, ending: Ending) {
        let failed = self.sync_error(key, syncs, container, ending);
        let errno = match ending {
            Ending::Done(0) if failed.is_some() => EIO,
            Ending::Done(errno) | Ending::Refused(errno) => errno,
            Ending::NotBegun => ECANCELED,
        };
        let At::Fault(request) = self.part(key).at else {
            panic!("no fault")
        };
        let fault = self.faults.get_mut(&request).expect("fault");
        let Work::Running {
            command,
            left,
            errno: first,
        } = &mut fault.work
        else {
            panic!()
        };
        *left -= 1;
        *first = if *first == 0 { errno } else { *first };
        if *left == 0 {
            let (command, errno) = (*command, *first);
            self.work_ended(key, request, command, errno);
        }
    }

    pub fn work_ended(&mut self, key: u64, request: u64, command: u64, errno: i32) {
        let disk = self.io_of(key).disk;
        let void = self.part(key).stale || self.disk(disk).deleted;
        let start = self.part(key).start.take().expect("started");
        let outcome = if errno == 0 {
            Outcome::Done
        } else {
            Outcome::Failed
        };
        if void {
            self.answer(command, Outcome::Gone, 0);
        } else {
            self.answer(command, outcome, errno);
        }
        self.ended(start);
        if void {
            self.forget(request);
            self.decide(key);
        } else {
            let fault = self.faults.get_mut(&request).expect("fault");
            fault.work = Work::Done {
                command,
                outcome,
                errno,
            };
            let token = self.io_of(key).token;
            self.release(token);
        }
    }

    /// A start has ended: commands that waited for it wait no longer.
    fn ended(&mut self, start: u64) {
        for wait in &mut self.waits {
            wait.starts.remove(&start);
        }
        self.answer_ready();
    }
}

/// Neighbours that are over become one part; a flush's have no bytes.
fn join(parts: &mut Vec<Part>) {
    let mut joined: Vec<Part> = Vec::new();
    for part in parts.drain(..) {
        match joined.last_mut() {
            Some(last)
                if last.at == At::Over
                    && part.at == At::Over
                    && last.len > 0
                    && last.offset + last.len == part.offset =>
            {
                last.len += part.len;
            }
            _ => joined.push(part),
        }
    }
    *parts = joined;
}
