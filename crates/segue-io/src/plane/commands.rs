//! Commands on their way to the engine, and events on their way out.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use segue_map::{Control, Event, Outcome};

use super::mailbox::{Outbox, PlaneEvent};
use super::opening::{Admitted, Opened, set_of};
use super::stats::Stats;
use super::thread::DataThread;
use crate::container::Container;
use crate::sys::errno_of;

/// Requests with this bit are not the engine's, and it ignores their answers.
const CLOSING: u64 = 1 << 62;
static NEXT_CLOSING: AtomicU64 = AtomicU64::new(0);

/// Commands whose outcome decides which containers stay open.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// `new_table` and `set_containers`: disk and set.
    sets: HashMap<u64, (u32, HashSet<u16>)>,
    /// `delete_table`: disk.
    deletes: HashMap<u64, u32>,
}

impl Watched {
    fn watch(&mut self, control: &Control) {
        if let (Some((disk, specs)), Some(command)) = (set_of(control), control.command()) {
            let numbers = specs.iter().map(|spec| spec.container).collect();
            self.sets.insert(command, (disk, numbers));
        }
        if let Control::DeleteTable { command, disk } = *control {
            self.deletes.insert(command, disk);
        }
    }
}

impl DataThread {
    /// A command or an answer to a fault has come.
    pub(super) fn control(&mut self, control: Control) {
        for spec in set_of(&control).map(|(_, specs)| specs).unwrap_or_default() {
            if self.executor.container(spec.container).is_some() {
                continue;
            }
            if let Some(container) = self.openings.revive(spec.container) {
                self.executor.insert_container(spec.container, container);
            }
        }
        let executor = &self.executor;
        match self
            .openings
            .admit(control, |number| executor.container(number))
        {
            Admitted::Now(control) => {
                self.watched.watch(&control);
                if control.is_blocking() {
                    self.executor.give_back();
                }
                self.executor.control(control);
                self.take_engine_events();
            }
            Admitted::Later => self.open_next(),
            Admitted::Refused(control, errno, why) => self.refuse(&control, errno, &why),
        }
    }

    fn refuse(&mut self, control: &Control, errno: i32, why: &str) {
        crate::log(format_args!("command refused: {why}"));
        if let Some(command) = control.command() {
            self.outbox.push(PlaneEvent::Engine(Event::Answer {
                command,
                outcome: Outcome::Failed,
                errno,
                entries: Vec::new(),
                held: false,
            }));
        }
    }

    fn open_next(&mut self) {
        let executor = &self.executor;
        let is_open = |number| executor.container(number).is_some();
        while let Some(job) = self.openings.next_job(is_open) {
            let inbox = self.inbox.clone();
            executor.pool().submit(Box::new(move || {
                let opened = job.run();
                inbox.push(super::mailbox::Message::Opened(job.number, opened));
            }));
        }
    }

    /// The containers of a disk's waiting command are open, or could not be opened.
    pub(super) fn opened(&mut self, job: u64, opened: Opened) {
        let Some(mut waiting) = self.openings.job_ended(job) else {
            // Their fences end before the next job may open the same ones.
            drop(opened);
            return self.open_next();
        };
        match opened {
            Ok(containers) => {
                for (number, container) in containers {
                    self.executor.insert_container(number, container);
                }
            }
            Err(error) => {
                if let Some(control) = waiting.pop_front() {
                    self.refuse(&control, error.errno, &error.what);
                }
            }
        }
        for control in waiting {
            self.control(control);
        }
        self.open_next();
    }

    /// Acts upon the engine's events and passes them on.
    pub(super) fn take_engine_events(&mut self) {
        if !self.executor.traces.told.is_empty() {
            self.outbox.push_all(self.executor.traces.told.drain(..));
        }
        if self.executor.events.is_empty() {
            return;
        }
        let mut sets_changed = false;
        let mut events = std::mem::take(&mut self.executor.events);
        for event in &events {
            match event {
                Event::Fault(_) => Stats::add(&self.executor.stats.faults, 1),
                Event::Answer {
                    command, outcome, ..
                } => {
                    let is_done = *outcome == Outcome::Done;
                    if let Some((disk, numbers)) = self.watched.sets.remove(command) {
                        sets_changed = true;
                        if is_done {
                            self.openings.set_taken(disk, numbers);
                            self.executor.latencies.begin(disk);
                        }
                    }
                    if let Some(disk) = self.watched.deletes.remove(command) {
                        sets_changed = true;
                        if is_done {
                            self.openings.table_gone(disk);
                            self.executor.latencies.end(disk);
                        }
                    }
                }
                _ => {}
            }
        }
        self.outbox
            .push_all(events.drain(..).map(PlaneEvent::Engine));
        self.executor.events = events;
        if sets_changed {
            self.close_unused();
        }
    }

    fn close_unused(&mut self) {
        let openings = &self.openings;
        let closed = self
            .executor
            .retain_containers(|number| openings.is_used(number));
        for (number, container) in closed {
            self.openings.closed(number, &container);
            // Closing may wait for the storage; not here.
            let last = Arc::clone(&container);
            drop(container);
            let (closing, outbox) = (self.openings.closing(), self.outbox.clone());
            self.executor.pool().submit(Box::new(move || {
                let _closing = closing.read().unwrap_or_else(PoisonError::into_inner);
                flush_last(number, &last, &outbox);
                drop(last);
            }));
        }
    }

    /// The data thread ends, and with it all descriptors.
    pub(super) fn flush_all(&mut self) {
        // No flush waits for what only this thread can take from the ring.
        self.executor.drain_ring();
        for (number, container) in self.executor.open_containers() {
            flush_last(number, container, &self.outbox);
        }
        self.executor.take_completions();
        self.take_engine_events();
    }
}

/// Flushes a container that is about to be closed: a kernel tells of a page that it could not write
/// only those who have the file open, so an error of what was written here could get lost.
fn flush_last(number: u16, container: &Container, outbox: &Outbox) {
    let Err(error) = container.flush_in_order() else {
        return;
    };
    crate::log(format_args!(
        "{}: flushing before closing: {error}",
        container.uri()
    ));
    outbox.push(PlaneEvent::Engine(Event::ContainerFailed {
        request: CLOSING | NEXT_CLOSING.fetch_add(1, Ordering::Relaxed),
        disk: 0,
        container: number,
        errno: errno_of(&error),
    }));
}
