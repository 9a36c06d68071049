//! Messages across the Python boundary: commands in, events out.  Used by `Engine` and `DataPlane`.
//!
//! Commands are the structs of `segue.wire.messages`, read by class name and attributes, so the
//! table of messages has one definition; events leave as tuples, as `_native.pyi` lists them.

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};
use segue_map::{BlockRun, ContainerSpec, Control, EntryRun, Event, MapFault, PendingFault};

/// One attribute of a message, by its interned name.
macro_rules! field {
    ($obj:expr, $name:literal) => {
        $obj.getattr(intern!($obj.py(), $name))?.extract()?
    };
}

/// Reads a command or an answer to a fault.
///
/// Raises `TypeError` for any other class, and `TypeError` or `OverflowError` for an attribute
/// that does not fit; msgspec has checked the types before, so these are our own mistakes.
pub fn control_from_py(obj: &Bound<'_, PyAny>) -> PyResult<Control> {
    let class = obj.get_type().name()?;
    let name = class.to_str()?;
    Ok(match name {
        "Retry" => Control::Retry {
            request: field!(obj, "request"),
            disk: field!(obj, "disk"),
            runs: entry_runs(obj)?,
        },
        "Failure" => Control::Failure {
            request: field!(obj, "request"),
            errno: field!(obj, "errno"),
            set_error: field!(obj, "set_error"),
        },
        "CompleteToHost" => Control::CompleteToHost {
            request: field!(obj, "request"),
        },
        _ => return command_from_py(obj, name),
    })
}

fn command_from_py(obj: &Bound<'_, PyAny>, name: &str) -> PyResult<Control> {
    let command: u64 = match name {
        "NewTable" | "DeleteTable" | "ResizeTable" | "GetEntry" | "SetEntry" | "SetEntryState"
        | "SetContainers" | "Quiesce" | "Activate" | "DoWrite" | "DoSplitRead" => {
            field!(obj, "command")
        }
        _ => {
            return Err(PyTypeError::new_err(format!(
                "{name} is not for an agent's data plane"
            )));
        }
    };
    Ok(match name {
        "DoWrite" => Control::DoWrite {
            command,
            request: field!(obj, "request"),
            location: field!(obj, "location"),
            head: field!(obj, "head"),
            tail: field!(obj, "tail"),
        },
        "DoSplitRead" => Control::DoSplitRead {
            command,
            request: field!(obj, "request"),
            runs: block_runs(obj)?,
        },
        _ => return table_command_from_py(obj, name, command),
    })
}

fn table_command_from_py(obj: &Bound<'_, PyAny>, name: &str, command: u64) -> PyResult<Control> {
    let disk: u32 = field!(obj, "disk");
    Ok(match name {
        "NewTable" => Control::NewTable {
            command,
            disk,
            size_bytes: field!(obj, "size_bytes"),
            segment_bytes: field!(obj, "segment_bytes"),
            block_bytes: field!(obj, "block_bytes"),
            read_only: field!(obj, "read_only"),
            containers: containers(obj)?,
        },
        "DeleteTable" => Control::DeleteTable { command, disk },
        "ResizeTable" => Control::ResizeTable {
            command,
            disk,
            size_bytes: field!(obj, "size_bytes"),
            blocking: field!(obj, "blocking"),
        },
        "GetEntry" => Control::GetEntry {
            command,
            disk,
            first: field!(obj, "first"),
            count: field!(obj, "count"),
        },
        "SetEntry" => Control::SetEntry {
            command,
            disk,
            runs: entry_runs(obj)?,
            blocking: field!(obj, "blocking"),
        },
        "SetEntryState" => Control::SetEntryState {
            command,
            disk,
            first: field!(obj, "first"),
            count: field!(obj, "count"),
            flags: field!(obj, "flags"),
            clear_no_write: field!(obj, "clear_no_write"),
            whole_table: field!(obj, "whole_table"),
            blocking: field!(obj, "blocking"),
        },
        "SetContainers" => Control::SetContainers {
            command,
            disk,
            containers: containers(obj)?,
        },
        "Quiesce" => Control::Quiesce {
            command,
            disk,
            quiesce: field!(obj, "quiesce"),
            drain_ns: field!(obj, "drain_ns"),
            hold_ns: field!(obj, "hold_ns"),
        },
        "Activate" => Control::Activate {
            command,
            disk,
            quiesce: field!(obj, "quiesce"),
        },
        other => unreachable!("{other} is matched by the callers"),
    })
}

fn entry_runs(obj: &Bound<'_, PyAny>) -> PyResult<Vec<EntryRun>> {
    let mut runs = Vec::new();
    for run in obj.getattr(intern!(obj.py(), "runs"))?.try_iter()? {
        let run = run?;
        runs.push(EntryRun {
            first: field!(run, "first"),
            count: field!(run, "count"),
            word: field!(run, "word"),
            step: field!(run, "step"),
        });
    }
    Ok(runs)
}

fn block_runs(obj: &Bound<'_, PyAny>) -> PyResult<Vec<BlockRun>> {
    let mut runs = Vec::new();
    for run in obj.getattr(intern!(obj.py(), "runs"))?.try_iter()? {
        let run = run?;
        runs.push(BlockRun {
            first_block: field!(run, "first_block"),
            count_blocks: field!(run, "count_blocks"),
            location: field!(run, "location"),
        });
    }
    Ok(runs)
}

fn containers(obj: &Bound<'_, PyAny>) -> PyResult<Vec<ContainerSpec>> {
    let mut specs = Vec::new();
    for spec in obj.getattr(intern!(obj.py(), "containers"))?.try_iter()? {
        let spec = spec?;
        let identity = spec.getattr(intern!(spec.py(), "identity"))?;
        let identity = identity
            .cast::<PyBytes>()?
            .as_bytes()
            .try_into()
            .map_err(|_| PyValueError::new_err("ContainerSpec.identity must have 16 bytes"))?;
        specs.push(ContainerSpec {
            container: field!(spec, "container"),
            uri: field!(spec, "uri"),
            identity,
            segment_bytes: field!(spec, "segment_bytes"),
            segments: field!(spec, "segments"),
            cache: field!(spec, "cache"),
            write_unit_bytes: field!(spec, "write_unit_bytes"),
            failed: field!(spec, "failed"),
        });
    }
    Ok(specs)
}

type FaultTuple = (u64, u32, u64, u64, u8, u64, u64, u64);

fn fault_tuple(fault: &MapFault) -> FaultTuple {
    (
        fault.request,
        fault.disk,
        fault.segment,
        fault.segments,
        fault.operation as u8,
        fault.first_block,
        fault.count_blocks,
        fault.word,
    )
}

fn pending_tuple(pending: &PendingFault) -> (FaultTuple, u8, u64, u8, i32) {
    let status = pending.status as u8;
    let outcome = pending.outcome as u8;
    (
        fault_tuple(&pending.fault),
        status,
        pending.command,
        outcome,
        pending.errno,
    )
}

/// The tuple of an event; its first item names it.
pub fn event_to_py<'py>(py: Python<'py>, event: Event) -> PyResult<Bound<'py, PyTuple>> {
    let name = |text: &'static str| PyString::intern(py, text);
    match event {
        Event::Fault(f) => (
            name("fault"),
            f.request,
            f.disk,
            f.segment,
            f.segments,
            f.operation as u8,
            f.first_block,
            f.count_blocks,
            f.word,
        )
            .into_pyobject(py),
        Event::Answer {
            command,
            outcome,
            errno,
            entries,
            held,
        } => (name("answer"), command, outcome as u8, errno, entries, held).into_pyobject(py),
        Event::ContainerFailed {
            request,
            disk,
            container,
            errno,
        } => (name("container_failed"), request, disk, container, errno).into_pyobject(py),
        Event::QuiesceExpired { disk, quiesce } => {
            (name("quiesce_expired"), disk, quiesce).into_pyobject(py)
        }
        Event::FaultGone { request } => (name("fault_gone"), request).into_pyobject(py),
        Event::Faults { tables, pending } => {
            let pending: Vec<_> = pending.iter().map(pending_tuple).collect();
            (name("faults"), tables, pending).into_pyobject(py)
        }
        Event::LeaseEnded => (name("lease_ended"),).into_pyobject(py),
    }
}
