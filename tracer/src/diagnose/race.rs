//! `aaaa-race`: of an A and an AAAA query sent from one socket together, one never reached the
//! resolver while the other was answered. Where the resolver received it, it is `resolver-timeout`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;

use crate::correlate::{Attempt, Lookup, Received, Sent, Transaction};
use crate::event::Actor;
use crate::identify::Identifier;
use crate::record::Timestamp;
use crate::report::{Code, Confidence, Transport};

use super::draft::{self, Draft, Text};
use super::interval::Span;
use super::{refused, words};

/// Queries sent within this time are sent together: no answer to the first could have come between.
const TOGETHER_NS: u64 = 5_000_000;
/// A repeated query that is answered within this time shows that nobody was slow.
const PROMPT_NS: u64 = 1_000_000_000;
/// Clocks of two processors.
const SKEW_NS: u64 = 1_000_000;

/// What is known about the lost queries.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    server: SocketAddr,
    names: BTreeSet<String>,
    qtypes: BTreeSet<String>,
    /// Pairs that lost one.
    pairs: usize,
    /// The longest time between the two queries of a pair.
    gap_ns: u64,
    /// The resolver is traced and got the other half only.
    not_received: bool,
    library: Option<&'static str>,
    resolver: Option<Actor>,
    /// When the lost queries went out.
    sent: BTreeSet<Timestamp>,
    /// What is missing for certainty.
    doubts: BTreeSet<&'static str>,
}

impl Facts {
    pub(crate) fn merge(&mut self, other: Self) {
        words::add(&mut self.names, other.names);
        self.qtypes.extend(other.qtypes);
        self.pairs += other.pairs;
        self.gap_ns = self.gap_ns.max(other.gap_ns);
        self.not_received |= other.not_received;
        self.library = self.library.filter(|_| self.library == other.library);
        if self.resolver.is_none() {
            self.resolver = other.resolver;
        }
        refused::add(&mut self.sent, other.sent);
        self.doubts.extend(other.doubts);
    }
}

/// The finding about a silence that one lost half of a pair explains.
pub(crate) fn found(
    lookup: &Lookup,
    attempt: &Attempt,
    transaction: &Transaction,
    silence: Span,
) -> Option<Draft> {
    let (lost, other) = pair(attempt, transaction)?;
    let traced = other.tie.received.as_deref().is_some_and(in_socket);
    if arrived(lost) || arrived(transaction) {
        return None;
    }
    let again = answered_again(attempt, lost);
    let later = (lost.started(), first_event(lost)) > (other.started(), first_event(other));
    if !traced && (!later || again.is_none() || !prompt(other)) {
        return None; // nothing tells it from a resolver that is stuck on one type
    }
    let alone = again.is_some_and(|sent| alone(other, sent));
    let doubts = [
        (
            !traced,
            "the resolver's side of these queries was not seen: an answer that got lost, or an upstream that lost one query, looks the same",
        ),
        (!later, "the query that was sent first got lost, not the later one as in the usual race"),
        (
            again.is_none(),
            "no repeated query of this type was answered: a filter that drops it looks the same",
        ),
        (again.is_some() && !alone, "the query was repeated together with the other one"),
    ];
    let doubts: BTreeSet<&str> = doubts.iter().filter(|(is, _)| *is).map(|(_, why)| *why).collect();
    let certain = doubts.is_empty();
    let facts = draft::Facts::Race(Facts {
        server: transaction.server,
        names: BTreeSet::from([transaction.asked.name.to_string()]),
        qtypes: BTreeSet::from([transaction.asked.qtype.to_string()]),
        pairs: usize::from(std::ptr::eq(lost, transaction)),
        gap_ns: gap(lost, other),
        not_received: traced,
        library: lookup.library,
        resolver: other.tie.received.as_deref().map(|received| received.resolver.clone()),
        sent: BTreeSet::from([lost.started()]),
        doubts,
    });
    let subject = transaction.server.to_string();
    let mut draft = Draft::about(lookup, Code::AaaaRace, subject, facts);
    if !certain {
        draft.confidence = Confidence::Inferred;
    }
    draft.charge(silence);
    draft.show(transaction.events.iter().chain(&other.events).copied());
    let arrivals = other.tie.received.iter().chain(&transaction.tie.received);
    draft.show(arrivals.flat_map(|r| &r.arrivals).map(|a| a.number));
    Some(draft)
}

/// The first queries of both address types of an attempt, that of `transaction`'s type in front, if
/// they went together to one server and only the other one was answered at once.
fn pair<'a>(
    attempt: &'a Attempt,
    transaction: &Transaction,
) -> Option<(&'a Transaction, &'a Transaction)> {
    let qtype = transaction.asked.qtype.as_ref();
    let partner = match qtype {
        "A" => "AAAA",
        "AAAA" => "A",
        _ => return None,
    };
    let first = |qtype| attempt.transactions.iter().find(|t| t.asked.qtype == qtype);
    let (lost, other) = (first(qtype)?, first(partner)?);
    let reply = other.reply.as_ref()?;
    let together = lost.socket == other.socket
        && (lost.client, lost.wire) == (other.client, other.wire)
        && lost.transport == Transport::Udp
        && gap(lost, other) <= TOGETHER_NS
        && !lost.recovered
        && !other.recovered;
    let at_once = reply.at >= lost.started().max(other.started())
        && other.sends.get(1).is_none_or(|again| reply.at < again.at);
    let silent = lost.silence().is_some_and(|(_, until)| reply.at < until);
    (together && at_once && silent).then_some((lost, other))
}

/// Time between the two first sends.
fn gap(a: &Transaction, b: &Transaction) -> u64 {
    a.started().0.abs_diff(b.started().0)
}

fn first_event(t: &Transaction) -> u64 {
    t.sends.first().map_or(0, |s| s.number)
}

/// The resolver's own socket was seen getting it, not a packet on its way there.
fn in_socket(received: &Received) -> bool {
    !received.resolver.is_address()
}

/// The first datagram of the transaction reached the resolver, as far as that was seen.
pub(crate) fn arrived(t: &Transaction) -> bool {
    let again = t.sends.get(1).map(|s| s.at.0.saturating_sub(SKEW_NS));
    let before = |at: Timestamp| again.is_none_or(|again| at.0 < again);
    t.tie.received.iter().flat_map(|r| &r.arrivals).any(|a| before(a.at))
}

/// When the query was repeated that got an answer.
fn answered_again(attempt: &Attempt, lost: &Transaction) -> Option<Sent> {
    let mut tries = attempt.transactions.iter().filter(|t| t.asked == lost.asked);
    tries.find_map(|t| {
        let reply = t.reply.as_ref()?;
        let sent = t.send_before(reply.at)?;
        let repeated = !std::ptr::eq(t, lost) || sent.at > lost.started();
        (repeated && reply.at.since(sent.at) < PROMPT_NS).then_some(*sent)
    })
}

/// No query of the other type was under way when this one was sent.
fn alone(other: &Transaction, sent: Sent) -> bool {
    let answers = || {
        let first = other.reply.iter().map(|r| r.at);
        first.chain(other.repeats.iter().map(|r| r.at))
    };
    other
        .sends
        .iter()
        .filter(|s| s.at <= sent.at && sent.at.since(s.at) <= TOGETHER_NS)
        .all(|s| answers().any(|at| at >= s.at && at <= sent.at))
}

/// It was answered at once.
fn prompt(t: &Transaction) -> bool {
    t.latency().is_some_and(|ns| ns < PROMPT_NS)
}

/// Conntrack refused as many insertions as queries got lost, and no other: that is what happened to them.
pub(crate) fn is_proven(draft: &Draft, facts: &Facts, who: &Identifier) -> bool {
    let said = refused::around(draft, facts.resolver.as_ref(), &facts.sent, who);
    said.insert_failed() == Some(facts.sent.len() as u64)
}

pub(crate) fn text(draft: &Draft, facts: &Facts, who: &Identifier) -> Text {
    let server = words::address(facts.server, who);
    let names: Vec<String> = facts.names.iter().cloned().collect();
    let asked = words::list(&names, 3);
    let qtypes: Vec<String> = facts.qtypes.iter().cloned().collect();
    let lost = words::list(&qtypes, 2);
    let gap = words::time(facts.gap_ns);
    let pairs = words::count(facts.pairs.max(1), "pair", "pairs");
    let way = if facts.not_received {
        "The resolver was seen receiving the other query of the pair, and not this one"
    } else {
        "The other query of the pair was answered at once"
    };
    let said = refused::around(draft, facts.resolver.as_ref(), &facts.sent, who);
    let race = "two packets of a new flow at once race for its conntrack entry, and the loser is dropped (insert_failed)";
    let mechanism = match said.insert_failed() {
        None if said.is_unreadable() => {
            format!("Most likely {race}: its counters could not be read.")
        }
        None => format!("{}.", words::sentence(race)),
        Some(0) => format!(
            "Conntrack refused no insertion just then (insert_failed stood still in {}): something else dropped it, such as a filter, or a race elsewhere.",
            said.places()
        ),
        Some(_) => format!("{} just then: {race}.", words::sentence(&said.refusals())),
    };
    let mut remedy = remedy(facts.library);
    if said.insert_failed() == Some(0) {
        remedy.insert(0, FILTERED.to_owned());
    }
    Text {
        title: format!(
            "{lost} queries to {server} got lost beside their twins: {}",
            draft.waited()
        ),
        cause: format!(
            "A and AAAA for {asked} left one socket within {gap}; of {pairs} one query ({lost}) got lost before it reached the resolver. {way}. {mechanism}"
        ),
        remedy,
        details: [
            ("server", json!(facts.server.to_string())),
            ("names", json!(names)),
            ("lost", json!(qtypes)),
            ("pairs", json!(facts.pairs)),
            ("gap_ns", json!(facts.gap_ns)),
            ("resolver_traced", json!(facts.not_received)),
            ("conntrack", said.details()),
            ("clients", draft.clients(who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: facts.doubts.iter().map(|why| (*why).to_owned()).collect(),
    }
}

/// What to look at where it was not conntrack.
const FILTERED: &str = "look for what drops such packets: counters of filter rules on the node (`nft list ruleset`, `iptables -L -v -n`), network policies, interface drops";

fn remedy(library: Option<&'static str>) -> Vec<String> {
    const REOPEN: &str = "in the pod's spec: `dnsConfig: {options: [{name: single-request-reopen}]}`, so that A and AAAA go from two sockets, one after the other";
    const CACHE: &str = "run NodeLocal DNSCache: its traffic is not translated, so there is no conntrack entry to race for";
    const TCP: &str = "or ask over TCP: `dnsConfig: {options: [{name: use-vc}]}`";
    match library {
        // It knows neither option.
        Some("musl") => vec![CACHE.to_owned()],
        Some("glibc" | "go") => vec![REOPEN.to_owned(), CACHE.to_owned(), TCP.to_owned()],
        // It knows the last one only.
        Some("c-ares") => vec![CACHE.to_owned(), TCP.to_owned()],
        _ => vec![
            format!("{REOPEN} (glibc, Go; musl and c-ares do not know it)"),
            CACHE.to_owned(),
            format!("{TCP} (glibc, Go, c-ares; musl does not know it)"),
        ],
    }
}
