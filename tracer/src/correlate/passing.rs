//! Answers seen at the door of a network namespace (`--wire`) that no socket was seen to get: each waits
//! a moment for its copy at the socket, whichever of the two is told first. Bounded. Matches no queries.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use crate::event::{Actor, Dns, Event, Icmp, IcmpError};
use crate::record::{HostId, Timestamp};

use super::transaction::{Asked, Reply, Sent, SocketKey};

/// From the door to the socket: as a rule some microseconds, but fragments may wait for each other.
pub(crate) const COPY_NS: u64 = 100_000_000;
/// Answers that wait for their copies.
const WAITING_MAX: usize = 4_096;

/// An answer, as it is told at the door and at the socket.
#[derive(Debug)]
struct Sighting {
    /// Of the socket that asked.
    key: (SocketKey, u16),
    asked: Option<Asked>,
    from: SocketAddr,
    local: SocketAddr,
}

impl Sighting {
    fn new(actor: &Actor, dns: &Dns, asked: Option<Asked>) -> Self {
        let key = (SocketKey::of(actor, dns), dns.message.id);
        Self { key, asked, from: dns.remote, local: dns.local }
    }

    /// The same answer to the same socket. What a translation in between makes of one end leaves the
    /// other, or the socket, as it is.
    fn may_be(&self, other: &Self) -> bool {
        let socket = self.key.0 == other.key.0 || self.local == other.local;
        socket && self.key.1 == other.key.1 && self.asked == other.asked
    }

    fn is(&self, other: &Self) -> bool {
        self.from == other.from && self.may_be(other)
    }
}

/// An answer that no socket got.
#[derive(Debug)]
pub(crate) struct Passing {
    seen: Sighting,
    /// What it says.
    pub(crate) reply: Reply,
}

impl Passing {
    /// Takes what `dns` answers out of it.
    pub(crate) fn new(actor: &Actor, dns: &mut Dns, asked: Option<Asked>, sent: Sent) -> Self {
        let seen = Sighting::new(actor, dns, asked);
        Self { seen, reply: Reply::of(dns, sent) }
    }

    /// The socket that asked, and the id.
    pub(crate) fn key(&self) -> &(SocketKey, u16) {
        &self.seen.key
    }

    /// The question.
    pub(crate) fn asked(&self) -> Option<&Asked> {
        self.seen.asked.as_ref()
    }

    /// Its sender.
    pub(crate) fn from(&self) -> SocketAddr {
        self.seen.from
    }
}

/// Those on their way. Which of the two copies is told first depends on the kernel.
#[derive(Debug, Default)]
pub(crate) struct Door {
    waiting: VecDeque<Passing>,
    /// At sockets, and not seen at the door yet.
    arrived: VecDeque<(Timestamp, Sighting)>,
    /// Somebody looks.
    watched: bool,
}

impl Door {
    /// An answer came in.
    pub(crate) fn enters(&mut self, passing: Passing) {
        self.watched = true;
        let now = passing.reply.at;
        while let Some((at, _)) = self.arrived.front()
            && now.since(*at) >= COPY_NS
        {
            self.arrived.pop_front();
        }
        // Of several doors on its way each shows it: that one is not forgotten.
        if self.arrived.iter().rev().any(|(_, arrived)| arrived.is(&passing.seen)) {
            return;
        }
        match self.arrived.iter().position(|(_, arrived)| arrived.may_be(&passing.seen)) {
            Some(place) => drop(self.arrived.remove(place)),
            None => self.waiting.push_back(passing),
        }
    }

    /// Nobody looks, which is usual: then there is nothing to compare.
    pub(crate) fn is_watched(&self) -> bool {
        self.watched
    }

    /// An answer reached a socket: that was it. Where a translation changed its sender on the way, the
    /// first of those that may have been it.
    pub(crate) fn arrives(
        &mut self,
        actor: &Actor,
        dns: &Dns,
        asked: Option<&Asked>,
        at: Timestamp,
    ) {
        let seen = Sighting::new(actor, dns, asked.cloned());
        let before = self.waiting.len();
        self.waiting.retain(|passing| !passing.seen.is(&seen));
        if self.waiting.len() < before {
            return;
        }
        if let Some(place) = self.waiting.iter().position(|passing| passing.seen.may_be(&seen)) {
            self.waiting.remove(place);
            return;
        }
        self.arrived.push_back((at, seen));
        if self.arrived.len() > WAITING_MAX {
            self.arrived.pop_front();
        }
    }

    /// The next whose copy will not come any more.
    pub(crate) fn due(&mut self, now: Timestamp) -> Option<Passing> {
        let first = self.waiting.front()?;
        let over = now.since(first.reply.at) >= COPY_NS || self.waiting.len() > WAITING_MAX;
        if over { self.waiting.pop_front() } else { None }
    }

    /// All of a host from which nothing more comes.
    pub(crate) fn of_host(&mut self, host: HostId) -> Vec<Passing> {
        let all = std::mem::take(&mut self.waiting).into_iter();
        let (gone, kept): (VecDeque<_>, _) = all.partition(|p| p.key().0.host() == host);
        self.waiting = kept;
        gone.into()
    }
}

/// Answers to a query that its sender did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unheard {
    /// Where the first came from.
    pub from: SocketAddr,
    /// When it came.
    pub at: Timestamp,
    /// Its event.
    pub number: u64,
    /// Its RCODE.
    pub rcode: u16,
    /// How many came.
    pub count: u32,
    /// They reached the socket, and its program dismissed them.
    pub dismissed: bool,
}

/// ICMP errors about a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Who sent the first.
    pub from: IpAddr,
    /// What it says.
    pub error: IcmpError,
    /// Most bytes of a packet that goes through, if it says that.
    pub mtu: Option<u32>,
    /// When it came.
    pub at: Timestamp,
    /// Its event.
    pub number: u64,
    /// How many came.
    pub count: u32,
}

impl Rejected {
    pub(crate) fn of(icmp: &Icmp, event: &Event) -> Self {
        let Icmp { from, error, mtu, .. } = *icmp;
        Self { from, error, mtu, at: event.at, number: event.number, count: 1 }
    }
}
