//! The servers that clients ask: how fast each answers, and when its slowness is worth a finding.
//! Writes no text.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::correlate::{Lookup, Transaction};
use crate::record::{HostId, Timestamp};
use crate::report::{self, TransactionOutcome};

use super::draft::{Draft, Facts, Key};
use super::quantiles::Quantiles;
use super::slow::{self, Spread};

const SERVERS_MAX: usize = 256;
/// Waits kept one by one for one server: they gather until the end.
const SPANS_MAX: usize = 4_096;
/// Slow answers gather that long before they are told; what comes later is told at the end.
const GATHER_NS: u64 = 10_000_000_000;
/// A single answer that is this many times too slow is worth a finding.
const GROSS: u64 = 10;

/// A server's address, and where it means something.
type Address = (HostId, SocketAddr);

#[derive(Debug, Default)]
struct Server {
    latencies: Quantiles,
    /// Of answers since the last finding.
    recent: Quantiles,
    slow: u64,
    unanswered: u64,
    /// Not told yet, and since when.
    draft: Option<(Timestamp, Box<Draft>)>,
    told: bool,
}

/// All servers.
#[derive(Debug)]
pub(crate) struct Servers {
    threshold_ns: u64,
    known: BTreeMap<Address, Server>,
    next_due: Timestamp,
    /// Transactions with servers that there was no room for.
    pub(crate) evicted: u64,
}

impl Servers {
    pub(crate) fn new(threshold_ns: u64) -> Self {
        Self { threshold_ns, known: BTreeMap::new(), next_due: Timestamp(u64::MAX), evicted: 0 }
    }

    pub(crate) fn threshold_ns(&self) -> u64 {
        self.threshold_ns
    }

    /// A lookup closed.
    pub(crate) fn lookup(&mut self, lookup: &Lookup) {
        for t in lookup.transactions() {
            let ns = slow::latency(t);
            let unanswered = t.outcome() == TransactionOutcome::Timeout && t.late.is_none();
            if ns.is_none() && !unanswered {
                continue;
            }
            let address = address(t);
            if self.known.len() >= SERVERS_MAX && !self.known.contains_key(&address) {
                self.evicted += 1;
                continue;
            }
            let server = self.known.entry(address).or_default();
            server.unanswered += u64::from(unanswered);
            if let Some(ns) = ns {
                server.latencies.add(ns);
                server.recent.add(ns);
                server.slow += u64::from(ns >= self.threshold_ns);
            }
        }
    }

    /// Slow answers of a lookup that closed at `now`.
    pub(crate) fn slow(&mut self, draft: Draft, now: Timestamp) {
        let Facts::Slow(facts) = &draft.facts else { return };
        let Some(server) = self.known.get_mut(&(draft.key.host, facts.server)) else { return };
        match &mut server.draft {
            Some((_, known)) => {
                known.merge(draft);
                known.cost.fold(SPANS_MAX);
            }
            None => server.draft = Some((now, Box::new(draft))),
        }
        if !server.told {
            self.next_due = self.next_due.min(now.plus(GATHER_NS));
        }
    }

    /// Findings that are due at `now`, each server's once before the end.
    pub(crate) fn due(&mut self, now: Timestamp, end: bool) -> Vec<(Key, Draft, Timestamp)> {
        if self.next_due > now && !end {
            return Vec::new();
        }
        let mut due = Vec::new();
        self.next_due = Timestamp(u64::MAX);
        for server in self.known.values_mut() {
            let Some((since, _)) = server.draft else { continue };
            if !end && (server.told || since.plus(GATHER_NS) > now) {
                let at = if server.told { Timestamp(u64::MAX) } else { since.plus(GATHER_NS) };
                self.next_due = self.next_due.min(at);
            } else if let Some(draft) = server.take(self.threshold_ns) {
                server.told = true;
                due.push((draft.key.clone(), draft, since));
            } else if !end {
                self.next_due = self.next_due.min(now.plus(GATHER_NS));
            }
        }
        due
    }

    /// For the summary, the busiest first.
    pub(crate) fn report(&self) -> Vec<report::Server> {
        let mut all: Vec<report::Server> = self
            .known
            .iter()
            .map(|((_, server), of)| report::Server {
                server: *server,
                answers: of.latencies.count(),
                slow: of.slow,
                unanswered: of.unanswered,
                p50_ns: of.latencies.at(500),
                p95_ns: of.latencies.at(950),
                p99_ns: of.latencies.at(990),
                max_ns: of.latencies.max(),
            })
            .collect();
        all.sort_by_key(|s| (std::cmp::Reverse(s.answers), s.server));
        all
    }
}

impl Server {
    /// Of what was not told yet.
    fn spread(&self) -> Spread {
        let at = |permille| self.recent.at(permille).unwrap_or(0);
        Spread {
            answers: self.recent.count(),
            p50: at(500),
            p95: at(950),
            p99: at(990),
            max: self.recent.max().unwrap_or(0),
        }
    }

    /// The finding, if it is one: more than one answer in twenty is slow, or one is grossly so. A
    /// name that is not in the cache now and then is ordinary.
    fn take(&mut self, threshold_ns: u64) -> Option<Draft> {
        let spread = self.spread();
        let (_, draft) = self.draft.as_ref()?;
        let Facts::Slow(facts) = &draft.facts else { return None };
        let often = facts.slow >= 2 && spread.p95 >= threshold_ns;
        let gross = facts.slowest() >= threshold_ns.saturating_mul(GROSS);
        if !often && !gross {
            return None;
        }
        let (_, mut draft) = self.draft.take()?;
        self.recent = Quantiles::default();
        if let Facts::Slow(facts) = &mut draft.facts {
            facts.spread = spread;
            draft.key.class = facts.class().map(str::to_owned);
        }
        Some(*draft)
    }
}

fn address(t: &Transaction) -> Address {
    (t.actor.host.of(t.server.ip()), t.server)
}
