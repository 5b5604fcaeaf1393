//! `dns-truncated`: an answer that did not fit its datagram, and a client that did not get the rest,
//! or paid for it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;

use crate::correlate::{Lookup, Transaction};
use crate::identify::Identifier;
use crate::report::{Code, Confidence, Followed};

use super::draft::{self, Draft, Text};
use super::words;

/// What is known about truncated answers.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    server: SocketAddr,
    followed: Followed,
    names: BTreeSet<String>,
    answers: usize,
    /// Largest datagram the clients said they take, in bytes; 512 without EDNS.
    udp_size: u16,
    /// Records that did fit, at most.
    fitted: usize,
    /// The clients', where it is one and was recognised.
    library: Option<&'static str>,
}

impl Facts {
    pub(crate) fn merge(&mut self, other: Self) {
        words::add(&mut self.names, other.names);
        self.answers += other.answers;
        self.udp_size = self.udp_size.max(other.udp_size);
        self.fitted = self.fitted.max(other.fitted);
        self.library = self.library.filter(|_| self.library == other.library);
    }
}

/// The finding about a truncated answer, unless the whole one came over TCP within `threshold_ns`.
pub(crate) fn found(lookup: &Lookup, t: &Transaction, threshold_ns: u64) -> Option<Draft> {
    let sequel = t.sequel.as_ref()?;
    let reply = t.reply.as_ref()?;
    let end = sequel.at.unwrap_or(reply.at).max(reply.at);
    let cost = end.since(reply.at);
    let over = match sequel.followed {
        // Nothing is wrong, or nothing is known.
        Followed::Undecided | Followed::AskedAgain => false,
        Followed::TcpAnswered => cost >= threshold_ns,
        _ => true,
    };
    if !over {
        return None;
    }
    let facts = Facts {
        server: t.server,
        followed: sequel.followed,
        names: BTreeSet::from([t.asked.name.to_string()]),
        answers: 1,
        udp_size: t.udp_size.max(512),
        fitted: t.data().count(),
        library: lookup.library,
    };
    let subject = t.server.to_string();
    let mut draft =
        Draft::about(lookup, Code::DnsTruncated, subject, draft::Facts::Truncated(facts));
    draft.key.class = Some(sequel.followed.name().to_owned());
    // A recording of packets can have been made with a filter for UDP.
    if sequel.followed == Followed::NotRetried && t.actor.is_address() {
        draft.confidence = Confidence::Inferred;
    }
    draft.charge((reply.at, end));
    draft.show(t.events.iter().chain(&sequel.events).copied());
    let again = lookup.transactions().filter(|l| l.asked == t.asked && l.started() >= reply.at);
    draft.show(again.flat_map(|l| l.events.iter().copied()));
    Some(draft)
}

pub(crate) fn text(draft: &Draft, facts: &Facts, who: &Identifier) -> Text {
    let server = words::address(facts.server, who);
    let names: Vec<String> = facts.names.iter().cloned().collect();
    let asked = words::list(&names, 3);
    let comms = draft.comms();
    let (title, then) = match facts.followed {
        Followed::TcpAnswered => (
            format!("the answer for {asked} came in a second try over TCP: {}", draft.waited()),
            format!("{comms} asked again over TCP and got all of it, late."),
        ),
        Followed::NotRetried => (
            format!("{comms} got a cut answer for {asked} and did not ask for the rest"),
            format!(
                "{comms} did not ask again over TCP, and goes on with what did fit: {}.",
                words::count(facts.fitted, "record", "records")
            ),
        ),
        Followed::GivenUp => (
            format!("the answer for {asked} did not fit, and {comms} gave up the try over TCP"),
            format!("{comms} began a connection over TCP and gave it up before it was answered."),
        ),
        other => (
            format!("the answer for {asked} does not fit a datagram, and TCP to {server} fails"),
            format!("{comms} asked again over TCP: {}.", in_words(other)),
        ),
    };
    Text {
        title,
        cause: format!(
            "{} of {server} for {asked} did not fit into {} bytes and came truncated (TC). {then}",
            words::count(facts.answers, "answer", "answers"),
            facts.udp_size,
        ),
        remedy: remedy(facts),
        details: [
            ("server", json!(facts.server.to_string())),
            ("followed", json!(facts.followed.name())),
            ("names", json!(names)),
            ("answers", json!(facts.answers)),
            ("udp_size", json!(facts.udp_size)),
            ("records_that_fitted", json!(facts.fitted)),
            ("clients", draft.clients(who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: vec![
            "no packet over TCP followed; a recording made with a filter for UDP looks the same"
                .to_owned(),
        ],
    }
}

fn in_words(followed: Followed) -> &'static str {
    match followed {
        Followed::TcpRefused => "the connection was refused",
        Followed::TcpTimeout => "nobody answered its SYN",
        Followed::TcpReset => "the connection was broken off before the answer",
        Followed::TcpUnreachable => "the server could not be reached",
        Followed::TcpUnanswered => "the question stayed unanswered",
        Followed::TcpAnswered => "answered",
        Followed::GivenUp => "given up",
        Followed::AskedAgain => "asked again over UDP",
        Followed::NotRetried => "not tried",
        Followed::Undecided => "not known",
    }
}

fn remedy(facts: &Facts) -> Vec<String> {
    let mut remedy = Vec::new();
    match facts.followed {
        Followed::TcpAnswered => {}
        Followed::NotRetried => remedy.push(
            match facts.library {
                Some("musl") => "use musl 1.2.4 or later (Alpine 3.18), which asks again over TCP",
                _ => "use a resolver library that retries over TCP (musl does since 1.2.4, Alpine 3.18)",
            }
            .to_owned(),
        ),
        _ => remedy.push(format!(
            "allow TCP as well as UDP to {}: network policy, firewall, the `dns-tcp` port of the DNS Service, and a server that listens on TCP",
            facts.server
        )),
    }
    // Only glibc has the option: musl knows no EDNS, and Go and c-ares offer more without being told.
    let larger = "let the client offer a larger datagram: `dnsConfig: {options: [{name: edns0}]}` in the pod's spec";
    match facts.library {
        _ if facts.udp_size >= 1232 => {}
        Some("glibc") => remedy.push(larger.to_owned()),
        Some(_) => {}
        None => remedy.push(format!("{larger} (glibc; musl does not know it)")),
    }
    remedy.push("make the answer smaller: fewer addresses behind the name (a headless Service lists every pod), shorter CNAME chains".to_owned());
    remedy
}
