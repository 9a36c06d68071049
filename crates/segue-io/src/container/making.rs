//! Making containers of files and devices, looking at them, and giving them back.
//!
//! Nothing that holds anything is taken: a file must be absent, empty or all holes, and no larger
//! than what is made of it; a device must read as zeroes where the header goes (what lies behind
//! that is looked at before: `contents.rs`). Making may be repeated after a crash anywhere: what an
//! earlier attempt left behind (a file with a length and no header; a header of this installation
//! that no term has stamped and nobody has open) holds nothing, and is taken over.
//!
//! But not by an older controller than made it: a header without a stamp may be a container that
//! the store names since a newer term, which died before it stamped it. So a header says from the
//! first which term made it, and the term that asks is compared with it under the lock of making.
//!
//! Who gives a file or device back takes the same lock, and looks under it at what is there: a
//! controller that was stopped on its way may find that a newer one has removed the container, and
//! that what lies at its path is another, perhaps of another installation. Whoever puts another
//! file at a path does so with the lock on what was there, so under it a path names one file.
//!
//! Across the network there is no lock, and a write of a controller that is dead may wait in its
//! server's queue and land on whatever is there by then. That is one write of one slot, for makers,
//! removers and stamps send the next only when one is answered; so what is made stands in both
//! slots, and each of them is newer than what may come late:
//!
//! - Of a maker it is the first write, of slot 0 with sequence 0: whoever makes something later has
//!   read zeroes there. Slot 1 stays.
//! - Of a stamp (of a container that was removed since) the sequence is of an older term, or of one
//!   that began at 0: sequences across the network begin anew, higher, with each term.
//! - Of a remover it is zeroes. The other slot stays.
//!
//! Not covered: two late writes to different slots; a late stamp of another installation's; two
//! makers that live and both saw zeroes, if one stops between its look at slot 0 and what follows.

use std::fs::{self, File};
use std::io;

use super::backing::Backing;
use super::block;
use super::contents::holds_something;
use super::file::{Cache, FileBacking};
use super::header::{self, DATA_AT_BYTES, Header, Identity, is_segment_size};
use super::uri::{ContainerUri, Scheme};
use super::{ContainerError, MAKING_FENCE, naming};
use crate::buffer::Buffer;

/// More stamps than anybody writes while a container lasts.
const TERM_SHIFT: u32 = 32;
const MAX_TERM: u64 = 1 << 30;

/// What is made, and of what.
struct Wanted {
    segment_bytes: u64,
    segments: u64,
    container: Identity,
    installation: Identity,
    term: u64,
}

/// Makes a container: a file of `size_bytes`, or a device of which that much is used (0: all of
/// it), header included; durable when it returns. `term`: of the controller that makes it.
///
/// # Errors
/// EINVAL for sizes that make no segment; EEXIST for storage with something else in it; EBUSY for
/// storage in use; else the storage's.
pub fn create(
    uri: &str,
    size_bytes: u64,
    segment_bytes: u64,
    container: Identity,
    installation: Identity,
    term: u64,
    cache: Cache,
) -> Result<Header, ContainerError> {
    if !is_segment_size(segment_bytes) {
        let what = "a segment is a power of two from 64 KiB to 64 MiB";
        return Err(ContainerError::new(uri, libc::EINVAL, what));
    }
    let parsed = ContainerUri::parse(uri).map_err(naming(uri))?;
    let mut wanted = Wanted {
        segment_bytes,
        segments: 0,
        container,
        installation,
        term,
    };
    let made = match (parsed.scheme(), cache) {
        (Scheme::File, _) => wanted
            .carve(size_bytes)
            .and_then(|()| make_file(&parsed, size_bytes, cache, &wanted)),
        (Scheme::Block, Cache::Direct) => make_block(&parsed, size_bytes, &mut wanted),
        (Scheme::Nbd, _) => make_remote(&parsed, size_bytes, &mut wanted),
        (Scheme::Block, Cache::Page) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a block device is used past the page cache (direct)",
        )),
    };
    made.map_err(naming(uri))
}

impl Wanted {
    fn carve(&mut self, size_bytes: u64) -> io::Result<()> {
        self.segments = size_bytes.saturating_sub(DATA_AT_BYTES) / self.segment_bytes;
        if self.segments == 0 || self.segments > 1 << 44 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{size_bytes} bytes hold no segment of {} (1 MiB goes to the header)",
                    self.segment_bytes
                ),
            ));
        }
        Ok(())
    }

    /// Carves storage of which that much is used (0: all of it).
    fn carve_of(&mut self, size_bytes: u64, capacity: u64) -> io::Result<()> {
        if size_bytes > capacity {
            let what = format!("it has {capacity} bytes, not {size_bytes}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        self.carve(if size_bytes == 0 {
            capacity
        } else {
            size_bytes
        })
    }

    fn size_bytes(&self) -> u64 {
        DATA_AT_BYTES + self.segments * self.segment_bytes
    }

    /// The first header.
    fn header(&self, backing: &dyn Backing, clean: bool, created: bool) -> Header {
        Header {
            installation: self.installation,
            container: self.container,
            segment_bytes: self.segment_bytes,
            segments: self.segments,
            write_unit_bytes: backing.unit_bytes(),
            clean,
            created,
            term: self.term,
            commit: 0,
            sequence: 0,
        }
    }

    /// Writes the first header; the caller holds the lock of making.
    fn write(&self, backing: &dyn Backing, clean: bool, created: bool) -> io::Result<Header> {
        let header = self.header(backing, clean, created);
        header::wipe(backing)?;
        header.write(backing)?;
        Ok(header)
    }

    /// Writes the first header across the network, over zeroes, so that no single late write of
    /// somebody else undoes it (see above).
    fn write_unlocked(&self, export: &dyn Backing) -> io::Result<Header> {
        let mut header = self.header(export, false, false);
        header.write(export)?; // slot 0
        match Header::read(export)? {
            Some(found) if found.container == self.container => {}
            _ => {
                let what = "something else writes to its first MiB";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
            }
        }
        let newer = self.term.min(MAX_TERM) << TERM_SHIFT;
        for sequence in [newer + 1, newer + 2] {
            header.sequence = sequence; // slot 1, slot 0
            header.write(export)?;
        }
        Ok(header)
    }

    /// Whether storage with that header is what an attempt of this installation, and of no newer
    /// term, left behind.
    fn may_take_over(&self, found: &Header, storage: &FileBacking) -> io::Result<bool> {
        let is_unused = found.commit == 0 && !storage.is_used_elsewhere()?;
        let is_ours = found.installation == self.installation && found.term <= self.term;
        Ok(is_ours && is_unused)
    }
}

fn taken(found: &Header, wanted: &Wanted) -> io::Error {
    let whose = match found.installation == wanted.installation {
        true => "it is a container of this installation already",
        false => "it is a container of another installation",
    };
    io::Error::new(io::ErrorKind::AlreadyExists, whose)
}

/// Opens the file at the path, or a new one (`true`), with the lock of making.
fn open_locked(uri: &ContainerUri, cache: Cache) -> io::Result<(FileBacking, bool)> {
    loop {
        let (file, is_new) = FileBacking::open_or_create(uri.path(), cache)?;
        file.lock(MAKING_FENCE)?;
        if file.is_at(uri.path())? {
            return Ok((file, is_new));
        }
        // It was removed in between.
    }
}

fn make_file(
    uri: &ContainerUri,
    size_bytes: u64,
    cache: Cache,
    wanted: &Wanted,
) -> io::Result<Header> {
    let (file, is_new) = open_locked(uri, cache)?;
    let mut created = is_new;
    if let Some(found) = Header::read(&file)? {
        if !wanted.may_take_over(&found, &file)? {
            return Err(taken(&found, wanted));
        }
        created = found.created;
    } else if !created && !file.is_hollow()? {
        let what = format!("{} exists and holds something", uri.path().display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    } else if file.size_bytes()? > size_bytes {
        let what = format!(
            "it has {} bytes, more than {size_bytes}",
            file.size_bytes()?
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    // Keeps the lock until what failed is deleted: then nobody else can have begun there.
    let _making = file.description()?;
    let made = fill_file(uri, file, created, wanted);
    if is_new && made.is_err() {
        // Nobody wants what is left; that it cannot be deleted is not what went wrong.
        let _ = fs::remove_file(uri.path());
    }
    made
}

fn fill_file(
    uri: &ContainerUri,
    file: FileBacking,
    created: bool,
    wanted: &Wanted,
) -> io::Result<Header> {
    file.make_empty(wanted.size_bytes())?;
    let backing = uri.wrap(file)?;
    let header = wanted.write(&*backing, true, created)?;
    sync_folder(uri)?;
    Ok(header)
}

fn make_block(uri: &ContainerUri, size_bytes: u64, wanted: &mut Wanted) -> io::Result<Header> {
    let device = block::open(uri.path())?;
    device.lock(MAKING_FENCE)?;
    wanted.carve_of(size_bytes, device.size_bytes()?)?;
    match Header::read(&device)? {
        Some(found) if !wanted.may_take_over(&found, &device)? => {
            return Err(taken(&found, wanted));
        }
        None => starts_with_zeroes(&device)?,
        _ => {}
    }
    let backing = uri.wrap(device)?;
    wanted.write(&*backing, false, false)
}

/// An export is like a device, but without locks nobody can tell whether it is in use elsewhere:
/// what another attempt left behind is not taken over.
fn make_remote(uri: &ContainerUri, size_bytes: u64, wanted: &mut Wanted) -> io::Result<Header> {
    let export = uri.open(Cache::Direct)?;
    wanted.carve_of(size_bytes, export.size_bytes()?)?;
    match Header::read(&*export)? {
        Some(found) if found.container != wanted.container => Err(taken(&found, wanted)),
        None => starts_with_zeroes(&*export).and_then(|()| wanted.write_unlocked(&*export)),
        Some(_) => wanted.write_unlocked(&*export),
    }
}

fn starts_with_zeroes(device: &dyn Backing) -> io::Result<()> {
    let buffer = Buffer::new(DATA_AT_BYTES as usize);
    // SAFETY: `buffer` is this function's own.
    let bytes = unsafe { buffer.part_mut(0, DATA_AT_BYTES as usize) };
    device.read(0, bytes)?;
    match bytes.iter().position(|&byte| byte != 0) {
        None => Ok(()),
        Some(at) => Err(holds_something(at as u64)),
    }
}

/// A name is durable only with its directory.
fn sync_folder(uri: &ContainerUri) -> io::Result<()> {
    let folder = uri.path().parent().unwrap_or(uri.path());
    File::open(folder)?.sync_all()
}

/// Looks at the header of what may be a container, taking no lock; `None`: nothing there, or not
/// ours.
///
/// # Errors
/// EINVAL if it is ours but damaged or too new; else the storage's.
pub fn inspect(uri: &str) -> Result<Option<Header>, ContainerError> {
    let parsed = ContainerUri::parse(uri).map_err(naming(uri))?;
    match parsed.look() {
        Ok(storage) => Header::read(&*storage).map_err(naming(uri)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(naming(uri)(error)),
    }
}

/// Gives a container's storage back: its header goes, and a file that Segue made is deleted.
///
/// May be repeated: storage that is gone, or carries no header or another container's, is left as
/// it is. The caller knows that nobody has the container open for use.
///
/// # Errors
/// EBUSY while another makes or removes a container there; else the storage's.
pub fn remove(uri: &str, container: Identity, cache: Cache) -> Result<(), ContainerError> {
    let parsed = ContainerUri::parse(uri).map_err(naming(uri))?;
    remove_found(&parsed, container, cache).map_err(naming(uri))
}

fn remove_found(uri: &ContainerUri, container: Identity, cache: Cache) -> io::Result<()> {
    let give_back = |storage| give_back(uri, storage, container);
    let done = match uri.scheme() {
        Scheme::File => FileBacking::open(uri.path(), cache).and_then(give_back),
        Scheme::Block => block::open(uri.path()).and_then(give_back),
        Scheme::Nbd => uri
            .open(cache)
            .and_then(|export| wipe_if(&*export, container)),
    };
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn give_back(uri: &ContainerUri, storage: FileBacking, container: Identity) -> io::Result<()> {
    storage.lock(MAKING_FENCE)?;
    // What was opened may have been removed before the lock, and the path be another file's.
    if !storage.is_at(uri.path())? {
        return Ok(());
    }
    let backing = uri.wrap(storage)?;
    match Header::read(&*backing)? {
        // Deleted first: a file without its header would be nobody's after a crash.
        Some(found) if found.container == container && found.created => {
            fs::remove_file(uri.path())?;
            sync_folder(uri)
        }
        _ => wipe_if(&*backing, container),
    }
}

/// Takes the header away if it is that container's.
fn wipe_if(backing: &dyn Backing, container: Identity) -> io::Result<()> {
    match Header::read(backing)? {
        Some(found) if found.container == container => {
            header::wipe(backing)?;
            backing.flush()
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "making_tests.rs"]
mod tests;
