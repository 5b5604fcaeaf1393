//! Names whose lookups all failed or stayed open: what another setting would have done to them is not
//! known. Bounded; a name that came to a result once is none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::correlate::Lookup;
use crate::report::Outcome;

/// Names with a result remembered: those beyond count as unknown once a lookup of them fails.
const JUDGED_MAX: usize = 1_024;
/// Names without one.
const NAMES_MAX: usize = 64;
const SUFFIXES_MAX: usize = 64;

/// Names by their hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Unjudged {
    /// Lookups without a result.
    pub(super) lookups: u64,
    judged: BTreeSet<u64>,
    names: BTreeMap<u64, Name>,
    /// Dots of names that there was no room for.
    more: BTreeSet<u32>,
}

#[derive(Clone, Debug, Default)]
struct Name {
    dots: u32,
    /// Suffixes that it is known not to exist with.
    refuted: BTreeSet<u64>,
}

pub(super) fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Unjudged {
    /// A lookup of `name` came to a result.
    pub(super) fn judged(&mut self, name: &str) {
        let name = hash(name);
        self.names.remove(&name);
        if self.judged.len() < JUDGED_MAX {
            self.judged.insert(name);
        }
    }

    /// A lookup came to none.
    pub(super) fn add(&mut self, lookup: &Lookup, dots: u32) {
        self.lookups += 1;
        let refuted = lookup.attempts.iter().filter(|a| a.outcome == Outcome::Nxdomain);
        let refuted = refuted.filter_map(|a| a.suffix.as_deref()).map(hash);
        self.name(hash(&lookup.name), dots, refuted);
    }

    fn name(&mut self, name: u64, dots: u32, refuted: impl IntoIterator<Item = u64>) {
        if self.judged.contains(&name) {
            return;
        }
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(&name) {
            self.more.insert(dots);
            return;
        }
        let known = self.names.entry(name).or_default();
        known.dots = dots;
        known.refuted.extend(refuted.into_iter().take(SUFFIXES_MAX));
        while known.refuted.len() > SUFFIXES_MAX {
            known.refuted.pop_last();
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.lookups += other.lookups;
        self.judged
            .extend(other.judged.iter().take(JUDGED_MAX - self.judged.len().min(JUDGED_MAX)));
        self.names.retain(|name, _| !other.judged.contains(name));
        for (name, of) in &other.names {
            self.name(*name, of.dots, of.refuted.iter().copied());
        }
        self.more.extend(&other.more);
    }

    /// Names with so many dots that may need a suffix of `search`.
    pub(super) fn may_need(&self, search: &[String], dots: impl Fn(u32) -> bool) -> u64 {
        let suffixes: Vec<u64> = search.iter().map(|suffix| hash(suffix)).collect();
        let all =
            |of: &Name| !suffixes.is_empty() && suffixes.iter().all(|s| of.refuted.contains(s));
        let names = self.names.values().filter(|of| dots(of.dots) && !all(of)).count();
        (names + self.more.iter().filter(|more| dots(**more)).count()) as u64
    }

    /// Names that may need this suffix.
    pub(super) fn may_need_suffix(&self, suffix: &str) -> u64 {
        let suffix = hash(suffix);
        let names = self.names.values().filter(|of| !of.refuted.contains(&suffix)).count();
        (names + self.more.len()) as u64
    }
}
