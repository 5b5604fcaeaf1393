//! `resolver-unreachable` and `resolver-timeout` over TCP: a client that asks over TCP got no connection to its
//! nameserver, so it asked nothing, and which name it wanted is not known. What is on a connection is not
//! its business.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;

use crate::correlate::Connection;
use crate::describe::errno_name;
use crate::identify::Identifier;
use crate::report::{Code, Confidence, ConnectionOutcome};

use super::draft::{self, Draft, Text};
use super::{resolver, words};

/// The class of both.
const CLASS: &str = "connection";

/// What is known about connections that did not come about.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    server: SocketAddr,
    errnos: BTreeSet<i32>,
    connects: usize,
}

impl Facts {
    pub(crate) fn merge(&mut self, other: Self) {
        self.errnos.extend(other.errnos);
        self.connects += other.connects;
    }
}

/// The finding about a connection that was to carry a lookup and failed.
pub(crate) fn found(connection: &Connection) -> Option<Draft> {
    let known = connection.unasked?;
    let code = match connection.outcome {
        ConnectionOutcome::Timeout => Code::ResolverTimeout,
        ConnectionOutcome::Refused | ConnectionOutcome::Unreachable => Code::ResolverUnreachable,
        // What was asked on it tells by itself.
        _ => return None,
    };
    let facts = Facts {
        server: connection.remote,
        errnos: connection.errno.into_iter().collect(),
        connects: 1,
    };
    let mut draft = Draft::of_connection(connection, code, draft::Facts::Unasked(facts));
    draft.key.class = Some(CLASS.to_owned());
    if !known {
        draft.confidence = Confidence::Inferred;
    }
    let ended = connection.started.plus(connection.duration_ns.unwrap_or_default());
    draft.charge((connection.started, ended));
    draft.show(connection.events.iter().copied());
    Some(draft)
}

pub(crate) fn text(draft: &Draft, facts: &Facts, who: &Identifier) -> Text {
    let server = words::address(facts.server, who);
    let connects = words::count(facts.connects, "connection", "connections");
    let errnos: Vec<String> =
        facts.errnos.iter().filter_map(|e| errno_name(-i64::from(*e))).collect();
    let silent = draft.key.code == Code::ResolverTimeout;
    let were = if facts.connects == 1 { "was" } else { "were" };
    let title = match (silent, errnos.is_empty()) {
        (true, _) => format!("resolver {server} takes no connection: {}", draft.waited()),
        (false, true) => {
            format!("resolver {server} cannot be reached over TCP: {connects} {were} refused")
        }
        (false, false) => format!(
            "resolver {server} cannot be reached over TCP: {} got {}",
            draft.comms(),
            words::list(&errnos, 3)
        ),
    };
    let fate = match (silent, errnos.is_empty()) {
        (true, _) => format!("{were} not answered"),
        (false, true) => format!("{were} refused"),
        (false, false) => format!("came back as {}", words::list(&errnos, 3)),
    };
    let cause = format!(
        "The client asks over TCP, and {connects} to {server} {fate}: nothing was asked, so the names are not known."
    );
    let tcp = "check that the resolver is served over TCP: a port 53/TCP in the cluster DNS Service, network policies and filters that let TCP through";
    let without =
        "or let the client ask over UDP again: leave `use-vc` out of the options of its dnsConfig";
    Text {
        title,
        cause,
        remedy: vec![
            tcp.to_owned(),
            resolver::endpoints_check(facts.server, who),
            without.to_owned(),
        ],
        details: [
            ("server", json!(facts.server.to_string())),
            ("errno", json!(errnos)),
            ("queries", json!(0)),
            ("connections", json!(facts.connects)),
            ("clients", draft.clients(who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: vec![
            "its process had asked over TCP before; its resolv.conf does not say that it always does"
                .to_owned(),
        ],
    }
}
