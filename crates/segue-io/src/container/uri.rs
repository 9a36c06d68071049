//! From a container's URI to what stores its bytes.
//!
//! `file:///absolute/path` (percent-encoded), with wrappers before it, outermost first:
//! `faulty+file://...`, `forgetful+file://...`, `faulty+forgetful+file://...`. The wrappers are
//! for tests of whole installations: several processes that open the same URI see one container.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backing::Backing;
use super::faulty::Faulty;
use super::file::{Cache, FileBacking};
use super::forgetful::Forgetful;

/// A URI taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerUri {
    wrappers: Vec<Wrapper>,
    path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrapper {
    Faulty,
    Forgetful,
}

fn refused(what: String) -> io::Error {
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
            .ok_or_else(|| refused(format!("{uri:?} is not a URI (file:///path)")))?;
        let mut layers: Vec<&str> = scheme.split('+').collect();
        if layers.pop() != Some("file") {
            return Err(refused(format!(
                "{uri:?}: only file:// containers can be opened"
            )));
        }
        let wrappers = layers
            .into_iter()
            .map(|layer| match layer {
                "faulty" => Ok(Wrapper::Faulty),
                "forgetful" => Ok(Wrapper::Forgetful),
                other => Err(refused(format!("{uri:?}: unknown wrapper {other:?}"))),
            })
            .collect::<io::Result<Vec<_>>>()?;
        if !rest.starts_with('/') {
            return Err(refused(format!(
                "{uri:?}: the path must be absolute (file:///path)"
            )));
        }
        let path = decode_percent(rest).ok_or_else(|| refused(format!("{uri:?}: bad escape")))?;
        Ok(ContainerUri { wrappers, path })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what exists.
    ///
    /// # Errors
    /// Those of the file and of the wrappers.
    pub fn open(&self, cache: Cache) -> io::Result<Arc<dyn Backing>> {
        self.wrap(Arc::new(FileBacking::open(&self.path, cache)?))
    }

    /// Makes a new file and opens it.
    ///
    /// # Errors
    /// See [`FileBacking::create`].
    pub fn create(&self, size_bytes: u64, cache: Cache) -> io::Result<Arc<dyn Backing>> {
        self.wrap(Arc::new(FileBacking::create(
            &self.path, size_bytes, cache,
        )?))
    }

    fn wrap(&self, mut backing: Arc<dyn Backing>) -> io::Result<Arc<dyn Backing>> {
        for wrapper in self.wrappers.iter().rev() {
            backing = match wrapper {
                Wrapper::Faulty => Arc::new(Faulty::new(backing, &self.path)),
                Wrapper::Forgetful => Arc::new(Forgetful::open(backing, &self.path)?),
            };
        }
        Ok(backing)
    }
}

fn decode_percent(text: &str) -> Option<PathBuf> {
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
