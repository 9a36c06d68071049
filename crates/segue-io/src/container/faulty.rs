//! A wrapper that fails, delays and lies, by rules in a file beside the container.
//!
//! `PATH.faults` holds one rule a line; it is read before every operation, so a test changes the
//! rules of running processes by replacing the file (rename). No file: no faults. An operation is
//! `read`, `write`, `zero`, `trim`, `flush` or `any`; a range, in bytes from the start of the
//! storage, limits a rule to operations that touch it:
//!
//! ```text
//! fail write 28                 writes fail with errno 28, nothing is written
//! fail read 5 1048576 1052672   reads that touch [first, end) fail with errno 5
//! delay flush 20000             20,000 us before the operation
//! lie flush                     answers "done" and does nothing (reads: leaves the buffer as it is)
//! ```
//!
//! Lines that cannot be read fail every operation with EBADMSG: a test with a typing error must
//! not pass.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::backing::{Backing, ZeroHow};
use crate::sys::os_error;

/// See the module's text.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Backing>,
    rules: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Read,
    Write,
    Zero,
    Trim,
    Flush,
}

#[derive(Debug)]
enum Effect {
    Fail(i32),
    Delay(Duration),
    Lie,
}

/// What is left to do once the rules have been applied.
enum Verdict {
    GoOn,
    Done,
}

impl Faulty {
    /// Wraps `inner`, whose file is `path`.
    #[must_use]
    pub fn new(inner: Arc<dyn Backing>, path: &Path) -> Faulty {
        let mut rules = path.as_os_str().to_owned();
        rules.push(".faults");
        Faulty {
            inner,
            rules: rules.into(),
        }
    }

    fn judge(&self, op: Op, offset: u64, length: u64) -> io::Result<Verdict> {
        let text = match std::fs::read_to_string(&self.rules) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Verdict::GoOn),
            Err(error) => return Err(error),
        };
        let mut verdict = Verdict::GoOn;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (effect, applies) =
                parse(line, op, offset, length).ok_or_else(|| os_error(libc::EBADMSG))?;
            match effect {
                _ if !applies => {}
                Effect::Fail(errno) => return Err(os_error(errno)),
                Effect::Delay(time) => std::thread::sleep(time),
                Effect::Lie => verdict = Verdict::Done,
            }
        }
        Ok(verdict)
    }
}

/// One rule, and whether it applies to this operation; `None` if the line cannot be read.
fn parse(line: &str, op: Op, offset: u64, length: u64) -> Option<(Effect, bool)> {
    let mut words = line.split_whitespace();
    let effect = words.next()?;
    let meant = match words.next()? {
        "read" => Some(Op::Read),
        "write" => Some(Op::Write),
        "zero" => Some(Op::Zero),
        "trim" => Some(Op::Trim),
        "flush" => Some(Op::Flush),
        "any" => None,
        _ => return None,
    };
    let effect = match effect {
        "fail" => Effect::Fail(words.next()?.parse().ok()?),
        "delay" => Effect::Delay(Duration::from_micros(words.next()?.parse().ok()?)),
        "lie" => Effect::Lie,
        _ => return None,
    };
    let range = match words.next() {
        None => 0..u64::MAX,
        Some(first) => first.parse().ok()?..words.next()?.parse().ok()?,
    };
    if words.next().is_some() {
        return None;
    }
    let touches = op == Op::Flush || (offset < range.end && offset + length > range.start);
    Some((effect, touches && meant.is_none_or(|meant| meant == op)))
}

impl Backing for Faulty {
    fn size_bytes(&self) -> io::Result<u64> {
        self.inner.size_bytes()
    }

    fn unit_bytes(&self) -> u32 {
        self.inner.unit_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self.judge(Op::Read, offset, buffer.len() as u64)? {
            Verdict::GoOn => self.inner.read(offset, buffer),
            Verdict::Done => Ok(()),
        }
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        match self.judge(Op::Write, offset, data.len() as u64)? {
            Verdict::GoOn => self.inner.write(offset, data, fua),
            Verdict::Done => Ok(()),
        }
    }

    fn zero(&self, offset: u64, length: u64, how: ZeroHow) -> io::Result<()> {
        match self.judge(Op::Zero, offset, length)? {
            Verdict::GoOn => self.inner.zero(offset, length, how),
            Verdict::Done => Ok(()),
        }
    }

    fn trim(&self, offset: u64, length: u64) -> io::Result<()> {
        match self.judge(Op::Trim, offset, length)? {
            Verdict::GoOn => self.inner.trim(offset, length),
            Verdict::Done => Ok(()),
        }
    }

    fn flush(&self) -> io::Result<()> {
        match self.judge(Op::Flush, 0, 0)? {
            Verdict::GoOn => self.inner.flush(),
            Verdict::Done => Ok(()),
        }
    }

    fn write_back(&self, offset: u64, length: u64) {
        self.inner.write_back(offset, length);
    }

    fn lock(&self, fence: u64) -> io::Result<()> {
        self.inner.lock(fence)
    }

    fn unlock(&self, fence: u64) -> io::Result<()> {
        self.inner.unlock(fence)
    }

    fn is_locked_elsewhere(&self, fence: u64) -> io::Result<bool> {
        self.inner.is_locked_elsewhere(fence)
    }
}
