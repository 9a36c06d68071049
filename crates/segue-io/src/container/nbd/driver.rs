//! The thread that does a container's I/O over its connections.
//!
//! Everybody who uses the container in this process hands jobs in ([`super::Port`]); the thread
//! takes them apart, sends each request on the least busy connection, and answers. It never blocks
//! but to look up a host's name. What happens when a connection is lost stands in [`super::loss`].

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

use segue_nbd::client::Command;

use super::address::Address;
use super::jobs::Jobs;
use super::limits::Limits;
use super::link::{Link, LinkEvent, Stage};
use super::loss::Losses;
use super::port::{Expected, Message, Shared, lock};
use super::work::{How, Part};
use crate::buffer::Buffer;
use crate::container::header::{Header, SLOT_BYTES};
use crate::sys::{Epoll, boottime_ns};

const KEY_INBOX: u64 = u64::MAX;
const EVENTS_MAX: usize = 32;

/// Reads both slots of the header.
fn probe() -> Part {
    let bytes = 2 * SLOT_BYTES;
    Part {
        job: None,
        command: Command::Read,
        flags: 0,
        offset: 0,
        length: bytes as u32,
        buffer: Some((Arc::new(Buffer::new(bytes)), 0)),
    }
}

/// How a port begins.
pub(super) enum Start {
    /// Somebody waits to hear how the first connection went.
    Asked(mpsc::Sender<io::Result<()>>),
    /// Away.
    Away(Limits, Expected),
}

/// What the thread has.
pub(super) struct Driver {
    shared: Arc<Shared>,
    epoll: Epoll,
    address: Address,
    holder: u64,
    /// Tells `open` how the first connection went.
    opened: Option<mpsc::Sender<io::Result<()>>>,
    links: Vec<Option<Link>>,
    jobs: Jobs,
    losses: Losses,
    expected: Option<Expected>,
    /// No server has been there yet: its limits are presumed.
    presumes: bool,
    stopping: bool,
}

impl Driver {
    /// # Errors
    /// Those of epoll_create1(2) and epoll_ctl(2).
    pub(super) fn new(
        shared: Arc<Shared>,
        address: Address,
        holder: u64,
        start: Start,
    ) -> io::Result<Driver> {
        let epoll = Epoll::new()?;
        epoll.add(shared.wake.as_raw_fd(), KEY_INBOX, libc::EPOLLIN as u32)?;
        let (opened, presumed) = match start {
            Start::Asked(opened) => (Some(opened), None),
            Start::Away(limits, expected) => (None, Some((limits, expected))),
        };
        *lock(&shared.limits) = presumed.map(|(limits, _)| limits);
        Ok(Driver {
            shared,
            epoll,
            links: (0..address.policy.connections).map(|_| None).collect(),
            address,
            holder,
            opened,
            jobs: Jobs::default(),
            losses: Losses::new(),
            expected: presumed.map(|(_, expected)| expected),
            presumes: presumed.is_some(),
            stopping: false,
        })
    }

    /// Until its port is dropped.
    pub(super) fn run(mut self) {
        self.pump();
        while !self.stopping {
            self.turn();
        }
        for link in self.links.iter_mut().flatten() {
            link.disconnect();
        }
    }

    /// Waits until something is due or has come, and does all that can be done then.
    fn turn(&mut self) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        let found = self
            .epoll
            .wait(&mut events, self.timeout_ms())
            .expect("epoll_wait works");
        for event in found.iter().copied() {
            match event.u64 {
                KEY_INBOX => self.take_messages(),
                index => self.link_ready(index as usize, event.events),
            }
        }
        self.pump();
    }

    fn take_messages(&mut self) {
        self.shared.wake.clear();
        let messages = std::mem::take(&mut *lock(&self.shared.inbox));
        for message in messages {
            match message {
                Message::Job(job) => {
                    let limits = *lock(&self.shared.limits);
                    match limits {
                        Some(limits) => self.jobs.add(*job, &limits),
                        None => job.waiter.ended(How::Refused(libc::ENOTCONN)),
                    }
                }
                Message::GiveBack => self.jobs.give_back(),
                Message::Recall => self.jobs.recall(),
                Message::Expect(expected) => self.expected = Some(expected),
                Message::Policy(policy) => {
                    self.address.policy = policy;
                    self.jobs.look_again();
                }
                Message::Stop => self.stopping = true,
            }
        }
    }

    fn timeout_ms(&self) -> i32 {
        let policy = &self.address.policy;
        let due = |link: &Link| link.due_ns(policy.timeout_ns);
        let links = self.links.iter().flatten().filter_map(due).min();
        let next = [links, self.jobs.deadline(), self.losses.deadline(policy)];
        match next.into_iter().flatten().min() {
            None => -1,
            Some(at) => {
                let left_ns = at.saturating_sub(boottime_ns());
                i32::try_from(left_ns.div_ceil(1_000_000)).unwrap_or(i32::MAX)
            }
        }
    }

    // Links ------------------------------------------------------------------------------------

    fn link_ready(&mut self, index: usize, readiness: u32) {
        let Some(link) = self.links[index].as_mut() else {
            return;
        };
        let mut events = Vec::new();
        let mut done = Ok(());
        if readiness & !(libc::EPOLLIN as u32) != 0 {
            done = link.writable();
        }
        let done = done.and_then(|()| link.receive(&mut events));
        for event in events {
            self.link_event(index, event);
        }
        if let Err(error) = done {
            self.lose(index, &error);
        }
    }

    fn link_event(&mut self, index: usize, event: LinkEvent) {
        match event {
            LinkEvent::Connected => self.joined(index),
            LinkEvent::Refused {
                policy,
                revoked,
                message,
            } => {
                let what = format!("the server refuses: {message}");
                let kind = match policy {
                    true => io::ErrorKind::PermissionDenied,
                    false => io::ErrorKind::NotFound,
                };
                if revoked {
                    self.losses.revoked();
                }
                self.lose(index, &io::Error::new(kind, what));
            }
            LinkEvent::Done(part, errno) if part.job.is_none() => {
                let looked = match errno {
                    0 => self.judge(&part),
                    errno => Err(io::Error::from_raw_os_error(errno)),
                };
                match looked {
                    Ok(()) => self.ready(index),
                    Err(error) => self.lose(index, &error),
                }
            }
            LinkEvent::Done(part, errno) => {
                match errno {
                    // It is going away: the request was refused, and goes another way.
                    libc::ESHUTDOWN => self.jobs.again(part),
                    _ => {
                        self.losses.answered();
                        self.jobs.part_done(part, errno, self.losses.count());
                    }
                }
                // Not before: what it still answers is not in doubt.
                if self.links[index].as_ref().is_some_and(Link::is_spent) {
                    self.lose(index, &io::Error::from_raw_os_error(libc::ESHUTDOWN));
                }
            }
        }
    }

    /// A link is in transmission: checks what the server offers, then what lies there.
    fn joined(&mut self, index: usize) {
        let Some(link) = self.links[index].as_mut() else {
            return;
        };
        let negotiated = link.negotiated().expect("in transmission");
        let limits = match Limits::of(negotiated) {
            Ok(limits) => limits,
            Err(error) => return self.lose(index, &error),
        };
        self.losses.joined(index, negotiated.session);
        let known = *lock(&self.shared.limits).get_or_insert(limits);
        if !limits.covers(&known) {
            let what = "the export offers less than it did";
            return self.lose(index, &io::Error::new(io::ErrorKind::Unsupported, what));
        }
        if self.expected.is_none() {
            return self.ready(index);
        }
        let Some(link) = self.links[index].as_mut() else {
            return;
        };
        if let Err((_, errno)) = link.submit(probe()) {
            self.lose(index, &io::Error::from_raw_os_error(errno));
        }
    }

    fn judge(&self, part: &Part) -> io::Result<()> {
        let (Some((container, installation)), Some((buffer, at))) = (self.expected, &part.buffer)
        else {
            return Ok(());
        };
        let found = Header::newest(buffer.part(*at, part.length as usize))?;
        let same = found.is_some_and(|header| {
            header.container == container
                && installation.is_none_or(|installation| installation == header.installation)
        });
        match same {
            true => Ok(()),
            false => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "something else lies there now",
            )),
        }
    }

    fn ready(&mut self, index: usize) {
        let Some(link) = self.links[index].as_mut() else {
            return;
        };
        link.stage = Stage::Ready;
        if std::mem::take(&mut self.presumes) {
            self.stop_presuming(index);
        }
        let away = self.shared.away_since_ns.swap(0, Ordering::AcqRel);
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(Ok(()));
        } else if away != 0 {
            crate::log(format_args!("{} is back", self.name()));
        }
        for part in self.losses.is_back() {
            self.jobs.again(part);
        }
    }

    /// The server is there for the first time; nothing has been sent yet.
    fn stop_presuming(&mut self, index: usize) {
        let negotiated = self.links[index].as_ref().and_then(Link::negotiated);
        let Some(Ok(limits)) = negotiated.map(Limits::of) else {
            return;
        };
        let mut known = lock(&self.shared.limits);
        *known = known.map(|presumed| limits.instead_of(&presumed));
        if limits.fua {
            self.jobs.use_fua();
        }
    }

    fn name(&self) -> String {
        format!("nbd {} {:?}", self.address.place, self.address.export)
    }

    /// A link is of no more use.
    fn lose(&mut self, index: usize, error: &io::Error) {
        let Some(mut link) = self.links[index].take() else {
            return;
        };
        let parts = link.abandon();
        let was_ready = link.stage == Stage::Ready;
        drop(link);
        if let Some(opened) = self.opened.take() {
            self.stopping = true;
            let _ = opened.send(Err(io::Error::new(error.kind(), error.to_string())));
            return;
        }
        if was_ready || error.kind() == io::ErrorKind::InvalidData {
            crate::log(format_args!("{}: connection lost: {error}", self.name()));
        }
        for part in self.losses.lost(index, was_ready, parts) {
            self.jobs.again(part);
        }
        if !self.has_ready() {
            // Kept, if it is away already.
            let now = boottime_ns();
            let away = &self.shared.away_since_ns;
            let _ = away.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    fn has_ready(&self) -> bool {
        self.links.iter().flatten().any(|l| l.stage == Stage::Ready)
    }

    // What is due ------------------------------------------------------------------------------

    /// Does all that can be done now.
    fn pump(&mut self) {
        let now = boottime_ns();
        self.lose_silent(now);
        for part in self.losses.lingered(now, &self.address.policy) {
            self.jobs.again(part);
        }
        if self.losses.is_revoked() {
            for part in self.losses.take_doubts() {
                self.jobs.part_done(part, libc::EIO, 0);
            }
            self.jobs.fail_queued();
        }
        let away_ns = match self.shared.away_since_ns.load(Ordering::Acquire) {
            0 => 0,
            since => now.saturating_sub(since),
        };
        self.jobs.give_up(now, away_ns, &self.address.policy);
        self.send_queue();
        self.connect(now);
        for (index, link) in self.links.iter_mut().enumerate() {
            let Some(link) = link else { continue };
            let wanted = link.wanted();
            if wanted != link.interest {
                let done = match link.interest {
                    0 => self.epoll.add(link.fd(), index as u64, wanted),
                    _ => self.epoll.change(link.fd(), index as u64, wanted),
                };
                done.expect("epoll takes a socket");
                link.interest = wanted;
            }
        }
    }

    fn lose_silent(&mut self, now: u64) {
        for index in 0..self.links.len() {
            let due = self.links[index]
                .as_ref()
                .and_then(|link| link.due_ns(self.address.policy.timeout_ns));
            if due.is_some_and(|due| now >= due) {
                self.lose(index, &io::ErrorKind::TimedOut.into());
            }
        }
    }

    fn send_queue(&mut self) {
        let mut busy: VecDeque<usize> = VecDeque::new();
        while let Some(index) = self.roomiest() {
            let Some(part) = self.jobs.next(self.losses.count()) else {
                break;
            };
            let Some(link) = self.links[index].as_mut() else {
                break;
            };
            if let Err((part, errno)) = link.submit(part) {
                self.jobs.part_done(part, errno, self.losses.count());
            } else if !busy.contains(&index) {
                busy.push_back(index);
            }
        }
        for index in busy {
            let sent = self.links[index].as_mut().map_or(Ok(()), Link::send);
            if let Err(error) = sent {
                self.lose(index, &error);
            }
        }
    }

    /// The link that a request goes to.
    fn roomiest(&self) -> Option<usize> {
        let roomy = |(index, link): (usize, &Option<Link>)| {
            let link = link.as_ref().filter(|link| link.has_room())?;
            Some((link.in_flight(), index))
        };
        let found = self.links.iter().enumerate().filter_map(roomy).min();
        found.map(|(_, index)| index)
    }

    /// Makes another connection, if there is none, those there are have enough to do, or a lost one
    /// has left writes behind.
    fn connect(&mut self, now: u64) {
        let fua = lock(&self.shared.limits).is_some_and(|limits| limits.fua);
        // Without FUA, a flush is to be by the server that has answered the writes: of two
        // connections one may be silent, its server dead, and the other have found the server that
        // was started after it.
        let most = if fua { self.links.len() } else { 1 };
        let free = self.links[..most].iter().position(Option::is_none);
        let is_joining = self.links.iter().flatten().any(|l| l.stage != Stage::Ready);
        let has_enough = self.has_ready() && !self.jobs.has_queued() && !self.losses.want_a_dial();
        let wanted = free.filter(|_| !self.stopping && !is_joining && !has_enough);
        let (Some(index), true) = (wanted, self.losses.may_dial(wanted.is_some(), now)) else {
            return;
        };
        match self.losses.dial(&self.address, self.holder) {
            Ok(link) => self.links[index] = Some(link),
            // As many connections wait for the server as may: it may be there.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                if let Some(opened) = self.opened.take() {
                    self.stopping = true;
                    let _ = opened.send(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
