//! `segue serve`: exports a file or device over NBD, with a fence.
//!
//! A thread for each connection reads requests, a pool carries them out, and each answers by itself.
//! Who may send requests, and when what they sent has ended, is [`sessions`]'s business; what is
//! said on one connection, [`session`]'s; how many there may be and how long a handshake may take,
//! [`places`]'s. The pool's threads never wait for a client: what a socket does not take at once is
//! the business of its own connection ([`replies`]), and so is what it makes the server hold.
//!
//! One server at a time: it takes a lock on the very description that does its I/O, and waits for
//! one that an earlier server's I/O still holds. So a restarted server proves that nothing of the
//! earlier one is under way.

mod listening;
mod places;
mod replies;
mod session;
mod sessions;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use segue_nbd::{BlockSizes, ExportInfo, Features};

use crate::container::{Backing, Cache, ContainerUri, SERVE_FENCE, Syncs};
use crate::pool::Pool;
use listening::Listening;
pub use places::Limits;
use places::Places;
use sessions::Sessions;

/// Threads that do I/O.
const POOL_THREADS: usize = 16;
/// How long an earlier server's I/O is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(20);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What all connections share.
pub(crate) struct Shared {
    export: ExportInfo,
    storage: Arc<dyn Backing>,
    sessions: Sessions,
    places: Arc<Places>,
    pool: Pool,
    syncs: Syncs,
    /// Flushes and FUA writes that have failed: what others had written by then may be lost, and no
    /// later flush is to hide that.
    failed_syncs: AtomicU64,
}

impl Shared {
    fn flush(&self) -> io::Result<()> {
        self.lost_nothing_since(0)?;
        self.storage.write_back(0, 0);
        self.flush_since(0)
    }

    /// Makes durable what was written when so many syncs had failed, or later.
    fn flush_since(&self, failed_syncs: u64) -> io::Result<()> {
        self.sync(|| self.storage.flush())?;
        // What failed before this one began was told of its loss, and overtakes it no more.
        self.lost_nothing_since(failed_syncs)
    }

    fn lost_nothing_since(&self, failed_syncs: u64) -> io::Result<()> {
        match self.failed_syncs() == failed_syncs {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }

    fn failed_syncs(&self) -> u64 {
        self.failed_syncs.load(Ordering::Acquire)
    }

    /// What makes one request durable, in its order among those of all sessions; a failure is one
    /// of the whole export, known before it is handed over.
    fn sync(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let counted = || {
            sync().inspect_err(|error| {
                // Arguments that a write did not like: it has done nothing and lost nothing.
                if error.raw_os_error() != Some(libc::EINVAL) {
                    self.failed_syncs.fetch_add(1, Ordering::AcqRel);
                }
            })
        };
        self.syncs.in_order(counted)
    }
}

/// See the module's text. Dropping it ends the listeners; connections end with the process.
pub struct Server {
    shared: Arc<Shared>,
    listening: Vec<Listening>,
}

impl Server {
    /// Opens the storage: a container's URI (`file://`, `block://`, wrappers), and the file that
    /// remembers who was revoked for ever.
    ///
    /// # Errors
    /// Those of the storage and the file; EBUSY if another server has it.
    pub fn open(
        storage: &str,
        cache: Cache,
        name: &str,
        state: &Path,
        limits: Limits,
    ) -> io::Result<Server> {
        let storage = ContainerUri::parse(storage)?.open(cache)?;
        let deadline = Instant::now() + LOCK_WAIT;
        while let Err(error) = storage.lock(SERVE_FENCE) {
            if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        let sizes = BlockSizes::new(
            storage.unit_bytes(),
            4096,
            segue_nbd::consts::PAYLOAD_BYTES_MAX,
        );
        let export = ExportInfo {
            name: name.to_owned(),
            description: String::new(),
            size_bytes: storage.size_bytes()?,
            read_only: false,
            can_multi_conn: true,
            block_sizes: sizes.map_err(|error| io::Error::other(error.to_string()))?,
            features: Features {
                block_status: false,
                ..Features::DISK
            },
        };
        Ok(Server {
            shared: Arc::new(Shared {
                export,
                storage,
                sessions: Sessions::open(state)?,
                places: Places::new(limits)?,
                pool: Pool::new(POOL_THREADS),
                syncs: Syncs::default(),
                failed_syncs: AtomicU64::new(0),
            }),
            listening: Vec::new(),
        })
    }

    /// Size of the export, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.shared.export.size_bytes
    }

    /// Serves on a unix socket; one left behind by a dead server is replaced.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn listen_unix(&mut self, path: &Path) -> io::Result<()> {
        let listening = Listening::unix(path, self.shared.clone())?;
        self.listening.push(listening);
        Ok(())
    }

    /// Serves on a TCP port (0: any); gives the port.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn listen_tcp(&mut self, host: &str, port: u16) -> io::Result<u16> {
        let (listening, port) = Listening::tcp(host, port, self.shared.clone())?;
        self.listening.push(listening);
        Ok(port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listening.clear();
        self.shared.places.close();
    }
}
