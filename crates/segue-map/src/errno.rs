//! The error numbers an engine gives, as Linux numbers them.

/// 0 is success; errors are positive.
pub type Errno = i32;

/// Write to a read-only disk.
pub const EPERM: Errno = 1;
/// Unknown disk.
pub const ENOENT: Errno = 2;
/// The container failed, the entry is in the error state, or the host's time limit has passed.
pub const EIO: Errno = 5;
/// A `do_*` already carries out this fault.
pub const EBUSY: Errno = 16;
/// The table or the quiesce exists already.
pub const EEXIST: Errno = 17;
/// Bad request.
pub const EINVAL: Errno = 22;
/// A write beyond the end of the disk.
pub const ENOSPC: Errno = 28;
/// A fast zero that would not be fast.
pub const EOPNOTSUPP: Errno = 95;
/// The disk has no table here (any more).
pub const ESHUTDOWN: Errno = 108;
/// A quiesce's deadline passed before its disk was drained.
pub const ETIMEDOUT: Errno = 110;
/// A quiesce was ended before its disk was drained.
pub const ECANCELED: Errno = 125;
