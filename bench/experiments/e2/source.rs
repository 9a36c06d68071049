//! E2's stand-in for a data thread: raises faults, waits for answers, does the `do_write`s.
//! Throw-away: std only, driven through ctypes. One eventfd each way, one batch per wake-up.
//! Build: rustc -O --crate-type cdylib source.rs
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void, CStr};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{channel, Sender};
use std::sync::{Arc, Mutex};
use std::time::Instant;

extern "C" {
    fn eventfd(initial: u32, flags: c_int) -> c_int;
    fn read(fd: c_int, buf: *mut c_void, n: usize) -> isize;
    fn write(fd: c_int, buf: *const c_void, n: usize) -> isize;
    fn pwritev2(fd: c_int, iov: *const IoVec, n: c_int, offset: i64, flags: c_int) -> isize;
}
const EFD_NONBLOCK: c_int = 0o4000;
const RWF_DSYNC: c_int = 2;

#[repr(C)]
struct IoVec {
    base: *const u8,
    len: usize,
}

/// What the agent process tells the data thread.
enum Order {
    Answered(u64),
    DoWrite { request: u64, block: u64 },
}

#[derive(Default)]
struct Queues {
    to_agent: Vec<u64>, // kind << 56 | request: 0 = fault, 1 = do_write done
    to_thread: Vec<Order>,
    latencies_ns: Vec<u64>,
    started: Option<Instant>,
    elapsed_ns: u64,
}

pub struct Source {
    agent_fd: c_int,
    thread_fd: c_int,
    queues: Arc<Mutex<Queues>>,
}

fn kick(fd: c_int) {
    let one: u64 = 1;
    unsafe { write(fd, (&raw const one).cast(), 8) };
}

fn durable_write(file: &File, block: u64, data: &[u8; 4096]) {
    let iov = IoVec { base: data.as_ptr(), len: 4096 };
    let n = unsafe { pwritev2(file.as_raw_fd(), &iov, 1, (block * 4096) as i64, RWF_DSYNC) };
    assert_eq!(n, 4096);
}

/// `count` threads that do the `do_write`s, so that the data thread never waits for a sync.
fn writers(count: usize, file: &Arc<File>, agent: c_int, shared: &Arc<Mutex<Queues>>) -> Sender<(u64, u64)> {
    let (sender, receiver) = channel::<(u64, u64)>();
    let receiver = Arc::new(Mutex::new(receiver));
    for _ in 0..count {
        let (file, shared, receiver) = (file.clone(), shared.clone(), receiver.clone());
        std::thread::spawn(move || loop {
            let next = receiver.lock().unwrap().recv();
            let Ok((request, block)) = next else { return };
            durable_write(&file, block, &[7u8; 4096]);
            let mut queues = shared.lock().unwrap();
            queues.to_agent.push(1 << 56 | request);
            if queues.to_agent.len() == 1 {
                kick(agent);
            }
        });
    }
    sender
}

struct Setting {
    total: u64,
    outstanding: u64,
    writers: usize,
}

fn run(setting: Setting, file: File, agent: c_int, own: c_int, shared: Arc<Mutex<Queues>>) {
    let Setting { total, outstanding, writers: writer_count } = setting;
    let data = [7u8; 4096];
    let file = Arc::new(file);
    let pool = writers(writer_count, &file, agent, &shared);
    let mut raised: HashMap<u64, Instant> = HashMap::new();
    let mut next = 0u64;
    let mut answered = 0u64;
    shared.lock().unwrap().started = Some(Instant::now());
    while answered < total {
        let mut batch = Vec::new();
        while next < total && next - answered < outstanding {
            raised.insert(next, Instant::now());
            batch.push(next);
            next += 1;
        }
        if !batch.is_empty() {
            shared.lock().unwrap().to_agent.append(&mut batch);
            kick(agent);
        }
        let mut count = 0u64;
        unsafe { read(own, (&raw mut count).cast(), 8) };
        let orders = std::mem::take(&mut shared.lock().unwrap().to_thread);
        let mut done = Vec::new();
        let mut latencies = Vec::new();
        for order in orders {
            match order {
                Order::Answered(request) => {
                    let at = raised.remove(&request).expect("answered once");
                    latencies.push(at.elapsed().as_nanos() as u64);
                    answered += 1;
                }
                Order::DoWrite { request, block } if writer_count > 0 => {
                    pool.send((request, block)).unwrap();
                }
                Order::DoWrite { request, block } => {
                    durable_write(&file, block, &data);
                    done.push(1 << 56 | request);
                }
            }
        }
        let mut queues = shared.lock().unwrap();
        queues.latencies_ns.append(&mut latencies);
        if !done.is_empty() {
            queues.to_agent.append(&mut done);
            drop(queues);
            kick(agent);
        }
    }
    let mut queues = shared.lock().unwrap();
    queues.elapsed_ns = queues.started.unwrap().elapsed().as_nanos() as u64;
    queues.to_agent.push(2 << 56);
    drop(queues);
    kick(agent);
}

#[no_mangle]
pub extern "C" fn source_start(
    total: u64,
    outstanding: u64,
    writers: u64,
    path: *const c_char,
) -> *mut Source {
    let setting = Setting { total, outstanding, writers: writers as usize };
    let path = unsafe { CStr::from_ptr(path) }.to_str().unwrap().to_owned();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (agent_fd, thread_fd) = unsafe { (eventfd(0, EFD_NONBLOCK), eventfd(0, 0)) };
    let queues = Arc::new(Mutex::new(Queues::default()));
    let shared = queues.clone();
    std::thread::spawn(move || run(setting, file, agent_fd, thread_fd, shared));
    Box::into_raw(Box::new(Source { agent_fd, thread_fd, queues }))
}

#[no_mangle]
pub extern "C" fn source_fd(source: &Source) -> c_int {
    source.agent_fd
}

/// Takes up to `cap` words for the agent; returns how many.
#[no_mangle]
pub extern "C" fn source_take(source: &Source, out: *mut u64, cap: usize) -> usize {
    let mut count = 0u64;
    unsafe { read(source.agent_fd, (&raw mut count).cast(), 8) };
    let mut queues = source.queues.lock().unwrap();
    let n = queues.to_agent.len().min(cap);
    for (i, word) in queues.to_agent.drain(..n).enumerate() {
        unsafe { *out.add(i) = word };
    }
    n
}

/// Gives `n` answers (kind 0) or do_writes (kind 1, with blocks) to the data thread, one wake-up.
#[no_mangle]
pub extern "C" fn source_give(source: &Source, kind: u64, requests: *const u64, blocks: *const u64, n: usize) {
    let mut queues = source.queues.lock().unwrap();
    for i in 0..n {
        let request = unsafe { *requests.add(i) };
        queues.to_thread.push(match kind {
            0 => Order::Answered(request),
            _ => Order::DoWrite { request, block: unsafe { *blocks.add(i) } },
        });
    }
    drop(queues);
    kick(source.thread_fd);
}

#[no_mangle]
pub extern "C" fn source_latencies(source: &Source, out: *mut u64) -> u64 {
    let queues = source.queues.lock().unwrap();
    for (i, ns) in queues.latencies_ns.iter().enumerate() {
        unsafe { *out.add(i) = *ns };
    }
    queues.elapsed_ns
}
