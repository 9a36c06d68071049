//! Who may connect, and how long a handshake may take (promise P9).
//!
//! A connection costs little before its disk is agreed on, but it costs: so there is a limit of
//! those under negotiation, and each has a time in which it must be over. Only the client's time
//! counts, not what the agent takes to attach a disk. Beyond the limit the one whose time ends first
//! makes room: a crowd that says nothing shuts nobody out for longer than its own handshake takes.
//!
//! No clock and no socket here: the data thread asks for `first_due_ns`, and closes what `overdue`
//! names. Without a handshake under way it wakes for nothing of this.

use std::collections::BTreeSet;

use segue_nbd::server::{Refusal, RefusalKind};

/// Connections under negotiation at once.
pub(super) const HANDSHAKES_MAX: usize = 256;

/// What hosts may take of an agent; what goes beyond is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostLimits {
    /// How long a client may take from connecting until its disk is agreed on, in ns.
    pub handshake_ns: u64,
    /// Connections that disks are served over at once.
    pub connections_max: u32,
    /// The same, of one disk.
    pub disk_connections_max: u32,
}

impl Default for HostLimits {
    fn default() -> Self {
        HostLimits {
            handshake_ns: 10_000_000_000,
            connections_max: 1024,
            disk_connections_max: 128,
        }
    }
}

/// Whose turn it is in the handshake of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nobody has counted it yet.
    #[default]
    New,
    /// The client's, at most until then (CLOCK_BOOTTIME).
    Client { due_ns: u64 },
    /// The agent's; the client then has that much time left.
    Agent { left_ns: u64 },
    /// It is over: a disk is served.
    Over,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Handshakes {
    limits: HostLimits,
    /// The client's turn: (when it ends, connection).
    due: BTreeSet<(u64, usize)>,
    /// Connections whose turn is the agent's.
    asking: usize,
    /// Connections that disks are served over.
    served: usize,
}

impl Handshakes {
    pub(super) fn new(limits: HostLimits) -> Handshakes {
        Handshakes {
            limits,
            due: BTreeSet::new(),
            asking: 0,
            served: 0,
        }
    }

    /// Whether one more may begin, and else which connection has to make room.
    pub(super) fn room(&self) -> Result<(), Option<usize>> {
        match self.due.len() + self.asking < HANDSHAKES_MAX {
            true => Ok(()),
            false => Err(self.due.first().map(|&(_, index)| index)),
        }
    }

    /// A connection begins its handshake.
    pub(super) fn begin(&mut self, index: usize, now_ns: u64) -> Turn {
        self.client(index, now_ns.saturating_add(self.limits.handshake_ns))
    }

    fn client(&mut self, index: usize, due_ns: u64) -> Turn {
        self.due.insert((due_ns, index));
        Turn::Client { due_ns }
    }

    /// The agent is asked.
    pub(super) fn asks(&mut self, index: usize, turn: Turn, now_ns: u64) -> Turn {
        let Turn::Client { due_ns } = turn else {
            return turn;
        };
        self.due.remove(&(due_ns, index));
        self.asking += 1;
        Turn::Agent {
            left_ns: due_ns.saturating_sub(now_ns),
        }
    }

    /// The agent has answered; `over`: a disk is served from now on.
    pub(super) fn answered(&mut self, index: usize, turn: Turn, over: bool, now_ns: u64) -> Turn {
        let Turn::Agent { left_ns } = turn else {
            return turn;
        };
        self.asking -= 1;
        if over {
            self.served += 1;
            return Turn::Over;
        }
        self.client(index, now_ns.saturating_add(left_ns))
    }

    /// The connection has gone.
    pub(super) fn gone(&mut self, index: usize, turn: Turn) {
        match turn {
            Turn::New => {}
            Turn::Client { due_ns } => {
                self.due.remove(&(due_ns, index));
            }
            Turn::Agent { .. } => self.asking -= 1,
            Turn::Over => self.served -= 1,
        }
    }

    /// When the next client's time ends.
    pub(super) fn first_due_ns(&self) -> Option<u64> {
        self.due.first().map(|&(due_ns, _)| due_ns)
    }

    /// The connection whose time ended longest ago, if there is one.
    pub(super) fn overdue(&self, now_ns: u64) -> Option<usize> {
        let &(due_ns, index) = self.due.first()?;
        (due_ns <= now_ns).then_some(index)
    }

    /// Why no disk is served over one more connection, if so.
    pub(super) fn refuses(&self) -> Option<Refusal> {
        let max = self.limits.connections_max;
        let message = format!("this agent serves {max} connections already, as many as it may");
        (self.served >= max as usize).then(|| policy(message))
    }

    /// Why a disk with that many other connections is not served over one more, if so.
    pub(super) fn refuses_disk(&self, connections: u32) -> Option<Refusal> {
        let max = self.limits.disk_connections_max;
        let message = format!("the disk has {max} connections already, as many as it may");
        (connections >= max).then(|| policy(message))
    }

    /// How long a handshake may take, in seconds.
    pub(super) fn limit_s(&self) -> f64 {
        self.limits.handshake_ns as f64 / 1e9
    }
}

fn policy(message: String) -> Refusal {
    Refusal {
        kind: RefusalKind::Policy,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handshakes() -> Handshakes {
        Handshakes::new(HostLimits {
            handshake_ns: 100,
            connections_max: 1,
            disk_connections_max: 2,
        })
    }

    #[test]
    fn only_the_clients_time_counts() {
        let mut all = handshakes();
        let turn = all.begin(3, 1000);
        assert_eq!((all.first_due_ns(), all.overdue(1099)), (Some(1100), None));
        let turn = all.asks(3, turn, 1040);
        assert_eq!(all.first_due_ns(), None, "nothing to wake for");
        let turn = all.answered(3, turn, false, 5000);
        assert_eq!(all.first_due_ns(), Some(5060));
        assert_eq!(all.overdue(5060), Some(3));
        all.gone(3, turn);
        assert_eq!(all.first_due_ns(), None);
    }

    #[test]
    fn what_is_served_counts_until_it_goes() {
        let mut all = handshakes();
        let turn = all.begin(0, 0);
        let turn = all.asks(0, turn, 1);
        assert!(all.refuses().is_none());
        let turn = all.answered(0, turn, true, 2);
        assert_eq!((turn, all.first_due_ns()), (Turn::Over, None));
        assert!(all.refuses().is_some());
        all.gone(0, turn);
        assert!(all.refuses().is_none());
        assert!(all.refuses_disk(1).is_none() && all.refuses_disk(2).is_some());
    }

    #[test]
    fn the_one_whose_time_ends_first_makes_room() {
        let mut all = handshakes();
        let turns: Vec<Turn> = (0..HANDSHAKES_MAX)
            .map(|index| all.begin(index, index as u64))
            .collect();
        assert_eq!(all.room(), Err(Some(0)));
        let asked = all.asks(0, turns[0], 50);
        assert_eq!(all.room(), Err(Some(1)), "one that waits for us stays");
        all.gone(1, turns[1]);
        assert_eq!(all.room(), Ok(()));
        all.gone(0, asked);
    }
}
