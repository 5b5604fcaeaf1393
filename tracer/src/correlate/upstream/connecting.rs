//! A resolver that asks its upstream over TCP says nothing of a question before the connection stands. Its
//! wait for one is told by what it had asked there over TCP, in vain, just before or meanwhile.

use std::collections::VecDeque;
use std::net::SocketAddr;

use foldhash::HashMap;

use crate::identify::Entity;
use crate::record::Timestamp;

use super::{
    EARLIER_MAX, Forwarded, LISTENERS_MAX, Resolvers, SILENCE_NS, STALE_NS, Sighting, UpstreamTry,
};

/// What resolvers asked over TCP, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Streams(HashMap<Entity, VecDeque<u64>>);

impl Streams {
    /// The resolver at `site` asked over TCP.
    pub(super) fn asked(&mut self, site: &Entity, number: u64) {
        if self.0.len() >= LISTENERS_MAX && !self.0.contains_key(site) {
            // Numbers rise: the one that asked longest ago.
            let stalest = self.0.iter().min_by_key(|(_, asked)| asked.back());
            if let Some(stalest) = stalest.map(|(site, _)| site.clone()) {
                self.0.remove(&stalest);
            }
        }
        let asked = self.0.entry(site.clone()).or_default();
        if asked.len() >= EARLIER_MAX {
            asked.pop_front();
        }
        asked.push_back(number);
    }
}

impl Resolvers {
    /// Adds to `tries`, which are in order of time, the waits until `end` in which the question was with
    /// the resolver and nowhere else, as far as they are an upstream's.
    pub(super) fn fill(&self, sighting: &Sighting, end: Timestamp, tries: &mut Vec<UpstreamTry>) {
        let Some(asked) = self.streams.0.get(&sighting.site) else { return };
        let Some(first) = sighting.arrivals.first() else { return };
        // What an upstream answered is the resolver's to pass on.
        if tries.iter().any(|t| t.answered.is_some()) {
            return;
        }
        let mut gaps = Vec::new();
        let mut from = first.at;
        for t in tries.iter() {
            gaps.push((from, t.sent.at));
            from = from.max(t.until);
        }
        gaps.push((from, end));
        for (from, to) in gaps {
            if to.since(from) < SILENCE_NS {
                continue;
            }
            let Some(server) = self.unreached(asked, from, to) else { continue };
            let shown = sighting.arrivals.iter().rev().find(|a| a.at <= from).unwrap_or(first);
            tries.push(UpstreamTry {
                server,
                sent: super::Sent { at: from, number: shown.number },
                until: to,
                answered: None,
                beyond: None,
                connecting: true,
                instead: None,
            });
        }
        tries.sort_by_key(|t| (t.sent.at, t.sent.number));
    }

    /// The upstream that a resolver last `asked` over TCP until `to`, if all it asked there since a while
    /// before `from` stayed unanswered.
    fn unreached(
        &self,
        asked: &VecDeque<u64>,
        from: Timestamp,
        to: Timestamp,
    ) -> Option<SocketAddr> {
        let sent = |f: &Forwarded| f.sends.first().map_or(Timestamp(0), |s| s.at);
        let near = |f: &&Forwarded| sent(f) <= to && from.since(sent(f)) < STALE_NS;
        let asked = || asked.iter().rev().filter_map(|id| self.forwarded.get(id)).filter(near);
        let server = asked().find(|f| f.reply.is_none())?.server;
        let answered = |f: &Forwarded| {
            f.server == server
                && f.reply.is_some_and(|(reply, _)| reply.at >= from && reply.at <= to)
        };
        (!asked().any(answered)).then_some(server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::HostId;

    #[test]
    fn of_too_many_resolvers_the_one_that_asked_longest_ago_is_forgotten() {
        let mut streams = Streams::default();
        let site = |n: u64| Entity::Cgroup(HostId(0), n);
        for n in 0..LISTENERS_MAX as u64 {
            streams.asked(&site(n), n);
        }
        streams.asked(&site(0), 100_000);
        streams.asked(&site(1_000_000), 100_001);
        assert_eq!(streams.0.len(), LISTENERS_MAX);
        let known = |n| streams.0.contains_key(&site(n));
        assert_eq!((known(0), known(1), known(2), known(1_000_000)), (true, false, true, true));
    }
}
