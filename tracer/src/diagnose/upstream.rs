//! `upstream-timeout`: the resolver asked somebody else, who stayed silent. Certain when the resolver
//! was seen asking; else inferred for a zone of which nothing was answered while the same server
//! answered other names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::json;

use crate::correlate::{Leaf, Lookup, Received, Transaction};
use crate::event::{Actor, Protocol};
use crate::identify::Identifier;
use crate::record::Timestamp;
use crate::report::{Code, Confidence, Outcome, TransactionOutcome, Ts};

use super::draft::{self, Draft, Text};
use super::interval::Span;
use super::words;

const TRIES_MAX: usize = 64;
/// Two upstreams asked within this time are raced: the silent one delays nobody.
const RACE_NS: u64 = 20_000_000;

/// One datagram to the upstream.
#[derive(Clone, Debug)]
struct Try {
    server: SocketAddr,
    at: Timestamp,
    name: String,
    qtype: String,
    silence_ns: u64,
    /// Nothing was seen sent.
    connecting: bool,
    /// For a question before the clients' on one connection.
    behind: bool,
}

/// What is known about the silence.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// The upstream, when it was seen.
    upstream: Option<SocketAddr>,
    /// What was asked of it, or the zone that got no answers.
    zone: String,
    resolver: Option<Actor>,
    /// The resolvers between that one and the upstream, in order.
    passed: Vec<Actor>,
    /// The upstream is a traced resolver that received the questions.
    received_by: Option<Actor>,
    /// Server the clients asked.
    server: SocketAddr,
    tries: BTreeMap<u64, Try>,
    /// Inferred: names the same server answered.
    others: BTreeSet<String>,
    datagrams: usize,
    /// How the resolver ended it, e.g. SERVFAIL.
    errors: usize,
}

impl Facts {
    pub(crate) fn merge(&mut self, other: Self) {
        for (number, new) in other.tries {
            // Its own client tells more of a try than one that stood behind.
            let known = self.tries.entry(number).or_insert_with(|| new.clone());
            if known.behind && !new.behind {
                *known = new;
            }
        }
        while self.tries.len() > TRIES_MAX {
            self.tries.pop_last();
        }
        words::add(&mut self.others, other.others);
        self.datagrams += other.datagrams;
        self.errors += other.errors;
    }
}

/// Silent tries of one upstream behind one client transaction.
#[derive(Debug)]
pub(crate) struct Silence<'a> {
    server: SocketAddr,
    /// It is the connection that did not come about.
    connecting: bool,
    /// What was asked were questions before it on its connection.
    behind: bool,
    tries: Vec<Leaf<'a>>,
    pub(crate) span: Span,
}

/// The upstreams whose silence a client's transaction waited for, at least `least_ns`.
pub(crate) fn silences<'a>(
    transaction: &Transaction,
    received: &'a Received,
    least_ns: u64,
) -> Vec<Silence<'a>> {
    let Some(end) = transaction.ended() else { return Vec::new() };
    let leaves = received.leaves();
    // An upstream that answered explains the wait from the moment it was asked.
    let answered =
        |l: &&Leaf<'_>| l.query.answered.is_some_and(|(_, rcode)| rcode != 2 && rcode != 5);
    let helped = leaves.iter().filter(answered).map(|l| l.query.sent.at).min();
    let end = helped.map_or(end, |at| at.min(end));
    let mut by_server: BTreeMap<(SocketAddr, bool, bool), Vec<Leaf<'a>>> = BTreeMap::new();
    for leaf in leaves.into_iter().filter(|l| l.query.answered.is_none()) {
        let t = leaf.query;
        if t.silence_ns() > RACE_NS && t.sent.at.plus(RACE_NS) < end {
            let key = (t.server, t.connecting, t.instead.is_some());
            by_server.entry(key).or_default().push(leaf);
        }
    }
    let mut silences = Vec::new();
    for ((server, connecting, behind), tries) in by_server {
        let Some(until) = tries.iter().map(|l| l.query.until).max() else { continue };
        let from = tries.iter().map(|l| l.query.sent.at).min().unwrap_or(until);
        // What came before the first try is the way to the resolver, told with it.
        let from =
            if from.since(transaction.started()) < RACE_NS { transaction.started() } else { from };
        let span = (from, until.min(end));
        if span.1.since(span.0) >= least_ns {
            silences.push(Silence { server, connecting, behind, tries, span });
        }
    }
    silences
}

/// The finding about one upstream's silence.
pub(crate) fn seen(
    lookup: &Lookup,
    transaction: &Transaction,
    received: &Received,
    silence: &Silence<'_>,
) -> Draft {
    let last = silence.tries.last();
    let path = last.map(|leaf| leaf.path.as_slice()).unwrap_or_default();
    let asking = path.last().map_or(&received.resolver, |last| *last);
    let tries = silence.tries.iter().map(|leaf| leaf.query).map(|t| {
        let asked = t.instead.as_ref().unwrap_or(&transaction.asked);
        let what = Try {
            server: t.server,
            at: t.sent.at,
            name: asked.name.to_string(),
            qtype: asked.qtype.clone().into_owned(),
            silence_ns: t.silence_ns(),
            connecting: t.connecting,
            behind: t.instead.is_some(),
        };
        (t.sent.number, what)
    });
    let facts = Facts {
        upstream: Some(silence.server),
        zone: transaction.asked.name.to_string(),
        resolver: Some(received.resolver.clone()),
        passed: path.iter().skip(1).map(|hop| (*hop).clone()).collect(),
        received_by: last.and_then(|leaf| leaf.received_by).cloned(),
        server: transaction.server,
        tries: tries.collect(),
        others: BTreeSet::new(),
        datagrams: transaction.sends.len(),
        errors: usize::from(transaction.verdict() == Outcome::Servfail),
    };
    let subject = silence.server.to_string();
    let facts = draft::Facts::Upstream(facts);
    let mut draft = Draft::about(lookup, Code::UpstreamTimeout, subject, facts);
    draft.key.host = asking.host.of(silence.server.ip());
    if silence.connecting || silence.behind {
        draft.confidence = Confidence::Inferred;
    }
    draft.charge(silence.span);
    draft.show(transaction.events.iter().copied());
    draft.show(received.arrivals.iter().map(|a| a.number));
    draft.show(silence.tries.iter().map(|leaf| leaf.query.sent.number));
    draft
}

/// The finding about a zone that got no answers, when the facts allow to say so: nothing of it was
/// answered, more than one datagram was lost, and the server answered other names.
pub(crate) fn inferred(
    lookup: &Lookup,
    transaction: &Transaction,
    suffix: Option<&str>,
    domain: Option<&str>,
) -> Option<Draft> {
    let name = transaction.asked.name.as_ref();
    if domain.is_some_and(|d| within(name, d)) {
        return None; // the cluster's own names are not forwarded
    }
    let zone = suffix.map_or_else(|| last_labels(name), str::to_owned);
    let others: BTreeSet<String> =
        transaction.tie.others.iter().map(|o| o.name.to_string()).collect();
    let silent = |t: &&Transaction| {
        within(&t.asked.name, &zone) && t.outcome() == TransactionOutcome::Timeout
    };
    let datagrams: usize = lookup.transactions().filter(silent).map(|t| t.sends.len()).sum();
    let answered = others.iter().any(|o| within(o, &zone))
        || lookup.transactions().any(|t| within(&t.asked.name, &zone) && t.reply.is_some());
    if others.is_empty() || answered || datagrams < 2 {
        return None;
    }
    let facts = draft::Facts::Upstream(Facts {
        upstream: None,
        zone: zone.clone(),
        resolver: None,
        passed: Vec::new(),
        received_by: None,
        server: transaction.server,
        tries: BTreeMap::new(),
        others,
        datagrams: transaction.sends.len(),
        errors: 0,
    });
    let mut draft = Draft::about(lookup, Code::UpstreamTimeout, zone, facts);
    draft.key.class = Some("zone".to_owned());
    draft.confidence = Confidence::Inferred;
    draft.charge((transaction.started(), transaction.ended()?));
    draft.show(transaction.events.iter().copied());
    draft.show(transaction.tie.others.iter().map(|o| o.sent.number).take(16));
    Some(draft)
}

/// `name` is `zone` or below it.
pub(crate) fn within(name: &str, zone: &str) -> bool {
    name.strip_suffix(zone).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn last_labels(name: &str) -> String {
    let labels: Vec<&str> = name.rsplit('.').take(2).collect();
    labels.into_iter().rev().collect::<Vec<_>>().join(".")
}

pub(crate) fn text(draft: &Draft, facts: &Facts, who: &Identifier) -> Text {
    match facts.upstream {
        Some(upstream) => seen_text(draft, facts, upstream, who),
        None => inferred_text(draft, facts, who),
    }
}

fn seen_text(draft: &Draft, facts: &Facts, upstream: SocketAddr, who: &Identifier) -> Text {
    let name = who.address_name(upstream, Protocol::Udp);
    let shown = words::address(upstream, who);
    let identity = facts.resolver.as_ref().map(|r| who.identity(r)).unwrap_or_default();
    let resolver = words::who(&identity);
    let end = match facts.errors {
        0 => "",
        _ => " The resolver then told the client SERVFAIL.",
    };
    let name_of = |hop: &Actor| words::who(&who.identity(hop));
    let passed: Vec<String> = facts.passed.iter().map(name_of).collect();
    let way = match passed.as_slice() {
        [] => String::new(),
        passed => format!(" by way of {}", passed.join(" and ")),
    };
    let there = facts.received_by.as_ref().map(name_of);
    let there = there.map(|name| format!(" {name} received it there and asked nobody."));
    let there = there.unwrap_or_default();
    let hops: Vec<_> = facts.passed.iter().map(|hop| who.identity(hop)).collect();
    let tries: Vec<_> = facts
        .tries
        .iter()
        .map(|(number, t)| {
            json!({ "ts": Ts(t.at).rfc3339(), "server": t.server.to_string(), "name": t.name,
                "qtype": t.qtype, "silence_ns": t.silence_ns, "event": number, "connecting": t.connecting, "behind": t.behind })
        })
        .collect();
    let asked = asked(facts);
    let unsent = facts.tries.values().filter(|t| t.connecting).count();
    let all_unsent = unsent == facts.tries.len();
    let title = match all_unsent {
        true => format!("upstream {shown} takes no connection: {}", draft.waited()),
        false => format!("upstream {shown} did not answer: {}", draft.waited()),
    };
    let waited = match unsent {
        0 => String::new(),
        _ if all_unsent => " It most likely waited for a connection: the question was not seen leaving, and what it had asked there over TCP stayed unanswered.".to_owned(),
        1 => " 1 try of these was not seen leaving: there it most likely waited for a connection.".to_owned(),
        n => format!(" {n} tries of these were not seen leaving: there it most likely waited for a connection."),
    };
    let behind = facts.tries.values().filter(|t| t.behind).count();
    let forwarded = match (all_unsent, behind == facts.tries.len()) {
        (true, _) => "had to forward it",
        (_, true) => {
            "most likely answers those before it on the same connection first, which it had forwarded"
        }
        _ => "forwarded it",
    };
    let cause = format!(
        "The resolver ({resolver}) received the question and {forwarded}{way} to {shown}, which stayed silent: {asked}.{waited}{there}{end}"
    );
    Text {
        title,
        cause,
        remedy: vec![
            format!("repair or replace {upstream} in the resolver's forward configuration (CoreDNS: the `forward` line, or the resolv.conf it names)"),
            "keep names that are not meant for it from being sent there: see the search suffixes named with this finding".to_owned(),
        ],
        details: [
            ("upstream", json!(upstream.to_string())),
            ("upstream_name", json!((name != upstream.to_string()).then_some(name))),
            ("zone", json!(null)),
            ("server", json!(facts.server.to_string())),
            ("resolver", json!(identity)),
            ("hops", json!(hops)),
            ("tries", json!(tries)),
            ("clients", draft.clients(who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: vec![match behind {
            0 => format!(
                "the resolver held the question and was not seen asking anybody, while what it had asked {shown} over TCP stayed unanswered"
            ),
            _ => format!(
                "the resolver held the question and was not seen asking anybody for it, while what it had asked {shown} for a question before it on the same connection stayed unanswered"
            ),
        }],
    }
}

/// What was asked of the upstream, how often, and how long it stayed silent each time.
fn asked(facts: &Facts) -> String {
    let mut by_name: BTreeMap<&str, BTreeMap<&str, Vec<u64>>> = BTreeMap::new();
    for t in facts.tries.values() {
        by_name.entry(&t.name).or_default().entry(&t.qtype).or_default().push(t.silence_ns);
    }
    let asked: Vec<String> = by_name
        .iter()
        .map(|(name, by_type)| {
            // Types that fared the same are told together.
            let mut alike: BTreeMap<(usize, String), Vec<String>> = BTreeMap::new();
            for (qtype, silent) in by_type {
                let fared = (silent.len(), words::times(silent));
                alike.entry(fared).or_default().push((*qtype).to_owned());
            }
            let alike = alike.iter().map(|((tries, silent), types)| {
                let tries = words::count(*tries, "try", "tries");
                let each = if types.len() > 1 { " each" } else { "" };
                format!("{}, {tries}{each}, silent for {silent}", words::list(types, 4))
            });
            format!("{name}, {}", alike.collect::<Vec<_>>().join("; "))
        })
        .collect();
    words::list(&asked, 4)
}

fn inferred_text(draft: &Draft, facts: &Facts, who: &Identifier) -> Text {
    let zone = &facts.zone;
    let server = words::address(facts.server, who);
    let others: Vec<String> = facts.others.iter().cloned().collect();
    let names = words::count(others.len(), "other name", "other names");
    let queries = words::count(facts.datagrams, "query", "queries");
    Text {
        title: format!("names in {zone} get no answer: {}", draft.waited()),
        cause: format!(
            "{queries} for names in {zone} stayed unanswered, while the same server, {server}, answered {names} around that time: the silence is most likely that of the upstream it forwards {zone} to.",
        ),
        remedy: vec![
            format!(
                "find the upstream that the cluster DNS forwards {zone} to (its `forward` configuration) and repair or replace it"
            ),
            "record on the resolver's node too (`-w` on both) and read both captures together (`-r A -r B`): then the upstream and each try are named".to_owned(),
        ],
        details: [
            ("upstream", json!(null)),
            ("upstream_name", json!(null)),
            ("zone", json!(zone)),
            ("server", json!(facts.server.to_string())),
            ("resolver", json!(null)),
            ("hops", json!([])),
            ("tries", json!([])),
            ("clients", draft.clients(who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: vec![
            "the resolver's side of these queries was not seen".to_owned(),
            format!("the server answered meanwhile for {}", words::list(&others, 2)),
        ],
    }
}
