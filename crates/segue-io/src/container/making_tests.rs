//! Makers and removers that were stopped on their way, and writes that land late.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::super::ZeroHow;
use super::*;

const ME: Identity = [7; 16];
const OLDER: Identity = [6; 16];
const HOUSE: Identity = [9; 16];
const ELSEWHERE: Identity = [8; 16];
const SEGMENT: u64 = 64 << 10;
const SIZE: u64 = DATA_AT_BYTES + 4 * SEGMENT;

fn box_in(folder: &tempfile::TempDir) -> (PathBuf, String) {
    let path = folder.path().join("box");
    let uri = format!("file://{}", path.display());
    (path, uri)
}

fn made(uri: &str, me: Identity, house: Identity, term: u64) -> Header {
    create(uri, SIZE, SEGMENT, me, house, term, Cache::Page).unwrap()
}

fn opened(path: &Path) -> FileBacking {
    FileBacking::open(path, Cache::Page).unwrap()
}

#[test]
fn a_remover_that_was_stopped_leaves_what_was_made_at_its_path_since() {
    for house in [HOUSE, ELSEWHERE] {
        let folder = tempfile::tempdir().unwrap();
        let (path, uri) = box_in(&folder);
        made(&uri, ME, HOUSE, 1);
        // The older controller has opened the file, and stops.
        let old = opened(&path);
        remove(&uri, ME, Cache::Page).unwrap();
        let new = made(&uri, [3; 16], house, 2);
        let parsed = ContainerUri::parse(&uri).unwrap();
        assert_eq!(Header::read(&old).unwrap().unwrap().container, ME);
        give_back(&parsed, old, ME).unwrap();
        assert_eq!(inspect(&uri).unwrap(), Some(new));
    }
}

#[test]
fn nobody_makes_or_removes_what_another_is_at() {
    let folder = tempfile::tempdir().unwrap();
    let (path, uri) = box_in(&folder);
    let header = made(&uri, ME, HOUSE, 1);
    // The older controller stops right before it deletes the file: it has the lock.
    let old = opened(&path);
    old.lock(MAKING_FENCE).unwrap();
    let busy = remove(&uri, ME, Cache::Page).unwrap_err();
    assert_eq!(busy.errno, libc::EBUSY, "{busy}");
    let busy = create(&uri, SIZE, SEGMENT, [3; 16], HOUSE, 2, Cache::Page).unwrap_err();
    assert_eq!(busy.errno, libc::EBUSY, "{busy}");
    assert_eq!(inspect(&uri).unwrap(), Some(header));
    drop(old);
    remove(&uri, ME, Cache::Page).unwrap();
    assert!(!path.exists());
}

fn wanted(container: Identity, term: u64) -> Wanted {
    Wanted {
        segment_bytes: SEGMENT,
        segments: 4,
        container,
        installation: HOUSE,
        term,
    }
}

/// What a maker writes first.
fn first_write(container: Identity, term: u64) -> Header {
    wanted(container, term).header(&hollow(), false, false)
}

/// Stands for an export: nobody takes a lock on it.
fn hollow() -> FileBacking {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    opened(file.path())
}

type Landing<'a> = &'a dyn Fn(&FileBacking) -> io::Result<()>;

#[test]
fn one_late_write_does_not_undo_what_was_made_across_the_network() {
    let zeroes = Buffer::new(header::SLOT_BYTES);
    let wipe = |export: &FileBacking, slot: u64| {
        let slot_bytes = header::SLOT_BYTES as u64;
        export.write(slot * slot_bytes, zeroes.part(0, slot_bytes as usize), true)
    };
    let stamp = |export: &FileBacking, sequence| {
        let mut old = first_write(OLDER, 1);
        (old.commit, old.sequence) = (1000, sequence);
        old.write(export)
    };
    let late: [Landing; 7] = [
        &|export| first_write(OLDER, 1).write(export),
        &|export| first_write(OLDER, 9).write(export), // another installation's
        &|export| wipe(export, 0),
        &|export| wipe(export, 1),
        &|export| stamp(export, 7), // of one made before sequences had terms
        &|export| stamp(export, (1 << TERM_SHIFT) + 999),
        &|export| stamp(export, (1 << TERM_SHIFT) + 1000),
    ];
    for lands in late {
        for stamps in 0..4 {
            let export = hollow();
            let mut header = wanted(ME, 2).write_unlocked(&export).unwrap();
            for commit in 1..=stamps {
                header = Header::read(&export).unwrap().unwrap();
                header.commit = commit;
                header.sequence += 1;
                header.write(&export).unwrap();
            }
            lands(&export).unwrap();
            let found = Header::read(&export).unwrap().unwrap();
            assert_eq!(found.container, ME, "after {stamps} stamps");
            // At most one stamp is lost, until the next.
            assert!(found.commit + 1 >= header.commit);
        }
    }
}

/// An export where a write of somebody else lands behind the first one.
#[derive(Debug)]
struct Raced {
    inner: FileBacking,
    late: Mutex<Option<Header>>,
}

impl Backing for Raced {
    fn size_bytes(&self) -> io::Result<u64> {
        self.inner.size_bytes()
    }

    fn unit_bytes(&self) -> u32 {
        self.inner.unit_bytes()
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, buffer)
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> io::Result<()> {
        self.inner.write(offset, data, fua)?;
        match self.late.lock().unwrap().take() {
            Some(late) => late.write(&self.inner),
            None => Ok(()),
        }
    }

    fn zero(&self, offset: u64, length: u64, how: ZeroHow) -> io::Result<()> {
        self.inner.zero(offset, length, how)
    }

    fn trim(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.trim(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn lock(&self, fence: u64) -> io::Result<()> {
        self.inner.lock(fence)
    }

    fn unlock(&self, fence: u64) -> io::Result<()> {
        self.inner.unlock(fence)
    }

    fn is_locked_elsewhere(&self, fence: u64) -> io::Result<bool> {
        self.inner.is_locked_elsewhere(fence)
    }
}

#[test]
fn a_maker_across_the_network_that_is_overtaken_gives_up() {
    let export = Raced {
        inner: hollow(),
        late: Mutex::new(Some(first_write(OLDER, 1))),
    };
    let error = wanted(ME, 2).write_unlocked(&export).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    assert_eq!(Header::read(&export).unwrap().unwrap().container, OLDER);
}
