//! The mapping engine and the hands that carry out its effects.
//!
//! Everything here runs on the data thread. What may block is handed over ([`super::task`],
//! [`super::ring`]); page-cache I/O is done in place (decision 0001).

use std::os::fd::AsRawFd;
use std::sync::Arc;

use segue_map::{Config, Control, Effect, Engine, Event, HostOp, IoKind, Src};
use segue_nbd::server::{Command, Request};

use super::ring::{Left, Ring};
use super::stats::Stats;
use super::task::{Completions, Edge, Ended, LeaseGuard, Merge, Task, What};
use super::tokens::{ConnKey, HostIo, Tokens};
use crate::buffer::{Buffer, Buffers};
use crate::container::{Container, ZeroHow};
use crate::pool::Pool;
use crate::sys::{Epoll, boottime_ns, errno_of};

/// Threads for what may block.
const POOL_THREADS: usize = 8;
/// A write into the page cache that took this long is being throttled or waits for the disk.
const SLOW_WRITE_NS: u64 = 2_000_000;
/// After a slow write the container's writes go to the pool for so long.
const SLOW_FOR_NS: u64 = 100_000_000;

/// The answer to one host I/O, for its connection.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) conn: ConnKey,
    pub(super) request: Request,
    /// The data of a read that went well; else for reuse.
    pub(super) buffer: Option<Arc<Buffer>>,
    pub(super) errno: i32,
    /// Of a block status request: (bytes, flags).
    pub(super) extents: Vec<(u64, u32)>,
}

#[derive(Debug)]
struct Opened {
    container: Arc<Container>,
    /// Its writes go to the pool until then, CLOCK_BOOTTIME.
    slow_until_ns: u64,
}

/// The ring is made by the data thread at the first task that wants it.
enum RingState {
    Untried,
    /// There is no io_uring here: the pool does its work.
    Absent,
    Open(Box<Ring>),
}

/// See the module's text.
pub(super) struct Executor {
    epoll: Arc<Epoll>,
    engine: Engine,
    tokens: Tokens,
    pub(super) buffers: Buffers,
    /// By container number.
    containers: Vec<Option<Opened>>,
    pool: Arc<Pool>,
    pub(super) completions: Arc<Completions>,
    ring: RingState,
    guard: Arc<LeaseGuard>,
    pub(super) answers: Vec<Answered>,
    pub(super) events: Vec<Event>,
    pub(super) stats: Arc<Stats>,
}

impl Executor {
    pub(super) fn new(
        config: Config,
        stats: Arc<Stats>,
        epoll: Arc<Epoll>,
    ) -> std::io::Result<Executor> {
        Ok(Executor {
            epoll,
            engine: Engine::new(config),
            tokens: Tokens::default(),
            buffers: Buffers::default(),
            containers: Vec::new(),
            pool: Arc::new(Pool::new(POOL_THREADS)),
            completions: Arc::new(Completions::new()?),
            ring: RingState::Untried,
            guard: Arc::default(),
            answers: Vec::new(),
            events: Vec::new(),
            stats,
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
        let token = self.tokens.insert(HostIo {
            conn,
            request,
            buffer,
        });
        Stats::add(&self.stats.requests, 1);
        self.engine
            .host_io(boottime_ns(), token, disk, op, offset, length, flags);
        self.pump();
    }

    /// A connection has gone with all its requests.
    pub(super) fn connection_gone(&mut self, conn: ConnKey) {
        for token in self.tokens.of_connection(conn) {
            self.engine.host_gone(token);
            self.pump();
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
            .deadline()
            .is_some_and(|deadline| deadline <= now)
        {
            self.engine.tick(now);
            self.pump();
        }
    }

    /// When `tick` is due.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.engine.deadline()
    }

    pub(super) fn accepts(&self, disk: u32) -> bool {
        self.engine.accepts(disk)
    }

    /// Takes what other threads have finished.
    pub(super) fn take_completions(&mut self) {
        for (task, ended) in self.completions.take() {
            self.finished(task, ended);
        }
    }

    /// Begins what was queued for the ring in this turn; gives whether it gave anything back.
    pub(super) fn submit_ring(&mut self) -> bool {
        let RingState::Open(ring) = &mut self.ring else {
            return false;
        };
        let left = ring.submit(&self.guard);
        self.left_ring(left)
    }

    /// Takes what the ring has finished.
    pub(super) fn reap_ring(&mut self) {
        if let RingState::Open(ring) = &mut self.ring {
            let left = ring.reap();
            self.left_ring(left);
        }
    }

    fn left_ring(&mut self, left: Vec<Left>) -> bool {
        let some = !left.is_empty();
        for left in left {
            match left {
                Left::Finished(task, ended) => self.finished(task, ended),
                Left::Unsuited(task) => self.submit_to_pool(task),
            }
        }
        some
    }

    fn finished(&mut self, task: Task, ended: Ended) {
        let now = boottime_ns();
        match ended {
            Ended::Done(errno) => self.engine.piece_done(now, task.piece, errno),
            // The lease was extended just when the other thread looked.
            Ended::NotBegun if task.epoch == self.guard.epoch() && self.holds_lease(now) => {
                return self.submit(task);
            }
            Ended::NotBegun => self.engine.piece_done(now, task.piece, libc::ECANCELED),
        }
        drop(task);
        self.pump();
    }

    fn holds_lease(&mut self, now: u64) -> bool {
        let epoch = self.guard.epoch();
        self.engine.tick(now);
        self.pump();
        epoch == self.guard.epoch()
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

    // Containers ------------------------------------------------------------------------------

    /// The open container of this number.
    pub(super) fn container(&self, number: u16) -> Option<&Arc<Container>> {
        Some(
            &self
                .containers
                .get(usize::from(number))?
                .as_ref()?
                .container,
        )
    }

    pub(super) fn insert_container(&mut self, number: u16, container: Arc<Container>) {
        let index = usize::from(number);
        if self.containers.len() <= index {
            self.containers.resize_with(index + 1, || None);
        }
        self.containers[index] = Some(Opened {
            container,
            slow_until_ns: 0,
        });
    }

    /// Closes those that `keep` does not want, as soon as the last I/O on each has ended.
    pub(super) fn retain_containers(
        &mut self,
        keep: impl Fn(u16) -> bool,
    ) -> Vec<(u16, Arc<Container>)> {
        let mut closed = Vec::new();
        for (index, place) in self.containers.iter_mut().enumerate() {
            let number = index as u16;
            if !keep(number) {
                closed.extend(place.take().map(|opened| (number, opened.container)));
            }
        }
        closed
    }

    // What goes out ---------------------------------------------------------------------------

    fn pump_events(&mut self) {
        while let Some(event) = self.engine.poll_event() {
            if event == Event::LeaseEnded {
                self.guard.end();
            }
            self.events.push(event);
        }
    }

    /// Takes all that the engine wants done; to be called after each call of it.
    fn pump(&mut self) {
        self.pump_events();
        while let Some(effect) = self.engine.poll_effect() {
            self.perform(effect);
            self.pump_events();
        }
    }

    #[inline]
    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Io {
                piece,
                token,
                kind,
                container,
                offset_bytes,
                len,
                buf_off,
                fua,
                no_hole,
                fast,
            } => {
                let how = ZeroHow { no_hole, fast, fua };
                let (at, length) = (buf_off as usize, len as usize);
                let what = match kind {
                    IoKind::Read => What::Read {
                        offset: offset_bytes,
                        at,
                        length,
                    },
                    IoKind::Write => What::Write {
                        offset: offset_bytes,
                        at,
                        length,
                        fua,
                    },
                    IoKind::WriteZeroes => What::Zero {
                        offset: offset_bytes,
                        length: len,
                        how,
                    },
                    IoKind::Trim => What::Trim {
                        offset: offset_bytes,
                        length: len,
                        fua,
                    },
                };
                self.io(piece, token, container, what);
            }
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
                if let Some(HostIo {
                    buffer: Some(buffer),
                    ..
                }) = self.tokens.remove(token)
                {
                    self.buffers.give(buffer);
                }
            }
            Effect::StatusReply { token, extents } => {
                if let Some(HostIo {
                    conn,
                    request,
                    buffer,
                }) = self.tokens.remove(token)
                {
                    self.answers.push(Answered {
                        conn,
                        request,
                        buffer,
                        errno: 0,
                        extents,
                    });
                }
            }
        }
    }

    fn reply(&mut self, token: u64, errno: i32, in_use: bool) {
        let extents = Vec::new();
        if in_use {
            if let Some(HostIo { conn, request, .. }) = self.tokens.get(token) {
                let (conn, request) = (*conn, *request);
                self.answers.push(Answered {
                    conn,
                    request,
                    buffer: None,
                    errno,
                    extents,
                });
            }
        } else if let Some(HostIo {
            conn,
            request,
            buffer,
        }) = self.tokens.remove(token)
        {
            self.answers.push(Answered {
                conn,
                request,
                buffer,
                errno,
                extents,
            });
        }
    }

    /// Does a piece in place if that cannot block, else has it done.
    #[inline]
    fn io(&mut self, piece: u64, token: u64, number: u16, what: What) {
        let opened = self
            .containers
            .get_mut(usize::from(number))
            .and_then(Option::as_mut);
        let (Some(opened), Some(io)) = (opened, self.tokens.get(token)) else {
            // The engine lets an entry name only containers of the set, all of which are open.
            crate::log(format_args!(
                "container {number} is not open; its I/O gets EIO"
            ));
            return self.engine.piece_done(boottime_ns(), piece, libc::EIO);
        };
        if let Some(errno) = in_place(opened, io.buffer.as_deref(), &what) {
            return self.engine.piece_done(boottime_ns(), piece, errno);
        }
        let task = Task {
            piece,
            epoch: self.guard.epoch(),
            container: opened.container.clone(),
            buffer: io.buffer.clone(),
            what,
        };
        self.submit(task);
    }

    fn submit(&mut self, task: Task) {
        Stats::add(&self.stats.handed_over, 1);
        if Ring::suits(&task) {
            if let RingState::Untried = self.ring {
                self.ring = open_ring(&self.epoll);
            }
            if let RingState::Open(ring) = &mut self.ring {
                return ring.push(task);
            }
        }
        self.submit_to_pool(task);
    }

    fn submit_to_pool(&self, task: Task) {
        let (completions, guard) = (self.completions.clone(), self.guard.clone());
        self.pool.submit(Box::new(move || {
            let ended = task.run(&guard);
            completions.push(task, ended);
        }));
    }

    fn edge(&self, needed: bool, src: Src) -> Result<Edge, ()> {
        match src {
            Src::Location {
                container,
                offset_bytes,
            } if needed => {
                let opened = self.container(container).ok_or(())?;
                Ok(Some((opened.clone(), offset_bytes)))
            }
            _ => Ok(None),
        }
    }

    fn merge(&mut self, effect: &Effect) {
        let Effect::Rmw {
            piece,
            token,
            container,
            offset_bytes,
            len,
            buf_off,
            data_skip,
            data_len,
            zeroes,
            head,
            tail,
            fua,
            unit_bytes,
        } = *effect
        else {
            return;
        };
        let edges = self
            .edge(data_skip > 0, head)
            .and_then(|head| Ok((head, self.edge(data_skip + data_len < len, tail)?)));
        let Ok((head, tail)) = edges else {
            crate::log(format_args!(
                "a source of a merged write is not open; it gets EIO"
            ));
            return self.engine.piece_done(boottime_ns(), piece, libc::EIO);
        };
        let merge = Merge {
            offset: offset_bytes,
            length: len as usize,
            at: (!zeroes).then_some(buf_off as usize),
            skip: data_skip as usize,
            data_length: data_len as usize,
            head,
            tail,
            unit_bytes: unit_bytes as usize,
            fua,
        };
        self.io(piece, token, container, What::Merge(Box::new(merge)));
    }
}

fn open_ring(epoll: &Epoll) -> RingState {
    let opened = Ring::new().and_then(|ring| {
        epoll.add(
            ring.wake.as_raw_fd(),
            super::thread::KEY_RING,
            libc::EPOLLIN as u32,
        )?;
        Ok(ring)
    });
    match opened {
        Ok(ring) => RingState::Open(Box::new(ring)),
        Err(error) => {
            crate::log(format_args!(
                "no io_uring ({error}); O_DIRECT goes to the pool"
            ));
            RingState::Absent
        }
    }
}

/// Does what cannot block; gives its errno, or `None` for what may.
#[inline]
fn in_place(opened: &mut Opened, buffer: Option<&Buffer>, what: &What) -> Option<i32> {
    let result = match *what {
        What::Read { offset, at, length } => {
            // SAFETY: the engine gave this piece that part of the buffer alone.
            let part = unsafe { buffer?.part_mut(at, length) };
            opened.container.try_read(offset, part)?
        }
        What::Write {
            offset,
            at,
            length,
            fua: false,
        } => {
            let start = boottime_ns();
            if opened.slow_until_ns > start {
                return None;
            }
            let done = opened
                .container
                .try_write(offset, buffer?.part(at, length))?;
            if boottime_ns() - start > SLOW_WRITE_NS {
                opened.slow_until_ns = start + SLOW_FOR_NS;
            }
            done
        }
        _ => return None,
    };
    Some(result.map_or_else(|error| errno_of(&error), |()| 0))
}
