//! What the oracle does with commands on tables.

use std::collections::BTreeSet;

use segue_map::entry::{ERROR, NO_WRITE, VALID, ZERO};
use segue_map::errno::{ECANCELED, EEXIST, EINVAL, ENOENT};
use segue_map::{ContainerSpec, Control, EntryRun, Event, Operation, Outcome};

use super::model::{At, Disk, Oracle, Part, Quiesce, Wait, Work};

pub type Refusal = Result<(), i32>;

impl Oracle {
    pub fn table_command(&mut self, control: &Control, command: u64) -> Refusal {
        match *control {
            Control::NewTable { .. } => self.new_table(control, command),
            Control::DeleteTable { disk, .. } => self.delete(command, disk),
            Control::ResizeTable {
                disk,
                size_bytes,
                blocking,
                ..
            } => self.resize(command, disk, size_bytes, blocking),
            Control::GetEntry {
                disk, first, count, ..
            } => self.get(command, disk, first, count),
            Control::SetEntry {
                disk,
                ref runs,
                blocking,
                ..
            } => self.set(command, disk, runs, blocking),
            Control::SetEntryState { .. } => self.set_state(control, command),
            Control::SetContainers {
                disk,
                ref containers,
                ..
            } => self.set_containers(command, disk, containers),
            Control::Quiesce {
                disk,
                quiesce,
                drain_ns,
                hold_ns,
                ..
            } => self.quiesce(command, disk, quiesce, drain_ns, hold_ns),
            Control::Activate { disk, quiesce, .. } => {
                let key = self.live(disk).ok_or(ENOENT)?;
                let held = self.end_quiesce(key, quiesce, ECANCELED);
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
            ref other => panic!("{other:?}"),
        }
    }

    fn new_table(&mut self, control: &Control, command: u64) -> Refusal {
        let Control::NewTable {
            disk,
            size_bytes,
            segment_bytes,
            block_bytes,
            read_only,
            ref containers,
            ..
        } = *control
        else {
            panic!()
        };
        let table = Disk {
            key: self.count(),
            id: disk,
            words: vec![0; size_bytes.div_ceil(segment_bytes.max(1)) as usize],
            size: size_bytes,
            segment: segment_bytes,
            block: u64::from(block_bytes),
            read_only,
            deleted: false,
            set: containers.clone(),
            quiesces: Vec::new(),
        };
        let sizes_ok = size_bytes > 0
            && segment_bytes.is_power_of_two()
            && segment_bytes >= table.block
            && segment_bytes <= 64 << 20
            && matches!(block_bytes, 512 | 4096);
        if !sizes_ok {
            return Err(EINVAL);
        }
        if self.live(disk).or(self.draining(disk)).is_some() {
            return Err(EEXIST);
        }
        check_set(segment_bytes, containers)?;
        self.disks.push(table);
        self.answer(command, Outcome::Done, 0);
        Ok(())
    }

    fn resize(&mut self, command: u64, disk: u32, size: u64, blocking: bool) -> Refusal {
        let key = self.live(disk).ok_or(ENOENT)?;
        let disk = self.disk(key);
        if size == 0 {
            return Err(EINVAL);
        }
        let kept = disk.size.min(size) / disk.segment;
        let end = disk.words.len() as u64;
        let grown_from = (size > disk.size && kept < end).then_some(kept);
        disk.words.resize(size.div_ceil(disk.segment) as usize, 0);
        disk.size = size;
        for request in self.faults.keys().copied().collect::<Vec<_>>() {
            let fault = self.faults[&request].clone();
            let last = fault.info.segment + fault.info.segments - 1;
            let waits = fault.info.operation == Operation::Discard
                && matches!(fault.work, Work::None)
                && self.io_of(fault.part).disk == key;
            if waits && grown_from == Some(last) {
                self.forget(request);
                self.decide(fault.part);
            }
        }
        self.changed(command, key, (kept, end), blocking);
        Ok(())
    }

    fn get(&mut self, command: u64, disk: u32, first: u64, count: u64) -> Refusal {
        let key = self.live(disk).ok_or(ENOENT)?;
        let disk = self.disk(key);
        check_run(disk, first, count)?;
        let entries = disk.words[first as usize..(first + count) as usize].to_vec();
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

    fn set(&mut self, command: u64, disk: u32, runs: &[EntryRun], blocking: bool) -> Refusal {
        let key = self.live(disk).ok_or(ENOENT)?;
        let disk = self.disk(key);
        runs.iter().try_for_each(|run| check_entries(disk, run))?;
        runs.iter().for_each(|run| write_run(disk, run));
        let first = runs.iter().map(|run| run.first).min().unwrap_or(0);
        let end = runs
            .iter()
            .map(|run| run.first + run.count)
            .max()
            .unwrap_or(0);
        self.changed(command, key, (first, end), blocking);
        Ok(())
    }

    fn set_containers(&mut self, command: u64, disk: u32, set: &[ContainerSpec]) -> Refusal {
        let key = self.live(disk).ok_or(ENOENT)?;
        let disk = self.disk(key);
        check_set(disk.segment, set)?;
        let old = core::mem::replace(&mut disk.set, set.to_vec());
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

    fn quiesce(&mut self, command: u64, disk: u32, id: u64, drain: u64, hold: u64) -> Refusal {
        let key = self.live(disk).ok_or(ENOENT)?;
        let (drain, hold) = (Some((command, self.now + drain)), self.now + hold);
        let disk = self.disk(key);
        if disk.quiesces.iter().any(|q| q.id == id) {
            return Err(EEXIST);
        }
        disk.quiesces.push(Quiesce { id, hold, drain });
        self.wait(command, key, |_| true, Some(id));
        Ok(())
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
            let idle = matches!(
                self.part(part).at,
                At::Parked | At::Waiting | At::Failed(_) | At::Held
            );
            if let At::Fault(request) = self.part(part).at {
                if self.part(part).start.is_none() {
                    self.forget(request);
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

pub fn check_entries(disk: &Disk, run: &EntryRun) -> Refusal {
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

pub fn write_run(disk: &mut Disk, run: &EntryRun) {
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
