//! A container's server that lacks something, or behaves as none of the real ones does on demand.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::time::Duration;

use segue_io::buffer::Buffer;
use segue_io::container::nbd::{Address, How, Job, Op, Port, Waiter};
use segue_nbd::consts as c;
use segue_nbd::server::{Command, Event, Refusal, RefusalKind, Request, ServerConn, Wants};
use segue_nbd::{BlockSizes, Errno, ExportInfo, Features, reply};

const SIZE_BYTES: u64 = 1 << 20;
const BLOCK: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(20);

/// One start of a server that keeps what it has not flushed in its memory only.
#[derive(Default)]
struct Volatile {
    written: Mutex<Vec<Request>>,
    flushes: Mutex<u32>,
}

fn export() -> ExportInfo {
    ExportInfo {
        name: String::new(),
        description: String::new(),
        size_bytes: SIZE_BYTES,
        read_only: false,
        can_multi_conn: true,
        block_sizes: BlockSizes::DEFAULT,
        features: Features {
            flush: true,
            write_zeroes: true,
            ..Features::default()
        },
    }
}

/// What a connection does with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reply {
    Done,
    Failed,
    Nothing,
    /// Closes the connection.
    HangsUp,
    /// Says by a chunk that it is going away, and does not end the reply.
    GoesAway,
}

type Answers = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// Serves one connection until its client goes.
fn serve(stream: UnixStream, answers: &Answers) -> Option<()> {
    serve_or_refuse(stream, Ok(export()), answers)
}

fn serve_or_refuse(
    mut stream: UnixStream,
    export: Result<ExportInfo, Refusal>,
    answers: &Answers,
) -> Option<()> {
    let mut conn = ServerConn::new();
    let mut received = Vec::new();
    loop {
        let mut output = Vec::new();
        if conn.take_output(&mut output) {
            stream.write_all(&output).ok()?;
        }
        let step = conn
            .feed(&received)
            .expect("a client that keeps the protocol");
        received.drain(..step.consumed);
        match step.event {
            Some(Event::WantExport { .. }) => conn.export_answer(export.clone()).unwrap(),
            Some(Event::Request(request)) => {
                while let Wants::Payload(left) = conn.wants() {
                    if received.is_empty() {
                        receive(&mut stream, &mut received)?;
                    }
                    let count = received.len().min(left as usize);
                    received.drain(..count);
                    conn.payload_received(count as u32);
                }
                let mut head = [0; 64];
                let (length, data) = match (answers(&request), request.command) {
                    (Reply::Nothing, _) => continue,
                    (Reply::HangsUp, _) => return None,
                    (Reply::GoesAway, _) => {
                        let (cookie, errno) = (request.cookie, Errno::Eshutdown);
                        (reply::error(&mut head, cookie, false, errno, ""), 0)
                    }
                    (Reply::Failed, _) => {
                        let length = conn.error_reply(&request, Errno::Eio, "", &mut head);
                        (length, 0)
                    }
                    (_, Command::Read) => (
                        conn.read_reply(&request, &mut head),
                        request.length as usize,
                    ),
                    _ => (conn.done_reply(&request, &mut head), 0),
                };
                stream.write_all(&head[..length]).ok()?;
                stream.write_all(&vec![0; data]).ok()?;
            }
            Some(Event::Finished) => return None,
            Some(_) => {}
            None => receive(&mut stream, &mut received)?,
        }
    }
}

fn receive(stream: &mut UnixStream, into: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 65536];
    let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
    into.extend_from_slice(&piece[..count]);
    Some(())
}

/// Listens, and serves the first connection by `first`, all others by `later`.
fn listen(path: &Path, first: Answers, later: Answers) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let answers = if number == 0 { &first } else { &later }.clone();
            std::thread::spawn(move || serve(stream.unwrap(), &answers));
        }
    });
}

#[derive(Debug)]
struct Teller(mpsc::Sender<How>);

impl Waiter for Teller {
    fn may_begin(&self) -> bool {
        true
    }

    fn gave_up(&mut self) {}

    fn ended(self: Box<Self>, how: How) {
        // A test that is over does not listen.
        let _ = self.0.send(how);
    }
}

fn submit(port: &Port, op: Op, offset: u64) -> mpsc::Receiver<How> {
    submit_bytes(port, op, offset, BLOCK)
}

fn submit_bytes(port: &Port, op: Op, offset: u64, bytes: usize) -> mpsc::Receiver<How> {
    let (sender, receiver) = mpsc::channel();
    port.submit(Job {
        op,
        offset,
        length: bytes as u64,
        buffer: Some((Arc::new(Buffer::new(bytes)), 0)),
        waiter: Box::new(Teller(sender)),
    });
    receiver
}

/// The server's machine loses power, and is back before the client hears of it: an old connection
/// is silent, a new one finds a server that has forgotten what it had not flushed.
#[test]
fn a_flush_by_a_server_that_has_forgotten_the_write_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let restarted = Arc::new(Volatile::default());
    let came_back = Arc::new((Mutex::new(false), Condvar::new()));
    let first: Answers = {
        let came_back = came_back.clone();
        Arc::new(move |request| {
            if request.command != Command::Write {
                return Reply::Nothing;
            }
            // Answered before the power was lost; it is read when the new connection is there,
            // if there is to be one.
            let (is_back, wake) = &*came_back;
            let waited = wake.wait_timeout_while(
                is_back.lock().unwrap(),
                Duration::from_millis(500),
                |is_back| !*is_back,
            );
            drop(waited);
            Reply::Done
        })
    };
    let later: Answers = {
        let (restarted, came_back) = (restarted.clone(), came_back.clone());
        Arc::new(move |request| {
            *came_back.0.lock().unwrap() = true;
            came_back.1.notify_all();
            match request.command {
                Command::Write => restarted.written.lock().unwrap().push(*request),
                Command::Flush => *restarted.flushes.lock().unwrap() += 1,
                _ => {}
            }
            Reply::Done
        })
    };
    listen(&path, first, later);
    let uri = format!("nbd+unix:///?socket={}&timeout-ms=700", path.display());
    let port = Port::open(Address::parse(&uri).unwrap(), 0).unwrap();
    let mut reads: Vec<_> = (0..10)
        .map(|block| submit(&port, Op::Read, block * BLOCK as u64))
        .collect();
    let write = submit(&port, Op::Write, 0);
    // More than one connection takes: another would be made.
    reads.extend((0..80).map(|block| submit(&port, Op::Read, block * BLOCK as u64)));
    assert_eq!(write.recv_timeout(PATIENCE), Ok(How::Done(0)));
    assert_eq!(
        restarted.written.lock().unwrap().len(),
        1,
        "it has the write"
    );
    assert!(*restarted.flushes.lock().unwrap() > 0, "and flushed it");
    for read in reads {
        assert_eq!(read.recv_timeout(PATIENCE), Ok(How::Done(0)));
    }
}

/// It is that write's error, and no other's: nothing else was waiting for it.
#[test]
fn a_flush_that_fails_after_a_write_fails_the_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let flushes = Arc::new(Mutex::new(0));
    let counted = flushes.clone();
    let answers: Answers = Arc::new(move |request| {
        if request.command != Command::Flush {
            return Reply::Done;
        }
        let mut count = counted.lock().unwrap();
        *count += 1;
        match *count {
            1 => Reply::Failed,
            _ => Reply::Done,
        }
    });
    listen(&path, answers.clone(), answers);
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let port = Port::open(Address::parse(&uri).unwrap(), 0).unwrap();
    let zeroes = Op::Zero {
        no_hole: false,
        fast: false,
    };
    for (op, expected) in [
        (Op::Write, libc::EIO),
        (Op::Write, 0),
        (Op::Read, 0),
        (zeroes, 0),
    ] {
        let ended = submit(&port, op, 0).recv_timeout(PATIENCE);
        assert_eq!(ended, Ok(How::Done(expected)), "{op:?}");
    }
    assert_eq!(*flushes.lock().unwrap(), 3);
}

/// A server has no room for the connection that takes the place of a lost one, as `segue serve` says
/// when it serves as many as it may: that is no revocation. It has room again a moment later.
#[test]
fn a_server_that_refuses_a_connection_for_now_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let granted = match number {
                1 => Err(Refusal {
                    kind: RefusalKind::Policy,
                    message: "224 connections are served already, as many as may be".into(),
                }),
                _ => Ok(export()),
            };
            let answers: Answers = Arc::new(move |_| match number {
                0 => Reply::HangsUp,
                _ => Reply::Done,
            });
            std::thread::spawn(move || serve_or_refuse(stream.unwrap(), granted, &answers));
        }
    });
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let port = Port::open(Address::parse(&uri).unwrap(), 7).unwrap();
    for _ in 0..2 {
        let read = submit(&port, Op::Read, 0);
        assert_eq!(read.recv_timeout(PATIENCE), Ok(How::Done(0)));
    }
}

/// A server whose first connection does that, and which is gone for good with it.
fn serve_one(path: &Path, answers: Answers) {
    let listener = UnixListener::bind(path).unwrap();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        drop(listener);
        std::fs::remove_file(path).unwrap();
        serve(stream, &answers)
    });
}

/// A server that is going away has said so, and still answers what it has: what comes then is not
/// for it, and no fault of whoever asked.
#[test]
fn what_comes_while_a_server_goes_away_goes_another_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let mut offered = export();
    offered.features.fua = true;
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let answers: Answers = Arc::new(move |request| match (number, request.offset) {
                (0, 0) => Reply::GoesAway,
                _ => Reply::Done,
            });
            let granted = Ok(offered.clone());
            std::thread::spawn(move || serve_or_refuse(stream.unwrap(), granted, &answers));
        }
    });
    let uri = format!("nbd+unix:///?socket={}&timeout-ms=1000", path.display());
    let port = Port::open(Address::parse(&uri).unwrap(), 0).unwrap();
    let refused = submit(&port, Op::Read, 0);
    let answered = submit(&port, Op::Read, BLOCK as u64);
    assert_eq!(answered.recv_timeout(PATIENCE), Ok(How::Done(0)));
    let later = submit(&port, Op::Read, BLOCK as u64);
    assert_eq!(later.recv_timeout(PATIENCE), Ok(How::Done(0)));
    assert_eq!(refused.recv_timeout(PATIENCE), Ok(How::Done(0)));
}

/// Where nothing proves that a lost connection's write has ended, one that the server still answers
/// is not to be lost.
#[test]
fn a_server_that_goes_away_still_answers_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let mut offered = export();
    offered.features.fua = true;
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut first = listener.accept().unwrap().0;
        let mut conn = ServerConn::new();
        let mut received = Vec::new();
        let mut requests = Vec::new();
        while requests.len() < 2 {
            let event = step(&mut first, &mut conn, &mut received, &offered);
            if let Some(Event::Request(request)) = event {
                conn.discard_payload();
                requests.push(request);
            }
        }
        let mut head = [0; 64];
        let length = conn.error_reply(&requests[1], Errno::Eshutdown, "", &mut head);
        first.write_all(&head[..length]).unwrap();
        let second = listener.accept().unwrap().0;
        let length = conn.done_reply(&requests[0], &mut head);
        let _ = first.write_all(&head[..length]);
        let answers: Answers = Arc::new(|_| Reply::Done);
        serve_or_refuse(second, Ok(offered), &answers)
    });
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let port = Port::open(Address::parse(&uri).unwrap(), 0).unwrap();
    let write = submit(&port, Op::Write, 0);
    let refused = submit(&port, Op::Read, 0);
    let ended = write.recv_timeout(Duration::from_secs(5));
    assert_eq!(ended, Ok(How::Done(0)));
    assert_eq!(refused.recv_timeout(PATIENCE), Ok(How::Done(0)));
}

/// It is there, and gets nothing done: another attempt may find one that does.
#[test]
fn a_server_that_says_its_greeting_for_ever_counts_as_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let stream = stream.unwrap();
            let answers: Answers = Arc::new(move |_| match number {
                0 => Reply::HangsUp,
                _ => Reply::Done,
            });
            std::thread::spawn(move || match number {
                1 => drip(stream),
                _ => serve(stream, &answers),
            });
        }
    });
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let port = Port::open(Address::parse(&uri).unwrap(), 0).unwrap();
    let read = submit(&port, Op::Read, 0);
    assert_eq!(read.recv_timeout(PATIENCE), Ok(How::Done(0)));
}

/// A greeting, and a refusal of the first option with a long sentence, byte by byte.
fn drip(mut stream: UnixStream) -> Option<()> {
    let mut said = [c::INIT_MAGIC.to_be_bytes(), c::OPTION_MAGIC.to_be_bytes()].concat();
    said.extend(c::FLAG_FIXED_NEWSTYLE.to_be_bytes());
    said.extend(c::OPTION_REPLY_MAGIC.to_be_bytes());
    for word in [c::OPT_STRUCTURED_REPLY, c::REP_ERR_UNSUP, 65536] {
        said.extend(word.to_be_bytes());
    }
    said.resize(said.len() + 65536, b'a');
    for byte in said {
        stream.write_all(&[byte]).ok()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(())
}

/// A stopped server: the kernel holds as many connections for it as it may, and then lets callers
/// wait. The thread that also has to fail what waits too long must not be one of them.
#[test]
fn a_server_that_takes_no_connection_in_holds_up_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let fd = listener.as_raw_fd();
    let first = std::thread::spawn(move || (listener.accept().unwrap().0, listener));
    let uri = format!(
        "nbd+unix:///?socket={}&on-loss=fail&loss-ms=300",
        path.display()
    );
    let (hang_up, hangs_up) = mpsc::channel::<()>();
    let answering = std::thread::spawn(move || {
        let (stream, listener) = first.join().unwrap();
        let hangs_up = Mutex::new(hangs_up);
        let answers: Answers = Arc::new(move |_| {
            let _ = hangs_up.lock().unwrap().recv();
            Reply::HangsUp
        });
        serve(stream, &answers);
        listener
    });
    let port = Port::open(Address::parse(&uri).unwrap(), 0).unwrap();
    let read = submit(&port, Op::Read, 0);
    // SAFETY: no memory is passed.
    assert_eq!(unsafe { libc::listen(fd, 0) }, 0, "it may have one waiting");
    let _waiting = UnixStream::connect(&path).unwrap();
    hang_up.send(()).unwrap();
    // Dropped before the port, which else waits for it if this fails.
    let _listener = answering.join().unwrap();
    let ended = read.recv_timeout(Duration::from_secs(5));
    assert_eq!(ended, Ok(How::Done(libc::EIO)));
}

/// It may be the request that ends it: asked again at once, it would be ended again at once.
#[test]
fn a_server_that_every_request_ends_is_not_tried_without_pause() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let count = Arc::new(Mutex::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            *counted.lock().unwrap() += 1;
            let answers: Answers = Arc::new(|_| Reply::HangsUp);
            std::thread::spawn(move || serve(stream.unwrap(), &answers));
        }
    });
    let uri = format!(
        "nbd+unix:///?socket={}&on-loss=fail&loss-ms=1000",
        path.display()
    );
    let port = Port::open(Address::parse(&uri).unwrap(), 0).unwrap();
    let read = submit(&port, Op::Read, 0);
    assert_eq!(read.recv_timeout(PATIENCE), Ok(How::Done(libc::EIO)));
    let count = *count.lock().unwrap();
    assert!(count < 20, "{count} connections in a second");
}

/// An operator who has waited long enough says so: what waits already is meant as well.
#[test]
fn what_waits_for_a_server_is_failed_when_the_operator_sets_a_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    serve_one(&path, Arc::new(|_| Reply::HangsUp));
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let mut address = Address::parse(&uri).unwrap();
    let port = Port::open(address.clone(), 0).unwrap();
    let read = submit(&port, Op::Read, 0);
    while port.away_ns().is_none() {
        std::thread::yield_now();
    }
    assert!(read.try_recv().is_err(), "it waits");
    address.policy.fail_after_ns = Some(100_000_000);
    port.set_policy(address.policy);
    let ended = read.recv_timeout(Duration::from_secs(5));
    assert_eq!(ended, Ok(How::Done(libc::EIO)));
}

/// Its host has heard of an error, so it is not sent again: it need not wait for a connection.
#[test]
fn a_write_that_was_given_up_is_over_when_it_cannot_linger_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    serve_one(&path, Arc::new(|_| Reply::HangsUp));
    let uri = format!(
        "nbd+unix:///?socket={}&on-loss=fail&loss-ms=100&linger-ms=600",
        path.display()
    );
    let port = Port::open(Address::parse(&uri).unwrap(), 0).unwrap();
    let write = submit(&port, Op::Write, 0);
    let ended = write.recv_timeout(Duration::from_secs(5));
    assert_eq!(ended, Ok(How::Done(libc::EIO)));
}

/// A blocking command came while the server was silent: what it waits for is not to wait for the
/// server to be back, now that it is known to be away.
#[test]
fn what_was_to_be_given_back_is_given_back_when_its_connection_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (asked, seen) = mpsc::channel();
    let (sender, hangs_up) = mpsc::channel::<()>();
    let (asked, hangs_up) = (Mutex::new(asked), Mutex::new(hangs_up));
    serve_one(
        &path,
        Arc::new(move |_| {
            let _ = asked.lock().unwrap().send(());
            let _ = hangs_up.lock().unwrap().recv();
            Reply::HangsUp
        }),
    );
    let uri = format!("nbd+unix:///?socket={}", path.display());
    let port = Port::open(Address::parse(&uri).unwrap(), 0).unwrap();
    let read = submit(&port, Op::Read, 0);
    seen.recv_timeout(PATIENCE).unwrap();
    port.give_back();
    let after_it = submit_bytes(&port, Op::Read, 0, 0);
    assert_eq!(after_it.recv_timeout(PATIENCE), Ok(How::Done(0)));
    assert!(read.try_recv().is_err(), "it is under way");
    sender.send(()).unwrap();
    let ended = read.recv_timeout(Duration::from_secs(5));
    assert_eq!(ended, Ok(How::NotBegun));
}

/// What the kernel had queued for a server that took nothing must not reach it after the connection
/// is lost: a linger time counts from then, and what was queued may be written anew by then.
#[test]
fn what_a_lost_connection_has_not_sent_is_never_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (size, length) = (4096, size_of::<i32>() as libc::socklen_t);
    // SAFETY: `size` is of the size named, and only read.
    let done = unsafe {
        let value = std::ptr::from_ref::<i32>(&size).cast();
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            value,
            length,
        )
    };
    assert_eq!(done, 0, "it takes little at a time");
    let at = listener.local_addr().unwrap();
    let (lost, is_lost) = mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let mut conn = ServerConn::new();
        let mut received = Vec::new();
        // Until the first request, which is not taken.
        while !matches!(
            step(&mut stream, &mut conn, &mut received, &export()),
            Some(Event::Request(_))
        ) {}
        is_lost.recv().unwrap();
        let mut buffer = [0; 65536];
        let mut late = 0;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            late += count;
        }
        late
    });
    let uri = format!(
        "nbd://127.0.0.1:{}/?timeout-ms=500&connections=1",
        at.port()
    );
    let port = Port::open(Address::parse(&uri).unwrap(), 0).unwrap();
    let writes: Vec<_> = (0..64)
        .map(|_| submit_bytes(&port, Op::Write, 0, 128 << 10))
        .collect();
    while port.away_ns().is_none() {
        std::thread::yield_now();
    }
    lost.send(()).unwrap();
    let late = server.join().unwrap();
    assert!(
        late < 64 << 10,
        "{late} bytes came after the connection was lost"
    );
    drop(port);
    drop(writes);
}

fn step(
    stream: &mut (impl Read + Write),
    conn: &mut ServerConn,
    received: &mut Vec<u8>,
    export: &ExportInfo,
) -> Option<Event> {
    let mut output = Vec::new();
    if conn.take_output(&mut output) {
        stream.write_all(&output).unwrap();
    }
    let step = conn.feed(received).unwrap();
    received.drain(..step.consumed);
    match &step.event {
        Some(Event::WantExport { .. }) => conn.export_answer(Ok(export.clone())).unwrap(),
        Some(_) => {}
        None => {
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).unwrap();
            received.extend_from_slice(&piece[..count]);
        }
    }
    step.event
}
