//! The one small trait for what stores a container's bytes.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::header::Identity;
use super::nbd::Port;
use crate::sys::os_error;

/// Asked right before I/O is begun: whether it may be.
pub type Gate = Arc<dyn Fn() -> bool + Send + Sync>;

/// What may be done to find out that a holder's I/O has ended, where asking alone is no proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing: its lease may still run.
    Ask,
    /// End its sessions: its lease is over, so it begins nothing on one that it makes after that.
    Sessions,
    /// End its sessions and let it make no more: it has been replaced.
    Forever,
}

/// How a range is made to read as zeroes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ZeroHow {
    /// The range must stay allocated (NBD's NO_HOLE).
    pub no_hole: bool,
    /// Fail with EOPNOTSUPP rather than write zeroes out (NBD's FAST_ZERO).
    pub fast: bool,
    /// Durable before it returns.
    pub fua: bool,
}

/// Something that stores bytes: a file, or a wrapper that behaves worse than one on purpose.
///
/// Offsets and lengths are in bytes from its very start, header included. Reads and writes are
/// whole or an error. All methods may be called from several threads at once; all but `try_*` may
/// block. Ranges are multiples of [`Backing::unit_bytes`], except those of reads.
pub trait Backing: Send + Sync + std::fmt::Debug {
    /// Its size now, in bytes.
    ///
    /// # Errors
    /// Whatever the storage says; so for all methods here.
    fn size_bytes(&self) -> io::Result<u64>;

    /// The smallest write it takes, in bytes: a power of two, 1 to 4096.
    fn unit_bytes(&self) -> u32;

    /// Fills `buffer` from `offset`; EIO where the storage ends early.
    ///
    /// # Errors
    /// See [`Backing::size_bytes`].
    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `data` at `offset`; with `fua`, durable before it returns.
    ///
    /// # Errors
    /// See [`Backing::size_bytes`]; part of the data may have been written.
    fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()>;

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// EOPNOTSUPP only with `how.fast`; else see [`Backing::size_bytes`].
    fn zero(&self, offset: u64, length: u64, how: ZeroHow) -> io::Result<()>;

    /// Says that a range is no longer needed; afterwards each of its blocks reads as before or as
    /// zeroes.
    ///
    /// # Errors
    /// See [`Backing::size_bytes`].
    fn trim(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Makes every write durable that was answered before this call, by whichever process.
    ///
    /// # Errors
    /// See [`Backing::size_bytes`]: then what was written since the last success may be lost.
    fn flush(&self) -> io::Result<()>;

    /// Waits until most of what a flush would wait for in a range (`length` 0: from there to the end)
    /// is written, and says nothing of how that went: it makes nothing durable, and takes no error
    /// from the next [`Backing::flush`].
    fn write_back(&self, _offset: u64, _length: u64) {}

    /// Takes the lock of a fence (61 bits) on the very description that does the I/O, so that
    /// requests in flight keep it (design, section 4, "Fences").
    ///
    /// # Errors
    /// EBUSY if somebody holds it, or what keeps the storage from having locks.
    fn lock(&self, fence: u64) -> io::Result<()>;

    /// Gives the lock of `fence` back.
    ///
    /// # Errors
    /// See [`Backing::size_bytes`].
    fn unlock(&self, fence: u64) -> io::Result<()>;

    /// Whether somebody else holds the lock of `fence`.
    ///
    /// # Errors
    /// See [`Backing::size_bytes`]: then nothing is known.
    fn is_locked_elsewhere(&self, fence: u64) -> io::Result<bool>;

    /// From now on only that container is meant, wherever the storage is found again.
    fn expect(&self, _container: Identity, _installation: Option<Identity>) {}

    /// [`Backing::write`], if `may_begin` says so right before it is begun; ECANCELED if not.
    ///
    /// # Errors
    /// See [`Backing::write`].
    fn write_if(&self, offset: u64, data: &[u8], fua: bool, may_begin: &Gate) -> io::Result<()> {
        match may_begin() {
            true => self.write(offset, data, fua),
            false => Err(os_error(libc::ECANCELED)),
        }
    }

    /// Across the network: writes of blocking calls may begin until then, CLOCK_BOOTTIME.
    fn set_lease(&self, _until_ns: u64) {}

    /// Where jobs are handed in, for storage across the network.
    fn port(&self) -> Option<&Port> {
        None
    }

    /// Whether no I/O of the holder of `fence` can be under way, or begin, here: see [`Ending`].
    ///
    /// # Errors
    /// See [`Backing::size_bytes`]: then nothing is known, and it counts as under way.
    fn fence_ended(&self, fence: u64, _ending: Ending) -> io::Result<bool> {
        Ok(!self.is_locked_elsewhere(fence)?)
    }

    /// [`Backing::read`] if that cannot block; `None`: it can, nothing is known of the buffer.
    #[inline]
    fn try_read(&self, _offset: u64, _buffer: &mut [u8]) -> Option<io::Result<()>> {
        None
    }

    /// [`Backing::write`] without FUA if that is only a copy into memory; `None`: it is more.
    #[inline]
    fn try_write(&self, _offset: u64, _data: &[u8]) -> Option<io::Result<()>> {
        None
    }

    /// The descriptor, if reads and writes that are multiples of the unit may go to it past all
    /// this (io_uring); only for O_DIRECT.
    fn direct_fd(&self) -> Option<RawFd> {
        None
    }
}
