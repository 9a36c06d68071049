//! The data plane: threads, sockets and files around the mapping engine and the NBD protocol.
//!
//! * [`container`]: storage containers, their header and fence, and wrappers that misbehave.
//! * [`plane`]: the data thread of an agent, which serves hosts.
//! * [`client`]: a blocking NBD client.
//! * [`serve`]: a server that exports a file or device, with a fence.
//! * [`buffer`], [`pool`], [`sys`]: aligned buffers, threads that may block, system calls.
//!
//! Decisions live in `segue-map` and `segue-nbd`; here is whatever waits, blocks or is shared.

use std::io::Write as _;

pub mod buffer;
pub mod client;
pub mod container;
pub mod plane;
pub mod pool;
pub mod serve;
pub mod sys;

/// Runs `body`; a panic in it ends the process, once it has been reported.
///
/// A data thread or worker that died alone would leave hosts waiting and fences held; the whole
/// incarnation must be gone, cleanly (promise P9 is kept by not panicking).
pub fn abort_on_panic(body: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
        std::process::abort();
    }
}

/// One line on stderr, where the agent's own log goes, whatever is quoted in it.
///
/// A log that cannot be written (its disk may be full) stops nobody.
pub(crate) fn log(text: std::fmt::Arguments<'_>) {
    let mut line = String::from("segue: ");
    for character in text.to_string().chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// CRC-32C (Castagnoli) of `data`, going on from `crc` (0 to begin).
#[must_use]
pub fn crc32c(data: &[u8], crc: u32) -> u32 {
    crc32c::crc32c_append(crc, data)
}
