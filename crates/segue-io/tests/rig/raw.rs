//! What a client sends and takes by hand, where `Client` would be too well-behaved.
#![allow(dead_code)]

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

/// An option of the handshake, with its data.
pub fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap();
    [
        b"IHAVEOPT",
        &option.to_be_bytes()[..],
        &length.to_be_bytes()[..],
        data,
    ]
    .concat()
}

/// The kind of the next reply to an option, and its data.
pub fn option_reply(stream: &mut UnixStream) -> (u32, Vec<u8>) {
    let mut head = [0; 20];
    stream.read_exact(&mut head).unwrap();
    let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
    let mut data = vec![0; word(16) as usize];
    stream.read_exact(&mut data).unwrap();
    (word(12), data)
}

/// The head of a request, without flags.
pub fn request(command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut out = 0x2560_9513u32.to_be_bytes().to_vec();
    out.extend([0, 0]);
    out.extend(command.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(length.to_be_bytes());
    out
}

/// Whether the other side closes the connection, whatever it says before that.
pub fn is_closed(mut stream: &UnixStream) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}
