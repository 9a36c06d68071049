//! What the oracle does with host I/O: decides, starts, finishes, answers; time and leases.

use segue_map::entry::NO_WRITE;
use segue_map::errno::{EINVAL, EIO, ENOSPC, EOPNOTSUPP, EPERM, ESHUTDOWN, ETIMEDOUT};
use segue_map::{Event, HostOp, MapFault, Operation, Outcome, host_flags};

use super::model::{At, Do, Fault, Io, Life, Oracle, Owner, Part, Said, Work, place, rule};

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
        for index in 0..self.ios.len() {
            if self.ios[index].life != Life::Waiting {
                continue;
            }
            self.ios[index].errno = 0;
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
            self.faults.remove(&request);
            self.decide(part);
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

    fn new_part(&mut self, offset: u64, len: u64) -> Part {
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
                At::Fault(request) => {
                    life == Life::TimedOut || !matches!(self.faults[&request].work, Work::None)
                }
                _ => false,
            };
            if !keep {
                self.drop_part(key);
            }
        }
        self.wake(disk);
    }

    fn drop_part(&mut self, key: u64) {
        if let At::Fault(request) = self.part(key).at {
            self.faults.remove(&request);
        }
        let io = self.io_of(key);
        io.parts.retain(|part| part.key != key);
        let token = io.token;
        self.release(token);
        self.ios.retain(|io| !io.parts.is_empty());
    }

    fn release(&mut self, token: u64) {
        let io = self.ios.iter_mut().find(|io| io.token == token && io.live);
        if let Some(io) = io {
            let busy = io.parts.iter().any(|part| part.start.is_some());
            if io.life != Life::Waiting && !busy {
                io.live = false;
                self.say(Said::Release { token });
            }
        }
    }

    // Decisions ---------------------------------------------------------------------------------

    pub fn unpark(&mut self, disk: u64) {
        for key in self.parts_at(disk, At::Parked) {
            self.decide(key);
        }
    }

    pub fn wake(&mut self, disk: u64) {
        // All let go first: what waits again waits only for those decided before it.
        let waiting = self.parts_at(disk, At::Waiting);
        for key in &waiting {
            self.part(*key).at = At::Parked;
            self.part(*key).touches = None;
            self.part(*key).order = u64::MAX;
        }
        for key in waiting {
            self.decide(key);
        }
    }

    pub fn decide(&mut self, key: u64) {
        let leased = self.lease.is_some();
        self.part(key).touches = None;
        let io = self.io_of(key);
        let (life, op, disk, flags) = (io.life, io.op, io.disk, io.flags);
        let open = io
            .parts
            .iter()
            .filter(|part| part.at != At::Over && part.key != key)
            .count();
        let size = self.disk(disk).size;
        let (offset, len) = (self.part(key).offset, self.part(key).len);
        let writes = matches!(op, HostOp::Write | HostOp::WriteZeroes | HostOp::Trim);
        let syncs = op == HostOp::Flush || (writes && flags & host_flags::FUA != 0);
        let superfluous = op == HostOp::Flush && open > 0;
        if life != Life::Waiting || superfluous {
            self.part(key).at = At::Over;
            self.drop_part(key);
        } else if self.disk(disk).deleted {
            self.finish(key, ESHUTDOWN);
        } else if !leased || !self.disk(disk).quiesces.is_empty() {
            self.park(key);
        } else if offset + len > size {
            self.finish(key, if writes { ENOSPC } else { EINVAL });
        } else if syncs && self.sync_refused(disk).is_some() {
            match self.sync_refused(disk).flatten() {
                None => self.finish(key, EIO),
                Some(request) => self.part(key).at = At::Failed(request),
            }
        } else if op == HostOp::Flush {
            self.flush(key, disk);
        } else if op == HostOp::BlockStatus {
            self.status(key, disk, flags);
        } else {
            self.data(key, disk, op, flags);
        }
    }

    fn park(&mut self, key: u64) {
        let order = self.count();
        let part = self.part(key);
        part.at = At::Parked;
        part.order = order;
    }

    /// `Some(None)`: durably failed.  `Some(Some(request))`: not known to be durable.
    fn sync_refused(&self, disk: u64) -> Option<Option<u64>> {
        let disk = self.disks.iter().find(|d| d.key == disk).unwrap();
        if !self.has_failed(disk) {
            return None;
        }
        let here = |c: u16| self.failed.get(&c);
        if disk.set.iter().any(|c| c.failed) {
            return Some(None);
        }
        let mut numbers: Vec<u16> = disk.set.iter().map(|c| c.container).collect();
        numbers.sort_unstable();
        Some(numbers.iter().find_map(|c| here(*c)).copied())
    }

    fn flush(&mut self, key: u64, disk: u64) {
        let disk = self.disk(disk);
        let mut containers: Vec<u16> = disk.set.iter().map(|c| c.container).collect();
        containers.sort_unstable();
        if containers.is_empty() {
            return self.finish(key, 0);
        }
        let token = self.io_of(key).token;
        for (index, container) in containers.iter().enumerate() {
            let this = if index == 0 {
                key
            } else {
                self.add_after(key, 0, 0)
            };
            self.start(this, (0, 0), true, *container);
            self.said.push((
                Said::Flush {
                    token,
                    container: *container,
                },
                Some(Owner::Part(this)),
            ));
        }
    }

    fn add_after(&mut self, key: u64, offset: u64, len: u64) -> u64 {
        let part = self.new_part(offset, len);
        let added = part.key;
        let io = self.io_of(key);
        let place = io.parts.iter().position(|part| part.key == key).unwrap();
        io.parts.insert(place + 1, part);
        added
    }

    fn status(&mut self, key: u64, disk: u64, flags: u16) {
        let (mut offset, len) = (self.part(key).offset, self.part(key).len);
        let end = offset + len;
        let disk = self.disk(disk).clone();
        let mut extents: Vec<(u64, u32)> = Vec::new();
        while offset < end {
            let segment = offset / disk.segment;
            let word = disk.words[segment as usize];
            // As a read would find it: zeroes are holes, data is data.
            let what = match rule(word, HostOp::Read, 0, false) {
                Do::Zeroes => 3,
                Do::Go => 0,
                other if extents.is_empty() => return self.no_status(key, other, segment, &disk),
                _ => break,
            };
            let len = disk.end_of(segment).min(end) - offset;
            offset += len;
            match extents.last_mut() {
                Some(last) if last.1 == what => last.0 += len,
                Some(_) if flags & host_flags::REQ_ONE != 0 => break,
                _ => extents.push((len, what)),
            }
        }
        let token = self.io_of(key).token;
        self.say(Said::Status { token, extents });
        self.ios
            .retain(|io| !io.parts.iter().any(|part| part.key == key));
    }

    fn no_status(&mut self, key: u64, what: Do, segment: u64, disk: &super::model::Disk) {
        if what == Do::Fail {
            return self.finish(key, EIO);
        }
        let (offset, len) = (self.part(key).offset, self.part(key).len);
        let mut end = segment;
        while end * disk.segment < offset + len && disk.words[end as usize] == 0 {
            end += 1;
        }
        self.part(key).segments = (segment, end);
        let len = disk.end_of(end - 1).min(offset + len) - offset;
        self.fault(key, len, Operation::Read, 0);
    }

    fn data(&mut self, key: u64, disk: u64, op: HostOp, flags: u16) {
        let disk = self.disk(disk).clone();
        let mut key = key;
        loop {
            let (offset, len) = (self.part(key).offset, self.part(key).len);
            // Segment by segment; neighbours of one discard decision go together.
            let mut pieces: Vec<(u64, u64, Do)> = Vec::new();
            let mut at = offset;
            while at < offset + len {
                let segment = at / disk.segment;
                let end = disk.end_of(segment).min(offset + len);
                let whole = at == segment * disk.segment && end == disk.end_of(segment);
                let what = rule(disk.words[segment as usize], op, flags, whole);
                let no_hole = flags & host_flags::NO_HOLE != 0;
                let joins = whole
                    && (op == HostOp::Trim || (op == HostOp::WriteZeroes && !no_hole))
                    && what != Do::Go;
                match pieces.last_mut() {
                    Some(last) if joins && last.2 == what && last.0 % disk.segment == 0 => {
                        last.1 = end;
                    }
                    Some(_) => break,
                    None => pieces.push((at, end, what)),
                }
                at = end;
            }
            let (start, end, what) = pieces[0];
            let rest = (end < offset + len).then(|| self.add_after(key, end, offset + len - end));
            self.part(key).len = end - start;
            let first = start / disk.segment;
            self.part(key).segments = (first, end.div_ceil(disk.segment));
            let word = disk.words[first as usize];
            self.act(key, what, word);
            match rest {
                Some(rest) => key = rest,
                None => return,
            }
        }
    }

    fn act(&mut self, key: u64, what: Do, word: u64) {
        let (offset, len) = (self.part(key).offset, self.part(key).len);
        let io = self.io_of(key);
        let (token, buf_off) = (io.token, offset - io.offset);
        match what {
            Do::Go => self.go(key, word),
            Do::Zeroes => {
                self.say(Said::Fill {
                    token,
                    buf_off,
                    len,
                });
                self.finish(key, 0);
            }
            Do::Nothing => self.finish(key, 0),
            Do::Fail => self.finish(key, EIO),
            Do::Fault(operation) => self.fault(key, len, operation, word),
        }
    }

    fn fault(&mut self, key: u64, len: u64, operation: Operation, word: u64) {
        let io = self.io_of(key).disk;
        let part = self.part(key).clone();
        let disk = self.disk(io);
        let start = part.offset - part.segments.0 * disk.segment;
        let first_block = start / disk.block;
        let count_blocks = (start + len).div_ceil(disk.block) - first_block;
        let id = disk.id;
        let request = self.next_request;
        self.next_request += 1;
        let info = MapFault {
            request,
            disk: id,
            segment: part.segments.0,
            segments: part.segments.1 - part.segments.0,
            operation,
            first_block,
            count_blocks,
            word,
        };
        self.part(key).at = At::Fault(request);
        self.faults.insert(
            request,
            Fault {
                part: key,
                info,
                work: Work::None,
            },
        );
        self.events.push(Event::Fault(info));
    }

    fn go(&mut self, key: u64, word: u64) {
        assert!(word & NO_WRITE == 0 || self.io_of(key).op == HostOp::Read);
        let io = self.io_of(key).clone();
        let part = self.part(key).clone();
        let disk = self.disk(io.disk).clone();
        let (container, segment) = place(word);
        let unit = disk.unit(container);
        let (start, end) = (part.offset, part.offset + part.len);
        let base = segment * disk.segment + start % disk.segment;
        let fua = io.flags & host_flags::FUA != 0 && io.op != HostOp::Read;
        let buf_off = start - io.offset;
        let merges = matches!(io.op, HostOp::Write | HostOp::WriteZeroes)
            && (start % unit != 0 || end % unit != 0);
        let touched = if merges {
            (start / unit * unit, end.div_ceil(unit) * unit, true)
        } else {
            (start, end, false)
        };
        if io.op != HostOp::Read {
            if self.excluded(io.disk, touched) {
                let order = self.count();
                let part = self.part(key);
                part.at = At::Waiting;
                part.order = order;
                part.touches = Some(touched);
                return;
            }
            self.part(key).touches = Some(touched);
        }
        let segments = part.segments;
        self.start(key, segments, fua, container);
        let said = if merges {
            let skip = start - touched.0;
            let total = touched.1 - touched.0;
            let head = (skip > 0).then_some(Some((container, base - skip)));
            let tail =
                (skip + part.len < total).then_some(Some((container, base - skip + total - unit)));
            Said::Rmw {
                token: io.token,
                at: (container, base - skip),
                len: total,
                data: (buf_off, skip, part.len),
                zeroes: io.op == HostOp::WriteZeroes,
                edges: (head, tail, fua, unit as u32),
            }
        } else {
            let zeroes = io.op == HostOp::WriteZeroes;
            let no_hole = zeroes && io.flags & host_flags::NO_HOLE != 0;
            let fast = zeroes && io.flags & host_flags::FAST_ZERO != 0;
            let kind = match io.op {
                HostOp::Read => 0,
                HostOp::Write => 1,
                HostOp::WriteZeroes => 2,
                _ => 3,
            };
            let flags = (fua, no_hole, fast);
            Said::Io {
                token: io.token,
                kind,
                at: (container, base),
                len: part.len,
                buf_off,
                flags,
            }
        };
        self.said.push((said, Some(Owner::Part(key))));
    }

    /// Whether a write must wait for another of the disk that is under way or waits already.
    fn excluded(&self, disk: u64, touched: (u64, u64, bool)) -> bool {
        let ios = self.ios.iter().filter(|io| io.disk == disk);
        let parts = ios.flat_map(|io| io.parts.iter());
        let others = parts.filter(|part| matches!(part.at, At::Running | At::Waiting));
        let mut touches = others.filter_map(|part| part.touches);
        touches.any(|(start, end, merges)| {
            (merges || touched.2) && start < touched.1 && touched.0 < end
        })
    }

    pub fn start(&mut self, key: u64, segments: (u64, u64), syncs: bool, container: u16) {
        let start = self.count();
        let part = self.part(key);
        part.at = At::Running;
        part.start = Some(start);
        part.segments = segments;
        part.stale = false;
        part.syncs = syncs;
        part.container = container;
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

    pub fn done(&mut self, owner: Owner, errno: i32) {
        let key = match owner {
            Owner::Part(key) => key,
            Owner::Work(key, syncs, container) => {
                return self.work_done(key, syncs, container, errno);
            }
        };
        let (syncs, container) = (self.part(key).syncs, self.part(key).container);
        let disk = self.io_of(key).disk;
        let failed = self.sync_error(disk, syncs, container, errno);
        let part = self.part(key);
        let start = part.start.take().expect("started");
        let stale = part.stale;
        part.touches = None;
        self.ended(start);
        let waiting = self.io_of(key).life == Life::Waiting;
        match failed {
            Some(request) if waiting => self.part(key).at = At::Failed(request),
            _ if stale => self.decide(key),
            _ => self.finish(key, errno),
        }
        self.wake(disk);
    }

    pub fn sync_error(&mut self, disk: u64, syncs: bool, at: u16, errno: i32) -> Option<u64> {
        if errno == 0 || !syncs || errno == EOPNOTSUPP {
            return None;
        }
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

    fn work_done(&mut self, key: u64, syncs: bool, container: u16, errno: i32) {
        let disk = self.io_of(key).disk;
        self.sync_error(disk, syncs, container, errno);
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
            self.faults.remove(&request);
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
