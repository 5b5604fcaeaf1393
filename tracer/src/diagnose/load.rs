//! What DNS costs: messages and time by client, and how much of it is search walk. Keeps, for each
//! client, what the names it looked up need (see `what_if`). At most `CLIENTS_MAX` clients; what
//! comes later is in the total only, and counted.

use foldhash::HashMap;

use crate::correlate::{Attempt, Lookup};
use crate::event::Actor;
use crate::identify::{Entity, Identifier};
use crate::report::{ClientLoad, DnsCosts, DnsLoad, Identity};

use super::what_if::{self, Profile};

/// Clients known at most.
const CLIENTS_MAX: usize = 512;
/// Clients and workloads listed at most.
const LISTED_MAX: usize = 10;

/// Messages and time of some attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cost {
    pub(super) queries: u64,
    pub(super) bytes: u64,
    pub(super) ns: u64,
}

impl Cost {
    pub(super) fn add(&mut self, other: Self) {
        self.queries += other.queries;
        self.bytes += other.bytes;
        self.ns += other.ns;
    }
}

/// One attempt of a lookup, priced.
pub(super) struct Priced<'a> {
    pub(super) attempt: &'a Attempt,
    pub(super) cost: Cost,
    /// It belongs to the search walk: not what answered.
    pub(super) walk: bool,
}

/// Attempts with what each cost: its messages, and the time until the next one began.
pub(super) fn priced(lookup: &Lookup) -> Vec<Priced<'_>> {
    let next = lookup.attempts.iter().skip(1).map(|a| Some(a.started)).chain([None]);
    let price = |(index, (attempt, next)): (usize, (_, Option<_>))| {
        let attempt: &Attempt = attempt;
        let until = next.unwrap_or(attempt.ended).max(attempt.started);
        Priced {
            attempt,
            cost: Cost {
                queries: attempt.datagrams(),
                bytes: attempt.transactions.iter().map(|t| t.bytes()).sum(),
                ns: until.since(attempt.started),
            },
            walk: match lookup.winner {
                Some(winner) => winner != index,
                None => attempt.suffix.is_some() && lookup.attempts.len() > 1,
            },
        }
    };
    lookup.attempts.iter().zip(next).enumerate().map(price).collect()
}

/// Unit and thread name.
type Key = (Option<Entity>, String);

#[derive(Debug, Default)]
struct Client {
    actor: Actor,
    identity: Identity,
    load: Sum,
    profile: Profile,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    lookups: u64,
    all: Cost,
    walk: Cost,
}

impl Sum {
    fn add(&mut self, attempts: &[Priced<'_>]) {
        self.lookups += 1;
        for priced in attempts {
            self.all.add(priced.cost);
            if priced.walk {
                self.walk.add(priced.cost);
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.lookups += other.lookups;
        self.all.add(other.all);
        self.walk.add(other.walk);
    }

    fn told(&self) -> DnsLoad {
        let percent =
            (self.walk.queries * 100 + self.all.queries / 2).checked_div(self.all.queries);
        DnsLoad {
            lookups: self.lookups,
            queries: self.all.queries,
            bytes: self.all.bytes,
            walk_queries: self.walk.queries,
            walk_bytes: self.walk.bytes,
            walk_percent: percent.unwrap_or(0),
            walk_time_ns: self.walk.ns,
        }
    }
}

/// Costs of a run.
#[derive(Debug, Default)]
pub(super) struct Load {
    total: Sum,
    clients: HashMap<Key, Client>,
    unattributed: u64,
}

impl Load {
    pub(super) fn lookup(&mut self, lookup: &Lookup, domain: Option<&str>, who: &Identifier) {
        let attempts = priced(lookup);
        self.total.add(&attempts);
        let key = key(lookup, who);
        if self.clients.len() >= CLIENTS_MAX && !self.clients.contains_key(&key) {
            self.unattributed += 1;
            return;
        }
        let client = self.clients.entry(key).or_default();
        // A name can become known later; asking each time would cost more than the rest.
        if (client.load.lookups + 1).is_power_of_two() {
            client.actor = lookup.actor.clone();
            client.identity = identity(&client.actor, who);
        }
        client.load.add(&attempts);
        client.profile.lookup(lookup, domain, &attempts);
    }

    /// Nothing follows: names that came late are taken, those of pods that are gone kept.
    pub(super) fn finish(&mut self, who: &Identifier) {
        for client in self.clients.values_mut().filter(|c| c.identity.pod.is_none()) {
            client.identity = identity(&client.actor, who);
        }
    }

    /// What is known of the names that the workload of `identity` looks up.
    pub(super) fn profile(&self, identity: &Identity) -> Profile {
        let mut profile = Profile::default();
        let same = |client: &&Client| Workload::of(&client.identity) == Workload::of(identity);
        // In an order that is always the same: examples are the first ones.
        let mut clients: Vec<_> = self.clients.iter().filter(|(_, client)| same(client)).collect();
        clients.sort_by_key(|(key, _)| *key);
        for (_, client) in clients {
            profile.merge(&client.profile);
        }
        profile
    }

    pub(super) fn told(&self) -> DnsCosts {
        // A client whose name came late stands here twice.
        let mut clients: Vec<(Identity, Sum)> = Vec::new();
        let mut workloads: Vec<(&Identity, Workload<'_>, Sum, Profile)> = Vec::new();
        let mut all: Vec<_> = self.clients.iter().collect();
        all.sort_by_key(|(key, _)| *key);
        for (_, client) in all {
            match clients.iter_mut().find(|(identity, _)| *identity == client.identity) {
                Some((_, sum)) => sum.merge(client.load),
                None => clients.push((client.identity.clone(), client.load)),
            }
            let of = Workload::of(&client.identity);
            match workloads.iter_mut().find(|(_, known, ..)| *known == of) {
                Some((_, _, sum, profile)) => {
                    sum.merge(client.load);
                    profile.merge(&client.profile);
                }
                None => {
                    workloads.push((&client.identity, of, client.load, client.profile.clone()));
                }
            }
        }
        let rank = |sum: &Sum| std::cmp::Reverse((sum.walk.queries, sum.all.queries));
        clients.sort_by_key(|(_, sum)| rank(sum));
        workloads.sort_by_key(|(.., sum, _)| rank(sum));
        workloads.retain(|(.., sum, _)| sum.walk.queries > 0);
        let listed = workloads.iter().take(LISTED_MAX);
        DnsCosts {
            total: self.total.told(),
            more_clients: clients.len().saturating_sub(LISTED_MAX) as u64,
            clients: clients
                .into_iter()
                .take(LISTED_MAX)
                .map(|(identity, sum)| ClientLoad { identity, load: sum.told() })
                .collect(),
            unattributed_lookups: self.unattributed,
            more_workloads: workloads.len().saturating_sub(LISTED_MAX) as u64,
            workloads: listed
                .map(|(identity, _, _, profile)| what_if::told(identity, profile))
                .collect(),
        }
    }
}

fn key(lookup: &Lookup, who: &Identifier) -> Key {
    let comm = match &lookup.actor.task {
        Some(task) => task.comm.clone(),
        None => who.task(&lookup.actor).map(|task| task.comm).unwrap_or_default(),
    };
    (who.entity(&lookup.actor), comm)
}

/// Which pod or process, without the ids that differ from one run of a program to the next.
fn identity(actor: &Actor, who: &Identifier) -> Identity {
    Identity { pid: None, tid: None, ..who.identity(actor) }
}

/// What shares a pod template, as far as known.
#[derive(Debug, PartialEq, Eq)]
enum Workload<'a> {
    Owner(Option<&'a str>, &'a str),
    Pod(Option<&'a str>, &'a str),
    Cgroup(&'a str),
    Other(Option<&'a str>, Option<std::net::IpAddr>),
}

impl<'a> Workload<'a> {
    fn of(identity: &'a Identity) -> Self {
        let namespace = identity.namespace.as_deref();
        match (&identity.owner, &identity.pod, &identity.cgroup) {
            (Some(owner), ..) => Self::Owner(namespace, owner),
            (None, Some(pod), _) => Self::Pod(namespace, pod),
            (None, None, Some(cgroup)) => Self::Cgroup(cgroup),
            (None, None, None) => Self::Other(identity.comm.as_deref(), identity.address),
        }
    }
}
