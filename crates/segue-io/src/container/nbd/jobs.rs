//! The jobs under way: their requests, queued or outside, and when each is over.
//!
//! A request is *queued* (nothing of it is at the server: never sent, or what was sent has provably
//! ended) or *outside* (on a connection, or of one that was lost and may still take effect). A job
//! is over when none of its requests is either.
//!
//! Every write is durable at the server before its job is done: by FUA, or by a flush after it,
//! and then everything is written again if the connection was lost in between: the server may have
//! been restarted, and have forgotten it. (Where flushes are needed there is one connection at a
//! time, or the flush might be answered by another start of the server than the write was.)

use std::collections::VecDeque;
use std::sync::Arc;

use segue_nbd::client::Command;
use segue_nbd::consts as c;

use super::address::Policy;
use super::limits::Limits;
use super::work::{How, Job, Op, Part, Waiter};
use crate::buffer::Buffer;
use crate::sys::boottime_ns;

/// Zeroes are written out in pieces of this size where the server cannot do better.
const ZERO_PIECE_BYTES: u64 = 1 << 20;

#[derive(Debug)]
struct State {
    op: Op,
    waiter: Box<dyn Waiter>,
    queued: u32,
    outside: u32,
    /// The first error.
    errno: i32,
    /// Something of it was sent.
    sent: bool,
    /// It may not begin any more.
    refused: bool,
    /// Its waiter was told that it takes too long.
    told: bool,
    /// It was to be given back while something of it was outside: it is, when nothing is any more
    /// and it has not ended by that.
    recalled: bool,
    arrived_ns: u64,
    /// All its writes, where a flush has to follow them.
    writes: Vec<Part>,
    flushing: bool,
    /// Connections lost when the first of its writes was sent.
    losses: u64,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    table: Vec<Option<State>>,
    free: Vec<usize>,
    queue: VecDeque<Part>,
    /// When a job has waited too long, or earlier.
    due_ns: Option<u64>,
}

impl Jobs {
    /// Takes a job in.
    pub(super) fn add(&mut self, job: Job, limits: &Limits) {
        let at_once = match job.op {
            _ if job.length == 0 => Some(How::Done(0)),
            _ if job
                .offset
                .checked_add(job.length)
                .is_none_or(|end| end > limits.size_bytes) =>
            {
                Some(How::Refused(libc::EINVAL))
            }
            Op::Trim if !limits.fast_zero => Some(How::Done(0)),
            Op::Zero { fast: true, .. } if !limits.fast_zero => {
                Some(How::Refused(libc::EOPNOTSUPP))
            }
            _ => None,
        };
        if let Some(how) = at_once {
            return job.waiter.ended(how);
        }
        let job = super::bounce::aligned(job, u64::from(limits.unit_bytes));
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push(None);
            self.table.len() - 1
        });
        let parts = parts(index, &job, limits);
        let flushes = job.op.writes() && !limits.fua;
        self.table[index] = Some(State {
            op: job.op,
            waiter: job.waiter,
            queued: parts.len() as u32,
            outside: 0,
            errno: 0,
            sent: false,
            refused: false,
            told: false,
            recalled: false,
            arrived_ns: boottime_ns(),
            writes: if flushes { parts.clone() } else { Vec::new() },
            flushing: false,
            losses: 0,
        });
        self.queue.extend(parts);
        self.look_again();
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next request to send, asked for its right to begin; it is outside now.
    pub(super) fn next(&mut self, losses: u64) -> Option<Part> {
        while let Some(part) = self.queue.pop_front() {
            let index = part.job.expect("queued requests belong to jobs");
            let state = self.table[index].as_mut().expect("a job with requests");
            state.queued -= 1;
            if state.told || state.refused || !state.waiter.may_begin() {
                state.refused |= !state.told;
                self.settle(index, losses);
                continue;
            }
            if !state.sent {
                state.losses = losses;
            }
            state.outside += 1;
            state.sent = true;
            return Some(part);
        }
        None
    }

    /// A request outside has ended.
    pub(super) fn part_done(&mut self, part: Part, errno: i32, losses: u64) {
        let Some(index) = part.job else { return };
        let state = self.table[index].as_mut().expect("a job with requests");
        state.outside -= 1;
        if state.errno == 0 {
            state.errno = errno;
        }
        self.settle(index, losses);
    }

    /// A request outside has ended without an answer: it is queued again, unless nobody waits for
    /// its job any more, or the job was to be given back. That must not wait for a connection.
    pub(super) fn again(&mut self, part: Part) {
        let Some(index) = part.job else { return };
        let state = self.table[index].as_mut().expect("a job with requests");
        state.outside -= 1;
        if state.told || state.recalled {
            state.refused |= !state.told;
            self.drop_queued(index);
            self.settle(index, 0);
            return;
        }
        state.queued += 1;
        self.queue.push_front(part);
    }

    /// Ends a job that has nothing queued and nothing outside, or goes on with it.
    fn settle(&mut self, index: usize, losses: u64) {
        let Some(state) = self.table[index].as_mut() else {
            return;
        };
        if state.queued + state.outside > 0 {
            return;
        }
        let goes_on = !state.writes.is_empty() && state.errno == 0 && !state.refused && !state.told;
        if goes_on && !(state.flushing && state.losses == losses) {
            let parts = match state.flushing {
                false => vec![flush(index)],
                true => state.writes.clone(),
            };
            state.flushing = !state.flushing;
            state.losses = if state.flushing { state.losses } else { losses };
            state.queued = parts.len() as u32;
            self.queue.extend(parts);
            return;
        }
        let state = self.table[index].take().expect("looked at");
        self.free.push(index);
        state.waiter.ended(match (state.errno, state.op) {
            (libc::EOPNOTSUPP, Op::Trim) => How::Done(0),
            (0, _) if state.refused => How::NotBegun,
            (0, _) if state.told => How::Done(libc::EIO),
            (errno, _) if errno != 0 && !state.sent => How::Refused(errno),
            (errno, _) => How::Done(errno),
        });
    }

    fn drop_queued(&mut self, index: usize) {
        self.queue.retain(|part| part.job != Some(index));
        if let Some(state) = self.table[index].as_mut() {
            state.queued = 0;
        }
    }

    fn indices(&self) -> Vec<usize> {
        let taken = |(index, state): (usize, &Option<State>)| state.is_some().then_some(index);
        self.table.iter().enumerate().filter_map(taken).collect()
    }

    /// What is outside is to be decided again if its connection is lost.
    pub(super) fn recall(&mut self) {
        for state in self.table.iter_mut().flatten() {
            state.recalled |= state.outside > 0 && state.waiter.returns();
        }
    }

    /// Ends what nothing is outside of: it is to be decided again.
    pub(super) fn give_back(&mut self) {
        self.recall();
        for index in self.indices() {
            let Some(state) = self.table[index].as_mut() else {
                continue;
            };
            if state.outside == 0 && state.waiter.returns() {
                state.refused = true;
                self.drop_queued(index);
                self.settle(index, 0);
            }
        }
    }

    /// Fails whatever is queued: this holder may not do anything here any more.
    pub(super) fn fail_queued(&mut self) {
        for index in self.indices() {
            if let Some(state) = self.table[index].as_mut() {
                if state.queued > 0 {
                    state.errno = libc::EIO;
                    self.drop_queued(index);
                    self.settle(index, 0);
                }
            }
        }
    }

    /// Fails what has waited longer than the policy allows, or finds the server away so long.
    pub(super) fn give_up(&mut self, now: u64, away_ns: u64, policy: &Policy) {
        if self.due_ns.is_none_or(|due| now < due) {
            return;
        }
        self.due_ns = None;
        for index in self.indices() {
            let Some(state) = self.table[index].as_mut() else {
                continue;
            };
            let Some(limit_ns) = state.waiter.patience_ns().or(policy.fail_after_ns) else {
                continue;
            };
            let due = (state.arrived_ns + limit_ns).min((now + limit_ns).saturating_sub(away_ns));
            if state.told {
                continue;
            }
            if now < due {
                self.due_ns = Some(self.due_ns.map_or(due, |earlier| earlier.min(due)));
                continue;
            }
            state.errno = libc::EIO;
            if state.outside > 0 {
                state.told = true;
                state.waiter.gave_up();
            }
            self.drop_queued(index);
            self.settle(index, 0);
        }
    }

    /// Nothing has been sent yet, and the server has FUA, which was not known.
    pub(super) fn use_fua(&mut self) {
        for part in self.queue.iter_mut().filter(|part| part.writes()) {
            part.flags |= c::CMD_FLAG_FUA;
        }
        for state in self.table.iter_mut().flatten() {
            state.writes.clear();
        }
    }

    /// A limit is looked at with the next turn: there is another job, or another policy.
    pub(super) fn look_again(&mut self) {
        self.due_ns = Some(0);
    }

    /// When `give_up` has something to do, or earlier.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.due_ns
    }
}

fn flush(index: usize) -> Part {
    Part {
        job: Some(index),
        command: Command::Flush,
        flags: 0,
        offset: 0,
        length: 0,
        buffer: None,
    }
}

fn parts(index: usize, job: &Job, limits: &Limits) -> Vec<Part> {
    let payload = u64::from(limits.payload_bytes);
    let fua = if limits.fua { c::CMD_FLAG_FUA } else { 0 };
    let mut buffer = job.buffer.clone();
    let mut zeroes = None;
    let (command, flags, longest) = match job.op {
        Op::Read => (Command::Read, 0, payload),
        Op::Write => (Command::Write, fua, payload),
        Op::Zero { .. } if !limits.zeroes => {
            let longest = payload.min(ZERO_PIECE_BYTES).min(job.length);
            zeroes = Some(Arc::new(Buffer::new(longest as usize)));
            (Command::Write, fua, longest)
        }
        Op::Zero { no_hole, fast } => {
            let no_hole = if no_hole { c::CMD_FLAG_NO_HOLE } else { 0 };
            let fast = if fast { c::CMD_FLAG_FAST_ZERO } else { 0 };
            (
                Command::WriteZeroes,
                fua | no_hole | fast,
                limits.zero_bytes,
            )
        }
        Op::Trim => {
            let flags = fua | c::CMD_FLAG_FAST_ZERO;
            (Command::WriteZeroes, flags, limits.zero_bytes)
        }
    };
    let mut found = Vec::new();
    let mut done = 0;
    while done < job.length {
        let length = longest.min(job.length - done);
        if let Some(zeroes) = &zeroes {
            buffer = Some((zeroes.clone(), 0));
        } else if let (Some((_, at)), Some((_, start))) = (&mut buffer, &job.buffer) {
            *at = start + done as usize;
        }
        found.push(Part {
            job: Some(index),
            command,
            flags,
            offset: job.offset + done,
            length: length as u32,
            buffer: buffer.clone(),
        });
        done += length;
    }
    found
}
