//! The data plane of an agent.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use segue_io::plane::{
    BUCKETS, Export, HostLimits, IoTrace, LatencyRow, Plane, PlaneEvent, bucket_floor_ns, bucket_of,
};
use segue_map::Config;
use segue_nbd::server::Command;

use crate::messages::{control_from_py, event_to_py};
use crate::storage::os_error;

/// Adds this file's classes and functions.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<DataPlane>()?;
    module.add("LATENCY_BUCKETS", BUCKETS)?;
    module.add_function(wrap_pyfunction!(name_log, module)?)?;
    module.add_function(wrap_pyfunction!(latency_bucket, module)?)?;
    module.add_function(wrap_pyfunction!(latency_bucket_ns, module)?)
}

/// Native threads' lines of log get time, level and this name of the process.
#[pyfunction]
fn name_log(process: &str) {
    segue_io::name_log(process);
}

/// The bucket that a time in ns is counted in.
#[pyfunction]
fn latency_bucket(ns: u64) -> usize {
    bucket_of(ns)
}

/// The shortest time of a latency bucket, ns; of the one after the last: where that ends.
#[pyfunction]
fn latency_bucket_ns(bucket: usize) -> PyResult<u64> {
    if bucket > BUCKETS {
        return Err(PyValueError::new_err(format!(
            "there are {BUCKETS} buckets"
        )));
    }
    Ok(bucket_floor_ns(bucket))
}

/// The data thread of an agent and what hosts, containers and the controller have to do with it.
///
/// All methods but `shutdown` return at once: they queue a message for the data thread.  `events`
/// gives what it has to say, as tuples: those of `Engine.events`, and ``("want_export", token,
/// name)``, ``("want_list", token)``, ``("unused", disk, given)``, ``("latency", request, rows)``.
/// A panic in the data thread ends the process.
#[pyclass(frozen, module = "segue._native")]
pub struct DataPlane {
    plane: Plane,
    /// Held by `shutdown`, so that two of them do not mix.
    stopping: Mutex<()>,
}

#[pymethods]
impl DataPlane {
    #[new]
    #[pyo3(signature = (
        *,
        incarnation,
        park_limit_bytes,
        host_timeout_ns = None,
        handshake_timeout_ns = HostLimits::default().handshake_ns,
        connections_max = HostLimits::default().connections_max,
        disk_connections_max = HostLimits::default().disk_connections_max,
    ))]
    fn new(
        incarnation: u64,
        park_limit_bytes: u64,
        host_timeout_ns: Option<u64>,
        handshake_timeout_ns: u64,
        connections_max: u32,
        disk_connections_max: u32,
    ) -> PyResult<DataPlane> {
        let config = Config {
            park_limit_bytes,
            host_timeout_ns,
            pieces_at_once: segue_map::PIECES_AT_ONCE,
        };
        let limits = HostLimits {
            handshake_ns: handshake_timeout_ns,
            connections_max,
            disk_connections_max,
        };
        let plane = Plane::new(incarnation, config, limits).map_err(|error| os_error(&error))?;
        Ok(DataPlane {
            plane,
            stopping: Mutex::new(()),
        })
    }

    /// An eventfd, readable while `events` has something.
    fn fileno(&self) -> i32 {
        self.plane.fd()
    }

    /// Take all events so far, in order.
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let events = self.plane.events().into_iter();
        events
            .filter_map(|event| plane_event_to_py(py, event).transpose())
            .collect()
    }

    /// Hand over a command or an answer to a fault.
    fn deliver(&self, message: &Bound<'_, PyAny>) -> PyResult<()> {
        self.plane.deliver(control_from_py(message)?);
        Ok(())
    }

    /// There is a lease until `until_ns` of CLOCK_BOOTTIME.
    fn set_lease(&self, until_ns: u64) {
        self.plane.set_lease(until_ns);
    }

    /// The controller has counted this agent as lost: end the lease now.
    fn end_lease(&self) {
        self.plane.end_lease();
    }

    /// Ask for one ``("faults", ...)`` event; commands not applied by then never will be.
    fn list_faults(&self) {
        self.plane.list_faults();
    }

    /// Ask for one ``("latency", request, rows)`` event.
    fn ask_latency(&self, request: u64, disk: u32) {
        self.plane.ask_latency(request, disk);
    }

    /// From now on tell of host I/O that faults: ``("io_faulted", io, request)`` and
    /// ``("io_answered", io, cause, errno, took_ns)``.
    fn trace_io(&self) {
        self.plane.trace_io();
    }

    /// Answer a ``want_export``; with `errno` 0 the disk is served.
    #[pyo3(signature = (token, errno, disk, size_bytes, block_bytes, read_only))]
    fn export_answer(
        &self,
        token: u64,
        errno: i32,
        disk: u32,
        size_bytes: u64,
        block_bytes: u32,
        read_only: bool,
    ) {
        let export = Export {
            disk,
            size_bytes,
            block_bytes,
            read_only,
        };
        self.plane
            .export_answer(token, if errno == 0 { Ok(export) } else { Err(errno) });
    }

    /// Answer a ``want_list``.
    fn list_answer(&self, token: u64, names: Vec<String>) {
        self.plane.list_answer(token, names);
    }

    /// Serve hosts on a unix socket.
    fn listen_unix(&self, path: PathBuf) -> PyResult<()> {
        self.plane
            .listen_unix(&path)
            .map_err(|error| os_error(&error))
    }

    /// Serve hosts on a TCP port (0: any); gives the port.
    fn listen_tcp(&self, py: Python<'_>, host: &str, port: u16) -> PyResult<u16> {
        py.detach(|| self.plane.listen_tcp(host, port))
            .map_err(|error| os_error(&error))
    }

    /// Take no more requests, finish those under way within `drain_ns`, close all connections.
    ///
    /// Blocks until that is done.  Faults may still be answered meanwhile, from other threads.
    fn shutdown(&self, py: Python<'_>, drain_ns: u64) {
        py.detach(|| {
            let _one = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
            self.plane.shutdown(drain_ns);
            self.plane.wait_stopped();
        });
    }

    /// Counters since the start, by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (name, value) in self.plane.stats().values() {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }
}

fn io_dict<'py>(py: Python<'py>, io: &IoTrace) -> PyResult<Bound<'py, PyDict>> {
    let operation = match io.command {
        Command::Read => "read",
        Command::Write => "write",
        Command::Flush => "flush",
        Command::Trim => "trim",
        Command::Cache => "cache",
        Command::WriteZeroes => "write_zeroes",
        Command::BlockStatus => "status",
    };
    let dict = PyDict::new(py);
    dict.set_item("connection", io.connection)?;
    dict.set_item("cookie", io.cookie)?;
    dict.set_item("disk", io.disk)?;
    dict.set_item("operation", operation)?;
    dict.set_item("offset", io.offset)?;
    dict.set_item("length", io.length)?;
    Ok(dict)
}

type LatencyTuple = (u8, u8, u64, u64, Vec<u32>, Vec<u64>);

fn latency_tuple(row: LatencyRow) -> LatencyTuple {
    let (buckets, counts) = row.buckets.into_iter().unzip();
    (
        row.operation,
        row.cause,
        row.sum_ns,
        row.max_ns,
        buckets,
        counts,
    )
}

fn plane_event_to_py(py: Python<'_>, event: PlaneEvent) -> PyResult<Option<Bound<'_, PyTuple>>> {
    Ok(Some(match event {
        PlaneEvent::Engine(event) => event_to_py(py, event)?,
        PlaneEvent::WantExport { token, name } => ("want_export", token, name).into_pyobject(py)?,
        PlaneEvent::WantList { token } => ("want_list", token).into_pyobject(py)?,
        PlaneEvent::QuestionGone { token } => ("question_gone", token).into_pyobject(py)?,
        PlaneEvent::Unused { disk, given } => ("unused", disk, given).into_pyobject(py)?,
        PlaneEvent::Latency { request, rows } => {
            let rows: Vec<_> = rows.into_iter().map(latency_tuple).collect();
            ("latency", request, rows).into_pyobject(py)?
        }
        PlaneEvent::IoFaulted(io, request) => {
            ("io_faulted", io_dict(py, &io)?, request).into_pyobject(py)?
        }
        PlaneEvent::IoAnswered {
            io,
            cause,
            errno,
            took_ns,
        } => ("io_answered", io_dict(py, &io)?, cause, errno, took_ns).into_pyobject(py)?,
        PlaneEvent::Stopped => return Ok(None),
    }))
}
