//! The hands of the executor: containers, and where each piece of I/O is done.
//!
//! In place if that cannot block, else by the ring if it suits, else by the pool (decision 0001).

use std::os::fd::AsRawFd;
use std::sync::Arc;

use segue_map::{Effect, Src};

use super::executor::Executor;
use super::remote;
use super::ring::{Left, Ring};
use super::stats::Stats;
use super::task::{Edge, Ended, Merge, Task, What};
use crate::buffer::Buffer;
use crate::container::Container;
use crate::sys::{Epoll, boottime_ns, errno_of};

/// A write into the page cache that took this long is being throttled or waits for the disk.
const SLOW_WRITE_NS: u64 = 2_000_000;
/// After a slow write the container's writes go to the pool for so long.
const SLOW_FOR_NS: u64 = 100_000_000;

/// An open container.
#[derive(Debug)]
pub(super) struct Opened {
    container: Arc<Container>,
    /// Its writes go to the pool until then, CLOCK_BOOTTIME.
    slow_until_ns: u64,
}

/// The ring is made by the data thread at the first task that wants it.
pub(super) enum RingState {
    Untried,
    /// There is no io_uring here: the pool does its work.
    Absent,
    Open(Box<Ring>),
}

impl Executor {
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

    /// All open containers, by number.
    pub(super) fn open_containers(&self) -> impl Iterator<Item = (u16, &Container)> {
        let opened = self.containers.iter().enumerate();
        opened.filter_map(|(number, place)| Some((number as u16, &*place.as_ref()?.container)))
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

    /// Has storage across the network that is away give back what it has not begun: what waits for
    /// I/O under way is not to wait for that. Whose server is silent may be away already.
    pub(super) fn give_back(&self) {
        let ports = self.containers.iter().flatten();
        for port in ports.filter_map(|opened| opened.container.port()) {
            match port.away_ns() {
                Some(_) => port.give_back(),
                None => port.recall(),
            }
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

    /// Whether the kernel has refused to look at what is in the ring: it is to be asked again.
    pub(super) fn ring_waits(&mut self) -> bool {
        match &mut self.ring {
            RingState::Open(ring) => ring.must_enter(),
            _ => false,
        }
    }

    /// Takes what the ring has finished.
    pub(super) fn reap_ring(&mut self) {
        if let RingState::Open(ring) = &mut self.ring {
            let left = ring.reap();
            self.left_ring(left);
        }
    }

    /// Waits for all that is in the ring, and takes it.
    pub(super) fn drain_ring(&mut self) {
        if let RingState::Open(ring) = &mut self.ring {
            let left = ring.drain();
            self.left_ring(left);
        }
    }

    fn left_ring(&mut self, left: Vec<Left>) -> bool {
        let some = !left.is_empty();
        for left in left {
            match left {
                Left::Finished(task, ended) => self.finished(task, ended),
                Left::Synced(task, number, ended) => self.synced(task, number, ended),
                Left::Unsuited(task) => self.submit_to_pool(task),
            }
        }
        some
    }

    /// Hands a sync over; one that failed on another thread, for its note may block.
    fn synced(&self, task: Task, number: u64, ended: Ended) {
        if Task::failed_sync(ended).is_none() {
            return task.hand_over(Some(number), ended, &self.completions);
        }
        let completions = self.completions.clone();
        self.pool.submit(Box::new(move || {
            task.hand_over(Some(number), ended, &completions);
        }));
    }

    /// Does a piece in place if that cannot block, else has it done.
    #[inline]
    pub(super) fn io(&mut self, piece: u64, token: u64, number: u16, what: What) {
        let opened = self
            .containers
            .get_mut(usize::from(number))
            .and_then(Option::as_mut);
        let (Some(opened), Some(io)) = (opened, self.tokens.get(token)) else {
            // The engine lets an entry name only containers of the set, all of which are open.
            crate::log(format_args!(
                "container {number} is not open; its I/O gets EIO"
            ));
            return self.engine.piece_refused(boottime_ns(), piece, libc::EIO);
        };
        if io.buffer.is_none() && matches!(what, What::Read { .. }) {
            // CACHE: nobody wants the bytes.
            return self.engine.piece_done(boottime_ns(), piece, 0);
        }
        if let Some(errno) = in_place(opened, io.buffer.as_deref(), &what) {
            return self.engine.piece_done(boottime_ns(), piece, errno);
        }
        let task = Task {
            piece,
            epoch: self.guard.epoch(),
            container: opened.container.clone(),
            buffer: io.buffer.clone(),
            cancelled: io.cancelled(),
            what,
        };
        self.submit(task);
    }

    pub(super) fn submit(&mut self, task: Task) {
        Stats::add(&self.stats.handed_over, 1);
        if remote::suits(&task) {
            let commanded = self.engine.is_commanded(task.piece);
            return remote::submit(task, &self.guard, &self.completions, commanded);
        }
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
        let pool = match remote::has_part_in(&task) {
            true => &self.far_pool,
            false => &*self.pool,
        };
        pool.submit(Box::new(move || task.carry_out(&guard, &completions)));
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

    pub(super) fn merge(&mut self, effect: &Effect) {
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
            return self.engine.piece_refused(boottime_ns(), piece, libc::EIO);
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
    // Edge-triggered: it need not be read, which saves a call for each turn.
    let interest = (libc::EPOLLIN | libc::EPOLLET) as u32;
    let opened = Ring::new().and_then(|ring| {
        epoll.add(ring.wake.as_raw_fd(), super::thread::KEY_RING, interest)?;
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
        // Across the network every write was durable before it was answered.
        What::Flush if opened.container.port().is_some() => Ok(()),
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
