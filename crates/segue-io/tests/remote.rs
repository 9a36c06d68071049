//! A container's server that has no FUA: its flushes, and what they stand for.

mod scripted;

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use scripted::{Answers, BLOCK, PATIENCE, Reply, export, listen, open, place, submit};
use segue_io::container::nbd::{How, Op};
use segue_nbd::server::{Command, Request};

/// One start of a server that keeps what it has not flushed in its memory only.
#[derive(Default)]
struct Volatile {
    written: Mutex<Vec<Request>>,
    flushes: Mutex<u32>,
}

/// The server's machine loses power, and is back before the client hears of it: an old connection
/// is silent, a new one finds a server that has forgotten what it had not flushed.
#[test]
fn a_flush_by_a_server_that_has_forgotten_the_write_does_not_count() {
    let (_folder, path) = place();
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
    listen(&path, move |number| {
        let answers = if number == 0 { &first } else { &later };
        (Ok(export()), answers.clone())
    });
    let port = open(&path, "&timeout-ms=700");
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
    let (_folder, path) = place();
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
    listen(&path, move |_| (Ok(export()), answers.clone()));
    let port = open(&path, "");
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
