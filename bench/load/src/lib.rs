//! What client and empty server share: the few NBD numbers they need, handshakes, CPU time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

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
const REPLY_OPTION_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REP_ERR_UNSUP: u32 = 0x8000_0001;
const NO_ZEROES: u16 = 2;
const FIXED_NEWSTYLE: u16 = 1;

/// The header of a request.
#[must_use]
pub fn request(command: u16, cookie: u64, offset: u64, length: u32) -> [u8; REQUEST_BYTES] {
    let mut head = [0; REQUEST_BYTES];
    head[0..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
    head[6..8].copy_from_slice(&command.to_be_bytes());
    head[8..16].copy_from_slice(&cookie.to_be_bytes());
    head[16..24].copy_from_slice(&offset.to_be_bytes());
    head[24..28].copy_from_slice(&length.to_be_bytes());
    head
}

/// Server's side of the shortest handshake there is (OPT_EXPORT_NAME).
pub fn handshake_server(stream: &mut UnixStream, size_bytes: u64) -> std::io::Result<()> {
    let mut greeting = Vec::new();
    greeting.extend_from_slice(&NBDMAGIC.to_be_bytes());
    greeting.extend_from_slice(&IHAVEOPT.to_be_bytes());
    greeting.extend_from_slice(&(FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
    stream.write_all(&greeting)?;
    stream.read_exact(&mut [0u8; 4])?;
    loop {
        let mut head = [0u8; 16];
        stream.read_exact(&mut head)?;
        let option: [u8; 4] = head[8..12].try_into().expect("four bytes");
        let length = u32::from_be_bytes(head[12..16].try_into().expect("four bytes"));
        stream.read_exact(&mut vec![0u8; length as usize])?;
        if u32::from_be_bytes(option) == OPT_EXPORT_NAME {
            break;
        }
        let mut refusal = Vec::new();
        refusal.extend_from_slice(&REPLY_OPTION_MAGIC.to_be_bytes());
        refusal.extend_from_slice(&option);
        refusal.extend_from_slice(&REP_ERR_UNSUP.to_be_bytes());
        refusal.extend_from_slice(&[0; 4]);
        stream.write_all(&refusal)?;
    }
    stream.write_all(&size_bytes.to_be_bytes())?;
    stream.write_all(&1u16.to_be_bytes())
}

/// Client's side; gives the size of the export of that name in bytes.
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
    Ok(u64::from_be_bytes(
        export[0..8].try_into().expect("eight bytes"),
    ))
}

/// CPU time of all live threads of a process, ns (its kernel workers' too; not interrupts).
#[must_use]
pub fn cpu_ns(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the server's threads");
    let of_task = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ')
            .next()
            .and_then(|word| word.parse::<u64>().ok())
    };
    tasks.flatten().filter_map(of_task).sum()
}
