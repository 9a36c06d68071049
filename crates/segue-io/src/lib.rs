//! The data plane: threads, sockets and files around the mapping engine and the NBD protocol.
//!
//! * [`container`]: storage containers, their header and fence, and wrappers that misbehave.
//! * [`plane`]: the data thread of an agent, which serves hosts.
//! * [`client`]: a blocking NBD client.
//! * [`serve`]: a server that exports a file or device, with a fence.
//! * [`buffer`], [`pool`], [`sys`]: aligned buffers, threads that may block, system calls.
//!
//! Decisions live in `segue-map` and `segue-nbd`; here is whatever waits, blocks or is shared.

pub mod buffer;
pub mod client;
pub mod container;
mod handshakes;
mod log;
mod outgoing;
pub mod plane;
pub mod pool;
pub mod serve;
pub mod sys;

pub use log::name_log;
pub(crate) use log::{Seldom, log};

/// Runs `body`; a panic in it ends the process, once it has been reported.
///
/// A data thread or worker that died alone would leave hosts waiting and fences held; the whole
/// incarnation must be gone, cleanly (promise P9 is kept by not panicking).
pub fn abort_on_panic(body: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
        std::process::abort();
    }
}

/// CRC-32C (Castagnoli) of `data`, going on from `crc` (0 to begin).
#[must_use]
pub fn crc32c(data: &[u8], crc: u32) -> u32 {
    crc32c::crc32c_append(crc, data)
}
