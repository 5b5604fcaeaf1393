//! What connection tracking says about queries that got lost, for causes and details. Judges no confidence.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::event::Actor;
use crate::identify::{Identifier, Refused};
use crate::record::Timestamp;

use super::draft::Draft;
use super::words;

/// Instants kept of one finding.
const INSTANTS_MAX: usize = 64;

/// What was read of it, with names of the places.
pub(crate) struct Said {
    /// `None` where nobody tried to read it.
    refused: Option<Vec<(Refused, String)>>,
}

/// When queries went out that got lost, as far as there is room.
pub(crate) fn add(instants: &mut BTreeSet<Timestamp>, more: BTreeSet<Timestamp>) {
    for at in more {
        if instants.len() >= INSTANTS_MAX {
            return;
        }
        instants.insert(at);
    }
}

/// Around these instants, where the clients are, where `resolver` is, and on the node.
pub(crate) fn around(
    draft: &Draft,
    resolver: Option<&Actor>,
    instants: &BTreeSet<Timestamp>,
    who: &Identifier,
) -> Said {
    let actors = || draft.victims.iter().map(|victim| &victim.actor).chain(resolver);
    let Some(refused) = who.refused(actors(), instants) else { return Said { refused: None } };
    let mut places = BTreeMap::new();
    let mut nodes = BTreeMap::new();
    for actor in actors() {
        let identity = who.identity(actor);
        if let Some(net_ns) = who.net_ns(actor) {
            places.entry((actor.host, net_ns)).or_insert_with(|| words::who(&identity));
        }
        // Named only where there are several.
        nodes.extend(identity.host.map(|name| (actor.host, name)));
    }
    let named = |refused: Refused| {
        let place = match (places.get(&(refused.host, refused.net_ns)), nodes.get(&refused.host)) {
            (Some(place), _) if !refused.own => place.clone(),
            (_, Some(name)) => format!("the node {name}"),
            (_, None) => "the node".to_owned(),
        };
        (refused, place)
    };
    Said { refused: Some(refused.into_iter().map(named).collect()) }
}

impl Said {
    /// Insertions that it refused; `None` where that is not known.
    pub(crate) fn insert_failed(&self) -> Option<u64> {
        let refused = self.refused.as_ref().filter(|refused| !refused.is_empty())?;
        Some(refused.iter().fold(0, |sum, (refused, _)| sum.saturating_add(refused.insert_failed)))
    }

    /// Somebody tried to read it, in vain.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.refused.as_ref().is_some_and(Vec::is_empty)
    }

    /// `pod critical-app/client and the node`: all places that were read.
    pub(crate) fn places(&self) -> String {
        let places = self.refused.iter().flatten().map(|(_, place)| place.clone());
        words::list(&places.collect::<Vec<_>>(), 3)
    }

    /// `conntrack refused 2 insertions (insert_failed) in pod a/b`; empty where it refused nothing.
    pub(crate) fn refusals(&self) -> String {
        let one = |(refused, place): &(Refused, String)| {
            let full = refused.drop.saturating_sub(refused.insert_failed);
            let mut what = Vec::new();
            if refused.insert_failed > 0 {
                let n = crate::words::count(refused.insert_failed, "insertion", "insertions");
                what.push(format!("refused {n} (insert_failed)"));
            }
            if full > 0 {
                let n = crate::words::count(full, "packet", "packets");
                what.push(format!("dropped {n} for another reason, such as a full table (drop)"));
            }
            (!what.is_empty()).then(|| format!("{} in {place}", what.join(" and ")))
        };
        let all: Vec<String> = self.refused.iter().flatten().filter_map(one).collect();
        if all.is_empty() { String::new() } else { format!("conntrack {}", words::list(&all, 3)) }
    }

    /// For details.
    pub(crate) fn details(&self) -> Value {
        let one = |(refused, place): &(Refused, String)| {
            json!({ "where": place, "net_ns": refused.net_ns,
                "insert_failed": refused.insert_failed, "drop": refused.drop })
        };
        self.refused.as_ref().map(|all| all.iter().map(one).collect()).unwrap_or_default()
    }
}
