//! `nxdomain`: a lookup ended and none of its candidates exists.

use serde_json::json;

use crate::correlate::Lookup;
use crate::identify::Identifier;
use crate::report::{Code, Outcome};

use super::draft::{self, Draft, Text};
use super::words;

/// What was tried.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    candidates: Vec<String>,
    server: std::net::SocketAddr,
    reverse: bool,
}

/// The finding, if the lookup ended that way.
pub(crate) fn found(lookup: &Lookup) -> Option<Draft> {
    if lookup.outcome != Outcome::Nxdomain {
        return None;
    }
    let facts = Facts {
        candidates: lookup.attempts.iter().map(|a| a.name.clone()).collect(),
        server: lookup.server,
        reverse: lookup.transactions().all(|t| t.asked.qtype == "PTR"),
    };
    // An address without a name is ordinary.
    let harmless = facts.reverse;
    let subject = lookup.name.clone();
    let mut draft = Draft::about(lookup, Code::Nxdomain, subject, draft::Facts::Nxdomain(facts));
    draft.harmless = harmless;
    draft.charge((lookup.started, lookup.ended));
    draft.show(lookup.transactions().flat_map(|t| &t.events).copied());
    Some(draft)
}

pub(crate) fn text(draft: &Draft, facts: &Facts, who: &Identifier) -> Text {
    let name = &draft.key.subject;
    let server = words::address(facts.server, who);
    let candidates = words::count(facts.candidates.len(), "candidate", "candidates");
    let times = match draft.lookups.len() {
        0 | 1 => String::new(),
        n => format!(" ({n} lookups)"),
    };
    let domain = draft.victims.first().and_then(|v| who.cluster_domain(&v.actor));
    let mut remedy = Vec::new();
    if facts.reverse {
        remedy.push("nothing to repair, unless the address should have a name".to_owned());
    } else {
        remedy.push(format!("check the spelling of {name}"));
        if let Some(domain) = domain {
            remedy.push(format!(
                "if it is a Service: its name is SERVICE.NAMESPACE.svc.{domain}; check that it exists in that namespace"
            ));
        }
    }
    Text {
        title: format!("{name} does not exist{times}"),
        cause: format!(
            "{server} answered NXDOMAIN for {candidates}: {}.",
            words::list(&facts.candidates, 6)
        ),
        remedy,
        details: [
            ("server", json!(facts.server.to_string())),
            ("candidates", json!(facts.candidates)),
            ("clients", draft.clients(who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: Vec::new(),
    }
}
