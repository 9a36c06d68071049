//! Segue's mapping engine: tables, the decision, splitting, parked I/O, commands, leases.
//!
//! Sans-I/O: no clock, socket, thread or file lives here, and none must (`no_std` sees to it).
//! The driver, a data thread or the simulator, hands in host I/O, finished pieces, commands and
//! the time, and takes out [`Effect`]s and [`Event`]s.  `docs/mapping.md` describes it for readers.
#![no_std]
#![allow(clippy::too_many_arguments)]

extern crate alloc;

mod blocking;
mod bound;
mod cause;
mod check;
mod clean;
mod commands;
pub mod control;
pub mod decide;
mod disk;
mod do_commands;
pub mod engine;
pub mod entry;
pub mod errno;
mod faults;
mod hosts;
mod in_flight;
mod lease;
pub mod output;
mod plan;
mod slab;
mod start;
pub mod table;

pub use cause::{CAUSES, Cause, Note};
pub use control::{BlockRun, ContainerSpec, Control, EntryRun};
pub use engine::{Config, Engine, HostOp, PIECES_AT_ONCE, Stats, host_flags};
pub use entry::Entry;
pub use errno::Errno;
pub use output::{
    Effect, Event, FaultStatus, IoKind, MapFault, Operation, Outcome, PendingFault, PieceId, Src,
};
