//! Which lookup a query belongs to. Rules only; the state is in `clients`.
//!
//! A query joins a lookup of the same process that asks the same servers in the same way. The C
//! libraries, which ask without EDNS, work in the calling thread: only that thread joins, as does a
//! socket already in use or the same datagram from a new one. Others (Go, c-ares) may ask from any
//! thread of the process.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::identify::Entity;
use crate::record::{HostId, Timestamp};
use crate::report::Outcome;

use super::ids::Ids;
use super::lookup::attempt_outcome;
use super::patience::Settings;
use super::search_list::Walk;
use super::slab::Slab;
use super::transaction::{Asked, Reply, SocketKey, Transaction};
use super::truncated::Connects;

/// No resolver library asks again with another id sooner: resolv.conf counts whole seconds. (c-ares
/// does ask again after 250 ms of a server that is quick as a rule, but with the same id.)
pub(crate) const PATIENCE_NS: u64 = 900_000_000;
/// After that long without a query for the other type there will be none (A only).
const PAIR_NS: u64 = 100_000_000;
/// The calls around the last answer are told a little later than the answer itself.
const CALLS_NS: u64 = 1_000_000;
/// After a name that does not exist, the next candidate comes within this time, or never.
const NEXT_NS: u64 = 1_000_000_000;
/// musl's next send after an error response can be late by this.
const RESEND_NS: u64 = 500_000_000;
/// Queries sent within this time to several servers went out together.
const TOGETHER_NS: u64 = 100_000_000;

/// Who a lookup belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    Process(HostId, u32),
    Entity(Entity),
    Address(HostId, IpAddr),
}

impl Owner {
    /// The process that it is, as far as it is known to be one.
    pub(crate) fn process(&self) -> Option<(HostId, u32)> {
        match self {
            Self::Process(host, pid) => Some((*host, *pid)),
            Self::Entity(_) | Self::Address(..) => None,
        }
    }
}

/// A lookup under way.
#[derive(Debug)]
pub(crate) struct OpenLookup {
    pub(crate) host: HostId,
    pub(crate) owner: Owner,
    /// Its key among those of its owner that begin like it.
    pub(crate) label: u64,
    pub(crate) tid: Option<u32>,
    pub(crate) walk: Walk,
    pub(crate) attempts: Vec<OpenAttempt>,
    /// What its resolver configuration orders.
    pub(crate) settings: Settings,
    /// It asks a server that is none of those.
    pub(crate) elsewhere: bool,
    /// Closes then; `None` while something is unanswered.
    pub(crate) deadline: Option<Timestamp>,
    /// Nothing more can come: its process ended.
    pub(crate) over: bool,
    /// One of its answers was truncated.
    pub(crate) truncated: bool,
    /// Its client's connects to DNS servers.
    pub(crate) connects: Connects,
}

/// A candidate under way.
#[derive(Debug)]
pub(crate) struct OpenAttempt {
    /// Lower case.
    pub(crate) name: Arc<str>,
    pub(crate) transactions: Ids,
}

/// A transaction of an open lookup.
#[derive(Debug)]
pub(crate) struct OpenTransaction {
    pub(crate) transaction: Transaction,
    pub(crate) lookup: u64,
    pub(crate) deadline: Timestamp,
    /// When its socket went.
    pub(crate) closed: Option<Timestamp>,
    /// Where its answer came from.
    pub(crate) replied_by: SocketAddr,
    /// What its program asked for is known, not only the address on the packet.
    pub(crate) intent_known: bool,
}

/// The transactions of all open lookups.
pub(crate) type Table = Slab<OpenTransaction>;

/// A query that looks for its lookup.
#[derive(Debug)]
pub(crate) struct NewQuery<'a> {
    pub(crate) asked: &'a Asked,
    pub(crate) socket: &'a SocketKey,
    pub(crate) id: u16,
    /// Address the program asked for.
    pub(crate) server: IpAddr,
    pub(crate) tid: Option<u32>,
    pub(crate) edns: bool,
    pub(crate) tcp: bool,
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

impl OpenTransaction {
    /// Its sender takes an answer from there: from the server that it asked, or from elsewhere where
    /// an address that was translated on the way in could not be told from a wrong one.
    pub(crate) fn takes(&self, from: SocketAddr) -> bool {
        self.transaction.is_from(from) || !self.intent_known
    }
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
        self.transactions.iter().filter_map(|id| table.get(id)).all(|o| o.closed.is_some())
    }

    /// When the last of its sockets went, if all of them did.
    pub(crate) fn closed_at(&self, table: &Table) -> Option<Timestamp> {
        let all = self.transactions.iter().filter_map(|id| table.get(id)).map(|o| o.closed);
        all.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    fn pair_on_one_socket(&self, table: &Table) -> bool {
        let first = |qtype| self.all(table).find(|t| t.asked.qtype == qtype);
        matches!((first("A"), first("AAAA")), (Some(a), Some(b)) if a.socket == b.socket)
    }

    /// As glibc, musl and c-ares do it, which never ask again with another id.
    fn keeps_ids(&self, table: &Table) -> bool {
        self.pair_on_one_socket(table) || self.all(table).any(|t| t.retransmits > 0)
    }

    /// Addresses of one type, NXDOMAIN for the other, asked as musl and glibc do.
    fn half_missing(&self, table: &Table) -> bool {
        let missing = |t: &Transaction| t.reply.as_ref().is_some_and(|r| r.rcode == 3);
        self.all(table).any(missing) && self.all(table).all(|t| !t.edns)
    }

    /// An answer is waited for. Of queries that went to several servers together one good answer is
    /// enough.
    fn waits(&self, table: &Table) -> bool {
        let mut open = self.all(table).filter(|t| t.is_open()).peekable();
        if open.peek().is_none() {
            return false;
        }
        let good = |t: &&Transaction| t.reply.as_ref().is_some_and(|r| !r.is_error());
        let good: SmallVec<[&Transaction; 4]> = self.all(table).filter(good).collect();
        open.any(|open| {
            !good.iter().any(|t| {
                t.id == open.id
                    && t.socket == open.socket
                    && open.last_send().since(t.last_send()) < TOGETHER_NS
            })
        })
    }

    /// Both address types were asked, or a type that has no partner.
    fn complete(&self, table: &Table) -> bool {
        let asked = |qtype| self.all(table).any(|t| t.asked.qtype == qtype);
        asked("A") == asked("AAAA")
    }
}

impl OpenLookup {
    /// Whether and how `query` belongs here.
    pub(crate) fn place(&self, query: &NewQuery<'_>, table: &Table) -> Option<Place> {
        if self.over || self.is_elsewhere(query.server) != self.elsewhere {
            return None;
        }
        let other_thread = matches!((self.tid, query.tid), (Some(a), Some(b)) if a != b);
        if other_thread && self.thread_bound(table) && !self.tied(query, table) {
            return None;
        }
        let last = self.attempts.last()?;
        if last.name == query.asked.name {
            return self.same_name(last, query, table).then_some(Place::Same);
        }
        let alike = last.all(table).any(|t| t.edns == query.edns);
        if !alike || !self.walk.fits(&query.asked.name) {
            return None;
        }
        if last.outcome(table) == Outcome::Answered && !self.doubted(last, query, table) {
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

    /// `server` is none of its resolver configuration's.
    pub(crate) fn is_elsewhere(&self, server: IpAddr) -> bool {
        let servers = &self.settings.servers;
        !servers.is_empty() && !servers.contains(&server.to_canonical())
    }

    /// The query comes from one of its sockets, or is one of its datagrams from another.
    pub(crate) fn tied(&self, query: &NewQuery<'_>, table: &Table) -> bool {
        self.attempts.iter().flat_map(|a| a.all(table)).any(|t| {
            let again = t.id == query.id && t.asked == *query.asked;
            t.socket == *query.socket || again && t.reply.as_ref().is_none_or(Reply::is_error)
        })
    }

    /// Its transactions.
    pub(crate) fn size(&self) -> usize {
        self.attempts.iter().map(|attempt| attempt.transactions.len()).sum()
    }

    /// The thread it belongs to, as an index has it.
    pub(crate) fn thread(&self) -> Option<(Owner, u32)> {
        Some((self.owner.clone(), self.tid?))
    }

    fn same_thread(&self, query: &NewQuery<'_>) -> bool {
        self.tid.is_some() && self.tid == query.tid
    }

    /// Its library works in the calling thread.
    pub(crate) fn thread_bound(&self, table: &Table) -> bool {
        let all = || self.attempts.iter().flat_map(|a| a.all(table));
        if all().any(|t| !t.edns) {
            return true;
        }
        self.settings.has("edns0") && self.attempts.iter().any(|a| a.pair_on_one_socket(table))
    }

    /// musl takes a name that has addresses of one type and does not exist for the other as one that
    /// does not exist, and goes on at once.
    fn doubted(&self, last: &OpenAttempt, query: &NewQuery<'_>, table: &Table) -> bool {
        let ended = last.all(table).filter_map(Transaction::ended).max().unwrap_or_default();
        let later_thread = self.tid.is_some() && !self.same_thread(query);
        last.half_missing(table) && !later_thread && query.at.since(ended) < PAIR_NS
    }

    fn same_name(&self, last: &OpenAttempt, query: &NewQuery<'_>, table: &Table) -> bool {
        if query.tcp && last.all(table).any(|t| t.cut_at().is_some()) {
            return true;
        }
        let mut of_type = last.all(table).rev().filter(|t| t.asked.qtype == query.asked.qtype);
        let Some(previous) = of_type.next() else {
            return last.all(table).any(|t| t.edns == query.edns);
        };
        let tries = 1 + of_type.count();
        let waited = query.at.since(previous.last_send());
        // The same datagram from another socket or to another server: glibc, musl, c-ares, dig.
        let same = previous.id == query.id;
        let silent = |t: &Transaction| t.asked.qtype != query.asked.qtype && t.reply.is_none();
        match &previous.reply {
            Some(reply) if reply.truncated => true,
            // glibc asks for both types again when only one of them stayed silent.
            Some(reply) if !reply.is_error() => {
                same && waited >= PATIENCE_NS && last.all(table).any(silent)
            }
            _ if same => true,
            // A new id: Go, as often as it may; whatever is more is somebody's new lookup.
            _ if last.keeps_ids(table) || !self.may_try(tries) => false,
            None if previous.is_open() => {
                let moved_on = previous.socket != *query.socket && self.same_thread(query);
                waited >= PATIENCE_NS || (moved_on && !query.edns)
            }
            _ => true,
        }
    }

    /// After so many tries of one question there can be one more.
    fn may_try(&self, tries: usize) -> bool {
        let servers = self.settings.servers.len();
        servers == 0 || tries < (self.settings.tries as usize).saturating_mul(servers).max(2)
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
        // As a rule it is the last one that waits.
        if self.attempts.iter().rev().any(|a| a.waits(table)) {
            return None;
        }
        let ended = all().filter_map(Transaction::ended).max().unwrap_or_default();
        let last = self.attempts.last()?;
        let complete = last.complete(table) || self.settings.has("no-aaaa");
        let pair = match (complete, last.closed(table)) {
            (true, true) => 0,
            (true, false) => CALLS_NS,
            (false, _) => PAIR_NS,
        };
        if let Some(until) = self.connects.expected(last.all(table)) {
            return Some(until.max(ended));
        }
        let errors = last.all(table).any(|t| t.reply.as_ref().is_some_and(|r| r.is_error()));
        let wait = match last.outcome(table) {
            _ if errors => self.after_error(last, table),
            Outcome::Answered if last.half_missing(table) && self.walk.can_go_on() => PAIR_NS,
            // Go and glibc ask once more for the type that stayed silent.
            Outcome::Answered if last.all(table).any(|t| t.reply.is_none()) => PAIR_NS,
            Outcome::Answered => pair,
            _ if self.walk.can_go_on() => NEXT_NS,
            Outcome::Timeout | Outcome::Unreachable => PAIR_NS,
            _ => pair,
        };
        Some(ended.plus(wait))
    }

    /// Time in which another try or candidate follows an error response.
    fn after_error(&self, last: &OpenAttempt, table: &Table) -> u64 {
        let interval = self.settings.musl_interval_ns().unwrap_or(self.settings.timeout_ns);
        let musl = interval + RESEND_NS;
        match last.closed(table) {
            // musl would have kept its socket, the others go on at once.
            true if !self.walk.can_go_on() => PAIR_NS,
            false if last.all(table).any(|t| !t.edns) => musl.max(NEXT_NS),
            _ => NEXT_NS,
        }
    }

    /// When the sender of an unanswered query gave up, if nothing showed it before `passed`, the
    /// longest that it could wait: musl waits one time-out for all sends, Go one for each.
    pub(crate) fn gave_up(&self, t: &Transaction, table: &Table, passed: Timestamp) -> Timestamp {
        let timeout = self.settings.timeout_ns;
        if t.edns {
            let attempt = self.attempts.iter().find(|a| a.name == t.asked.name);
            let pair = |a: &OpenAttempt| a.complete(table) && !a.pair_on_one_socket(table);
            let go = !self.settings.has("edns0") && attempt.is_some_and(pair);
            return if go { t.last_send().plus(timeout) } else { passed };
        }
        let interval = self.settings.musl_interval_ns().filter(|ns| *ns != timeout);
        let musl = interval.is_some_and(|ns| super::library::resent_after(t, ns));
        if musl { t.started().plus(timeout) } else { passed }
    }
}
