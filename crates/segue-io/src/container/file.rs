//! Files, through the page cache or past it (O_DIRECT), and what block devices share with them.
//!
//! Which of the two belongs to the container and is the same for everybody (design, section 3):
//! mixed, one side would read what the other has not written yet.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::FENCES_END;
use super::backing::{Backing, ZeroHow};
use crate::buffer::{ALIGN_BYTES, Buffer};
use crate::sys;

/// Locks of fences lie on bytes no file has: this plus the fence's 61 bits.
pub(super) const FENCE_AT: u64 = 1 << 62;
/// Granularity of what is punched out on a trim.
const TRIM_UNIT_BYTES: u64 = 4096;
/// Zeroes are written out in pieces of this size where the file system cannot do better.
const ZERO_PIECE_BYTES: u64 = 1 << 20;
/// Writes through the page cache go in pieces of this size.  A larger one makes a larger folio (ext4,
/// Linux 6.18), and every small write to it has to walk all its buffers: 4 us up to this size, 11 to 16
/// for 1 MiB.
const CACHED_PIECE_BYTES: usize = 256 << 10;

/// How a container's bytes are cached: one answer for all who open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// The kernel's page cache: all users on one machine.
    Page,
    /// O_DIRECT.
    Direct,
}

impl Cache {
    /// Reads the word used in messages: "page" or "direct".
    ///
    /// # Errors
    /// InvalidInput for any other word.
    pub fn parse(word: &str) -> io::Result<Cache> {
        match word {
            "page" => Ok(Cache::Page),
            "direct" => Ok(Cache::Direct),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("unknown way of caching: {word:?} (page or direct)"),
            )),
        }
    }
}

fn direct_flag(cache: Cache) -> i32 {
    match cache {
        Cache::Page => 0,
        Cache::Direct => libc::O_DIRECT,
    }
}

/// An open file, or an open block device.
#[derive(Debug)]
pub struct FileBacking {
    file: File,
    cache: Cache,
    unit_bytes: u32,
    /// Another description of a file in the page cache, which does no I/O and needs no lock: pages
    /// are written back through it. Of a loss that it is told of, `file` is told as well.
    beside: Option<File>,
}

impl FileBacking {
    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// Those of open(2); EINVAL if O_DIRECT is not to be had on this file system.
    pub fn open(path: &Path, cache: Cache) -> io::Result<FileBacking> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(direct_flag(cache))
            .open(path)?;
        Ok(Self::of(file, cache))
    }

    /// Opens a file to make a container of it; `true`: it was not there before.
    ///
    /// # Errors
    /// AlreadyExists if it is no regular file; else those of open(2).
    pub(super) fn open_or_create(path: &Path, cache: Cache) -> io::Result<(FileBacking, bool)> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(direct_flag(cache));
        let (file, is_new) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (options.open(path)?, false)
            }
            made => (made?, true),
        };
        if !file.metadata()?.is_file() {
            let what = format!("{} is no regular file", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok((Self::of(file, cache), is_new))
    }

    /// An open block device.
    ///
    /// # Errors
    /// Those of asking for its logical block, which is its write unit.
    pub(super) fn block(file: File) -> io::Result<FileBacking> {
        let unit_bytes = sys::logical_block_bytes(&file)?;
        Ok(FileBacking {
            file,
            cache: Cache::Direct,
            unit_bytes,
            beside: None,
        })
    }

    /// Throws away what the file holds and makes it `size_bytes` long, all holes, durably.
    pub(super) fn make_empty(&self, size_bytes: u64) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.set_len(size_bytes)?;
        self.file.sync_all()
    }

    /// Whether the file is empty or nothing but holes.
    pub(super) fn is_hollow(&self) -> io::Result<bool> {
        Ok(self.size_bytes()? == 0 || sys::first_data(&self.file, 0)?.is_none())
    }

    /// Whether that path names it now.
    pub(super) fn is_at(&self, path: &Path) -> io::Result<bool> {
        let mine = self.file.metadata()?;
        match path.metadata() {
            Ok(there) => Ok((there.dev(), there.ino()) == (mine.dev(), mine.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Its description once more: the locks taken on it last as long as this.
    pub(super) fn description(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Whether any other description has a lock of Segue's on it.
    pub(super) fn is_used_elsewhere(&self) -> io::Result<bool> {
        sys::is_run_locked_elsewhere(&self.file, FENCE_AT, FENCES_END)
    }

    fn of(file: File, cache: Cache) -> FileBacking {
        let unit_bytes = match cache {
            Cache::Page => 1,
            Cache::Direct => sys::direct_unit_bytes(&file),
        };
        // Without it flushes take their time where others wait for them.
        let beside = match cache {
            Cache::Page => File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).ok(),
            Cache::Direct => None,
        };
        FileBacking {
            file,
            cache,
            unit_bytes,
            beside,
        }
    }

    fn read_whole(&self, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            let count = sys::pread(&self.file, buffer, offset, 0)?;
            if count == 0 {
                return Err(sys::os_error(libc::EIO));
            }
            buffer = &mut buffer[count..];
            offset += count as u64;
        }
        Ok(())
    }

    fn write_whole(&self, mut offset: u64, mut data: &[u8], flags: i32) -> io::Result<()> {
        // Pieces of a durable write would each be waited for.
        let piece_bytes = match self.cache {
            Cache::Page if flags == 0 => CACHED_PIECE_BYTES,
            _ => usize::MAX,
        };
        while !data.is_empty() {
            let piece = &data[..data.len().min(piece_bytes)];
            let count = sys::pwrite(&self.file, piece, offset, flags)?;
            if count == 0 {
                return Err(sys::os_error(libc::EIO));
            }
            data = &data[count..];
            offset += count as u64;
        }
        Ok(())
    }

    fn fits_direct(&self, offset: u64, buffer: &[u8]) -> bool {
        let unit = u64::from(self.unit_bytes);
        offset % unit == 0
            && buffer.len() as u64 % unit == 0
            && buffer.as_ptr() as usize % ALIGN_BYTES == 0
    }

    /// Reads the units around a range that O_DIRECT cannot read as it is.
    fn read_around(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let unit = u64::from(self.unit_bytes);
        let start = offset - offset % unit;
        let end = (offset + buffer.len() as u64).next_multiple_of(unit);
        let around = Buffer::new((end - start) as usize);
        // SAFETY: `around` is this function's own.
        let all = unsafe { around.part_mut(0, (end - start) as usize) };
        self.read_whole(start, all)?;
        let skip = (offset - start) as usize;
        buffer.copy_from_slice(&all[skip..skip + buffer.len()]);
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let zeroes = Buffer::new(ZERO_PIECE_BYTES.min(length) as usize);
        let mut done = 0;
        while done < length {
            let count = ZERO_PIECE_BYTES.min(length - done);
            self.write_whole(offset + done, zeroes.part(0, count as usize), 0)?;
            done += count;
        }
        Ok(())
    }
}

impl Backing for FileBacking {
    fn size_bytes(&self) -> io::Result<u64> {
        // A block device has no length of its own, but an end.
        (&self.file).seek(SeekFrom::End(0))
    }

    fn unit_bytes(&self) -> u32 {
        self.unit_bytes
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.cache == Cache::Direct && !self.fits_direct(offset, buffer) {
            return self.read_around(offset, buffer);
        }
        self.read_whole(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        let flags = if fua { libc::RWF_DSYNC } else { 0 };
        if self.cache == Cache::Direct && !self.fits_direct(offset, data) {
            let copy = Buffer::new(data.len());
            // SAFETY: `copy` is this function's own.
            unsafe { copy.part_mut(0, data.len()) }.copy_from_slice(data);
            return self.write_whole(offset, copy.part(0, data.len()), flags);
        }
        self.write_whole(offset, data, flags)
    }

    fn zero(&self, offset: u64, length: u64, how: ZeroHow) -> io::Result<()> {
        let mode = if how.no_hole {
            libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE
        } else {
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE
        };
        match sys::fallocate(&self.file, mode, offset, length) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) && !how.fast => {
                self.write_zeroes(offset, length)?;
            }
            done => done?,
        }
        if how.fua {
            self.flush()?;
        }
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64) -> io::Result<()> {
        let start = offset.next_multiple_of(TRIM_UNIT_BYTES);
        let end = (offset + length) / TRIM_UNIT_BYTES * TRIM_UNIT_BYTES;
        if start >= end {
            return Ok(());
        }
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        match sys::fallocate(&self.file, mode, start, end - start) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            done => done,
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write_back(&self, offset: u64, length: u64) {
        if let Some(beside) = &self.beside {
            sys::write_back(beside, offset, length);
        }
    }

    fn lock(&self, fence: u64) -> io::Result<()> {
        sys::lock_byte(&self.file, FENCE_AT + fence).map_err(|error| match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES) => sys::os_error(libc::EBUSY),
            _ => error,
        })
    }

    fn unlock(&self, fence: u64) -> io::Result<()> {
        sys::unlock_byte(&self.file, FENCE_AT + fence)
    }

    fn is_locked_elsewhere(&self, fence: u64) -> io::Result<bool> {
        sys::is_locked_elsewhere(&self.file, FENCE_AT + fence)
    }

    #[inline]
    fn try_read(&self, offset: u64, buffer: &mut [u8]) -> Option<io::Result<()>> {
        if self.cache == Cache::Direct {
            return None;
        }
        // A miss, a short read at the cache's edge and a real error all go to a thread that may
        // block: it finds out which it was.
        match sys::pread(&self.file, buffer, offset, libc::RWF_NOWAIT) {
            Ok(count) if count == buffer.len() => Some(Ok(())),
            _ => None,
        }
    }

    #[inline]
    fn try_write(&self, offset: u64, data: &[u8]) -> Option<io::Result<()>> {
        if self.cache == Cache::Direct {
            return None;
        }
        Some(self.write_whole(offset, data, 0))
    }

    fn direct_fd(&self) -> Option<RawFd> {
        (self.cache == Cache::Direct).then(|| self.file.as_raw_fd())
    }
}
