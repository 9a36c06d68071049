//! Sockets: how they are connected, set up, and used without waiting.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::{checked, os_error};

/// Removes what a dead process has left of a unix socket that it listened on, and nothing else.
///
/// # Errors
/// Those of unlink(2).
pub fn remove_dead_socket(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refuses = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && connect_unix(path).is_err_and(refuses) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// What a server's unix socket holds of replies; the kernel doubles it, for its own needs.
pub const SEND_BUFFER_BYTES: i32 = 1 << 20;

/// Lets a socket hold that many bytes that its other end has not taken; less where that is forbidden.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_send_buffer(socket: RawFd, size_bytes: i32) -> io::Result<()> {
    // Past the system's limit if we may.
    let set = |name| set_option(socket, libc::SOL_SOCKET, name, &size_bytes);
    set(libc::SO_SNDBUFFORCE).or_else(|_| set(libc::SO_SNDBUF))
}

/// `T` is what the option takes.
fn set_option<T: Copy>(socket: RawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let (at, size) = (std::ptr::from_ref(value).cast(), size_of_val(value));
    // SAFETY: `value` is of the size named, and only read.
    let done = unsafe { libc::setsockopt(socket, level, name, at, size as libc::socklen_t) };
    checked(done as isize).map(drop)
}

/// Has the kernel find out when the other end of a TCP connection has vanished without a word:
/// after a minute of silence it asks, and gives up after another.
///
/// # Errors
/// Those of setsockopt(2).
pub fn keep_alive(socket: RawFd) -> io::Result<()> {
    let options: [(i32, i32, libc::c_int); 4] = [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 60),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 15),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 4),
    ];
    for (level, name, value) in options {
        set_option(socket, level, name, &value)?;
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
    set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, &value)
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
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &one)?;
    keep_alive(fd)
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
