//! A blocking NBD client, one request at a time: for demos, tests and tools.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use segue_nbd::client::{ClientConn, Command, Config, Event, Failure, Goal, Request, Wants};
use segue_nbd::client::{ListedExport, Negotiated, OptionRefused, RequestError};
use segue_nbd::consts::REQUEST_BYTES;
use segue_nbd::{Errno, Extent, ProtocolError};

const RECEIVE_BYTES: usize = 64 << 10;
/// Longest trim, write-zeroes and block status asked for at once: a multiple of every block.
const RANGE_BYTES_MAX: u64 = 1 << 31;

/// Why a call failed.
#[derive(Debug)]
pub enum ClientError {
    /// The socket.
    Io(io::Error),
    /// The server broke the protocol, or ended the stream early.
    Protocol(ProtocolError),
    /// The server refused the export or the list.
    Refused(OptionRefused),
    /// The server answered the request with an error.
    Failed(Failure),
    /// The caller's mistake: nothing was sent.
    Request(RequestError),
    /// The address cannot be read.
    Address(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Io(error) => write!(out, "{error}"),
            ClientError::Protocol(error) => write!(out, "{error}"),
            ClientError::Refused(refused) if refused.message.is_empty() => {
                write!(
                    out,
                    "the server refused the export (reply {:#x})",
                    refused.reply
                )
            }
            ClientError::Refused(refused) => out.write_str(&refused.message),
            ClientError::Failed(failure) => write!(out, "{} {}", failure.errno, failure.message),
            ClientError::Request(error) => write!(out, "{error}"),
            ClientError::Address(what) => out.write_str(what),
        }
    }
}

impl std::error::Error for ClientError {}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> ClientError {
        ClientError::Io(error)
    }
}

impl From<ProtocolError> for ClientError {
    fn from(error: ProtocolError) -> ClientError {
        ClientError::Protocol(error)
    }
}

impl ClientError {
    /// The errno for it.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            ClientError::Io(error) => crate::sys::errno_of(error),
            ClientError::Protocol(ProtocolError::Truncated) => libc::ECONNRESET,
            ClientError::Protocol(_) => libc::EPROTO,
            ClientError::Refused(refused) => match refused.reply {
                segue_nbd::consts::REP_ERR_POLICY => libc::EPERM,
                segue_nbd::consts::REP_ERR_SHUTDOWN => libc::ESHUTDOWN,
                _ => libc::ENOENT,
            },
            ClientError::Failed(failure) => match failure.errno {
                Errno::Enotsup => libc::EOPNOTSUPP,
                errno => errno as i32,
            },
            ClientError::Request(_) | ClientError::Address(_) => libc::EINVAL,
        }
    }
}

/// A blocking socket to a server.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// WouldBlock if as many connections wait there as may.
    pub(crate) fn unix(path: &Path) -> io::Result<Stream> {
        let stream = UnixStream::from(crate::sys::connect_unix(path)?);
        stream.set_nonblocking(false)?;
        Ok(Stream::Unix(stream))
    }

    pub(crate) fn tcp(host: &str, port: u16, limit: Duration) -> io::Result<Stream> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in (host, port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, limit) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Stream::Tcp(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Receives something, through a shared reference; 0: the end.
    pub(crate) fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => (&*stream).read(into),
            Stream::Tcp(stream) => (&*stream).read(into),
        }
    }

    /// Ends both directions; whoever waits on it finds out.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        // It may have ended already.
        let _ = match self {
            Stream::Unix(stream) => stream.shutdown(how),
            Stream::Tcp(stream) => stream.shutdown(how),
        };
    }

    pub(crate) fn set_timeout(&self, limit: Duration) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.set_read_timeout(Some(limit)),
            Stream::Tcp(stream) => stream.set_read_timeout(Some(limit)),
        }
    }

    /// `/path`, `nbd+unix:///...?socket=/path` or `nbd://host[:port][/...]`.
    fn connect(address: &str) -> Result<Stream, ClientError> {
        if let Some((_, path)) = address.split_once("?socket=") {
            return Ok(Stream::Unix(UnixStream::connect(path)?));
        }
        let Some(rest) = address.strip_prefix("nbd://") else {
            if address.contains("://") {
                return Err(ClientError::Address(format!(
                    "{address:?} is no NBD address"
                )));
            }
            return Ok(Stream::Unix(UnixStream::connect(address)?));
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let has_port = authority
            .rsplit(':')
            .next()
            .is_some_and(|port| port.parse::<u16>().is_ok());
        let stream = match has_port && !authority.ends_with(']') {
            true => TcpStream::connect(authority)?,
            false => TcpStream::connect((authority, 10809))?,
        };
        stream.set_nodelay(true)?;
        Ok(Stream::Tcp(stream))
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(buffer),
            Stream::Tcp(stream) => stream.read(buffer),
        }
    }

    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        }
    }
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Stream::Unix(stream) => stream.as_raw_fd(),
            Stream::Tcp(stream) => stream.as_raw_fd(),
        }
    }
}

/// A connection in transmission.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    conn: ClientConn,
    received: Vec<u8>,
}

/// What a request gave besides success.
#[derive(Default)]
struct Outcome {
    extents: Vec<Extent>,
}

impl Client {
    /// Connects to an export, with structured replies and block status where the server has them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn connect(address: &str, export: &str) -> Result<Client, ClientError> {
        let config = Config {
            goal: Goal::Connect,
            export: export.into(),
            structured: true,
            block_status: true,
            hold: None,
        };
        let mut client = Client::open(address, config)?;
        loop {
            match client.next_event()? {
                Event::Connected => return Ok(client),
                Event::Refused(refused) => return Err(client.leave(ClientError::Refused(refused))),
                _ => {}
            }
        }
    }

    /// The exports of a server.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn list(address: &str) -> Result<Vec<ListedExport>, ClientError> {
        let config = Config {
            goal: Goal::List,
            export: String::new(),
            structured: false,
            block_status: false,
            hold: None,
        };
        let mut client = Client::open(address, config)?;
        loop {
            match client.next_event()? {
                Event::Listed(exports) => {
                    client.send_output()?;
                    return Ok(exports);
                }
                Event::Refused(refused) => return Err(client.leave(ClientError::Refused(refused))),
                _ => {}
            }
        }
    }

    fn open(address: &str, config: Config) -> Result<Client, ClientError> {
        let stream = Stream::connect(address)?;
        Ok(Client {
            stream,
            conn: ClientConn::new(config),
            received: Vec::new(),
        })
    }

    fn leave(&mut self, error: ClientError) -> ClientError {
        match self.send_output() {
            Ok(()) => error,
            Err(worse) => worse,
        }
    }

    fn send_output(&mut self) -> Result<(), ClientError> {
        let mut out = Vec::new();
        if self.conn.take_output(&mut out) {
            self.stream.write_all(&out)?;
        }
        Ok(())
    }

    /// What was agreed on.
    ///
    /// # Panics
    /// After [`Client::disconnect`].
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        self.conn.negotiated().expect("a client in transmission")
    }

    fn next_event(&mut self) -> Result<Event, ClientError> {
        loop {
            let step = self.conn.feed(&self.received)?;
            self.received.drain(..step.consumed);
            self.send_output()?;
            if let Some(event) = step.event {
                return Ok(event);
            }
            let mut buffer = [0; RECEIVE_BYTES];
            let got = self.stream.read(&mut buffer)?;
            if got == 0 {
                self.conn.handle_eof(self.received.len())?;
                return Err(ClientError::Protocol(ProtocolError::Truncated));
            }
            self.received.extend_from_slice(&buffer[..got]);
        }
    }

    /// Takes the data of a read off the stream.
    fn take_payload(&mut self, mut into: &mut [u8]) -> Result<(), ClientError> {
        while let Wants::Payload(_) = self.conn.wants() {
            let ready = self.received.len().min(into.len());
            let count = if ready > 0 {
                into[..ready].copy_from_slice(&self.received[..ready]);
                self.received.drain(..ready);
                ready
            } else {
                self.stream.read(into)?
            };
            if count == 0 {
                return Err(ClientError::Protocol(ProtocolError::Truncated));
            }
            self.conn.payload_received(count as u32);
            into = &mut into[count..];
        }
        Ok(())
    }

    fn call(
        &mut self,
        request: Request,
        payload: &[u8],
        into: &mut [u8],
    ) -> Result<Outcome, ClientError> {
        let mut header = [0; REQUEST_BYTES];
        self.conn
            .submit(&request, &mut header)
            .map_err(ClientError::Request)?;
        self.stream.write_all(&header)?;
        self.stream.write_all(payload)?;
        let mut outcome = Outcome::default();
        loop {
            match self.next_event()? {
                Event::Data { at, length, .. } => {
                    let at = at as usize;
                    self.take_payload(&mut into[at..at + length as usize])?;
                }
                Event::Zeroes { at, length, .. } => {
                    into[at as usize..][..length as usize].fill(0);
                }
                Event::Extents { extents, .. } => outcome.extents = extents,
                Event::Done { result, .. } => {
                    return result.map(|()| outcome).map_err(ClientError::Failed);
                }
                _ => {}
            }
        }
    }

    /// Reads `into.len()` bytes at `offset`.
    ///
    /// # Errors
    /// See [`ClientError`]; so for all calls.
    pub fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), ClientError> {
        let piece_bytes = self.negotiated().payload_bytes_max() as usize;
        let mut at = offset;
        for piece in into.chunks_mut(piece_bytes) {
            let length = piece.len() as u32;
            let request = Request {
                command: Command::Read,
                flags: 0,
                offset: at,
                length,
            };
            self.call(request, &[], piece)?;
            at += u64::from(length);
        }
        Ok(())
    }

    /// Writes `data` at `offset`; `flags` are command flags.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn write(&mut self, offset: u64, data: &[u8], flags: u16) -> Result<(), ClientError> {
        let piece_bytes = self.negotiated().payload_bytes_max() as usize;
        let mut at = offset;
        for piece in data.chunks(piece_bytes) {
            let length = piece.len() as u32;
            let request = Request {
                command: Command::Write,
                flags,
                offset: at,
                length,
            };
            self.call(request, piece, &mut [])?;
            at += u64::from(length);
        }
        Ok(())
    }

    fn over_range(
        &mut self,
        command: Command,
        offset: u64,
        length: u64,
        flags: u16,
    ) -> Result<(), ClientError> {
        let mut done = 0;
        while done < length {
            let count = (length - done).min(RANGE_BYTES_MAX);
            let request = Request {
                command,
                flags,
                offset: offset + done,
                length: count as u32,
            };
            self.call(request, &[], &mut [])?;
            done += count;
        }
        Ok(())
    }

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn zero(&mut self, offset: u64, length: u64, flags: u16) -> Result<(), ClientError> {
        self.over_range(Command::WriteZeroes, offset, length, flags)
    }

    /// Says that a range is not needed.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn trim(&mut self, offset: u64, length: u64, flags: u16) -> Result<(), ClientError> {
        self.over_range(Command::Trim, offset, length, flags)
    }

    /// Makes durable what was acknowledged.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn flush(&mut self) -> Result<(), ClientError> {
        let request = Request {
            command: Command::Flush,
            flags: 0,
            offset: 0,
            length: 0,
        };
        self.call(request, &[], &mut []).map(drop)
    }

    /// The extents of a range, (bytes, `STATE_*` bits), neighbours of one status joined.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn block_status(
        &mut self,
        offset: u64,
        length: u64,
    ) -> Result<Vec<(u64, u32)>, ClientError> {
        let mut found: Vec<(u64, u32)> = Vec::new();
        let mut done = 0;
        while done < length {
            let count = (length - done).min(RANGE_BYTES_MAX) as u32;
            let command = Command::BlockStatus;
            let request = Request {
                command,
                flags: 0,
                offset: offset + done,
                length: count,
            };
            for extent in self.call(request, &[], &mut [])?.extents {
                let bytes = u64::from(extent.length).min(length - done);
                done += bytes;
                match found.last_mut() {
                    Some((total, flags)) if *flags == extent.flags => *total += bytes,
                    _ => found.push((bytes, extent.flags)),
                }
            }
        }
        Ok(found)
    }

    /// Ends the session in order.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        let mut header = [0; REQUEST_BYTES];
        self.conn
            .disconnect(&mut header)
            .map_err(ClientError::Request)?;
        Ok(self.stream.write_all(&header)?)
    }
}
