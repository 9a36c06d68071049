//! Server of E1: one connection at a time, simple replies, 4 KiB requests, five ways to the file.
//!
//! `server MODE FILE SOCKET [direct]`, MODE one of
//! * `null`: answers without touching the file (the client's ceiling);
//! * `inline`: epoll, then preadv2/pwritev2 in the data thread;
//! * `nowait`: as inline, reads with RWF_NOWAIT first, the rest to the pool;
//! * `blocking`: as inline without epoll (a blocking recv: what one thread a connection would cost);
//! * `spin`: as inline, but looks again for up to 50 us before it sleeps, while that pays;
//! * `pool`: epoll, eight threads do the I/O and send their replies;
//! * `uring`: recv and file I/O through one ring, replies by sendmsg.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use e1::*;
use io_uring::{IoUring, cqueue, opcode, types};

const SLOTS: usize = 64;
const SLOT_BYTES: usize = 8192;
const DATA_AT: usize = 4096;
const HEAD_AT: usize = DATA_AT - REPLY_BYTES;
const RECEIVE_BYTES: usize = 256 << 10;
const RECV_TAG: u64 = u64::MAX;

/// Reply slots: the header ends where the page-aligned data begins, so that a reply is one iovec
/// and the data may be the target of O_DIRECT.
struct Slots {
    memory: *mut u8,
    free: Vec<usize>,
}

unsafe impl Send for Slots {}

impl Slots {
    fn new() -> Slots {
        let layout = std::alloc::Layout::from_size_align(SLOTS * SLOT_BYTES, 4096).unwrap();
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        Slots {
            memory,
            free: (0..SLOTS).collect(),
        }
    }

    fn data(&self, slot: usize) -> *mut u8 {
        unsafe { self.memory.add(slot * SLOT_BYTES + DATA_AT) }
    }

    fn reply(&self, slot: usize, request: &Request, error: u32) -> libc::iovec {
        let head = unsafe { self.memory.add(slot * SLOT_BYTES + HEAD_AT) };
        let bytes = unsafe { std::slice::from_raw_parts_mut(head, REPLY_BYTES) };
        bytes[0..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
        bytes[4..8].copy_from_slice(&error.to_be_bytes());
        bytes[8..16].copy_from_slice(&request.cookie.to_be_bytes());
        let data = if request.command == CMD_READ {
            IO_BYTES
        } else {
            0
        };
        libc::iovec {
            iov_base: head.cast(),
            iov_len: REPLY_BYTES + data,
        }
    }
}

fn transfer(file: RawFd, request: &Request, data: *mut u8, flags: i32) -> i32 {
    let iov = libc::iovec {
        iov_base: data.cast(),
        iov_len: IO_BYTES,
    };
    let offset = request.offset as i64;
    let done = unsafe {
        match request.command {
            CMD_READ => libc::preadv2(file, &iov, 1, offset, flags),
            _ => libc::pwritev2(file, &iov, 1, offset, flags),
        }
    };
    match done {
        4096 => 0,
        -1 => std::io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
        _ => libc::EIO,
    }
}

fn send_all(socket: RawFd, iovs: &mut [libc::iovec]) {
    let mut first = 0;
    while first < iovs.len() {
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = iovs[first..].as_mut_ptr();
        message.msg_iovlen = iovs.len() - first;
        let sent = unsafe { libc::sendmsg(socket, &message, libc::MSG_NOSIGNAL) };
        let Ok(mut sent) = usize::try_from(sent) else {
            return;
        };
        while first < iovs.len() && sent >= iovs[first].iov_len {
            sent -= iovs[first].iov_len;
            first += 1;
        }
        if first < iovs.len() {
            iovs[first].iov_base = unsafe { iovs[first].iov_base.add(sent) };
            iovs[first].iov_len -= sent;
        }
    }
}

/// Cuts whole requests off a receive buffer.
struct Receiver {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Receiver {
    fn new() -> Receiver {
        Receiver {
            buffer: vec![0; RECEIVE_BYTES],
            start: 0,
            end: 0,
        }
    }

    fn room(&mut self) -> &mut [u8] {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.buffer[self.end..]
    }

    /// Takes what is there without waiting; `None` if nothing is.
    fn receive_now(&mut self, socket: RawFd) -> Option<bool> {
        let room = self.room();
        let flags = libc::MSG_DONTWAIT;
        let got = unsafe { libc::recv(socket, room.as_mut_ptr().cast(), room.len(), flags) };
        self.end += usize::try_from(got).unwrap_or(0);
        (got >= 0).then_some(got > 0)
    }

    fn receive(&mut self, socket: RawFd) -> bool {
        let room = self.room();
        let got = unsafe { libc::recv(socket, room.as_mut_ptr().cast(), room.len(), 0) };
        self.end += usize::try_from(got).unwrap_or(0);
        got > 0
    }

    /// The next whole request and the address of its payload.
    fn next(&mut self) -> Option<(Request, *mut u8)> {
        if self.end - self.start < REQUEST_BYTES {
            return None;
        }
        let request = Request::decode(&self.buffer[self.start..]);
        let payload = if request.command == CMD_WRITE {
            request.length as usize
        } else {
            0
        };
        if self.end - self.start < REQUEST_BYTES + payload {
            return None;
        }
        let at = unsafe { self.buffer.as_mut_ptr().add(self.start + REQUEST_BYTES) };
        self.start += REQUEST_BYTES + payload;
        Some((request, at))
    }
}

struct Epoll(RawFd);

impl Epoll {
    fn new(socket: RawFd) -> Epoll {
        let epoll = unsafe { libc::epoll_create1(0) };
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 0,
        };
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, socket, &mut event) };
        Epoll(epoll)
    }

    fn wait(&self) {
        let mut events: [libc::epoll_event; 4] = unsafe { std::mem::zeroed() };
        unsafe { libc::epoll_wait(self.0, events.as_mut_ptr(), 4, -1) };
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        unsafe { libc::close(self.0) };
    }
}

/// Whether looking again pays: credit for hits, debt for misses, a rest after too many.
struct Spin {
    credit: i32,
    rest: u32,
}

impl Spin {
    fn wait(&mut self, receiver: &mut Receiver, socket: RawFd) -> Option<bool> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(50) {
            if let Some(got) = receiver.receive_now(socket) {
                self.credit = (self.credit + 1).min(8);
                return Some(got);
            }
            std::hint::spin_loop();
        }
        self.credit -= 2;
        if self.credit < 0 {
            (self.credit, self.rest) = (0, 64);
        }
        None
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Null,
    Inline,
    Nowait,
    Blocking,
    Spin,
    Pool,
    Uring,
}

struct Server {
    mode: Mode,
    file: RawFd,
    direct: bool,
}

struct Job {
    request: Request,
    slot: usize,
}

/// What the threads of `pool` share for one connection.
struct Shared {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    wake: Condvar,
    slots: Mutex<Slots>,
    send: Mutex<()>,
    socket: RawFd,
    file: RawFd,
}

fn worker(shared: &Shared) {
    loop {
        let job = {
            let mut jobs = shared.jobs.lock().unwrap();
            loop {
                if let Some(job) = jobs.0.pop_front() {
                    break job;
                }
                if jobs.1 {
                    return;
                }
                jobs = shared.wake.wait(jobs).unwrap();
            }
        };
        let data = shared.slots.lock().unwrap().data(job.slot);
        let error = transfer(shared.file, &job.request, data, 0) as u32;
        let iov = shared
            .slots
            .lock()
            .unwrap()
            .reply(job.slot, &job.request, error);
        let sending = shared.send.lock().unwrap();
        send_all(shared.socket, &mut [iov]);
        drop(sending);
        shared.slots.lock().unwrap().free.push(job.slot);
    }
}

impl Server {
    fn serve_pool(&self, socket: RawFd) {
        let shared = Arc::new(Shared {
            jobs: Mutex::new((VecDeque::new(), false)),
            wake: Condvar::new(),
            slots: Mutex::new(Slots::new()),
            send: Mutex::new(()),
            socket,
            file: self.file,
        });
        let mut threads = Vec::new();
        for _ in 0..8 {
            let shared = shared.clone();
            threads.push(std::thread::spawn(move || worker(&shared)));
        }
        let (mut receiver, epoll) = (Receiver::new(), Epoll::new(socket));
        loop {
            epoll.wait();
            if !receiver.receive(socket) {
                break;
            }
            while let Some((request, payload)) = receiver.next() {
                if request.command == CMD_DISC {
                    break;
                }
                let mut slots = shared.slots.lock().unwrap();
                let slot = slots.free.pop().expect("depth is at most the slots");
                let data = slots.data(slot);
                drop(slots);
                if request.command == CMD_WRITE {
                    unsafe { std::ptr::copy_nonoverlapping(payload, data, IO_BYTES) };
                }
                shared
                    .jobs
                    .lock()
                    .unwrap()
                    .0
                    .push_back(Job { request, slot });
                shared.wake.notify_one();
            }
        }
        shared.jobs.lock().unwrap().1 = true;
        shared.wake.notify_all();
        for thread in threads {
            thread.join().unwrap();
        }
    }

    fn serve_inline(&self, socket: RawFd) {
        let (mut receiver, epoll, slots) = (Receiver::new(), Epoll::new(socket), Slots::new());
        let mut replies = Vec::with_capacity(SLOTS);
        let mut spin = Spin { credit: 0, rest: 0 };
        loop {
            let spun = if self.mode == Mode::Spin {
                spin.wait(&mut receiver, socket)
            } else {
                None
            };
            if self.mode != Mode::Blocking && spun.is_none() {
                epoll.wait();
            }
            if !spun.unwrap_or_else(|| receiver.receive(socket)) {
                return;
            }
            while let Some((request, payload)) = receiver.next() {
                if request.command == CMD_DISC {
                    return;
                }
                let slot = replies.len();
                let error = self.perform(&request, payload, slots.data(slot));
                replies.push(slots.reply(slot, &request, error as u32));
                if replies.len() == SLOTS {
                    send_all(socket, &mut replies);
                    replies.clear();
                }
            }
            send_all(socket, &mut replies);
            replies.clear();
        }
    }

    fn perform(&self, request: &Request, payload: *mut u8, slot: *mut u8) -> i32 {
        if self.mode == Mode::Null {
            return 0;
        }
        let mut data = slot;
        if request.command == CMD_WRITE && !self.direct {
            data = payload;
        } else if request.command == CMD_WRITE {
            unsafe { std::ptr::copy_nonoverlapping(payload, slot, IO_BYTES) };
        }
        if self.mode == Mode::Nowait && request.command == CMD_READ {
            match transfer(self.file, request, data, libc::RWF_NOWAIT) {
                // The experiment's cache is warm; a miss is done in place and shows as time.
                libc::EAGAIN => {}
                result => return result,
            }
        }
        transfer(self.file, request, data, 0)
    }

    fn serve_uring(&self, socket: RawFd) {
        let mut ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(256)
            .expect("io_uring");
        let mut slots = Slots::new();
        let memory = libc::iovec {
            iov_base: slots.memory.cast(),
            iov_len: SLOTS * SLOT_BYTES,
        };
        ring.submitter()
            .register_files(&[self.file, socket])
            .expect("register files");
        unsafe { ring.submitter().register_buffers(&[memory]) }.expect("register buffers");
        let mut receiver = Receiver::new();
        let mut requests = [Request {
            command: 0,
            cookie: 0,
            offset: 0,
            length: 0,
        }; SLOTS];
        let (mut replies, mut sent) = (Vec::new(), Vec::new());
        push_receive(&mut ring, &mut receiver);
        loop {
            ring.submit_and_wait(1).expect("submit");
            let done: Vec<cqueue::Entry> = ring.completion().collect();
            for entry in done {
                if entry.user_data() != RECV_TAG {
                    let slot = entry.user_data() as usize;
                    let error = if entry.result() == IO_BYTES as i32 {
                        0
                    } else {
                        5
                    };
                    replies.push(slots.reply(slot, &requests[slot], error));
                    sent.push(slot);
                    continue;
                }
                if entry.result() <= 0 {
                    return;
                }
                receiver.end += entry.result() as usize;
                while let Some((request, payload)) = receiver.next() {
                    if request.command == CMD_DISC {
                        return;
                    }
                    let slot = slots.free.pop().expect("depth is at most the slots");
                    requests[slot] = request;
                    push_file(&mut ring, &slots, slot, &request, payload);
                }
                push_receive(&mut ring, &mut receiver);
            }
            send_all(socket, &mut replies);
            replies.clear();
            slots.free.append(&mut sent);
        }
    }

    fn serve(&self, mut stream: UnixStream, size_bytes: u64) {
        if handshake_server(&mut stream, size_bytes).is_err() {
            return;
        }
        match self.mode {
            Mode::Pool => self.serve_pool(stream.as_raw_fd()),
            Mode::Uring => self.serve_uring(stream.as_raw_fd()),
            _ => self.serve_inline(stream.as_raw_fd()),
        }
    }
}

fn push_receive(ring: &mut IoUring, receiver: &mut Receiver) {
    let room = receiver.room();
    let entry = opcode::Recv::new(types::Fixed(1), room.as_mut_ptr(), room.len() as u32);
    let entry = entry.build().user_data(RECV_TAG);
    unsafe { ring.submission().push(&entry) }.expect("room in the ring");
}

fn push_file(ring: &mut IoUring, slots: &Slots, slot: usize, request: &Request, payload: *mut u8) {
    let (data, length) = (slots.data(slot), IO_BYTES as u32);
    let entry = if request.command == CMD_READ {
        opcode::ReadFixed::new(types::Fixed(0), data, length, 0)
            .offset(request.offset)
            .build()
    } else {
        unsafe { std::ptr::copy_nonoverlapping(payload, data, IO_BYTES) };
        opcode::WriteFixed::new(types::Fixed(0), data, length, 0)
            .offset(request.offset)
            .build()
    };
    let entry = entry.user_data(slot as u64);
    unsafe { ring.submission().push(&entry) }.expect("room in the ring");
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mode = match args[1].as_str() {
        "null" => Mode::Null,
        "inline" => Mode::Inline,
        "nowait" => Mode::Nowait,
        "blocking" => Mode::Blocking,
        "spin" => Mode::Spin,
        "pool" => Mode::Pool,
        "uring" => Mode::Uring,
        other => panic!("unknown mode {other}"),
    };
    let direct = args.get(4).is_some_and(|word| word == "direct");
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .custom_flags(if direct { libc::O_DIRECT } else { 0 });
    let file = options.open(&args[2]).expect("open the file");
    let size_bytes = file.metadata().expect("stat").len();
    let server = Server {
        mode,
        file: file.as_raw_fd(),
        direct,
    };
    let listener = UnixListener::bind(&args[3]).expect("bind");
    for stream in listener.incoming().flatten() {
        server.serve(stream, size_bytes);
    }
}
