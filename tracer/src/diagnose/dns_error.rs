//! `dns-error`: SERVFAIL, REFUSED, FORMERR, NOTIMP and the rest that is neither answer nor NXDOMAIN.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::json;

use crate::correlate::{Lookup, Received, Reply, Transaction};
use crate::event::{Actor, is_error_rcode, rcode_name};
use crate::identify::Identifier;
use crate::record::Timestamp;
use crate::report::Code;

use super::draft::{self, Draft, Text};
use super::words;

/// What is known about the errors.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    server: SocketAddr,
    rcode: u16,
    names: BTreeSet<String>,
    responses: usize,
    /// The traced resolver that was asked.
    resolver: Option<Actor>,
    /// Who said an error to it, or to one behind it, and which.
    upstreams: BTreeMap<SocketAddr, u16>,
}

/// Upstreams named.
const UPSTREAMS_MAX: usize = 16;

impl Facts {
    pub(crate) fn merge(&mut self, other: Self) {
        words::add(&mut self.names, other.names);
        self.responses += other.responses;
        self.resolver = self.resolver.take().or(other.resolver);
        self.upstreams.extend(other.upstreams);
        while self.upstreams.len() > UPSTREAMS_MAX {
            self.upstreams.pop_last();
        }
    }
}

/// The finding about error responses to one transaction.
pub(crate) fn found(lookup: &Lookup, transaction: &Transaction) -> Option<Draft> {
    let last = transaction.reply.as_ref().filter(|r| r.is_error());
    let all: Vec<&Reply> = transaction.earlier_errors.iter().chain(last).collect();
    let latest = all.last()?;
    let received = transaction.tie.received.as_deref();
    let leaves = received.map(Received::leaves).unwrap_or_default();
    // The error that the client got is not older than this.
    let said = leaves.iter().filter_map(|leaf| {
        let (number, rcode) = leaf.query.answered?;
        (is_error_rcode(rcode) && leaf.query.until <= latest.at).then_some((leaf, number, rcode))
    });
    let said: Vec<_> = said.collect();
    let facts = Facts {
        server: transaction.server,
        rcode: latest.rcode,
        names: BTreeSet::from([transaction.asked.name.to_string()]),
        responses: all.len(),
        resolver: received.map(|r| r.resolver.clone()),
        upstreams: said.iter().map(|(leaf, _, rcode)| (leaf.query.server, *rcode)).collect(),
    };
    let subject = transaction.server.to_string();
    let mut draft = Draft::about(lookup, Code::DnsError, subject, draft::Facts::Error(facts));
    draft.key.class = Some(rcode_name(latest.rcode).to_ascii_lowercase());
    draft.charge((transaction.started(), waited(lookup, transaction).unwrap_or(latest.at)));
    draft.show(transaction.events.iter().copied());
    draft.show(said.iter().flat_map(|(leaf, number, _)| [leaf.query.sent.number, *number]));
    Some(draft)
}

/// Until when a client waited on that takes an error for no answer (musl).
fn waited(lookup: &Lookup, transaction: &Transaction) -> Option<Timestamp> {
    let musl = lookup.library == Some("musl");
    let last = lookup.attempts.last().filter(|last| musl && last.failed_with_error())?;
    let its = last.transactions.iter().any(|t| std::ptr::eq(t, transaction));
    its.then_some(last.ended)
}

/// Where the resolver had the error from, and what to do about that.
fn upstreams(facts: &Facts, who: &Identifier) -> (String, Option<String>) {
    let Some(resolver) = facts.resolver.as_ref().filter(|_| !facts.upstreams.is_empty()) else {
        return (String::new(), None);
    };
    let said = facts.upstreams.iter().map(|(server, rcode)| {
        format!("{} ({})", words::address(*server, who), rcode_name(*rcode))
    });
    let said = words::list(&said.collect::<Vec<_>>(), 3);
    let servers: Vec<String> = facts.upstreams.keys().map(ToString::to_string).collect();
    let resolver = words::who(&who.identity(resolver));
    (
        format!(" The resolver ({resolver}) had asked its upstream, which said so: {said}."),
        Some(format!(
            "look at {}, to which the resolver forwards these names, and at the `forward` configuration that leads there",
            words::list(&servers, 3)
        )),
    )
}

pub(crate) fn text(draft: &Draft, facts: &Facts, who: &Identifier) -> Text {
    let server = words::address(facts.server, who);
    let rcode = rcode_name(facts.rcode);
    let names: Vec<String> = facts.names.iter().cloned().collect();
    let asked = words::list(&names, 3);
    let responses = words::count(facts.responses, "response", "responses");
    let remedy = match facts.rcode {
        2 => {
            "look at the resolver's log for these names: SERVFAIL usually means that it got no usable answer from its own upstream"
        }
        5 => {
            "the server does not serve this zone to this client: check its access rules and the forward configuration that leads there"
        }
        1 => {
            "the server could not read the query: an old server or a middlebox that does not know EDNS"
        }
        4 => {
            "the server does not know this kind of query: a middlebox or a special-purpose server stands where the resolver should"
        }
        _ => "look at the server's log for these names",
    };
    let (from, upstream) = upstreams(facts, who);
    let identity = facts.resolver.as_ref().map(|r| who.identity(r));
    let upstreams: Vec<_> = facts
        .upstreams
        .iter()
        .map(|(server, rcode)| json!({ "server": server.to_string(), "rcode": rcode_name(*rcode) }))
        .collect();
    let effect = if draft.failed { "The lookup failed." } else { "The lookup went on." };
    Text {
        title: format!("{server} answered {rcode} for {asked}"),
        cause: format!("{responses} from {server} said {rcode} for {asked}.{from} {effect}"),
        remedy: upstream.into_iter().chain([remedy.to_owned()]).collect(),
        details: [
            ("server", json!(facts.server.to_string())),
            ("rcode", json!(rcode)),
            ("names", json!(names)),
            ("responses", json!(facts.responses)),
            ("resolver", json!(identity)),
            ("upstreams", json!(upstreams)),
            ("clients", draft.clients(who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: Vec::new(),
    }
}
