//! `slow-dns`: a server that answers, but later than it should; one finding a server, with how late
//! and where the time went. A wait that a silence explains is that silence's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::correlate::{Lookup, Received, Transaction};
use crate::event::Actor;
use crate::identify::Identifier;
use crate::record::Timestamp;
use crate::report::{Code, Outcome};

use super::draft::{self, Draft, Text};
use super::interval::Intervals;
use super::words;

/// Slowest questions kept.
const WORST_MAX: usize = 5;
const NAMES_MAX: usize = 64;
const UPSTREAMS_MAX: usize = 64;

/// How long answers of one server took, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread {
    pub(crate) answers: u64,
    pub(crate) p50: u64,
    pub(crate) p95: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
}

/// What is known about slow answers.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) server: SocketAddr,
    threshold_ns: u64,
    pub(crate) slow: u64,
    /// Slowest first: latency, event of the question, name, type.
    worst: BTreeSet<(u64, u64, String, String)>,
    names: BTreeSet<String>,
    resolver: Option<Actor>,
    /// Time of all slow answers, of those whose resolver was seen, and where that went.
    total_ns: u64,
    seen_ns: u64,
    inside_ns: u64,
    upstreams: BTreeMap<SocketAddr, u64>,
    /// Answers that came after the client had given up.
    late: u64,
    /// Of all answers since the finding before; filled when it is told.
    pub(crate) spread: Spread,
}

impl Facts {
    pub(crate) fn merge(&mut self, other: Self) {
        self.slow += other.slow;
        self.late += other.late;
        self.worst.extend(other.worst);
        while self.worst.len() > WORST_MAX {
            self.worst.pop_first();
        }
        for name in other.names {
            if self.names.len() < NAMES_MAX {
                self.names.insert(name);
            }
        }
        self.resolver = self.resolver.take().or(other.resolver);
        self.total_ns += other.total_ns;
        self.seen_ns += other.seen_ns;
        self.inside_ns += other.inside_ns;
        for (upstream, ns) in other.upstreams {
            if self.upstreams.len() < UPSTREAMS_MAX || self.upstreams.contains_key(&upstream) {
                *self.upstreams.entry(upstream).or_default() += ns;
            }
        }
    }

    /// The slowest of its answers, in nanoseconds.
    pub(crate) fn slowest(&self) -> u64 {
        self.worst.last().map_or(0, |(ns, ..)| *ns)
    }

    /// The part of the time that is known which `ns` is, in percent.
    fn percent(&self, ns: u64) -> u64 {
        ns.saturating_mul(100).checked_div(self.seen_ns).unwrap_or(0).min(100)
    }

    /// Where most of the time went, if that was seen.
    pub(crate) fn class(&self) -> Option<&'static str> {
        if self.seen_ns == 0 || self.seen_ns < self.total_ns / 2 {
            return None;
        }
        let upstream: u64 = self.upstreams.values().sum();
        let way = self.seen_ns.saturating_sub(self.inside_ns);
        let own = self.inside_ns.saturating_sub(upstream);
        let parts = [(upstream, "upstream"), (own, "resolver"), (way, "way")];
        parts.into_iter().find(|(ns, _)| *ns > self.seen_ns / 2).map(|(_, class)| class)
    }
}

/// How long the server took, if that can be told: of a repeated query it is not known which one
/// was answered.
pub(crate) fn latency(t: &Transaction) -> Option<u64> {
    let first = |at: Timestamp| t.sends.get(1).is_none_or(|again| at < again.at);
    match (&t.reply, &t.late) {
        (Some(reply), _) if t.earlier_errors.is_empty() && first(reply.at) => t.latency(),
        (None, Some(late)) if first(late.at) => t.late_ns(),
        _ => None,
    }
}

/// The slow answer to one transaction.
pub(crate) fn found(lookup: &Lookup, t: &Transaction, threshold_ns: u64) -> Option<Draft> {
    let ns = latency(t).filter(|ns| *ns >= threshold_ns)?;
    let answer = t.reply.as_ref().or(t.late.as_deref())?;
    if answer.is_error() || matches!(t.verdict(), Outcome::Error | Outcome::Unreachable) {
        return None; // an error has a finding of its own
    }
    let received = t.tie.received.as_deref();
    let mut facts = Facts {
        server: t.server,
        threshold_ns,
        slow: 1,
        worst: BTreeSet::from([(
            ns,
            first(t),
            t.asked.name.to_string(),
            t.asked.qtype.to_string(),
        )]),
        names: BTreeSet::from([t.asked.name.to_string()]),
        resolver: received.map(|r| r.resolver.clone()),
        total_ns: ns,
        seen_ns: 0,
        inside_ns: 0,
        upstreams: BTreeMap::new(),
        late: u64::from(t.reply.is_none()),
        spread: Spread::default(),
    };
    if let Some(received) = received {
        facts.seen_ns = ns;
        facts.attribute(received, answer.at);
    }
    let subject = t.server.to_string();
    let mut draft = Draft::about(lookup, Code::SlowDns, subject, draft::Facts::Slow(facts));
    draft.failed = false; // a slow answer is an answer
    draft.charge((t.started(), t.ended()?.max(t.started())));
    draft.show(t.events.iter().copied());
    let asked = received.map(Received::leaves).unwrap_or_default();
    draft.show(asked.iter().map(|leaf| leaf.query.sent.number));
    Some(draft)
}

fn first(t: &Transaction) -> u64 {
    t.sends.first().map_or(0, |s| s.number)
}

impl Facts {
    /// Where the time until `end` went: to upstreams, each instant once, or inside the resolver.
    fn attribute(&mut self, received: &Received, end: Timestamp) {
        let Some(begin) = received.arrivals.first().map(|a| a.at) else { return };
        let end = received.answered.map_or(end, |(sent, _)| sent.at.min(end));
        self.inside_ns += end.since(begin);
        let mut told = Intervals::default();
        // Those that answered first: whoever was asked in vain meanwhile delayed nobody.
        let mut tries: Vec<_> = received.leaves().into_iter().map(|leaf| leaf.query).collect();
        tries.sort_by_key(|t| (t.answered.is_none(), t.sent.at));
        for t in tries {
            let before = told.length_ns();
            told.add((t.sent.at.max(begin), t.until.min(end)));
            *self.upstreams.entry(t.server).or_default() += told.length_ns() - before;
        }
    }
}

pub(crate) fn text(draft: &Draft, facts: &Facts, who: &Identifier) -> Text {
    let server = words::address(facts.server, who);
    let spread = facts.spread;
    let time = words::time;
    let names: Vec<String> = facts.names.iter().cloned().collect();
    let mut cause = format!(
        "{} of {} from {server} took {} or more: half of all came within {}, 95 % within {}, the slowest after {}",
        facts.slow,
        words::count(usize::try_from(spread.answers).unwrap_or(usize::MAX), "answer", "answers"),
        time(facts.threshold_ns),
        time(spread.p50),
        time(spread.p95),
        time(spread.max),
    );
    if let Some((_, _, name, qtype)) = facts.worst.last() {
        cause.push_str(&format!(" ({name}, {qtype})"));
    }
    cause.push_str(". ");
    cause.push_str(&whose(facts, who));
    if facts.late > 0 {
        cause.push_str(&format!(" {} came after the client had given up.", facts.late));
    }
    Text {
        title: format!("{server} answered slowly: {}", draft.waited()),
        cause,
        remedy: remedy(facts, who),
        details: details(draft, facts, &names, who),
        inferred_from: Vec::new(),
    }
}

/// Upstreams by their share, the largest first.
fn shares(facts: &Facts) -> Vec<(SocketAddr, u64)> {
    let mut all: Vec<(SocketAddr, u64)> = facts.upstreams.iter().map(|(s, ns)| (*s, *ns)).collect();
    all.sort_by_key(|(server, ns)| (std::cmp::Reverse(*ns), *server));
    all
}

fn whose(facts: &Facts, who: &Identifier) -> String {
    let resolver = facts.resolver.as_ref().map(|r| words::who(&who.identity(r)));
    let resolver = resolver.unwrap_or_else(|| "unknown".to_owned());
    let upstreams: Vec<String> = shares(facts)
        .iter()
        .map(|(s, ns)| format!("{} ({} %)", words::address(*s, who), facts.percent(*ns)))
        .collect();
    match facts.class() {
        Some("upstream") => format!(
            "The resolver ({resolver}) passed the questions on and waited for the answers of {}.",
            words::list(&upstreams, 3)
        ),
        Some("resolver") => format!(
            "The time went by inside the resolver ({resolver}): its upstreams account for {} % of it.",
            facts.percent(facts.upstreams.values().sum())
        ),
        Some(_) => format!(
            "The resolver ({resolver}) took {} % of the time; the rest went by between it and the client.",
            facts.percent(facts.inside_ns)
        ),
        None if facts.seen_ns == 0 => {
            "The resolver's side was not seen: it, an upstream of it or the way there was slow."
                .to_owned()
        }
        None => "No part of the way accounts for most of the time.".to_owned(),
    }
}

fn remedy(facts: &Facts, who: &Identifier) -> Vec<String> {
    let one = match facts.class() {
        Some("upstream") => {
            let upstream = shares(facts).first().map(|(s, _)| words::address(*s, who));
            let upstream = upstream.unwrap_or_default();
            format!("make {upstream} faster, or let the resolver forward elsewhere and cache longer (CoreDNS: `forward`, `cache`)")
        }
        Some("resolver") => "look at the resolver's pods: CPU limits and throttling, their number, the size of the cache".to_owned(),
        Some(_) => "look at what lies between the client and the resolver: the node's load, queues, a far zone".to_owned(),
        None => "trace the resolver's node, too (`-w` on both, read together with `-r A -r B`): then it shows whether its upstream is slow".to_owned(),
    };
    vec![one, "NodeLocal DNSCache answers repeated questions on the node itself".to_owned()]
}

fn details(
    draft: &Draft,
    facts: &Facts,
    names: &[String],
    who: &Identifier,
) -> BTreeMap<String, Value> {
    let worst = facts.worst.iter().rev().map(|(ns, event, name, qtype)| {
        json!({ "name": name, "qtype": qtype, "latency_ns": ns, "event": event })
    });
    let upstreams = shares(facts).into_iter().map(|(server, ns)| {
        json!({ "server": server.to_string(), "time_ns": ns, "percent": facts.percent(ns) })
    });
    let resolver = facts.resolver.as_ref().map(|r| who.identity(r));
    let spread = facts.spread;
    [
        ("server", json!(facts.server.to_string())),
        ("threshold_ns", json!(facts.threshold_ns)),
        ("answers", json!(spread.answers)),
        ("slow", json!(facts.slow)),
        ("late", json!(facts.late)),
        ("p50_ns", json!(spread.p50)),
        ("p95_ns", json!(spread.p95)),
        ("p99_ns", json!(spread.p99)),
        ("max_ns", json!(spread.max)),
        ("slowest", Value::Array(worst.collect())),
        ("names", json!(names)),
        ("resolver", json!(resolver)),
        ("resolver_ns", json!(facts.inside_ns.saturating_sub(facts.upstreams.values().sum()))),
        ("upstreams", Value::Array(upstreams.collect())),
        ("clients", draft.clients(who)),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}
