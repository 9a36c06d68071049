//! When who was shut out is told so.

use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::time::Duration;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const HOLDER: u64 = 7;

fn join(sessions: &Sessions, number: u64) {
    let (stream, _) = UnixStream::pair().unwrap();
    sessions.join(number, Arc::new(Stream::Unix(stream)));
}

fn hold() -> Hold {
    Hold {
        holder: HOLDER,
        ended: Vec::new(),
    }
}

/// A holder that is told so takes what it had sent for ended.
#[test]
fn a_holder_is_told_that_it_was_revoked_when_nothing_of_it_is_under_way() {
    let folder = tempfile::tempdir().unwrap();
    let sessions = Arc::new(Sessions::open(&folder.path().join("revoked")).unwrap());
    join(&sessions, 1);
    join(&sessions, 2);
    sessions.hold(1, &hold()).unwrap();
    assert!(sessions.begin(1));
    let (revoking, told) = (sessions.clone(), sessions.clone());
    let revoking = std::thread::spawn(move || {
        let forever = true;
        let holder = HOLDER;
        revoking.revoke(Revocation { holder, forever }).unwrap();
    });
    while sessions.begin(1) {
        sessions.end(1);
        std::thread::yield_now();
    }
    let (answer, answered) = mpsc::channel();
    std::thread::spawn(move || answer.send(told.hold(2, &hold()).is_err()));
    let early = answered.recv_timeout(Duration::from_millis(200));
    assert!(early.is_err(), "a request of it is under way");
    sessions.end(1);
    assert_eq!(answered.recv_timeout(PATIENCE), Ok(true));
    revoking.join().unwrap();
}
