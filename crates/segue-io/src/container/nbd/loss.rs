//! Lost connections: what may still take effect of theirs, and how to get new ones.
//!
//! A write that was under way on a lost connection may take effect at any time, until it has
//! *provably ended* (design, section 4): then it may be sent again, and not before. Until then the
//! job it belongs to is not over, whatever its host was told. What proves it:
//!
//! * `segue serve`: the new connection's handshake names the lost session, and the server lets us
//!   in only when nothing of it is under way ([`segue_nbd::fence`]). A restarted server proves it
//!   as well: it serves only once it holds the lock that the old one's descriptors had.
//! * another server: nothing. The operator may set `linger`: what was lost so long ago has ended.
//!
//! Reads of a lost connection are sent again at once: they have no effect.

use std::collections::HashMap;
use std::io;
use std::net::ToSocketAddrs;

use segue_nbd::client::{Config, Goal};
use segue_nbd::fence::{ENDED_MAX, Hold, Session};

use super::address::{Address, Place, Policy};
use super::link::{Dialled, Link};
use super::work::Part;
use crate::sys::{boottime_ns, connect_unix};

const BACKOFF_FIRST_NS: u64 = 50_000_000;
const BACKOFF_LAST_NS: u64 = 2_000_000_000;

/// Writes of one lost connection.
#[derive(Debug)]
struct Doubt {
    session: Option<Session>,
    lost_ns: u64,
    parts: Vec<Part>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Losses {
    /// Connections in use that were lost.
    count: u64,
    /// By link.
    sessions: HashMap<usize, Session>,
    doubts: Vec<Doubt>,
    /// Sessions that the connection being made has named.
    named: Vec<Session>,
    dials: usize,
    /// The next connection may be tried then.
    next_dial_ns: u64,
    backoff_ns: u64,
    /// A connection in use was lost, and nothing has been answered since: what is asked may be what
    /// ends them.
    in_vain: bool,
    /// One is wanted, and waits for that.
    waits_to_dial: bool,
    revoked: bool,
}

impl Losses {
    pub(super) fn new() -> Losses {
        Losses {
            count: 0,
            sessions: HashMap::new(),
            doubts: Vec::new(),
            named: Vec::new(),
            dials: 0,
            next_dial_ns: 0,
            backoff_ns: BACKOFF_FIRST_NS,
            in_vain: false,
            waits_to_dial: false,
            revoked: false,
        }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A link is in transmission, with a session if the server has a fence.
    pub(super) fn joined(&mut self, link: usize, session: Option<Session>) {
        match session {
            Some(session) => self.sessions.insert(link, session),
            None => self.sessions.remove(&link),
        };
        if session.is_none() {
            // Nobody has looked at them.
            self.named.clear();
        }
    }

    /// The link is in use: the same container lies there. Gives what has ended by that.
    pub(super) fn is_back(&mut self) -> Vec<Part> {
        if !self.in_vain {
            self.dial_at_once();
        }
        let named = std::mem::take(&mut self.named);
        let has_ended = |doubt: &Doubt| doubt.session.is_some_and(|s| named.contains(&s));
        take_parts(&mut self.doubts, has_ended)
    }

    /// A request was carried out, or failed by itself.
    pub(super) fn answered(&mut self) {
        if std::mem::take(&mut self.in_vain) {
            self.dial_at_once();
        }
    }

    fn dial_at_once(&mut self) {
        self.backoff_ns = BACKOFF_FIRST_NS;
        self.next_dial_ns = 0;
    }

    /// A link is lost. Gives what can be sent again: reads.
    pub(super) fn lost(&mut self, link: usize, was_ready: bool, parts: Vec<Part>) -> Vec<Part> {
        self.count += u64::from(was_ready);
        self.in_vain |= was_ready;
        let session = self.sessions.remove(&link);
        let (writes, others): (Vec<_>, Vec<_>) = parts.into_iter().partition(Part::writes);
        if !writes.is_empty() {
            self.doubts.push(Doubt {
                session,
                lost_ns: boottime_ns(),
                parts: writes,
            });
        }
        others
    }

    /// What has ended because the operator says so.
    pub(super) fn lingered(&mut self, now: u64, policy: &Policy) -> Vec<Part> {
        let Some(linger_ns) = policy.linger_ns else {
            return Vec::new();
        };
        take_parts(&mut self.doubts, |doubt| now >= doubt.lost_ns + linger_ns)
    }

    /// The server has ended this holder's sessions, and lets it in no more.
    pub(super) fn revoked(&mut self) {
        self.revoked = true;
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// All writes in doubt: they have ended, for the holder was revoked.
    pub(super) fn take_doubts(&mut self) -> Vec<Part> {
        take_parts(&mut self.doubts, |doubt| doubt.session.is_some())
    }

    /// Whether writes wait for a connection that is yet to be made, whatever others there are: its
    /// handshake is to end the sessions they were sent in.
    pub(super) fn want_a_dial(&self) -> bool {
        self.doubts.iter().any(|doubt| doubt.session.is_some())
    }

    /// When something here is due.
    pub(super) fn deadline(&self, policy: &Policy) -> Option<u64> {
        let dial = self.waits_to_dial.then_some(self.next_dial_ns);
        let linger = policy
            .linger_ns
            .and_then(|linger_ns| Some(self.doubts.iter().map(|d| d.lost_ns).min()? + linger_ns));
        dial.into_iter().chain(linger).min()
    }

    /// Whether to try a connection now, if one is wanted; one that is too early is waited for.
    pub(super) fn may_dial(&mut self, wanted: bool, now: u64) -> bool {
        self.waits_to_dial = wanted && now < self.next_dial_ns;
        wanted && !self.waits_to_dial
    }

    /// Begins a connection, and says when the next may be tried.
    pub(super) fn dial(&mut self, address: &Address, holder: u64) -> io::Result<Link> {
        self.next_dial_ns = boottime_ns() + self.backoff_ns;
        self.backoff_ns = (2 * self.backoff_ns).min(BACKOFF_LAST_NS);
        // If this one fails at once.
        self.waits_to_dial = true;
        let sessions = self.doubts.iter().filter_map(|doubt| doubt.session);
        self.named = sessions.take(ENDED_MAX).collect();
        let hold = (holder != 0).then(|| Hold {
            holder,
            ended: self.named.clone(),
        });
        let config = Config {
            goal: Goal::Connect,
            export: address.export.clone(),
            structured: true,
            block_status: false,
            hold,
        };
        Link::new(self.dialled(&address.place)?, config)
    }

    fn dialled(&mut self, place: &Place) -> io::Result<Dialled> {
        match place {
            Place::Unix(path) => Ok(Dialled::Unix(connect_unix(path)?)),
            Place::Tcp(host, port) => {
                let found: Vec<_> = (host.as_str(), *port).to_socket_addrs()?.collect();
                // One after the other, as attempts fail.
                self.dials += 1;
                let chosen = found.get((self.dials - 1) % found.len().max(1));
                chosen
                    .map(|address| Dialled::Tcp(*address))
                    .ok_or_else(|| io::ErrorKind::NotFound.into())
            }
        }
    }
}

fn take_parts(doubts: &mut Vec<Doubt>, has_ended: impl Fn(&Doubt) -> bool) -> Vec<Part> {
    let (ended, kept): (Vec<_>, Vec<_>) = std::mem::take(doubts).into_iter().partition(has_ended);
    *doubts = kept;
    ended.into_iter().flat_map(|doubt| doubt.parts).collect()
}
