//! A container's server that does as a test says, and the port to it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use segue_io::buffer::Buffer;
use segue_io::container::nbd::{Address, How, Job, Op, Port, Waiter};
use segue_nbd::server::{Command, Event, Refusal, Request, ServerConn, Wants};
use segue_nbd::{BlockSizes, Errno, ExportInfo, Features, reply};

const SIZE_BYTES: u64 = 1 << 20;
pub const BLOCK: usize = 4096;
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where a server is to listen; the folder goes with what is given first.
pub fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    (folder, path)
}

/// Of a server there; `policy`: parameters, each with its `&`.
pub fn address(path: &Path, policy: &str) -> Address {
    Address::parse(&format!("nbd+unix:///?socket={}{policy}", path.display())).unwrap()
}

/// A port for nobody.
pub fn open(path: &Path, policy: &str) -> Port {
    Port::open(address(path, policy), 0).unwrap()
}

/// What lacks FUA.
pub fn export() -> ExportInfo {
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

/// The same with FUA.
pub fn durable_export() -> ExportInfo {
    let mut export = export();
    export.features.fua = true;
    export
}

/// What a connection does with a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    Done,
    Failed,
    Nothing,
    /// Closes the connection.
    HangsUp,
    /// Says by a chunk that it is going away, and does not end the reply.
    GoesAway,
}

pub type Answers = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// Serves one connection until its client goes.
pub fn serve(stream: UnixStream, answers: &Answers) -> Option<()> {
    serve_or_refuse(stream, Ok(export()), answers)
}

pub fn serve_or_refuse(
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

/// What one connection is granted, and how it answers.
pub type Script = (Result<ExportInfo, Refusal>, Answers);

/// Listens, and serves each connection by its script; they are counted from 0.
pub fn listen(path: &Path, script: impl Fn(usize) -> Script + Send + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let (granted, answers) = script(number);
            std::thread::spawn(move || serve_or_refuse(stream.unwrap(), granted, &answers));
        }
    });
}

/// Answers each request like that.
pub fn always(reply: Reply) -> Answers {
    Arc::new(move |_| reply)
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

pub fn submit(port: &Port, op: Op, offset: u64) -> mpsc::Receiver<How> {
    submit_bytes(port, op, offset, BLOCK)
}

pub fn submit_bytes(port: &Port, op: Op, offset: u64, bytes: usize) -> mpsc::Receiver<How> {
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

/// A server whose first connection does that, and which is gone for good with it.
pub fn serve_one(path: &Path, answers: Answers) {
    let listener = UnixListener::bind(path).unwrap();
    let path = path.to_owned();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        drop(listener);
        std::fs::remove_file(path).unwrap();
        serve(stream, &answers)
    });
}

pub fn step(
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
