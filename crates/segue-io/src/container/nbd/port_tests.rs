use std::path::Path;

use super::*;
use crate::container::Cache;
use crate::serve::{Limits as ServeLimits, Server};

const EXPORT_BYTES: u64 = 1 << 20;

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

fn driver(folder: &Path) -> (Driver, mpsc::Receiver<io::Result<()>>) {
    let uri = format!("nbd+unix:///?socket={}", folder.join("socket").display());
    let shared = Arc::new(Shared {
        inbox: Mutex::default(),
        wake: EventFd::new().unwrap(),
        limits: Mutex::default(),
        away_since_ns: AtomicU64::new(boottime_ns()),
    });
    let epoll = Epoll::new().unwrap();
    let (opened, first) = mpsc::channel();
    let address = Address::parse(&uri).unwrap();
    let driver = Driver::new(shared, epoll, address, 7, Start::Asked(opened));
    (driver, first)
}

fn turn_until(driver: &mut Driver, reached: impl Fn(&Driver) -> bool) {
    driver.pump();
    while !reached(driver) {
        driver.turn();
    }
}

#[test]
fn a_port_that_has_nothing_to_do_waits_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let _server = serve(folder.path());
    let (mut driver, first) = driver(folder.path());
    turn_until(&mut driver, Driver::has_ready);
    first.recv().unwrap().unwrap();
    assert_eq!(driver.timeout_ms(), -1, "connected");

    driver.lose(0, &io::ErrorKind::ConnectionReset.into());
    assert!(!driver.has_ready());
    turn_until(&mut driver, Driver::has_ready);
    assert_eq!(driver.timeout_ms(), -1, "connected again");
}

#[test]
fn a_port_whose_server_is_away_waits_for_the_next_attempt() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let (mut driver, _first) = driver(folder.path());
    turn_until(&mut driver, Driver::has_ready);
    drop(server);
    driver.lose(0, &io::ErrorKind::ConnectionReset.into());
    driver.pump();
    for attempt in 0..4 {
        assert!(driver.timeout_ms() > 0, "attempt {attempt}");
        driver.turn();
    }
}
