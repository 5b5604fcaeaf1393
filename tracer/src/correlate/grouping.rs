//! Which lookup a query belongs to. Rules only; the state is in `clients`.
//!
//! A query joins a lookup of the same process. Libraries that ask for A and AAAA from one socket, or
//! without EDNS, work in the calling thread: only the same thread joins. Others (Go) may ask from any
//! thread of the process.

use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::HashMap;
use smallvec::SmallVec;

use crate::identify::Entity;
use crate::record::{HostId, Timestamp};
use crate::report::Outcome;

use super::lookup::attempt_outcome;
use super::search_list::Walk;
use super::transaction::{Asked, Reply, SocketKey, Transaction};

/// No resolver library gives up sooner: resolv.conf counts whole seconds.
pub(crate) const PATIENCE_NS: u64 = 900_000_000;
/// After that long without a query for the other type there will be none (A only).
const PAIR_NS: u64 = 100_000_000;
/// The calls around the last answer are told a little later than the answer itself.
const CALLS_NS: u64 = 1_000_000;
/// After a name that does not exist, the next candidate comes within this time, or never.
const NEXT_NS: u64 = 1_000_000_000;
/// After an error response musl asks again at half its time-out, 2.5 s.
const RESEND_NS: u64 = 3_000_000_000;

/// Who a lookup belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    Process(HostId, u32),
    Entity(Entity),
    Address(HostId, std::net::IpAddr),
}

/// A lookup under way.
#[derive(Debug)]
pub(crate) struct OpenLookup {
    pub(crate) host: HostId,
    pub(crate) owner: Owner,
    pub(crate) tid: Option<u32>,
    pub(crate) walk: Walk,
    pub(crate) attempts: Vec<OpenAttempt>,
    /// `timeout` of its resolver configuration, in nanoseconds.
    pub(crate) timeout_ns: u64,
    /// `attempts` of it.
    pub(crate) tries: u32,
    /// Closes then; `None` while something is unanswered.
    pub(crate) deadline: Option<Timestamp>,
    /// Nothing more can come: its process ended.
    pub(crate) over: bool,
}

/// A candidate under way.
#[derive(Debug)]
pub(crate) struct OpenAttempt {
    /// Lower case.
    pub(crate) name: Arc<str>,
    pub(crate) transactions: Vec<u64>,
}

/// A transaction of an open lookup.
#[derive(Debug)]
pub(crate) struct OpenTransaction {
    pub(crate) transaction: Transaction,
    pub(crate) lookup: u64,
    pub(crate) deadline: Timestamp,
    /// Its socket is gone.
    pub(crate) closed: bool,
}

/// The transactions of all open lookups; boxed, for they are large and come and go.
pub(crate) type Table = HashMap<u64, Box<OpenTransaction>>;

/// A query that looks for its lookup.
#[derive(Debug)]
pub(crate) struct NewQuery<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) socket: &'a SocketKey,
    pub(crate) wire: SocketAddr,
    pub(crate) tid: Option<u32>,
    pub(crate) edns: bool,
    pub(crate) at: Timestamp,
}

/// How a query joins a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Another type, or another try, of the current candidate.
    Same,
    /// The next candidate.
    Next,
}

impl OpenAttempt {
    pub(crate) fn all<'a>(
        &'a self,
        table: &'a Table,
    ) -> impl DoubleEndedIterator<Item = &'a Transaction> + Clone {
        self.transactions.iter().filter_map(|id| table.get(id)).map(|o| &o.transaction)
    }

    fn outcome(&self, table: &Table) -> Outcome {
        attempt_outcome(self.all(table))
    }

    /// All its sockets are gone.
    fn closed(&self, table: &Table) -> bool {
        self.transactions.iter().filter_map(|id| table.get(id)).all(|o| o.closed)
    }
}

/// Both address types were asked, or a type that has no partner.
fn complete(transactions: &[&Transaction]) -> bool {
    let asked = |qtype| transactions.iter().any(|t| t.asked.qtype == qtype);
    asked("A") == asked("AAAA")
}

impl OpenLookup {
    /// Whether and how `query` belongs here.
    pub(crate) fn place(&self, query: &NewQuery<'_>, table: &Table) -> Option<Place> {
        let other_thread = matches!((self.tid, query.tid), (Some(a), Some(b)) if a != b);
        if self.over || (other_thread && self.thread_bound(table)) {
            return None;
        }
        let last = self.attempts.last()?;
        if last.name == query.asked.name {
            return self.same_name(last, query, table).then_some(Place::Same);
        }
        if !self.walk.fits(&query.asked.name) || last.outcome(table) == Outcome::Answered {
            return None;
        }
        let waiting = last.all(table).filter(|t| t.is_open()).map(Transaction::last_send).max();
        let gave_up = match waiting {
            None => true,
            Some(since) => {
                query.at.since(since) >= PATIENCE_NS
                    || (self.same_thread(query) && self.thread_bound(table))
            }
        };
        gave_up.then_some(Place::Next)
    }

    /// The thread it belongs to, as an index has it.
    pub(crate) fn thread(&self) -> Option<(Owner, u32)> {
        Some((self.owner.clone(), self.tid?))
    }

    fn same_thread(&self, query: &NewQuery<'_>) -> bool {
        self.tid.is_some() && self.tid == query.tid
    }

    /// Its library works in the calling thread.
    fn thread_bound(&self, table: &Table) -> bool {
        let all = || self.attempts.iter().flat_map(|a| a.all(table));
        if all().any(|t| !t.edns) {
            return true;
        }
        self.attempts.iter().any(|a| {
            let first = |qtype| a.all(table).find(|t| t.asked.qtype == qtype);
            matches!((first("A"), first("AAAA")), (Some(a), Some(b)) if a.socket == b.socket)
        })
    }

    fn same_name(&self, last: &OpenAttempt, query: &NewQuery<'_>, table: &Table) -> bool {
        let mut of_type = last.all(table).rev().filter(|t| t.asked.qtype == query.asked.qtype);
        let Some(previous) = of_type.next() else { return true };
        let tries = 1 + of_type.count();
        let waited = query.at.since(previous.last_send());
        if previous.is_open() {
            return previous.socket == *query.socket
                || previous.wire != query.wire
                || waited >= PATIENCE_NS
                || (self.same_thread(query) && !query.edns);
        }
        let Some(reply) = &previous.reply else { return true };
        if reply.truncated {
            return true;
        }
        let gap = query.at.since(reply.at);
        if reply.is_error() {
            // glibc and Go ask again at once, musl also at 2.5 s; later it is somebody's new lookup.
            let enough = tries >= self.tries.max(2) as usize;
            return !enough || gap < PAIR_NS || gap.abs_diff(2_500_000_000) < 200_000_000;
        }
        // Answered. glibc asks for both types again when only one of them stayed silent.
        let silent = last.all(table).any(|t| {
            t.asked.qtype != query.asked.qtype && t.reply.is_none() && t.edns == query.edns
        });
        silent && waited >= PATIENCE_NS
    }

    /// Its known search list has candidates that were not asked yet.
    pub(crate) fn unfinished(&self) -> bool {
        self.walk.list_known() && self.walk.can_go_on() && !self.over
    }

    /// When nothing further is expected of it, told from its last attempt; `None` while it waits.
    pub(crate) fn closes_at(&self, table: &Table) -> Option<Timestamp> {
        let all = || self.attempts.iter().flat_map(|a| a.all(table));
        if self.over {
            return Some(Timestamp(0));
        }
        if all().any(Transaction::is_open) {
            return None;
        }
        let ended = all().filter_map(Transaction::ended).max().unwrap_or_default();
        let last = self.attempts.last()?;
        let transactions: SmallVec<[&Transaction; 4]> = last.all(table).collect();
        let pair = match (complete(&transactions), last.closed(table)) {
            (true, true) => 0,
            (true, false) => CALLS_NS,
            (false, _) => PAIR_NS,
        };
        let errors = transactions.iter().any(|t| t.reply.as_ref().is_some_and(Reply::is_error));
        let wait = match attempt_outcome(transactions.iter().copied()) {
            _ if errors => RESEND_NS,
            Outcome::Answered => pair,
            _ if self.walk.can_go_on() => NEXT_NS,
            Outcome::Timeout | Outcome::Unreachable => PAIR_NS,
            _ => pair,
        };
        Some(ended.plus(wait))
    }
}
