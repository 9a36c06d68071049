//! What a failed flush means for what is made durable after it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::places::{Limits, Places};
use super::super::sessions::Sessions;
use super::*;
use crate::container::{Backing, Syncs};
use crate::pool::Pool;
use crate::sys::os_error;

/// Tells a loss once, as Linux does, and lets a test do something while a call is under way.
#[derive(Default)]
struct Lossy {
    has_lost: AtomicBool,
    meanwhile: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl std::fmt::Debug for Lossy {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Lossy")
    }
}

impl Lossy {
    fn meanwhile(&self) {
        let act = self.meanwhile.lock().unwrap().take();
        if let Some(act) = act {
            act();
        }
    }
}

impl Backing for Lossy {
    fn size_bytes(&self) -> io::Result<u64> {
        Ok(1 << 20)
    }

    fn unit_bytes(&self) -> u32 {
        1
    }

    fn read(&self, _offset: u64, _buffer: &mut [u8]) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, _offset: u64, _data: &[u8], _fua: bool) -> io::Result<()> {
        Ok(())
    }

    fn zero(&self, _offset: u64, _length: u64, _how: ZeroHow) -> io::Result<()> {
        self.meanwhile();
        Ok(())
    }

    fn trim(&self, _offset: u64, _length: u64) -> io::Result<()> {
        self.meanwhile();
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        match self.has_lost.swap(false, Ordering::AcqRel) {
            true => Err(os_error(libc::EIO)),
            false => Ok(()),
        }
    }

    fn write_back(&self, _offset: u64, _length: u64) {
        self.meanwhile();
    }

    fn lock(&self, _fence: u64) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self, _fence: u64) -> io::Result<()> {
        Ok(())
    }

    fn is_locked_elsewhere(&self, _fence: u64) -> io::Result<bool> {
        Ok(false)
    }
}

fn shared(storage: &Arc<Lossy>) -> Arc<Shared> {
    let folder = tempfile::tempdir().unwrap();
    Arc::new(Shared {
        export: segue_nbd::ExportInfo {
            name: String::new(),
            description: String::new(),
            size_bytes: 1 << 20,
            read_only: false,
            can_multi_conn: true,
            block_sizes: segue_nbd::BlockSizes::DEFAULT,
            features: segue_nbd::Features::DISK,
        },
        storage: storage.clone(),
        sessions: Sessions::open(&folder.path().join("revoked")).unwrap(),
        places: Places::new(Limits::default()).unwrap(),
        pool: Pool::new(1),
        syncs: Syncs::default(),
        failed_syncs: AtomicU64::new(0),
    })
}

fn request(command: Command) -> Request {
    let flushes = command == Command::Flush;
    Request {
        cookie: 0,
        offset: 0,
        length: if flushes { 0 } else { 4096 },
        command,
        flags: if flushes { 0 } else { consts::CMD_FLAG_FUA },
    }
}

/// What a request is answered while which another client's flush is told of a loss.
fn answered(command: Command) -> (Arc<Shared>, io::Result<()>) {
    let storage = Arc::new(Lossy::default());
    let shared = shared(&storage);
    let (other, lossy) = (shared.clone(), storage.clone());
    *storage.meanwhile.lock().unwrap() = Some(Box::new(move || {
        lossy.has_lost.store(true, Ordering::Release);
        assert!(perform(&other, &request(Command::Flush), None).is_err());
    }));
    let done = perform(&shared, &request(command), None);
    (shared, done)
}

#[test]
fn a_flush_that_finds_nothing_after_another_was_told_of_the_loss_fails() {
    let (shared, done) = answered(Command::Flush);
    assert!(done.is_err(), "what was lost may be this client's");
    assert!(perform(&shared, &request(Command::Flush), None).is_err());
}

#[test]
fn zeroes_that_a_failed_flush_may_have_lost_are_not_durable() {
    for command in [Command::WriteZeroes, Command::Trim] {
        let (shared, done) = answered(command);
        assert!(done.is_err(), "{command:?}");
        let later = perform(&shared, &request(command), None);
        assert!(later.is_ok(), "{command:?}: nothing was lost since");
    }
}
