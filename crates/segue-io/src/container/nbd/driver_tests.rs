//! The thread's turns one by one, against `segue serve`.

use std::path::Path;
use std::sync::atomic::AtomicUsize;

use super::super::{Job, Op, Waiter};
use super::*;
use crate::container::Cache;
use crate::serve::{Limits as ServeLimits, Server};

const EXPORT_BYTES: u64 = 1 << 20;
/// Writes, more than one connection takes at once.
const MANY: usize = 100;

fn serve(folder: &Path) -> Server {
    let file = folder.join("export");
    std::fs::write(&file, vec![0; EXPORT_BYTES as usize]).unwrap();
    let uri = format!("file://{}", file.display());
    let state = folder.join("revoked");
    let limits = ServeLimits::default();
    let mut server = Server::open(&uri, Cache::Page, "", &state, limits).unwrap();
    server.listen_unix(&folder.join("socket")).unwrap();
    server
}

/// Turns with something to wait for until that is so.
fn turn_until(driver: &mut Driver, reached: impl Fn(&Driver) -> bool) {
    driver.pump();
    while !reached(driver) {
        assert_ne!(driver.timeout_ms(), -1, "it waits without end");
        driver.turn();
    }
}

/// Counts the jobs that ended well.
#[derive(Debug)]
struct Counting(Arc<AtomicUsize>);

impl Waiter for Counting {
    fn may_begin(&self) -> bool {
        true
    }

    fn gave_up(&mut self) {}

    fn ended(self: Box<Self>, how: How) {
        assert_eq!(how, How::Done(0));
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// So many writes, handed in; their count as they end.
fn write(driver: &mut Driver, count: usize) -> Arc<AtomicUsize> {
    let ended = Arc::new(AtomicUsize::new(0));
    let limits = lock(&driver.shared.limits).unwrap();
    for _ in 0..count {
        let job = Job {
            op: Op::Write,
            offset: 0,
            length: 512,
            buffer: Some((Arc::new(Buffer::new(512)), 0)),
            waiter: Box::new(Counting(ended.clone())),
        };
        driver.jobs.add(job, &limits);
    }
    ended
}

/// A server, and a driver with one connection to it.
fn connected(folder: &Path) -> (Server, Driver) {
    let server = serve(folder);
    let uri = format!("nbd+unix:///?socket={}", folder.join("socket").display());
    let address = Address::parse(&uri).unwrap();
    let (opened, first) = mpsc::channel();
    let shared = Shared::new().unwrap();
    let mut driver = Driver::new(shared, address, 7, Start::Asked(opened)).unwrap();
    turn_until(&mut driver, Driver::has_ready);
    first.recv().unwrap().unwrap();
    (server, driver)
}

fn stage(driver: &Driver, index: usize) -> Option<Stage> {
    driver.links[index].as_ref().map(|link| link.stage)
}

#[test]
fn a_port_that_has_nothing_to_do_waits_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, mut driver) = connected(folder.path());
    assert_eq!(driver.timeout_ms(), -1, "connected");

    driver.lose(0, &io::ErrorKind::ConnectionReset.into());
    assert!(!driver.has_ready());
    turn_until(&mut driver, Driver::has_ready);
    assert_eq!(driver.timeout_ms(), -1, "connected again");
}

#[test]
fn a_port_whose_server_is_away_waits_for_the_next_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let (server, mut driver) = connected(folder.path());
    drop(server);
    driver.lose(0, &io::ErrorKind::ConnectionReset.into());
    driver.pump();
    for attempt in 0..4 {
        assert!(driver.timeout_ms() > 0, "attempt {attempt}");
        driver.turn();
    }
}

#[test]
fn a_write_of_a_lost_connection_is_sent_again_though_another_has_nothing_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, mut driver) = connected(folder.path());
    let ended = write(&mut driver, MANY);
    turn_until(&mut driver, |driver| {
        ended.load(Ordering::Relaxed) == MANY && stage(driver, 1) == Some(Stage::Ready)
    });

    let ended = write(&mut driver, 1);
    driver.pump();
    assert_eq!(driver.links[0].as_ref().map(Link::in_flight), Some(1));
    driver.lose(0, &io::ErrorKind::ConnectionReset.into());
    turn_until(&mut driver, |_| ended.load(Ordering::Relaxed) == 1);
    assert_eq!(driver.timeout_ms(), -1, "nothing is left to wait for");
}

#[test]
fn a_write_of_a_connection_lost_while_another_joins_is_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, mut driver) = connected(folder.path());
    let ended = write(&mut driver, MANY);
    driver.pump();
    assert_eq!(stage(&driver, 1), Some(Stage::Joining));
    driver.lose(0, &io::ErrorKind::ConnectionReset.into());
    turn_until(&mut driver, |_| ended.load(Ordering::Relaxed) == MANY);
}
