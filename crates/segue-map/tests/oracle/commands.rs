//! What the oracle does with commands and answers to faults.

use std::collections::BTreeSet;

use segue_map::entry::{ERROR, NO_WRITE, VALID, ZERO};
use segue_map::errno::{EBUSY, ECANCELED, EEXIST, EINVAL, EIO, ENOENT};
use segue_map::{BlockRun, ContainerSpec, Control, EntryRun, Event, HostOp, Operation, Outcome};

use super::model::{At, Disk, Io, Life, Oracle, Owner, Part, Quiesce, Said, Wait, Work, place};

type Refusal = Result<(), i32>;

impl Oracle {
    pub fn control(&mut self, control: &Control) {
        match control {
            Control::Retry {
                request,
                disk,
                runs,
            } => self.retry(*request, *disk, runs),
            Control::Failure {
                request,
                errno,
                set_error,
            } => {
                self.failure(*request, *errno, *set_error);
            }
            Control::CompleteToHost { request } => self.complete(*request),
            Control::DoWrite {
                command,
                request,
                location,
                head,
                tail,
            } => {
                if let Err((outcome, errno)) =
                    self.do_write(*command, *request, *location, *head, *tail)
                {
                    self.answer(*command, outcome, errno);
                }
            }
            Control::DoSplitRead {
                command,
                request,
                runs,
            } => {
                if let Err((outcome, errno)) = self.do_split_read(*command, *request, runs) {
                    self.answer(*command, outcome, errno);
                }
            }
            other => {
                let command = other.command().expect("a command");
                if let Err(errno) = self.table_command(other, command) {
                    self.answer(command, Outcome::Failed, errno);
                }
            }
        }
    }

    // Answers to faults -------------------------------------------------------------------------

    /// The part whose fault this answers.
    fn answered(&mut self, request: u64) -> Option<(u64, super::model::Fault)> {
        let fault = self.faults.get(&request)?;
        if matches!(fault.work, Work::Running { .. }) {
            return None;
        }
        let fault = self.faults.remove(&request)?;
        Some((fault.part, fault))
    }

    fn conclude(&mut self, part: u64, errno: i32) {
        if self.lease.is_some() {
            self.finish(part, errno)
        } else {
            self.decide(part)
        }
    }

    fn retry(&mut self, request: u64, id: u32, runs: &[EntryRun]) {
        let Some((part, _)) = self.answered(request) else {
            return;
        };
        let key = self.io_of(part).disk;
        let disk = self.disk(key);
        if disk.id != id || runs.iter().any(|run| check_entries(disk, run).is_err()) {
            return self.conclude(part, EIO);
        }
        runs.iter().for_each(|run| write_run(disk, run));
        self.decide(part);
    }

    fn failure(&mut self, request: u64, errno: i32, set_error: bool) {
        let errno = if errno > 0 { errno } else { EIO };
        let before = self.failed.len();
        self.failed.retain(|_, waits_for| *waits_for != request);
        if self.failed.len() < before {
            let waits = |part: &&Part| part.at == At::Failed(request);
            let of = |io: &Io| {
                let mut parts: Vec<&Part> = io.parts.iter().filter(waits).collect();
                parts.sort_by_key(|part| (part.offset, part.container));
                parts.iter().map(|part| part.key).collect::<Vec<u64>>()
            };
            for part in self.ios.iter().flat_map(of).collect::<Vec<u64>>() {
                self.conclude(part, errno);
            }
            return;
        }
        let Some((part, fault)) = self.answered(request) else {
            return;
        };
        if set_error {
            let key = self.io_of(part).disk;
            let first = fault.info.segment as usize;
            let words = self.disk(key).words.iter_mut();
            for word in words.skip(first).take(fault.info.segments as usize) {
                *word |= VALID | ERROR;
            }
        }
        self.conclude(part, errno);
    }

    fn complete(&mut self, request: u64) {
        let Some((part, fault)) = self.answered(request) else {
            return;
        };
        let op = self.io_of(part).op;
        let done = matches!(
            fault.work,
            Work::Done {
                outcome: Outcome::Done,
                ..
            }
        ) || op == HostOp::WriteZeroes
            || op == HostOp::Trim;
        let io = self.io_of(part).clone();
        let answers = self.lease.is_some() && io.life == Life::Waiting;
        if op == HostOp::BlockStatus && done && answers {
            let end = self.disk(io.disk).end_of(fault.info.segment);
            let part = self.part(part);
            let len = end.min(part.offset + part.len) - part.offset;
            self.ios
                .retain(|other| other.token != io.token || !other.live);
            return self.say(Said::Status {
                token: io.token,
                extents: vec![(len, 0)],
            });
        }
        self.conclude(part, if done { 0 } else { EIO });
    }

    // do_* --------------------------------------------------------------------------------------

    fn begin(&mut self, request: u64) -> Result<u64, (Outcome, i32)> {
        let Some(fault) = self.faults.get(&request) else {
            return Err((Outcome::Gone, 0));
        };
        let part = fault.part;
        if matches!(fault.work, Work::Running { .. }) {
            return Err((Outcome::Failed, EBUSY));
        }
        if self.lease.is_none() || self.io_of(part).life != Life::Waiting {
            self.faults.remove(&request);
            self.decide(part);
            return Err((Outcome::Gone, 0));
        }
        Ok(part)
    }

    fn work_starts(&mut self, part: u64, request: u64, command: u64, left: u32) {
        let start = self.count();
        let this = self.part(part);
        this.start = Some(start);
        this.stale = false;
        self.faults.get_mut(&request).unwrap().work = Work::Running {
            command,
            left,
            errno: 0,
        };
    }

    fn do_write(
        &mut self,
        command: u64,
        request: u64,
        location: u64,
        head: u64,
        tail: u64,
    ) -> Result<(), (Outcome, i32)> {
        let key = self.begin(request)?;
        let info = self.faults[&request].info;
        let io = self.io_of(key).clone();
        let disk = self.disk(io.disk).clone();
        let edge_ok = |word: u64| word == 0 || disk.is_plain(word);
        let part = self.part(key).clone();
        let (container, segment) = place(location);
        let from = part.offset % disk.segment;
        let unit = disk.unit(container).max(disk.block);
        let (start, end) = (from / unit * unit, (from + part.len).next_multiple_of(unit));
        if info.operation == Operation::Read
            || info.segments != 1
            || !disk.is_plain(location)
            || !edge_ok(head)
            || !edge_ok(tail)
        {
            return Err((Outcome::Failed, EINVAL));
        }
        self.work_starts(key, request, command, 1);
        let base = segment * disk.segment;
        let (token, buf_off) = (io.token, part.offset - io.offset);
        let writes = io.op == HostOp::Write;
        let said = if start == from && end == from + part.len {
            let kind = if writes { 1 } else { 2 };
            let flags = (true, false, false);
            Said::Io {
                token,
                kind,
                at: (container, base + from),
                len: part.len,
                buf_off,
                flags,
            }
        } else {
            let source = |word: u64, unit_start: u64| {
                let (container, segment) = place(word);
                (word != 0).then_some((container, segment * disk.segment + unit_start))
            };
            Said::Rmw {
                token,
                at: (container, base + start),
                len: end - start,
                data: (buf_off, from - start, part.len),
                zeroes: !writes,
                edges: (
                    (from > start).then(|| source(head, start)),
                    (end > from + part.len).then(|| source(tail, end - unit)),
                    true,
                    unit as u32,
                ),
            }
        };
        self.said
            .push((said, Some(Owner::Work(key, true, container))));
        Ok(())
    }

    fn do_split_read(
        &mut self,
        command: u64,
        request: u64,
        runs: &[BlockRun],
    ) -> Result<(), (Outcome, i32)> {
        let key = self.begin(request)?;
        let info = self.faults[&request].info;
        let io = self.io_of(key).clone();
        let disk = self.disk(io.disk).clone();
        let part = self.part(key).clone();
        // Where every block of the fault comes from, in order.
        let mut blocks = Vec::new();
        for run in runs {
            for block in 0..run.count_blocks {
                blocks.push((run.first_block + block, run.location));
            }
        }
        let wanted = info.first_block..info.first_block + info.count_blocks;
        let covered = blocks.iter().map(|(block, _)| *block).eq(wanted);
        let empty = runs.iter().any(|run| run.count_blocks == 0);
        let places_ok = runs
            .iter()
            .all(|run| run.location == 0 || disk.is_plain(run.location));
        if io.op == HostOp::BlockStatus {
            self.work_starts(key, request, command, 0);
            self.work_ended(key, request, command, 0);
            return Ok(());
        }
        if io.op != HostOp::Read || !covered || !places_ok || empty {
            return Err((Outcome::Failed, EINVAL));
        }
        let reads = runs.iter().filter(|run| run.location != 0).count() as u32;
        self.work_starts(key, request, command, reads);
        let segment_start = part.offset / disk.segment * disk.segment;
        for run in runs {
            let start = (segment_start + run.first_block * disk.block).max(part.offset);
            let end = segment_start + (run.first_block + run.count_blocks) * disk.block;
            let len = end.min(part.offset + part.len) - start;
            let (token, buf_off) = (io.token, start - io.offset);
            if run.location == 0 {
                self.say(Said::Fill {
                    token,
                    buf_off,
                    len,
                });
                continue;
            }
            let (container, segment) = place(run.location);
            let at = (container, segment * disk.segment + start - segment_start);
            let said = Said::Io {
                token,
                kind: 0,
                at,
                len,
                buf_off,
                flags: (false, false, false),
            };
            self.said
                .push((said, Some(Owner::Work(key, false, container))));
        }
        if reads == 0 {
            self.work_ended(key, request, command, 0);
        }
        Ok(())
    }

    // Tables ------------------------------------------------------------------------------------

    fn table_command(&mut self, control: &Control, command: u64) -> Refusal {
        match control {
            Control::NewTable {
                disk,
                size_bytes,
                segment_bytes,
                block_bytes,
                read_only,
                containers,
                ..
            } => {
                let key = self.count();
                let table = Disk {
                    key,
                    id: *disk,
                    words: vec![0; size_bytes.div_ceil((*segment_bytes).max(1)) as usize],
                    size: *size_bytes,
                    segment: *segment_bytes,
                    block: u64::from(*block_bytes),
                    read_only: *read_only,
                    deleted: false,
                    set: containers.clone(),
                    quiesces: Vec::new(),
                };
                let sizes_ok = *size_bytes > 0
                    && segment_bytes.is_power_of_two()
                    && *segment_bytes >= table.block
                    && *segment_bytes <= 64 << 20
                    && matches!(block_bytes, 512 | 4096);
                if !sizes_ok {
                    return Err(EINVAL);
                }
                if self.live(*disk).or(self.draining(*disk)).is_some() {
                    return Err(EEXIST);
                }
                check_set(*segment_bytes, containers)?;
                self.disks.push(table);
                self.answer(command, Outcome::Done, 0);
                Ok(())
            }
            Control::DeleteTable { disk, .. } => self.delete(command, *disk),
            Control::ResizeTable {
                disk,
                size_bytes,
                blocking,
                ..
            } => {
                let key = self.live(*disk).ok_or(ENOENT)?;
                let disk = self.disk(key);
                if *size_bytes == 0 {
                    return Err(EINVAL);
                }
                let kept = disk.size.min(*size_bytes) / disk.segment;
                let end = disk.words.len() as u64;
                disk.words
                    .resize(size_bytes.div_ceil(disk.segment) as usize, 0);
                disk.size = *size_bytes;
                self.changed(command, key, (kept, end), *blocking);
                Ok(())
            }
            Control::GetEntry {
                disk, first, count, ..
            } => {
                let key = self.live(*disk).ok_or(ENOENT)?;
                let disk = self.disk(key);
                check_run(disk, *first, *count)?;
                let entries = disk.words[*first as usize..(first + count) as usize].to_vec();
                let outcome = Outcome::Done;
                self.events.push(Event::Answer {
                    command,
                    outcome,
                    errno: 0,
                    entries,
                    held: false,
                });
                Ok(())
            }
            Control::SetEntry {
                disk,
                runs,
                blocking,
                ..
            } => {
                let key = self.live(*disk).ok_or(ENOENT)?;
                let disk = self.disk(key);
                runs.iter().try_for_each(|run| check_entries(disk, run))?;
                runs.iter().for_each(|run| write_run(disk, run));
                let first = runs.iter().map(|run| run.first).min().unwrap_or(0);
                let end = runs
                    .iter()
                    .map(|run| run.first + run.count)
                    .max()
                    .unwrap_or(0);
                self.changed(command, key, (first, end), *blocking);
                Ok(())
            }
            Control::SetEntryState { .. } => self.set_state(control, command),
            Control::SetContainers {
                disk, containers, ..
            } => {
                let key = self.live(*disk).ok_or(ENOENT)?;
                let disk = self.disk(key);
                check_set(disk.segment, containers)?;
                let old = core::mem::replace(&mut disk.set, containers.clone());
                let located = |word: &&u64| **word & (VALID | ZERO | ERROR) == VALID;
                if disk
                    .words
                    .iter()
                    .filter(located)
                    .any(|word| !disk.has(*word))
                {
                    disk.set = old;
                    return Err(EINVAL);
                }
                self.answer(command, Outcome::Done, 0);
                self.unpark(key);
                Ok(())
            }
            Control::Quiesce {
                disk,
                quiesce,
                drain_ns,
                hold_ns,
                ..
            } => {
                let key = self.live(*disk).ok_or(ENOENT)?;
                let now = self.now;
                let disk = self.disk(key);
                if disk.quiesces.iter().any(|q| q.id == *quiesce) {
                    return Err(EEXIST);
                }
                let drain = Some((command, now + drain_ns));
                disk.quiesces.push(Quiesce {
                    id: *quiesce,
                    hold: now + hold_ns,
                    drain,
                });
                self.wait(command, key, |_| true, Some(*quiesce));
                Ok(())
            }
            Control::Activate { disk, quiesce, .. } => {
                let key = self.live(*disk).ok_or(ENOENT)?;
                let held = self.end_quiesce(key, *quiesce, ECANCELED);
                let (outcome, entries) = (Outcome::Done, Vec::new());
                self.events.push(Event::Answer {
                    command,
                    outcome,
                    errno: 0,
                    entries,
                    held,
                });
                Ok(())
            }
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, command: u64, id: u32) -> Refusal {
        let Some(key) = self.live(id) else {
            return self.wait_for_draining(command, id);
        };
        self.disk(key).deleted = true;
        for id in self
            .disk(key)
            .quiesces
            .iter()
            .map(|q| q.id)
            .collect::<Vec<u64>>()
        {
            self.end_quiesce(key, id, ENOENT);
        }
        let ios = self.ios.iter().filter(|io| io.disk == key);
        for part in ios
            .flat_map(|io| io.parts.clone())
            .map(|part| part.key)
            .collect::<Vec<_>>()
        {
            if !self.has_part(part) {
                continue;
            }
            let idle = matches!(self.part(part).at, At::Parked | At::Waiting | At::Failed(_));
            if let At::Fault(request) = self.part(part).at {
                if self.part(part).start.is_none() {
                    self.faults.remove(&request);
                    self.decide(part);
                }
            } else if idle {
                self.decide(part);
            }
        }
        self.wait(command, key, |_| true, None);
        Ok(())
    }

    fn wait_for_draining(&mut self, command: u64, id: u32) -> Refusal {
        let key = self.draining(id).ok_or(ENOENT)?;
        self.wait(command, key, |_| true, None);
        Ok(())
    }

    fn set_state(&mut self, control: &Control, command: u64) -> Refusal {
        let Control::SetEntryState {
            disk,
            first,
            count,
            flags,
            clear_no_write,
            whole_table,
            blocking,
            ..
        } = *control
        else {
            panic!()
        };
        let Some(key) = self.live(disk) else {
            return self.wait_for_draining(command, disk);
        };
        let disk = self.disk(key);
        let bad = if clear_no_write {
            flags != 0 || whole_table
        } else {
            flags == 0 || flags > 15 || (whole_table && flags & 6 != 0)
        };
        if bad {
            return Err(EINVAL);
        }
        let (first, count) = if whole_table {
            (0, disk.words.len() as u64)
        } else {
            (first, count)
        };
        check_run(disk, first, count)?;
        for word in &mut disk.words[first as usize..(first + count) as usize] {
            if clear_no_write {
                *word &= !NO_WRITE;
            } else if flags & 1 != 0 {
                *word = 0;
            } else if *word != 0 {
                *word |= if flags & 2 != 0 { ERROR } else { 0 };
                *word |= if flags & 4 != 0 { ZERO } else { 0 };
                *word |= if flags & 8 != 0 { NO_WRITE } else { 0 };
            }
        }
        self.changed(command, key, (first, first + count), blocking);
        Ok(())
    }

    fn changed(&mut self, command: u64, disk: u64, run: (u64, u64), blocking: bool) {
        if blocking {
            let touches = |part: &Part| part.segments.0 < run.1 && run.0 < part.segments.1;
            self.wait(command, disk, touches, None);
        } else {
            self.answer(command, Outcome::Done, 0);
        }
    }

    /// Answers the command when all starts under way that `of` picks have ended.
    fn wait(&mut self, command: u64, disk: u64, of: impl Fn(&Part) -> bool, quiesce: Option<u64>) {
        let ios = self.ios.iter().filter(|io| io.disk == disk);
        let parts = ios.flat_map(|io| io.parts.iter()).filter(|part| of(part));
        let starts: BTreeSet<u64> = parts.filter_map(|part| part.start).collect();
        self.waits.push(Wait {
            command,
            disk,
            starts,
            quiesce,
        });
        self.answer_ready();
    }

    pub fn answer_ready(&mut self) {
        while let Some(place) = self.waits.iter().position(|wait| wait.starts.is_empty()) {
            let wait = self.waits.remove(place);
            if let Some(id) = wait.quiesce {
                let mut quiesces = self.disk(wait.disk).quiesces.iter_mut();
                quiesces.find(|q| q.id == id).expect("quiesce").drain = None;
            }
            self.answer(wait.command, Outcome::Done, 0);
        }
    }

    /// Whether it was held, drained.
    pub fn end_quiesce(&mut self, disk: u64, id: u64, errno: i32) -> bool {
        let quiesces = &mut self.disk(disk).quiesces;
        let Some(place) = quiesces.iter().position(|q| q.id == id) else {
            return false;
        };
        let quiesce = quiesces.remove(place);
        if let Some((command, _)) = quiesce.drain {
            self.waits.retain(|wait| wait.command != command);
            self.answer(command, Outcome::Failed, errno);
        }
        if self.disk(disk).quiesces.is_empty() {
            self.unpark(disk);
        }
        quiesce.drain.is_none()
    }
}

fn check_run(disk: &Disk, first: u64, count: u64) -> Refusal {
    let end = u128::from(first) + u128::from(count);
    if count > 0 && end <= disk.words.len() as u128 {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

fn check_entries(disk: &Disk, run: &EntryRun) -> Refusal {
    check_run(disk, run.first, run.count)?;
    if run.step > 1 {
        return Err(EINVAL);
    }
    let words = (0..run.count).map(|i| run.word.wrapping_add(i * run.step));
    for word in words {
        let located = word & (VALID | ZERO | ERROR) == VALID;
        let carried = word & !((1 << 44) - 1) != run.word & !((1 << 44) - 1);
        if carried || (word != 0 && word & VALID == 0) || (located && !disk.has(word)) {
            return Err(EINVAL);
        }
        if word == 0 && run.count > 1 && run.step > 0 {
            return Err(EINVAL);
        }
    }
    Ok(())
}

fn write_run(disk: &mut Disk, run: &EntryRun) {
    for i in 0..run.count {
        disk.words[(run.first + i) as usize] = run.word + i * run.step;
    }
}

fn check_set(segment_bytes: u64, set: &[ContainerSpec]) -> Refusal {
    let numbers: BTreeSet<u16> = set.iter().map(|c| c.container).collect();
    let fits = |c: &ContainerSpec| {
        c.segment_bytes == segment_bytes
            && c.write_unit_bytes.is_power_of_two()
            && u64::from(c.write_unit_bytes) <= segment_bytes
    };
    if numbers.len() == set.len() && set.iter().all(fits) {
        Ok(())
    } else {
        Err(EINVAL)
    }
}
