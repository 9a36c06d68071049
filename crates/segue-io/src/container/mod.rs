//! Storage containers: places for bytes, carved into segments (design, section 3, "Containers").
//!
//! Here live opening, making and looking at containers, their header and fence. Never here: which
//! segment is whose.

mod backing;
mod block;
mod contents;
mod faulty;
mod file;
mod forgetful;
mod header;
mod making;
pub mod nbd;
mod note;
mod syncs;
mod uri;

use std::fmt;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

pub use backing::{Backing, Ending, Gate, ZeroHow};
pub use contents::{clear_head, refuse_contents};
pub use faulty::Faulty;
pub use file::{Cache, FileBacking};
pub use forgetful::{Forgetful, Forgotten, power_loss};
pub use header::{DATA_AT_BYTES, Header, Identity, Slot, is_segment_size};
pub use making::{create, inspect, remove};
pub use note::{NOTE_AT_BYTES, Note};
pub use syncs::Syncs;
pub use uri::ContainerUri;
pub(crate) use uri::is_remote;

use nbd::Port;

use crate::buffer::{Buffer, Buffers};
use crate::sys::{self, errno_of};

/// Bytes moved at once by a copy.
const COPY_PIECE_BYTES: u64 = 1 << 20;
/// What pieces were copied through: fresh memory would cost each of its pages a fault.
static COPIED: LazyLock<Mutex<Buffers>> = LazyLock::new(Mutex::default);
/// The lock byte that serialises header writers.
const STAMP_FENCE: u64 = (1 << 61) - 1;
/// The lock byte of whoever makes a container of the storage.
const MAKING_FENCE: u64 = (1 << 61) - 2;
/// The lock byte of the process that has claimed a block device.
const CLAIM_FENCE: u64 = (1 << 61) - 3;
/// The lock byte of the server that exports the storage.
pub(crate) const SERVE_FENCE: u64 = (1 << 61) - 4;
/// The lock byte that serialises who leaves and clears notes.
const NOTE_FENCE: u64 = (1 << 61) - 5;
/// The fences of agents and copiers lie below.
const FENCES_END: u64 = NOTE_FENCE;

/// A container could not be opened, made or used: which, why, and the errno to tell.
#[derive(Debug)]
pub struct ContainerError {
    /// Linux's number for it.
    pub errno: i32,
    /// One sentence that names the container.
    pub what: String,
}

impl ContainerError {
    fn new(uri: &str, errno: i32, what: impl fmt::Display) -> ContainerError {
        ContainerError {
            errno,
            what: format!("container {uri}: {what}"),
        }
    }

    /// Whether the storage is refused for what lies there.
    #[must_use]
    pub fn holds_something(&self) -> bool {
        self.errno == libc::EEXIST
    }
}

impl fmt::Display for ContainerError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.what)
    }
}

impl std::error::Error for ContainerError {}

fn naming(uri: &str) -> impl Fn(io::Error) -> ContainerError {
    move |error| ContainerError::new(uri, errno_of(&error), sys::words_of(&error))
}

/// An open container; offsets count from the start of its data area (segment 0).
///
/// Dropping the last reference closes the description and with it gives the fence's lock back:
/// whatever does I/O holds a reference.
#[derive(Debug)]
pub struct Container {
    backing: Arc<dyn Backing>,
    header: Header,
    data_bytes: u64,
    uri: String,
    fence: u64,
    /// The stamp's lock keeps other descriptions out, this keeps other threads.
    stamping: Mutex<()>,
    /// The same for notes.
    noting: Mutex<()>,
    syncs: Syncs,
    /// A stamp, or what clears a note, has failed: it may have been told of a flush's loss.
    told_of_loss: AtomicBool,
}

impl Container {
    /// Opens a container, checks that it is the one meant, and takes the lock of `fence`.
    ///
    /// `installation`: `None` where only the container's own identity is known (agents).
    ///
    /// # Errors
    /// Those of opening; EINVAL if its header is missing, damaged or somebody else's; EBUSY if
    /// the fence is held.
    pub fn open(
        uri: &str,
        cache: Cache,
        identity: Identity,
        installation: Option<Identity>,
        fence: u64,
    ) -> Result<Container, ContainerError> {
        let backing = ContainerUri::parse(uri)
            .and_then(|parsed| parsed.open_as(cache, fence))
            .map_err(naming(uri))?;
        let refuse = |what: &str| Err(ContainerError::new(uri, libc::EINVAL, what));
        let Some(header) = Header::read(&*backing).map_err(naming(uri))? else {
            return refuse("it has no header of Segue's");
        };
        if header.container != identity {
            return refuse("its header names another container");
        }
        if installation.is_some_and(|installation| installation != header.installation) {
            return refuse("it belongs to another installation");
        }
        let data_bytes = header.data_bytes();
        if backing.size_bytes().map_err(naming(uri))? < DATA_AT_BYTES + data_bytes {
            return refuse("it is shorter than its header says");
        }
        if fence >= FENCES_END {
            return refuse("a fence has 61 bits");
        }
        backing.lock(fence).map_err(naming(uri))?;
        backing.expect(header.container, Some(header.installation));
        Ok(Container {
            backing,
            header,
            data_bytes,
            uri: uri.to_owned(),
            fence,
            stamping: Mutex::default(),
            noting: Mutex::default(),
            syncs: Syncs::default(),
            told_of_loss: AtomicBool::new(false),
        })
    }

    /// The same container with something between it and its storage.
    #[cfg(test)]
    pub(crate) fn wrapped(
        mut self,
        wrap: impl FnOnce(Arc<dyn Backing>) -> Arc<dyn Backing>,
    ) -> Container {
        self.backing = wrap(self.backing);
        self
    }

    /// A container across the network whose server is away: I/O there waits or fails by its policy.
    /// That `header` lies there is found out when the server is back.
    ///
    /// # Errors
    /// EINVAL if it is none across the network; else those of starting a thread.
    pub fn open_away(uri: &str, header: Header, fence: u64) -> Result<Container, ContainerError> {
        let data_bytes = header.data_bytes();
        let shape = (DATA_AT_BYTES + data_bytes, header.write_unit_bytes);
        let address = ContainerUri::parse(uri).map_err(naming(uri))?;
        let Some(address) = address.address().cloned() else {
            return Err(ContainerError::new(uri, libc::EINVAL, "it has no server"));
        };
        let backing = nbd::NbdBacking::open_away(address, fence, shape, header.container);
        Ok(Container {
            backing: Arc::new(backing.map_err(naming(uri))?),
            header,
            data_bytes,
            uri: uri.to_owned(),
            fence,
            stamping: Mutex::default(),
            noting: Mutex::default(),
            syncs: Syncs::default(),
            told_of_loss: AtomicBool::new(false),
        })
    }

    /// The header as it was read when the container was opened.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its URI, for messages.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The smallest write it takes, in bytes.
    #[must_use]
    pub fn unit_bytes(&self) -> u32 {
        self.backing.unit_bytes()
    }

    /// Where a range of the data area lies in the storage.
    fn at(&self, offset: u64, length: u64) -> io::Result<u64> {
        match offset.checked_add(length) {
            Some(end) if end <= self.data_bytes => Ok(DATA_AT_BYTES + offset),
            _ => Err(sys::os_error(libc::EINVAL)),
        }
    }

    /// See [`Backing::read`].
    ///
    /// # Errors
    /// EINVAL outside the data area; else the storage's.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.backing
            .read(self.at(offset, buffer.len() as u64)?, buffer)
    }

    /// See [`Backing::write`].
    ///
    /// # Errors
    /// EINVAL outside the data area; else the storage's.
    pub fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        self.backing
            .write(self.at(offset, data.len() as u64)?, data, fua)
    }

    /// See [`Backing::try_read`].
    #[inline]
    pub fn try_read(&self, offset: u64, buffer: &mut [u8]) -> Option<io::Result<()>> {
        match self.at(offset, buffer.len() as u64) {
            Ok(at) => self.backing.try_read(at, buffer),
            Err(error) => Some(Err(error)),
        }
    }

    /// See [`Backing::try_write`].
    #[inline]
    pub fn try_write(&self, offset: u64, data: &[u8]) -> Option<io::Result<()>> {
        match self.at(offset, data.len() as u64) {
            Ok(at) => self.backing.try_write(at, data),
            Err(error) => Some(Err(error)),
        }
    }

    /// The descriptor and offset for a range that may be read or written past all this.
    #[must_use]
    pub fn direct(&self, offset: u64, length: u64) -> Option<(RawFd, u64)> {
        let unit = u64::from(self.backing.unit_bytes());
        let aligned = offset % unit == 0 && length % unit == 0;
        let at = self.at(offset, length).ok().filter(|_| aligned)?;
        Some((self.backing.direct_fd()?, at))
    }

    /// See [`Backing::zero`].
    ///
    /// # Errors
    /// EINVAL outside the data area; else the storage's.
    pub fn zero(&self, offset: u64, length: u64, how: ZeroHow) -> io::Result<()> {
        self.backing.zero(self.at(offset, length)?, length, how)
    }

    /// See [`Backing::trim`].
    ///
    /// # Errors
    /// EINVAL outside the data area; else the storage's.
    pub fn trim(&self, offset: u64, length: u64) -> io::Result<()> {
        self.backing.trim(self.at(offset, length)?, length)
    }

    /// See [`Backing::flush`].
    ///
    /// # Errors
    /// The storage's.
    pub fn flush(&self) -> io::Result<()> {
        self.backing.flush()
    }

    /// The order in which its syncs may be handed over. Whoever calls [`Container::flush`], or asks
    /// for FUA, on a container that others sync keeps to it; [`Container::flush_in_order`] does.
    #[must_use]
    pub fn syncs(&self) -> &Syncs {
        &self.syncs
    }

    /// [`Container::flush`] in its order; fails too if a stamp has failed since the last. One that
    /// fails leaves a note.
    ///
    /// # Errors
    /// The storage's; EIO if another sync of it failed meanwhile.
    pub fn flush_in_order(&self) -> io::Result<()> {
        self.backing.write_back(0, 0);
        self.syncs.in_order(|| self.noting(|| self.flush()))?;
        match self.told_of_loss.swap(false, Ordering::AcqRel) {
            true => Err(sys::os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    /// Carries out a sync of which a failure must outlive this process.
    fn noting(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        sync().inspect_err(|error| self.leave_note(errno_of(error)))
    }

    /// What was no flush may have been told of a flush's loss: the next one fails.
    fn loss_may_be_told(&self) {
        self.told_of_loss.store(true, Ordering::Release);
    }

    /// [`Backing::write_back`] of all of it.
    pub fn write_back(&self) {
        self.backing.write_back(0, 0);
    }

    /// Makes a range read as zeroes whose ends need not fit the write unit; durable after
    /// [`Container::flush`]. Nobody else may touch the units at its ends meanwhile.
    ///
    /// # Errors
    /// EINVAL outside the data area; else the storage's. Part may have been zeroed.
    pub fn zero_exactly(&self, offset: u64, length: u64) -> io::Result<()> {
        let unit = u64::from(self.unit_bytes());
        let end = offset + length;
        let (inner, inner_end) = (offset.next_multiple_of(unit), end / unit * unit);
        if inner >= inner_end {
            return self.zero_within_units(offset, length);
        }
        self.zero_within_units(offset, inner - offset)?;
        self.zero(inner, inner_end - inner, ZeroHow::default())?;
        self.zero_within_units(inner_end, end - inner_end)
    }

    /// Reads the units around a short range, and writes them with zeroes in it.
    fn zero_within_units(&self, offset: u64, length: u64) -> io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        let unit = u64::from(self.unit_bytes());
        let start = offset / unit * unit;
        let whole = ((offset + length).next_multiple_of(unit) - start) as usize;
        let buffer = Buffer::new(whole);
        // SAFETY: `buffer` is this function's own.
        let bytes = unsafe { buffer.part_mut(0, whole) };
        self.read(start, bytes)?;
        bytes[(offset - start) as usize..][..length as usize].fill(0);
        self.write(start, bytes, false)
    }

    /// Copies a range of another container (or of this one; ranges must not overlap).
    ///
    /// Not durable before [`Container::flush`]. The caller holds both ranges (rule 12).
    ///
    /// # Errors
    /// EINVAL outside a data area; else either storage's. Part may have been copied.
    pub fn copy_from(
        &self,
        source: &Container,
        source_offset: u64,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        source.at(source_offset, length)?;
        let at = self.at(offset, length)?;
        let idle = || COPIED.lock().unwrap_or_else(PoisonError::into_inner);
        let buffer = idle().take(COPY_PIECE_BYTES.min(length) as usize);
        let mut done = 0;
        while done < length {
            let count = COPY_PIECE_BYTES.min(length - done) as usize;
            // SAFETY: `buffer` is this function's own until it is given back.
            source.read(source_offset + done, unsafe { buffer.part_mut(0, count) })?;
            self.write(offset + done, buffer.part(0, count), false)?;
            done += count as u64;
        }
        idle().give(buffer);
        // Left in a page cache, all of it would go to the device with the next flush, and the
        // durable writes of hosts would wait behind it.
        self.backing.write_back(at, length);
        Ok(())
    }

    /// Whether no I/O of the holder of `fence` is under way, or can begin: the lock that rode on its
    /// description is gone, or the server has ended its sessions.
    ///
    /// # Errors
    /// The storage's: then nothing is known, and the fence counts as held.
    pub fn fence_ended(&self, fence: u64, ending: Ending) -> io::Result<bool> {
        self.backing.fence_ended(fence, ending)
    }

    /// Where jobs for a range are handed in, and where it lies there, for storage across the
    /// network.
    ///
    /// # Errors
    /// EINVAL outside the data area.
    pub fn remote(&self, offset: u64, length: u64) -> Option<io::Result<(&Port, u64)>> {
        let port = self.backing.port()?;
        Some(self.at(offset, length).map(|at| (port, at)))
    }

    /// The storage across the network, if that is what it is.
    #[must_use]
    pub fn port(&self) -> Option<&Port> {
        self.backing.port()
    }

    /// Takes over what this URI of it sets for storage across the network; nothing for another.
    pub fn set_policy(&self, uri: &str) {
        let parsed = ContainerUri::parse(uri).ok();
        let address = parsed.as_ref().and_then(ContainerUri::address);
        if let (Some(port), Some(address)) = (self.port(), address) {
            port.set_policy(address.policy);
        }
    }

    /// See [`Backing::set_lease`].
    pub fn set_lease(&self, until_ns: u64) {
        self.backing.set_lease(until_ns);
    }

    /// See [`Backing::write_if`].
    ///
    /// # Errors
    /// EINVAL outside the data area; else the storage's.
    pub fn write_if(
        &self,
        offset: u64,
        data: &[u8],
        fua: bool,
        may_begin: &Gate,
    ) -> io::Result<()> {
        let at = self.at(offset, data.len() as u64)?;
        self.backing.write_if(at, data, fua, may_begin)
    }

    /// Notes the newest (term, commit number) in the header, durably.
    ///
    /// # Errors
    /// EBUSY if another process stamps at this moment; ESTALE if the header has seen a newer term
    /// or commit number (this controller is not the newest); InvalidData if it is another
    /// container's by now; else the storage's.
    pub fn stamp(&self, term: u64, commit: u64) -> io::Result<()> {
        let _stamping = self.stamping.lock().unwrap_or_else(PoisonError::into_inner);
        self.backing.lock(STAMP_FENCE)?;
        let done = self.stamp_locked(term, commit);
        self.backing.unlock(STAMP_FENCE)?;
        done
    }

    fn stamp_locked(&self, term: u64, commit: u64) -> io::Result<()> {
        let mut header = Header::read(&*self.backing)?
            .ok_or_else(|| header::invalid("its header has gone".into()))?;
        if header.container != self.header.container {
            // Removed, and made anew for somebody else.
            return Err(header::invalid("its header names another container".into()));
        }
        if (header.term, header.commit) > (term, commit) {
            return Err(sys::os_error(libc::ESTALE));
        }
        (header.term, header.commit) = (term, commit);
        header.sequence += 1;
        let write = || self.noting(|| header.write(&*self.backing));
        let written = self.syncs.in_order(write);
        written.inspect_err(|_| self.loss_may_be_told())
    }

    /// The header as it is now.
    ///
    /// # Errors
    /// The storage's; InvalidData if it is damaged or gone.
    pub fn read_header(&self) -> io::Result<Header> {
        Header::read(&*self.backing)?.ok_or_else(|| header::invalid("its header has gone".into()))
    }
}
