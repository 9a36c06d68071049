//! How long handshakes may take, and which are under way (promise P9).
//!
//! Each connection has a time in which its handshake must be over. Only the client's time counts,
//! not what the server takes to answer it (an agent to attach a disk, `segue serve` to end
//! sessions). How many there may be is the business of whoever serves them.
//!
//! No clock and no socket here: the owner wakes at `first_due_ns`, and closes what `overdue`
//! names. Without a handshake under way it wakes for nothing of this.

use std::collections::BTreeSet;

/// How long a handshake may take, in ns, if the operator says nothing else.
pub(crate) const HANDSHAKE_NS: u64 = 10_000_000_000;

/// Whose turn it is in the handshake of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nobody counts it.
    #[default]
    New,
    /// The client's, at most until then (CLOCK_BOOTTIME).
    Client { due_ns: u64 },
    /// The server's; the client then has that much time left.
    Server { left_ns: u64 },
    /// It is over: an export is served.
    Over,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Handshakes {
    /// A client's time.
    limit_ns: u64,
    /// The client's turn: (when it ends, connection).
    due: BTreeSet<(u64, usize)>,
    /// Connections whose turn is the server's.
    asking: usize,
    /// Connections whose handshake is over.
    served: usize,
}

impl Handshakes {
    pub(crate) fn new(limit_ns: u64) -> Handshakes {
        Handshakes {
            limit_ns,
            due: BTreeSet::new(),
            asking: 0,
            served: 0,
        }
    }

    /// Handshakes that are not over.
    pub(crate) fn under_way(&self) -> usize {
        self.due.len() + self.asking
    }

    /// Connections whose handshake is over.
    pub(crate) fn served(&self) -> usize {
        self.served
    }

    /// A connection begins its handshake.
    pub(crate) fn begin(&mut self, index: usize, now_ns: u64) -> Turn {
        self.client(index, now_ns.saturating_add(self.limit_ns))
    }

    fn client(&mut self, index: usize, due_ns: u64) -> Turn {
        self.due.insert((due_ns, index));
        Turn::Client { due_ns }
    }

    /// The server is asked.
    pub(crate) fn asks(&mut self, index: usize, turn: Turn, now_ns: u64) -> Turn {
        let Turn::Client { due_ns } = turn else {
            return turn;
        };
        self.due.remove(&(due_ns, index));
        self.asking += 1;
        Turn::Server {
            left_ns: due_ns.saturating_sub(now_ns),
        }
    }

    /// The server has answered; `over`: an export is served from now on.
    pub(crate) fn answered(&mut self, index: usize, turn: Turn, over: bool, now_ns: u64) -> Turn {
        let Turn::Server { left_ns } = turn else {
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
    pub(crate) fn gone(&mut self, index: usize, turn: Turn) {
        match turn {
            Turn::New => {}
            Turn::Client { due_ns } => {
                self.due.remove(&(due_ns, index));
            }
            Turn::Server { .. } => self.asking -= 1,
            Turn::Over => self.served -= 1,
        }
    }

    /// The connection whose client's time ends next.
    pub(crate) fn first_due(&self) -> Option<usize> {
        self.due.first().map(|&(_, index)| index)
    }

    /// When the next client's time ends.
    pub(crate) fn first_due_ns(&self) -> Option<u64> {
        self.due.first().map(|&(due_ns, _)| due_ns)
    }

    /// The connection whose time ended longest ago, if there is one.
    pub(crate) fn overdue(&self, now_ns: u64) -> Option<usize> {
        let &(due_ns, index) = self.due.first()?;
        (due_ns <= now_ns).then_some(index)
    }

    /// How long a handshake may take, in seconds.
    pub(crate) fn limit_s(&self) -> f64 {
        self.limit_ns as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_clients_time_counts() {
        let mut all = Handshakes::new(100);
        let turn = all.begin(3, 1000);
        assert_eq!((all.first_due_ns(), all.overdue(1099)), (Some(1100), None));
        let turn = all.asks(3, turn, 1040);
        assert_eq!(
            (all.first_due_ns(), all.under_way()),
            (None, 1),
            "nothing to wake for"
        );
        let turn = all.answered(3, turn, false, 5000);
        assert_eq!(all.first_due_ns(), Some(5060));
        assert_eq!(all.overdue(5060), Some(3));
        all.gone(3, turn);
        assert_eq!((all.first_due_ns(), all.under_way()), (None, 0));
    }
}
