//! The data of options, parsed ("Option types"). Nothing here decides; nothing here panics.

use crate::consts as c;
use crate::wire::{Reader, string};

/// Which information a client asked for; EXPORT is always sent, unknown kinds are ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InfoWanted {
    pub(crate) name: bool,
    pub(crate) description: bool,
    pub(crate) block_size: bool,
}

/// The data of OPT_INFO and OPT_GO. On a breach of the format, the sentence for the client.
pub(crate) fn parse_info(data: &[u8]) -> Result<(&str, InfoWanted), &'static str> {
    let mut reader = Reader::new(data);
    let name = parse_string(&mut reader)?;
    let count = reader
        .u16()
        .ok_or("the number of information requests is missing")?;
    let mut wanted = InfoWanted::default();
    for _ in 0..count {
        match reader.u16().ok_or("an information request is missing")? {
            c::INFO_NAME => wanted.name = true,
            c::INFO_DESCRIPTION => wanted.description = true,
            c::INFO_BLOCK_SIZE => wanted.block_size = true,
            _ => {}
        }
    }
    expect_end(&reader)?;
    Ok((name, wanted))
}

/// The data of OPT_LIST_META_CONTEXT and OPT_SET_META_CONTEXT: the export's name, and whether
/// `base:allocation` is meant. On a breach of the format, the sentence for the client.
///
/// Listing: no query, `base:` and `base:allocation` mean it. Setting: `base:allocation` only.
/// Queries of other namespaces and other names of `base:` are ignored, as the document demands.
pub(crate) fn parse_meta_context(data: &[u8], set: bool) -> Result<(&str, bool), &'static str> {
    let mut reader = Reader::new(data);
    let name = parse_string(&mut reader)?;
    let count = reader.u32().ok_or("the number of queries is missing")?;
    let mut matched = count == 0 && !set;
    // Each turn takes at least four bytes of `data` or ends, so `count` bounds nothing.
    for _ in 0..count {
        let query = parse_string(&mut reader)?;
        if !query.contains(':') {
            return Err("a query has no colon after its namespace");
        }
        matched |= query == c::BASE_ALLOCATION || (query == "base:" && !set);
    }
    expect_end(&reader)?;
    Ok((name, matched))
}

fn parse_string<'a>(reader: &mut Reader<'a>) -> Result<&'a str, &'static str> {
    let length = reader.u32().ok_or("the length of a string is missing")?;
    // A length beyond usize cannot be there either.
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let bytes = reader
        .take(length)
        .ok_or("a string is longer than the option")?;
    string(bytes).ok_or("a string is not UTF-8, has a NUL, or is over 4096 bytes long")
}

fn expect_end(reader: &Reader<'_>) -> Result<(), &'static str> {
    if reader.rest().is_empty() {
        Ok(())
    } else {
        Err("the option has bytes beyond its end")
    }
}
