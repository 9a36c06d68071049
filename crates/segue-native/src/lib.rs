//! `segue._native`: thin PyO3 classes over the engines and the data plane.
//!
//! Each file registers its own classes and functions with the module.

mod messages;

use pyo3::prelude::*;

#[pymodule]
fn _native(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
