//! The system calls of the data plane, each with its errors as `io::Error`.
//!
//! All `unsafe` that only crosses into the kernel lives here; what it needs of its arguments is
//! guaranteed by their Rust types.

mod sockets;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub use sockets::{
    SEND_BUFFER_BYTES, abort_on_close, connect_begin, connect_end, connect_unix, keep_alive,
    receive, remove_dead_socket, send_pieces, set_send_buffer, wait_writable,
};

/// For calls on what is closed.
pub use libc::EBADF;

/// Nanoseconds of CLOCK_BOOTTIME: the clock of leases (design, section 4).
#[inline]
#[must_use]
pub fn boottime_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid timespec; the call cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The number of an error as hosts and the controller see it: its errno, EIO if it has none.
#[must_use]
pub fn errno_of(error: &io::Error) -> i32 {
    match error.raw_os_error() {
        Some(errno) => errno,
        None => match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => libc::EINVAL,
            io::ErrorKind::NotFound => libc::ENOENT,
            io::ErrorKind::AlreadyExists => libc::EEXIST,
            io::ErrorKind::Unsupported => libc::EOPNOTSUPP,
            io::ErrorKind::ResourceBusy => libc::EBUSY,
            _ => libc::EIO,
        },
    }
}

/// What went wrong in words alone: people are told no numbers.
#[must_use]
pub fn words_of(error: &io::Error) -> String {
    let said = error.to_string();
    match said.rfind(" (os error ") {
        Some(end) if error.raw_os_error().is_some() => said[..end].to_owned(),
        _ => said,
    }
}

/// An error with this number.
#[must_use]
pub fn os_error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// One preadv2(2) into one buffer; `flags` are RWF_*.
///
/// # Errors
/// Those of the call; EINTR is retried.
#[inline]
pub fn pread(file: &File, buffer: &mut [u8], offset: u64, flags: i32) -> io::Result<usize> {
    let iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    loop {
        // SAFETY: `iov` names a live, exclusive buffer of that length.
        let done =
            checked(unsafe { libc::preadv2(file.as_raw_fd(), &iov, 1, offset as i64, flags) });
        match done {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// One pwritev2(2) from one buffer; `flags` are RWF_*.
///
/// # Errors
/// Those of the call; EINTR is retried.
#[inline]
pub fn pwrite(file: &File, buffer: &[u8], offset: u64, flags: i32) -> io::Result<usize> {
    let iov = libc::iovec {
        iov_base: buffer.as_ptr().cast_mut().cast(),
        iov_len: buffer.len(),
    };
    loop {
        // SAFETY: `iov` names a live buffer of that length, which the kernel only reads.
        let done =
            checked(unsafe { libc::pwritev2(file.as_raw_fd(), &iov, 1, offset as i64, flags) });
        match done {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// fallocate(2).
///
/// # Errors
/// Those of the call; EINTR is retried.
pub fn fallocate(file: &File, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    loop {
        // SAFETY: no memory is passed.
        let done = checked(unsafe {
            libc::fallocate(file.as_raw_fd(), mode, offset as i64, length as i64) as isize
        });
        match done {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map(drop),
        }
    }
}

/// Has the dirty pages of a run of a file (`length` 0: to its end) written and waits for that:
/// sync_file_range(2). Nothing is durable by that; an error is left to whoever makes it so.
pub fn write_back(file: &File, offset: u64, length: u64) {
    let flags = libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: no memory is passed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset as i64, length as i64, flags) };
}

/// Takes a write lock, tied to this open file description, on one byte.
///
/// # Errors
/// EAGAIN or EACCES if another description holds it.
pub fn lock_byte(file: &File, at: u64) -> io::Result<()> {
    set_lock(file, at, libc::F_WRLCK)
}

/// Gives a lock of [`lock_byte`] back.
///
/// # Errors
/// Those of fcntl(2).
pub fn unlock_byte(file: &File, at: u64) -> io::Result<()> {
    set_lock(file, at, libc::F_UNLCK)
}

fn run_of_bytes(at: u64, count: u64, kind: i32) -> libc::flock {
    // SAFETY: all-zero is a valid flock, and l_pid must be 0 for OFD locks.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = at as i64;
    lock.l_len = count as i64;
    lock
}

fn set_lock(file: &File, at: u64, kind: i32) -> io::Result<()> {
    let lock = run_of_bytes(at, 1, kind);
    // SAFETY: `lock` is a valid flock.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) as isize }).map(drop)
}

/// Whether another open file description holds a lock on this byte.
///
/// # Errors
/// Those of fcntl(2).
pub fn is_locked_elsewhere(file: &File, at: u64) -> io::Result<bool> {
    is_run_locked_elsewhere(file, at, 1)
}

/// Whether another open file description holds a lock on any of these bytes.
///
/// # Errors
/// Those of fcntl(2).
pub fn is_run_locked_elsewhere(file: &File, at: u64, count: u64) -> io::Result<bool> {
    let mut lock = run_of_bytes(at, count, libc::F_WRLCK);
    // SAFETY: `lock` is a valid flock.
    checked(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) as isize })?;
    Ok(lock.l_type != libc::F_UNLCK as i16)
}

/// What O_DIRECT wants of offsets and lengths on this file, in bytes: 512 to 4096.
#[must_use]
pub fn direct_unit_bytes(file: &File) -> u32 {
    // SAFETY: all-zero is a valid statx.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH names the descriptor itself.
    let done = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &mut stat,
        )
    };
    if done == 0 && stat.stx_mask & libc::STATX_DIOALIGN != 0 && stat.stx_dio_offset_align > 0 {
        return stat
            .stx_dio_offset_align
            .next_power_of_two()
            .clamp(512, 4096);
    }
    4096
}

/// The logical block of a block device, in bytes: the smallest write it takes.
///
/// # Errors
/// Those of ioctl(2): ENOTTY for what is no block device.
pub fn logical_block_bytes(file: &File) -> io::Result<u32> {
    const BLKSSZGET: libc::Ioctl = 0x1268;
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one int.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET, &raw mut bytes) as isize })?;
    Ok(bytes.unsigned_abs().next_power_of_two().clamp(512, 4096))
}

/// Where the first data at or after `offset` lies; `None`: holes up to the end.
///
/// # Errors
/// Those of lseek(2).
pub fn first_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    // SAFETY: no memory is passed.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset as i64, libc::SEEK_DATA) };
    match checked(found as isize) {
        Ok(at) => Ok(Some(at as u64)),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// An eventfd, non-blocking and close-on-exec: how one thread wakes another.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one at zero.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: no memory is passed; the result is a descriptor of ours alone.
        let fd =
            checked(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) as isize })?;
        // SAFETY: just made.
        Ok(EventFd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    /// Makes it readable.
    pub fn signal(&self) {
        let one = 1u64;
        // SAFETY: eight readable bytes. It fails only at the counter's end, where it is readable.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    /// Makes it not readable.
    pub fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: eight writable bytes. It fails only if it is not readable already.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// An epoll set whose members are named by 64-bit keys.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

/// Interest in a member, or what was found: EPOLL* bits.
pub type Readiness = u32;

impl Epoll {
    /// A new, empty set.
    ///
    /// # Errors
    /// Those of epoll_create1(2).
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: no memory is passed.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) as isize })?;
        // SAFETY: just made.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }))
    }

    fn control(&self, what: i32, fd: RawFd, key: u64, interest: Readiness) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest,
            u64: key,
        };
        // SAFETY: `event` is valid.
        checked(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), what, fd, &mut event) as isize })
            .map(drop)
    }

    /// Adds a member.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn add(&self, fd: RawFd, key: u64, interest: Readiness) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, key, interest)
    }

    /// Changes what is waited for.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn change(&self, fd: RawFd, key: u64, interest: Readiness) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, key, interest)
    }

    /// Waits up to `timeout_ms` (-1: for ever); gives (key, readiness) pairs.
    ///
    /// # Errors
    /// Those of epoll_wait(2); EINTR counts as nothing found.
    pub fn wait<'a>(
        &self,
        events: &'a mut [libc::epoll_event],
        timeout_ms: i32,
    ) -> io::Result<&'a [libc::epoll_event]> {
        // SAFETY: `events` is a writable array of that length.
        let found = checked(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.as_mut_ptr(),
                events.len() as i32,
                timeout_ms,
            ) as isize
        });
        match found {
            Ok(count) => Ok(&events[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(&events[..0]),
            Err(error) => Err(error),
        }
    }
}
