//! What both ends of experiment E1 share: the few NBD numbers it needs and exact socket reads.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// Payload of every request of the experiment, bytes.
pub const IO_BYTES: usize = 4096;
/// Bytes of an NBD request header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of a simple reply header.
pub const REPLY_BYTES: usize = 16;
/// Magic of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Magic of a simple reply.
pub const REPLY_MAGIC: u32 = 0x6744_6698;
/// NBD_CMD_READ.
pub const CMD_READ: u16 = 0;
/// NBD_CMD_WRITE.
pub const CMD_WRITE: u16 = 1;
/// NBD_CMD_DISC.
pub const CMD_DISC: u16 = 2;

const NBDMAGIC: u64 = 0x4e42_444d_4147_4943;
const IHAVEOPT: u64 = 0x4948_4156_454F_5054;
const OPT_EXPORT_NAME: u32 = 1;
const NO_ZEROES: u16 = 2;
const FIXED_NEWSTYLE: u16 = 1;

/// A request as it stands in the receive buffer.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Command, one of `CMD_*`.
    pub command: u16,
    /// The client's cookie, in wire order.
    pub cookie: u64,
    /// Byte offset.
    pub offset: u64,
    /// Byte count.
    pub length: u32,
}

impl Request {
    /// Decodes one header; panics on a bad magic (the experiment has one client, its own).
    pub fn decode(bytes: &[u8]) -> Request {
        assert_eq!(
            u32::from_be_bytes(bytes[0..4].try_into().unwrap()),
            REQUEST_MAGIC
        );
        Request {
            command: u16::from_be_bytes(bytes[6..8].try_into().unwrap()),
            cookie: u64::from_be_bytes(bytes[8..16].try_into().unwrap()),
            offset: u64::from_be_bytes(bytes[16..24].try_into().unwrap()),
            length: u32::from_be_bytes(bytes[24..28].try_into().unwrap()),
        }
    }

    /// Appends the header to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out.extend_from_slice(&0u16.to_be_bytes());
        out.extend_from_slice(&self.command.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.length.to_be_bytes());
    }
}

/// Server's side of the shortest handshake there is (OPT_EXPORT_NAME).
pub fn handshake_server(stream: &mut UnixStream, size_bytes: u64) -> std::io::Result<()> {
    let mut greeting = Vec::new();
    greeting.extend_from_slice(&NBDMAGIC.to_be_bytes());
    greeting.extend_from_slice(&IHAVEOPT.to_be_bytes());
    greeting.extend_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    stream.write_all(&greeting)?;
    let mut option = [0u8; 20];
    stream.read_exact(&mut option)?;
    let length = u32::from_be_bytes(option[16..20].try_into().unwrap()) as usize;
    let mut name = vec![0u8; length];
    stream.read_exact(&mut name)?;
    stream.write_all(&size_bytes.to_be_bytes())?;
    stream.write_all(&1u16.to_be_bytes())
}

/// Client's side; returns the size of the export of that name in bytes.
pub fn handshake_client(stream: &mut UnixStream, name: &str) -> std::io::Result<u64> {
    let mut greeting = [0u8; 18];
    stream.read_exact(&mut greeting)?;
    let mut answer = Vec::new();
    answer.extend_from_slice(&u32::from(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    answer.extend_from_slice(&IHAVEOPT.to_be_bytes());
    answer.extend_from_slice(&OPT_EXPORT_NAME.to_be_bytes());
    answer.extend_from_slice(&(name.len() as u32).to_be_bytes());
    answer.extend_from_slice(name.as_bytes());
    stream.write_all(&answer)?;
    let mut export = [0u8; 10];
    stream.read_exact(&mut export)?;
    Ok(u64::from_be_bytes(export[0..8].try_into().unwrap()))
}
