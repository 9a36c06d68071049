//! A blocking NBD client for demos and tests.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use segue_io::client::{Client, ClientError};
use segue_nbd::consts as c;

/// Adds this file's classes and functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NbdClient>()?;
    module.add_function(wrap_pyfunction!(nbd_list_exports, module)?)?;
    Ok(())
}

fn client_error(error: ClientError) -> PyErr {
    PyOSError::new_err((error.errno(), error.to_string()))
}

fn flags(pairs: &[(bool, u16)]) -> u16 {
    pairs
        .iter()
        .filter(|(wanted, _)| *wanted)
        .fold(0, |all, (_, flag)| all | flag)
}

/// The names of a server's exports.
#[pyfunction]
fn nbd_list_exports(py: Python<'_>, address: &str) -> PyResult<Vec<String>> {
    let exports = py.detach(|| Client::list(address)).map_err(client_error)?;
    Ok(exports.into_iter().map(|export| export.name).collect())
}

/// One connection to one export; calls of several threads wait for each other.
///
/// `address` is the path of a unix socket, ``nbd://HOST[:PORT]``, or ``nbd+unix:///?socket=PATH``.
/// Errors are `OSError` with the errno the server gave.
#[pyclass(frozen, module = "segue._native")]
pub struct NbdClient {
    client: Mutex<Option<Client>>,
    size: u64,
    block_sizes: (u32, u32, u32),
    read_only: bool,
}

impl NbdClient {
    fn lock(&self) -> MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<T: Send>(
        &self,
        py: Python<'_>,
        body: impl FnOnce(&mut Client) -> Result<T, ClientError> + Send,
    ) -> PyResult<T> {
        let closed = || PyOSError::new_err((segue_io::sys::EBADF, "the connection is closed"));
        py.detach(|| match self.lock().as_mut() {
            Some(client) => body(client).map_err(client_error),
            None => Err(closed()),
        })
    }
}

#[pymethods]
impl NbdClient {
    #[new]
    #[pyo3(signature = (address, export = ""))]
    fn new(py: Python<'_>, address: &str, export: &str) -> PyResult<NbdClient> {
        let client = py
            .detach(|| Client::connect(address, export))
            .map_err(client_error)?;
        let agreed = client.negotiated();
        let sizes = agreed.block_sizes.unwrap_or_default();
        Ok(NbdClient {
            size: agreed.size_bytes,
            block_sizes: (sizes.minimum(), sizes.preferred(), sizes.maximum()),
            read_only: agreed.offers(c::FLAG_READ_ONLY),
            client: Mutex::new(Some(client)),
        })
    }

    /// Size of the export in bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.size
    }

    /// Minimum, preferred and maximum block size in bytes.
    #[getter]
    fn block_sizes(&self) -> (u32, u32, u32) {
        self.block_sizes
    }

    /// Whether writes are refused.
    #[getter]
    fn read_only(&self) -> bool {
        self.read_only
    }

    /// Read `length` bytes at `offset`.
    fn pread<'py>(
        &self,
        py: Python<'py>,
        length: usize,
        offset: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let data = self.call(py, |client| {
            let mut data = vec![0; length];
            client.read(offset, &mut data)?;
            Ok(data)
        })?;
        Ok(PyBytes::new(py, &data))
    }

    /// Write `data` at `offset`; with `fua`, durable before it returns.
    #[pyo3(signature = (data, offset, fua = false))]
    fn pwrite(&self, py: Python<'_>, data: &[u8], offset: u64, fua: bool) -> PyResult<()> {
        let flags = flags(&[(fua, c::CMD_FLAG_FUA)]);
        self.call(py, |client| client.write(offset, data, flags))
    }

    /// Make durable whatever was acknowledged.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, Client::flush)
    }

    /// Make a range read as zeroes.
    #[pyo3(signature = (length, offset, fua = false, no_hole = false, fast = false))]
    fn zero(
        &self,
        py: Python<'_>,
        length: u64,
        offset: u64,
        fua: bool,
        no_hole: bool,
        fast: bool,
    ) -> PyResult<()> {
        let flags = flags(&[
            (fua, c::CMD_FLAG_FUA),
            (no_hole, c::CMD_FLAG_NO_HOLE),
            (fast, c::CMD_FLAG_FAST_ZERO),
        ]);
        self.call(py, |client| client.zero(offset, length, flags))
    }

    /// Say that a range is no longer needed.
    #[pyo3(signature = (length, offset, fua = false))]
    fn trim(&self, py: Python<'_>, length: u64, offset: u64, fua: bool) -> PyResult<()> {
        let flags = flags(&[(fua, c::CMD_FLAG_FUA)]);
        self.call(py, |client| client.trim(offset, length, flags))
    }

    /// The extents of a range as (length in bytes, flags): 1 hole, 2 reads as zeroes.
    fn block_status(&self, py: Python<'_>, length: u64, offset: u64) -> PyResult<Vec<(u64, u32)>> {
        self.call(py, |client| client.block_status(offset, length))
    }

    /// End the session in order; further calls raise `OSError`.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let client = self.lock().take();
        match client {
            Some(client) => py.detach(|| client.disconnect()).map_err(client_error),
            None => Ok(()),
        }
    }
}
