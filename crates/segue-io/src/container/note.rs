//! The note of a failed sync: what a process was told and nobody else may know (promise P5).
//!
//! A kernel tells of a page that it could not write those who have the file open, once. A process
//! that was told and dies before the controller has it durably takes that with it, and if the
//! controllers that had the file open die too, a later flush of the same data succeeds. So whoever
//! is told writes it into the container, before it tells anybody else; a controller that finds it
//! marks the disks, durably, and takes it away.
//!
//! One block of 4 KiB behind the header's two slots. Zeroes, and whatever does not check out, are no
//! note; Segue before there were notes left zeroes there. Numbers are little-endian:
//!
//! ```text
//!  0  8 magic "SEGUENOT"     16 16 container     40  8 serial: CLOCK_BOOTTIME of its holder, ns
//!  8  4 errno                32  8 holder's fence      4092  4 crc32c of all before it
//! ```
//!
//! **Who may write it** (rule 11). Whoever holds a fence there and has a sync under way: the note is
//! part of that sync, so the fence's lock is kept until the note is written. That the lease is over
//! meanwhile is no matter: it says who may touch data, and nobody relies on what this block says but
//! to fail. One to whom nothing belongs there any more finds another header, or none, and writes
//! nothing. A lock of its own keeps writers apart, not that of stamps: a stamp waits for nobody.
//!
//! **One is enough.** Who finds a note standing leaves it: it goes only when a mark of every disk
//! there is durable, and an operator's `clear-error` has it taken away before the marks.

use std::io;
use std::sync::PoisonError;
use std::time::Duration;

use super::backing::Backing;
use super::header::{Header, Identity, SLOT_BYTES, u32_at, u64_at};
use super::{Container, NOTE_FENCE};
use crate::buffer::Buffer;
use crate::sys::{self, boottime_ns, errno_of};

/// Where it lies.
pub const NOTE_AT_BYTES: u64 = 2 * SLOT_BYTES as u64;
const MAGIC: &[u8; 8] = b"SEGUENOT";
const CRC_AT: usize = SLOT_BYTES - 4;
/// How often another writer is waited for, and how long each time.
const LOCK_TRIES: u32 = 1000;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// That a sync of a container failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// What the storage said.
    pub errno: i32,
    /// Whose sync it was.
    pub holder: u64,
    /// Unlike that of any other note of its holder.
    pub serial: u64,
}

impl Note {
    fn encode(&self, container: &Identity) -> [u8; SLOT_BYTES] {
        let mut out = [0; SLOT_BYTES];
        out[0..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&self.errno.to_le_bytes());
        out[16..32].copy_from_slice(container);
        out[32..40].copy_from_slice(&self.holder.to_le_bytes());
        out[40..48].copy_from_slice(&self.serial.to_le_bytes());
        let crc = crc32c::crc32c(&out[..CRC_AT]);
        out[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8], container: &Identity) -> Option<Note> {
        let sound = &bytes[0..8] == MAGIC
            && &bytes[16..32] == container
            && crc32c::crc32c(&bytes[..CRC_AT]) == u32_at(bytes, CRC_AT);
        sound.then(|| Note {
            errno: i32::from_le_bytes(bytes[8..12].try_into().expect("four bytes")),
            holder: u64_at(bytes, 32),
            serial: u64_at(bytes, 40),
        })
    }
}

fn write(backing: &dyn Backing, block: &[u8; SLOT_BYTES]) -> io::Result<()> {
    let buffer = Buffer::new(SLOT_BYTES);
    // SAFETY: `buffer` is this function's own.
    unsafe { buffer.part_mut(0, SLOT_BYTES) }.copy_from_slice(block);
    backing.write(NOTE_AT_BYTES, buffer.part(0, SLOT_BYTES), true)
}

/// Takes away what an earlier container may have left, durably.
pub(super) fn wipe(backing: &dyn Backing) -> io::Result<()> {
    write(backing, &[0; SLOT_BYTES])
}

impl Container {
    /// [`Container::flush_in_order`]; fails with EIO too while a note stands, whoever wrote it.
    ///
    /// # Errors
    /// The storage's; EIO if a sync of anybody's has failed and no disk is marked for it yet.
    pub fn flush_hearing(&self) -> io::Result<()> {
        self.flush_in_order()?;
        match self.note()? {
            Some(_) => Err(sys::os_error(libc::EIO)),
            None => Ok(()),
        }
    }

    /// The note that stands there; never one across the network, where no sync fails (decision 0008).
    ///
    /// # Errors
    /// The storage's.
    pub fn note(&self) -> io::Result<Option<Note>> {
        if self.backing.port().is_some() {
            return Ok(None);
        }
        let buffer = Buffer::new(SLOT_BYTES);
        // SAFETY: `buffer` is this function's own.
        let bytes = unsafe { buffer.part_mut(0, SLOT_BYTES) };
        self.backing.read(NOTE_AT_BYTES, bytes)?;
        Ok(Note::decode(bytes, &self.header.container))
    }

    /// A sync has failed: leaves a note, as well as that can be done. To be called before the sync
    /// counts as ended, on a thread that may block.
    pub fn leave_note(&self, errno: i32) {
        if self.backing.port().is_some() {
            return;
        }
        if let Err(error) = self.keeping_others_out(|| self.leave_note_locked(errno)) {
            crate::log(format_args!("{}: no note is left: {error}", self.uri));
        }
    }

    fn leave_note_locked(&self, errno: i32) -> io::Result<()> {
        if !self.is_still_ours()? || matches!(self.note(), Ok(Some(_))) {
            return Ok(());
        }
        let note = Note {
            errno,
            holder: self.fence,
            serial: boottime_ns(),
        };
        write(&*self.backing, &note.encode(&self.header.container))
    }

    /// Takes a note away, durably, if it is still that one.
    ///
    /// # Errors
    /// The storage's: then a note stands, this one or what is told of that very failure.
    pub fn clear_note(&self, seen: Note) -> io::Result<()> {
        self.syncs.in_order(|| {
            let cleared = self.keeping_others_out(|| {
                if self.note()? != Some(seen) || !self.is_still_ours()? {
                    return Ok(());
                }
                // Durable: it may be told of a loss that a flush should have been told of.
                wipe(&*self.backing).inspect_err(|error| {
                    let _ = self.leave_note_locked(errno_of(error));
                })
            });
            cleared.inspect_err(|_| self.loss_may_be_told())
        })
    }

    fn is_still_ours(&self) -> io::Result<bool> {
        let found = Header::read(&*self.backing)?;
        Ok(found.is_some_and(|header| header.container == self.header.container))
    }

    /// Runs `body` while nobody else writes there; after a while, all the same: whoever hangs there
    /// may die of it, and its note with it.
    fn keeping_others_out(&self, body: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let _noting = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut locked = self.backing.lock(NOTE_FENCE);
        for _ in 0..LOCK_TRIES {
            match &locked {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                _ => break,
            }
            std::thread::sleep(LOCK_PAUSE);
            locked = self.backing.lock(NOTE_FENCE);
        }
        let done = body();
        if locked.is_ok() {
            self.backing.unlock(NOTE_FENCE)?;
        }
        done
    }
}

#[cfg(test)]
#[path = "note_tests.rs"]
mod tests;
