//! `Engine`: the mapping engine for the simulator and for tests, and the bits of the entry word.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};
use segue_map::decide::{EntryClass, OpClass, decide};
use segue_map::{Config, Effect, HostOp, IoKind, Src, entry, host_flags};

use crate::messages::{control_from_py, event_to_py};

/// The sans-I/O engine; `_native.pyi` and `docs/mapping.md` say what the methods mean.
#[pyclass(module = "segue._native")]
struct Engine {
    engine: segue_map::Engine,
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (*, park_limit_bytes, host_timeout_ns=None, pieces_at_once=64))]
    fn new(park_limit_bytes: u64, host_timeout_ns: Option<u64>, pieces_at_once: u32) -> Engine {
        let config = Config {
            park_limit_bytes,
            host_timeout_ns,
            pieces_at_once,
        };
        Engine {
            engine: segue_map::Engine::new(config),
        }
    }

    #[allow(clippy::too_many_arguments)]
    #[pyo3(signature = (now, token, disk, op, offset, len, flags=0))]
    fn host_io(
        &mut self,
        now: u64,
        token: u64,
        disk: u32,
        op: &str,
        offset: u64,
        len: u64,
        flags: u16,
    ) -> PyResult<()> {
        let op = match op {
            "read" => HostOp::Read,
            "write" => HostOp::Write,
            "zero" => HostOp::WriteZeroes,
            "trim" => HostOp::Trim,
            "flush" => HostOp::Flush,
            "status" => HostOp::BlockStatus,
            other => {
                return Err(PyValueError::new_err(format!(
                    "no host operation {other:?}"
                )));
            }
        };
        self.engine
            .host_io(now, token, disk, op, offset, len, flags);
        Ok(())
    }

    fn host_gone(&mut self, token: u64) {
        self.engine.host_gone(token);
    }

    fn piece_done(&mut self, now: u64, piece: u64, errno: i32) {
        self.engine.piece_done(now, piece, errno);
    }

    fn piece_refused(&mut self, now: u64, piece: u64, errno: i32) {
        self.engine.piece_refused(now, piece, errno);
    }

    fn piece_not_begun(&mut self, now: u64, piece: u64) {
        self.engine.piece_not_begun(now, piece);
    }

    fn deliver(&mut self, now: u64, message: &Bound<'_, PyAny>) -> PyResult<()> {
        self.engine.control(now, control_from_py(message)?);
        Ok(())
    }

    fn set_lease(&mut self, now: u64, until_ns: u64) {
        self.engine.set_lease(now, until_ns);
    }

    fn end_lease(&mut self, now: u64) {
        self.engine.end_lease(now);
    }

    fn list_faults(&mut self) {
        self.engine.list_faults();
    }

    fn tick(&mut self, now: u64) {
        self.engine.tick(now);
    }

    fn deadline(&self) -> Option<u64> {
        self.engine.deadline()
    }

    fn accepts(&self, disk: u32) -> bool {
        self.engine.accepts(disk)
    }

    fn effects<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let effects = PyList::empty(py);
        while let Some(effect) = self.engine.poll_effect() {
            effects.append(effect_to_py(py, effect)?)?;
        }
        Ok(effects)
    }

    fn notes(&mut self) -> Vec<(u64, u8)> {
        core::iter::from_fn(|| self.engine.poll_note())
            .map(|note| (note.token, note.cause as u8))
            .collect()
    }

    fn events<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let events = PyList::empty(py);
        while let Some(event) = self.engine.poll_event() {
            events.append(event_to_py(py, event)?)?;
        }
        Ok(events)
    }

    fn self_check(&self) {
        self.engine.self_check();
    }

    fn digest(&self) -> u64 {
        self.engine.digest()
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.engine.stats();
        let dict = PyDict::new(py);
        dict.set_item("disks", stats.disks)?;
        dict.set_item("hosts", stats.hosts)?;
        dict.set_item("pieces", stats.pieces)?;
        dict.set_item("faults", stats.faults)?;
        dict.set_item("blockers", stats.blockers)?;
        dict.set_item("parked_bytes", stats.parked_bytes)?;
        dict.set_item("table_pages", stats.table_pages)?;
        dict.set_item("ignored_answers", stats.ignored_answers)?;
        Ok(dict)
    }
}

/// The tuple of an effect; its first item names it.
fn effect_to_py<'py>(py: Python<'py>, effect: Effect) -> PyResult<Bound<'py, PyTuple>> {
    let name = |text: &'static str| PyString::intern(py, text);
    match effect {
        Effect::Io { .. } => io_to_py(py, &effect),
        Effect::Rmw { .. } => rmw_to_py(py, &effect),
        Effect::Flush {
            piece,
            token,
            container,
        } => (name("flush"), piece, token, container).into_pyobject(py),
        Effect::ZeroFill {
            token,
            buf_off,
            len,
        } => (name("fill"), token, buf_off, len).into_pyobject(py),
        Effect::Reply {
            token,
            errno,
            in_use,
        } => (name("reply"), token, errno, in_use).into_pyobject(py),
        Effect::Release { token } => (name("release"), token).into_pyobject(py),
        Effect::StatusReply { token, extents } => {
            (name("status"), token, extents).into_pyobject(py)
        }
    }
}

fn io_to_py<'py>(py: Python<'py>, effect: &Effect) -> PyResult<Bound<'py, PyTuple>> {
    let Effect::Io {
        piece,
        token,
        kind,
        container,
        offset_bytes,
        len,
        buf_off,
        fua,
        no_hole,
        fast,
    } = *effect
    else {
        unreachable!("called with Io only");
    };
    let kind = match kind {
        IoKind::Read => "read",
        IoKind::Write => "write",
        IoKind::WriteZeroes => "zero",
        IoKind::Trim => "trim",
    };
    let (name, kind) = (PyString::intern(py, "io"), PyString::intern(py, kind));
    (
        name,
        piece,
        token,
        kind,
        container,
        offset_bytes,
        len,
        buf_off,
        fua,
        no_hole,
        fast,
    )
        .into_pyobject(py)
}

/// More items than the largest tuple that converts by itself: made from a list.
fn rmw_to_py<'py>(py: Python<'py>, effect: &Effect) -> PyResult<Bound<'py, PyTuple>> {
    let Effect::Rmw {
        piece,
        token,
        container,
        offset_bytes,
        len,
        buf_off,
        data_skip,
        data_len,
        zeroes,
        head,
        tail,
        fua,
        unit_bytes,
    } = *effect
    else {
        unreachable!("called with Rmw only");
    };
    let items = PyList::new(py, [piece, token, container.into(), offset_bytes, len])?;
    items.insert(0, PyString::intern(py, "rmw"))?;
    for number in [buf_off, data_skip, data_len] {
        items.append(number)?;
    }
    items.append(zeroes)?;
    items.append(src_to_py(head))?;
    items.append(src_to_py(tail))?;
    items.append(fua)?;
    items.append(unit_bytes)?;
    Ok(items.to_tuple())
}

/// (container, offset), or `None` for zeroes.
fn src_to_py(src: Src) -> Option<(u16, u64)> {
    match src {
        Src::Zeroes => None,
        Src::Location {
            container,
            offset_bytes,
        } => Some((container, offset_bytes)),
    }
}

/// The word of a clean entry, or of a `no_write` one.
#[pyfunction]
#[pyo3(signature = (container, segment, no_write=false))]
fn entry_pack(container: u16, segment: u64, no_write: bool) -> PyResult<u64> {
    if segment > entry::SEGMENT_MASK {
        return Err(PyValueError::new_err(format!(
            "segment {segment} has more than 44 bits"
        )));
    }
    let flags = if no_write { entry::NO_WRITE } else { 0 };
    Ok(segue_map::Entry::at(container, segment).0 | flags)
}

/// What each kind of I/O does on an entry: the entry's state, and the truth table's line for it,
/// in the words of `docs/mapping.md`.
#[pyfunction]
fn entry_decisions(word: u64) -> (&'static str, Vec<(&'static str, &'static str)>) {
    let entry = segue_map::Entry(word);
    let line = OpClass::ALL.map(|class| (class.name(), decide(entry, class).name()));
    (EntryClass::of(entry).name(), line.to_vec())
}

/// Adds the engine and the constants of entries and flags to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Engine>()?;
    module.add_function(wrap_pyfunction!(entry_pack, module)?)?;
    module.add_function(wrap_pyfunction!(entry_decisions, module)?)?;
    module.add("ENTRY_VALID", entry::VALID)?;
    module.add("ENTRY_ERROR", entry::ERROR)?;
    module.add("ENTRY_ZERO", entry::ZERO)?;
    module.add("ENTRY_NO_WRITE", entry::NO_WRITE)?;
    module.add("ENTRY_CONTAINER_SHIFT", entry::CONTAINER_SHIFT)?;
    module.add("ENTRY_SEGMENT_MASK", entry::SEGMENT_MASK)?;
    module.add("STATE_INVALID", entry::STATE_INVALID)?;
    module.add("STATE_ERROR", entry::STATE_ERROR)?;
    module.add("STATE_ZERO", entry::STATE_ZERO)?;
    module.add("STATE_NO_WRITE", entry::STATE_NO_WRITE)?;
    module.add("FLAG_FUA", host_flags::FUA)?;
    module.add("FLAG_NO_HOLE", host_flags::NO_HOLE)?;
    module.add("FLAG_REQ_ONE", host_flags::REQ_ONE)?;
    module.add("FLAG_FAST_ZERO", host_flags::FAST_ZERO)?;
    module.add("STATUS_HOLE", segue_map::output::STATUS_HOLE)?;
    module.add("STATUS_ZERO", segue_map::output::STATUS_ZERO)?;
    Ok(())
}
