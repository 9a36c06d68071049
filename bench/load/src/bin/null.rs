//! A server that does nothing: the client's ceiling.
//!
//! `null SOCKET SIZE_BYTES`: one thread, one connection at a time, blocking calls.  Reads are answered with
//! bytes of one buffer, writes are received into it; no file is touched.

use std::io::{IoSlice, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use load::*;

const RECEIVE_BYTES: usize = 256 << 10;
const DATA_BYTES: usize = 4 << 20;

struct Null {
    stream: UnixStream,
    input: Vec<u8>,
    start: usize,
    end: usize,
    heads: Vec<[u8; REPLY_BYTES]>,
    lengths: Vec<usize>,
    data: Vec<u8>,
}

impl Null {
    /// Serves until the client leaves.
    fn serve(&mut self) -> std::io::Result<()> {
        loop {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let got = self.stream.read(&mut self.input[self.end..])?;
            if got == 0 {
                return Ok(());
            }
            self.end += got;
            while self.end - self.start >= REQUEST_BYTES {
                if !self.request()? {
                    return Ok(());
                }
            }
            self.reply()?;
        }
    }

    fn request(&mut self) -> std::io::Result<bool> {
        let head = &self.input[self.start..self.start + REQUEST_BYTES];
        let command = u16::from_be_bytes(head[6..8].try_into().expect("two bytes"));
        let length = u32::from_be_bytes(head[24..28].try_into().expect("four bytes")) as usize;
        let mut reply = [0; REPLY_BYTES];
        reply[0..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
        reply[8..16].copy_from_slice(&head[8..16]);
        self.start += REQUEST_BYTES;
        match command {
            CMD_READ => self.lengths.push(length),
            CMD_WRITE => {
                let here = length.min(self.end - self.start);
                self.start += here;
                self.stream.read_exact(&mut self.data[here..length])?;
                self.lengths.push(0);
            }
            _ => return Ok(false),
        }
        self.heads.push(reply);
        Ok(true)
    }

    fn reply(&mut self) -> std::io::Result<()> {
        let mut slices: Vec<IoSlice> = Vec::new();
        for (head, length) in self.heads.iter().zip(&self.lengths) {
            slices.push(IoSlice::new(head));
            if *length > 0 {
                slices.push(IoSlice::new(&self.data[..*length]));
            }
        }
        let mut rest = &mut slices[..];
        while !rest.is_empty() {
            let sent = self.stream.write_vectored(rest)?;
            IoSlice::advance_slices(&mut rest, sent);
        }
        self.heads.clear();
        self.lengths.clear();
        Ok(())
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let size_bytes = args[2].parse().expect("a size");
    let listener = UnixListener::bind(&args[1]).expect("a socket");
    loop {
        let (mut stream, _) = listener.accept().expect("a client");
        if handshake_server(&mut stream, size_bytes).is_err() {
            continue;
        }
        let mut null = Null {
            stream,
            input: vec![0; RECEIVE_BYTES],
            start: 0,
            end: 0,
            heads: Vec::new(),
            lengths: Vec::new(),
            data: vec![0x5e; DATA_BYTES],
        };
        if let Err(error) = null.serve() {
            eprintln!("null: {error}");
        }
    }
}
