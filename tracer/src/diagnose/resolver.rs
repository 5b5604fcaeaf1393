//! `resolver-timeout` and `resolver-unreachable`: the pod's own resolver did not answer, or could not
//! be reached at all.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::json;

use crate::correlate::{Attempt, GaveUp, Lookup, Received, Transaction};
use crate::describe::errno_name;
use crate::event::{Actor, IcmpError};
use crate::identify::Identifier;
use crate::record::Timestamp;
use crate::report::{Code, Confidence};

use super::draft::{self, Draft, Text};
use super::interval::Span;
use super::{astray, race, refused, words};

/// Sends that were cut short, kept of one finding.
const CUT_SHORT_MAX: usize = 256;
/// ICMP errors kept of one finding.
const ICMP_MAX: usize = 16;

/// What is known about a silent resolver.
#[derive(Clone, Debug)]
pub(crate) struct Silent {
    server: SocketAddr,
    /// The traced resolver that received the queries.
    resolver: Option<Actor>,
    /// It answered, but the answer did not arrive.
    answer_lost: bool,
    /// A repeated query was answered.
    answered_again: bool,
    /// It got only the repeated query.
    query_lost: bool,
    names: BTreeSet<String>,
    datagrams: usize,
    /// When its queries went out.
    sent: BTreeSet<Timestamp>,
    /// What it asked an upstream may have been before the trace.
    early: bool,
    /// Other names it answered meanwhile.
    others: BTreeSet<String>,
    /// Answers that came all the same.
    astray: Option<astray::Facts>,
}

impl Silent {
    pub(crate) fn merge(&mut self, other: Self) {
        words::add(&mut self.names, other.names);
        words::add(&mut self.others, other.others);
        self.datagrams += other.datagrams;
        self.answered_again |= other.answered_again;
        match (&mut self.astray, other.astray) {
            (Some(mine), Some(other)) => mine.merge(&other),
            (mine, other) => *mine = mine.take().or(other),
        }
        self.early |= other.early;
        refused::add(&mut self.sent, other.sent);
    }
}

/// Its datagrams that no answer came to.
fn unanswered(t: &Transaction) -> usize {
    let answers = t.repeats.len() + usize::from(t.reply.is_some());
    t.sends.len().saturating_sub(answers).max(1)
}

/// The finding about a query that the resolver left unanswered.
pub(crate) fn silent(
    lookup: &Lookup,
    transaction: &Transaction,
    silence: Span,
    who: &Identifier,
) -> Option<Draft> {
    let received = transaction.tie.received.as_deref();
    let arrived = race::arrived(transaction);
    let answered = |r: &Received| r.answered.is_some_and(|(sent, _)| sent.at < silence.1);
    let answer_lost = arrived && received.is_some_and(answered);
    let repeats =
        |r: &Received| who.repeats(&transaction.actor, &r.resolver, transaction.started());
    let early = arrived && !answer_lost && received.is_some_and(repeats);
    let others = transaction.tie.others.iter().map(|o| o.name.to_string()).collect();
    let facts = Silent {
        server: transaction.server,
        resolver: received.map(|r| r.resolver.clone()),
        answer_lost,
        query_lost: received.is_some() && !arrived,
        names: BTreeSet::from([transaction.asked.name.to_string()]),
        datagrams: unanswered(transaction),
        answered_again: transaction.reply.is_some(),
        sent: transaction.sends.iter().map(|sent| sent.at).collect(),
        early,
        others,
        astray: astray::facts(transaction),
    };
    let subject = transaction.server.to_string();
    let astray = facts.astray.as_ref().map(astray::Facts::class);
    let class = astray.or(match received {
        Some(_) if !arrived => Some("query-lost"),
        Some(_) if answer_lost => Some("answer-lost"),
        Some(_) => Some("received"),
        None => None,
    });
    let mut draft =
        Draft::about(lookup, Code::ResolverTimeout, subject, draft::Facts::Silent(facts));
    draft.key.class = class.map(str::to_owned);
    // A packet on its way to the resolver is not yet in its socket.
    let unseen = received.is_none_or(|r| r.resolver.is_address());
    if astray.is_none() && (early || unseen) {
        draft.confidence = Confidence::Inferred;
    }
    draft.charge(silence);
    draft.show(transaction.events.iter().copied());
    draft.show(received.into_iter().flat_map(|r| &r.arrivals).map(|a| a.number));
    draft.show(received.and_then(|r| r.answered).map(|(sent, _)| sent.number));
    Some(draft)
}

pub(crate) fn silent_text(draft: &Draft, facts: &Silent, who: &Identifier) -> Text {
    if let Some(astray) = &facts.astray {
        return astray_text(draft, facts, astray, who);
    }
    let server = words::address(facts.server, who);
    let names: Vec<String> = facts.names.iter().cloned().collect();
    let asked = words::list(&names, 3);
    let queries = words::count(facts.datagrams, "query", "queries");
    let identity = facts.resolver.as_ref().map(|r| who.identity(r));
    let resolver = identity.as_ref().map(words::who);
    let others = words::count(facts.others.len(), "other name", "other names");
    let again = if facts.answered_again { " Asked again, it answered." } else { "" };
    let said = refused::around(draft, facts.resolver.as_ref(), &facts.sent, who);
    let (title, mut cause, remedy) = match resolver {
        Some(resolver) if facts.answer_lost => (
            format!("the answer of resolver {server} got lost: {}", draft.waited()),
            format!(
                "The resolver ({resolver}) received {queries} for {asked} and answered, but no answer arrived at the client's socket."
            ),
            "look at what lies between the resolver and the client: network policy, conntrack (a full table, a wrong translation back), rp_filter",
        ),
        Some(resolver) if facts.query_lost => (
            format!("queries to resolver {server} got lost: {}", draft.waited()),
            format!(
                "The resolver ({resolver}) received {queries} for {asked} only when the client asked again: the first one got lost on its way."
            ),
            "look at what lies between the client and the resolver: conntrack (insert_failed, a full table), network policy, interface drops",
        ),
        Some(resolver) => (
            format!("resolver {server} did not answer: {}", draft.waited()),
            format!(
                "The resolver ({resolver}) received {queries} for {asked} and did not answer, and was not seen asking an upstream for it.{again}"
            ),
            "look at the resolver's own pods: CPU limits and throttling, its logs, the health of its plugins",
        ),
        None if facts.others.is_empty() => (
            format!("resolver {server} did not answer: {}", draft.waited()),
            format!(
                "{queries} for {asked} stayed unanswered, and the server answered nothing else in that time.{again}"
            ),
            "look at the resolver's pods and at what lies between: endpoints of the cluster DNS Service, network policy, conntrack, the node",
        ),
        None => (
            format!("resolver {server} left queries unanswered: {}", draft.waited()),
            format!(
                "{queries} for {asked} stayed unanswered, while the server answered {others} around that time: queries or answers were lost, or the resolver is stuck on these names.{again}"
            ),
            "look for lost packets between pod and resolver (conntrack races of A and AAAA, interface drops), and at the resolver's log for these names",
        ),
    };
    // A query that arrived was not refused.
    let arrived = facts.resolver.is_some() && !facts.query_lost;
    let refusals = said.refusals();
    if !arrived && !refusals.is_empty() {
        cause += &format!(" {} just when they went out.", words::sentence(&refusals));
    }
    Text {
        title,
        cause,
        remedy: vec![remedy.to_owned()],
        details: [
            ("server", json!(facts.server.to_string())),
            ("resolver", json!(identity)),
            ("names", json!(names)),
            ("queries", json!(facts.datagrams)),
            ("conntrack", said.details()),
            ("clients", draft.clients(who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: vec![match facts.resolver {
            None => "the resolver's side of these queries was not seen: a lost packet looks the same",
            Some(_) if facts.early => "svctrace had just begun, and the client is older: if it had asked before, so may the resolver have asked an upstream",
            Some(_) => "the queries were seen on their way to the resolver, not in its socket",
        }
        .to_owned()],
    }
}

/// The answers came, but not to whom waited.
fn astray_text(draft: &Draft, facts: &Silent, astray: &astray::Facts, who: &Identifier) -> Text {
    let names: Vec<String> = facts.names.iter().cloned().collect();
    let queries = words::count(facts.datagrams, "query", "queries");
    let asked = format!("{queries} for {}", words::list(&names, 3));
    let mut text = astray.text(draft, facts.server, &asked, who);
    let identity = facts.resolver.as_ref().map(|r| who.identity(r));
    let details = [
        ("server", json!(facts.server.to_string())),
        ("resolver", json!(identity)),
        ("names", json!(names)),
        ("queries", json!(facts.datagrams)),
        ("clients", draft.clients(who)),
    ];
    text.details.extend(details.map(|(k, v)| (k.to_owned(), v)));
    text
}

/// What is known about an unreachable resolver.
#[derive(Clone, Debug)]
pub(crate) struct Unreachable {
    server: SocketAddr,
    errnos: BTreeSet<i32>,
    queries: usize,
    /// Connections that the server ended without an answer.
    broken_off: usize,
    /// Sends that a socket with a pending error cut short.
    cut_short: BTreeSet<u64>,
    /// ICMP errors that came for it, and their senders.
    icmp: BTreeSet<(&'static str, IpAddr)>,
}

impl Unreachable {
    pub(crate) fn merge(&mut self, other: Self) {
        self.errnos.extend(other.errnos);
        self.broken_off += other.broken_off;
        self.cut_short.extend(other.cut_short);
        self.icmp.extend(other.icmp);
        while self.icmp.len() > ICMP_MAX {
            self.icmp.pop_last();
        }
        while self.cut_short.len() > CUT_SHORT_MAX {
            self.cut_short.pop_last();
        }
        self.queries += other.queries;
    }

    fn says(&self, error: IcmpError) -> bool {
        self.icmp.iter().any(|(name, _)| *name == error.name())
    }

    /// What an ICMP error means beyond the silence.
    fn meaning(&self) -> &'static str {
        if self.says(IcmpError::AdminProhibited) {
            "a firewall on the way refuses them"
        } else if self.says(IcmpError::TimeExceeded) {
            "routers send them in a circle"
        } else if self.says(IcmpError::NetUnreachable) || self.says(IcmpError::HostUnreachable) {
            "no way leads there"
        } else {
            "nothing accepts queries there"
        }
    }

    fn remedies(&self, who: &Identifier) -> Vec<String> {
        let mut all = Vec::new();
        let (ip, port) = (self.server.ip(), self.server.port());
        if self.says(IcmpError::AdminProhibited) {
            all.push(format!(
                "look for a firewall rule or NetworkPolicy that rejects what goes to {ip}: UDP and TCP port {port} have to be let through"
            ));
        }
        if self.says(IcmpError::TimeExceeded) {
            all.push(format!("look at the routes to {ip} from this node on (`ip route get {ip}`)"));
        }
        all.push(endpoints_check(self.server, who));
        all.push(format!(
            "check that the nameserver of the pod's resolv.conf ({ip}) is the cluster DNS address"
        ));
        all
    }
}

/// The finding about a query whose socket was told that nobody is there.
pub(crate) fn unreachable(lookup: &Lookup, transaction: &Transaction) -> Option<Draft> {
    let (at, why) = transaction.gave_up?;
    let (errno, cut_short) = match why {
        GaveUp::Errno(errno) => (Some(errno), None),
        GaveUp::ServerClosed => (None, None),
        GaveUp::TooSoon(cut_short) => (None, cut_short),
        _ if transaction.unreachable().is_some() => (None, None),
        _ => return None,
    };
    let icmp = transaction.unreachable();
    let facts = Unreachable {
        server: transaction.server,
        errnos: errno.into_iter().collect(),
        queries: transaction.sends.len(),
        broken_off: usize::from(matches!(why, GaveUp::ServerClosed | GaveUp::Errno(104))),
        cut_short: cut_short.into_iter().collect(),
        icmp: icmp.iter().map(|icmp| (icmp.error.name(), icmp.from)).collect(),
    };
    let subject = transaction.server.to_string();
    let facts = draft::Facts::Unreachable(facts);
    let mut draft = Draft::about(lookup, Code::ResolverUnreachable, subject, facts);
    if errno.is_none() && icmp.is_none() && why != GaveUp::ServerClosed {
        draft.confidence = Confidence::Inferred;
    }
    draft.charge((transaction.started(), at));
    draft.show(transaction.events.iter().copied().chain(cut_short));
    Some(draft)
}

/// The server closed a connection just as the query went out, as it may with one that was idle
/// (RFC 7766 section 6.2.3), and answered when it was asked again at once.
pub(crate) fn made_good(attempt: &Attempt, t: &Transaction, threshold_ns: u64) -> bool {
    let Some((at, GaveUp::ServerClosed | GaveUp::Errno(104))) = t.gave_up else { return false };
    let mut later = attempt.transactions.iter().filter(|l| l.asked == t.asked && l.started() >= at);
    at.since(t.started()) < threshold_ns && later.any(|later| later.reply.is_some())
}

pub(crate) fn unreachable_text(draft: &Draft, facts: &Unreachable, who: &Identifier) -> Text {
    let server = words::address(facts.server, who);
    let errnos: Vec<String> =
        facts.errnos.iter().filter_map(|e| errno_name(-i64::from(*e))).collect();
    let queries = words::count(facts.queries, "query", "queries");
    if facts.broken_off > 0 && facts.broken_off == facts.queries {
        return broken_off_text(draft, facts, who);
    }
    let icmp = facts.icmp.iter().map(|(error, from)| format!("{error} from {from}"));
    let icmp: Vec<String> = icmp.collect();
    let (told, cause) = if !icmp.is_empty() {
        let errors = words::list(&icmp, 3);
        let as_errno = match errnos.is_empty() {
            true => String::new(),
            false => format!(" and reached the program as {}", words::list(&errnos, 3)),
        };
        (
            format!("waited {}", words::time(draft.cost.length_ns())),
            format!("and came back as ICMP errors ({errors}){as_errno}"),
        )
    } else if errnos.is_empty() {
        (
            "gave up at once".to_owned(),
            "and the sockets were closed at once, far too soon for a time-out".to_owned(),
        )
    } else {
        let errnos = words::list(&errnos, 3);
        (format!("got {errnos}"), format!("and came back as {errnos}"))
    };
    Text {
        title: format!("resolver {server} cannot be reached: {} {told}", draft.comms()),
        cause: format!("{queries} went to {server} {cause}: {}.", facts.meaning()),
        remedy: facts.remedies(who),
        details: [
            ("server", json!(facts.server.to_string())),
            ("errno", json!(errnos)),
            ("queries", json!(facts.queries)),
            ("clients", draft.clients(who)),
        ]
        .into_iter()
        .chain((!icmp.is_empty()).then(|| ("icmp", json!(icmp))))
        .map(|(k, v)| (k.to_owned(), v))
        .collect(),
        inferred_from: vec![unseen_error(draft, facts, who)],
    }
}

fn broken_off_text(draft: &Draft, facts: &Unreachable, who: &Identifier) -> Text {
    let server = words::address(facts.server, who);
    let queries = words::count(facts.queries, "query", "queries");
    Text {
        title: format!("resolver {server} broke off TCP connections of {}", draft.comms()),
        cause: format!(
            "{server} took connections over TCP and {queries} on them, and ended them without an answer."
        ),
        remedy: vec![
            "look at the resolver's log and its limits of TCP connections; a proxy or mesh sidecar on the way may end them, too".to_owned(),
        ],
        details: [
            ("server", json!(facts.server.to_string())),
            ("errno", json!([])),
            ("queries", json!(facts.queries)),
            ("clients", draft.clients(who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: Vec::new(),
    }
}

/// Of the Service that has the server's address, if one is known to.
pub(crate) fn endpoints_check(server: SocketAddr, who: &Identifier) -> String {
    let (namespace, name) = who.service_key(server).unwrap_or(("kube-system", "kube-dns"));
    format!(
        "check that the cluster DNS Service has ready endpoints: `kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name}`"
    )
}

/// Why the error itself is not in the records.
fn unseen_error(draft: &Draft, facts: &Unreachable, who: &Identifier) -> String {
    let host = draft.victims.first().and_then(|victim| who.host(&victim.actor));
    let sends = words::count(facts.cut_short.len(), "sendmmsg", "sendmmsg calls");
    match (facts.cut_short.is_empty(), host.is_some_and(|host| host.syscalls)) {
        (false, _) => format!(
            "{sends} took only one of two queries, as a socket does while an error is pending, and the socket was closed without waiting: glibc sees the error in poll(2), which is not recorded"
        ),
        (true, true) => "the client closed its sockets at once, again and again, without an answer; no recorded call failed (poll(2) is not recorded)".to_owned(),
        (true, false) => "the client closed its sockets at once, again and again, without an answer; results of its calls are not recorded".to_owned(),
    }
}
