//! One datagram, captured at several interfaces: counted once, and each translated copy (DNAT, SNAT)
//! put where it belongs. Knows addresses and fingerprints, no DNS.
//!
//! A packet is told as the end that asks saw it: what it sent is `out`, what came for it is `in`. A
//! copy on its way to another destination was translated: it shows the same datagram at the server
//! behind that address, so it is `in` there, and what that server answers to it is `out` of it. A
//! copy from another source is the same datagram on the far side of a gateway and adds nothing.

use std::collections::VecDeque;
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
/// How long an answer is expected, in seconds.
const PARTS_S: u32 = 120;
const SIGHTINGS_MAX: usize = 16_384;
/// At least so many exchanges are known, and at most twice as many.
const PARTS_MAX: usize = 32_768;
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

impl Part {
    /// The direction of what goes the way of the question.
    fn asks(self) -> Option<Direction> {
        match self {
            Self::Asker => Some(Direction::Out),
            Self::Server => Some(Direction::In),
            Self::Between => None,
        }
    }
}

struct Seen {
    at: Timestamp,
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

/// The latest of many by their hash: at least `most`, at most twice as many. The older half is dropped
/// as a whole, so that nothing has to be fetched from memory to be forgotten.
struct Latest<V> {
    most: usize,
    newer: HashMap<u64, V>,
    older: HashMap<u64, V>,
}

/// What was seen lately.
pub(super) struct Copies {
    /// In the order in which they came, numbered from `expired` on: what is written and dropped in a
    /// row stays in the processor's caches.
    seen: VecDeque<Seen>,
    expired: u64,
    /// Number of the latest, by fingerprint.
    latest: Latest<u64>,
    /// With the second in which it began.
    parts: Latest<(Part, u32)>,
    hasher: RandomState,
}

impl<V: Copy> Latest<V> {
    fn new(most: usize) -> Self {
        Self { most, newer: HashMap::default(), older: HashMap::default() }
    }

    fn get(&self, key: u64) -> Option<V> {
        self.newer.get(&key).or_else(|| self.older.get(&key)).copied()
    }

    fn insert(&mut self, key: u64, value: V) {
        if self.newer.len() >= self.most {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.newer.clear();
        }
        self.newer.insert(key, value);
    }
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            seen: VecDeque::new(),
            expired: 0,
            latest: Latest::new(SIGHTINGS_MAX),
            parts: Latest::new(PARTS_MAX),
            hasher: RandomState::default(),
        }
    }
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
                let part = self.part(asked, packet.at).unwrap_or_else(|| {
                    let part = match earlier.as_slice() {
                        [] => Part::Asker,
                        flows if flows.iter().any(|flow| flow.to == to) => Part::Between,
                        _ => Part::Server,
                    };
                    self.parts.insert(asked, (part, second(packet.at)));
                    part
                });
                part.asks()
            }
            Act::Either if let Some(part) = self.part(asked, packet.at) => part.asks(),
            Act::Answer | Act::Either => match self.part(self.answered(packet), packet.at) {
                Some(Part::Server) => Some(Direction::Out),
                Some(Part::Between) => None,
                Some(Part::Asker) => Some(Direction::In),
                None if packet.act == Act::Answer => Some(Direction::In),
                None => Some(Direction::Out),
            },
        }
    }

    /// The part of the addresses in an exchange that began not too long before `now`.
    fn part(&self, exchange: Exchange, now: Timestamp) -> Option<Part> {
        let (part, began) = self.parts.get(exchange)?;
        (second(now).saturating_sub(began) < PARTS_S).then_some(part)
    }

    /// The exchange that a packet in the opposite direction began.
    fn answered(&self, packet: &Sighting) -> Exchange {
        let Flow { from, to } = packet.flow;
        self.hasher.hash_one((Flow { from: to, to: from }, packet.exchange))
    }

    /// Flows of earlier copies of the same datagram; `None` if it went through this very flow.
    fn note(&mut self, packet: &Sighting) -> Option<Flows> {
        let before = self.latest.get(packet.fingerprint);
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
            self.seen.pop_front();
            self.expired += 1;
        }
    }
}

fn second(at: Timestamp) -> u32 {
    u32::try_from(at.0 / 1_000_000_000).unwrap_or(u32::MAX)
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
