//! `dns-error`: SERVFAIL, REFUSED, FORMERR, NOTIMP and the rest that is neither answer nor NXDOMAIN.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;

use crate::correlate::{Lookup, Reply, Transaction};
use crate::event::rcode_name;
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
}

impl Facts {
    pub(crate) fn merge(&mut self, other: Self) {
        self.names.extend(other.names);
        self.responses += other.responses;
    }
}

/// The finding about error responses to one transaction.
pub(crate) fn found(lookup: &Lookup, transaction: &Transaction) -> Option<Draft> {
    let last = transaction.reply.as_ref().filter(|r| is_error(r));
    let all: Vec<&Reply> = transaction.earlier_errors.iter().chain(last).collect();
    let latest = all.last()?;
    let facts = Facts {
        server: transaction.server,
        rcode: latest.rcode,
        names: BTreeSet::from([transaction.asked.name.to_string()]),
        responses: all.len(),
    };
    let subject = transaction.server.to_string();
    let mut draft = Draft::about(lookup, Code::DnsError, subject, draft::Facts::Error(facts));
    draft.key.class = Some(rcode_name(latest.rcode).to_ascii_lowercase());
    draft.charge((transaction.started(), waited(lookup, transaction).unwrap_or(latest.at)));
    draft.show(transaction.events.iter().copied());
    Some(draft)
}

/// Until when a client waited on that takes an error for no answer (musl).
fn waited(lookup: &Lookup, transaction: &Transaction) -> Option<Timestamp> {
    let musl = lookup.library == Some("musl");
    let last = lookup.attempts.last().filter(|last| musl && last.failed_with_error())?;
    let its = last.transactions.iter().any(|t| std::ptr::eq(t, transaction));
    its.then_some(last.ended)
}

fn is_error(reply: &Reply) -> bool {
    reply.rcode != 0 && reply.rcode != 3
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
    let effect = if draft.failed { "The lookup failed." } else { "The lookup went on." };
    Text {
        title: format!("{server} answered {rcode} for {asked}"),
        cause: format!("{responses} from {server} said {rcode} for {asked}. {effect}"),
        remedy: vec![remedy.to_owned()],
        details: [
            ("server", json!(facts.server.to_string())),
            ("rcode", json!(rcode)),
            ("names", json!(names)),
            ("responses", json!(facts.responses)),
            ("clients", draft.clients(who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: Vec::new(),
    }
}
