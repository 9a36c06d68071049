//! Load: reads or writes at a fixed depth over one unix socket, and what they cost the server.
//!
//! `load SOCKET[#EXPORT] PID read|write random|sequential BYTES DEPTH SECONDS SEED [EXTENT_BYTES [TRACE]]`
//! prints one JSON line: I/Os a second, CPU of the server and of this client for each I/O (all
//! threads, /proc/PID/task/*/schedstat, microseconds), and the latency's percentiles.  TRACE takes a
//! line for each I/O: nanoseconds of CLOCK_BOOTTIME at its end, its latency, its offset.  SECONDS 0:
//! until standard input ends.

use std::io::{BufWriter, IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use load::*;

/// What is sent ahead of a measurement, seconds.
const WARM_UP_S: f64 = 0.2;
const BUFFER_BYTES: usize = 4 << 20;

struct Load {
    stream: UnixStream,
    command: u16,
    length: usize,
    extent: u64,
    sequential: bool,
    random: u64,
    next: u64,
    /// By cookie: when it was sent, and where it goes.
    sent: Vec<(Instant, u64)>,
    queued: Vec<u64>,
    payload: Vec<u8>,
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes of data still to come for the reply of this cookie.
    skip: (usize, u64),
    latencies: Vec<u32>,
    trace: Option<BufWriter<std::fs::File>>,
}

impl Load {
    fn offset(&mut self) -> u64 {
        let (length, count) = (self.length as u64, self.extent / self.length as u64);
        if self.sequential {
            self.next = (self.next + 1) % count;
            return self.next * length;
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % count * length
    }

    /// Sends a request for each cookie that is free.
    fn send(&mut self) {
        let queued = std::mem::take(&mut self.queued);
        let now = Instant::now();
        let mut heads = Vec::with_capacity(queued.len());
        for cookie in &queued {
            let offset = self.offset();
            self.sent[*cookie as usize] = (now, offset);
            heads.push(request(self.command, *cookie, offset, self.length as u32));
        }
        let mut slices: Vec<IoSlice> = Vec::with_capacity(2 * heads.len());
        for head in &heads {
            slices.push(IoSlice::new(head));
            if self.command == CMD_WRITE {
                slices.push(IoSlice::new(&self.payload));
            }
        }
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let sent = self.stream.write_vectored(rest).expect("send");
            IoSlice::advance_slices(&mut rest, sent);
        }
        self.queued = queued;
        self.queued.clear();
    }

    fn done(&mut self, cookie: u64) {
        let (begun, offset) = self.sent[cookie as usize];
        let took = begun.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32;
        self.latencies.push(took);
        self.queued.push(cookie);
        if let Some(trace) = &mut self.trace {
            writeln!(trace, "{} {took} {offset}", boottime_ns()).expect("room for the trace");
        }
    }

    /// Receives once.
    fn receive(&mut self) {
        let got = self
            .stream
            .read(&mut self.buffer[self.filled..])
            .expect("receive");
        assert!(got > 0, "the server hung up");
        let end = self.filled + got;
        let mut at = 0;
        loop {
            if self.skip.0 > 0 {
                let here = self.skip.0.min(end - at);
                at += here;
                self.skip.0 -= here;
                if self.skip.0 > 0 {
                    break;
                }
                self.done(self.skip.1);
            }
            if end - at < REPLY_BYTES {
                break;
            }
            let head = &self.buffer[at..at + REPLY_BYTES];
            assert_eq!(head[0..4], REPLY_MAGIC.to_be_bytes());
            assert_eq!(head[4..8], [0; 4], "an I/O failed");
            let cookie = u64::from_be_bytes(head[8..16].try_into().expect("eight bytes"));
            at += REPLY_BYTES;
            if self.command == CMD_READ {
                self.skip = (self.length, cookie);
            } else {
                self.done(cookie);
            }
        }
        self.buffer.copy_within(at..end, 0);
        self.filled = end - at;
    }

    /// Keeps the depth up for so long; gives I/Os and seconds.
    fn run(&mut self, seconds: f64) -> (usize, f64) {
        let (begun, before) = (Instant::now(), self.latencies.len());
        let end = begun + Duration::from_secs_f64(seconds);
        let told = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(seconds > 0.0));
        if seconds == 0.0 {
            let told = told.clone();
            std::thread::spawn(move || {
                std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).ok();
                told.store(true, std::sync::atomic::Ordering::Release);
            });
        }
        let goes_on = || {
            let told = told.load(std::sync::atomic::Ordering::Acquire);
            !told || Instant::now() < end
        };
        while goes_on() {
            if !self.queued.is_empty() {
                self.send();
            }
            self.receive();
        }
        (self.latencies.len() - before, begun.elapsed().as_secs_f64())
    }
}

fn boottime_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize| args[at].parse::<u64>().expect("a number");
    let pid = number(2) as u32;
    let (length, depth) = (number(5) as usize, number(6));
    let seconds: f64 = args[7].parse().expect("seconds");
    let (socket, export) = args[1].split_once('#').unwrap_or((&args[1], ""));
    let mut stream = UnixStream::connect(socket).expect("connect");
    let size_bytes = handshake_client(&mut stream, export).expect("handshake");
    let extent = if args.len() > 9 {
        number(9)
    } else {
        size_bytes
    };
    let trace = args
        .get(10)
        .map(|path| std::fs::File::create(path).expect("a trace"));
    let mut load = Load {
        stream,
        command: if args[3] == "read" {
            CMD_READ
        } else {
            CMD_WRITE
        },
        length,
        extent: extent.min(size_bytes),
        sequential: args[4] == "sequential",
        random: 0x9E37_79B9_7F4A_7C15 ^ number(8),
        next: 0,
        sent: vec![(Instant::now(), 0); depth as usize],
        queued: (0..depth).collect(),
        payload: (0..length).map(|at| (at * 31 >> 3) as u8).collect(),
        buffer: vec![0; BUFFER_BYTES],
        filled: 0,
        skip: (0, 0),
        latencies: Vec::with_capacity(1 << 20),
        trace: trace.map(BufWriter::new),
    };
    load.run(WARM_UP_S);
    load.latencies.clear();
    let own = std::process::id();
    let (server_before, own_before) = (cpu_ns(pid), cpu_ns(own));
    let (done, elapsed) = load.run(seconds);
    let (server_after, own_after) = (cpu_ns(pid), cpu_ns(own));
    let each_us = |spent_ns: u64| spent_ns as f64 / done as f64 / 1e3;
    load.latencies.sort_unstable();
    let latency_us = |share: f64| {
        let at = (done as f64 * share) as usize;
        f64::from(load.latencies[at.min(done - 1)]) / 1e3
    };
    println!(
        "{{\"iops\":{:.0},\"server_us\":{:.3},\"client_us\":{:.3},\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},\"max_us\":{:.1},\"count\":{done}}}",
        done as f64 / elapsed,
        each_us(server_after - server_before),
        each_us(own_after - own_before),
        latency_us(0.5),
        latency_us(0.99),
        latency_us(0.999),
        latency_us(1.0),
    );
    while load.queued.len() < depth as usize {
        load.receive();
    }
    let bye = request(CMD_DISC, 0, 0, 0);
    load.stream.write_all(&bye).ok();
}
