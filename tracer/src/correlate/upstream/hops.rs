//! Resolvers behind resolvers: a pod's node-local cache asks the cluster's DNS, which asks an
//! upstream. Ties what one asked to what the next received; blames nobody.

use std::cmp::Reverse;

use super::super::clocks;
use super::{
    Forwarded, HOSTS_SKEW_NS, Received, Resolvers, SKEW_NS, Sighting, TRANSLATED_NS, UpstreamTry,
};
use crate::event::Actor;
use crate::record::Timestamp;

/// Resolvers in a row.
const HOPS_MAX: usize = 4;

/// A query to somebody whose own upstreams, if any, explain nothing further.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// The query.
    pub query: &'a UpstreamTry,
    /// The resolvers it passed, that of the client first.
    pub path: Vec<&'a Actor>,
    /// The traced resolver that received it and asked nobody.
    pub received_by: Option<&'a Actor>,
}

impl Resolvers {
    /// What the server of `query` did, if it is a traced resolver and received it.
    pub(super) fn beyond(
        &self,
        forwarded: &Forwarded,
        query: &UpstreamTry,
        hops: usize,
    ) -> Option<Received> {
        if hops + 1 >= HOPS_MAX {
            return None;
        }
        let ids = self.by_id.get(&(forwarded.asked.clone(), forwarded.id))?;
        let arrived = |s: &&Sighting| {
            let same_host = s.resolver.host == forwarded.socket.host();
            let skew = if same_host { SKEW_NS } else { HOSTS_SKEW_NS };
            s.site != forwarded.site
                && s.is_sent_from(forwarded)
                && s.arrivals.iter().any(|a| {
                    let sent = query.sent.at;
                    a.at.plus(skew) >= sent && a.at.since(sent) < TRANSLATED_NS
                })
        };
        let sighting = ids.iter().filter_map(|id| self.sightings.get(id)).find(arrived)?;
        let ahead = match sighting.resolver.host == forwarded.socket.host() {
            true => 0,
            false => clocks::ahead(&[query.sent], &sighting.arrivals),
        };
        let until: Timestamp = clocks::shifted(query.until, ahead);
        let mut received = self.received_until(sighting, until, hops + 1)?;
        clocks::shift(&mut received, ahead.saturating_neg());
        Some(received)
    }
}

impl Sighting {
    /// It came from that socket; a translation of the source keeps the port as a rule.
    fn is_sent_from(&self, forwarded: &Forwarded) -> bool {
        self.client == forwarded.local || self.client.port() == forwarded.local.port()
    }
}

impl Received {
    /// The queries that explain its wait: its own, or in their place those of the resolver that
    /// received them. Each once, in time order.
    pub fn leaves(&self) -> Vec<Leaf<'_>> {
        let mut leaves = Vec::new();
        self.collect(&mut Vec::new(), &mut leaves);
        // One that a further resolver asked long ago, and still waits for, explains several: the longest wait.
        let until = |leaf: &Leaf<'_>| Reverse(leaf.query.until);
        leaves.sort_by_key(|leaf| (leaf.query.sent.at, leaf.query.sent.number, until(leaf)));
        leaves.dedup_by_key(|leaf| leaf.query.sent.number);
        leaves
    }

    /// Its own queries say why `query` to it took so long.
    fn explains(&self, query: &UpstreamTry) -> bool {
        let unanswered = self.tries.iter().any(|t| t.answered.is_none());
        unanswered || (query.answered.is_some() && !self.tries.is_empty())
    }

    fn collect<'a>(&'a self, path: &mut Vec<&'a Actor>, leaves: &mut Vec<Leaf<'a>>) {
        path.push(&self.resolver);
        for query in &self.tries {
            match query.beyond.as_deref() {
                Some(next) if next.explains(query) => next.collect(path, leaves),
                next => leaves.push(Leaf {
                    query,
                    path: path.clone(),
                    received_by: next.map(|next| &next.resolver),
                }),
            }
        }
        path.pop();
    }
}
