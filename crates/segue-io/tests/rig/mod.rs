//! A plane with one container and a small controller that answers its faults.
#![allow(dead_code)]

pub mod raw;

use std::collections::HashSet;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use segue_io::client::Client;
use segue_io::container::{self, Cache, DATA_AT_BYTES};
use segue_io::plane::{Export, HostLimits, Plane, PlaneEvent};
use segue_io::sys::boottime_ns;
use segue_map::{Config, ContainerSpec, Control, Entry, EntryRun, Event, Operation, Outcome};

pub const SEGMENT: u64 = 64 << 10;
pub const SEGMENTS: u64 = 1024;
pub const DISK: u32 = 7;
pub const DISK_BYTES: u64 = 40 << 20;
pub const IDENTITY: [u8; 16] = [5; 16];
const FENCE: u64 = 0x1234_5678;
const PATIENCE: Duration = Duration::from_secs(20);

/// What the controller does by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Opens exports, grants what faults ask for.
    Grants,
    /// Opens exports, leaves faults to the test.
    Opens,
    /// Nothing.
    Silent,
}

pub struct Rig {
    pub folder: tempfile::TempDir,
    pub plane: Arc<Plane>,
    pub spec: ContainerSpec,
    seen: Arc<Seen>,
    controller: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    events: Mutex<Vec<PlaneEvent>>,
    more: Condvar,
    next_command: AtomicU64,
}

impl Rig {
    pub fn new(wrappers: &str, cache: &str, policy: Policy) -> Rig {
        Rig::limited(wrappers, cache, policy, None, HostLimits::default())
    }

    /// One with limits of its own for hosts, and for how long their I/O may take.
    pub fn limited(
        wrappers: &str,
        cache: &str,
        policy: Policy,
        host_timeout_ns: Option<u64>,
        limits: HostLimits,
    ) -> Rig {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let uri = format!("{wrappers}file://{}/box", folder.path().display());
        let size = DATA_AT_BYTES + SEGMENTS * SEGMENT;
        let way = Cache::parse(cache).unwrap();
        let header = container::create(&uri, size, SEGMENT, IDENTITY, [1; 16], 1, way).unwrap();
        let spec = ContainerSpec {
            container: 1,
            uri,
            identity: IDENTITY,
            segment_bytes: SEGMENT,
            segments: SEGMENTS,
            cache: cache.into(),
            write_unit_bytes: header.write_unit_bytes,
            failed: false,
        };
        let config = Config {
            park_limit_bytes: 8 << 20,
            host_timeout_ns,
            pieces_at_once: segue_map::PIECES_AT_ONCE,
        };
        let plane = Arc::new(Plane::new(FENCE, config, limits).unwrap());
        plane.listen_unix(&folder.path().join("sock")).unwrap();
        let seen = Arc::new(Seen {
            next_command: AtomicU64::new(1000),
            ..Seen::default()
        });
        let mut small = Small {
            plane: plane.clone(),
            spec: spec.clone(),
            policy,
            seen: seen.clone(),
            next_segment: 0,
            opening: None,
            opened: HashSet::new(),
        };
        let controller = Some(std::thread::spawn(move || small.run()));
        Rig {
            folder,
            plane,
            spec,
            seen,
            controller,
        }
    }

    /// One that has a lease for an hour.
    pub fn leased(wrappers: &str, cache: &str, policy: Policy) -> Rig {
        Rig::new(wrappers, cache, policy).with_lease()
    }

    pub fn with_lease(self) -> Rig {
        self.plane.set_lease(boottime_ns() + 3_600_000_000_000);
        self
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("sock")
    }

    pub fn connect(&self) -> Client {
        Client::connect(self.socket().to_str().unwrap(), "disk").unwrap()
    }

    pub fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    pub fn command(&self) -> u64 {
        self.seen.next_command.fetch_add(1, Ordering::Relaxed)
    }

    /// A `new_table` of `disk` with the rig's container.
    pub fn new_table(&self, disk: u32) -> Control {
        new_table(self.command(), disk, &self.spec)
    }

    /// Waits for the first event, so far or to come, that `wanted` maps to something.
    pub fn wait<T>(&self, what: &str, wanted: impl Fn(&PlaneEvent) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut events = self.seen.events.lock().unwrap();
        loop {
            if let Some(found) = events.iter().find_map(&wanted) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {what} among {events:?}");
            events = self.seen.more.wait_timeout(events, left).unwrap().0;
        }
    }

    /// Waits for the answer to a command.
    pub fn answer(&self, command: u64) -> (Outcome, i32) {
        self.wait("answer", |event| match event {
            PlaneEvent::Engine(Event::Answer {
                command: got,
                outcome,
                errno,
                ..
            }) if *got == command => Some((*outcome, *errno)),
            _ => None,
        })
    }

    /// Delivers a command and waits for its answer.
    pub fn ask(&self, control: Control) -> (Outcome, i32) {
        let command = control.command().unwrap();
        self.plane.deliver(control);
        self.answer(command)
    }

    /// Waits until one of the plane's counters says so.
    pub fn wait_count(&self, counter: &str, wanted: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.count(counter) != wanted {
            let count = self.count(counter);
            assert!(
                Instant::now() < deadline,
                "{counter} is {count}, not {wanted}"
            );
            std::thread::yield_now();
        }
    }

    /// One of the plane's counters.
    pub fn count(&self, counter: &str) -> u64 {
        let values = self.plane.stats().values();
        values
            .into_iter()
            .find(|(name, _)| *name == counter)
            .unwrap()
            .1
    }

    pub fn saw(&self, wanted: impl Fn(&PlaneEvent) -> bool) -> usize {
        self.seen
            .events
            .lock()
            .unwrap()
            .iter()
            .filter(|event| wanted(event))
            .count()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.plane.shutdown(0);
        if let Some(controller) = self.controller.take() {
            let ended = controller.join();
            assert!(
                std::thread::panicking() || ended.is_ok(),
                "the controller failed"
            );
        }
    }
}

pub fn new_table(command: u64, disk: u32, spec: &ContainerSpec) -> Control {
    Control::NewTable {
        command,
        disk,
        size_bytes: DISK_BYTES,
        segment_bytes: SEGMENT,
        block_bytes: 4096,
        read_only: false,
        containers: vec![spec.clone()],
    }
}

/// The controller: first come, first served, from segment 0 of the container on.
struct Small {
    plane: Arc<Plane>,
    spec: ContainerSpec,
    policy: Policy,
    seen: Arc<Seen>,
    next_segment: u64,
    opening: Option<(u64, u64)>,
    opened: HashSet<u32>,
}

impl Small {
    fn run(&mut self) {
        let mut poll = libc::pollfd {
            fd: self.plane.fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        loop {
            // SAFETY: one valid pollfd.
            unsafe { libc::poll(&mut poll, 1, -1) };
            for event in self.plane.events() {
                let stopped = event == PlaneEvent::Stopped;
                if self.policy != Policy::Silent {
                    self.act(&event);
                }
                self.seen.events.lock().unwrap().push(event);
                self.seen.more.notify_all();
                if stopped {
                    return;
                }
            }
        }
    }

    fn act(&mut self, event: &PlaneEvent) {
        match event {
            PlaneEvent::WantExport { token, name } if name == "disk" => {
                if self.opened.contains(&DISK) {
                    return self.open(*token);
                }
                self.opening = Some((1, *token));
                self.plane.deliver(new_table(1, DISK, &self.spec));
            }
            PlaneEvent::WantExport { token, .. } => {
                self.plane.export_answer(*token, Err(libc::ENOENT));
            }
            PlaneEvent::WantList { token } => {
                self.plane
                    .list_answer(*token, vec!["disk".into(), "other".into()]);
            }
            PlaneEvent::Engine(Event::Answer {
                command: 1,
                outcome,
                ..
            }) => {
                assert_eq!(*outcome, Outcome::Done);
                self.opened.insert(DISK);
                let (_, token) = self.opening.take().unwrap();
                self.open(token);
            }
            PlaneEvent::Engine(Event::Fault(fault)) if self.policy == Policy::Grants => {
                let (word, step) = match fault.operation {
                    Operation::Write => {
                        let first = self.next_segment;
                        self.next_segment += fault.segments;
                        (Entry::at(1, first).0, 1)
                    }
                    _ => (Entry::ZEROES.0, 0),
                };
                let (first, count) = (fault.segment, fault.segments);
                let runs = vec![EntryRun {
                    first,
                    count,
                    word,
                    step,
                }];
                let (request, disk) = (fault.request, fault.disk);
                self.plane.deliver(Control::Retry {
                    request,
                    disk,
                    runs,
                });
            }
            _ => {}
        }
    }

    fn open(&self, token: u64) {
        let export = Export {
            disk: DISK,
            size_bytes: DISK_BYTES,
            block_bytes: 4096,
            read_only: false,
        };
        self.plane.export_answer(token, Ok(export));
    }
}
