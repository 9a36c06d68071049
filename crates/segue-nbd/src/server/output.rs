//! What the server sends in the handshake, encoded.

use alloc::vec::Vec;

use super::BASE_ALLOCATION_ID;
use super::options::InfoWanted;
use crate::ExportInfo;
use crate::consts as c;
use crate::fence::Session;
use crate::wire::{prefix, put_u16, put_u32, put_u64, string};

/// Bytes waiting to be sent. The lengths of all replies are bounded by a few strings, so they
/// fit the 32 bits they have on the wire.
#[derive(Debug, Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Appends all to `out` and gives the memory back: a connection needs none in transmission.
    pub(crate) fn take(&mut self, out: &mut Vec<u8>) -> bool {
        let taken = core::mem::take(&mut self.bytes);
        out.extend_from_slice(&taken);
        !taken.is_empty()
    }

    pub(crate) fn greeting(&mut self) {
        put_u64(&mut self.bytes, c::INIT_MAGIC);
        put_u64(&mut self.bytes, c::OPTION_MAGIC);
        put_u16(&mut self.bytes, c::FLAG_FIXED_NEWSTYLE | c::FLAG_NO_ZEROES);
    }

    /// The answer to EXPORT_NAME.
    pub(crate) fn export_name(&mut self, export: &ExportInfo, structured: bool, no_zeroes: bool) {
        self.put_export(export, structured);
        if !no_zeroes {
            self.bytes
                .extend_from_slice(&[0; c::EXPORT_NAME_PADDING_BYTES]);
        }
    }

    /// The session that HOLD made.
    pub(crate) fn session(&mut self, option: u32, session: Session) {
        self.put_head(option, c::REP_SEGUE_SESSION, 16);
        session.encode(&mut self.bytes);
    }

    pub(crate) fn ack(&mut self, option: u32) {
        self.put_head(option, c::REP_ACK, 0);
    }

    /// An error reply of type `kind`; `message` is cut to the longest string allowed.
    pub(crate) fn error(&mut self, option: u32, kind: u32, message: &str) {
        let message = prefix(message, c::STRING_BYTES_MAX).as_bytes();
        self.put_head(option, kind, message.len());
        self.bytes.extend_from_slice(message);
    }

    /// The information that INFO or GO asked for, and the ACK.
    pub(crate) fn infos(
        &mut self,
        option: u32,
        wanted: InfoWanted,
        export: &ExportInfo,
        structured: bool,
    ) {
        self.put_head(option, c::REP_INFO, 12);
        put_u16(&mut self.bytes, c::INFO_EXPORT);
        self.put_export(export, structured);
        if wanted.block_size {
            let sizes = export.block_sizes.served();
            self.put_head(option, c::REP_INFO, 14);
            put_u16(&mut self.bytes, c::INFO_BLOCK_SIZE);
            put_u32(&mut self.bytes, sizes.minimum());
            put_u32(&mut self.bytes, sizes.preferred());
            put_u32(&mut self.bytes, sizes.maximum());
        }
        if wanted.name {
            self.info_text(option, c::INFO_NAME, &export.name);
        }
        if wanted.description && !export.description.is_empty() {
            self.info_text(option, c::INFO_DESCRIPTION, &export.description);
        }
        self.ack(option);
    }

    fn info_text(&mut self, option: u32, kind: u16, text: &str) {
        let text = prefix(text, c::STRING_BYTES_MAX);
        self.put_head(option, c::REP_INFO, 2 + text.len());
        put_u16(&mut self.bytes, kind);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// `base:allocation`, with its id if it was set; in a list the id is reserved and zero.
    pub(crate) fn meta_context(&mut self, option: u32, set: bool) {
        self.put_head(option, c::REP_META_CONTEXT, 4 + c::BASE_ALLOCATION.len());
        put_u32(&mut self.bytes, if set { BASE_ALLOCATION_ID } else { 0 });
        self.bytes.extend_from_slice(c::BASE_ALLOCATION.as_bytes());
    }

    /// One export of a list; nothing if the name is no legal string.
    pub(crate) fn listed(&mut self, name: &str, description: &str) {
        if string(name.as_bytes()).is_none() {
            return;
        }
        let description = prefix(description, c::STRING_BYTES_MAX);
        self.put_head(
            c::OPT_LIST,
            c::REP_SERVER,
            4 + name.len() + description.len(),
        );
        put_u32(&mut self.bytes, name.len() as u32);
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(description.as_bytes());
    }

    fn put_head(&mut self, option: u32, kind: u32, data_bytes: usize) {
        put_u64(&mut self.bytes, c::OPTION_REPLY_MAGIC);
        put_u32(&mut self.bytes, option);
        put_u32(&mut self.bytes, kind);
        put_u32(&mut self.bytes, data_bytes as u32);
    }

    fn put_export(&mut self, export: &ExportInfo, structured: bool) {
        put_u64(&mut self.bytes, export.size_bytes);
        put_u16(&mut self.bytes, export.transmission_flags(structured));
    }
}
