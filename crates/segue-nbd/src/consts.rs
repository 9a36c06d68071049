//! Numbers of the protocol, named as in the document ("Values"), without the `NBD_` prefix.
//!
//! Only values that are written in the document stand here, and those of Segue's fence; limits of
//! this implementation stand beside what they limit.

/// First word of a server's greeting, "NBDMAGIC".
pub const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second word of a newstyle greeting and first word of every option, "IHAVEOPT".
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Second word of an oldstyle greeting.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// First word of a reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// First word of a request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// First word of a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// First word of a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

/// Handshake flag: options get replies.
pub const FLAG_FIXED_NEWSTYLE: u16 = 1 << 0;
/// Handshake flag: the 124 zero bytes after `OPT_EXPORT_NAME` may be left out.
pub const FLAG_NO_ZEROES: u16 = 1 << 1;
/// Client flag answering [`FLAG_FIXED_NEWSTYLE`].
pub const FLAG_C_FIXED_NEWSTYLE: u32 = 1 << 0;
/// Client flag answering [`FLAG_NO_ZEROES`].
pub const FLAG_C_NO_ZEROES: u32 = 1 << 1;

/// Transmission flag: always set.
pub const FLAG_HAS_FLAGS: u16 = 1 << 0;
/// Transmission flag: writes are refused.
pub const FLAG_READ_ONLY: u16 = 1 << 1;
/// Transmission flag: [`CMD_FLUSH`] is served.
pub const FLAG_SEND_FLUSH: u16 = 1 << 2;
/// Transmission flag: [`CMD_FLAG_FUA`] is honoured.
pub const FLAG_SEND_FUA: u16 = 1 << 3;
/// Transmission flag: a disk that turns.
pub const FLAG_ROTATIONAL: u16 = 1 << 4;
/// Transmission flag: [`CMD_TRIM`] is served.
pub const FLAG_SEND_TRIM: u16 = 1 << 5;
/// Transmission flag: [`CMD_WRITE_ZEROES`] and [`CMD_FLAG_NO_HOLE`] are served.
pub const FLAG_SEND_WRITE_ZEROES: u16 = 1 << 6;
/// Transmission flag: [`CMD_FLAG_DF`] is honoured; only with structured replies.
pub const FLAG_SEND_DF: u16 = 1 << 7;
/// Transmission flag: flush and FUA cover all connections.
pub const FLAG_CAN_MULTI_CONN: u16 = 1 << 8;
/// Transmission flag: [`CMD_CACHE`] is served.
pub const FLAG_SEND_CACHE: u16 = 1 << 10;
/// Transmission flag: [`CMD_FLAG_FAST_ZERO`] is honoured.
pub const FLAG_SEND_FAST_ZERO: u16 = 1 << 11;

/// Option: choose an export and go on without a way to report errors.
pub const OPT_EXPORT_NAME: u32 = 1;
/// Option: end the session.
pub const OPT_ABORT: u32 = 2;
/// Option: list the exports.
pub const OPT_LIST: u32 = 3;
/// Option: upgrade to TLS.
pub const OPT_STARTTLS: u32 = 5;
/// Option: describe an export.
pub const OPT_INFO: u32 = 6;
/// Option: describe an export and enter transmission.
pub const OPT_GO: u32 = 7;
/// Option: use structured replies.
pub const OPT_STRUCTURED_REPLY: u32 = 8;
/// Option: list metadata contexts.
pub const OPT_LIST_META_CONTEXT: u32 = 9;
/// Option: select metadata contexts.
pub const OPT_SET_META_CONTEXT: u32 = 10;
/// Option: use extended headers.
pub const OPT_EXTENDED_HEADERS: u32 = 11;

/// Option of Segue's: this connection acts for a holder (`docs/protocol.md`, "The fence").
pub const OPT_SEGUE_HOLD: u32 = 0x5345_4701;
/// Option of Segue's: end a holder's sessions.
pub const OPT_SEGUE_REVOKE: u32 = 0x5345_4702;
/// Option reply of Segue's: the session that [`OPT_SEGUE_HOLD`] made.
pub const REP_SEGUE_SESSION: u32 = 0x5345_4701;

/// Option reply: done.
pub const REP_ACK: u32 = 1;
/// Option reply: one export of a list.
pub const REP_SERVER: u32 = 2;
/// Option reply: one piece of information.
pub const REP_INFO: u32 = 3;
/// Option reply: one metadata context.
pub const REP_META_CONTEXT: u32 = 4;
/// The bit that all error replies have.
pub const REP_FLAG_ERROR: u32 = 1 << 31;
/// Option reply: the option is not known here.
pub const REP_ERR_UNSUP: u32 = REP_FLAG_ERROR + 1;
/// Option reply: forbidden by policy.
pub const REP_ERR_POLICY: u32 = REP_FLAG_ERROR + 2;
/// Option reply: the option's data is not valid.
pub const REP_ERR_INVALID: u32 = REP_FLAG_ERROR + 3;
/// Option reply: not on this platform.
pub const REP_ERR_PLATFORM: u32 = REP_FLAG_ERROR + 4;
/// Option reply: TLS first.
pub const REP_ERR_TLS_REQD: u32 = REP_FLAG_ERROR + 5;
/// Option reply: no such export.
pub const REP_ERR_UNKNOWN: u32 = REP_FLAG_ERROR + 6;
/// Option reply: the server is shutting down.
pub const REP_ERR_SHUTDOWN: u32 = REP_FLAG_ERROR + 7;
/// Option reply: the client must ask for the block sizes.
pub const REP_ERR_BLOCK_SIZE_REQD: u32 = REP_FLAG_ERROR + 8;
/// Option reply: request or reply too large.
pub const REP_ERR_TOO_BIG: u32 = REP_FLAG_ERROR + 9;

/// Information: size and transmission flags.
pub const INFO_EXPORT: u16 = 0;
/// Information: canonical name.
pub const INFO_NAME: u16 = 1;
/// Information: description for people.
pub const INFO_DESCRIPTION: u16 = 2;
/// Information: block sizes.
pub const INFO_BLOCK_SIZE: u16 = 3;

/// Command: read.
pub const CMD_READ: u16 = 0;
/// Command: write, with a payload.
pub const CMD_WRITE: u16 = 1;
/// Command: disconnect; has no reply.
pub const CMD_DISC: u16 = 2;
/// Command: flush.
pub const CMD_FLUSH: u16 = 3;
/// Command: trim.
pub const CMD_TRIM: u16 = 4;
/// Command: cache.
pub const CMD_CACHE: u16 = 5;
/// Command: write zeroes.
pub const CMD_WRITE_ZEROES: u16 = 6;
/// Command: block status.
pub const CMD_BLOCK_STATUS: u16 = 7;

/// Command flag: durable before the reply.
pub const CMD_FLAG_FUA: u16 = 1 << 0;
/// Command flag of write zeroes: make no hole.
pub const CMD_FLAG_NO_HOLE: u16 = 1 << 1;
/// Command flag of read: one content chunk at most.
pub const CMD_FLAG_DF: u16 = 1 << 2;
/// Command flag of block status: one extent.
pub const CMD_FLAG_REQ_ONE: u16 = 1 << 3;
/// Command flag of write zeroes: quickly or not at all.
pub const CMD_FLAG_FAST_ZERO: u16 = 1 << 4;

/// Flag of a structured reply's last chunk.
pub const REPLY_FLAG_DONE: u16 = 1 << 0;
/// Chunk: nothing; always the last.
pub const REPLY_TYPE_NONE: u16 = 0;
/// Chunk: data at an offset.
pub const REPLY_TYPE_OFFSET_DATA: u16 = 1;
/// Chunk: zeroes at an offset.
pub const REPLY_TYPE_OFFSET_HOLE: u16 = 2;
/// Chunk: extents of one metadata context.
pub const REPLY_TYPE_BLOCK_STATUS: u16 = 5;
/// The bit that all error chunks have.
pub const REPLY_TYPE_FLAG_ERROR: u16 = 1 << 15;
/// Chunk: the request failed.
pub const REPLY_TYPE_ERROR: u16 = REPLY_TYPE_FLAG_ERROR + 1;
/// Chunk: the request failed at an offset.
pub const REPLY_TYPE_ERROR_OFFSET: u16 = REPLY_TYPE_FLAG_ERROR + 2;

/// `base:allocation` status: not allocated.
pub const STATE_HOLE: u32 = 1 << 0;
/// `base:allocation` status: reads as zeroes.
pub const STATE_ZERO: u32 = 1 << 1;

/// The one metadata context that the document defines.
pub const BASE_ALLOCATION: &str = "base:allocation";

/// Longest string, in bytes ("Conventions").
pub const STRING_BYTES_MAX: usize = 4096;
/// Bytes of a request's header.
pub const REQUEST_BYTES: usize = 28;
/// Bytes of an option's header (client) up to its data.
pub const OPTION_BYTES: usize = 16;
/// Bytes of an option reply's header up to its data.
pub const OPTION_REPLY_BYTES: usize = 20;
/// Largest payload that both sides should bear ("Block size constraints"): 32 MiB.
pub const PAYLOAD_BYTES_MAX: u32 = 1 << 25;
/// Zero bytes after the answer to `OPT_EXPORT_NAME` when `NO_ZEROES` was not agreed.
pub const EXPORT_NAME_PADDING_BYTES: usize = 124;
