//! What a connection has still to send: heads of replies and the data of reads, in order.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use crate::buffer::{Buffer, Buffers};

/// Parts given to one sendmsg(2).
const PARTS_MAX: usize = 64;
/// Sent bytes at the head of the arena that are worth moving the rest for.
const SENT_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
enum Part {
    /// Bytes of the arena.
    Small { start: usize, end: usize },
    /// A head and the data of a read, in the request's own buffer.
    Framed {
        buffer: Arc<Buffer>,
        head_bytes: usize,
        length: usize,
    },
}

/// A queue of bytes to send. Small ones are gathered in an arena, whose head is dropped as it is
/// sent: a client that never takes all must not make it grow.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    parts: VecDeque<Part>,
    arena: Vec<u8>,
    /// Bytes of the first part that are sent already.
    sent: usize,
    bytes: usize,
}

impl Outgoing {
    /// Bytes still to send.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Queues a copy of `bytes`.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.push_with(|arena| arena.extend_from_slice(bytes));
    }

    /// Queues what `write` appends.
    pub(crate) fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.arena.len();
        write(&mut self.arena);
        let new_end = self.arena.len();
        self.bytes += new_end - start;
        match self.parts.back_mut() {
            Some(Part::Small { end, .. }) if *end == start => *end = new_end,
            _ if new_end > start => self.parts.push_back(Part::Small {
                start,
                end: new_end,
            }),
            _ => {}
        }
    }

    /// Queues `head` and the first `length` bytes of `buffer`'s data, which no piece of I/O
    /// touches any more.
    pub(crate) fn push_framed(&mut self, head: &[u8], buffer: Arc<Buffer>, length: usize) {
        // SAFETY: the request is answered, so nobody else writes to its buffer.
        unsafe { buffer.put_head(head) };
        self.bytes += head.len() + length;
        self.parts.push_back(Part::Framed {
            buffer,
            head_bytes: head.len(),
            length,
        });
    }

    /// Sends as much as the socket takes, giving buffers back; `Ok(false)`: it takes no more now.
    ///
    /// # Errors
    /// Those of sendmsg(2): the connection is of no more use.
    pub(crate) fn send(&mut self, socket: RawFd, buffers: &mut Buffers) -> io::Result<bool> {
        while !self.parts.is_empty() {
            let empty = libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            };
            let mut iovs = [empty; PARTS_MAX];
            let mut count = 0;
            for (iov, part) in iovs.iter_mut().zip(&self.parts) {
                let bytes = match part {
                    Part::Small { start, end } => &self.arena[*start..*end],
                    Part::Framed {
                        buffer,
                        head_bytes,
                        length,
                    } => buffer.framed(*head_bytes, *length),
                };
                let skip = if count == 0 { self.sent } else { 0 };
                iov.iov_base = bytes[skip..].as_ptr().cast_mut().cast();
                iov.iov_len = bytes.len() - skip;
                count += 1;
            }
            // SAFETY: all-zero is a valid msghdr.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = iovs.as_mut_ptr();
            message.msg_iovlen = count;
            let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
            // SAFETY: the iovecs name live bytes that the kernel only reads.
            let sent = unsafe { libc::sendmsg(socket, &message, flags) };
            if sent < 0 {
                let error = io::Error::last_os_error();
                match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock => return Ok(false),
                    _ => return Err(error),
                }
            }
            self.drop_sent(sent as usize, buffers);
        }
        self.arena.clear();
        Ok(true)
    }

    fn drop_sent(&mut self, count: usize, buffers: &mut Buffers) {
        self.bytes -= count;
        self.sent += count;
        while let Some(part) = self.parts.front() {
            let length = match part {
                Part::Small { start, end } => end - start,
                Part::Framed {
                    head_bytes, length, ..
                } => head_bytes + length,
            };
            if self.sent < length {
                break;
            }
            self.sent -= length;
            if let Some(Part::Framed { buffer, .. }) = self.parts.pop_front() {
                buffers.give(buffer);
            }
        }
        if self.arena.len() > SENT_BYTES_MAX {
            self.drop_head();
        }
    }

    /// Drops what is sent of the arena, if that is much of it.
    fn drop_head(&mut self) {
        if let Some(Part::Small { start, .. }) = self.parts.front_mut() {
            *start += std::mem::take(&mut self.sent);
        }
        let start_of = |part: &Part| match part {
            Part::Small { start, .. } => Some(*start),
            Part::Framed { .. } => None,
        };
        let head = self.parts.iter().find_map(start_of);
        let head = head.unwrap_or(self.arena.len());
        if head < SENT_BYTES_MAX || head < self.arena.len() / 2 {
            return;
        }
        self.arena.drain(..head);
        for part in &mut self.parts {
            if let Part::Small { start, end } = part {
                *start -= head;
                *end -= head;
            }
        }
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
