//! Sockets that hosts connect to.

use std::fs;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::sys::{Epoll, SEND_BUFFER_BYTES, keep_alive, remove_dead_socket, set_send_buffer};

/// Connections taken in one turn.
const ACCEPTS_MAX: usize = 16;

#[derive(Debug)]
enum Socket {
    /// The path is removed at the end, if it is still this socket's (device and inode).
    Unix(UnixListener, PathBuf, (u64, u64)),
    Tcp(TcpListener),
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    /// Out of descriptors: not watched until a connection closes.
    is_paused: bool,
}

impl Listener {
    /// Listens on a unix socket; one left behind by a dead process is replaced.
    pub(super) fn unix(path: &Path) -> io::Result<Listener> {
        remove_dead_socket(path)?;
        let socket = UnixListener::bind(path)?;
        socket.set_nonblocking(true)?;
        let made = fs::symlink_metadata(path)?;
        let identity = (made.dev(), made.ino());
        Ok(Listener {
            socket: Socket::Unix(socket, path.to_owned(), identity),
            is_paused: false,
        })
    }

    /// Listens on a TCP port (0: any); gives the port.
    pub(super) fn tcp(address: impl ToSocketAddrs) -> io::Result<(Listener, u16)> {
        let socket = TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let port = socket.local_addr()?.port();
        Ok((
            Listener {
                socket: Socket::Tcp(socket),
                is_paused: false,
            },
            port,
        ))
    }

    pub(super) fn fd(&self) -> RawFd {
        match &self.socket {
            Socket::Unix(socket, ..) => socket.as_raw_fd(),
            Socket::Tcp(socket) => socket.as_raw_fd(),
        }
    }

    /// Takes waiting connections in: non-blocking sockets and who is at the other end.
    pub(super) fn accept(&mut self, epoll: &Epoll) -> Vec<(OwnedFd, String)> {
        let mut accepted = Vec::new();
        while accepted.len() < ACCEPTS_MAX {
            match self.accept_one() {
                Ok(connection) => accepted.push(connection),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    crate::log(format_args!("no more connections are taken: {error}"));
                    // Watched again when a connection closes; else this would spin.
                    self.is_paused = epoll.change(self.fd(), 0, 0).is_ok();
                    break;
                }
                // The client has gone already.
                Err(error) if error.raw_os_error() == Some(libc::ECONNABORTED) => {}
                Err(error) => {
                    crate::log(format_args!("a connection could not be taken: {error}"));
                    break;
                }
            }
        }
        accepted
    }

    fn accept_one(&self) -> io::Result<(OwnedFd, String)> {
        match &self.socket {
            Socket::Unix(socket, path, _) => {
                let (stream, _) = socket.accept()?;
                // A large read's reply goes out at once; else its client is waited for.
                set_send_buffer(stream.as_raw_fd(), SEND_BUFFER_BYTES)?;
                Ok((stream.into(), format!("unix:{}", path.display())))
            }
            Socket::Tcp(socket) => {
                let (stream, peer) = socket.accept()?;
                // Replies are sent whole; waiting for more only costs time.
                stream.set_nodelay(true)?;
                // A host that vanished must not keep its disk attached for ever.
                keep_alive(stream.as_raw_fd())?;
                Ok((stream.into(), peer.to_string()))
            }
        }
    }

    /// There may be descriptors again.
    pub(super) fn resume(&mut self, epoll: &Epoll, key: u64) {
        if std::mem::take(&mut self.is_paused)
            && epoll.change(self.fd(), key, libc::EPOLLIN as u32).is_err()
        {
            crate::log(format_args!("a listener could not be resumed"));
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path, identity) = &self.socket {
            let is_ours = fs::symlink_metadata(path)
                .is_ok_and(|found| (found.dev(), found.ino()) == *identity);
            if !is_ours {
                return;
            }
            if let Err(error) = fs::remove_file(path) {
                crate::log(format_args!(
                    "{} could not be removed: {error}",
                    path.display()
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_connections_are_kept_alive() {
        let (listener, port) = Listener::tcp("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        // Loopback: the connection is there once connect(2) has returned.
        let (socket, _) = listener.accept_one().unwrap();
        let (mut value, mut size): (libc::c_int, libc::socklen_t) = (0, 4);
        // SAFETY: both are of the sizes getsockopt(2) expects.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_KEEPALIVE,
                std::ptr::from_mut(&mut value).cast(),
                &mut size,
            )
        };
        assert_eq!((done, value), (0, 1));
    }
}
