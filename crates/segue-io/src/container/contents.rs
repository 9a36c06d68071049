//! What storage holds that is to become a container: the look before [`super::create`], and the
//! word that nobody needs it.
//!
//! A file knows where it has data, and `create` asks it. A device or an export does not, and to
//! read all of a large one takes hours: the first 64 MiB are looked at, the last one, and 1,024
//! pieces of 64 KiB spread evenly between them. What is up to 256 MiB is looked at as a whole.

use std::io;

use super::backing::{Backing, ZeroHow};
use super::block;
use super::file::Cache;
use super::header::{DATA_AT_BYTES, Header};
use super::uri::{ContainerUri, Scheme};
use super::{ContainerError, MAKING_FENCE, naming};
use crate::buffer::Buffer;

const MIB: u64 = 1 << 20;
const WHOLE_BYTES: u64 = 256 * MIB;
const HEAD_BYTES: u64 = 64 * MIB;
const SAMPLES: u64 = 1024;
const SAMPLE_BYTES: u64 = 64 << 10;

/// Refuses a device or export whose first `size_bytes` (0: all of it) hold something.
///
/// Not of one with a header of Segue's: of that `create` judges.
///
/// # Errors
/// EEXIST, saying where; else the storage's.
pub fn refuse_contents(uri: &str, size_bytes: u64) -> Result<(), ContainerError> {
    let parsed = ContainerUri::parse(uri).map_err(naming(uri))?;
    let looked = match parsed.scheme() {
        Scheme::File => Ok(()),
        Scheme::Block => block::open(parsed.path()).and_then(|device| look(&device, size_bytes)),
        Scheme::Nbd => parsed
            .open(Cache::Direct)
            .and_then(|export| look(&*export, size_bytes)),
    };
    looked.map_err(naming(uri))
}

/// Zeroes the first MiB of a device or export, so that `create` takes it whatever it holds.
///
/// # Errors
/// EEXIST if a header of Segue's is there; EBUSY while another makes a container of it; EINVAL for
/// a file; else the storage's.
pub fn clear_head(uri: &str) -> Result<(), ContainerError> {
    let parsed = ContainerUri::parse(uri).map_err(naming(uri))?;
    let cleared = match parsed.scheme() {
        Scheme::File => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a file is not erased: delete it, or take another name",
        )),
        Scheme::Block => block::open(parsed.path()).and_then(|device| {
            device.lock(MAKING_FENCE)?;
            clear(&device)
        }),
        Scheme::Nbd => parsed
            .open(Cache::Direct)
            .and_then(|export| clear(&*export)),
    };
    cleared.map_err(naming(uri))
}

fn clear(storage: &dyn Backing) -> io::Result<()> {
    if Header::read(storage)?.is_some() {
        let what = "it is, or was, a container: remove that first, in its installation";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    storage.zero(0, DATA_AT_BYTES, ZeroHow::default())?;
    storage.flush()
}

fn look(storage: &dyn Backing, size_bytes: u64) -> io::Result<()> {
    if Header::read(storage)?.is_some() {
        return Ok(());
    }
    let capacity = storage.size_bytes()?;
    let size = match size_bytes {
        0 => capacity,
        size => size.min(capacity),
    };
    let buffer = Buffer::new(MIB as usize);
    for (at, length) in looked_at(size) {
        // SAFETY: `buffer` is this function's own.
        let bytes = unsafe { buffer.part_mut(0, length as usize) };
        storage.read(at, bytes)?;
        if let Some(first) = bytes.iter().position(|&byte| byte != 0) {
            return Err(holds_something(at + first as u64));
        }
    }
    Ok(())
}

/// Where is looked: offsets and lengths in bytes, in ascending order, 1 MiB at most each.
fn looked_at(size: u64) -> Vec<(u64, u64)> {
    let runs = |begin: u64, end: u64| {
        (begin..end)
            .step_by(MIB as usize)
            .map(move |at| (at, MIB.min(end - at)))
    };
    if size <= WHOLE_BYTES {
        return runs(0, size).collect();
    }
    let step = (size - HEAD_BYTES - MIB) / SAMPLES / SAMPLE_BYTES * SAMPLE_BYTES;
    let step = step.max(SAMPLE_BYTES);
    let samples = (HEAD_BYTES..size - MIB - SAMPLE_BYTES)
        .step_by(step as usize)
        .map(|at| (at, SAMPLE_BYTES));
    let tail = (size - MIB) / MIB * MIB;
    runs(0, HEAD_BYTES)
        .chain(samples)
        .chain(runs(tail, size))
        .collect()
}

pub(super) fn holds_something(at: u64) -> io::Error {
    let what = match at {
        0..DATA_AT_BYTES => "its first MiB holds something (a file system, a partition table?)",
        _ => "it holds something",
    };
    io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("{what}, at byte {at}: --erase gives up whatever lies there"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_looked_at_and_pieces_all_over_what_is_between() {
        for size in [3 * MIB + 512, WHOLE_BYTES, WHOLE_BYTES + MIB, 10 << 40] {
            let found = looked_at(size);
            assert!(
                found
                    .iter()
                    .all(|&(at, length)| at + length <= size && length > 0)
            );
            assert!(found.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let (last, length) = found[found.len() - 1];
            assert_eq!((found[0].0, last + length), (0, size));
            let total: u64 = found.iter().map(|&(_, length)| length).sum();
            match size <= WHOLE_BYTES {
                true => assert_eq!(total, size),
                false => assert!(total <= HEAD_BYTES + 2 * MIB + 2 * SAMPLES * SAMPLE_BYTES),
            }
        }
        let gaps = looked_at(10 << 40);
        let widest = gaps.windows(2).map(|pair| pair[1].0 - pair[0].0).max();
        assert!(widest <= Some((10 << 40) / SAMPLES));
    }
}
