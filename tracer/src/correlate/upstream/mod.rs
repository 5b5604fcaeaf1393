//! The resolver's two sides: what it received from clients and what it asked its upstreams. Knows no
//! lookups and judges nobody. What of it belongs to a client's transaction is told in `ties`, what a further
//! traced resolver behind the first did in `hops`, what a pod's own proxy received in `inside`, waits for a
//! connection to an upstream in `connecting`, for a question before it on one connection in `behind`.

mod behind;
mod connecting;
mod hops;
mod inside;
mod ties;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use foldhash::HashMap;

use crate::context::Role;
use crate::event::{Actor, Dns, Protocol};
use crate::identify::{Entity, Identifier};
use crate::record::{HostId, Timestamp};

use super::by_socket::BySocket;
use super::clocks::HOSTS_SKEW_NS;
use super::ids::{Ids, forget};
use super::transaction::{Asked, EVENTS_MAX, Sent, SocketKey};
use super::wire::Question;

use connecting::Streams;
pub use hops::Leaf;
use inside::Inside;
pub use ties::{OtherAnswer, Received, Tie, UpstreamTry};

/// Sightings and forwarded queries are kept this long after they began.
const KEPT_NS: u64 = 120_000_000_000;
/// Most of both: what fits a hash table of 32,768 places.
const CAP: usize = 28_672;
/// Clocks of two processors, and the way from the client's hook to the resolver's.
const SKEW_NS: u64 = 1_000_000;
/// A silence that was seen for less is no time-out when its host's recording ends.
const SILENCE_NS: u64 = 900_000_000;
/// The same id and question at the resolver within this time of a send is the client's, even if its
/// address was translated on the way.
const TRANSLATED_NS: u64 = 100_000_000;
/// A resolver that asks twice within this time races its upstreams; later, it gave one up.
const RACE_NS: u64 = 20_000_000;
/// A query asked longer ago than this is not what a new client waits for: no resolver is so patient.
const STALE_NS: u64 = 15_000_000_000;
/// A resolver that dies within this time of asking leaves it open whether an answer would have come:
/// that long a usual one (CoreDNS) waits itself.
const PATIENT_NS: u64 = 2_000_000_000;
/// Sockets of one dying process close within this time.
const DYING_NS: u64 = 100_000_000;
/// Listening sockets of resolvers.
const LISTENERS_MAX: usize = 4_096;
/// Earlier queries for the same question that are looked at: a resolver without a cache has many, and
/// all but the latest have ended.
const EARLIER_MAX: usize = 256;

#[derive(Debug)]
struct Sighting {
    resolver: Actor,
    site: Entity,
    client: SocketAddr,
    /// It came over TCP.
    stream: bool,
    asked: Asked,
    id: u16,
    arrivals: Vec<Sent>,
    answered: Option<(Sent, u16)>,
}

#[derive(Debug)]
struct Forwarded {
    site: Entity,
    socket: SocketKey,
    /// Own end.
    local: SocketAddr,
    server: SocketAddr,
    /// Address on the packets.
    wire: SocketAddr,
    asked: Asked,
    id: u16,
    sends: Vec<Sent>,
    reply: Option<(Sent, u16)>,
    /// The resolver waits no more for it.
    ended: Option<Timestamp>,
}

/// What all traced resolvers received and asked.
#[derive(Debug, Default)]
pub(crate) struct Resolvers {
    next: u64,
    sightings: HashMap<u64, Sighting>,
    by_id: HashMap<(Asked, u16), Ids>,
    waiting: HashMap<(Entity, Asked), Ids>,
    forwarded: HashMap<u64, Forwarded>,
    by_socket: BySocket,
    by_question: HashMap<(Entity, Asked), Ids>,
    /// Sightings over TCP, by the far end of their connection.
    by_stream: HashMap<(HostId, SocketAddr), Ids>,
    oldest: VecDeque<(Timestamp, u64)>,
    /// UDP sockets that received queries.
    listeners: HashMap<(HostId, u64), Entity>,
    inside: Inside,
    streams: Streams,
    /// Those that listen no more, and since when.
    dead: HashMap<Entity, Timestamp>,
    /// Entries given up because of the cap.
    pub(crate) evicted: u64,
    /// Answers that no query was seen for, as it should have been.
    pub(crate) unmatched: u64,
    /// Those whose query most likely came before the trace.
    pub(crate) asked_before: u64,
}

fn site(who: &Identifier, actor: &Actor, local: SocketAddr) -> Entity {
    who.entity(actor).unwrap_or_else(|| match actor.cgroup {
        Some(id) => Entity::Cgroup(actor.host, id),
        None => Entity::Address(actor.host.of(local.ip()), local.ip()),
    })
}

/// The latest of `ids` that fits.
fn latest<'a, T>(
    ids: &[u64],
    all: &'a mut HashMap<u64, T>,
    fits: impl Fn(&T) -> bool,
) -> Option<&'a mut T> {
    let id = ids.iter().rev().find(|id| all.get(id).is_some_and(&fits))?;
    all.get_mut(id)
}

impl Resolvers {
    /// A query arrived at a socket of a traced process.
    pub(crate) fn received(
        &mut self,
        actor: &Actor,
        dns: &Dns,
        asked: Asked,
        sent: Sent,
        who: &Identifier,
    ) {
        let id = dns.message.id;
        let waits = |s: &Sighting| s.is_at(actor.host, dns.remote) && s.answered.is_none();
        let known = self.by_id.get(&(asked.clone(), id)).map(Ids::as_slice);
        if let Some(sighting) = latest(known.unwrap_or_default(), &mut self.sightings, waits) {
            sighting.arrived(sent);
            return;
        }
        let site = site(who, actor, dns.local);
        if !self.dead.is_empty() {
            self.dead.remove(&site);
        }
        if dns.protocol == Protocol::Udp
            && let Some(socket) = actor.socket()
            && (self.listeners.len() < LISTENERS_MAX || self.listeners.contains_key(&socket))
        {
            self.listeners.insert(socket, site.clone());
        }
        let number = self.number(sent.at);
        self.by_id.entry((asked.clone(), id)).or_default().push(number);
        self.waiting.entry((site.clone(), asked.clone())).or_default().push(number);
        let stream = self.on_stream(actor.host, dns, number);
        self.sightings.insert(
            number,
            Sighting {
                resolver: actor.clone(),
                site,
                client: dns.remote,
                stream,
                asked,
                id,
                arrivals: vec![sent],
                answered: None,
            },
        );
    }

    /// A resolver received this client's question and has not answered.
    pub(crate) fn waits(&self, client: SocketAddr, id: u16, asked: Option<&Asked>) -> bool {
        let Some(asked) = asked.filter(|_| !self.by_id.is_empty()) else { return false };
        let ids = self.by_id.get(&(asked.clone(), id)).into_iter().flatten();
        let mut known = ids.filter_map(|i| self.sightings.get(i));
        known.any(|s| s.client == client && s.answered.is_none())
    }

    /// A resolver known by its address asks what it was asked: so it received the question.
    pub(crate) fn proven(
        &mut self,
        actor: &Actor,
        question: &Question,
        asked: &Asked,
        who: &Identifier,
    ) {
        let Some(first) = question.sends.first() else { return };
        if self.waits(question.client, question.id, Some(asked)) {
            return;
        }
        let site = site(who, actor, question.server);
        let number = self.number(first.at);
        self.by_id.entry((asked.clone(), question.id)).or_default().push(number);
        self.waiting.entry((site.clone(), asked.clone())).or_default().push(number);
        self.sightings.insert(
            number,
            Sighting {
                resolver: actor.clone(),
                site,
                client: question.client,
                stream: false,
                asked: asked.clone(),
                id: question.id,
                arrivals: question.sends.to_vec(),
                answered: None,
            },
        );
    }

    /// A response left a socket of a traced process. SERVFAIL ends what was asked upstream for it.
    pub(crate) fn replied(
        &mut self,
        actor: &Actor,
        dns: &Dns,
        asked: Option<Asked>,
        sent: Sent,
        who: &Identifier,
    ) {
        let Some(asked) = asked else { return };
        let id = dns.message.id;
        let ids = self.by_id.get(&(asked.clone(), id)).map(Ids::as_slice).unwrap_or_default();
        let open = ids.iter().copied().find(|i| {
            let sighting = self.sightings.get(i);
            sighting.is_some_and(|s| s.is_at(actor.host, dns.remote) && s.answered.is_none())
        });
        let Some((number, sighting)) = open.and_then(|i| Some((i, self.sightings.get_mut(&i)?)))
        else {
            match who.asked_before(actor, sent.at) {
                true => self.asked_before += 1,
                false => self.unmatched += 1,
            }
            return;
        };
        sighting.answered = Some((sent, dns.message.rcode));
        let key = (sighting.site.clone(), asked.clone());
        forget(&mut self.waiting, &key, number);
        if dns.message.rcode == 2 {
            let key = (site(who, actor, dns.local), asked);
            self.end_open(&key, sent.at, sent.at);
        }
    }

    /// True when the query is a resolver's own: nothing a user typed.
    pub(crate) fn is_upstream(
        &self,
        actor: &Actor,
        dns: &Dns,
        asked: &Asked,
        who: &Identifier,
    ) -> bool {
        if who.role(actor) == Some(Role::Resolver) {
            return true;
        }
        if self.inside.is_probe(actor, asked, who) {
            return true;
        }
        if self.waiting.is_empty() && self.by_question.is_empty() {
            return false;
        }
        // Also a question it forwarded before: it goes on for a client that it has answered already.
        let key = (site(who, actor, dns.local), asked.clone());
        let waiting = self.waiting.get(&key);
        if waiting.is_none() && !self.by_question.contains_key(&key) {
            return false;
        }
        !self.is_asked_inside(actor, dns, waiting, who)
    }

    /// A resolver asked an upstream.
    pub(crate) fn forwarded(
        &mut self,
        actor: &Actor,
        dns: &Dns,
        asked: Asked,
        sent: Sent,
        who: &Identifier,
    ) {
        let socket = SocketKey::of(actor, dns);
        let id = dns.message.id;
        let again = |f: &Forwarded| f.asked == asked && f.wire == dns.remote && f.reply.is_none();
        let known = self.by_socket.get(&(socket.clone(), id));
        if let Some(forwarded) = latest(known, &mut self.forwarded, again) {
            if forwarded.sends.len() < EVENTS_MAX {
                forwarded.sends.push(sent);
            }
            forwarded.ended = None;
            return;
        }
        let site = site(who, actor, dns.local);
        let key = (site.clone(), asked.clone());
        self.end_open(&key, Timestamp(sent.at.0.saturating_sub(RACE_NS)), sent.at);
        let number = self.number(sent.at);
        if dns.protocol == Protocol::Tcp {
            self.streams.asked(&site, number);
        }
        self.by_socket.add((socket.clone(), id), number);
        self.by_question.entry(key).or_default().push(number);
        self.forwarded.insert(
            number,
            Forwarded {
                site,
                socket,
                local: dns.local,
                server: who.asked_for(actor, dns.remote),
                wire: dns.remote,
                asked,
                id,
                sends: vec![sent],
                reply: None,
                ended: None,
            },
        );
    }

    /// A response arrived; true when it answers a query of a resolver.
    pub(crate) fn upstream_replied(
        &mut self,
        actor: &Actor,
        dns: &Dns,
        asked: Option<&Asked>,
        sent: Sent,
    ) -> bool {
        if self.by_socket.is_empty() {
            return false;
        }
        let key = (SocketKey::of(actor, dns), dns.message.id);
        let asks = |i: &u64| {
            self.forwarded.get(i).is_some_and(|f| asked.is_none_or(|asked| *asked == f.asked))
        };
        let waits = |i: &u64| self.forwarded.get(i).is_some_and(|f| f.reply.is_none());
        let ids = || self.by_socket.get(&key).iter().copied().filter(asks);
        let open = ids().find(waits);
        let again = open.is_none() && ids().next().is_some();
        let Some(forwarded) = open.and_then(|i| self.forwarded.get_mut(&i)) else { return again };
        forwarded.reply = Some((sent, dns.message.rcode));
        true
    }

    /// A socket is gone: its resolver waits no more on it.
    pub(crate) fn closed(&mut self, socket: (HostId, u64), at: Timestamp) {
        for id in self.by_socket.on_cookie(socket) {
            if let Some(f) = self.forwarded.get_mut(&id)
                && f.reply.is_none()
            {
                f.ended.get_or_insert(at);
            }
        }
        if let Some(site) = self.listeners.remove(&socket) {
            self.died(&site, at);
        }
    }

    /// A resolver listens no more. What it had asked just before says nothing about its upstreams.
    fn died(&mut self, site: &Entity, at: Timestamp) {
        let heir = self.listeners.values().any(|listener| listener == site);
        if !heir && self.dead.len() < LISTENERS_MAX {
            self.dead.insert(site.clone(), at);
        }
        let open = |f: &Forwarded| {
            f.site == *site
                && f.reply.is_none()
                && f.ended.is_none_or(|ended| at.since(ended) < DYING_NS)
                && f.sends.last().is_some_and(|sent| at.since(sent.at) < PATIENT_NS)
        };
        let unsure: Vec<u64> =
            self.forwarded.iter().filter(|(_, f)| open(f)).map(|(number, _)| *number).collect();
        for number in unsure {
            self.drop_entry(number);
        }
    }

    /// Nothing more comes from `host`: silence there was seen until now. Where it was hardly seen,
    /// nothing is known of what the resolver did with the question.
    pub(crate) fn host_ended(&mut self, host: HostId, at: Timestamp) {
        let mut silent = BTreeSet::new();
        for f in self.forwarded.values_mut().filter(|f| f.socket.host() == host) {
            if f.reply.is_none() && f.ended.is_none() {
                f.ended = Some(at);
                if f.sends.iter().any(|sent| at.since(sent.at) >= SILENCE_NS) {
                    silent.insert((f.site.clone(), f.asked.clone()));
                }
            }
        }
        let unsure = |s: &Sighting| {
            let question = (s.site.clone(), s.asked.clone());
            s.resolver.host == host && s.answered.is_none() && !silent.contains(&question)
        };
        let unsure: Vec<u64> =
            self.sightings.iter().filter(|(_, s)| unsure(s)).map(|(number, _)| *number).collect();
        for number in unsure {
            self.drop_entry(number);
        }
    }

    /// Drops what is older than it can matter.
    pub(crate) fn expire(&mut self, now: Timestamp) {
        while let Some((at, number)) = self.oldest.front().copied() {
            let old = now.since(at) >= KEPT_NS;
            if !old && self.sightings.len() + self.forwarded.len() <= CAP {
                break;
            }
            self.evicted += u64::from(!old && self.is_there(number));
            self.oldest.pop_front();
            self.drop_entry(number);
        }
    }

    fn is_there(&self, number: u64) -> bool {
        self.sightings.contains_key(&number) || self.forwarded.contains_key(&number)
    }

    /// Forgets the places of entries that are over already.
    fn forget_places(&mut self) {
        while self.oldest.front().is_some_and(|(_, number)| !self.is_there(*number)) {
            self.oldest.pop_front();
        }
        // Behind one that is waited for, many can be over.
        if self.oldest.len() > 4 * CAP {
            let (sightings, forwarded) = (&self.sightings, &self.forwarded);
            let there = |n: &u64| sightings.contains_key(n) || forwarded.contains_key(n);
            self.oldest.retain(|(_, number)| there(number));
        }
    }

    fn drop_entry(&mut self, number: u64) {
        if let Some(s) = self.sightings.remove(&number) {
            forget(&mut self.waiting, &(s.site, s.asked.clone()), number);
            if s.stream {
                forget(&mut self.by_stream, &(s.resolver.host, s.client), number);
            }
            forget(&mut self.by_id, &(s.asked, s.id), number);
        }
        if let Some(f) = self.forwarded.remove(&number) {
            self.by_socket.remove(&(f.socket, f.id), number);
            forget(&mut self.by_question, &(f.site, f.asked), number);
        }
    }

    fn number(&mut self, at: Timestamp) -> u64 {
        self.next += 1;
        self.forget_places();
        self.oldest.push_back((at, self.next));
        self.expire(at);
        self.next
    }

    /// Ends unanswered queries for a question whose last send was at `before` or earlier.
    fn end_open(&mut self, key: &(Entity, Asked), before: Timestamp, at: Timestamp) {
        // Each ended those before it.
        let latest = self.by_question.get(key).into_iter().flatten().rev().take(EARLIER_MAX);
        for id in latest {
            if let Some(f) = self.forwarded.get_mut(id)
                && f.reply.is_none()
                && f.sends.last().is_some_and(|s| s.at <= before)
            {
                f.ended.get_or_insert(at);
            }
        }
    }
}

impl Sighting {
    fn arrived(&mut self, sent: Sent) {
        if self.arrivals.len() < EVENTS_MAX {
            self.arrivals.push(sent);
        }
    }

    /// Seen on `host`, from `client`.
    fn is_at(&self, host: HostId, client: SocketAddr) -> bool {
        self.resolver.host == host && self.client == client
    }
}
