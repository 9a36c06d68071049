//! The controller's side: leases, fences, containers that open late or not at all, shutdown.

mod rig;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;

use rig::{DISK, IDENTITY, Policy, Rig, new_table};
use segue_io::container::{Cache, Container, Ending};
use segue_io::plane::PlaneEvent;
use segue_io::sys::boottime_ns;
use segue_map::{Control, Entry, EntryRun, Event, Operation, Outcome};

const HOUR_NS: u64 = 3_600_000_000_000;

fn fault_of(event: &PlaneEvent) -> Option<segue_map::MapFault> {
    match event {
        PlaneEvent::Engine(Event::Fault(fault)) => Some(*fault),
        _ => None,
    }
}

fn grant(request: u64, segment: u64, word: u64) -> Control {
    let runs = vec![EntryRun {
        first: segment,
        count: 1,
        word,
        step: 0,
    }];
    Control::Retry {
        request,
        disk: DISK,
        runs,
    }
}

/// The controller's own descriptor on the rig's container.
fn watcher(rig: &Rig) -> Container {
    Container::open(&rig.spec.uri, Cache::Page, IDENTITY, None, 1).unwrap()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn without_a_lease_hosts_wait_and_nothing_is_asked() {
    let rig = Rig::new("", "page", Policy::Grants);
    let mut client = rig.connect();
    let (done, is_done) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.write(0, &[1; 4096], 0).unwrap();
            done.send(()).unwrap();
        });
        eventually("the request is in", || rig.count("requests") == 1);
        // An answered command shows that the data thread has gone on since.
        let (outcome, errno) = rig.ask(Control::DeleteTable {
            command: rig.command(),
            disk: 99,
        });
        assert_eq!((outcome, errno), (Outcome::Failed, libc::ENOENT));
        assert_eq!(rig.saw(|event| fault_of(event).is_some()), 0);
        assert!(is_done.try_recv().is_err());
        rig.plane.set_lease(boottime_ns() + HOUR_NS);
        is_done.recv().unwrap();
    });
}

#[test]
fn after_the_end_of_a_lease_all_is_asked_anew_and_the_fence_stays() {
    let rig = Rig::leased("", "page", Policy::Grants);
    let mut client = rig.connect();
    client.write(0, &[1; 4096], 0).unwrap();
    rig.plane.end_lease();
    rig.wait("lease_ended", |event| {
        (*event == PlaneEvent::Engine(Event::LeaseEnded)).then_some(())
    });
    // Nothing proves that no I/O is under way while this incarnation lives.
    assert!(!watcher(&rig).fence_ended(0x1234_5678, Ending::Ask).unwrap());
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut back = [0; 4096];
            client.read(0, &mut back).unwrap();
            client.write(8192, &[2; 4096], 0).unwrap();
            client.flush().unwrap();
            back
        });
        rig.plane.set_lease(boottime_ns() + HOUR_NS);
        // The rig's controller answers a read of an invalid entry with zeroes.
        assert_eq!(reader.join().unwrap(), [0; 4096]);
    });
}

#[test]
fn a_lease_ends_by_itself() {
    let rig = Rig::new("", "page", Policy::Grants);
    rig.plane.set_lease(boottime_ns() + 50_000_000);
    rig.wait("lease_ended", |event| {
        (*event == PlaneEvent::Engine(Event::LeaseEnded)).then_some(())
    });
}

#[test]
fn commands_of_a_disk_keep_their_order_while_its_containers_open() {
    let rig = Rig::leased("", "page", Policy::Silent);
    let (table, entry, get) = (rig.command(), rig.command(), rig.command());
    rig.plane.deliver(new_table(table, DISK, &rig.spec));
    let runs = vec![EntryRun {
        first: 3,
        count: 2,
        word: Entry::at(1, 8).0,
        step: 1,
    }];
    rig.plane.deliver(Control::SetEntry {
        command: entry,
        disk: DISK,
        runs,
        blocking: true,
    });
    rig.plane.deliver(Control::GetEntry {
        command: get,
        disk: DISK,
        first: 2,
        count: 3,
    });
    for command in [table, entry] {
        assert_eq!(rig.answer(command), (Outcome::Done, 0));
    }
    let entries = rig.wait("entries", |event| match event {
        PlaneEvent::Engine(Event::Answer {
            command, entries, ..
        }) if *command == get => Some(entries.clone()),
        _ => None,
    });
    assert_eq!(entries, [0, Entry::at(1, 8).0, Entry::at(1, 9).0]);
}

#[test]
fn a_container_that_is_not_the_one_meant_is_refused() {
    let rig = Rig::leased("", "page", Policy::Silent);
    let mut wrong = rig.spec.clone();
    wrong.identity = [9; 16];
    let mut missing = rig.spec.clone();
    missing.uri += ".none";
    let mut coarse = rig.spec.clone();
    coarse.segments += 1;
    for (spec, errno) in [
        (wrong, libc::EINVAL),
        (missing, libc::ENOENT),
        (coarse, libc::EINVAL),
    ] {
        let told = rig.ask(new_table(rig.command(), DISK, &spec));
        assert_eq!(told, (Outcome::Failed, errno), "{spec:?}");
    }
    assert!(
        watcher(&rig).fence_ended(0x1234_5678, Ending::Ask).unwrap(),
        "what is refused is closed"
    );
    assert_eq!(rig.ask(rig.new_table(DISK)), (Outcome::Done, 0));
    // Two disks, one container: one descriptor, one lock.
    assert_eq!(rig.ask(rig.new_table(DISK + 1)), (Outcome::Done, 0));
    assert_eq!(
        rig.ask(rig.new_table(DISK)),
        (Outcome::Failed, libc::EEXIST)
    );
    for disk in [DISK, DISK + 1] {
        assert!(!watcher(&rig).fence_ended(0x1234_5678, Ending::Ask).unwrap());
        let told = rig.ask(Control::DeleteTable {
            command: rig.command(),
            disk,
        });
        assert_eq!(told, (Outcome::Done, 0));
    }
    eventually("unused containers are closed", || {
        watcher(&rig).fence_ended(0x1234_5678, Ending::Ask).unwrap()
    });
}

#[test]
fn a_write_is_carried_out_by_do_write() {
    let rig = Rig::leased("forgetful+", "page", Policy::Opens);
    let mut client = rig.connect();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| client.write(100, &[7; 200], 0));
        let fault = rig.wait("fault", fault_of);
        assert_eq!((fault.operation, fault.segment), (Operation::Write, 0));
        let location = Entry::at(1, 5).0;
        let told = rig.ask(Control::DoWrite {
            command: rig.command(),
            request: fault.request,
            location,
            head: 0,
            tail: 0,
        });
        assert_eq!(told, (Outcome::Done, 0));
        rig.plane.deliver(Control::CompleteToHost {
            request: fault.request,
        });
        writer.join().unwrap().unwrap();
    });
    let place = rig.folder.path().join("box");
    let lost = segue_io::container::power_loss(&place, 1).unwrap();
    assert_eq!(lost.unflushed_blocks, 0, "done means durable");
    let mut block = [1; 512];
    watcher(&rig).read(5 * rig::SEGMENT, &mut block).unwrap();
    assert!(
        block[..100]
            .iter()
            .chain(&block[300..])
            .all(|&byte| byte == 0)
    );
    assert!(block[100..300].iter().all(|&byte| byte == 7));
}

#[test]
fn a_failed_flush_reaches_the_host_after_the_controller_knows() {
    let rig = Rig::leased("faulty+", "page", Policy::Grants);
    let mut client = rig.connect();
    client.write(0, &[1; 4096], 0).unwrap();
    std::fs::write(rig.folder.path().join("box.faults"), "fail flush 5\n").unwrap();
    std::thread::scope(|scope| {
        let flusher = scope.spawn(|| client.flush());
        let (request, errno) = rig.wait("container_failed", |event| match event {
            PlaneEvent::Engine(Event::ContainerFailed { request, errno, .. }) => {
                Some((*request, *errno))
            }
            _ => None,
        });
        assert_eq!(errno, libc::EIO);
        // Durable at the controller by now: the set says so before the host hears of it.
        let mut failed = rig.spec.clone();
        failed.failed = true;
        let told = rig.ask(Control::SetContainers {
            command: rig.command(),
            disk: DISK,
            containers: vec![failed],
        });
        assert_eq!(told, (Outcome::Done, 0));
        assert!(!flusher.is_finished());
        rig.plane.deliver(Control::Failure {
            request,
            errno,
            set_error: false,
        });
        assert_eq!(flusher.join().unwrap().unwrap_err().errno(), libc::EIO);
    });
    std::fs::write(rig.folder.path().join("box.faults"), "").unwrap();
    assert_eq!(
        client.flush().unwrap_err().errno(),
        libc::EIO,
        "never a success after that"
    );
}

#[test]
fn container_errors_reach_that_request_alone() {
    let rig = Rig::leased("faulty+", "page", Policy::Grants);
    let mut client = rig.connect();
    client.write(0, &[1; 8192], 0).unwrap();
    let at = segue_io::container::DATA_AT_BYTES;
    let rules = format!(
        "fail read 5 {at} {}\nfail write 28 {at} {}\n",
        at + 4096,
        at + 4096
    );
    std::fs::write(rig.folder.path().join("box.faults"), rules).unwrap();
    let mut back = [0; 4096];
    assert_eq!(client.read(0, &mut back).unwrap_err().errno(), libc::EIO);
    assert_eq!(client.write(0, &back, 0).unwrap_err().errno(), libc::ENOSPC);
    client.read(4096, &mut back).unwrap();
    assert_eq!(back, [1; 4096]);
}

#[test]
fn a_host_that_leaves_frees_what_it_waited_for() {
    let rig = Rig::leased("", "page", Policy::Opens);
    let client = rig.connect();
    // Each host asked twice: for its metadata context and to enter.
    let is_unused = |event: &PlaneEvent| {
        matches!(
            event,
            PlaneEvent::Unused {
                disk: DISK,
                given: 4
            }
        )
    };
    let mut raw = rig.connect();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| raw.read(0, &mut [0; 512]).map_err(|error| error.errno()));
        let fault = rig.wait("fault", fault_of);
        client.disconnect().unwrap();
        assert_eq!(rig.saw(is_unused), 0, "one host is left");
        let (request, errno) = (fault.request, libc::EPERM);
        rig.plane.deliver(Control::Failure {
            request,
            errno,
            set_error: false,
        });
        assert_eq!(reader.join().unwrap(), Err(libc::EPERM));
    });
    drop(raw);
    rig.wait("unused", |event| is_unused(event).then_some(()));
}

#[test]
fn a_new_session_lists_faults_and_drops_what_was_not_applied() {
    let rig = Rig::leased("", "page", Policy::Opens);
    let mut client = rig.connect();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| client.write(0, &[1; 512], 0));
        let fault = rig.wait("fault", fault_of);
        rig.plane.list_faults();
        let pending = rig.wait("faults", |event| match event {
            PlaneEvent::Engine(Event::Faults { tables, pending }) => {
                assert_eq!(tables, &[DISK]);
                Some(pending.clone())
            }
            _ => None,
        });
        assert_eq!(pending.len(), 1);
        assert_eq!(pending[0].fault, fault);
        rig.plane
            .deliver(grant(fault.request, 0, Entry::at(1, 0).0));
        writer.join().unwrap().unwrap();
    });
}

#[test]
fn shutdown_answers_what_is_under_way_and_closes_the_rest() {
    let rig = Rig::leased("faulty+", "page", Policy::Grants);
    let mut client = rig.connect();
    client.write(0, &[1; 4096], 0).unwrap();
    std::fs::write(rig.folder.path().join("box.faults"), "delay flush 200000\n").unwrap();
    let (mut other, mut shaking) = (rig.connect(), rig.raw());
    std::thread::scope(|scope| {
        let before = rig.count("requests");
        let flusher = scope.spawn(|| client.flush());
        eventually("the flush is in", || rig.count("requests") > before);
        rig.plane.shutdown(20_000_000_000);
        flusher.join().unwrap().unwrap();
    });
    rig.wait("stopped", |event| {
        (*event == PlaneEvent::Stopped).then_some(())
    });
    assert!(other.write(0, &[1; 512], 0).is_err());
    let mut greeting = Vec::new();
    shaking.read_to_end(&mut greeting).unwrap();
    assert!(UnixStream::connect(rig.socket()).is_err());
    assert!(!rig.socket().exists());
}

#[test]
fn shutdown_has_a_deadline() {
    let rig = Rig::leased("", "page", Policy::Opens);
    let mut client = rig.connect();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| client.write(0, &[1; 512], 0));
        rig.wait("fault", fault_of);
        rig.plane.shutdown(10_000_000);
        assert_eq!(
            writer.join().unwrap().unwrap_err().errno(),
            libc::ECONNRESET
        );
    });
    rig.wait("stopped", |event| {
        (*event == PlaneEvent::Stopped).then_some(())
    });
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let rig = Rig::leased("", "page", Policy::Grants);
    let path = rig.folder.path().join("second");
    let live = UnixListener::bind(&path).unwrap();
    assert!(rig.plane.listen_unix(&path).is_err());
    drop(live);
    rig.plane.listen_unix(&path).unwrap();
    std::fs::write(rig.folder.path().join("file"), "mine").unwrap();
    assert!(
        rig.plane
            .listen_unix(&rig.folder.path().join("file"))
            .is_err()
    );
    assert_eq!(
        std::fs::read(rig.folder.path().join("file")).unwrap(),
        b"mine"
    );
    let mut stream = UnixStream::connect(&path).unwrap();
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"NBDMAGIC");
    stream.write_all(&[0; 4]).unwrap();
}
