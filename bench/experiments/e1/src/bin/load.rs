//! Load generator of E1: 4 KiB random reads or writes at a fixed depth over one unix socket.
//!
//! `load SOCKET[#EXPORT] PID read|write DEPTH SECONDS SEED [EXTENT_BYTES]` prints one JSON line: IOPS, and the
//! CPU time of the server (all threads, /proc/PID/task/*/schedstat, nanoseconds) for each I/O.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use e1::*;

/// CPU time of all live threads of a process, ns; utime+stime of /proc/PID/stat as second figure.
fn cpu_ns(pid: u32) -> (u64, u64) {
    let mut exact = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("server's tasks")
        .flatten()
    {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        exact += text
            .split(' ')
            .next()
            .and_then(|word| word.parse::<u64>().ok())
            .unwrap_or(0);
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("server's stat");
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    (exact, ticks * 10_000_000)
}

struct Load {
    stream: UnixStream,
    command: u16,
    extent_blocks: u64,
    random: u64,
    out: Vec<u8>,
    buffer: Vec<u8>,
    filled: usize,
}

impl Load {
    fn queue(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let offset = (self.random % self.extent_blocks) * IO_BYTES as u64;
        let length = IO_BYTES as u32;
        Request {
            command: self.command,
            cookie: 1,
            offset,
            length,
        }
        .encode(&mut self.out);
        if self.command == CMD_WRITE {
            let fill = [self.random as u8; IO_BYTES];
            self.out.extend_from_slice(&fill);
        }
    }

    /// Sends what is queued, waits for replies; returns how many came.
    fn turn(&mut self) -> u64 {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out).expect("send");
            self.out.clear();
        }
        let got = self
            .stream
            .read(&mut self.buffer[self.filled..])
            .expect("receive");
        assert!(got > 0, "the server hung up");
        self.filled += got;
        let reply = if self.command == CMD_READ {
            REPLY_BYTES + IO_BYTES
        } else {
            REPLY_BYTES
        };
        let count = self.filled / reply;
        for index in 0..count {
            let head = &self.buffer[index * reply..];
            assert_eq!(
                u32::from_be_bytes(head[0..4].try_into().unwrap()),
                REPLY_MAGIC
            );
            assert_eq!(&head[4..8], &[0; 4], "I/O error");
        }
        self.buffer.copy_within(count * reply..self.filled, 0);
        self.filled -= count * reply;
        count as u64
    }

    fn run(&mut self, seconds: f64) -> u64 {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let mut done = 0;
        loop {
            let count = self.turn();
            done += count;
            for _ in 0..count {
                self.queue();
            }
            if Instant::now() >= end {
                return done;
            }
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let pid: u32 = args[2].parse().unwrap();
    let command = if args[3] == "read" {
        CMD_READ
    } else {
        CMD_WRITE
    };
    let depth: usize = args[4].parse().unwrap();
    let seconds: f64 = args[5].parse().unwrap();
    let (socket, export) = args[1].split_once('#').unwrap_or((&args[1], ""));
    let mut stream = UnixStream::connect(socket).expect("connect");
    let size_bytes = handshake_client(&mut stream, export).expect("handshake");
    let extent = args
        .get(7)
        .map_or(size_bytes, |word| word.parse().unwrap())
        .min(size_bytes);
    let mut load = Load {
        stream,
        command,
        extent_blocks: extent / IO_BYTES as u64,
        random: 0x9E37_79B9_7F4A_7C15 ^ args[6].parse::<u64>().unwrap(),
        out: Vec::new(),
        buffer: vec![0; 1 << 20],
        filled: 0,
    };
    for _ in 0..depth {
        load.queue();
    }
    load.run(0.2);
    let own = std::process::id();
    let (before, ticks_before, own_before) = (cpu_ns(pid).0, cpu_ns(pid).1, cpu_ns(own).0);
    let start = Instant::now();
    let done = load.run(seconds);
    let elapsed = start.elapsed().as_secs_f64();
    let (after, ticks_after, own_after) = (cpu_ns(pid).0, cpu_ns(pid).1, cpu_ns(own).0);
    println!(
        "{{\"iops\":{:.0},\"server_us\":{:.3},\"server_tick_us\":{:.3},\"client_us\":{:.3}}}",
        done as f64 / elapsed,
        (after - before) as f64 / done as f64 / 1e3,
        (ticks_after - ticks_before) as f64 / done as f64 / 1e3,
        (own_after - own_before) as f64 / done as f64 / 1e3,
    );
    let mut outstanding = depth as u64;
    while outstanding > 0 {
        outstanding -= load.turn();
    }
    let mut bye = Vec::new();
    Request {
        command: CMD_DISC,
        cookie: 0,
        offset: 0,
        length: 0,
    }
    .encode(&mut bye);
    load.stream.write_all(&bye).ok();
}
