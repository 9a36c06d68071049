//! A container's server that goes away, comes back, or lets nobody in.

mod scripted;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use scripted::{
    Answers, BLOCK, PATIENCE, Reply, address, always, durable_export, export, listen, open, place,
    serve, serve_one, serve_or_refuse, step, submit, submit_bytes,
};
use segue_io::container::nbd::{Address, How, Op, Port};
use segue_nbd::Errno;
use segue_nbd::consts as c;
use segue_nbd::server::{Event, Refusal, RefusalKind, ServerConn};

/// What must not wait for a server to be back.
const SOON: Duration = Duration::from_secs(5);

/// A server has no room for the connection that takes the place of a lost one, as `segue serve` says
/// when it serves as many as it may: that is no revocation. It has room again a moment later.
#[test]
fn a_server_that_refuses_a_connection_for_now_is_tried_again() {
    let (_folder, path) = place();
    listen(&path, |number| {
        let full = Refusal {
            kind: RefusalKind::Policy,
            message: "224 connections are served already, as many as may be".into(),
        };
        match number {
            0 => (Ok(export()), always(Reply::HangsUp)),
            1 => (Err(full), always(Reply::Nothing)),
            _ => (Ok(export()), always(Reply::Done)),
        }
    });
    let port = Port::open(address(&path, ""), 7).unwrap();
    for _ in 0..2 {
        let read = submit(&port, Op::Read, 0);
        assert_eq!(read.recv_timeout(PATIENCE), Ok(How::Done(0)));
    }
}

/// A server that is going away has said so, and still answers what it has: what comes then is not
/// for it, and no fault of whoever asked.
#[test]
fn what_comes_while_a_server_goes_away_goes_another_way() {
    let (_folder, path) = place();
    listen(&path, |number| {
        let answers: Answers = Arc::new(move |request| match (number, request.offset) {
            (0, 0) => Reply::GoesAway,
            _ => Reply::Done,
        });
        (Ok(durable_export()), answers)
    });
    let port = open(&path, "&timeout-ms=1000");
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
    let (_folder, path) = place();
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let mut first = listener.accept().unwrap().0;
        let mut conn = ServerConn::new();
        let mut received = Vec::new();
        let mut requests = Vec::new();
        while requests.len() < 2 {
            let event = step(&mut first, &mut conn, &mut received, &durable_export());
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
        serve_or_refuse(second, Ok(durable_export()), &always(Reply::Done))
    });
    let port = open(&path, "");
    let write = submit(&port, Op::Write, 0);
    let refused = submit(&port, Op::Read, 0);
    assert_eq!(write.recv_timeout(SOON), Ok(How::Done(0)));
    assert_eq!(refused.recv_timeout(PATIENCE), Ok(How::Done(0)));
}

/// It is there, and gets nothing done: another attempt may find one that does.
#[test]
fn a_server_that_says_its_greeting_for_ever_counts_as_away() {
    let (_folder, path) = place();
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let stream = stream.unwrap();
            std::thread::spawn(move || match number {
                0 => serve(stream, &always(Reply::HangsUp)),
                1 => drip(stream),
                _ => serve(stream, &always(Reply::Done)),
            });
        }
    });
    let port = open(&path, "");
    let read = submit(&port, Op::Read, 0);
    assert_eq!(read.recv_timeout(PATIENCE), Ok(How::Done(0)));
}

/// A greeting, and a refusal of the first option with a long sentence, byte by byte, until its client
/// has had enough.
fn drip(mut stream: UnixStream) -> Option<()> {
    let mut said = [c::INIT_MAGIC.to_be_bytes(), c::OPTION_MAGIC.to_be_bytes()].concat();
    said.extend(c::FLAG_FIXED_NEWSTYLE.to_be_bytes());
    said.extend(c::OPTION_REPLY_MAGIC.to_be_bytes());
    for word in [c::OPT_STRUCTURED_REPLY, c::REP_ERR_UNSUP, 65536] {
        said.extend(word.to_be_bytes());
    }
    said.resize(said.len() + 65536, b'a');
    let pace = Duration::from_millis(20);
    stream.set_read_timeout(Some(pace)).ok()?;
    for byte in said {
        stream.write_all(&[byte]).ok()?;
        match stream.read(&mut [0; 4096]) {
            Ok(0) => return None,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return None,
            _ => {}
        }
    }
    Some(())
}

/// A stopped server: the kernel holds as many connections for it as it may, and then lets callers
/// wait. The thread that also has to fail what waits too long must not be one of them.
#[test]
fn a_server_that_takes_no_connection_in_holds_up_nothing_else() {
    let (_folder, path) = place();
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
    let ended = read.recv_timeout(SOON);
    assert_eq!(ended, Ok(How::Done(libc::EIO)));
}

/// It may be the request that ends it: asked again at once, it would be ended again at once.
#[test]
fn a_server_that_every_request_ends_is_not_tried_without_pause() {
    let (_folder, path) = place();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    listen(&path, move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        (Ok(export()), always(Reply::HangsUp))
    });
    let port = open(&path, "&on-loss=fail&loss-ms=1000");
    let read = submit(&port, Op::Read, 0);
    assert_eq!(read.recv_timeout(PATIENCE), Ok(How::Done(libc::EIO)));
    let count = count.load(Ordering::Relaxed);
    assert!(count < 20, "{count} connections in a second");
}

/// An operator who has waited long enough says so: what waits already is meant as well.
#[test]
fn what_waits_for_a_server_is_failed_when_the_operator_sets_a_limit() {
    let (_folder, path) = place();
    serve_one(&path, always(Reply::HangsUp));
    let mut address = address(&path, "");
    let port = Port::open(address.clone(), 0).unwrap();
    let read = submit(&port, Op::Read, 0);
    while port.away_ns().is_none() {
        std::thread::yield_now();
    }
    assert!(read.try_recv().is_err(), "it waits");
    address.policy.fail_after_ns = Some(100_000_000);
    port.set_policy(address.policy);
    let ended = read.recv_timeout(SOON);
    assert_eq!(ended, Ok(How::Done(libc::EIO)));
}

/// Its host has heard of an error, so it is not sent again: it need not wait for a connection.
#[test]
fn a_write_that_was_given_up_is_over_when_it_cannot_linger_any_more() {
    let (_folder, path) = place();
    serve_one(&path, always(Reply::HangsUp));
    let port = open(&path, "&on-loss=fail&loss-ms=100&linger-ms=600");
    let write = submit(&port, Op::Write, 0);
    let ended = write.recv_timeout(SOON);
    assert_eq!(ended, Ok(How::Done(libc::EIO)));
}

/// A blocking command came while the server was silent: what it waits for is not to wait for the
/// server to be back, now that it is known to be away.
#[test]
fn what_was_to_be_given_back_is_given_back_when_its_connection_is_lost() {
    let (_folder, path) = place();
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
    let port = open(&path, "");
    let read = submit(&port, Op::Read, 0);
    seen.recv_timeout(PATIENCE).unwrap();
    port.give_back();
    let after_it = submit_bytes(&port, Op::Read, 0, 0);
    assert_eq!(after_it.recv_timeout(PATIENCE), Ok(How::Done(0)));
    assert!(read.try_recv().is_err(), "it is under way");
    sender.send(()).unwrap();
    let ended = read.recv_timeout(SOON);
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
