//! Sockets that `segue serve` listens on, each with a thread that takes connections in.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Shared, session};
use crate::Seldom;
use crate::client::Stream;
use crate::sys::{SEND_BUFFER_BYTES, keep_alive, remove_dead_socket, set_send_buffer};

/// Pause after a connection could not be taken in (no descriptors, say): that may go on for long.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
enum Place {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// See the module's text. Dropping it lets no more in.
#[derive(Debug)]
pub(super) struct Listening {
    place: Place,
    is_over: Arc<AtomicBool>,
}

impl Listening {
    pub(super) fn unix(path: &Path, shared: Arc<Shared>) -> io::Result<Listening> {
        remove_dead_socket(path)?;
        let socket = UnixListener::bind(path)?;
        let peer = format!("unix:{}", path.display());
        let accept = move || {
            let stream = socket.accept()?.0;
            // A large read's reply goes out at once; else its client is waited for.
            set_send_buffer(stream.as_raw_fd(), SEND_BUFFER_BYTES)?;
            Ok((Stream::Unix(stream), peer.clone()))
        };
        Self::start(Place::Unix(path.to_owned()), accept, shared)
    }

    pub(super) fn tcp(host: &str, port: u16, shared: Arc<Shared>) -> io::Result<(Listening, u16)> {
        let socket = TcpListener::bind((host, port))?;
        let address = socket.local_addr()?;
        let accept = move || {
            let (stream, peer) = socket.accept()?;
            stream.set_nodelay(true)?;
            keep_alive(stream.as_raw_fd())?;
            Ok((Stream::Tcp(stream), peer.to_string()))
        };
        let listening = Self::start(Place::Tcp(address), accept, shared)?;
        Ok((listening, address.port()))
    }

    fn start(
        place: Place,
        accept: impl Fn() -> io::Result<(Stream, String)> + Send + 'static,
        shared: Arc<Shared>,
    ) -> io::Result<Listening> {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        std::thread::Builder::new()
            .name("segue-accept".into())
            .spawn(move || {
                let mut failures = Seldom::default();
                while !over.load(Ordering::Acquire) {
                    let taken = accept().and_then(|(stream, peer)| {
                        if over.load(Ordering::Acquire) {
                            return Ok(());
                        }
                        session::start(stream, peer, shared.clone())
                    });
                    match taken {
                        Ok(()) => {}
                        // The client has gone already.
                        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                        Err(error) => {
                            failures.log(format_args!(
                                "serve: a connection could not be taken: {error}"
                            ));
                            std::thread::sleep(PAUSE);
                        }
                    }
                }
            })?;
        Ok(Listening { place, is_over })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // Wakes the thread; that nobody listens any more does as well.
        match &self.place {
            Place::Unix(path) => {
                drop(UnixStream::connect(path));
                let _ = std::fs::remove_file(path);
            }
            Place::Tcp(address) => {
                let mut address = *address;
                if address.ip().is_unspecified() {
                    address.set_ip(Ipv4Addr::LOCALHOST.into());
                }
                drop(TcpStream::connect_timeout(&address, PAUSE));
            }
        }
    }
}
