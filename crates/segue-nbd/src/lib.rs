//! The NBD protocol, both halves, without I/O.
//!
//! Here live the wire format and the rules of the Network Block Device protocol (the document
//! `doc/proto.md` of NetworkBlockDevice/nbd, called *the document* in this crate). Here never
//! live sockets, clocks, threads, files or decisions about what a disk holds.
//!
//! * [`server::ServerConn`]: one connection to a host. Bytes in by `feed`, events out; the
//!   driver does the I/O of each [`server::Request`] and asks the connection for the reply's head.
//! * [`client::ClientConn`]: one connection to a server, in the same style.
//! * [`reply`]: heads of replies, encoded into a buffer of the caller.
//!
//! Neither half ever holds the data of a read or write: the driver moves that straight between
//! its socket and the request's own buffer.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod client;
pub mod consts;
mod error;
mod export;
pub mod fence;
pub mod reply;
pub mod server;
mod wire;

pub use error::{Errno, ProtocolError};
pub use export::{BlockSizes, BlockSizesError, ExportInfo, Extent, Features};
