//! Containers across the network: exports of NBD servers.
//!
//! ```text
//! callers --jobs--> port (a thread of its own, epoll) --requests--> links --> server
//!         <--ends--                                   <--replies--
//! ```
//!
//! * [`Address`]: where the server is, what the operator has set. [`Limits`]: what it offers.
//! * [`Port`]: takes jobs in; `driver` is the thread, `jobs` takes them apart and answers them, `link`
//!   is one connection, `loss` what happens when one is lost.
//! * [`NbdBacking`]: the same for callers that block.
//!
//! Every write is durable before it is answered (decision 0008), so there is nothing to flush, and
//! nothing to lose with a server that restarts.

mod address;
mod backing;
mod bounce;
mod driver;
mod jobs;
mod limits;
mod link;
mod loss;
mod port;
mod revoke;
mod work;

pub(super) use address::is_scheme;
pub use address::{Address, Place, Policy};
pub use backing::NbdBacking;
pub use limits::Limits;
pub use port::Port;
pub use work::{How, Job, Op, Waiter};
