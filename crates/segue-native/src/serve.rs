//! `segue serve`: a server that exports a file or device, with a fence.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use segue_io::container::Cache;
use segue_io::serve::{Limits, Server};

use crate::storage::os_error;

/// Adds this file's class.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<StorageServer>()
}

/// Exports storage (a container's URI) over NBD until it is closed, or its process ends.
///
/// `state` is the file that remembers who was revoked for ever. A handshake may take
/// `handshake_timeout_ns`; of `connections_max` connections at once each counts, in its handshake too.
#[pyclass(frozen, module = "segue._native")]
pub struct StorageServer {
    server: Mutex<Option<Server>>,
    size_bytes: u64,
}

impl StorageServer {
    fn call<T>(&self, body: impl FnOnce(&mut Server) -> std::io::Result<T>) -> PyResult<T> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = || PyOSError::new_err((segue_io::sys::EBADF, "the server is closed"));
        body(server.as_mut().ok_or_else(closed)?).map_err(|error| os_error(&error))
    }
}

#[pymethods]
impl StorageServer {
    #[new]
    #[pyo3(signature = (
        storage,
        cache,
        name,
        state,
        *,
        handshake_timeout_ns = Limits::default().handshake_ns,
        connections_max = Limits::default().connections_max,
    ))]
    fn new(
        py: Python<'_>,
        storage: &str,
        cache: &str,
        name: &str,
        state: PathBuf,
        handshake_timeout_ns: u64,
        connections_max: u32,
    ) -> PyResult<StorageServer> {
        let cache =
            Cache::parse(cache).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let limits = Limits {
            handshake_ns: handshake_timeout_ns,
            connections_max,
        };
        let opened = py.detach(|| Server::open(storage, cache, name, &state, limits));
        let server = opened.map_err(|error| os_error(&error))?;
        Ok(StorageServer {
            size_bytes: server.size_bytes(),
            server: Mutex::new(Some(server)),
        })
    }

    /// Size of the export, in bytes.
    #[getter]
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Serve on a unix socket.
    fn listen_unix(&self, path: PathBuf) -> PyResult<()> {
        self.call(|server| server.listen_unix(&path))
    }

    /// Serve on a TCP port (0: any); gives the port.
    fn listen_tcp(&self, host: &str, port: u16) -> PyResult<u16> {
        self.call(|server| server.listen_tcp(host, port))
    }

    /// Let nobody in any more.
    fn close(&self, py: Python<'_>) {
        let server = self
            .server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        py.detach(|| drop(server));
    }
}
