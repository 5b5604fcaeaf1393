//! Conclusions to findings: cause, cost, evidence, remedy. Reads no events of its own.
//!
//! A finding belongs to a block: the root cause first, then what it caused. A block is told 1 s of
//! record time after the last lookup it delayed closed (5 s after the first at the latest), so that
//! lookups delayed by the same cause share it; when the cause comes back later it is told again, with
//! new numbers. Severity: error when a lookup failed or waited 5 s or more, warning when it cost more
//! than the threshold, else info.

mod astray;
mod dns_error;
mod draft;
mod interval;
mod leaks;
mod load;
mod lost;
mod nxdomain;
mod origin;
mod patience;
mod quantiles;
mod race;
mod refused;
mod remedy;
mod resolver;
mod search;
mod servers;
mod slow;
mod summary;
mod truncated;
mod unasked;
mod unjudged;
mod upstream;
mod what_if;
mod words;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_costs;
#[cfg(test)]
mod tests_hops;
#[cfg(test)]
mod tests_older;
#[cfg(test)]
mod tests_race;
#[cfg(test)]
mod tests_slow;
#[cfg(test)]
mod tests_unasked;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::context;
use crate::correlate::{Attempt, Connection, Lookup, Transaction};
use crate::identify::Identifier;
use crate::record::Timestamp;
use crate::report::{Code, Finding, Severity, Summary, TransactionOutcome, Transport};

use draft::{Draft, Key, Known};
use interval::Intervals;
use servers::Servers;
use summary::Totals;

pub use summary::Counts;

/// Wait for others that the same cause delayed.
const GATHER_NS: u64 = 1_000_000_000;
const GATHER_MAX_NS: u64 = 5_000_000_000;
/// The same for losses, which tend to go on.
const LOSS_NS: u64 = 10_000_000_000;
/// A client that gives up sooner changed its mind.
const SILENCE_NS: u64 = 900_000_000;
/// The shortest try of several (c-ares: 250 ms); what ends sooner was cancelled.
const TRY_NS: u64 = 200_000_000;
/// Answers that take so long are slow, unless the user says otherwise.
const SLOW_NS: u64 = 100_000_000;
const CASES_MAX: usize = 256;
/// Findings of one root cause that wait to be told.
const DRAFTS_MAX: usize = 256;
const LOSSES_MAX: usize = 1_024;

/// Findings of one root cause.
#[derive(Debug)]
struct Case {
    /// Boxed, for they are large, and a map moves what it holds.
    drafts: BTreeMap<Key, Box<Draft>>,
    /// When the first and the last of its lookups closed.
    first: Timestamp,
    last: Timestamp,
    /// There are too many.
    due_now: bool,
    /// Which change was its last one.
    changed: u64,
    /// When it is due, as it is among all that are.
    told_from: Option<Timestamp>,
}

/// Makes findings and the summary.
#[derive(Debug)]
pub struct Diagnoser {
    threshold_ns: u64,
    /// By number.
    cases: BTreeMap<u64, Case>,
    /// Which of them has a finding.
    case_of: BTreeMap<Key, u64>,
    /// Changes to cases so far.
    changes: u64,
    /// When each is due, and its number.
    due: BTreeSet<(Timestamp, u64)>,
    told: u64,
    losses: VecDeque<context::Loss>,
    totals: Totals,
    servers: Servers,
    verdicts: BTreeMap<(Code, Severity), u64>,
    /// Until then a block can have findings about connections.
    unasked_until: Timestamp,
}

impl Diagnoser {
    /// A search walk that cost at least `threshold_ns` is a finding.
    pub fn new(threshold_ns: u64) -> Self {
        Self {
            threshold_ns,
            cases: BTreeMap::new(),
            case_of: BTreeMap::new(),
            changes: 0,
            due: BTreeSet::new(),
            told: 0,
            losses: VecDeque::new(),
            totals: Totals::default(),
            servers: Servers::new(SLOW_NS),
            verdicts: BTreeMap::new(),
            unasked_until: Timestamp(0),
        }
    }

    /// Answers that take at least `ns` are slow.
    #[must_use]
    pub fn slow_from(self, ns: u64) -> Self {
        Self { servers: Servers::new(ns), ..self }
    }

    /// A lookup closed at `now`.
    pub fn lookup(&mut self, lookup: &Lookup, now: Timestamp, who: &Identifier) {
        let domain = cluster_domain(lookup, who);
        let (slow, drafts): (Vec<_>, Vec<_>) = self
            .drafts(lookup, domain.as_deref(), who)
            .into_iter()
            .partition(|draft| draft.key.code == Code::SlowDns);
        self.servers.lookup(lookup);
        for draft in slow {
            self.servers.slow(draft, now);
        }
        let spans = |code| {
            let mut spans = Intervals::default();
            for draft in drafts.iter().filter(|d| d.key.code == code) {
                spans.extend(&draft.cost);
            }
            spans
        };
        let by_cause =
            [Code::UpstreamTimeout, Code::ResolverTimeout, Code::AaaaRace, Code::SearchExpansion]
                .map(spans);
        if now <= self.unasked_until {
            self.asked_elsewhere(lookup);
        }
        let complete = domain.as_deref().is_some_and(|d| search::complete(&lookup.name, d));
        self.totals.lookup(lookup, complete, &by_cause, now);
        self.totals.costs(lookup, domain.as_deref(), who);
        if !drafts.is_empty() {
            self.gather(drafts, now);
        }
    }

    /// A connection came to its outcome.
    pub fn connection(&mut self, connection: &Connection, now: Timestamp) {
        self.totals.connection(connection);
        if let Some(draft) = unasked::found(connection) {
            self.unasked_until = now.plus(GATHER_MAX_NS);
            self.totals.waited(draft.key.code, &draft.cost);
            self.gather(vec![draft], now);
        }
    }

    /// Who got no connection to one nameserver may have asked another, and got its answer.
    fn asked_elsewhere(&mut self, lookup: &Lookup) {
        let tcp = |t: &Transaction| t.transport == Transport::Tcp && t.reply.is_some();
        if lookup.transactions().any(tcp) {
            let drafts = self.cases.values_mut().flat_map(|case| case.drafts.values_mut());
            drafts.for_each(|draft| draft.asked_elsewhere(&lookup.actor));
        }
    }

    /// Records were lost.
    pub fn loss(&mut self, loss: &context::Loss, now: Timestamp) {
        self.totals.loss(loss);
        if !lost::loses_records(loss.stage) || loss.count == 0 {
            return;
        }
        self.losses.push_back(loss.clone());
        if self.losses.len() > LOSSES_MAX {
            self.losses.pop_front();
        }
        self.gather(vec![lost::found(loss)], now);
    }

    /// Time has come to `now`: blocks that gathered long enough are told.
    pub fn advance(&mut self, now: Timestamp, who: &Identifier, out: &mut Vec<Finding>) {
        self.tell_slow(now, false, who, out);
        if self.due.first().is_none_or(|(first, _)| *first > now) {
            return;
        }
        let due: Vec<u64> = self.due.range(..=(now, u64::MAX)).map(|(_, number)| *number).collect();
        let mut due: Vec<Case> = due.into_iter().filter_map(|number| self.take(number)).collect();
        due.sort_by_key(|case| (case.due(), case.changed));
        for case in due {
            self.tell(&case, who, out);
        }
    }

    /// Tells what there is no more room for, whatever the time.
    pub fn relieve(&mut self, who: &Identifier, out: &mut Vec<Finding>) {
        self.advance(Timestamp(0), who, out);
    }

    /// Nothing follows: everything is told.
    pub fn finish(&mut self, who: &Identifier, out: &mut Vec<Finding>) {
        let mut cases: Vec<Case> = std::mem::take(&mut self.cases).into_values().collect();
        self.case_of.clear();
        self.due.clear();
        cases.sort_by_key(|case| case.changed);
        for case in cases {
            self.tell(&case, who, out);
        }
        self.tell_slow(Timestamp(u64::MAX), true, who, out);
        self.totals.finish(who);
    }

    fn tell_slow(&mut self, now: Timestamp, end: bool, who: &Identifier, out: &mut Vec<Finding>) {
        for (key, draft, at) in self.servers.due(now, end) {
            let drafts = BTreeMap::from([(key, Box::new(draft))]);
            self.tell(&Case { drafts, due_now: true, ..Case::new(at) }, who, out);
        }
    }

    /// Codes and severities of the findings told, each pair once.
    pub fn verdicts(&self) -> Vec<(Code, Severity)> {
        self.verdicts.keys().copied().collect()
    }

    /// The summary, given what the other stages counted.
    pub fn summary(&self, counts: &Counts) -> Summary {
        let findings = self.verdicts.iter().map(|((code, _), n)| (*code, *n));
        let mut summary = self.totals.summary(counts, findings);
        summary.evicted += self.servers.evicted;
        summary.servers = self.servers.report();
        summary
    }

    /// Everything that is wrong with one lookup, with what caused what.
    fn drafts(&self, lookup: &Lookup, domain: Option<&str>, who: &Identifier) -> Vec<Draft> {
        let mut drafts = Vec::new();
        let mut roots = Vec::new();
        for attempt in &lookup.attempts {
            let mut of_attempt = BTreeSet::new();
            for transaction in &attempt.transactions {
                if self.is_well(transaction) {
                    continue;
                }
                let found = self.causes(lookup, attempt, transaction, domain, who);
                of_attempt.extend(found.iter().map(|d| d.key.clone()));
                if found.is_empty() {
                    drafts.extend(slow::found(lookup, transaction, self.servers.threshold_ns()));
                }
                drafts.extend(found);
            }
            roots.push(of_attempt);
        }
        for (attempt, causes) in lookup.attempts.iter().zip(&roots) {
            let resolver_only = !causes.is_empty()
                && causes.iter().all(|k| !matches!(k.code, Code::UpstreamTimeout | Code::DnsError));
            if !resolver_only
                && let Some(mut draft) = search::foreign(lookup, attempt, domain, self.threshold_ns)
            {
                draft.caused_by = explain(causes);
                drafts.push(draft);
            }
        }
        if let Some(mut draft) = search::expansion(lookup, domain, self.threshold_ns) {
            let walked = lookup.winner.unwrap_or(roots.len());
            draft.caused_by = explain(roots.iter().take(walked).flatten());
            drafts.push(draft);
        }
        drafts.extend(nxdomain::found(lookup));
        drafts
    }

    /// Nothing is to be said about it, as about nearly all: answered at its first try, well and soon.
    fn is_well(&self, t: &Transaction) -> bool {
        let well = t.reply.as_ref().is_some_and(|reply| !reply.is_error());
        let soon = self.threshold_ns.min(self.servers.threshold_ns());
        let once = t.sends.len() == 1 && t.earlier_errors.is_empty() && t.sequel.is_none();
        well && once && t.latency().is_some_and(|ns| ns < soon)
    }

    /// Why one transaction went wrong.
    fn causes(
        &self,
        lookup: &Lookup,
        attempt: &Attempt,
        transaction: &Transaction,
        domain: Option<&str>,
        who: &Identifier,
    ) -> Vec<Draft> {
        let mut found = Vec::new();
        if let Some(received) = &transaction.tie.received {
            for silence in upstream::silences(transaction, received, self.threshold_ns) {
                found.push(upstream::seen(lookup, transaction, received, &silence));
            }
        }
        let by_upstream: BTreeSet<Key> = found.iter().map(|d| d.key.clone()).collect();
        let silence = transaction.silence().filter(|(from, to)| {
            to.since(*from) >= TRY_NS && waited_ns(attempt, transaction) >= SILENCE_NS
        });
        if transaction.outcome() == TransactionOutcome::Unreachable {
            let healed = resolver::made_good(attempt, transaction, self.threshold_ns);
            found.extend(resolver::unreachable(lookup, transaction).filter(|_| !healed));
        } else if let Some(silence) = silence
            && found.is_empty()
        {
            let suffix = search::foreign_suffix(attempt, domain);
            let suffix = suffix.or(attempt.suffix.as_deref().filter(|_| domain.is_none()));
            let race = || race::found(lookup, attempt, transaction, silence);
            let inferred = || match &transaction.tie.received {
                None if transaction.reply.is_none() => {
                    upstream::inferred(lookup, transaction, suffix, domain)
                }
                _ => None,
            };
            let silent = || resolver::silent(lookup, transaction, silence, who);
            // Somebody answered: nothing else needs to be guessed.
            let told = if transaction.unheard.is_some() { silent() } else { None };
            found.extend(told.or_else(race).or_else(inferred).or_else(silent));
        }
        found.extend(truncated::found(lookup, transaction, self.threshold_ns));
        if let Some(mut draft) = dns_error::found(lookup, transaction) {
            draft.caused_by = by_upstream;
            found.push(draft);
        }
        found
    }

    fn gather(&mut self, drafts: Vec<Draft>, now: Timestamp) {
        // Blocks that share a finding are one.
        let known = drafts.iter().filter_map(|draft| self.case_of.get(&draft.key).copied());
        let mut known: BTreeSet<u64> = known.collect();
        self.changes += 1;
        let number = known.pop_first().unwrap_or(self.changes);
        let others: Vec<Case> = known.into_iter().filter_map(|other| self.take(other)).collect();
        let case = self.cases.entry(number).or_insert_with(|| Case::new(now));
        (case.first, case.last) = (case.first.min(now), case.last.max(now));
        case.changed = self.changes;
        for other in &others {
            (case.first, case.last) = (case.first.min(other.first), case.last.max(other.last));
            case.due_now |= other.due_now;
        }
        let taken = others.into_iter().flat_map(|other| other.drafts.into_values());
        for draft in taken.chain(drafts.into_iter().map(Box::new)) {
            if !case.drafts.contains_key(&draft.key) {
                self.case_of.insert(draft.key.clone(), number);
            }
            case.add(draft);
        }
        case.due_now |= case.drafts.len() > DRAFTS_MAX;
        self.schedule(number);
        if self.cases.len() > CASES_MAX
            && let waiting = self.cases.iter_mut().filter(|(_, case)| !case.due_now)
            && let Some((oldest, case)) = waiting.min_by_key(|(_, case)| case.first)
        {
            case.due_now = true;
            let oldest = *oldest;
            self.schedule(oldest);
        }
    }

    /// Notes when a block is due, as it is now.
    fn schedule(&mut self, number: u64) {
        let Some(case) = self.cases.get_mut(&number) else { return };
        let at = case.due();
        if let Some(before) = case.told_from.replace(at) {
            self.due.remove(&(before, number));
        }
        self.due.insert((at, number));
    }

    /// Takes a block out.
    fn take(&mut self, number: u64) -> Option<Case> {
        let case = self.cases.remove(&number)?;
        if let Some(at) = case.told_from {
            self.due.remove(&(at, number));
        }
        for key in case.drafts.keys() {
            self.case_of.remove(key);
        }
        Some(case)
    }

    fn tell(&mut self, case: &Case, who: &Identifier, out: &mut Vec<Finding>) {
        let mut drafts: Vec<&Draft> = case.drafts.values().map(AsRef::as_ref).collect();
        drafts.sort_by_key(|d| (rank(d.key.code), &d.key));
        let mut ids = BTreeMap::new();
        for draft in drafts {
            self.told += 1;
            let caveats = self.caveats(draft);
            let known = Known { who, totals: &self.totals };
            let finding =
                draft.finding(self.told, &ids, caveats, self.threshold_ns, case.last, &known);
            ids.insert(draft.key.clone(), self.told);
            *self.verdicts.entry((finding.code, finding.severity)).or_default() += 1;
            out.push(finding);
        }
    }

    fn caveats(&self, draft: &Draft) -> Vec<String> {
        if draft.key.code == Code::EventsLost {
            return Vec::new();
        }
        let mut caveats = Vec::new();
        if draft.victims.iter().any(|v| v.actor.is_address()) {
            caveats.push(
                "told from captured packets alone: which process asked, its resolv.conf and its system calls are not known"
                    .to_owned(),
            );
        }
        let Some((from, to)) = draft.window() else { return caveats };
        let touching = self.losses.iter().filter(|l| l.first <= to && l.last >= from);
        let lost = touching.fold(0_u64, |sum, loss| sum.saturating_add(loss.count));
        if lost > 0 {
            caveats.push(format!(
                "{lost} records were lost in this time; an answer could be among them"
            ));
        }
        caveats
    }
}

impl Case {
    fn new(now: Timestamp) -> Self {
        Self {
            drafts: BTreeMap::new(),
            first: now,
            last: now,
            due_now: false,
            changed: 0,
            told_from: None,
        }
    }

    fn add(&mut self, draft: Box<Draft>) {
        match self.drafts.get_mut(&draft.key) {
            Some(known) => known.merge(*draft),
            None => {
                self.drafts.insert(draft.key.clone(), draft);
            }
        }
    }

    fn due(&self) -> Timestamp {
        if self.due_now {
            return Timestamp(0);
        }
        let loss = self.drafts.keys().all(|k| k.code == Code::EventsLost);
        let (gather, most) = if loss { (LOSS_NS, LOSS_NS) } else { (GATHER_NS, GATHER_MAX_NS) };
        self.last.plus(gather).min(self.first.plus(most))
    }
}

/// Root causes first.
fn rank(code: Code) -> u8 {
    match code {
        Code::UpstreamTimeout => 0,
        Code::AaaaRace => 1,
        Code::ResolverTimeout => 2,
        Code::ResolverUnreachable => 3,
        Code::DnsError => 4,
        Code::DnsTruncated => 4,
        Code::ForeignSuffix => 5,
        Code::SearchExpansion => 6,
        Code::Nxdomain => 7,
        Code::EventsLost => 8,
        Code::SlowDns => 9,
    }
}

/// How long the question of `transaction` stayed unanswered in this attempt, over all tries that did: some
/// libraries begin anew after a quarter of a second.
fn waited_ns(attempt: &Attempt, transaction: &Transaction) -> u64 {
    let same = attempt.transactions.iter().filter(|t| t.asked == transaction.asked);
    let (from, to): (Vec<_>, Vec<_>) = same.filter_map(Transaction::silence).unzip();
    match (from.iter().min(), to.iter().max()) {
        (Some(from), Some(to)) => to.since(*from),
        _ => 0,
    }
}

/// The causes that explain a cost: silences, or error responses where there was none.
fn explain<'a>(causes: impl IntoIterator<Item = &'a Key>) -> BTreeSet<Key> {
    let all: BTreeSet<Key> = causes.into_iter().cloned().collect();
    let silent: BTreeSet<Key> = all.iter().filter(|k| k.code != Code::DnsError).cloned().collect();
    if silent.is_empty() { all } else { silent }
}

/// The cluster's domain, as the identifier knows it, or as kubelet's search list shows it.
fn cluster_domain(lookup: &Lookup, who: &Identifier) -> Option<String> {
    who.cluster_domain(&lookup.actor).or_else(|| {
        let search = &lookup.search.as_ref()?.suffixes;
        let domain = search.iter().find_map(|s| s.strip_prefix("svc."))?;
        search.iter().any(|s| s == domain).then(|| domain.to_owned())
    })
}
