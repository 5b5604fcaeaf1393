//! Responses beyond their own transaction: those told before their query, and what each server
//! answered lately (a server that answers others is alive), and queries that were told as timed out
//! and may still be answered. Bounded; forgets by record time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use crate::record::{HostId, Timestamp};

use super::transaction::{Asked, Reply, Sent, SocketKey, Transaction};
use super::upstream::OtherAnswer;

/// A response may be told this much before its query (two processors).
const ORPHAN_NS: u64 = 100_000_000;
const ORPHANS_MAX: usize = 1_024;
/// Answers remembered per server, and servers.
const ANSWERS_MAX: usize = 512;
const SERVERS_MAX: usize = 256;
/// Of those, told with one silent query.
const AROUND_MAX: usize = 64;
/// Answers this much before a silent query still show that the server lived.
const BEFORE_NS: u64 = 1_000_000_000;

/// Queries remembered after they were told as timed out, and how long.
const GONE_MAX: usize = 8_192;
const GONE_NS: u64 = 120_000_000_000;

/// Why a response belongs to no query that waits for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stray {
    /// Nothing with this id was asked on this socket.
    UnknownId,
    /// Something else was asked with this id on this socket.
    WrongQuestion,
    /// It came from elsewhere than the server that was asked.
    WrongServer,
    /// The lookup was told as timed out before, or the socket was closed.
    Late,
    /// It came in and reached no socket.
    NoSocket,
    /// Most likely its query went out before the trace.
    AskedBefore,
}

/// Responses that belong to no query, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unmatched {
    /// Nothing with this id was asked on the socket.
    pub unknown_id: u64,
    /// Something else was asked with this id on the socket.
    pub wrong_question: u64,
    /// It came from elsewhere than the server that was asked.
    pub wrong_server: u64,
    /// The lookup was told as timed out before, or the socket was closed.
    pub late: u64,
    /// It came in, while the socket was open, and never reached it.
    pub no_socket: u64,
    /// A resolver answered something that it was not seen being asked.
    pub query_not_seen: u64,
    /// It came soon after the trace began over a socket that is older.
    pub asked_before: u64,
}

impl Unmatched {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.by_reason().iter().map(|(_, n)| n).sum()
    }

    /// By the contract's names, in its order.
    pub fn by_reason(&self) -> [(&'static str, u64); 7] {
        [
            ("unknown-id", self.unknown_id),
            ("wrong-question", self.wrong_question),
            ("wrong-server", self.wrong_server),
            ("late", self.late),
            ("no-socket", self.no_socket),
            ("query-not-seen", self.query_not_seen),
            ("asked-before", self.asked_before),
        ]
    }

    pub(crate) fn count(&mut self, why: Stray) {
        *match why {
            Stray::UnknownId => &mut self.unknown_id,
            Stray::WrongQuestion => &mut self.wrong_question,
            Stray::WrongServer => &mut self.wrong_server,
            Stray::Late => &mut self.late,
            Stray::NoSocket => &mut self.no_socket,
            Stray::AskedBefore => &mut self.asked_before,
        } += 1;
    }
}

/// Queries whose lookups were told as timed out while their sockets stayed open.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    known: HashMap<(SocketKey, u16), (Timestamp, Asked)>,
    order: VecDeque<(Timestamp, (SocketKey, u16))>,
}

impl Gone {
    pub(crate) fn keep(&mut self, t: &Transaction) {
        let key = (t.socket.clone(), t.id);
        let now = t.last_send();
        self.order.push_back((now, key.clone()));
        self.known.insert(key, (now, t.asked.clone()));
        while let Some((at, _)) = self.order.front()
            && (self.order.len() > GONE_MAX || now.since(*at) >= GONE_NS)
            && let Some((at, key)) = self.order.pop_front()
        {
            // Another query may have the key by now.
            if self.known.get(&key).is_some_and(|(latest, _)| *latest == at) {
                self.known.remove(&key);
            }
        }
    }

    /// The response answers one of them, which is forgotten then.
    pub(crate) fn answered(&mut self, key: &(SocketKey, u16), asked: Option<&Asked>) -> bool {
        let known = self.known.get(key);
        let fits = known.is_some_and(|(_, known)| asked.is_none_or(|asked| asked == known));
        if fits {
            self.known.remove(key);
        }
        fits
    }
}

/// A response without a query.
#[derive(Debug)]
pub(crate) struct Orphan {
    pub(crate) why: Stray,
    pub(crate) key: (SocketKey, u16),
    pub(crate) asked: Option<Asked>,
    pub(crate) from: SocketAddr,
    pub(crate) reply: Reply,
}

/// Responses that wait for their query.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    waiting: VecDeque<Orphan>,
    /// Those whose query never came.
    pub(crate) unmatched: Unmatched,
}

impl Orphans {
    pub(crate) fn keep(&mut self, orphan: Orphan) {
        self.waiting.push_back(orphan);
        if self.waiting.len() > ORPHANS_MAX
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.unmatched.count(oldest.why);
        }
    }

    /// The response to a query that is told only now.
    pub(crate) fn adopt(
        &mut self,
        key: &(SocketKey, u16),
        transaction: &Transaction,
    ) -> Option<Reply> {
        let found = self.waiting.iter().position(|o| {
            o.key == *key
                && o.asked.as_ref().is_none_or(|a| *a == transaction.asked)
                && (o.from == transaction.wire || o.from == transaction.server)
                && transaction.started().since(o.reply.at) < ORPHAN_NS
        });
        Some(self.waiting.remove(found?)?.reply)
    }

    pub(crate) fn expire(&mut self, now: Timestamp) {
        while let Some(first) = self.waiting.front()
            && now.since(first.reply.at) >= ORPHAN_NS
        {
            let why = first.why;
            self.waiting.pop_front();
            self.unmatched.count(why);
        }
    }
}

/// Labels at the end of both names that are the same.
fn shared_labels(a: &str, b: &str) -> usize {
    a.rsplit('.').zip(b.rsplit('.')).take_while(|(a, b)| a == b).count()
}

/// The server, and where its address means something.
fn server(t: &Transaction) -> (HostId, SocketAddr) {
    (t.actor.host.of(t.server.ip()), t.server)
}

/// What each server answered lately.
#[derive(Debug, Default)]
pub(crate) struct Answers(BTreeMap<(HostId, SocketAddr), VecDeque<OtherAnswer>>);

impl Answers {
    pub(crate) fn learn(&mut self, t: &Transaction, sent: Sent) {
        let server = server(t);
        if self.0.len() >= SERVERS_MAX && !self.0.contains_key(&server) {
            let stalest = self.0.iter().min_by_key(|(_, log)| log.back().map(|o| o.sent.at));
            if let Some(stalest) = stalest.map(|(server, _)| *server) {
                self.0.remove(&stalest);
            }
        }
        let log = self.0.entry(server).or_default();
        if log.len() >= ANSWERS_MAX {
            log.pop_front();
        }
        log.push_back(OtherAnswer { name: Arc::clone(&t.asked.name), sent });
    }

    /// Other names that the same server answered, from just before the query on. Of many each once,
    /// and those that share the most labels with its own name, for they say the most.
    pub(crate) fn around(&self, t: &Transaction) -> Vec<OtherAnswer> {
        let from = Timestamp(t.started().0.saturating_sub(BEFORE_NS));
        let log = self.0.get(&server(t)).into_iter().flatten();
        let others = log.filter(|o| o.sent.at >= from && o.name != t.asked.name);
        let mut others: Vec<(usize, &OtherAnswer)> = others.map(|o| (0, o)).collect();
        if others.len() > AROUND_MAX {
            let mut seen: HashSet<&str> = HashSet::default();
            others.retain(|(_, other)| seen.insert(&other.name));
            for (labels, other) in &mut others {
                *labels = shared_labels(&other.name, &t.asked.name);
            }
            others.sort_by_key(|(labels, _)| std::cmp::Reverse(*labels));
            others.truncate(AROUND_MAX);
            others.sort_by_key(|(_, other)| (other.sent.at, other.sent.number));
        }
        others.into_iter().map(|(_, other)| other.clone()).collect()
    }
}
