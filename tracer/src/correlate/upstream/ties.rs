//! What the resolver's side says about one client's transaction: its arrival, its answer, and what was asked
//! upstream for it meanwhile, tied by question and time (forwarders rewrite ids).

use std::net::SocketAddr;
use std::sync::Arc;

use crate::event::Actor;
use crate::identify::Entity;
use crate::record::{HostId, Timestamp};

use super::super::clocks::{self, HOSTS_SKEW_NS};
use super::super::ids::Ids;
use super::super::transaction::{Asked, Sent, Transaction};
use super::{EARLIER_MAX, Forwarded, Resolvers, SKEW_NS, STALE_NS, Sighting, TRANSLATED_NS};

/// Most tries reported with one transaction.
pub(super) const TRIES_MAX: usize = 64;

/// What is known about a transaction beyond its own packets.
#[derive(Clone, Debug, Default)]
pub struct Tie {
    /// The resolver's side, where it is traced and received the query.
    pub received: Option<Box<Received>>,
    /// Other questions that the same server answered around that time.
    pub others: Vec<OtherAnswer>,
}

/// The same server answered somebody traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherAnswer {
    /// Name, lower case.
    pub name: Arc<str>,
    /// When and as which event.
    pub sent: Sent,
}

/// A query as its resolver saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The resolver.
    pub resolver: Actor,
    /// Each arrival.
    pub arrivals: Vec<Sent>,
    /// Its answer to the client, with RCODE.
    pub answered: Option<(Sent, u16)>,
    /// What it asked upstream for this question while the client waited, in time order.
    pub tries: Vec<UpstreamTry>,
}

/// One datagram to an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTry {
    /// Upstream.
    pub server: SocketAddr,
    /// When and as which event.
    pub sent: Sent,
    /// End of the wait for it: the answer, the next try, the resolver giving up, or the end of the
    /// client's wait.
    pub until: Timestamp,
    /// Event and RCODE of the answer.
    pub answered: Option<(u64, u16)>,
    /// What the upstream did, where it is a traced resolver and received the query.
    pub beyond: Option<Box<Received>>,
    /// Nothing was seen sent: the resolver most likely waited for a connection to the upstream. Then
    /// `sent` is when the client's question had arrived and was nowhere else.
    pub connecting: bool,
    /// What was asked, where it is another question: one that came before it over the same connection, which
    /// the resolver most likely answers first.
    pub instead: Option<Asked>,
}

impl UpstreamTry {
    /// Time without an answer, in nanoseconds.
    pub fn silence_ns(&self) -> u64 {
        self.until.since(self.sent.at)
    }
}

impl Resolvers {
    /// Since when the resolver that received `transaction` listens no more.
    pub(crate) fn dead_since(&self, transaction: &Transaction) -> Option<Timestamp> {
        if self.dead.is_empty() {
            return None;
        }
        let until = transaction.ended()?;
        self.dead.get(&self.sighting_of(transaction, until)?.1.site).copied()
    }

    /// What the resolver's side says about a client's transaction that waited until `until`, by the
    /// client's clock: where the two are on different hosts, the question's way is taken to be
    /// instant, so the difference of its times is that of the clocks.
    ///
    /// Where both sides tell of one question and one answer, nothing further can come of it: that is
    /// the fate of nearly all, and what is remembered is small without them.
    pub(crate) fn tie(&mut self, transaction: &Transaction, until: Timestamp) -> Option<Received> {
        let (number, sighting) = self.sighting_of(transaction, until)?;
        let over = sighting.is_over(transaction) && !self.shares_stream(sighting);
        let ahead = match sighting.resolver.host == transaction.actor.host {
            true => 0,
            false => clocks::ahead(&transaction.sends, &sighting.arrivals),
        };
        let mut received = self.received_until(sighting, clocks::shifted(until, ahead), 0)?;
        clocks::shift(&mut received, ahead.saturating_neg());
        if over {
            self.drop_entry(number);
        }
        Some(received)
    }

    /// `hops`: resolvers before this one.
    pub(super) fn received_until(
        &self,
        sighting: &Sighting,
        until: Timestamp,
        hops: usize,
    ) -> Option<Received> {
        let begin = sighting.arrivals.first()?.at;
        let end = sighting.answered.map_or(until, |(sent, _)| sent.at.min(until));
        let key = (sighting.site.clone(), sighting.asked.clone());
        let mut tries = Vec::new();
        for id in self.asked_around(&key, begin) {
            if let Some(forwarded) = self.forwarded.get(id) {
                let over = forwarded.sends.first().is_some_and(|first| first.at > end);
                if over || tries.len() > 2 * TRIES_MAX {
                    break; // they are in order of their first sends
                }
                let known = tries.len();
                forwarded.tries(begin, end, &mut tries);
                for new in tries.iter_mut().skip(known) {
                    new.beyond = self.beyond(forwarded, new, hops).map(Box::new);
                }
            }
        }
        tries.sort_by_key(|t| (t.sent.at, t.sent.number));
        self.behind(sighting, end, &mut tries);
        if hops == 0 {
            self.fill(sighting, end, &mut tries);
        }
        tries.truncate(TRIES_MAX);
        Some(Received {
            resolver: sighting.resolver.clone(),
            arrivals: sighting.arrivals.clone(),
            answered: sighting.answered,
            tries,
        })
    }

    /// What was asked for a question, from those on that can have been open at `begin`.
    pub(super) fn asked_around(&self, key: &(Entity, Asked), begin: Timestamp) -> &[u64] {
        let ids = self.by_question.get(key).map(Ids::as_slice).unwrap_or_default();
        let first = |id: &u64| self.forwarded.get(id).and_then(|f| f.sends.first()).map(|s| s.at);
        let before = ids.partition_point(|id| first(id).is_some_and(|at| at <= begin));
        ids.get(before.saturating_sub(EARLIER_MAX)..).unwrap_or_default()
    }

    fn sighting_of(&self, transaction: &Transaction, until: Timestamp) -> Option<(u64, &Sighting)> {
        if self.sightings.is_empty() {
            return None;
        }
        let key = (transaction.asked.clone(), transaction.id);
        let host = transaction.actor.host;
        let skew = |s: &Sighting| if s.resolver.host == host { SKEW_NS } else { HOSTS_SKEW_NS };
        let all = || {
            let ids = self.by_id.get(&key).into_iter().flatten();
            ids.filter_map(|i| Some((*i, self.sightings.get(i)?)))
        };
        let near = |(_, s): &(u64, &Sighting)| {
            let skew = skew(s);
            s.arrivals.first().is_some_and(|a| {
                a.at.plus(skew) >= transaction.started() && a.at <= until.plus(skew)
            })
        };
        // Its port, or seen from another host its address, may have been translated on its way: to one that
        // nobody else can have asked from.
        let translated = |(_, s): &(u64, &Sighting)| {
            let skew = skew(s);
            let elsewhere = s.resolver.host != host;
            (elsewhere || s.client.ip() == transaction.client.ip())
                && s.arrivals.first().is_some_and(|a| {
                    let sends = &transaction.sends;
                    sends
                        .iter()
                        .any(|t| a.at.plus(skew) >= t.at && a.at.since(t.at) < TRANSLATED_NS)
                })
        };
        let own = all().filter(|(_, s)| s.is_from(transaction.client, host)).find(near);
        own.or_else(|| {
            let mut others = all().filter(translated);
            others.next().filter(|_| others.next().is_none())
        })
    }
}

impl Sighting {
    /// One arrival, one answer, of the very query that its client sent once and had answered.
    fn is_over(&self, transaction: &Transaction) -> bool {
        self.arrivals.len() == 1
            && self.answered.is_some()
            && self.client == transaction.client
            && transaction.sends.len() == 1
            && transaction.reply.is_some()
    }

    /// `client`, as `host` knows it, asked.
    fn is_from(&self, client: SocketAddr, host: HostId) -> bool {
        let own = self.resolver.host;
        self.client == client && own.of(client.ip()) == host.of(client.ip())
    }
}

impl Forwarded {
    /// Its sends whose wait touches `begin..=end`.
    pub(super) fn tries(&self, begin: Timestamp, end: Timestamp, tries: &mut Vec<UpstreamTry>) {
        for (i, sent) in self.sends.iter().enumerate() {
            let next = self.sends.get(i + 1).map(|s| s.at);
            let reply = self.reply.filter(|(r, _)| next.is_none_or(|n| r.at < n));
            let over = [next, reply.map(|(r, _)| r.at), self.ended.filter(|at| *at >= sent.at)];
            let over = over.into_iter().flatten().min();
            let stale = reply.is_none() && begin.since(sent.at) > STALE_NS;
            if sent.at > end || over.is_some_and(|at| at < begin) || stale {
                continue;
            }
            let answered = reply.filter(|(r, _)| r.at <= end.plus(SKEW_NS));
            tries.push(UpstreamTry {
                server: self.server,
                sent: *sent,
                until: match answered {
                    Some((r, _)) => r.at.max(sent.at),
                    None => over.map_or(end, |at| at.min(end)).max(sent.at),
                },
                answered: answered.map(|(r, rcode)| (r.number, rcode)),
                beyond: None,
                connecting: false,
                instead: None,
            });
        }
    }
}
