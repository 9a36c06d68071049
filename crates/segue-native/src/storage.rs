//! Containers for the controller: making, looking at, and its own hands on an open one.
//!
//! All calls may block and let go of the interpreter meanwhile. Errors are `OSError` with the
//! errno of what failed.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use segue_io::container::{self, Cache, Container, ContainerError, Ending, Header, Identity, Note};
use segue_io::sys::{errno_of, words_of};

/// Adds this file's classes and functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<StorageHandle>()?;
    module.add_function(wrap_pyfunction!(create_container, module)?)?;
    module.add_function(wrap_pyfunction!(inspect_container, module)?)?;
    module.add_function(wrap_pyfunction!(remove_container, module)?)?;
    module.add_function(wrap_pyfunction!(container_power_loss, module)?)?;
    module.add_function(wrap_pyfunction!(container_policy, module)?)?;
    module.add_function(wrap_pyfunction!(boottime_ns, module)?)?;
    module.add_function(wrap_pyfunction!(crc32c, module)?)?;
    module.add("CONTAINER_DATA_AT", container::DATA_AT_BYTES)?;
    Ok(())
}

fn container_error(error: ContainerError) -> PyErr {
    PyOSError::new_err((error.errno, error.what))
}

/// `OSError(errno, text)`, which Python turns into its subclasses.
pub fn os_error(error: &std::io::Error) -> PyErr {
    PyOSError::new_err((errno_of(error), words_of(error)))
}

fn identity(bytes: &[u8]) -> PyResult<Identity> {
    let wrong = |_| PyValueError::new_err("an identity has 16 bytes");
    bytes.try_into().map_err(wrong)
}

fn cache(word: &str) -> PyResult<Cache> {
    Cache::parse(word).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn header_dict<'py>(py: Python<'py>, header: &Header) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("installation", PyBytes::new(py, &header.installation))?;
    dict.set_item("identity", PyBytes::new(py, &header.container))?;
    dict.set_item("segment_bytes", header.segment_bytes)?;
    dict.set_item("segments", header.segments)?;
    dict.set_item("write_unit_bytes", header.write_unit_bytes)?;
    dict.set_item("clean", header.clean)?;
    dict.set_item("created", header.created)?;
    dict.set_item("term", header.term)?;
    dict.set_item("commit", header.commit)?;
    Ok(dict)
}

/// Make a container: a new file (or an empty one), or a block device, and its header, durably.
///
/// `size_bytes` includes the header's 1 MiB; 0: all of the device.  An attempt that was cut off may
/// be repeated, by no older `term`.  With `erase`, a device or export is taken whatever it holds.
#[allow(clippy::too_many_arguments)]
#[pyfunction]
#[pyo3(signature = (
    uri, size_bytes, segment_bytes, identity, installation, term, cache, *, erase = false
))]
fn create_container<'py>(
    py: Python<'py>,
    uri: &str,
    size_bytes: u64,
    segment_bytes: u64,
    identity: &[u8],
    installation: &[u8],
    term: u64,
    cache: &str,
    erase: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let (me, house) = (self::identity(identity)?, self::identity(installation)?);
    let cache = self::cache(cache)?;
    let create = || container::create(uri, size_bytes, segment_bytes, me, house, term, cache);
    let made = py.detach(|| {
        if !erase {
            container::refuse_contents(uri, size_bytes)?;
        }
        match create() {
            // It is large enough, and all else is right: now what is there may go.
            Err(error) if erase && error.holds_something() => {
                container::clear_head(uri)?;
                create()
            }
            made => made,
        }
    });
    header_dict(py, &made.map_err(container_error)?)
}

/// The header of what may be a container; None if there is nothing, or nothing of Segue's.
#[pyfunction]
fn inspect_container<'py>(py: Python<'py>, uri: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
    let found = py
        .detach(|| container::inspect(uri))
        .map_err(container_error)?;
    found.map(|header| header_dict(py, &header)).transpose()
}

/// Give a container's storage back: its header goes, a file that Segue made is deleted.
///
/// May be repeated; what is gone or another's by now is left alone.  Nobody may have it open.
#[pyfunction]
fn remove_container(py: Python<'_>, uri: &str, identity: &[u8], cache: &str) -> PyResult<()> {
    let (me, cache) = (self::identity(identity)?, self::cache(cache)?);
    py.detach(|| container::remove(uri, me, cache))
        .map_err(container_error)
}

/// What the operator has set, in the URI, for a container across the network; None: it is none.
#[pyfunction]
fn container_policy<'py>(py: Python<'py>, uri: &str) -> PyResult<Option<Bound<'py, PyDict>>> {
    let parsed = container::ContainerUri::parse(uri).map_err(|error| os_error(&error))?;
    let Some(address) = parsed.address() else {
        return Ok(None);
    };
    let seconds = |ns: u64| ns as f64 / 1e9;
    let policy = &address.policy;
    let dict = PyDict::new(py);
    dict.set_item("fail_after_s", policy.fail_after_ns.map(seconds))?;
    dict.set_item("linger_s", policy.linger_ns.map(seconds))?;
    dict.set_item("timeout_s", seconds(policy.timeout_ns))?;
    dict.set_item("connections", policy.connections)?;
    Ok(Some(dict))
}

/// Lose power, for a `forgetful+file://` container that nobody has open: of what was not flushed,
/// each sector is kept or lost as `seed` decides.  Gives (blocks not flushed, sectors lost).
#[pyfunction]
fn container_power_loss(py: Python<'_>, uri: &str, seed: u64) -> PyResult<(u64, u64)> {
    let parsed = container::ContainerUri::parse(uri).map_err(|error| os_error(&error))?;
    let lost = py.detach(|| container::power_loss(parsed.path(), seed));
    let lost = lost.map_err(|error| os_error(&error))?;
    Ok((lost.unflushed_blocks, lost.sectors))
}

/// Nanoseconds of CLOCK_BOOTTIME.
#[pyfunction]
fn boottime_ns() -> u64 {
    segue_io::sys::boottime_ns()
}

/// CRC-32C (Castagnoli) of `data`, going on from `crc`.
#[pyfunction]
#[pyo3(signature = (data, crc = 0))]
fn crc32c(data: &[u8], crc: u32) -> u32 {
    segue_io::crc32c(data, crc)
}

/// One open container, in the hands of the controller.
///
/// Holds the lock of `fence` on its descriptor until it is closed and all its calls have ended.
/// Offsets and lengths are bytes of the data area.
#[pyclass(frozen, module = "segue._native")]
pub struct StorageHandle {
    container: Mutex<Option<Arc<Container>>>,
}

impl StorageHandle {
    fn open(&self) -> PyResult<Arc<Container>> {
        let guard = self
            .container
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let closed = || PyOSError::new_err((segue_io::sys::EBADF, "the container is closed"));
        guard.clone().ok_or_else(closed)
    }

    fn call<T: Send>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&Container) -> std::io::Result<T> + Send,
    ) -> PyResult<T> {
        let container = self.open()?;
        let done = py.detach(|| body(&container));
        done.map_err(|error| {
            PyOSError::new_err((
                errno_of(&error),
                format!("{}: {}", container.uri(), words_of(&error)),
            ))
        })
    }
}

#[pymethods]
impl StorageHandle {
    #[new]
    fn new(
        py: Python<'_>,
        uri: &str,
        cache: &str,
        identity: &[u8],
        installation: &[u8],
        fence: u64,
    ) -> PyResult<StorageHandle> {
        let (me, house) = (self::identity(identity)?, self::identity(installation)?);
        let cache = self::cache(cache)?;
        let opened = py.detach(|| Container::open(uri, cache, me, Some(house), fence));
        let container = Mutex::new(Some(Arc::new(opened.map_err(container_error)?)));
        Ok(StorageHandle { container })
    }

    /// Make a range read as zeroes, its storage given back where possible; durable after `flush`.
    ///
    /// Its ends need not fit the write unit, if nobody else writes to the units there.
    fn zero(&self, py: Python<'_>, offset: u64, length: u64) -> PyResult<()> {
        self.call(py, |container| container.zero_exactly(offset, length))
    }

    /// Copy a range of `src`; durable after `flush`.
    fn copy_from(
        &self,
        py: Python<'_>,
        src: &StorageHandle,
        src_offset: u64,
        dst_offset: u64,
        length: u64,
    ) -> PyResult<()> {
        let source = src.open()?;
        self.call(py, |container| {
            container.copy_from(&source, src_offset, dst_offset, length)
        })
    }

    /// Read a range.
    fn read<'py>(
        &self,
        py: Python<'py>,
        offset: u64,
        length: usize,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = self.call(py, |container| {
            let mut data = vec![0; length];
            container.read(offset, &mut data)?;
            Ok(data)
        })?;
        Ok(PyBytes::new(py, &data))
    }

    /// Make durable whatever has been written to the container before; EIO too while a note says
    /// that somebody's sync failed there.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, Container::flush_hearing)
    }

    /// The note of a failed sync that stands there: (errno, holder, serial).
    fn note(&self, py: Python<'_>) -> PyResult<Option<(i32, u64, u64)>> {
        let note = self.call(py, Container::note)?;
        Ok(note.map(|note| (note.errno, note.holder, note.serial)))
    }

    /// Take that note away, durably, if it is still there.
    fn clear_note(&self, py: Python<'_>, errno: i32, holder: u64, serial: u64) -> PyResult<()> {
        let note = Note {
            errno,
            holder,
            serial,
        };
        self.call(py, |container| container.clear_note(note))
    }

    /// Whether no I/O under the fence of `incarnation` can be under way, or begin: its lock is
    /// gone, or the server has ended its sessions.  `ending` says what may be done to find out: 0
    /// nothing, 1 end its sessions (its lease is over), 2 let it make no more either (it is
    /// replaced).
    #[pyo3(signature = (incarnation, ending = 0))]
    fn fence_ended(&self, py: Python<'_>, incarnation: u64, ending: u8) -> PyResult<bool> {
        let ending = match ending {
            0 => Ending::Ask,
            1 => Ending::Sessions,
            2 => Ending::Forever,
            _ => return Err(PyValueError::new_err("an ending is 0, 1 or 2")),
        };
        self.call(py, |container| container.fence_ended(incarnation, ending))
    }

    /// Writes across the network may begin until then, CLOCK_BOOTTIME.
    fn set_lease(&self, until_ns: u64) -> PyResult<()> {
        self.open()?.set_lease(until_ns);
        Ok(())
    }

    /// What the operator has set for storage across the network, by its URI's parameters.
    fn set_policy(&self, uri: &str) -> PyResult<()> {
        self.open()?.set_policy(uri);
        Ok(())
    }

    /// For how long its server has been away, in seconds; None: it is not, or there is none.
    fn away_s(&self) -> PyResult<Option<f64>> {
        let away_ns = self.open()?.port().and_then(|port| port.away_ns());
        Ok(away_ns.map(|ns| ns as f64 / 1e9))
    }

    /// Whether I/O of others here can be proven to have ended: by locks, or by its server.
    fn has_fence(&self) -> PyResult<bool> {
        Ok(self.open()?.port().is_none_or(|port| port.limits().fenced))
    }

    /// Write the newest (term, commit number) into the header, durably; ESTALE if it has seen a
    /// newer one.
    fn stamp(&self, py: Python<'_>, term: u64, commit: u64) -> PyResult<()> {
        self.call(py, |container| container.stamp(term, commit))
    }

    /// The header as it is now.
    fn header<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let header = self.call(py, Container::read_header)?;
        header_dict(py, &header)
    }

    /// Let go of the container; calls still running keep it, and its fence, until they end.
    fn close(&self, py: Python<'_>) {
        let container = self
            .container
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        py.detach(|| drop(container));
    }
}
