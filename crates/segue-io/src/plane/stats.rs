//! What the data thread counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start; read by anyone.
#[derive(Debug, Default)]
pub struct Stats {
    /// Host requests taken in.
    pub requests: AtomicU64,
    /// Bytes that hosts read and wrote.
    pub bytes_read: AtomicU64,
    /// Bytes written by hosts.
    pub bytes_written: AtomicU64,
    /// Replies with an error.
    pub errors: AtomicU64,
    /// Flushes of containers.
    pub flushes: AtomicU64,
    /// Pieces of I/O that were handed to another thread or the ring.
    pub handed_over: AtomicU64,
    /// Map faults raised.
    pub faults: AtomicU64,
    /// Connections open now.
    pub connections: AtomicU64,
    /// Connections ended because the client broke the protocol.
    pub protocol_errors: AtomicU64,
    /// Connections ended because their handshake took too long, or others wanted to connect.
    pub handshakes_ended: AtomicU64,
}

impl Stats {
    /// Counts; only the data thread does, so no locked instruction is needed.
    #[inline]
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
    }

    /// The reverse.
    pub(super) fn subtract(counter: &AtomicU64, count: u64) {
        counter.store(counter.load(Ordering::Relaxed) - count, Ordering::Relaxed);
    }

    /// Name and value of each counter.
    #[must_use]
    pub fn values(&self) -> [(&'static str, u64); 10] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("requests", read(&self.requests)),
            ("bytes_read", read(&self.bytes_read)),
            ("bytes_written", read(&self.bytes_written)),
            ("errors", read(&self.errors)),
            ("flushes", read(&self.flushes)),
            ("handed_over", read(&self.handed_over)),
            ("faults", read(&self.faults)),
            ("connections", read(&self.connections)),
            ("protocol_errors", read(&self.protocol_errors)),
            ("handshakes_ended", read(&self.handshakes_ended)),
        ]
    }
}
