//! Answers that came and reached nobody who waited: from another address than was asked, or lost between
//! the pod's interface and its socket. Part of `resolver-timeout`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;

use crate::correlate::Transaction;
use crate::identify::Identifier;

use super::draft::{Draft, Text};
use super::words;

/// Senders kept of one finding.
const SENDERS_MAX: usize = 16;

/// What is known about them.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// Where they came from.
    from: BTreeSet<SocketAddr>,
    elsewhere: bool,
    answers: u64,
    /// The quickest, in nanoseconds.
    after_ns: u64,
    /// Some reached sockets, whose programs dismissed them; some did not.
    dismissed: bool,
    no_socket: bool,
}

/// Of a query that has such answers.
pub(crate) fn facts(t: &Transaction) -> Option<Facts> {
    let unheard = t.unheard.as_ref()?;
    Some(Facts {
        from: BTreeSet::from([unheard.from]),
        elsewhere: !t.is_from(unheard.from),
        answers: unheard.count.into(),
        after_ns: unheard.at.since(t.waited_since(unheard.at)),
        dismissed: unheard.dismissed,
        no_socket: !unheard.dismissed,
    })
}

impl Facts {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.from.extend(&other.from);
        while self.from.len() > SENDERS_MAX {
            self.from.pop_last();
        }
        self.answers = self.answers.saturating_add(other.answers);
        self.after_ns = self.after_ns.min(other.after_ns);
        self.dismissed |= other.dismissed;
        self.no_socket |= other.no_socket;
    }

    /// The class of the finding: how far the answers came.
    pub(crate) fn class(&self) -> &'static str {
        if self.elsewhere { "wrong-address" } else { "answer-lost-inside" }
    }

    /// `asked`: how many queries for what.
    pub(crate) fn text(
        &self,
        draft: &Draft,
        server: SocketAddr,
        asked: &str,
        who: &Identifier,
    ) -> Text {
        let senders: Vec<String> =
            self.from.iter().map(|from| words::address(*from, who)).collect();
        let senders = words::list(&senders, 3);
        let named = words::address(server, who);
        let after = words::time(self.after_ns);
        let answers = crate::words::count(self.answers, "answer came", "answers came");
        let (title, cause, remedy) = if self.elsewhere {
            (
                format!("resolver {named} answers from {senders}: {}", draft.waited()),
                format!(
                    "{asked} went to {named}, and {answers}, the quickest after {after}, from {senders} instead: {}.",
                    self.fate()
                ),
                self.remedies(server, who),
            )
        } else {
            (
                format!("answers of resolver {named} got lost in the pod: {}", draft.waited()),
                format!(
                    "{answers} for {asked}, the quickest after {after}, as far as the pod's interface, and none reached its socket."
                ),
                vec!["look at what drops packets inside the pod's network namespace: netfilter's INPUT and raw tables (a mesh's rules, NetworkPolicy), rp_filter, bad checksums of an interface's offloading, missing fragments".to_owned()],
            )
        };
        let from: Vec<String> = self.from.iter().map(ToString::to_string).collect();
        let details = [
            ("answered_from", json!(from)),
            ("answers", json!(self.answers)),
            ("answered_after_ns", json!(self.after_ns)),
            ("dismissed", json!(self.dismissed)),
        ];
        let details = details.map(|(k, v)| (k.to_owned(), v)).into();
        Text { title, cause, remedy, details, inferred_from: Vec::new() }
    }

    /// What became of answers from elsewhere.
    fn fate(&self) -> &'static str {
        match (self.no_socket, self.dismissed) {
            (true, false) => "a connected socket gets none of another sender",
            (false, _) => "resolver libraries dismiss those of another sender",
            (true, true) => {
                "connected sockets get none of another sender, and resolver libraries dismiss the others"
            }
        }
    }

    /// A translation that is not undone, or a resolver that answers with another of its addresses; the
    /// likelier first.
    fn remedies(&self, server: SocketAddr, who: &Identifier) -> Vec<String> {
        let ips: BTreeSet<String> = self.from.iter().map(|from| from.ip().to_string()).collect();
        let ip = ips.first().cloned().unwrap_or_default();
        let back = format!(
            "if {ip} is a resolver behind {}: its answers are not translated back. Look for answers that take another way than the queries (a hairpin without masquerade, asymmetric routes, two interfaces), and for the queries' conntrack entry: `conntrack -L -p udp --dport {}`",
            server.ip(),
            server.port()
        );
        let bind = format!(
            "if {ip} is another address of the resolver's own host: let the resolver listen on {} itself instead of on all addresses (CoreDNS `bind`, dnsmasq `bind-interfaces`, unbound `interface:` or `interface-automatic: yes`)",
            server.ip()
        );
        let service = who.service_key(server).is_some();
        let same_host = self.from.iter().all(|from| from.ip() == server.ip());
        match (service || same_host, same_host) {
            (_, true) => vec![format!(
                "the answers come from another port: let the resolver answer from the port that was asked, or let the translation of port {} be undone on the way back (`conntrack -L -p udp --dport {}`)",
                server.port(),
                server.port()
            )],
            (true, false) => vec![back, bind],
            (false, false) => vec![bind, back],
        }
    }
}
