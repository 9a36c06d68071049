//! What the oracle does with answers to faults, and with `do_*`.

use segue_map::entry::{ERROR, VALID};
use segue_map::errno::{EBUSY, EINVAL, EIO};
use segue_map::{BlockRun, Control, EntryRun, HostOp, Operation, Outcome};

use super::model::{At, Io, Life, Oracle, Owner, Part, Said, Work, place};
use super::tables::{check_entries, write_run};

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
            self.forget(request);
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
}
