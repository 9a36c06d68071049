//! `segue._native`: thin PyO3 classes over the engines and the data plane.
//!
//! Each file registers its own classes, functions and constants with the module; the stub
//! `python/segue/_native.pyi` says what they are, and stubtest that it says so.

mod engine;
mod messages;
mod nbd_client;
mod plane;
mod serve;
mod storage;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    engine::register(module)?;
    plane::register(module)?;
    storage::register(module)?;
    nbd_client::register(module)?;
    serve::register(module)
}
