//! Where an NBD container's server is, and what the operator has set for it.
//!
//! ```text
//! nbd://HOST[:PORT]/EXPORT[?PARAMETERS]
//! nbd+unix:///EXPORT?socket=PATH[&PARAMETERS]
//! ```
//!
//! Parameters: `on-loss=stall` (default) or `fail`; `loss-ms` how long I/O waits before it fails;
//! `linger-ms` after which a lost connection's requests count as ended (none: never);
//! `connections` most at once; `timeout-ms` of silence after which a connection counts as lost.

use std::io;
use std::path::PathBuf;

use super::super::uri::{decode_percent, refused};

const DEFAULT_PORT: u16 = 10809;
const CONNECTIONS: usize = 4;
const CONNECTIONS_MAX: usize = 16;
const LOSS_MS: u64 = 30_000;
const TIMEOUT_MS: u64 = 30_000;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A unix socket.
    Unix(PathBuf),
    /// A host's name or address, and the port.
    Tcp(String, u16),
}

/// What the operator has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// I/O that has waited so long gets EIO; `None`: it waits.
    pub fail_after_ns: Option<u64>,
    /// A lost connection's requests count as ended after that; `None`: only a fence ends them.
    pub linger_ns: Option<u64>,
    /// Most connections at once.
    pub connections: usize,
    /// Silence after which a connection with requests under way counts as lost.
    pub timeout_ns: u64,
}

/// A URI taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where.
    pub place: Place,
    /// The export's name.
    pub export: String,
    /// How it is treated.
    pub policy: Policy,
}

/// Whether this scheme is one of these containers'.
pub(crate) fn is_scheme(scheme: &str) -> bool {
    matches!(scheme, "nbd" | "nbd+unix")
}

impl Address {
    /// Takes a URI apart.
    ///
    /// # Errors
    /// InvalidInput, saying why.
    pub fn parse(uri: &str) -> io::Result<Address> {
        let refuse = |what: &str| refused(what.to_owned());
        let (scheme, rest) = uri.split_once("://").ok_or_else(|| refuse("no URI"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decode_percent(path)
            .and_then(|path| path.into_os_string().into_string().ok())
            .ok_or_else(|| refuse("the export's name cannot be read"))?;
        let mut parameters = Parameters::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !parameters.set(name, value) {
                return Err(refuse(&format!("cannot take {pair:?}")));
            }
        }
        let place = match (scheme, parameters.socket.take()) {
            ("nbd", None) if !authority.is_empty() => tcp(authority),
            ("nbd+unix", Some(socket)) if authority.is_empty() => Some(Place::Unix(socket)),
            ("nbd+unix", _) => return Err(refuse("wanted: nbd+unix:///EXPORT?socket=/PATH")),
            _ => return Err(refuse("wanted: nbd://HOST[:PORT]/EXPORT")),
        };
        Ok(Address {
            place: place.ok_or_else(|| refuse("the port cannot be read"))?,
            export,
            policy: parameters.policy(),
        })
    }
}

fn tcp(authority: &str) -> Option<Place> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, DEFAULT_PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some(Place::Tcp(host.to_owned(), port))
}

#[derive(Default)]
struct Parameters {
    socket: Option<PathBuf>,
    fails: bool,
    loss_ms: Option<u64>,
    linger_ms: Option<u64>,
    connections: Option<usize>,
    timeout_ms: Option<u64>,
}

impl Parameters {
    fn set(&mut self, name: &str, value: &str) -> bool {
        let number = || value.parse().ok().filter(|ms| *ms <= 1 << 40);
        match name {
            "socket" => self.socket = decode_percent(value).filter(|path| path.is_absolute()),
            "on-loss" if matches!(value, "stall" | "fail") => self.fails = value == "fail",
            "loss-ms" => self.loss_ms = number(),
            "linger-ms" => self.linger_ms = number(),
            "timeout-ms" => self.timeout_ms = number().filter(|ms| *ms > 0),
            "connections" => {
                let fits = |count: &usize| (1..=CONNECTIONS_MAX).contains(count);
                self.connections = value.parse().ok().filter(fits);
            }
            _ => return false,
        }
        match name {
            "socket" => self.socket.is_some(),
            "loss-ms" => self.loss_ms.is_some(),
            "linger-ms" => self.linger_ms.is_some(),
            "timeout-ms" => self.timeout_ms.is_some(),
            "connections" => self.connections.is_some(),
            _ => true,
        }
    }

    fn policy(&self) -> Policy {
        let ns = |ms: u64| ms * 1_000_000;
        Policy {
            fail_after_ns: self.fails.then(|| ns(self.loss_ms.unwrap_or(LOSS_MS))),
            linger_ns: self.linger_ms.map(ns),
            connections: self.connections.unwrap_or(CONNECTIONS),
            timeout_ns: ns(self.timeout_ms.unwrap_or(TIMEOUT_MS)),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Unix(path) => write!(out, "{}", path.display()),
            Place::Tcp(host, port) => write!(out, "{host}:{port}"),
        }
    }
}
