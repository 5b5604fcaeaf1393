//! Names where they have no business, counted: the cluster's at upstreams, external ones with the
//! cluster's suffixes. Ordinary as long as they are quick, so no findings.

use crate::correlate::{Attempt, Lookup};
use crate::event::Protocol;
use crate::identify::Identifier;
use crate::report::{Leak, Leaks, Outcome};

use super::search::complete;
use super::upstream::within;

const NAMES_MAX: usize = 8;

/// What one lookup adds to a leak.
#[derive(Default)]
struct Found<'a> {
    queries: u64,
    names: Vec<&'a str>,
}

impl<'a> Found<'a> {
    fn add(&mut self, name: &'a str, queries: u64) {
        self.queries += queries;
        if !self.names.contains(&name) {
            self.names.push(name);
        }
    }

    fn into(self, leak: &mut Leak) {
        if self.queries == 0 {
            return;
        }
        leak.lookups += 1;
        leak.queries += self.queries;
        for name in self.names {
            if leak.names.len() < NAMES_MAX && !leak.names.iter().any(|known| known == name) {
                leak.names.push(name.to_owned());
            }
        }
    }
}

/// The attempt says that its name is there.
fn exists(attempt: &Attempt) -> bool {
    matches!(attempt.outcome, Outcome::Answered | Outcome::Nodata)
}

/// Counts what `lookup` leaked; nothing where the cluster's `domain` is unknown.
pub(super) fn count(lookup: &Lookup, domain: Option<&str>, who: &Identifier, leaks: &mut Leaks) {
    let Some(domain) = domain else { return };
    let of_cluster = |name: &str| name == domain || within(name, domain);
    let in_cluster = lookup.attempts.iter().any(|a| of_cluster(&a.name) && exists(a));
    let typed_outside = !of_cluster(&lookup.name);
    let found_as_typed = lookup.attempts.iter().any(|a| a.suffix.is_none() && exists(a));
    let (mut foreign, mut short, mut external) =
        (Found::default(), Found::default(), Found::default());
    for attempt in &lookup.attempts {
        let (name, queries) = (attempt.name.as_str(), attempt.datagrams());
        match attempt.suffix.as_deref() {
            Some(suffix) if of_cluster(suffix) && typed_outside && found_as_typed => {
                external.add(name, queries);
            }
            Some(suffix) if of_cluster(suffix) => {}
            Some(_) if complete(&lookup.name, domain) || in_cluster => foreign.add(name, queries),
            Some(_) => {}
            None if typed_outside && in_cluster => short.add(name, queries),
            None => {}
        }
    }
    foreign.into(&mut leaks.foreign_suffix);
    short.into(&mut leaks.short_names);
    external.into(&mut leaks.external_names);
    asked_outside(lookup, domain, who).into(&mut leaks.cluster_names);
}

/// Complete names of the cluster at servers that are none of it. Only where its Services are known:
/// a node-local cache asks the cluster DNS at an address that else means nothing.
fn asked_outside<'a>(lookup: &'a Lookup, domain: &str, who: &Identifier) -> Found<'a> {
    let mut found = Found::default();
    let outside = |server: std::net::SocketAddr| {
        let ip = server.ip().to_canonical();
        !ip.is_loopback() && who.peer(server, Protocol::Udp, lookup.started).is_none()
    };
    for attempt in &lookup.attempts {
        if !within(&attempt.name, domain) {
            continue;
        }
        for transaction in &attempt.transactions {
            let Some(received) = &transaction.tie.received else { continue };
            if who.service_key(transaction.server).is_none() {
                continue;
            }
            let tries = received.tries.iter().filter(|t| outside(t.server)).count();
            found.add_if(&attempt.name, tries);
        }
    }
    found
}

impl<'a> Found<'a> {
    fn add_if(&mut self, name: &'a str, queries: usize) {
        if queries > 0 {
            self.add(name, queries as u64);
        }
    }
}
