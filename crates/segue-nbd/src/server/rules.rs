//! Which requests an export accepts: worked out once per connection, then looked up per request.
//!
//! | command      | flags allowed beside FUA | beyond the end | read-only | longest |
//! |--------------|--------------------------|----------------|-----------|---------|
//! | READ         | DF                       | EINVAL         |           | payload |
//! | WRITE        |                          | ENOSPC         | EPERM     | payload |
//! | FLUSH        |                          | EINVAL (must be 0, 0) | |        |
//! | TRIM         |                          | EINVAL         | EPERM     |         |
//! | CACHE        |                          | EINVAL         |           |         |
//! | WRITE_ZEROES | NO_HOLE, FAST_ZERO       | ENOSPC         | EPERM     |         |
//! | BLOCK_STATUS | REQ_ONE                  | EINVAL         |           |         |
//!
//! FUA is allowed everywhere where it was offered, as the document demands. "payload" is the
//! smaller of 32 MiB and the export's maximum. "Block size constraints" would let us refuse long
//! requests without payload as well, but clients send them (nbdcopy zeroes 128 MiB at once).

use super::Command;
use crate::consts as c;
use crate::{Errno, ExportInfo};

/// No client can set this: it has bits that no command allows.
const NOT_SERVED: u16 = u16::MAX;
const COMMANDS: usize = 8;

/// An error and one sentence for people.
pub(crate) type Verdict = Result<(), (Errno, &'static str)>;

#[derive(Debug)]
pub(crate) struct Rules {
    size_bytes: u64,
    alignment_mask: u64,
    payload_bytes_max: u32,
    read_only: bool,
    /// Flags allowed, by command number.
    flags_allowed: [u16; COMMANDS],
}

impl Rules {
    /// `structured`: structured replies were agreed on; `block_status`: a context was selected
    /// for this export.
    pub(crate) fn new(export: &ExportInfo, structured: bool, block_status: bool) -> Self {
        let features = export.features;
        let sizes = export.block_sizes.served();
        let mut flags_allowed = [NOT_SERVED; COMMANDS];
        let fua = if features.fua { c::CMD_FLAG_FUA } else { 0 };
        let mut serve = |command: Command, served: bool, flags: u16| {
            if served {
                flags_allowed[command as usize] = flags | fua;
            }
        };
        let df = if features.df && structured {
            c::CMD_FLAG_DF
        } else {
            0
        };
        let fast_zero = if features.fast_zero {
            c::CMD_FLAG_FAST_ZERO
        } else {
            0
        };
        serve(Command::Read, true, df);
        serve(Command::Write, true, 0);
        serve(Command::Flush, features.flush, 0);
        serve(Command::Trim, features.trim, 0);
        serve(Command::Cache, features.cache, 0);
        serve(
            Command::WriteZeroes,
            features.write_zeroes,
            c::CMD_FLAG_NO_HOLE | fast_zero,
        );
        serve(Command::BlockStatus, block_status, c::CMD_FLAG_REQ_ONE);
        Rules {
            size_bytes: export.size_bytes,
            alignment_mask: u64::from(sizes.minimum()) - 1,
            payload_bytes_max: sizes.maximum(),
            read_only: export.read_only,
            flags_allowed,
        }
    }

    /// Whether a request may be carried out.
    #[inline]
    pub(crate) fn judge(&self, command: Command, flags: u16, offset: u64, length: u32) -> Verdict {
        let allowed = self.flags_allowed[command as usize];
        if allowed == NOT_SERVED {
            return Err((
                Errno::Einval,
                "the command was not offered on this connection",
            ));
        }
        if flags & !allowed != 0 {
            return Err((
                Errno::Einval,
                "a flag of the request is unknown or not for this command",
            ));
        }
        let writes = matches!(
            command,
            Command::Write | Command::WriteZeroes | Command::Trim
        );
        if self.read_only && writes {
            return Err((Errno::Eperm, "the export is read-only"));
        }
        if command == Command::Flush {
            return match (offset, length) {
                (0, 0) => Ok(()),
                _ => Err((Errno::Einval, "offset and length of a flush must be zero")),
            };
        }
        self.judge_range(command, offset, length)
    }

    #[inline]
    fn judge_range(&self, command: Command, offset: u64, length: u32) -> Verdict {
        let end = offset.checked_add(u64::from(length));
        if end.is_none_or(|end| end > self.size_bytes) {
            let errno = match command {
                Command::Write | Command::WriteZeroes => Errno::Enospc,
                _ => Errno::Einval,
            };
            return Err((errno, "the request goes beyond the end of the export"));
        }
        if (offset | u64::from(length)) & self.alignment_mask != 0 {
            return Err((
                Errno::Einval,
                "the request is not aligned to the minimum block size",
            ));
        }
        let length_max = match command {
            Command::Read | Command::Write => self.payload_bytes_max,
            _ => u32::MAX,
        };
        if length > length_max {
            return Err((
                Errno::Einval,
                "the request is longer than the maximum block size",
            ));
        }
        if length == 0 && command == Command::BlockStatus {
            return Err((Errno::Einval, "a block status of no length has no extent"));
        }
        Ok(())
    }
}
