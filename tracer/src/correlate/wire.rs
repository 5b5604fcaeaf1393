//! Packets caught on the way, with no socket behind them (a capture file of others): one sighting
//! stands for both ends. Says when an address that is asked asks itself (so it received the
//! question), and when an answer that a translation will still change is the client's. Keeps no
//! transactions of its own.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use foldhash::HashMap;
use smallvec::{SmallVec, smallvec};

use crate::event::{Dns, Event};
use crate::record::Timestamp;

use super::transaction::{Asked, EVENTS_MAX, Sent};

/// Questions are remembered this long after they began.
const KEPT_NS: u64 = 120_000_000_000;
/// Questions, and translated servers.
const CAP: usize = 16_384;
const PAIRS_MAX: usize = 1_024;
/// The translated copy of an answer follows within this time, where the capture shows any.
const BACK_NS: u64 = 20_000_000;
const HELD_MAX: usize = 128;
/// Open questions looked at for one query.
const LOOK_MAX: usize = 256;

/// A question that nobody has answered yet.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) id: u16,
    pub(crate) sends: SmallVec<[Sent; 1]>,
    /// Told to the resolver's side.
    proven: bool,
    /// The server's own address, where the query was seen behind a translation.
    alias: Option<SocketAddr>,
}

impl Question {
    pub(crate) fn new(dns: &Dns, sent: Sent) -> Self {
        Self {
            client: dns.local,
            server: dns.remote,
            id: dns.message.id,
            sends: smallvec![sent],
            proven: false,
            alias: None,
        }
    }

    /// `dns` is the same datagram.
    pub(crate) fn is(&self, dns: &Dns) -> bool {
        (self.client, self.server, self.id) == (dns.local, dns.remote, dns.message.id)
    }

    pub(crate) fn sent_again(&mut self, sent: Sent) {
        if self.sends.len() < EVENTS_MAX {
            self.sends.push(sent);
        }
    }

    /// Itself, the first time: the resolver's side is told then.
    pub(crate) fn take_unproven(&mut self) -> Option<Self> {
        let new = !std::mem::replace(&mut self.proven, true);
        new.then(|| Self { sends: self.sends.clone(), ..*self })
    }
}

/// An answer on its way back, before its translation.
#[derive(Debug)]
pub(crate) struct Held {
    due: Timestamp,
    pub(crate) event: Event,
    /// As the client sees it.
    pub(crate) dns: Dns,
    alias: SocketAddr,
}

/// Servers in order of their addresses, each with the questions to it, oldest first. As a rule one of
/// each.
type Servers = SmallVec<[(IpAddr, Vec<Question>); 1]>;

fn place(servers: &Servers, server: IpAddr) -> Result<usize, usize> {
    servers.binary_search_by_key(&server, |(ip, _)| *ip)
}

/// What is under way.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    open: HashMap<Asked, Servers>,
    order: VecDeque<(Timestamp, (Asked, IpAddr))>,
    /// A server's own address and the one clients ask; true once an answer was seen behind the
    /// translation back, so that all can be expected to be.
    pairs: BTreeMap<(SocketAddr, SocketAddr), bool>,
    held: VecDeque<Held>,
}

impl Wire {
    /// A query was seen leaving its client.
    pub(crate) fn asked(&mut self, dns: &Dns, asked: &Asked, sent: Sent) {
        self.expire(sent.at);
        let server = dns.remote.ip();
        let servers = self.open.entry(asked.clone()).or_default();
        let at = place(servers, server).unwrap_or_else(|at| {
            servers.insert(at, (server, Vec::with_capacity(1)));
            at
        });
        let Some((_, all)) = servers.get_mut(at) else { return };
        if let Some(known) = all.iter_mut().find(|q| q.is(dns)) {
            known.sent_again(sent);
            return;
        }
        went_on(&mut self.held, dns.local.ip());
        if all.len() >= LOOK_MAX {
            all.remove(0);
        }
        all.push(Question::new(dns, sent));
        self.order.push_back((sent.at, (asked.clone(), server)));
    }

    /// The questions that `resolver` must have received, because now it asks the same itself.
    pub(crate) fn received_by(&mut self, resolver: IpAddr, asked: &Asked) -> Vec<&Question> {
        let Some(servers) = self.open.get_mut(asked) else { return Vec::new() };
        let at = place(servers, resolver).ok();
        let Some((_, all)) = at.and_then(|at| servers.get_mut(at)) else { return Vec::new() };
        let mut new: Vec<&Question> = Vec::new();
        for question in all.iter_mut().filter(|q| q.client.ip() != resolver && !q.proven) {
            question.proven = true;
            new.push(question);
        }
        new
    }

    /// The query was seen again behind a translation, on its way to `dns.local`.
    pub(crate) fn translated(&mut self, dns: &Dns, asked: &Asked) {
        let Some(question) = self.open.get_mut(asked).and_then(|all| behind(all, dns)) else {
            return;
        };
        question.alias = Some(dns.local);
        let service = question.server;
        if self.pairs.len() < PAIRS_MAX || self.pairs.contains_key(&(dns.local, service)) {
            self.pairs.entry((dns.local, service)).or_insert(false);
        }
    }

    /// A response left the server behind a translation. When this capture does not show what comes
    /// behind the translation back, the response itself is the client's.
    pub(crate) fn replied(&mut self, event: &Event, dns: &Dns, asked: Option<&Asked>) {
        let question = asked.and_then(|asked| behind(self.open.get_mut(asked)?, dns));
        let Some(service) = question.map(|question| question.server) else { return };
        if self.pairs.get(&(dns.local, service)) == Some(&true) || self.held.len() >= HELD_MAX {
            return;
        }
        let mut seen = dns.clone();
        (seen.local, seen.remote) = (dns.remote, service);
        let mut event = event.clone();
        event.actor.local = Some(dns.remote);
        let due = event.at.plus(BACK_NS);
        self.held.push_back(Held { due, event, dns: seen, alias: dns.local });
    }

    /// A response reached its client.
    pub(crate) fn answered(&mut self, dns: &Dns, asked: Option<&Asked>) {
        let same = |held: &Held| {
            (held.dns.local, held.dns.remote, held.dns.message.id)
                == (dns.local, dns.remote, dns.message.id)
        };
        if let Some(held) = self.held.iter().position(same).and_then(|i| self.held.remove(i)) {
            self.pairs.insert((held.alias, dns.remote), true);
        }
        let Some(asked) = asked else { return };
        self.forget(asked, dns.remote.ip(), |q| q.is(dns));
    }

    /// Responses whose translated copy did not come.
    pub(crate) fn due(&mut self, now: Timestamp) -> Option<Held> {
        let at = self.held.iter().position(|held| held.due <= now)?;
        self.held.remove(at)
    }

    /// Takes out questions to `server`.
    fn forget(&mut self, asked: &Asked, server: IpAddr, which: impl Fn(&Question) -> bool) {
        let Entry::Occupied(mut entry) = self.open.entry(asked.clone()) else { return };
        let servers = entry.get_mut();
        let Ok(at) = place(servers, server) else { return };
        let Some((_, all)) = servers.get_mut(at) else { return };
        all.retain(|question| !which(question));
        if all.is_empty() {
            servers.remove(at);
        }
        if servers.is_empty() {
            entry.remove();
        }
    }

    fn expire(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.order.front() {
            if now.since(*at) < KEPT_NS && self.order.len() <= CAP {
                break;
            }
            let Some((at, (asked, server))) = self.order.pop_front() else { break };
            self.forget(&asked, server, |q| q.sends.first().is_none_or(|first| first.at <= at));
        }
    }
}

/// The question of this exchange, where its client asked another address than `dns.local`. Clients with
/// several nameservers ask them with one id from one socket: then it is the one that was seen going
/// here, or the latest that was seen going nowhere else.
fn behind<'a>(servers: &'a mut Servers, dns: &Dns) -> Option<&'a mut Question> {
    let same = |q: &&mut Question| q.client == dns.remote && q.id == dns.message.id;
    let of_server = servers.iter_mut().take(LOOK_MAX);
    let mut all: SmallVec<[&mut Question; 2]> =
        of_server.filter_map(|(_, all)| all.iter_mut().rev().find(same)).collect();
    if all.iter().any(|q| q.server == dns.local) {
        return None;
    }
    let rank = |q: &&mut Question| {
        let at = q.sends.last().map(|sent| sent.at);
        (q.alias == Some(dns.local), q.alias.is_none(), at)
    };
    let best = all.iter().enumerate().max_by_key(|(_, q)| rank(q)).map(|(index, _)| index)?;
    Some(all.swap_remove(best))
}

/// The client went on to something else: it has the answers it waited for.
fn went_on(held: &mut VecDeque<Held>, client: IpAddr) {
    for held in held.iter_mut().filter(|held| held.dns.local.ip() == client) {
        held.due = Timestamp(0);
    }
}
