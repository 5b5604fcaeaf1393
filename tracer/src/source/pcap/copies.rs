//! One datagram, captured at several interfaces: counted once, and each translated copy (DNAT, SNAT)
//! put where it belongs. Knows addresses and fingerprints, no DNS.
//!
//! A packet is told as the end that asks saw it: what it sent is `out`, what came for it is `in`. A
//! copy on its way to another destination was translated: it shows the same datagram at the server
//! behind that address, so it is `in` there, and what that server answers to it is `out` of it. A
//! copy from another source is the same datagram on the far side of a gateway and adds nothing.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};

use foldhash::HashMap;
use foldhash::quality::RandomState;
use smallvec::SmallVec;

use crate::event::Direction;
use crate::record::Timestamp;

/// The same IP id repeats only after many packets: queues may lie between two copies.
const SAME_ID_NS: u64 = 1_000_000_000;
/// Without an IP id a repetition that soon is a copy; no resolver library resends sooner.
const NO_ID_NS: u64 = 20_000_000;
/// How long an answer is expected.
const PARTS_NS: u64 = 120_000_000_000;
const SIGHTINGS_MAX: usize = 16_384;
const PARTS_MAX: usize = 65_536;
const FLOWS_MAX: usize = 8;
/// Datagrams with one fingerprint.
const SAME_MAX: usize = 64;

/// [`Sighting::exchange`] of TCP.
pub(super) const TCP: u32 = 1 << 16;

/// An address and port: as they are for IPv4, else their hash. There are many, and most of the work is
/// to fetch them from memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct End(u64);

impl End {
    /// All of one capture with the same `hasher`.
    pub(super) fn new(end: SocketAddr, hasher: &RandomState) -> Self {
        let port = u64::from(end.port());
        match end.ip() {
            IpAddr::V4(ip) => Self(u64::from(ip.to_bits()) << 16 | port),
            IpAddr::V6(ip) => Self(1 << 63 | hasher.hash_one((ip.to_bits(), port))),
        }
    }
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    pub(super) from: End,
    pub(super) to: End,
}

/// What a packet does in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// It asks: a query, a SYN.
    Ask,
    /// It answers: a response, a SYN with ACK.
    Answer,
    /// Either side may send it: FIN, RST.
    Either,
}

/// A packet, as far as copies are concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sighting {
    pub(super) at: Timestamp,
    pub(super) flow: Flow,
    pub(super) act: Act,
    /// What is the same in all copies and in nothing else.
    pub(super) fingerprint: u64,
    /// IPv4 identification; `None` where there is none.
    pub(super) ip_id: Option<u16>,
    /// What ties an answer to its question: the DNS id, or [`TCP`].
    pub(super) exchange: u32,
}

/// What the addresses of a flow are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// As the asking end sees them.
    Asker,
    /// As the server behind a translated address sees them.
    Server,
    /// Neither end's.
    Between,
}

struct Seen {
    at: Timestamp,
    fingerprint: u64,
    ip_id: Option<u16>,
    flows: Flows,
    /// Number of the one before with this fingerprint.
    before: Option<u64>,
}

/// As a rule there is one.
type Flows = SmallVec<[Flow; 1]>;

/// The hash of a flow and what ties an answer to its question: there are many, and each is looked up
/// by every packet.
type Exchange = u64;

/// What was seen lately.
#[derive(Default)]
pub(super) struct Copies {
    /// In the order in which they came, numbered from `expired` on: what is written and dropped in a
    /// row stays in the processor's caches.
    seen: VecDeque<Seen>,
    expired: u64,
    /// Number of the latest, by fingerprint.
    latest: HashMap<u64, u64>,
    parts: HashMap<Exchange, Part>,
    parts_order: VecDeque<(Timestamp, Exchange)>,
    hasher: RandomState,
}

impl Copies {
    /// The direction to tell a packet with; `None` for a copy that adds nothing.
    pub(super) fn direction(&mut self, packet: &Sighting) -> Option<Direction> {
        self.expire(packet.at);
        let to = packet.flow.to;
        let earlier = self.note(packet)?;
        let asked = self.hasher.hash_one((packet.flow, packet.exchange));
        match packet.act {
            Act::Ask => {
                let order = &mut self.parts_order;
                let part = *self.parts.entry(asked).or_insert_with(|| {
                    order.push_back((packet.at, asked));
                    match earlier.as_slice() {
                        [] => Part::Asker,
                        flows if flows.iter().any(|flow| flow.to == to) => Part::Between,
                        _ => Part::Server,
                    }
                });
                match part {
                    Part::Asker => Some(Direction::Out),
                    Part::Server => Some(Direction::In),
                    Part::Between => None,
                }
            }
            Act::Either if self.parts.contains_key(&asked) => match self.parts.get(&asked) {
                Some(Part::Server) => Some(Direction::In),
                Some(Part::Between) => None,
                _ => Some(Direction::Out),
            },
            Act::Answer | Act::Either => match self.parts.get(&self.answered(packet)) {
                Some(Part::Server) => Some(Direction::Out),
                Some(Part::Between) => None,
                Some(Part::Asker) => Some(Direction::In),
                None if packet.act == Act::Answer => Some(Direction::In),
                None => Some(Direction::Out),
            },
        }
    }

    /// The exchange that a packet in the opposite direction began.
    fn answered(&self, packet: &Sighting) -> Exchange {
        let Flow { from, to } = packet.flow;
        self.hasher.hash_one((Flow { from: to, to: from }, packet.exchange))
    }

    /// Flows of earlier copies of the same datagram; `None` if it went through this very flow.
    fn note(&mut self, packet: &Sighting) -> Option<Flows> {
        let before = self.latest.get(&packet.fingerprint).copied();
        let mut next = before;
        for _ in 0..SAME_MAX {
            let Some(index) = next.and_then(|number| number.checked_sub(self.expired)) else {
                break;
            };
            let Some(seen) = self.seen.get_mut(index as usize) else { break };
            if !seen.is(packet) {
                next = seen.before;
                continue;
            }
            if seen.flows.contains(&packet.flow) || seen.flows.len() >= FLOWS_MAX {
                return None;
            }
            let earlier = seen.flows.clone();
            seen.flows.push(packet.flow);
            return Some(earlier);
        }
        self.latest.insert(packet.fingerprint, self.expired + self.seen.len() as u64);
        self.seen.push_back(Seen {
            at: packet.at,
            fingerprint: packet.fingerprint,
            ip_id: packet.ip_id,
            flows: SmallVec::from_buf([packet.flow]),
            before,
        });
        Some(Flows::new())
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some(seen) = self.seen.front() {
            if now.since(seen.at) < SAME_ID_NS && self.seen.len() <= SIGHTINGS_MAX {
                break;
            }
            if let Entry::Occupied(latest) = self.latest.entry(seen.fingerprint)
                && *latest.get() == self.expired
            {
                latest.remove();
            }
            self.seen.pop_front();
            self.expired += 1;
        }
        while let Some((at, exchange)) = self.parts_order.front().copied() {
            if now.since(at) < PARTS_NS && self.parts_order.len() <= PARTS_MAX {
                break;
            }
            self.parts_order.pop_front();
            self.parts.remove(&exchange);
        }
    }
}

impl Seen {
    /// The same datagram: the same IP id, or none and hardly any time between.
    fn is(&self, packet: &Sighting) -> bool {
        let apart = packet.at.0.abs_diff(self.at.0);
        match (self.ip_id, packet.ip_id) {
            (a, b) if a != b => false,
            (Some(1..), _) => apart < SAME_ID_NS,
            _ => {
                let Flow { from, to } = packet.flow;
                apart < NO_ID_NS && self.flows.iter().any(|f| f.from == from || f.to == to)
            }
        }
    }
}
