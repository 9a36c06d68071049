//! Rule 8 on the data thread: what a lease has not seen begun is never begun, and never failed.
//! And: storage that is away holds up nobody else.

use std::os::fd::AsRawFd;

use segue_map::{Cause, ContainerSpec, Entry, EntryRun};

use super::*;
use crate::container::{Cache, Container, DATA_AT_BYTES, Header, create};

const SEGMENT: u64 = 64 << 10;
const NUMBER: u16 = 1;
const CONN: ConnKey = ConnKey { index: 0, id: 0 };

const AWAY: u16 = 2;
const UNIT: u64 = 4096;
const PATIENCE_MS: i32 = 20_000;

fn spec(container: u16, uri: &str, write_unit_bytes: u32) -> ContainerSpec {
    ContainerSpec {
        container,
        uri: uri.into(),
        identity: [1; 16],
        segment_bytes: SEGMENT,
        segments: 4,
        cache: "page".into(),
        write_unit_bytes,
        failed: false,
    }
}

struct Rig {
    executor: Executor,
    container: Arc<Container>,
    folder: tempfile::TempDir,
}

impl Rig {
    /// A disk of four segments, all mapped, under a lease that lasts a moment.
    fn new() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let uri = format!("file://{}/box", folder.path().display());
        let size = DATA_AT_BYTES + 4 * SEGMENT;
        create(&uri, size, SEGMENT, [1; 16], [2; 16], 1, Cache::Page).unwrap();
        let container = Arc::new(Container::open(&uri, Cache::Page, [1; 16], None, 3).unwrap());
        let config = Config {
            park_limit_bytes: 1 << 20,
            host_timeout_ns: None,
            pieces_at_once: segue_map::PIECES_AT_ONCE,
        };
        let epoll = Arc::new(Epoll::new().unwrap());
        let mut executor = Executor::new(config, Arc::default(), epoll).unwrap();
        executor.insert_container(NUMBER, container.clone());
        executor.set_lease(boottime_ns() + 250_000_000);
        let spec = spec(NUMBER, &uri, 1);
        executor.control(Control::NewTable {
            command: 1,
            disk: 7,
            size_bytes: 4 * SEGMENT,
            segment_bytes: SEGMENT,
            block_bytes: 4096,
            read_only: false,
            containers: vec![spec],
        });
        executor.events.clear();
        Rig {
            executor,
            container,
            folder,
        }
    }

    /// Adds a container whose server is away, of a write unit of 4 KiB, and maps segment 3 to it.
    fn map_away(&mut self) {
        let uri = format!("nbd+unix:///?socket={}/none", self.folder.path().display());
        let header = Header {
            write_unit_bytes: UNIT as u32,
            ..*self.container.header()
        };
        let away = Arc::new(Container::open_away(&uri, header, 3).unwrap());
        let mine = spec(NUMBER, self.container.uri(), 1);
        let containers = vec![mine, spec(AWAY, &uri, UNIT as u32)];
        self.executor.insert_container(AWAY, away);
        self.executor.control(Control::SetContainers {
            command: 3,
            disk: 7,
            containers,
        });
        self.map();
        self.executor.control(Control::SetEntry {
            command: 4,
            disk: 7,
            runs: vec![EntryRun {
                first: 3,
                count: 1,
                word: Entry::at(AWAY, 0).0,
                step: 0,
            }],
            blocking: false,
        });
        self.executor.events.clear();
    }

    fn request(&mut self, command: Command, offset: u64, length: u32) {
        let request = Request {
            cookie: 0,
            offset,
            length,
            command,
            flags: 0,
        };
        let buffer = (length > 0).then(|| Arc::new(Buffer::new(length as usize)));
        self.executor.host_io(CONN, 7, request, buffer);
    }

    /// Waits until something has been answered.
    fn first_answer(&mut self) -> Command {
        while self.executor.answers.is_empty() {
            let mut waits = libc::pollfd {
                fd: self.executor.completions.wake.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one live pollfd.
            let found = unsafe { libc::poll(&raw mut waits, 1, PATIENCE_MS) };
            assert_eq!(found, 1, "nothing is answered");
            self.executor.take_completions();
        }
        self.executor.answers[0].request.command
    }

    fn map(&mut self) {
        let run = EntryRun {
            first: 0,
            count: 4,
            word: Entry::at(NUMBER, 0).0,
            step: 1,
        };
        self.executor.control(Control::SetEntry {
            command: 2,
            disk: 7,
            runs: vec![run],
            blocking: false,
        });
        self.executor.events.clear();
    }

    /// Gives a write of `length` ones to the engine, at a moment of the lease.
    fn decide_write(&mut self, now: u64, length: u64, flags: u16) {
        let buffer = Arc::new(Buffer::new(length as usize));
        // SAFETY: nobody else has the buffer yet.
        unsafe { buffer.part_mut(0, length as usize) }.fill(1);
        let request = Request {
            cookie: 0,
            offset: 0,
            length: length as u32,
            command: Command::Write,
            flags,
        };
        let token = self.executor.tokens.insert(HostIo {
            disk: 7,
            begun_ns: now,
            cause: Cause::Clean,
            conn: CONN,
            request,
            buffer: Some(buffer),
            cancelled: None,
            is_abandoned: false,
        });
        let engine = &mut self.executor.engine;
        engine.host_io(now, token, 7, HostOp::Write, 0, length, flags);
    }

    fn let_the_lease_end(&self) {
        let until = self.executor.engine.deadline().unwrap();
        while boottime_ns() < until {
            std::thread::yield_now();
        }
    }

    fn written(&self) -> Vec<u8> {
        let mut back = vec![0; 4 * SEGMENT as usize];
        self.container.read(0, &mut back).unwrap();
        back
    }
}

#[test]
fn effects_decided_under_a_lease_are_not_begun_after_it() {
    for flags in [0, segue_map::host_flags::FUA] {
        let mut rig = Rig::new();
        rig.map();
        let now = boottime_ns();
        rig.decide_write(now, 4 * SEGMENT, flags);
        rig.let_the_lease_end();
        rig.executor.pump();
        assert_eq!(rig.executor.events, [Event::LeaseEnded]);
        assert_eq!(rig.executor.engine.stats().pieces, 4, "they wait");
        assert!(rig.executor.answers.is_empty());
        assert!(rig.written().iter().all(|&byte| byte == 0), "begun late");
        // Under the next lease they fault: nothing is begun where the old table said.
        rig.executor.events.clear();
        rig.executor.set_lease(boottime_ns() + 3_600_000_000_000);
        assert_eq!(rig.executor.engine.stats().faults, 4);
    }
}

#[test]
fn what_another_thread_did_not_begin_is_no_failure_and_not_tried_again() {
    let mut rig = Rig::new();
    rig.map();
    rig.decide_write(boottime_ns(), 4096, segue_map::host_flags::FUA);
    let piece = piece_of(&rig.executor.engine.poll_effect().unwrap()).unwrap();
    rig.let_the_lease_end();
    rig.executor.tick();
    // Its epoch is that of now, as if it had been handed over just after the end.
    let task = Task {
        piece,
        epoch: rig.executor.guard.epoch(),
        container: rig.container.clone(),
        buffer: None,
        cancelled: Arc::default(),
        what: What::Flush,
    };
    rig.executor.finished(task, Ended::NotBegun);
    assert_eq!(rig.executor.events, [Event::LeaseEnded], "nothing failed");
    assert_eq!(
        rig.executor
            .stats
            .handed_over
            .load(std::sync::atomic::Ordering::Relaxed),
        0
    );
    assert_eq!(rig.executor.engine.stats().pieces, 1, "it waits");
}

#[test]
fn tasks_of_a_lost_connection_are_not_begun_and_leave_nothing() {
    let mut rig = Rig::new();
    rig.map();
    rig.executor.set_lease(boottime_ns() + 3_600_000_000_000);
    rig.decide_write(boottime_ns(), 4096, segue_map::host_flags::FUA);
    let effect = rig.executor.engine.poll_effect().unwrap();
    let Effect::Io { piece, token, .. } = effect else {
        panic!("{effect:?}")
    };
    let task = Task {
        piece,
        epoch: rig.executor.guard.epoch(),
        container: rig.container.clone(),
        buffer: None,
        cancelled: rig.executor.tokens.get(token).unwrap().cancelled(),
        what: What::Flush,
    };
    rig.executor.connection_gone(CONN);
    let ended = task.run(&rig.executor.guard);
    assert_eq!(ended, Ended::NotBegun);
    rig.executor.finished(task, ended);
    let stats = rig.executor.engine.stats();
    assert_eq!((stats.hosts, stats.pieces), (0, 0));
    assert!(rig.executor.tokens.get(token).is_none(), "its name is free");
    assert!(rig.executor.events.is_empty(), "nothing failed");
}

#[test]
fn what_gone_connections_still_hold_counts_against_their_disk() {
    let mut rig = Rig::new();
    rig.map();
    rig.executor.set_lease(boottime_ns() + 3_600_000_000_000);
    // Four times 256 KiB: as much as the disk may hold.
    for _ in 0..4 {
        rig.decide_write(boottime_ns(), 4 * SEGMENT, segue_map::host_flags::FUA);
    }
    let mut pieces = Vec::new();
    while let Some(effect) = rig.executor.engine.poll_effect() {
        pieces.extend(piece_of(&effect));
    }
    assert!(rig.executor.accepts(7));
    rig.executor.connection_gone(CONN);
    assert!(!rig.executor.accepts(7), "connecting again is no way out");
    assert!(rig.executor.accepts(8), "other disks do not feel it");
    for piece in pieces {
        rig.executor.engine.piece_done(boottime_ns(), piece, 0);
    }
    rig.executor.pump();
    assert!(rig.executor.accepts(7));
    assert!(rig.executor.abandoned.bytes.is_empty());
    assert!(rig.executor.released.is_empty());
}

#[test]
fn cache_needs_no_buffer() {
    let mut rig = Rig::new();
    rig.map();
    rig.executor.set_lease(boottime_ns() + 3_600_000_000_000);
    let request = Request {
        cookie: 0,
        offset: 0,
        length: 4096,
        command: Command::Cache,
        flags: 0,
    };
    rig.executor.host_io(CONN, 7, request, None);
    let errnos: Vec<i32> = rig.executor.answers.iter().map(|done| done.errno).collect();
    assert_eq!(errnos, [0]);
}

#[test]
fn merged_writes_to_a_server_that_is_away_hold_up_no_flush() {
    let mut rig = Rig::new();
    rig.executor.set_lease(boottime_ns() + 3_600_000_000_000);
    rig.map_away();
    for number in 0..POOL_THREADS as u64 {
        rig.request(Command::Write, 3 * SEGMENT + number * UNIT, 512);
    }
    rig.request(Command::Flush, 0, 0);
    assert_eq!(rig.first_answer(), Command::Flush);
}
