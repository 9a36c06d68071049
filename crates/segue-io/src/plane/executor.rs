//! The mapping engine and the hands that carry out its effects.
//!
//! Everything here runs on the data thread. What may block is handed over ([`super::task`],
//! [`super::ring`]); page-cache I/O is done in place (decision 0001).

use std::sync::Arc;

use segue_map::{Cause, Config, Control, Effect, Engine, Event, HostOp, IoKind};
use segue_nbd::server::{Command, Request};

use super::hands::{Opened, RingState};
use super::latency::Latencies;
use super::stats::Stats;
use super::task::{Completions, Ended, LeaseGuard, Said, Task, What};
use super::tokens::{Abandoned, ConnKey, HostIo, Tokens};
use super::trace::Traces;
use crate::buffer::{Buffer, Buffers};
use crate::container::ZeroHow;
use crate::pool::Pool;
use crate::sys::{Epoll, boottime_ns};

/// Threads for what may block, and as many for what may wait for a server.
const POOL_THREADS: usize = 8;
/// The answer to one host I/O, for its connection.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) conn: ConnKey,
    pub(super) request: Request,
    /// The data of a read that went well; else for reuse.
    pub(super) buffer: Option<Arc<Buffer>>,
    pub(super) errno: i32,
    /// I/O is still under way on the request's buffer: `Executor::released` ends that.
    pub(super) in_use: bool,
    /// Of a block status request: (bytes, flags).
    pub(super) extents: Vec<(u64, u32)>,
}

/// The piece of an effect that begins I/O.
#[inline]
fn piece_of(effect: &Effect) -> Option<u64> {
    match *effect {
        Effect::Io { piece, .. } | Effect::Rmw { piece, .. } | Effect::Flush { piece, .. } => {
            Some(piece)
        }
        _ => None,
    }
}

/// See the module's text.
pub(super) struct Executor {
    pub(super) epoll: Arc<Epoll>,
    pub(super) engine: Engine,
    pub(super) tokens: Tokens,
    pub(super) buffers: Buffers,
    /// By container number.
    pub(super) containers: Vec<Option<Opened>>,
    pub(super) pool: Arc<Pool>,
    /// For merged writes that a server across the network has a part in: one that is silent keeps
    /// their threads until it is back.
    pub(super) far_pool: Pool,
    pub(super) completions: Arc<Completions>,
    pub(super) ring: RingState,
    pub(super) guard: Arc<LeaseGuard>,
    pub(super) answers: Vec<Answered>,
    /// Requests answered earlier on whose buffers nothing is under way any more.
    pub(super) released: Vec<(ConnKey, Request)>,
    pub(super) abandoned: Abandoned,
    pub(super) events: Vec<Event>,
    pub(super) stats: Arc<Stats>,
    pub(super) latencies: Latencies,
    pub(super) traces: Traces,
}

impl Executor {
    pub(super) fn new(
        config: Config,
        stats: Arc<Stats>,
        epoll: Arc<Epoll>,
    ) -> std::io::Result<Executor> {
        Ok(Executor {
            epoll,
            abandoned: Abandoned::new(config.park_limit_bytes),
            released: Vec::new(),
            engine: Engine::new(config),
            tokens: Tokens::default(),
            buffers: Buffers::default(),
            containers: Vec::new(),
            pool: Arc::new(Pool::new(POOL_THREADS)),
            far_pool: Pool::new(POOL_THREADS),
            completions: Arc::new(Completions::new()?),
            ring: RingState::Untried,
            guard: Arc::default(),
            answers: Vec::new(),
            events: Vec::new(),
            stats,
            latencies: Latencies::default(),
            traces: Traces::default(),
        })
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    // What comes in ---------------------------------------------------------------------------

    /// A host's request; the buffer of a write is full, that of a read long enough.
    #[inline]
    pub(super) fn host_io(
        &mut self,
        conn: ConnKey,
        disk: u32,
        request: Request,
        buffer: Option<Arc<Buffer>>,
    ) {
        let op = match request.command {
            Command::Read | Command::Cache => HostOp::Read,
            Command::Write => HostOp::Write,
            Command::Flush => HostOp::Flush,
            Command::Trim => HostOp::Trim,
            Command::WriteZeroes => HostOp::WriteZeroes,
            Command::BlockStatus => HostOp::BlockStatus,
        };
        let (offset, length) = (request.offset, u64::from(request.length));
        let flags = request.flags & !segue_nbd::consts::CMD_FLAG_DF;
        let now = boottime_ns();
        let token = self.tokens.insert(HostIo {
            conn,
            request,
            buffer,
            disk,
            begun_ns: now,
            cause: Cause::Clean,
            cancelled: None,
            is_abandoned: false,
        });
        Stats::add(&self.stats.requests, 1);
        self.engine
            .host_io(now, token, disk, op, offset, length, flags);
        self.pump();
    }

    /// A connection has gone with all its requests.
    pub(super) fn connection_gone(&mut self, conn: ConnKey) {
        for token in self.tokens.of_connection(conn) {
            if let Some(io) = self.tokens.get(token) {
                io.cancel();
            }
            self.engine.host_gone(token);
            self.pump();
            if let Some(io) = self.tokens.get(token) {
                io.is_abandoned = true;
                self.abandoned.add(io.disk, io.request.held_bytes());
            }
        }
    }

    pub(super) fn control(&mut self, control: Control) {
        self.engine.control(boottime_ns(), control);
        self.pump();
    }

    pub(super) fn set_lease(&mut self, until_ns: u64) {
        self.engine.set_lease(boottime_ns(), until_ns);
        // In this order: what the end of an older lease leaves behind must not undo this.
        self.pump_events();
        self.guard.extend(until_ns);
        self.pump();
    }

    pub(super) fn end_lease(&mut self) {
        self.engine.end_lease(boottime_ns());
        self.pump();
    }

    pub(super) fn list_faults(&mut self) {
        self.engine.list_faults();
        self.pump();
    }

    /// Lets time pass, if something waits for it.
    pub(super) fn tick(&mut self) {
        let now = boottime_ns();
        if self
            .engine
            .deadline_or_earlier()
            .is_some_and(|wake| wake <= now)
        {
            self.engine.tick(now);
            self.pump();
        }
    }

    /// When `tick` is due, or earlier.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.engine.deadline_or_earlier()
    }

    pub(super) fn accepts(&self, disk: u32) -> bool {
        self.engine.accepts(disk) && self.abandoned.accepts(disk)
    }

    /// Takes what other threads have finished.
    pub(super) fn take_completions(&mut self) {
        for said in self.completions.take() {
            match said {
                Said::Ended(task, ended) => self.finished(task, ended),
                Said::Late(piece) => {
                    self.engine.piece_late(boottime_ns(), piece);
                    self.pump();
                }
            }
        }
    }

    pub(super) fn finished(&mut self, task: Task, ended: Ended) {
        let now = boottime_ns();
        match ended {
            Ended::Done(errno) => self.engine.piece_done(now, task.piece, errno),
            Ended::Refused(errno) => self.engine.piece_refused(now, task.piece, errno),
            // The lease was extended just when the other thread looked.
            Ended::NotBegun
                if !task.is_cancelled()
                    && task.epoch == self.guard.epoch()
                    && self.holds_lease(now) =>
            {
                return self.submit(task);
            }
            Ended::NotBegun | Ended::GivenBack => self.engine.piece_not_begun(now, task.piece),
        }
        drop(task);
        self.pump();
    }

    fn holds_lease(&mut self, now: u64) -> bool {
        let epoch = self.guard.epoch();
        self.engine.tick(now);
        self.pump();
        self.guard.allows(epoch)
    }

    /// Counts bytes of a write that have arrived.
    #[inline]
    pub(super) fn stats_written(&self, count: usize) {
        Stats::add(&self.stats.bytes_written, count as u64);
    }

    /// Counts a reply.
    #[inline]
    pub(super) fn stats_answered(&self, answered: &Answered) {
        if answered.errno != 0 {
            Stats::add(&self.stats.errors, 1);
        } else if answered.request.command == Command::Read {
            Stats::add(&self.stats.bytes_read, u64::from(answered.request.length));
        }
    }

    // What goes out ---------------------------------------------------------------------------

    fn pump_events(&mut self) {
        while let Some(note) = self.engine.poll_note() {
            if let Some(io) = self.tokens.get(note.token) {
                io.cause = io.cause.max(note.cause);
                if note.request != 0 {
                    self.traces.faulted(io, note.request);
                }
            }
        }
        while let Some(event) = self.engine.poll_event() {
            if event == Event::LeaseEnded {
                self.guard.end();
                self.give_back();
            }
            self.events.push(event);
        }
    }

    /// Takes all that the engine wants done; to be called after each call of it.
    ///
    /// Many effects take their time, and the lease may end over them: nothing is begun after that.
    /// The engine takes back those it still has when it sees the end, so the rest is of the
    /// present lease.
    fn pump(&mut self) {
        self.pump_events();
        while let Some(effect) = self.engine.poll_effect() {
            match piece_of(&effect) {
                Some(piece) if !self.guard.allows(self.guard.epoch()) => {
                    self.engine.piece_not_begun(boottime_ns(), piece);
                }
                _ => self.perform(effect),
            }
            self.pump_events();
        }
    }

    #[inline]
    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Io { .. } => self.begin_io(&effect),
            Effect::Rmw { .. } => self.merge(&effect),
            Effect::Flush {
                piece,
                token,
                container,
            } => {
                Stats::add(&self.stats.flushes, 1);
                self.io(piece, token, container, What::Flush);
            }
            Effect::ZeroFill {
                token,
                buf_off,
                len,
            } => {
                if let Some(buffer) = self.tokens.get(token).and_then(|io| io.buffer.as_ref()) {
                    // SAFETY: the engine gives each part of the buffer to one piece only.
                    unsafe { buffer.part_mut(buf_off as usize, len as usize) }.fill(0);
                }
            }
            Effect::Reply {
                token,
                errno,
                in_use,
            } => self.reply(token, errno, in_use),
            Effect::Release { token } => {
                if let Some(io) = self.tokens.remove(token) {
                    self.release(io);
                }
            }
            Effect::StatusReply { token, extents } => {
                let in_use = false;
                if let Some(io) = self.tokens.remove(token) {
                    let took_ns = self.engine.now().saturating_sub(io.begun_ns);
                    self.traces.answered(&io, 0, took_ns);
                    self.answers.push(Answered {
                        conn: io.conn,
                        request: io.request,
                        buffer: io.buffer,
                        errno: 0,
                        in_use,
                        extents,
                    });
                }
            }
        }
    }

    #[inline]
    fn begin_io(&mut self, effect: &Effect) {
        let Effect::Io {
            piece,
            token,
            kind,
            container,
            offset_bytes: offset,
            len,
            buf_off,
            fua,
            no_hole,
            fast,
        } = *effect
        else {
            return;
        };
        let (at, length) = (buf_off as usize, len as usize);
        let what = match kind {
            IoKind::Read => What::Read { offset, at, length },
            IoKind::Write => What::Write {
                offset,
                at,
                length,
                fua,
            },
            IoKind::WriteZeroes => What::Zero {
                offset,
                length: len,
                how: ZeroHow { no_hole, fast, fua },
            },
            IoKind::Trim => What::Trim {
                offset,
                length: len,
                fua,
            },
        };
        self.io(piece, token, container, what);
    }

    fn reply(&mut self, token: u64, errno: i32, in_use: bool) {
        let extents = Vec::new();
        if in_use {
            if let Some(io) = self.tokens.get(token) {
                let took_ns = self.engine.now().saturating_sub(io.begun_ns);
                self.latencies.count(io, took_ns);
                self.traces.answered(io, errno, took_ns);
                io.cancel();
                let (conn, request) = (io.conn, io.request);
                self.answers.push(Answered {
                    conn,
                    request,
                    buffer: None,
                    errno,
                    in_use,
                    extents,
                });
            }
        } else if let Some(io) = self.tokens.remove(token) {
            let took_ns = self.engine.now().saturating_sub(io.begun_ns);
            self.latencies.count(&io, took_ns);
            self.traces.answered(&io, errno, took_ns);
            self.answers.push(Answered {
                conn: io.conn,
                request: io.request,
                buffer: io.buffer,
                errno,
                in_use,
                extents,
            });
        }
    }

    /// Nothing is under way any more on the buffer of a host that waits no longer.
    fn release(&mut self, io: HostIo) {
        if io.is_abandoned {
            self.abandoned.remove(io.disk, io.request.held_bytes());
        } else {
            self.released.push((io.conn, io.request));
        }
        if let Some(buffer) = io.buffer {
            self.buffers.give(buffer);
        }
    }
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
