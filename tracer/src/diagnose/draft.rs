//! A finding being gathered: its facts and victims until it is told. Texts are written when it is
//! told, with the identities known then.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::Value;

use crate::correlate::{Connection, Lookup, Patience};
use crate::event::Actor;
use crate::identify::Identifier;
use crate::record::{HostId, Timestamp};
use crate::report::{Code, Confidence, Finding, Identity, Severity, Ts};

use super::interval::{Intervals, Span};
use super::summary::Totals;
use super::{
    dns_error, lost, nxdomain, patience, race, resolver, search, slow, truncated, unasked,
    upstream, words,
};

/// A wait of at least this is as bad as a failure.
pub(crate) const SEVERE_NS: u64 = 5_000_000_000;
/// Victims, events and facts kept of one finding.
const VICTIMS_MAX: usize = 64;
const EVIDENCE_MAX: usize = 256;
const LOOKUPS_MAX: usize = 1_024;

/// What makes two findings the same one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) code: Code,
    pub(crate) class: Option<String>,
    pub(crate) subject: String,
    /// Where the subject means something, if it is an address: see `HostId::of`.
    pub(crate) host: HostId,
}

/// A lookup that was hit.
#[derive(Clone, Debug)]
pub(crate) struct Victim {
    pub(crate) actor: Actor,
    /// Neither, where the lookup was not seen.
    pub(crate) lookup: Option<u64>,
    pub(crate) name: Option<String>,
    pub(crate) waited: Intervals,
    pub(crate) failed: bool,
    /// Of the library that made the lookup, if it was recognised.
    pub(crate) patience: Option<Patience>,
}

impl Victim {
    /// The same lookup, or another of the same process where it was not seen.
    fn is(&self, other: &Self) -> bool {
        self.lookup == other.lookup && (self.lookup.is_some() || self.is_of(&other.actor))
    }

    /// Of the same process; where none is known, of the same cgroup or address.
    fn is_of(&self, other: &Actor) -> bool {
        let pid = |actor: &Actor| actor.task.as_ref().map(|task| task.pid);
        let place = |actor: &Actor| {
            let address = actor.local.filter(|_| actor.is_address()).map(|local| local.ip());
            (actor.cgroup, address)
        };
        let (own, its) = (pid(&self.actor), pid(other));
        let same = own == its && (own.is_some() || place(&self.actor) == place(other));
        self.actor.host == other.host && same
    }
}

/// What a family knows about its finding.
#[derive(Clone, Debug)]
pub(crate) enum Facts {
    Upstream(upstream::Facts),
    Silent(resolver::Silent),
    Race(race::Facts),
    Slow(slow::Facts),
    Unreachable(resolver::Unreachable),
    Error(dns_error::Facts),
    Truncated(truncated::Facts),
    Expansion(search::Expansion),
    Foreign(search::Foreign),
    Nxdomain(nxdomain::Facts),
    Lost(lost::Facts),
    Unasked(unasked::Facts),
}

/// What texts are written from besides their facts.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) who: &'a Identifier,
    /// Of the run so far.
    pub(crate) totals: &'a Totals,
}

/// What a family writes.
#[derive(Debug, Default)]
pub(crate) struct Text {
    pub(crate) title: String,
    pub(crate) cause: String,
    pub(crate) remedy: Vec<String>,
    pub(crate) details: BTreeMap<String, Value>,
    pub(crate) inferred_from: Vec<String>,
}

/// A finding being gathered.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) key: Key,
    pub(crate) confidence: Confidence,
    pub(crate) cost: Intervals,
    pub(crate) evidence: BTreeSet<u64>,
    pub(crate) victims: Vec<Victim>,
    pub(crate) lookups: BTreeSet<u64>,
    pub(crate) failed: bool,
    pub(crate) caused_by: BTreeSet<Key>,
    pub(crate) facts: Facts,
    /// Never more than information.
    pub(crate) harmless: bool,
}

impl Draft {
    /// A finding about one lookup, without cost yet.
    pub(crate) fn about(lookup: &Lookup, code: Code, subject: String, facts: Facts) -> Self {
        let server = subject.parse::<SocketAddr>();
        let host = server.map(|a| lookup.actor.host.of(a.ip())).unwrap_or_default();
        let victim = Victim {
            actor: lookup.actor.clone(),
            lookup: Some(lookup.id),
            name: Some(lookup.name.clone()),
            waited: Intervals::default(),
            failed: failed(lookup),
            patience: lookup.patience.clone(),
        };
        Self::new(Key { code, class: None, subject, host }, victim, facts)
    }

    /// A finding about the connection that an unseen lookup needed, without cost yet.
    pub(crate) fn of_connection(connection: &Connection, code: Code, facts: Facts) -> Self {
        let server = connection.remote;
        let (subject, host) = (server.to_string(), connection.actor.host.of(server.ip()));
        let victim = Victim {
            actor: connection.actor.clone(),
            lookup: None,
            name: None,
            waited: Intervals::default(),
            failed: !connection.asked_after,
            patience: None,
        };
        Self::new(Key { code, class: None, subject, host }, victim, facts)
    }

    fn new(key: Key, victim: Victim, facts: Facts) -> Self {
        Self {
            key,
            confidence: Confidence::Certain,
            cost: Intervals::default(),
            evidence: BTreeSet::new(),
            lookups: victim.lookup.into_iter().collect(),
            failed: victim.failed,
            victims: vec![victim],
            caused_by: BTreeSet::new(),
            facts,
            harmless: false,
        }
    }

    /// The lookup waited during `span` because of it.
    pub(crate) fn charge(&mut self, span: Span) {
        self.cost.add(span);
        if let Some(victim) = self.victims.first_mut() {
            victim.waited.add(span);
        }
    }

    pub(crate) fn show(&mut self, events: impl IntoIterator<Item = u64>) {
        self.evidence.extend(events);
        while self.evidence.len() > EVIDENCE_MAX {
            self.evidence.pop_last();
        }
    }

    /// Another sighting of the same.
    pub(crate) fn merge(&mut self, other: Self) {
        self.cost.extend(&other.cost);
        self.show(other.evidence);
        for victim in other.victims {
            let known = self.victims.iter_mut().find(|v| v.is(&victim));
            if let Some(known) = known {
                known.waited.extend(&victim.waited);
                known.failed |= victim.failed;
            } else if self.victims.len() < VICTIMS_MAX {
                self.victims.push(victim);
            }
        }
        self.lookups.extend(other.lookups);
        while self.lookups.len() > LOOKUPS_MAX {
            self.lookups.pop_last();
        }
        self.failed |= other.failed;
        self.harmless &= other.harmless;
        self.caused_by.extend(other.caused_by);
        if other.confidence == Confidence::Certain {
            self.confidence = Confidence::Certain;
        }
        self.facts.merge(other.facts);
    }

    /// `client` got an answer over another connection: it did not fail for want of this one.
    pub(crate) fn asked_elsewhere(&mut self, client: &Actor) {
        if !matches!(self.facts, Facts::Unasked(_)) {
            return;
        }
        for victim in self.victims.iter_mut().filter(|victim| victim.is_of(client)) {
            victim.failed = false;
        }
        self.failed = self.victims.iter().any(|victim| victim.failed);
    }

    /// Start and end of what it is about.
    pub(crate) fn window(&self) -> Option<Span> {
        Some((self.cost.start()?, self.cost.end()?))
    }

    /// Names of the processes it hit: `curl`, `curl and python3`.
    pub(crate) fn comms(&self) -> String {
        let comms: BTreeSet<String> = self
            .victims
            .iter()
            .filter_map(|v| v.actor.task.as_ref())
            .map(|t| t.comm.clone())
            .filter(|c| !c.is_empty())
            .collect();
        let comms: Vec<String> = comms.into_iter().collect();
        if !comms.is_empty() {
            return words::list(&comms, 3);
        }
        let addresses = self.victims.iter().filter(|v| v.actor.is_address());
        let addresses: BTreeSet<String> =
            addresses.filter_map(|v| Some(v.actor.local?.ip().to_string())).collect();
        let addresses: Vec<String> = addresses.into_iter().collect();
        if addresses.is_empty() { "a client".to_owned() } else { words::list(&addresses, 3) }
    }

    /// `curl waited 10.0 s`, `3 lookups of curl and wget waited 12.1 s`.
    pub(crate) fn waited(&self) -> String {
        let time = words::time(self.cost.length_ns());
        match self.lookups.len() {
            0 | 1 => format!("{} waited {time}", self.comms()),
            n => format!("{n} lookups of {} waited {time}", self.comms()),
        }
    }

    /// Each victim once, for details.
    pub(crate) fn clients(&self, who: &Identifier) -> Value {
        let clients = self.victims.iter().map(|v| {
            let identity = who.identity(&v.actor);
            let mut client = serde_json::json!({
                "namespace": identity.namespace,
                "pod": identity.pod,
                "comm": identity.comm,
                "pid": identity.pid,
                "lookup": v.lookup,
                "name": v.name,
                "waited_ns": v.waited.length_ns(),
                "failed": v.failed,
            });
            if let Some(its) = &v.patience {
                client["patience"] = patience::details(its);
            }
            if let Some(address) = identity.address {
                client["address"] = address.to_string().into();
            }
            client
        });
        Value::Array(clients.collect())
    }

    fn severity(&self, threshold_ns: u64) -> Severity {
        let cost = self.cost.length_ns();
        if self.harmless {
            Severity::Info
        } else if self.failed || cost >= SEVERE_NS {
            Severity::Error
        } else if cost >= threshold_ns {
            Severity::Warning
        } else {
            Severity::Info
        }
    }

    fn identity(&self, who: &Identifier) -> Identity {
        let mut all = self.victims.iter().map(|v| who.identity(&v.actor));
        let first = all.next().unwrap_or_default();
        all.fold(first, common)
    }

    /// Writes the finding. `ids` numbers the findings told before it in the same block.
    pub(crate) fn finding(
        &self,
        id: u64,
        ids: &BTreeMap<Key, u64>,
        caveats: Vec<String>,
        threshold_ns: u64,
        at: Timestamp,
        known: &Known<'_>,
    ) -> Finding {
        let who = known.who;
        let mut text = match &self.facts {
            Facts::Upstream(f) => upstream::text(self, f, who),
            Facts::Silent(f) => resolver::silent_text(self, f, who),
            Facts::Race(f) => race::text(self, f, who),
            Facts::Slow(f) => slow::text(self, f, who),
            Facts::Unreachable(f) => resolver::unreachable_text(self, f, who),
            Facts::Error(f) => dns_error::text(self, f, who),
            Facts::Truncated(f) => truncated::text(self, f, who),
            Facts::Expansion(f) => search::expansion_text(self, f, known),
            Facts::Foreign(f) => search::foreign_text(self, f, known),
            Facts::Nxdomain(f) => nxdomain::text(self, f, who),
            Facts::Lost(f) => lost::text(f),
            Facts::Unasked(f) => unasked::text(self, f, who),
        };
        patience::tell(self, &mut text);
        let confidence = match &self.facts {
            Facts::Race(facts) if race::is_proven(self, facts, who) => Confidence::Certain,
            _ => self.confidence,
        };
        Finding {
            schema: 1,
            id,
            ts: Ts(self.window().map_or(at, |(from, _)| from)),
            code: self.key.code,
            severity: match &self.facts {
                Facts::Lost(_) => Severity::Warning,
                _ => self.severity(threshold_ns),
            },
            class: self.key.class.clone(),
            confidence,
            inferred_from: match confidence {
                Confidence::Certain => Vec::new(),
                Confidence::Inferred => text.inferred_from,
            },
            caveats,
            caused_by: self.caused_by.iter().filter_map(|k| ids.get(k)).copied().collect(),
            lookups: self.lookups.iter().copied().collect(),
            identity: self.identity(who),
            subject: self.key.subject.clone(),
            cost_ns: match &self.facts {
                Facts::Lost(_) => 0,
                _ => self.cost.length_ns(),
            },
            evidence: self.evidence.iter().copied().collect(),
            title: text.title,
            cause: text.cause,
            remedy: text.remedy,
            details: text.details,
        }
    }
}

impl Facts {
    fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Upstream(a), Self::Upstream(b)) => a.merge(b),
            (Self::Silent(a), Self::Silent(b)) => a.merge(b),
            (Self::Race(a), Self::Race(b)) => a.merge(b),
            (Self::Slow(a), Self::Slow(b)) => a.merge(b),
            (Self::Unreachable(a), Self::Unreachable(b)) => a.merge(b),
            (Self::Error(a), Self::Error(b)) => a.merge(b),
            (Self::Truncated(a), Self::Truncated(b)) => a.merge(b),
            (Self::Expansion(a), Self::Expansion(b)) => a.merge(b),
            (Self::Foreign(a), Self::Foreign(b)) => a.merge(b),
            (Self::Lost(a), Self::Lost(b)) => a.merge(b),
            (Self::Unasked(a), Self::Unasked(b)) => a.merge(b),
            _ => {}
        }
    }
}

/// The lookup ended without what was asked for, for a reason other than missing data of that type.
pub(crate) fn failed(lookup: &Lookup) -> bool {
    use crate::report::Outcome;
    !matches!(lookup.outcome, Outcome::Answered | Outcome::Nodata | Outcome::Undecided)
}

/// What two identities share.
fn common(a: Identity, b: Identity) -> Identity {
    fn same<T: PartialEq>(a: Option<T>, b: Option<T>) -> Option<T> {
        if a == b { a } else { None }
    }
    Identity {
        namespace: same(a.namespace, b.namespace),
        pod: same(a.pod, b.pod),
        named_by: same(a.named_by, b.named_by),
        container: same(a.container, b.container),
        container_id: same(a.container_id, b.container_id),
        node: same(a.node, b.node),
        host: same(a.host, b.host),
        owner: same(a.owner, b.owner),
        cgroup: same(a.cgroup, b.cgroup),
        pid: same(a.pid, b.pid),
        tid: same(a.tid, b.tid),
        comm: same(a.comm, b.comm),
        address: same(a.address, b.address),
    }
}
