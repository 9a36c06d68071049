//! From a container's URI to what stores its bytes.
//!
//! `file:///absolute/path` or `block:///dev/...` (percent-encoded), with wrappers before it,
//! outermost first:
//! `faulty+file://...`, `forgetful+file://...`, `faulty+forgetful+file://...`. The wrappers are
//! for tests of whole installations: several processes that open the same URI see one container.
//!
//! `nbd://` and `nbd+unix://` as [`super::nbd::Address`] takes them, without wrappers.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backing::Backing;
use super::block;
use super::faulty::Faulty;
use super::file::{Cache, FileBacking};
use super::forgetful::Forgetful;
use super::nbd::{self, Address, NbdBacking};

/// A URI taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUri {
    wrappers: Vec<Wrapper>,
    scheme: Scheme,
    path: PathBuf,
    /// Of [`Scheme::Nbd`].
    address: Option<Address>,
}

/// What kind of storage a URI names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    File,
    Block,
    Nbd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrapper {
    Faulty,
    Forgetful,
}

pub(super) fn refused(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

impl ContainerUri {
    /// Takes a URI apart.
    ///
    /// # Errors
    /// InvalidInput, saying why, for whatever is not a container URI of this Segue.
    pub fn parse(uri: &str) -> io::Result<ContainerUri> {
        let (scheme, rest) = uri
            .split_once("://")
            .ok_or_else(|| refused("it is no URI (file:///path)".into()))?;
        if nbd::is_scheme(scheme) {
            return Ok(ContainerUri {
                wrappers: Vec::new(),
                scheme: Scheme::Nbd,
                path: PathBuf::new(),
                address: Some(Address::parse(uri)?),
            });
        }
        let mut layers: Vec<&str> = scheme.split('+').collect();
        let scheme = match layers.pop() {
            Some("file") => Scheme::File,
            Some("block") => Scheme::Block,
            _ => {
                return Err(refused(
                    "only file://, block:// and nbd:// containers can be opened".into(),
                ));
            }
        };
        let wrappers = layers
            .into_iter()
            .map(|layer| match layer {
                "faulty" => Ok(Wrapper::Faulty),
                "forgetful" => Ok(Wrapper::Forgetful),
                other => Err(refused(format!("unknown wrapper {other:?}"))),
            })
            .collect::<io::Result<Vec<_>>>()?;
        if !rest.starts_with('/') {
            return Err(refused("the path must be absolute (file:///path)".into()));
        }
        let path = decode_percent(rest).ok_or_else(|| refused("bad %-escape".into()))?;
        Ok(ContainerUri {
            wrappers,
            scheme,
            path,
            address: None,
        })
    }

    /// The file; empty for one across the network.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Where the server is, of a container across the network.
    #[must_use]
    pub fn address(&self) -> Option<&Address> {
        self.address.as_ref()
    }

    /// Opens what exists, for nobody in particular.
    ///
    /// # Errors
    /// See [`ContainerUri::open_as`].
    pub fn open(&self, cache: Cache) -> io::Result<Arc<dyn Backing>> {
        self.open_as(cache, 0)
    }

    /// Opens what exists, for use; `holder`: whom a server with a fence is to know us by.
    ///
    /// # Errors
    /// Those of the file, device or server and of the wrappers; InvalidInput for a block device
    /// that is to go through the page cache.
    pub fn open_as(&self, cache: Cache, holder: u64) -> io::Result<Arc<dyn Backing>> {
        if let Some(address) = &self.address {
            return Ok(Arc::new(NbdBacking::open(address.clone(), holder)?));
        }
        match (self.scheme, cache) {
            (Scheme::Nbd, _) => unreachable!("it has an address"),
            (Scheme::File, _) => self.wrap(FileBacking::open(&self.path, cache)?),
            (Scheme::Block, Cache::Direct) => self.wrap(block::open(&self.path)?),
            (Scheme::Block, Cache::Page) => Err(refused(
                "a block device is used past the page cache (direct)".into(),
            )),
        }
    }

    /// Opens what exists, to look at it: claims nothing.
    ///
    /// # Errors
    /// Those of the file, device or server.
    pub(super) fn look(&self) -> io::Result<Box<dyn Backing>> {
        Ok(match (self.scheme, &self.address) {
            (_, Some(address)) => Box::new(NbdBacking::open(address.clone(), 0)?),
            (Scheme::Block, _) => Box::new(block::look(&self.path)?),
            _ => Box::new(FileBacking::open(&self.path, Cache::Page)?),
        })
    }

    pub(super) fn wrap(&self, storage: FileBacking) -> io::Result<Arc<dyn Backing>> {
        let mut backing: Arc<dyn Backing> = Arc::new(storage);
        for wrapper in self.wrappers.iter().rev() {
            backing = match wrapper {
                Wrapper::Faulty => Arc::new(Faulty::new(backing, &self.path)),
                Wrapper::Forgetful => Arc::new(Forgetful::open(backing, &self.path)?),
            };
        }
        Ok(backing)
    }
}

pub(super) fn decode_percent(text: &str) -> Option<PathBuf> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        out.push((high * 16 + low) as u8);
    }
    (!out.contains(&0)).then(|| PathBuf::from(OsString::from_vec(out)))
}

/// Whether a URI names storage across the network.
pub(crate) fn is_remote(uri: &str) -> bool {
    uri.split_once("://")
        .is_some_and(|(scheme, _)| nbd::is_scheme(scheme))
}
