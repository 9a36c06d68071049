//! Block devices: always past the page cache, claimed against everybody but Segue.
//!
//! **Fence.** The same as a file's: an OFD lock on the descriptor that does the I/O. The kernel
//! keeps it on the inode of the device *node*, and gives it back only when the last request that
//! rides on the description has ended, so a lock that is gone proves that the process's I/O is over
//! (design, section 4). That holds for the processes of one machine which open the same node. It
//! says nothing of a second machine that sees the same LUN: for want of reservations such a device
//! has no fence there, and must not be given to two machines (`segue serve` gives it to others).
//!
//! **Exclusive use.** The first process that opens the device claims it (`O_EXCL`): mounting it,
//! making a file system or adding it to a volume group then fails. The claim admits one holder, so
//! the holder also takes a lock byte on the node, and whoever finds the device claimed opens it
//! only if it sees that lock. Who claimed the device by other means, or through another node (a
//! second `/dev`, where our locks would not be seen), is thus found out and the device refused.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use super::CLAIM_FENCE;
use super::file::{FENCE_AT, FileBacking};
use crate::sys;

/// How often, and how far apart, a device is tried that is claimed without our lock: whoever claims
/// it may be about to take the lock, or to let go.
const CLAIM_TRIES: u32 = 50;
const CLAIM_PAUSE: Duration = Duration::from_millis(10);

/// Opens a device for I/O, claiming it if nobody has.
///
/// # Errors
/// Those of open(2); EBUSY if somebody else uses it; InvalidInput for what is no block device.
pub(super) fn open(path: &Path) -> io::Result<FileBacking> {
    for _ in 0..CLAIM_TRIES {
        match node(path, libc::O_EXCL) {
            Ok(file) => {
                if sys::lock_byte(&file, FENCE_AT + CLAIM_FENCE).is_ok() {
                    return FileBacking::block(file);
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let file = node(path, 0)?;
                if sys::is_locked_elsewhere(&file, FENCE_AT + CLAIM_FENCE)? {
                    return FileBacking::block(file);
                }
            }
            Err(error) => return Err(error),
        }
        std::thread::sleep(CLAIM_PAUSE);
    }
    Err(io::Error::new(
        io::ErrorKind::ResourceBusy,
        "something else uses the device (is it mounted, or part of a volume group?)",
    ))
}

/// Opens a device to look at it, whoever uses it.
///
/// # Errors
/// Those of open(2); InvalidInput for what is no block device.
pub(super) fn look(path: &Path) -> io::Result<FileBacking> {
    FileBacking::block(node(path, 0)?)
}

fn node(path: &Path, flags: i32) -> io::Result<File> {
    // Asked before opening: a name that is a pipe would hang, and a regular file has its own URI.
    if !path.metadata()?.file_type().is_block_device() {
        let what = format!("{} is no block device", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT | flags)
        .open(path)
}
