//! Totals of a run. Each instant of the lookups' wall time is charged to one cause only.

use std::collections::BTreeMap;

use crate::context::{self, LossStage};
use crate::correlate::{Connection, Lookup, Unmatched};
use crate::identify::Identifier;
use crate::record::Timestamp;
use crate::report::{Code, Identity, Leaks, Outcome, SearchWalk, Summary, Ts};

use super::interval::Intervals;
use super::leaks;
use super::load::Load;
use super::what_if::Profile;

/// Causes in the order in which they are charged.
const CAUSES: [&str; 5] =
    ["upstream-timeout", "resolver-timeout", "aaaa-race", "search-expansion", "other"];
/// Above this many intervals the oldest are summed up: those before 5 min ago, if that is not
/// enough those before 15 s, at last all. A lookup that is older loses its first part in the sums.
const SPANS_MAX: usize = 16_384;
const SETTLED_NS: [u64; 3] = [300_000_000_000, 15_000_000_000, 0];

/// What the other stages counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// First record.
    pub first: Option<Timestamp>,
    /// Last record.
    pub last: Timestamp,
    /// Records understood.
    pub events: u64,
    /// Records with a payload cut at the snap length.
    pub cut: u64,
    /// Records or messages that could not be decoded.
    pub undecoded: u64,
    /// Messages over TCP that their senders broke off.
    pub broken_off: u64,
    /// Records that came too late for their place in time.
    pub late: u64,
    /// Correlation state given up.
    pub evicted: u64,
    /// Responses that matched no question.
    pub unmatched: Unmatched,
}

/// Sums of a run.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    lookups: BTreeMap<&'static str, u64>,
    connections: BTreeMap<&'static str, u64>,
    lost: u64,
    cut: u64,
    undecoded: u64,
    walks: SearchWalk,
    /// Waits by cause, then all lookups' time; each may overlap the others.
    waits: [Intervals; 5],
    /// Time of walks, whatever their cause.
    walked: Intervals,
    charged: [u64; 5],
    walked_ns: u64,
    /// What lies before is summed up.
    settled: Timestamp,
    load: Load,
    leaks: Leaks,
}

impl Totals {
    /// A lookup closed; what it waited for, in the order of the first four of `CAUSES`.
    pub(crate) fn lookup(
        &mut self,
        lookup: &Lookup,
        complete: bool,
        by_cause: &[Intervals; 4],
        now: Timestamp,
    ) {
        *self.lookups.entry(outcome_name(lookup.outcome)).or_default() += 1;
        let from = self.settled;
        for (waits, new) in self.waits.iter_mut().zip(by_cause) {
            waits.extend_from(from, new);
        }
        let [.., walks, all] = &mut self.waits;
        all.add((lookup.started.max(from), lookup.ended));
        if let Some((winner, attempt)) =
            lookup.winner.and_then(|w| Some((w, lookup.attempts.get(w)?)))
            && winner > 0
        {
            let span = (lookup.started.max(from), attempt.started);
            walks.add(span);
            self.walked.add(span);
            self.walks.walks += 1;
            self.walks.complete_as_typed += u64::from(complete);
            self.walks.queries += lookup.wasted_queries().unwrap_or(0);
        }
        if self.spans() > SPANS_MAX {
            for age in SETTLED_NS {
                self.settle(Timestamp(now.0.saturating_sub(age)));
                if self.spans() <= SPANS_MAX / 2 {
                    break;
                }
            }
        }
    }

    /// A lookup that was not seen waited.
    pub(crate) fn waited(&mut self, code: Code, cost: &Intervals) {
        let from = self.settled;
        let [_, resolver, .., all] = &mut self.waits;
        if code == Code::ResolverTimeout {
            resolver.extend_from(from, cost);
        }
        all.extend_from(from, cost);
    }

    /// What the lookup cost, and what it leaked.
    pub(crate) fn costs(&mut self, lookup: &Lookup, domain: Option<&str>, who: &Identifier) {
        self.load.lookup(lookup, domain, who);
        leaks::count(lookup, domain, who, &mut self.leaks);
    }

    /// Nothing follows.
    pub(crate) fn finish(&mut self, who: &Identifier) {
        self.load.finish(who);
    }

    /// What the names that the workload of `identity` looked up so far need.
    pub(crate) fn profile(&self, identity: &Identity) -> Profile {
        self.load.profile(identity)
    }

    pub(crate) fn connection(&mut self, connection: &Connection) {
        use crate::report::ConnectionOutcome as C;
        let name = match connection.outcome {
            C::Established => "established",
            C::Refused => "refused",
            C::Timeout => "timeout",
            C::Reset => "reset",
            C::Unreachable => "unreachable",
            C::Undecided => "undecided",
        };
        *self.connections.entry(name).or_default() += 1;
    }

    pub(crate) fn loss(&mut self, loss: &context::Loss) {
        let sum = match loss.stage {
            LossStage::Kernel | LossStage::User => &mut self.lost,
            LossStage::Payload => &mut self.cut,
            LossStage::Decode => &mut self.undecoded,
        };
        // A capture may say any number.
        *sum = sum.saturating_add(loss.count);
    }

    fn spans(&self) -> usize {
        self.waits.iter().map(Intervals::len).sum()
    }

    /// Sums up what lies before an instant.
    fn settle(&mut self, before: Timestamp) {
        self.settled = self.settled.max(before);
        let taken = self.waits.each_mut().map(|w| w.take_before(before));
        for (sum, ns) in self.charged.iter_mut().zip(partition(&taken)) {
            *sum += ns;
        }
        self.walked_ns += self.walked.take_before(before).length_ns();
    }

    pub(crate) fn summary(
        &self,
        counts: &Counts,
        findings: impl Iterator<Item = (Code, u64)>,
    ) -> Summary {
        let mut by_code: BTreeMap<String, u64> = BTreeMap::new();
        for (code, n) in findings {
            *by_code.entry(code.name().to_owned()).or_default() += n;
        }
        let open = partition(&self.waits);
        let time = CAUSES.iter().zip(self.charged.iter().zip(open));
        let owned = |m: &BTreeMap<&'static str, u64>| {
            m.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
        };
        Summary {
            schema: 1,
            ts: Ts(counts.last),
            duration_ns: counts.first.map_or(0, |first| counts.last.since(first)),
            events: counts.events,
            lost: self.lost,
            // The source's own count of cut payloads covers records that carry the flag.
            cut: counts.cut.max(self.cut),
            undecoded: counts.undecoded.saturating_add(self.undecoded),
            broken_off: counts.broken_off,
            late: counts.late,
            evicted: counts.evicted,
            unmatched_responses: counts.unmatched.total(),
            unmatched: strays(&counts.unmatched),
            lookups: owned(&self.lookups),
            connections: owned(&self.connections),
            findings: by_code,
            time_ns: time.map(|(name, (a, b))| ((*name).to_owned(), a + b)).collect(),
            search_walk: SearchWalk {
                time_ns: self.walked_ns + self.walked.length_ns(),
                ..self.walks
            },
            dns: self.load.told(),
            leaks: self.leaks.clone(),
            servers: Vec::new(),
        }
    }
}

fn strays(unmatched: &Unmatched) -> BTreeMap<String, u64> {
    let all = unmatched.by_reason().into_iter().filter(|(_, n)| *n > 0);
    all.map(|(reason, n)| (reason.to_owned(), n)).collect()
}

/// Each instant once, for the first set that has it.
fn partition(sets: &[Intervals; 5]) -> [u64; 5] {
    let mut before = Intervals::default();
    sets.each_ref().map(|set| {
        let had = before.length_ns();
        before.extend(set);
        before.length_ns() - had
    })
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Answered => "answered",
        Outcome::Nxdomain => "nxdomain",
        Outcome::Nodata => "nodata",
        Outcome::Timeout => "timeout",
        Outcome::Servfail => "servfail",
        Outcome::Refused => "refused",
        Outcome::Unreachable => "unreachable",
        Outcome::Error => "error",
        Outcome::Undecided => "undecided",
    }
}
