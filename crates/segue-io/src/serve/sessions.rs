//! The fence: who is connected, for whom, and what of theirs is under way.
//!
//! A session *has ended* when it may begin no request any more and none of its requests is being
//! carried out. Ending one marks it, shuts its socket, and waits for its requests: an answer that
//! somebody's session has ended is a proof (rule 5). Holders revoked for ever are remembered in a
//! file, durably before that is answered, so that a restarted server refuses them as well.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use segue_nbd::fence::{Hold, Revocation, Session};
use segue_nbd::server::{Refusal, RefusalKind};

use crate::client::Stream;
use crate::sys::boottime_ns;

#[derive(Debug)]
struct Live {
    holder: Option<u64>,
    socket: Arc<Stream>,
    under_way: u32,
    /// It may begin nothing any more.
    ended: bool,
}

#[derive(Debug, Default)]
struct State {
    live: HashMap<u64, Live>,
    revoked: HashSet<u64>,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Sessions {
    /// This start of the server.
    server: u64,
    state: Mutex<State>,
    changed: Condvar,
    memory: Mutex<File>,
}

impl Sessions {
    /// Reads who was revoked for ever.
    pub(super) fn open(path: &Path) -> io::Result<Sessions> {
        let memory = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)?;
        memory.sync_all()?;
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            File::open(folder)?.sync_all()?;
        }
        let mut state = State::default();
        for line in BufReader::new(&memory).lines() {
            // A line cut short by a crash was never answered for.
            if let Ok(holder) = u64::from_str_radix(line?.trim(), 16) {
                state.revoked.insert(holder);
            }
        }
        let mut random = [0; 8];
        io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut random)?;
        Ok(Sessions {
            server: u64::from_ne_bytes(random) ^ boottime_ns(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            memory: Mutex::new(memory),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has come, of a number that none had before.
    pub(super) fn join(&self, number: u64, socket: Arc<Stream>) {
        let live = Live {
            holder: None,
            socket,
            under_way: 0,
            ended: false,
        };
        self.lock().live.insert(number, live);
    }

    /// It has gone, and nothing of it is under way.
    pub(super) fn leave(&self, number: u64) {
        let mut state = self.lock();
        while state
            .live
            .get(&number)
            .is_some_and(|live| live.under_way > 0)
        {
            state = self.wait(state);
        }
        state.live.remove(&number);
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A request is about to be carried out; `false`: it may not be.
    pub(super) fn begin(&self, number: u64) -> bool {
        match self.lock().live.get_mut(&number) {
            Some(live) if !live.ended => {
                live.under_way += 1;
                true
            }
            _ => false,
        }
    }

    /// It has been carried out.
    pub(super) fn end(&self, number: u64) {
        let mut state = self.lock();
        if let Some(live) = state.live.get_mut(&number) {
            live.under_way -= 1;
        }
        self.changed.notify_all();
    }

    /// The connection acts for a holder, once the sessions it names have ended.
    pub(super) fn hold(&self, number: u64, hold: &Hold) -> Result<Session, Refusal> {
        // Sessions of another start of the server have ended: it had the lock that this one has.
        let mine = hold.ended.iter().filter(|s| s.server == self.server);
        let named: HashSet<u64> = mine.map(|session| session.number).collect();
        self.end_sessions(|other, live| {
            other != number && named.contains(&other) && live.holder == Some(hold.holder)
        });
        let mut state = self.lock();
        if !state.revoked.contains(&hold.holder) {
            if let Some(live) = state.live.get_mut(&number) {
                live.holder = Some(hold.holder);
            }
            return Ok(Session {
                server: self.server,
                number,
            });
        }
        drop(state);
        // It takes this for the end of all it has sent; who revokes it may be waiting for that still.
        self.end_sessions(|other, live| other != number && live.holder == Some(hold.holder));
        Err(Refusal {
            kind: RefusalKind::Policy,
            message: format!("holder {:x} was revoked", hold.holder),
        })
    }

    /// Ends all sessions of a holder, and has it make no more if that is wanted.
    pub(super) fn revoke(&self, revocation: Revocation) -> Result<(), Refusal> {
        let Revocation { holder, forever } = revocation;
        if forever {
            let noted = self.note(holder);
            noted.map_err(|error| Refusal {
                kind: RefusalKind::Policy,
                message: format!("the revocation cannot be made durable: {error}"),
            })?;
            self.lock().revoked.insert(holder);
        }
        self.end_sessions(|_, live| live.holder == Some(holder));
        Ok(())
    }

    fn note(&self, holder: u64) -> io::Result<()> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if self.lock().revoked.contains(&holder) {
            return Ok(());
        }
        // A line of its own, even after one that a crash cut short.
        memory.write_all(format!("\n{holder:x}\n").as_bytes())?;
        memory.sync_data()
    }

    fn end_sessions(&self, is_meant: impl Fn(u64, &Live) -> bool) {
        let mut state = self.lock();
        let mut numbers = Vec::new();
        for (number, live) in &mut state.live {
            if is_meant(*number, live) {
                live.ended = true;
                live.socket.shutdown(Shutdown::Both);
                numbers.push(*number);
            }
        }
        self.changed.notify_all();
        let is_busy = |state: &State, number| {
            let live: Option<&Live> = state.live.get(number);
            live.is_some_and(|live| live.under_way > 0)
        };
        while numbers.iter().any(|number| is_busy(&state, number)) {
            state = self.wait(state);
        }
    }
}

#[cfg(test)]
#[path = "sessions_tests.rs"]
mod tests;
