//! Accepts seen at the far end of connections: who took which client's. The last ones only.

use std::collections::VecDeque;
use std::net::SocketAddr;

use foldhash::HashMap;

use crate::record::HostId;

const PEERS_MAX: usize = 4_096;

/// A client's address, and where it means something.
pub(super) type Client = (HostId, SocketAddr);

/// Accepting addresses by client.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: HashMap<Client, (u64, SocketAddr)>,
    /// The oldest first; those that were taken, or are another accept's by now, too.
    order: VecDeque<(u64, Client)>,
    accepts: u64,
}

impl Peers {
    pub(super) fn add(&mut self, client: Client, server: SocketAddr) {
        self.accepts += 1;
        self.known.insert(client, (self.accepts, server));
        self.order.push_back((self.accepts, client));
        if self.order.len() > PEERS_MAX
            && let Some((turn, oldest)) = self.order.pop_front()
            && self.known.get(&oldest).is_some_and(|(latest, _)| *latest == turn)
        {
            self.known.remove(&oldest);
        }
    }

    pub(super) fn has(&self, client: &Client) -> bool {
        self.known.contains_key(client)
    }

    /// Who accepted; told once.
    pub(super) fn take(&mut self, client: &Client) -> Option<SocketAddr> {
        self.known.remove(client).map(|(_, server)| server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client's port is used again: the older accept takes nothing with it.
    #[test]
    fn the_last_accepts_are_known() {
        let client = |n: u16| (HostId::default(), SocketAddr::from(([10, 0, 0, 1], n)));
        let server = |n: u8| SocketAddr::from(([10, 0, 0, 9], u16::from(n)));
        let mut peers = Peers::default();
        peers.add(client(1), server(1));
        assert_eq!(peers.take(&client(1)), Some(server(1)));
        for n in 2..4_000 {
            peers.add(client(n), server(1));
        }
        peers.add(client(1), server(2));
        for n in 4_000..5_000 {
            peers.add(client(n), server(1));
        }
        assert!(!peers.has(&client(2)) && peers.has(&client(4_999)));
        assert_eq!(peers.take(&client(1)), Some(server(2)));
        assert!(peers.known.len() <= PEERS_MAX && peers.order.len() <= PEERS_MAX);
    }
}
