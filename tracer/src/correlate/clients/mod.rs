//! Clients' queries and answers: transactions are matched and grouped into lookups. What ends their waits
//! besides is in `ends`, how lookups close in `closing`; what a query means for a resolver is `upstream`'s
//! business.

mod astray;
mod closing;
mod ends;

use std::collections::{BTreeSet, VecDeque};
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::HashMap;
use foldhash::quality::RandomState;

use crate::event::{Actor, Dns};
use crate::identify::Identifier;
use crate::record::{HostId, Timestamp};
use crate::report::Transport;

use super::by_socket::BySocket;
use super::grouping::{NewQuery, OpenAttempt, OpenLookup, OpenTransaction, Owner, Place, Table};
use super::heard::{Answers, Gone, Orphan, Orphans, Stray, Unmatched};
use super::ids::{Ids, forget};
use super::library::Sockets;
use super::lookup::Lookup;
use super::names::Names;
use super::patience::Settings;
use super::search_list::Walk;
use super::slab::Slab;
use super::timers::{Timer, Timers};
use super::transaction::{Asked, GaveUp, Reply, Sent, SocketKey, Transaction};
use super::truncated::Connects;

/// Open lookups.
const LOOKUPS_MAX: usize = 65_536;
/// Transactions of all open lookups.
const TRANSACTIONS_MAX: usize = 100_000;
/// Open lookups under one first label of one process that a query is compared with, the newest.
const LOOK_MAX: usize = 64;
/// Their transactions, after which no further lookup is compared.
const COMPARE_MAX: usize = 1_024;
/// Transactions of one lookup.
const PER_LOOKUP_MAX: usize = 512;
/// Time added to a time-out before it counts as passed.
const MARGIN_NS: u64 = 1_000_000_000;

/// Clients' side of DNS.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    closed: u64,
    table: Table,
    by_socket: BySocket,
    lookups: Slab<OpenLookup>,
    /// Their ids, the oldest first.
    ages: BTreeSet<u64>,
    /// Those of each process, whose exit ends them.
    by_process: HashMap<(HostId, u32), Ids>,
    /// Those with a truncated answer, which connects to servers concern.
    truncated: HashMap<Owner, Ids>,
    /// By owner and first label, hashed: all candidates of a walk begin with the name as typed.
    by_label: HashMap<u64, Ids>,
    labels: RandomState,
    /// By thread: those that only wait for something further to come.
    lingering: HashMap<(Owner, u32), Ids>,
    timers: Timers,
    orphans: Orphans,
    gone: Gone,
    answers: Answers,
    sockets: Sockets,
    /// Closed, and when the resolver's side of each is told.
    untied: VecDeque<(Timestamp, Lookup)>,
    /// Clocks of several hosts can differ by so much, in nanoseconds.
    pub(crate) skew_ns: u64,
    /// Names that gave addresses.
    pub(crate) names: Names,
    /// Lookups given up because of a cap.
    pub(crate) evicted: u64,
}

/// The actor with the task its socket is known by, so that it outlives the socket.
pub(crate) fn with_task(actor: &Actor, who: &Identifier) -> Actor {
    let mut own = actor.clone();
    own.task = own.task.or_else(|| who.task(actor));
    own
}

/// Whose lookups and connections `actor`'s are.
pub(crate) fn owner(actor: &Actor, who: &Identifier, local: Option<SocketAddr>) -> Option<Owner> {
    if let Some(task) = &actor.task {
        return Some(Owner::Process(actor.host, task.pid));
    }
    let address = |local: SocketAddr| Owner::Address(actor.host.of(local.ip()), local.ip());
    who.entity(actor).map(Owner::Entity).or(local.map(address))
}

impl Clients {
    /// A query left a socket.
    pub(crate) fn query(
        &mut self,
        actor: &Actor,
        dns: &mut Dns,
        asked: Asked,
        sent: Sent,
        recovered: bool,
        who: &Identifier,
    ) {
        let key = (SocketKey::of(actor, dns), dns.message.id);
        let again = self.by_socket.get(&key).iter().copied().find(|id| {
            self.table
                .get(id)
                .is_some_and(|o| o.transaction.asked == asked && o.transaction.wire == dns.remote)
        });
        if let Some(id) = again {
            self.resent(id, sent);
            return;
        }
        let actor = with_task(actor, who);
        let Some(owner) = owner(&actor, who, Some(dns.local)) else { return };
        let intent_known = who.intended(&actor).is_some();
        let mut open = Box::new(OpenTransaction {
            replied_by: dns.remote,
            transaction: Transaction::new(actor, key.0.clone(), dns, asked, who, sent),
            lookup: 0,
            deadline: Timestamp(0),
            closed: None,
            intent_known,
        });
        let transaction = &mut open.transaction;
        transaction.recovered = recovered;
        if let Some(reply) = self.orphans.adopt(&key, transaction) {
            transaction.answered(reply);
        }
        let label = self.label(&owner, &transaction.asked.name);
        let lookup = self.join(&owner, label, transaction, sent.at);
        open.lookup = match lookup {
            Some((id, place)) => {
                self.give_up_earlier(id, place, &open.transaction);
                id
            }
            None => self.open(owner, label, &open.transaction, who),
        };
        self.add(open);
    }

    fn resent(&mut self, id: u64, sent: Sent) {
        let Some(open) = self.table.get_mut(&id) else { return };
        open.transaction.resent(sent);
        let lookup = open.lookup;
        self.arm(id);
        self.settle(lookup);
    }

    /// The open lookup that the query belongs to: by socket, then thread, then the newest.
    fn join(
        &mut self,
        owner: &Owner,
        label: u64,
        new: &Transaction,
        at: Timestamp,
    ) -> Option<(u64, Place)> {
        let tid = new.actor.task.as_ref().map(|t| t.tid);
        let query = NewQuery {
            asked: &new.asked,
            socket: &new.socket,
            id: new.id,
            server: new.server.ip(),
            tid,
            edns: new.edns,
            tcp: new.transport == Transport::Tcp,
            at,
        };
        let best = self
            .by_label
            .get(&label)
            .into_iter()
            .flat_map(|ids| ids.iter().rev().take(LOOK_MAX))
            .filter_map(|id| Some((id, self.lookups.get(id).filter(|l| l.owner == *owner)?)))
            .scan(COMPARE_MAX, |room, (id, lookup)| {
                let before = *room;
                *room = room.saturating_sub(lookup.size());
                (before > 0).then_some((id, lookup))
            })
            .filter_map(|(id, lookup)| {
                let place = lookup.place(&query, &self.table)?;
                let tied = lookup.tied(&query, &self.table);
                Some(((tied, lookup.tid.is_some() && lookup.tid == tid, *id), place))
            })
            .max_by_key(|(rank, _)| *rank)
            .map(|((_, _, id), place)| (id, place));
        if best.is_none()
            && let Some(tid) = tid
        {
            // The thread turned to another name: what it finished before has no next candidate.
            let thread = (owner.clone(), tid);
            let mut ids = self.lingering.get(&thread).cloned().unwrap_or_default();
            ids.sort_unstable();
            for id in ids {
                if let Some(lookup) = self.lookups.get_mut(&id)
                    && lookup.thread_bound(&self.table)
                {
                    lookup.over = true;
                    self.settle(id);
                }
            }
        }
        best
    }

    /// The key of `by_label`.
    fn label(&self, owner: &Owner, name: &str) -> u64 {
        let end = name.bytes().position(|byte| byte == b'.').unwrap_or(name.len());
        self.labels.hash_one((owner, name.get(..end)))
    }

    fn give_up_earlier(&mut self, lookup: u64, place: Place, new: &Transaction) {
        let Some(lookup) = self.lookups.get(&lookup) else { return };
        let Some(last) = lookup.attempts.last() else { return };
        for id in &last.transactions {
            let Some(open) = self.table.get_mut(id) else { continue };
            let t = &mut open.transaction;
            let parallel = t.socket == new.socket && t.id == new.id;
            match place {
                Place::Next => t.give_up(new.started(), GaveUp::NextName),
                Place::Same if t.asked == new.asked && !parallel => {
                    t.give_up(new.started(), GaveUp::Retried);
                }
                Place::Same => {}
            }
        }
    }

    /// A new lookup's number; 0 where there is no room for it.
    fn open(&mut self, owner: Owner, label: u64, first: &Transaction, who: &Identifier) -> u64 {
        if self.lookups.len() >= LOOKUPS_MAX {
            self.evict_oldest();
        }
        let config = who.resolver_config(&first.actor);
        let process = owner.process();
        let mut lookup = Box::new(OpenLookup {
            host: first.actor.host,
            owner,
            label,
            tid: first.actor.task.as_ref().map(|t| t.tid),
            walk: Walk::begin(Arc::clone(&first.asked.name), config),
            attempts: Vec::new(),
            elsewhere: false,
            settings: Settings::of(config),
            deadline: None,
            over: false,
            truncated: false,
            connects: Connects::default(),
        });
        lookup.elsewhere = lookup.is_elsewhere(first.server.ip());
        let Some(id) = self.lookups.insert(lookup) else { return 0 };
        if let Some(process) = process {
            self.by_process.entry(process).or_default().push(id);
        }
        self.by_label.entry(label).or_default().push(id);
        self.ages.insert(id);
        id
    }

    /// Gives up the oldest lookup that is not given up already: it stays undecided.
    fn evict_oldest(&mut self) {
        let open = |id: &&u64| self.lookups.get(id).is_some_and(|lookup| !lookup.over);
        let oldest = self.ages.iter().find(open).copied();
        if let Some(oldest) = oldest
            && let Some(lookup) = self.lookups.get_mut(&oldest)
        {
            lookup.over = true;
            self.evicted += 1;
            self.settle(oldest);
        }
    }

    fn add(&mut self, mut open: Box<OpenTransaction>) {
        let (lookup_id, transaction) = (open.lookup, &mut open.transaction);
        let Some(lookup) = self.lookups.get_mut(&lookup_id) else { return };
        let name = &transaction.asked.name;
        match lookup.attempts.last() {
            Some(last) if last.name == *name => {}
            last => {
                if last.is_some() {
                    lookup.walk.advance(Arc::clone(name));
                }
                lookup
                    .attempts
                    .push(OpenAttempt { name: Arc::clone(name), transactions: Ids::new() });
            }
        }
        if let Some(last) = lookup.attempts.last_mut() {
            let earlier = last.all(&self.table).filter(|t| t.asked == transaction.asked).count();
            transaction.try_number = u32::try_from(earlier + 1).unwrap_or(u32::MAX);
        }
        let key = (transaction.socket.clone(), transaction.id);
        let answered = transaction.reply.is_some();
        let Some(id) = self.table.insert(open) else { return };
        if let Some(last) = lookup.attempts.last_mut() {
            last.transactions.push(id);
        }
        if lookup.size() > PER_LOOKUP_MAX {
            lookup.over = true;
            self.evicted += 1;
        }
        self.by_socket.add(key, id);
        if self.table.len() > TRANSACTIONS_MAX {
            self.evict_oldest();
        }
        if answered {
            self.learn(id);
        }
        self.arm(id);
        self.settle(lookup_id);
    }

    /// Of a truncated answer it may ask for the whole over TCP.
    pub(crate) fn asks_again(&self, owner: &Owner) -> bool {
        self.truncated.contains_key(owner)
    }

    /// A response arrived at a socket.
    pub(crate) fn response(
        &mut self,
        actor: &Actor,
        dns: &mut Dns,
        asked: Option<Asked>,
        sent: Sent,
        who: &Identifier,
    ) {
        let key = (SocketKey::of(actor, dns), dns.message.id);
        let reply = Reply::of(dns, sent);
        let ids = self.by_socket.get(&key);
        let of = |id: &u64| self.table.get(id).map(|open| &open.transaction);
        let asks = |id: &&u64| {
            of(id).is_some_and(|t| asked.as_ref().is_none_or(|asked| *asked == t.asked))
        };
        let waits = |id: &&u64| of(id).is_some_and(|t| t.reply.is_none() && t.late.is_none());
        let exact = |id: &&u64| of(id).is_some_and(|t| t.is_from(dns.remote));
        let waiting = || ids.iter().filter(asks).filter(waits);
        let takes = |id: &&u64| self.table.get(id).is_some_and(|open| open.takes(dns.remote));
        if let Some(id) = waiting().find(exact).or_else(|| waiting().find(takes)).copied() {
            self.answer(id, dns.remote, reply);
            return;
        }
        let again = || ids.iter().filter(asks);
        if let Some(id) = again().find(exact).or_else(|| again().next()).copied() {
            self.answer_again(id, dns.remote, reply);
            return;
        }
        let why = match ids {
            [] if self.gone.answered(&key, asked.as_ref()) => Stray::Late,
            [] if who.asked_before(actor, sent.at) => Stray::AskedBefore,
            [] => Stray::UnknownId,
            _ => Stray::WrongQuestion,
        };
        self.orphans.keep(Orphan { why, key, asked, from: dns.remote, reply });
    }

    fn answer(&mut self, id: u64, from: SocketAddr, reply: Reply) {
        let too_late = self.too_late(id);
        let Some(open) = self.table.get_mut(&id) else { return };
        let lookup = open.lookup;
        if too_late {
            open.transaction.answered_late(reply);
            return;
        }
        open.replied_by = from;
        open.transaction.answered(reply);
        self.learn(id);
        self.settle(lookup);
    }

    /// Its sender waits for no answer any more: it went on to another name, its time-out has passed,
    /// or the later try has had its own answer.
    fn too_late(&self, id: u64) -> bool {
        let Some(open) = self.table.get(&id) else { return false };
        let t = &open.transaction;
        match t.gave_up {
            Some((_, GaveUp::NextName | GaveUp::Expired)) => true,
            Some((_, GaveUp::Retried)) => {
                let lookup = self.lookups.get(&open.lookup);
                let mut tries =
                    lookup.iter().flat_map(|l| &l.attempts).flat_map(|a| a.all(&self.table));
                !tries.any(|other| other.asked == t.asked && other.is_open())
            }
            _ => false,
        }
    }

    /// One more answer. That of the server that was asked counts, not one from elsewhere before it.
    fn answer_again(&mut self, id: u64, from: SocketAddr, reply: Reply) {
        let Some(open) = self.table.get_mut(&id) else { return };
        let t = &mut open.transaction;
        if t.is_from(from) && !t.is_from(open.replied_by) && t.reply.is_some() {
            t.reply = None;
            t.answered(reply);
            open.replied_by = from;
            self.orphans.unmatched.count(Stray::WrongServer);
            let lookup = open.lookup;
            self.learn(id);
            self.settle(lookup);
        } else if t.is_from(from) || from == open.replied_by {
            t.answered_again(Sent { at: reply.at, number: reply.number });
        } else {
            if t.reply.is_none() && t.late.is_none() {
                t.passed_by(from, &reply, true);
            }
            self.orphans.unmatched.count(Stray::WrongServer);
        }
    }

    /// What an answer says beyond its transaction: the server lives, the name has addresses.
    fn learn(&mut self, id: u64) {
        let Some(open) = self.table.get(&id) else { return };
        let t = &open.transaction;
        let Some(reply) = &t.reply else { return };
        let sent = Sent { at: reply.at, number: reply.number };
        self.answers.learn(t, sent);
        if let Some(lookup) = self.lookups.get_mut(&open.lookup) {
            if t.cut_at().is_some() && !std::mem::replace(&mut lookup.truncated, true) {
                self.truncated.entry(lookup.owner.clone()).or_default().push(open.lookup);
            }
            self.names.learn(&lookup.owner, t.data(), lookup.walk.typed());
        }
    }

    /// Open transactions and lookups.
    #[cfg(test)]
    pub(crate) fn open_now(&self) -> (usize, usize) {
        (self.table.len(), self.lookups.len())
    }

    /// Responses that no query was seen for.
    pub(crate) fn unmatched(&self) -> Unmatched {
        self.orphans.unmatched
    }

    /// Sets the time-out of a transaction after a send.
    fn arm(&mut self, id: u64) {
        let Some(open) = self.table.get_mut(&id) else { return };
        let Some(lookup) = self.lookups.get(&open.lookup) else { return };
        let t = &open.transaction;
        let timeout = lookup.settings.timeout_ns;
        let all = t.started().plus(timeout * u64::from(lookup.settings.tries));
        open.deadline = all.max(t.last_send().plus(timeout)).plus(MARGIN_NS);
        self.timers.set(open.deadline, Timer::Transaction(id));
    }

    /// Decides anew when a lookup closes.
    fn settle(&mut self, id: u64) {
        let Some(lookup) = self.lookups.get_mut(&id) else { return };
        let closes = lookup.closes_at(&self.table);
        let before = std::mem::replace(&mut lookup.deadline, closes);
        if before == closes {
            return;
        }
        if let Some(at) = closes {
            self.timers.set(at, Timer::Lookup(id));
        }
        let Some(thread) = lookup.thread() else { return };
        match (before, closes) {
            (None, Some(_)) => {
                self.lingering.entry(thread).or_default().push(id);
            }
            (Some(_), None) => forget(&mut self.lingering, &thread, id),
            _ => {}
        }
    }
}
