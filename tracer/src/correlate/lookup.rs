//! A finished lookup: its attempts, winner and times, and what of it goes into the contract.
//! Grouping happens in `clients`.

use std::net::SocketAddr;

use smallvec::{SmallVec, smallvec};

use crate::event::Actor;
use crate::identify::Identifier;
use crate::record::Timestamp;
use crate::report::{self, Outcome, Ts};

use super::patience::Patience;
use super::search_list::{SearchList, Walk};
use super::transaction::{GaveUp, Reply, Transaction};

/// One candidate name tried.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Name, as sent.
    pub name: String,
    /// Suffix it got; `None` for the name as typed.
    pub suffix: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// First send.
    pub started: Timestamp,
    /// Last response, or the moment the client gave up.
    pub ended: Timestamp,
    /// Its transactions, in order.
    pub transactions: Vec<Transaction>,
}

/// Everything one process did to resolve one name as typed.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// Number in this run, from 1, in the order lookups ended.
    pub id: u64,
    /// Who asked.
    pub actor: Actor,
    /// Name as typed, lower case, as far as it can be told.
    pub name: String,
    /// Server of the first query.
    pub server: SocketAddr,
    /// Search list, as far as known.
    pub search: Option<SearchList>,
    /// In order.
    pub attempts: Vec<Attempt>,
    /// What came of it.
    pub outcome: Outcome,
    /// Index of the attempt that answered.
    pub winner: Option<usize>,
    /// First send.
    pub started: Timestamp,
    /// Last response, or the moment the client gave up.
    pub ended: Timestamp,
    /// Library, when behaviour tells.
    pub library: Option<&'static str>,
    /// When that library gives up; `None` where it is not known.
    pub patience: Option<Patience>,
}

/// What several results together say: an answer wins, then what is open, then the worst.
pub(crate) fn combine(verdicts: impl IntoIterator<Item = Outcome>) -> Outcome {
    fn rank(outcome: Outcome) -> u8 {
        match outcome {
            Outcome::Answered => 0,
            Outcome::Undecided => 1,
            Outcome::Timeout => 2,
            Outcome::Unreachable => 3,
            Outcome::Servfail => 4,
            Outcome::Refused => 5,
            Outcome::Error => 6,
            Outcome::Nxdomain => 7,
            Outcome::Nodata => 8,
        }
    }
    verdicts.into_iter().min_by_key(|v| rank(*v)).unwrap_or(Outcome::Undecided)
}

/// What came of each type of an attempt: the last try counts, or an earlier one that answered. Of
/// queries that went to several servers together the one that was answered well counts.
fn by_type<'a>(transactions: impl Iterator<Item = &'a Transaction>) -> SmallVec<[Outcome; 2]> {
    let mut all: SmallVec<[(usize, &Transaction); 4]> = transactions.enumerate().collect();
    // Nearly always: one query, or one for each type of address.
    match all.as_slice() {
        [(_, only)] => return smallvec![only.verdict()],
        [(_, first), (_, second)] if first.asked.qtype != second.asked.qtype => {
            return smallvec![first.verdict(), second.verdict()];
        }
        _ => {}
    }
    all.sort_by(|(_, a), (_, b)| a.asked.qtype.cmp(&b.asked.qtype));
    let mut types: SmallVec<[(usize, Outcome); 2]> = all
        .chunk_by(|(_, a), (_, b)| a.asked.qtype == b.asked.qtype)
        .filter_map(|of_type| Some((of_type.first()?.0, of_one_type(of_type)?)))
        .collect();
    types.sort_unstable_by_key(|(first, _)| *first);
    types.into_iter().map(|(_, outcome)| outcome).collect()
}

/// `of_type`: in order.
fn of_one_type(of_type: &[(usize, &Transaction)]) -> Option<Outcome> {
    if of_type.iter().any(|(_, t)| t.verdict() == Outcome::Answered) {
        return Some(Outcome::Answered);
    }
    let (_, last) = of_type.last()?;
    let good = of_type.iter().find(|(_, t)| {
        let good = t.reply.as_ref().is_some_and(|r| !r.is_error());
        good && t.id == last.id && t.socket == last.socket
    });
    Some(good.map_or(*last, |(_, good)| *good).verdict())
}

/// The outcome of an attempt: one type that answered is enough.
pub(crate) fn attempt_outcome<'a>(transactions: impl Iterator<Item = &'a Transaction>) -> Outcome {
    combine(by_type(transactions))
}

/// The same as musl sees it: it fails unless both types came back well, and a name that does not
/// exist for one type does not exist.
pub(crate) fn strict(attempt: &mut Attempt) {
    let found = attempt.outcome == Outcome::Answered;
    let fine = |o: &Outcome| matches!(o, Outcome::Answered | Outcome::Nodata);
    let worse = by_type(attempt.transactions.iter()).into_iter().filter(|o| !fine(o));
    if found && let Some(worst) = worse.min_by_key(|o| *o == Outcome::Nxdomain) {
        attempt.outcome = worst;
    }
}

/// musl takes SERVFAIL, REFUSED and the like for no answer: it waits on, until `at`.
pub(crate) fn waited_out(attempt: &mut Attempt, at: Timestamp) {
    if attempt.failed_with_error() {
        attempt.ended = attempt.ended.max(at);
    }
}

/// The outcome of a lookup from its attempts'. Only names that do not exist: no data, if one exists.
pub(crate) fn lookup_outcome(attempts: &[Attempt]) -> Outcome {
    let worst = combine(attempts.iter().map(|a| a.outcome));
    if worst == Outcome::Nxdomain && attempts.iter().any(|a| a.outcome == Outcome::Nodata) {
        return Outcome::Nodata;
    }
    worst
}

/// One early close may be a cancelled request; only a send cut short, or giving up early again and
/// again, tells of an error that the calls did not show. So does one at a resolver that was `dead` by
/// then.
pub(crate) fn doubt_early_closes(tried: &mut [Vec<Transaction>], dead: Option<Timestamp>) {
    let early = |t: &Transaction| matches!(t.gave_up, Some((_, GaveUp::TooSoon(_))));
    let again = tried.len() > 1 || tried.iter().flatten().any(|t| t.try_number > 1);
    if again && tried.iter().flatten().all(early) {
        return;
    }
    for t in tried.iter_mut().flatten() {
        let started = t.started();
        if let Some((_, why)) = &mut t.gave_up
            && *why == GaveUp::TooSoon(None)
            && dead.is_none_or(|since| started < since)
        {
            *why = GaveUp::Closed;
        }
    }
}

/// An attempt from its transactions; `None` without any.
pub(crate) fn finished(transactions: Vec<Transaction>, walk: &Walk) -> Option<Attempt> {
    let first = transactions.first()?;
    let sequel = |t: &Transaction| t.sequel.as_ref().and_then(|sequel| sequel.at);
    let last = |t: &Transaction| t.ended().max(sequel(t)).unwrap_or(t.last_send());
    Some(Attempt {
        name: first.name.clone(),
        suffix: walk.suffix(&first.asked.name),
        outcome: attempt_outcome(transactions.iter()),
        started: transactions.iter().map(Transaction::started).min()?,
        ended: transactions.iter().map(last).max()?,
        transactions,
    })
}

impl Lookup {
    /// First query to end, in nanoseconds.
    pub fn duration_ns(&self) -> u64 {
        self.ended.since(self.started)
    }

    /// Wall time before the winning attempt; `None` without a winner.
    pub fn wasted_ns(&self) -> Option<u64> {
        let winner = self.attempts.get(self.winner?)?;
        Some(winner.started.since(self.started))
    }

    /// Datagrams sent for other attempts than the winning one; `None` without a winner.
    pub fn wasted_queries(&self) -> Option<u64> {
        let winner = self.winner?;
        let others = self.attempts.iter().enumerate().filter(|(i, _)| *i != winner);
        Some(others.map(|(_, a)| a.datagrams()).sum())
    }

    /// All transactions.
    pub fn transactions(&self) -> impl Iterator<Item = &Transaction> {
        self.attempts.iter().flat_map(|a| &a.transactions)
    }

    /// In the words of the contract, with the identity known now.
    pub fn report(self, who: &Identifier) -> report::Lookup {
        let winner = self.winner.and_then(|i| self.attempts.get(i));
        let mut answers: Vec<String> = Vec::new();
        for data in winner.iter().flat_map(|a| &a.transactions).flat_map(Transaction::data) {
            if !answers.iter().any(|a| a == data) {
                answers.push(data.to_owned());
            }
        }
        let external_name = self.external_name(who);
        let started = self.started;
        report::Lookup {
            schema: 1,
            id: self.id,
            ts: Ts(started),
            identity: who.identity(&self.actor),
            server: self.server,
            ndots: self.search.as_ref().and_then(|s| s.ndots),
            search_source: self.search.as_ref().map(|s| s.source),
            outcome: self.outcome,
            answers,
            duration_ns: self.duration_ns(),
            wasted_ns: self.wasted_ns(),
            wasted_queries: self.wasted_queries(),
            resolver_library: self.library.map(str::to_owned),
            external_name,
            attempts: self.attempts.into_iter().map(|a| a.report(started)).collect(),
            name: self.name,
            search: self.search.map(|s| s.suffixes),
        }
    }

    fn external_name(&self, who: &Identifier) -> Option<String> {
        if !who.has_aliases() {
            return None; // as a rule
        }
        let domain = who.cluster_domain(&self.actor)?;
        self.attempts.iter().find_map(|attempt| who.external_name(&attempt.name, &domain))
    }
}

impl Attempt {
    /// It came to neither an answer nor an absence, but to an error response.
    pub(crate) fn failed_with_error(&self) -> bool {
        let error = |t: &Transaction| t.reply.as_ref().is_some_and(Reply::is_error);
        matches!(self.outcome, Outcome::Servfail | Outcome::Refused | Outcome::Error)
            && self.transactions.iter().any(error)
    }

    /// Queries that went out, retransmissions included.
    pub fn datagrams(&self) -> u64 {
        self.transactions.iter().map(|t| 1 + u64::from(t.retransmits)).sum()
    }

    fn report(self, lookup_started: Timestamp) -> report::Attempt {
        report::Attempt {
            name: self.name,
            suffix: self.suffix,
            outcome: self.outcome,
            start_ns: self.started.since(lookup_started),
            duration_ns: self.ended.since(self.started),
            transactions: self.transactions.into_iter().map(Transaction::in_attempt).collect(),
        }
    }
}
