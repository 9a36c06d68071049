//! What clients may take of `segue serve`: time for a handshake, connections, memory (promise P9).
//! Those that take no replies are in nobody's way, least of all a revocation's.

#[path = "rig/raw.rs"]
mod raw;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use raw::{option, option_reply, request};
use segue_io::client::Client;
use segue_io::container::Cache;
use segue_io::serve::{Limits, Server};

const OPT_EXPORT_NAME: u32 = 1;
const OPT_LIST: u32 = 3;
const HOLD: u32 = 0x5345_4701;
const REVOKE: u32 = 0x5345_4702;
const REP_ACK: u32 = 1;
const READ: u16 = 0;
const WRITE: u16 = 1;
const MIB: u32 = 1 << 20;
/// Far below the time after which a client that takes nothing is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server of 64 MiB.
struct Serving {
    folder: tempfile::TempDir,
    _server: Server,
}

impl Serving {
    fn new(limits: Limits) -> Serving {
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().join("storage");
        let file = std::fs::File::create(&storage).unwrap();
        file.set_len(64 << 20).unwrap();
        let uri = format!("file://{}", storage.display());
        let state = folder.path().join("revoked");
        let cache = Cache::parse("page").unwrap();
        let mut server = Server::open(&uri, cache, "", &state, limits).unwrap();
        server.listen_unix(&folder.path().join("socket")).unwrap();
        Serving {
            folder,
            _server: server,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    fn connect(&self) -> Result<Client, segue_io::client::ClientError> {
        Client::connect(self.socket().to_str().unwrap(), "")
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A client that has read the greeting and sent its flags.
    fn greeted(&self) -> UnixStream {
        self.try_greeted().unwrap()
    }

    /// The same, unless there is no place for it.
    fn try_greeted(&self) -> std::io::Result<UnixStream> {
        let mut stream = self.raw();
        stream.read_exact(&mut [0; 18])?;
        stream.write_all(&3u32.to_be_bytes())?;
        Ok(stream)
    }

    /// A client of this holder, in transmission.
    fn entered(&self, holder: u64) -> UnixStream {
        let mut stream = self.greeted();
        let data = [&holder.to_be_bytes()[..], &[0; 4]].concat();
        stream.write_all(&option(HOLD, &data)).unwrap();
        assert_eq!(option_reply(&mut stream).0, HOLD);
        assert_eq!(option_reply(&mut stream).0, REP_ACK);
        stream.write_all(&option(OPT_EXPORT_NAME, b"")).unwrap();
        stream.read_exact(&mut [0; 10]).unwrap();
        stream
    }

    /// Has a holder's sessions ended, once there is a place for who asks.
    fn revoke(&self, holder: u64) {
        let mut asked = None;
        wait_for("a place to ask from", || {
            asked = self.try_greeted().ok();
            asked.is_some()
        });
        let mut stream = asked.unwrap();
        let data = [&holder.to_be_bytes()[..], &[0; 4]].concat();
        stream.write_all(&option(REVOKE, &data)).unwrap();
        assert_eq!(option_reply(&mut stream).0, REP_ACK);
    }
}

/// More clients than the server has threads for I/O, each of which has asked for more than its
/// socket holds.
fn deaf_crowd(serving: &Serving) -> Vec<UnixStream> {
    let deaf = |_| {
        let mut stream = serving.entered(8);
        asks(&mut stream, 4);
        stream
    };
    (0..24).map(deaf).collect()
}

/// Asks for so many MiB, and takes nothing of it.
fn asks(stream: &mut UnixStream, mib: u64) {
    for cookie in 0..mib {
        stream.write_all(&request(READ, cookie, 0, MIB)).unwrap();
    }
}

/// Asks for more than a connection may hold, takes nothing of it, and then writes a byte at `marker`.
fn stuck(stream: &mut UnixStream, marker: u64) {
    asks(stream, 80);
    stream.write_all(&request(WRITE, 80, marker, 1)).unwrap();
    stream.write_all(&[7]).unwrap();
    // The first reply is on its way: the others follow, until no more can.
    let mut magic = [0; 4];
    stream.read_exact(&mut magic).unwrap();
    assert_eq!(magic, 0x6744_6698u32.to_be_bytes());
}

/// Whether a byte is ever seen there while others use the server.
fn lands(client: &mut Client, marker: u64) -> bool {
    let mut byte = [0];
    (0..500).any(|_| {
        client.read(marker, &mut byte).unwrap();
        byte[0] != 0
    })
}

fn is_closed(mut stream: &UnixStream) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

fn limits(handshake_ms: u64, connections_max: u32) -> Limits {
    Limits {
        handshake_ns: handshake_ms * 1_000_000,
        connections_max,
    }
}

#[test]
fn a_handshake_has_a_time_to_be_over_in() {
    let serving = Serving::new(limits(1000, 256));
    let mut good = serving.connect().unwrap();
    let silent = serving.raw();
    let mut cut_off = serving.greeted();
    cut_off.write_all(&option(OPT_LIST, b"")[..10]).unwrap();
    let mut deaf = serving.greeted();
    deaf.set_nonblocking(true).unwrap();
    // More answers than the socket holds; `deaf` takes none.
    let _ = deaf.write(&option(OPT_LIST, b"").repeat(1000));
    let mut talks = serving.greeted();
    talks.set_read_timeout(Some(PATIENCE / 500)).unwrap();
    let mut bytes = option(HOLD, &[0; 10_000]).into_iter();
    wait_for("the end of one that goes on talking", || {
        let byte = [bytes.next().unwrap()];
        talks.write_all(&byte).is_err() || talks.read(&mut [0]).is_ok()
    });
    deaf.set_nonblocking(false).unwrap();
    for stream in [&silent, &cut_off, &deaf] {
        assert!(is_closed(stream));
    }
    good.write(0, &[3; 4096], 0).unwrap();
}

#[test]
fn more_connections_than_there_may_be_are_closed_at_once() {
    let serving = Serving::new(limits(2000, 4));
    let mut served = serving.connect().unwrap();
    let open: Vec<UnixStream> = (0..3).map(|_| serving.greeted()).collect();
    let began = Instant::now();
    assert!(is_closed(&serving.raw()), "those in their handshake count");
    assert!(began.elapsed() < Duration::from_millis(1900), "at once");
    served.write(0, &[3; 4096], 0).unwrap();
    wait_for("a place", || serving.connect().is_ok());
    for stream in &open {
        assert!(is_closed(stream));
    }
}

#[test]
fn clients_that_hold_all_they_get_keep_no_revocation_out() {
    let serving = Serving::new(limits(10_000, 8));
    let held: Vec<UnixStream> = (0..7).map(|_| serving.entered(7)).collect();
    let refused = serving.connect().unwrap_err();
    assert_eq!(refused.errno(), libc::EPERM);
    assert!(refused.to_string().contains("7 connections are served"));
    serving.revoke(7);
    for stream in &held {
        assert!(is_closed(stream));
    }
    wait_for("a place", || serving.connect().is_ok());
}

#[test]
fn a_client_that_takes_no_replies_holds_its_own_connection_alone() {
    let serving = Serving::new(Limits::default());
    let mut other = serving.connect().unwrap();
    let _crowd = deaf_crowd(&serving);
    let mut client = serving.entered(7);
    stuck(&mut client, 5 << 20);
    let began = Instant::now();
    assert!(!lands(&mut other, 5 << 20), "no more than 64 MiB are held");
    assert!(began.elapsed() < PATIENCE, "others are served");
    // It has all that it asked for when it takes it.
    let mut rest = vec![0; 12 + (MIB as usize) + 79 * (16 + MIB as usize) + 16];
    client.read_exact(&mut rest).unwrap();
    assert!(lands(&mut other, 5 << 20));
}

#[test]
fn a_session_whose_socket_is_full_ends() {
    let serving = Serving::new(Limits::default());
    let mut other = serving.connect().unwrap();
    let crowd = deaf_crowd(&serving);
    let mut client = serving.entered(7);
    stuck(&mut client, 5 << 20);
    serving.revoke(7);
    assert!(!lands(&mut other, 5 << 20), "what it had sent");
    assert!(is_closed(&client));
    serving.revoke(8);
    for stream in &crowd {
        assert!(is_closed(stream));
    }
    other.write(0, &[3; 4096], 0).unwrap();
}
