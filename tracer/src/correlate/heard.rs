//! Responses beyond their own transaction: those told before their query, and what each server
//! answered lately (a server that answers others is alive). Bounded; forgets by record time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::record::{HostId, Timestamp};

use super::transaction::{Asked, Reply, Sent, SocketKey, Transaction};
use super::upstream::OtherAnswer;

/// A response may be told this much before its query (two processors).
const ORPHAN_NS: u64 = 100_000_000;
const ORPHANS_MAX: usize = 1_024;
/// Answers remembered per server, and servers.
const ANSWERS_MAX: usize = 512;
const SERVERS_MAX: usize = 256;
/// Answers this much before a silent query still show that the server lived.
const BEFORE_NS: u64 = 1_000_000_000;

/// A response without a query.
#[derive(Debug)]
pub(crate) struct Orphan {
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
    pub(crate) unmatched: u64,
}

impl Orphans {
    pub(crate) fn keep(&mut self, orphan: Orphan) {
        self.waiting.push_back(orphan);
        if self.waiting.len() > ORPHANS_MAX {
            self.waiting.pop_front();
            self.unmatched += 1;
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
            self.waiting.pop_front();
            self.unmatched += 1;
        }
    }
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

    /// Other names that the same server answered, from just before the query on.
    pub(crate) fn around(&self, t: &Transaction) -> Vec<OtherAnswer> {
        let from = Timestamp(t.started().0.saturating_sub(BEFORE_NS));
        let log = self.0.get(&server(t)).into_iter().flatten();
        log.filter(|o| o.sent.at >= from && o.name != t.asked.name).cloned().collect()
    }
}
