//! A wrapper that knows what was not flushed, so that a test can make the storage forget it.
//!
//! Everybody sees the newest bytes at once, as with a disk's own cache. Before a block changes for
//! the first time since the last flush, its old bytes are saved beside the container, in
//! `PATH.unflushed`, whatever process writes it; a flush throws the saved bytes away. When all
//! processes are dead, [`power_loss`] puts old bytes back, sector by sector as a seed decides:
//! storage is free to have kept any part of what was not flushed.
//!
//! ```text
//! PATH.unflushed: one byte per block (0 or 1: saved), then, from SAVED_AT, the saved blocks
//! ```
//!
//! One lock (flock on the side file, and a mutex within a process) covers each change together
//! with its saving; reads take none. Slow by design, right by design.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use super::backing::{Backing, ZeroHow};
use crate::buffer::Buffer;

const BLOCK_BYTES: u64 = 4096;
const SECTOR_BYTES: usize = 512;
/// Where the saved blocks start: behind the marks of any container up to 256 TiB.
const SAVED_AT: u64 = 1 << 36;

/// See the module's text.
#[derive(Debug)]
pub struct Forgetful {
    inner: Arc<dyn Backing>,
    side: Mutex<File>,
}

fn side_path(path: &Path) -> PathBuf {
    let mut side = path.as_os_str().to_owned();
    side.push(".unflushed");
    side.into()
}

/// Both locks, given back on drop.
struct Held<'a>(MutexGuard<'a, File>);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // SAFETY: no memory is passed.
        unsafe { libc::flock(self.0.as_raw_fd(), libc::LOCK_UN) };
    }
}

impl Forgetful {
    /// Wraps `inner`, whose file is `path`.
    ///
    /// # Errors
    /// Those of opening or making the side file.
    pub fn open(inner: Arc<dyn Backing>, path: &Path) -> io::Result<Forgetful> {
        let side = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(side_path(path))?;
        Ok(Forgetful {
            inner,
            side: Mutex::new(side),
        })
    }

    fn hold(&self) -> io::Result<Held<'_>> {
        let guard = self
            .side
            .lock()
            .map_err(|_| io::Error::other("a holder panicked"))?;
        // SAFETY: no memory is passed.
        if unsafe { libc::flock(guard.as_raw_fd(), libc::LOCK_EX) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Held(guard))
    }

    /// Saves what of the range is not saved yet.
    fn save(&self, held: &Held<'_>, offset: u64, length: u64) -> io::Result<()> {
        let buffer = Buffer::new(BLOCK_BYTES as usize);
        let size_bytes = self.inner.size_bytes()?;
        for block in offset / BLOCK_BYTES..(offset + length).div_ceil(BLOCK_BYTES) {
            if marks(&held.0, block, 1)?[0] != 0 {
                continue;
            }
            let count = BLOCK_BYTES.min(size_bytes - block * BLOCK_BYTES) as usize;
            // SAFETY: `buffer` is this function's own.
            let bytes = unsafe { buffer.part_mut(0, count) };
            self.inner.read(block * BLOCK_BYTES, bytes)?;
            held.0.write_all_at(bytes, SAVED_AT + block * BLOCK_BYTES)?;
            held.0.write_all_at(&[1], block)?;
        }
        Ok(())
    }

    /// What FUA covers cannot be forgotten any more.
    fn forget_saved(held: &Held<'_>, offset: u64, length: u64) -> io::Result<()> {
        let first = offset / BLOCK_BYTES;
        let end = (offset + length).div_ceil(BLOCK_BYTES);
        held.0.write_all_at(&vec![0; (end - first) as usize], first)
    }
}

/// The marks of `count` blocks; those beyond the end of the side file are 0.
fn marks(side: &File, first: u64, count: usize) -> io::Result<Vec<u8>> {
    let mut out = vec![0; count];
    let mut at = 0;
    while at < count {
        match side.read_at(&mut out[at..], first + at as u64)? {
            0 => break,
            got => at += got,
        }
    }
    Ok(out)
}

impl Backing for Forgetful {
    fn size_bytes(&self) -> io::Result<u64> {
        self.inner.size_bytes()
    }

    fn unit_bytes(&self) -> u32 {
        self.inner.unit_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        let held = self.hold()?;
        self.save(&held, offset, data.len() as u64)?;
        self.inner.write(offset, data, fua)?;
        if fua {
            Self::forget_saved(&held, offset, data.len() as u64)?;
        }
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64, how: ZeroHow) -> io::Result<()> {
        let held = self.hold()?;
        self.save(&held, offset, length)?;
        self.inner.zero(offset, length, how)?;
        if how.fua {
            Self::forget_saved(&held, offset, length)?;
        }
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64) -> io::Result<()> {
        let held = self.hold()?;
        self.save(&held, offset, length)?;
        self.inner.trim(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        let held = self.hold()?;
        self.inner.flush()?;
        held.0.set_len(0)
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

/// What a power loss did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Blocks written since the last flush.
    pub unflushed_blocks: u64,
    /// Sectors of 512 bytes among them that got their old bytes back.
    pub sectors: u64,
}

/// Loses power: of what was written to the container at `path` since its last flush, each sector
/// is kept or lost as `seed` decides. Nobody may have the container open.
///
/// # Errors
/// Those of the two files; NotFound if the container was never opened as a forgetful one.
pub fn power_loss(path: &Path, seed: u64) -> io::Result<Forgotten> {
    let storage = OpenOptions::new().read(true).write(true).open(path)?;
    let side = OpenOptions::new()
        .read(true)
        .write(true)
        .open(side_path(path))?;
    let size_bytes = storage.metadata()?.len();
    let blocks = size_bytes.div_ceil(BLOCK_BYTES).min(side.metadata()?.len());
    let mut random = seed ^ 0x9E37_79B9_7F4A_7C15;
    let mut result = Forgotten::default();
    let mut saved = [0; BLOCK_BYTES as usize];
    for (block, mark) in (0u64..).zip(marks(&side, 0, blocks as usize)?) {
        if mark == 0 {
            continue;
        }
        result.unflushed_blocks += 1;
        side.read_exact_at(&mut saved, SAVED_AT + block * BLOCK_BYTES)?;
        // Three kinds of block: all lost, all kept, torn.
        random = next_random(random);
        let lost = match random >> 62 {
            0 => 0xff,
            1 => 0,
            _ => (random >> 16) as u8,
        };
        for (index, sector) in saved.chunks(SECTOR_BYTES).enumerate() {
            let at = block * BLOCK_BYTES + (index * SECTOR_BYTES) as u64;
            if lost >> index & 1 == 1 && at < size_bytes {
                storage.write_all_at(sector, at)?;
                result.sectors += 1;
            }
        }
    }
    side.set_len(0)?;
    storage.sync_all()?;
    Ok(result)
}

/// splitmix64: small, and good enough to draw sectors.
fn next_random(state: u64) -> u64 {
    let mut word = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}
