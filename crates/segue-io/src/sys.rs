//! The system calls of the data plane, each with its errors as `io::Error`.
//!
//! All `unsafe` that only crosses into the kernel lives here; what it needs of its arguments is
//! guaranteed by their Rust types.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

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

/// Removes what a dead process has left of a unix socket that it listened on, and nothing else.
///
/// # Errors
/// Those of unlink(2).
pub fn remove_dead_socket(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refuses = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refuses) {
        fs::remove_file(path)?;
    }
    Ok(())
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

/// What a server's unix socket holds of replies; the kernel doubles it, for its own needs.
pub const SEND_BUFFER_BYTES: i32 = 1 << 20;

/// Lets a socket hold that many bytes that its other end has not taken; less where that is forbidden.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_send_buffer(socket: &impl AsRawFd, size_bytes: i32) -> io::Result<()> {
    // Past the system's limit if we may.
    set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, size_bytes)
        .or_else(|_| set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, size_bytes))
}

fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let (at, size) = (std::ptr::from_ref(&value).cast(), size_of_val(&value));
    // SAFETY: `value` is of the size named, and only read.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, at, size as libc::socklen_t) };
    checked(done as isize).map(drop)
}

/// Has the kernel find out when the other end of a TCP connection has vanished without a word:
/// after a minute of silence it asks, and gives up after another.
///
/// # Errors
/// Those of setsockopt(2).
pub fn keep_alive(socket: &impl AsRawFd) -> io::Result<()> {
    let options = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 60),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 15),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 4),
    ];
    for (level, name, value) in options {
        set_option(socket, level, name, value)?;
    }
    Ok(())
}

/// Whether what a TCP socket has not sent yet is thrown away when it is closed, by its process's end
/// too; else the kernel goes on sending it for minutes.
///
/// # Errors
/// Those of setsockopt(2).
pub fn abort_on_close(fd: RawFd, aborts: bool) -> io::Result<()> {
    let value = libc::linger {
        l_onoff: libc::c_int::from(aborts),
        l_linger: 0,
    };
    let size = size_of_val(&value) as libc::socklen_t;
    let (level, name) = (libc::SOL_SOCKET, libc::SO_LINGER);
    // SAFETY: `value` is of the size named, and only read.
    let done =
        unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(&value).cast(), size) };
    checked(done as isize).map(drop)
}

/// Begins a TCP connection: a non-blocking, close-on-exec socket, writable when it is decided.
///
/// # Errors
/// Those of socket(2) and connect(2).
pub fn connect_begin(address: &std::net::SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let fd = stream_socket(family)?;
    let done = match address {
        std::net::SocketAddr::V4(v4) => {
            // SAFETY: all-zero is a valid sockaddr_in.
            let mut raw: libc::sockaddr_in = unsafe { std::mem::zeroed() };
            raw.sin_family = libc::AF_INET as u16;
            raw.sin_port = v4.port().to_be();
            raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            connect(&fd, &raw)
        }
        std::net::SocketAddr::V6(v6) => {
            // SAFETY: all-zero is a valid sockaddr_in6.
            let mut raw: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
            raw.sin6_family = libc::AF_INET6 as u16;
            raw.sin6_port = v6.port().to_be();
            raw.sin6_addr.s6_addr = v6.ip().octets();
            raw.sin6_scope_id = v6.scope_id();
            connect(&fd, &raw)
        }
    };
    match done {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(fd),
    }
}

/// Connects to a unix socket, never waiting: a non-blocking, close-on-exec socket.
///
/// # Errors
/// Those of socket(2) and connect(2): WouldBlock if as many connections wait there to be taken in as
/// may; InvalidInput for a path that no socket can have.
pub fn connect_unix(path: &Path) -> io::Result<OwnedFd> {
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut raw: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    raw.sun_family = libc::AF_UNIX as u16;
    let bytes = path.as_os_str().as_bytes();
    // A zero ends it.
    if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= raw.sun_path.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in raw.sun_path.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let fd = stream_socket(libc::AF_UNIX)?;
    connect(&fd, &raw)?;
    Ok(fd)
}

fn stream_socket(family: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no memory is passed; the result is a descriptor of ours alone.
    let fd = checked(unsafe { libc::socket(family, kind, 0) as isize })?;
    // SAFETY: just made.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn connect<T>(fd: &OwnedFd, address: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: `address` is a socket address of that size, and only read.
    checked(unsafe {
        libc::connect(fd.as_raw_fd(), std::ptr::from_ref(address).cast(), size) as isize
    })
    .map(drop)
}

/// How a connection begun by [`connect_begin`] was decided; sets what one to a server needs.
///
/// # Errors
/// Those of connect(2) and setsockopt(2).
pub fn connect_end(fd: RawFd) -> io::Result<()> {
    let mut error: libc::c_int = 0;
    let mut size = size_of_val(&error) as libc::socklen_t;
    // SAFETY: `error` is of the size named.
    checked(unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &raw mut size,
        ) as isize
    })?;
    if error != 0 {
        return Err(os_error(error));
    }
    let one: libc::c_int = 1;
    let size = size_of_val(&one) as libc::socklen_t;
    // SAFETY: `one` is of the size named, and only read.
    checked(unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const one).cast(),
            size,
        ) as isize
    })?;
    // SAFETY: the caller's descriptor is open while it calls.
    keep_alive(&unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) })
}

/// One sendmsg(2) of several pieces on a socket, never waiting; gives the bytes taken.
///
/// # Errors
/// Those of the call; EINTR is retried.
pub fn send_pieces(socket: RawFd, pieces: &[&[u8]]) -> io::Result<usize> {
    let mut iovs: Vec<libc::iovec> = pieces
        .iter()
        .map(|bytes| libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        })
        .collect();
    // SAFETY: all-zero is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovs.as_mut_ptr();
    message.msg_iovlen = iovs.len();
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    loop {
        // SAFETY: the iovecs name live bytes that the kernel only reads.
        match checked(unsafe { libc::sendmsg(socket, &message, flags) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Waits until a socket takes more to send, has failed, or is shut; gives whether that came to be.
///
/// # Errors
/// Those of poll(2); EINTR is retried, with the whole time again.
pub fn wait_writable(socket: RawFd, limit: std::time::Duration) -> io::Result<bool> {
    let mut polled = libc::pollfd {
        fd: socket,
        events: libc::POLLOUT,
        revents: 0,
    };
    let limit_ms = libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX);
    loop {
        // SAFETY: `polled` is one live pollfd.
        match checked(unsafe { libc::poll(&raw mut polled, 1, limit_ms) as isize }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done.map(|count| count > 0),
        }
    }
}

/// One recv(2), never waiting; 0: the end of the stream.
///
/// # Errors
/// Those of the call.
pub fn receive(socket: RawFd, into: &mut [u8]) -> io::Result<usize> {
    let (memory, length) = (into.as_mut_ptr().cast(), into.len());
    // SAFETY: `into` is live and exclusive.
    checked(unsafe { libc::recv(socket, memory, length, libc::MSG_DONTWAIT) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn nothing_but_a_dead_socket_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, socket) = (folder.path().join("file"), folder.path().join("socket"));
        fs::write(&file, b"storage").unwrap();
        let alive = UnixListener::bind(&socket).unwrap();
        for path in [&file, &socket, &folder.path().join("nothing")] {
            remove_dead_socket(path).unwrap();
        }
        assert!(file.exists() && socket.exists());
        drop(alive);
        remove_dead_socket(&socket).unwrap();
        assert!(!socket.exists());
    }
}
