//! A container across the network, for callers that block: the controller's hands, merged writes,
//! headers.
//!
//! A call that has sent a write returns only when nothing of it can take effect any more, however
//! long that takes: its caller would else let others write there. One that has sent nothing fails
//! after [`PATIENCE_NS`].

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::address::{Address, Policy};
use super::limits::Limits;
use super::port::Port;
use super::work::{How, Job, Op, Waiter};
use crate::buffer::Buffer;
use crate::container::backing::{Backing, Ending, Gate, ZeroHow};
use crate::container::header::Identity;
use crate::sys::{boottime_ns, os_error};

/// How long a call waits for a server that is away, in ns.
pub const PATIENCE_NS: u64 = 5_000_000_000;

/// See the module's text.
#[derive(Debug)]
pub struct NbdBacking {
    port: Port,
    address: Address,
    /// Writes may begin until then, CLOCK_BOOTTIME.
    lease_until_ns: Arc<AtomicU64>,
}

/// What a call has come to.
#[derive(Debug, Default)]
struct Call {
    ended: Mutex<Option<io::Result<()>>>,
    wake: Condvar,
}

impl Call {
    fn end(&self, result: io::Result<()>) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.get_or_insert(result);
        self.wake.notify_all();
    }

    fn wait(&self) -> io::Result<()> {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(result) = ended.take() {
                return result;
            }
            ended = self
                .wake
                .wait(ended)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

struct Caller {
    call: Arc<Call>,
    /// Leaves when it takes too long; else it waits for the end.
    leaves: bool,
    may_begin: Option<Gate>,
    lease_until_ns: Arc<AtomicU64>,
}

impl fmt::Debug for Caller {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Caller {{ leaves: {} }}", self.leaves)
    }
}

impl Waiter for Caller {
    fn may_begin(&self) -> bool {
        let leased = self.leaves || boottime_ns() < self.lease_until_ns.load(Ordering::Acquire);
        leased && self.may_begin.as_ref().is_none_or(|may_begin| may_begin())
    }

    fn returns(&self) -> bool {
        false
    }

    fn patience_ns(&self) -> Option<u64> {
        Some(PATIENCE_NS)
    }

    fn gave_up(&mut self) {
        if self.leaves {
            self.call.end(Err(os_error(libc::ETIMEDOUT)));
        }
    }

    fn ended(self: Box<Self>, how: How) {
        self.call.end(match how {
            How::Done(0) => Ok(()),
            How::Done(errno) | How::Refused(errno) => Err(os_error(errno)),
            How::NotBegun => Err(os_error(libc::ECANCELED)),
        });
    }
}

impl NbdBacking {
    /// Connects to the server; see [`Port::open`].
    ///
    /// # Errors
    /// See [`Port::open`].
    pub fn open(mut address: Address, holder: u64) -> io::Result<NbdBacking> {
        if holder == 0 {
            // Somebody who looks, and needs no more than one.
            address.policy = Policy {
                connections: 1,
                ..address.policy
            };
        }
        let port = Port::open(address.clone(), holder)?;
        Ok(NbdBacking {
            port,
            address,
            lease_until_ns: Arc::new(AtomicU64::new(u64::MAX)),
        })
    }

    /// A container of that size and write unit whose server is away; see [`Port::open_away`].
    ///
    /// # Errors
    /// See [`Port::open_away`].
    pub fn open_away(
        address: Address,
        holder: u64,
        (size_bytes, unit_bytes): (u64, u32),
        container: Identity,
    ) -> io::Result<NbdBacking> {
        let presumed = Limits::presumed(size_bytes, unit_bytes);
        let port = Port::open_away(address.clone(), holder, presumed, (container, None))?;
        Ok(NbdBacking {
            port,
            address,
            lease_until_ns: Arc::new(AtomicU64::new(u64::MAX)),
        })
    }

    fn call(
        &self,
        op: Op,
        offset: u64,
        length: u64,
        buffer: Option<Arc<Buffer>>,
        may_begin: Option<Gate>,
    ) -> io::Result<()> {
        let call = Arc::new(Call::default());
        let waiter = Box::new(Caller {
            call: call.clone(),
            leaves: op == Op::Read,
            may_begin,
            lease_until_ns: self.lease_until_ns.clone(),
        });
        self.port.submit(Job {
            op,
            offset,
            length,
            buffer: buffer.map(|buffer| (buffer, 0)),
            waiter,
        });
        call.wait()
    }

    fn write_gated(&self, offset: u64, data: &[u8], may_begin: Option<Gate>) -> io::Result<()> {
        let buffer = Arc::new(Buffer::new(data.len()));
        // SAFETY: `buffer` is this function's own until it is handed in.
        unsafe { buffer.part_mut(0, data.len()) }.copy_from_slice(data);
        self.call(
            Op::Write,
            offset,
            data.len() as u64,
            Some(buffer),
            may_begin,
        )
    }
}

impl Backing for NbdBacking {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.port.limits().size_bytes)
    }

    fn unit_bytes(&self) -> u32 {
        self.port.limits().unit_bytes
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let own = Arc::new(Buffer::new(buffer.len()));
        self.call(
            Op::Read,
            offset,
            buffer.len() as u64,
            Some(own.clone()),
            None,
        )?;
        buffer.copy_from_slice(own.part(0, buffer.len()));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8], _fua: bool) -> io::Result<()> {
        self.write_gated(offset, data, None)
    }

    fn write_if(&self, offset: u64, data: &[u8], _fua: bool, may_begin: &Gate) -> io::Result<()> {
        self.write_gated(offset, data, Some(may_begin.clone()))
    }

    fn zero(&self, offset: u64, length: u64, how: ZeroHow) -> io::Result<()> {
        let op = Op::Zero {
            no_hole: how.no_hole,
            fast: how.fast,
        };
        self.call(op, offset, length, None, None)
    }

    fn trim(&self, offset: u64, length: u64) -> io::Result<()> {
        self.call(Op::Trim, offset, length, None, None)
    }

    /// Nothing is left to flush: every write was durable before it was answered.
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    /// There are no locks across the network: a session of the holder takes their place.
    fn lock(&self, _fence: u64) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self, _fence: u64) -> io::Result<()> {
        Ok(())
    }

    /// Nobody can see it: it must be supposed.
    fn is_locked_elsewhere(&self, _fence: u64) -> io::Result<bool> {
        Ok(true)
    }

    fn expect(&self, container: Identity, installation: Option<Identity>) {
        self.port.expect(container, installation);
    }

    fn set_lease(&self, until_ns: u64) {
        self.lease_until_ns.store(until_ns, Ordering::Release);
    }

    fn port(&self) -> Option<&Port> {
        Some(&self.port)
    }

    fn fence_ended(&self, fence: u64, ending: Ending) -> io::Result<bool> {
        super::revoke::revoke(&self.address, &self.port.limits(), fence, ending)
    }
}
