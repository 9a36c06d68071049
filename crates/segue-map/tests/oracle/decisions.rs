//! What the oracle does with a part of a host I/O: parks it, starts it, answers it, faults.

use segue_map::entry::NO_WRITE;
use segue_map::errno::{EINVAL, EIO, ENOSPC, ESHUTDOWN};
use segue_map::{Event, HostOp, MapFault, Operation, host_flags};

use super::model::{At, Do, Fault, Life, Oracle, Owner, Said, Work, place, rule};

impl Oracle {
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
            let at_once = self.at_once;
            let busy = |part: &&super::model::Part| {
                part.key != key && !matches!(part.at, At::Held | At::Over)
            };
            if self.io_of(key).parts.iter().filter(busy).count() >= at_once {
                self.part(key).at = At::Held;
                return;
            }
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
        let mut ios = self.ios.iter().filter(|io| io.disk == disk);
        ios.any(|io| {
            let others = io.parts.iter();
            let others = others.filter(|part| matches!(part.at, At::Running | At::Waiting));
            // What a host no longer waits for may be an earlier attempt of this very write.
            let orphan = io.life != Life::Waiting;
            let mut touches = others.filter_map(|part| part.touches);
            touches.any(|(start, end, merges)| {
                (merges || touched.2 || orphan) && start < touched.1 && touched.0 < end
            })
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
}
