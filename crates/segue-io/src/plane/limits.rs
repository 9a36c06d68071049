//! What hosts may take of an agent (promise P9).
//!
//! A connection costs little before its disk is agreed on, but it costs: so there is a limit of
//! those under negotiation. Beyond it the one whose time ends first makes room: a crowd that says
//! nothing shuts nobody out for longer than its own handshake takes.

use segue_nbd::server::{Refusal, RefusalKind};

use crate::handshakes::{HANDSHAKE_NS, Handshakes};

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
            handshake_ns: HANDSHAKE_NS,
            connections_max: 1024,
            disk_connections_max: 128,
        }
    }
}

impl HostLimits {
    /// Whether one more handshake may begin, and else which connection has to make room.
    pub(super) fn room(&self, handshakes: &Handshakes) -> Result<(), Option<usize>> {
        match handshakes.under_way() < HANDSHAKES_MAX {
            true => Ok(()),
            false => Err(handshakes.first_due()),
        }
    }

    /// Why no disk is served over one more connection, if so.
    pub(super) fn refuses(&self, handshakes: &Handshakes) -> Option<Refusal> {
        let max = self.connections_max;
        let message = format!("this agent serves {max} connections already, as many as it may");
        (handshakes.served() >= max as usize).then(|| policy(message))
    }

    /// Why a disk with that many other connections is not served over one more, if so.
    pub(super) fn refuses_disk(&self, connections: u32) -> Option<Refusal> {
        let max = self.disk_connections_max;
        let message = format!("the disk has {max} connections already, as many as it may");
        (connections >= max).then(|| policy(message))
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
    use crate::handshakes::Turn;

    #[test]
    fn what_is_served_counts_until_it_goes() {
        let limits = HostLimits {
            handshake_ns: 100,
            connections_max: 1,
            disk_connections_max: 2,
        };
        let mut all = Handshakes::new(100);
        let turn = all.begin(0, 0);
        let turn = all.asks(0, turn, 1);
        assert!(limits.refuses(&all).is_none());
        let turn = all.answered(0, turn, true, 2);
        assert_eq!((turn, all.first_due_ns()), (Turn::Over, None));
        assert!(limits.refuses(&all).is_some());
        all.gone(0, turn);
        assert!(limits.refuses(&all).is_none());
        assert!(limits.refuses_disk(1).is_none() && limits.refuses_disk(2).is_some());
    }

    #[test]
    fn the_one_whose_time_ends_first_makes_room() {
        let (limits, mut all) = (HostLimits::default(), Handshakes::new(100));
        let turns: Vec<Turn> = (0..HANDSHAKES_MAX)
            .map(|index| all.begin(index, index as u64))
            .collect();
        assert_eq!(limits.room(&all), Err(Some(0)));
        let asked = all.asks(0, turns[0], 50);
        assert_eq!(
            limits.room(&all),
            Err(Some(1)),
            "one that waits for us stays"
        );
        all.gone(1, turns[1]);
        assert_eq!(limits.room(&all), Ok(()));
        all.gone(0, asked);
    }
}
