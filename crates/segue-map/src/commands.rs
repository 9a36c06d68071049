//! Commands on tables: checked first, then carried out; a refused one changes nothing.

use alloc::vec::Vec;

use crate::blocking::Scope;
use crate::control::{ContainerSpec, Control, EntryRun};
use crate::disk::Disk;
use crate::engine::Engine;
use crate::entry::{STATE_ERROR, STATE_INVALID, STATE_NO_WRITE, STATE_ZERO};
use crate::errno::{EEXIST, EINVAL, ENOENT, Errno};
use crate::in_flight::{Fault, State, Work};
use crate::output::{Event, Operation, Outcome};

/// Entries one `get_entry` may ask for.
const MAX_GET_ENTRIES: u64 = 65536;

impl Engine {
    /// Carries out a command.
    pub(crate) fn command(&mut self, control: Control) {
        let command = control.command().expect("answers to faults go elsewhere");
        let refused = match control {
            Control::NewTable {
                disk,
                size_bytes,
                segment_bytes,
                block_bytes,
                read_only,
                containers,
                ..
            } => Disk::new(disk, size_bytes, segment_bytes, block_bytes, read_only)
                .and_then(|disk| self.new_table(command, disk, &containers)),
            Control::DeleteTable { disk, .. } => self.delete_table(command, disk),
            Control::ResizeTable {
                disk,
                size_bytes,
                blocking,
                ..
            } => self.resize_table(command, disk, size_bytes, blocking),
            Control::GetEntry {
                disk, first, count, ..
            } => self.get_entry(command, disk, first, count),
            Control::SetEntry {
                disk,
                runs,
                blocking,
                ..
            } => self.set_entry(command, disk, &runs, blocking),
            Control::SetEntryState { .. } => self.set_entry_state(command, &control),
            Control::SetContainers {
                disk, containers, ..
            } => self.set_containers(command, disk, &containers),
            Control::Quiesce {
                disk,
                quiesce,
                drain_ns,
                hold_ns,
                ..
            } => self.quiesce(command, disk, quiesce, drain_ns, hold_ns),
            Control::Activate { disk, quiesce, .. } => self.activate(command, disk, quiesce),
            done => {
                self.do_command(done);
                Ok(())
            }
        };
        if let Err(errno) = refused {
            self.answer_failed(command, errno);
        }
    }

    pub(crate) fn answer(&mut self, command: u64, outcome: Outcome, errno: Errno) {
        let entries = Vec::new();
        self.events.push_back(Event::Answer {
            command,
            outcome,
            errno,
            entries,
            held: false,
        });
    }

    pub(crate) fn answer_done(&mut self, command: u64) {
        self.answer(command, Outcome::Done, 0);
    }

    pub(crate) fn answer_failed(&mut self, command: u64, errno: Errno) {
        self.answer(command, Outcome::Failed, errno);
    }

    fn new_table(
        &mut self,
        command: u64,
        mut disk: Disk,
        containers: &[ContainerSpec],
    ) -> Result<(), Errno> {
        let Err(place) = self.ids.binary_search_by_key(&disk.id, |(id, _)| *id) else {
            return Err(EEXIST);
        };
        if self.draining(disk.id).is_some() {
            return Err(EEXIST);
        }
        disk.set_containers(disk.check_set(containers)?);
        let id = disk.id;
        let slot = self.disks.insert(disk);
        self.ids.insert(place, (id, slot));
        self.refresh_sync_failed(slot);
        self.answer_done(command);
        Ok(())
    }

    /// Forgets the table at once; I/O not under way gets ESHUTDOWN, the answer waits for the rest.
    fn delete_table(&mut self, command: u64, disk: u32) -> Result<(), Errno> {
        let Some(slot) = self.slot(disk) else {
            return self.wait_for_draining(command, disk);
        };
        self.ids.retain(|(id, _)| *id != disk);
        self.disks[slot].deleted = true;
        // Keeps it from being freed with the last host below.
        self.disks[slot].blockers += 1;
        self.drop_quiesces(slot);
        self.unpark(slot);
        self.let_waiting_go(slot);
        for piece in self.pieces.indexes() {
            // One host's pieces may end together: an index may be gone by its turn.
            if self.pieces.contains(piece) && self.pieces[piece].disk == slot {
                self.shut_down(piece);
            }
        }
        self.disks[slot].blockers -= 1;
        self.block(command, slot, Scope::Disk, None);
        Ok(())
    }

    /// A table of that number was deleted and I/O started under it is still under way: a blocking
    /// command of a later session is answered when that has finished.
    fn wait_for_draining(&mut self, command: u64, disk: u32) -> Result<(), Errno> {
        let slot = self.draining(disk).ok_or(ENOENT)?;
        self.block(command, slot, Scope::Disk, None);
        Ok(())
    }

    /// The deleted table of that number that has I/O under way: `new_table` is refused meanwhile,
    /// so there is one at the most.
    fn draining(&self, disk: u32) -> Option<u32> {
        let slots = self.disks.indexes();
        slots
            .into_iter()
            .find(|slot| self.disks[*slot].id == disk && self.is_draining(*slot))
    }

    /// The deleted tables that have I/O under way.
    pub(crate) fn draining_tables(&self) -> Vec<u32> {
        let mut slots = self.disks.indexes();
        slots.retain(|slot| self.is_draining(*slot));
        slots.iter().map(|slot| self.disks[*slot].id).collect()
    }

    fn is_draining(&self, slot: u32) -> bool {
        let mut pieces = self.pieces.iter();
        self.disks[slot].deleted && pieces.any(|(_, piece)| piece.disk == slot && piece.started)
    }

    /// Ends a piece that waits for the controller: its table is gone.
    fn shut_down(&mut self, piece: u32) {
        let waits = match self.pieces[piece].state {
            State::Held => return self.unhold(piece),
            State::Failed(_) => true,
            State::Faulted(request) => !matches!(self.faults[&request].work, Work::Running { .. }),
            _ => false,
        };
        if waits {
            self.void_fault(piece);
        }
    }

    fn resize_table(
        &mut self,
        command: u64,
        disk: u32,
        size: u64,
        blocking: bool,
    ) -> Result<(), Errno> {
        let slot = self.slot(disk).ok_or(ENOENT)?;
        let disk = &mut self.disks[slot];
        disk.check_size(size)?;
        // The short segment at the old end changes as well as what lies beyond the new one.
        let kept = size.min(disk.size) >> disk.segment_shift;
        let end = disk.table.segments();
        let grows = size > disk.size;
        disk.table.resize(size.div_ceil(disk.segment_bytes()));
        disk.size = size;
        if grows && kept < end {
            self.discard_less(slot, kept);
        }
        self.changed(command, slot, Scope::Run(kept, end), blocking);
        Ok(())
    }

    /// What was the short last segment has grown: a discard that the controller was asked for as
    /// one of the whole segment is one of a part now.
    fn discard_less(&mut self, disk: u32, segment: u64) {
        let takes_more = |fault: &Fault| {
            let info = &fault.info;
            info.operation == Operation::Discard
                && fault.work == Work::None
                && self.pieces[fault.piece].disk == disk
                && info.segment + info.segments > segment
        };
        let found: Vec<(u64, u32)> = self
            .faults
            .iter()
            .filter(|(_, fault)| takes_more(fault))
            .map(|(request, fault)| (*request, fault.piece))
            .collect();
        for (request, piece) in found {
            self.forget_fault(request);
            self.decide(piece);
        }
    }

    fn get_entry(&mut self, command: u64, disk: u32, first: u64, count: u64) -> Result<(), Errno> {
        let disk = &self.disks[self.slot(disk).ok_or(ENOENT)?];
        disk.check_run(first, count)?;
        if count > MAX_GET_ENTRIES {
            return Err(EINVAL);
        }
        let entries = (first..first + count)
            .map(|segment| disk.table.get(segment).0)
            .collect();
        let outcome = Outcome::Done;
        self.events.push_back(Event::Answer {
            command,
            outcome,
            errno: 0,
            entries,
            held: false,
        });
        Ok(())
    }

    fn set_entry(
        &mut self,
        command: u64,
        disk: u32,
        runs: &[EntryRun],
        blocking: bool,
    ) -> Result<(), Errno> {
        let slot = self.slot(disk).ok_or(ENOENT)?;
        for run in runs {
            self.disks[slot].check_entries(run)?;
        }
        self.write_entries(slot, runs);
        let first = runs.iter().map(|run| run.first).min().unwrap_or(0);
        let end = runs
            .iter()
            .map(|run| run.first + run.count)
            .max()
            .unwrap_or(0);
        self.changed(command, slot, Scope::Run(first, end), blocking);
        Ok(())
    }

    fn set_entry_state(&mut self, command: u64, control: &Control) -> Result<(), Errno> {
        let Control::SetEntryState {
            disk,
            first,
            count,
            flags,
            clear_no_write,
            whole_table,
            blocking,
            ..
        } = *control
        else {
            unreachable!("called with this command only");
        };
        let Some(slot) = self.slot(disk) else {
            return self.wait_for_draining(command, disk);
        };
        let disk = &mut self.disks[slot];
        check_states(flags, clear_no_write, whole_table)?;
        let mut scope = Scope::Run(0, disk.table.segments());
        if whole_table {
            if flags & STATE_INVALID != 0 {
                disk.table.invalidate_all();
            }
            if flags & STATE_NO_WRITE != 0 {
                disk.table.forbid_writes();
            }
        } else {
            disk.check_run(first, count)?;
            scope = Scope::Run(first, first + count);
            if clear_no_write {
                disk.table.clear_no_write(first, count);
            } else {
                disk.table.set_states(first, count, flags);
            }
        }
        self.changed(command, slot, scope, blocking);
        Ok(())
    }

    fn set_containers(
        &mut self,
        command: u64,
        disk: u32,
        containers: &[ContainerSpec],
    ) -> Result<(), Errno> {
        let slot = self.slot(disk).ok_or(ENOENT)?;
        let disk = &mut self.disks[slot];
        let set = disk.check_set(containers)?;
        if disk.strands_entries(&set) {
            return Err(EINVAL);
        }
        disk.set_containers(set);
        self.refresh_sync_failed(slot);
        self.answer_done(command);
        // Flushes may have waited for the set.
        self.unpark(slot);
        Ok(())
    }

    /// The table has been changed: the answer, at once or when prior I/O has finished.
    fn changed(&mut self, command: u64, disk: u32, scope: Scope, blocking: bool) {
        if blocking {
            self.block(command, disk, scope, None);
        } else {
            self.answer_done(command);
        }
    }
}

/// EINVAL for states that may not be set or cleared so: only `no_write` is ever cleared, and only
/// over a run; only invalid and `no_write` lie over a whole table.
fn check_states(flags: u8, clear_no_write: bool, whole_table: bool) -> Result<(), Errno> {
    let all = STATE_INVALID | STATE_ERROR | STATE_ZERO | STATE_NO_WRITE;
    let over_table = STATE_INVALID | STATE_NO_WRITE;
    let allowed = if whole_table { over_table } else { all };
    if clear_no_write {
        return if flags == 0 && !whole_table {
            Ok(())
        } else {
            Err(EINVAL)
        };
    }
    if flags == 0 || flags & !allowed != 0 {
        Err(EINVAL)
    } else {
        Ok(())
    }
}
