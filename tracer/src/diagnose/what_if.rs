//! What other resolver settings would have done to the lookups that were seen, and which of them
//! changes no answer. Keeps sums by the number of dots in the name typed, for that is all `ndots`
//! looks at: bounded however many names there are, and no name is left out of the check. Says nothing about names that
//! were not looked up.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use crate::correlate::Lookup;
use crate::report::{Identity, Outcome, SearchSource, WhatIf, WorkloadCosts};

use super::load::{Cost, Priced};
use super::remedy::{self, Snippet};
use super::unjudged::{Unjudged, hash};
use super::upstream::within;
use super::words;

/// resolv.conf(5): no `ndots` is larger.
const DOTS_MAX: u32 = 15;
/// Different names counted.
const NAMES_MAX: usize = 512;
const SUFFIXES_MAX: usize = 64;
const EXAMPLES_MAX: usize = 4;
/// Suffixes of which leaving them out is told.
const WITHOUT_MAX: usize = 8;
/// Values of `ndots` that are tried, in the order of preference among equals: 2 lets names such as
/// api.example.org and SERVICE.NAMESPACE both be asked in the right place first.
const NDOTS: [u32; 3] = [2, 3, 1];

/// Lookups, and some of their names.
#[derive(Clone, Debug, Default)]
struct Tally {
    lookups: u64,
    /// Of candidates that did not answer.
    cost: Cost,
    names: Vec<String>,
}

impl Tally {
    fn add(&mut self, name: &str, cost: Cost) {
        self.lookups += 1;
        self.cost.add(cost);
        self.name(name);
    }

    fn name(&mut self, name: &str) {
        if self.names.len() < EXAMPLES_MAX && !self.names.iter().any(|known| known == name) {
            self.names.push(name.to_owned());
        }
    }

    fn merge(&mut self, other: &Self) {
        self.lookups += other.lookups;
        self.cost.add(other.cost);
        other.names.iter().for_each(|name| self.name(name));
    }
}

/// Lookups of names with the same number of dots.
#[derive(Clone, Debug, Default)]
struct Class {
    /// The name itself answered, after suffixes were tried.
    itself_last: Tally,
    /// The name itself answered, asked first.
    itself_first: Tally,
    /// It was there with a suffix, and the name itself was not asked before.
    suffixed: Tally,
    /// It was there with a suffix, after the name itself was asked.
    suffixed_last: Tally,
    /// Of these, what asking the name itself cost.
    typed_first: Cost,
    /// Nothing was there; suffixes came first.
    nowhere: Tally,
    /// All attempts, to tell what one costs.
    attempts: u64,
    spent: Cost,
}

impl Class {
    fn merge(&mut self, other: &Self) {
        self.itself_last.merge(&other.itself_last);
        self.itself_first.merge(&other.itself_first);
        self.suffixed.merge(&other.suffixed);
        self.suffixed_last.merge(&other.suffixed_last);
        self.typed_first.add(other.typed_first);
        self.nowhere.merge(&other.nowhere);
        self.attempts += other.attempts;
        self.spent.add(other.spent);
    }

    /// What `n` candidates more would have cost in messages.
    fn candidates(&self, n: u64) -> Change {
        let each = |sum: u64| signed(sum.saturating_mul(n).checked_div(self.attempts).unwrap_or(0));
        Change { queries: each(self.spent.queries), bytes: each(self.spent.bytes), ns: 0 }
    }
}

/// One search suffix.
#[derive(Clone, Debug, Default)]
struct Suffix {
    /// Queries with it that found nothing.
    spent: Cost,
    /// Names found with it.
    needed: Tally,
}

/// What the names of a client or workload need.
#[derive(Clone, Debug, Default)]
pub(super) struct Profile {
    ndots: Option<u32>,
    search: Arc<Vec<String>>,
    read: bool,
    domain: Option<String>,
    libraries: BTreeSet<&'static str>,
    classes: BTreeMap<u32, Class>,
    suffixes: BTreeMap<String, Suffix>,
    names: BTreeSet<u64>,
    names_capped: bool,
    unjudged: Unjudged,
}

/// Saved, in queries, bytes and nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    queries: i64,
    bytes: i64,
    ns: i64,
}

impl Change {
    fn save(&mut self, cost: Cost) {
        self.queries += signed(cost.queries);
        self.bytes += signed(cost.bytes);
        self.ns += signed(cost.ns);
    }

    fn spend(&mut self, more: Self) {
        self.queries -= more.queries;
        self.bytes -= more.bytes;
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn dots(name: &str) -> u32 {
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    u32::try_from(dots).unwrap_or(DOTS_MAX).min(DOTS_MAX)
}

/// Index of the attempt that settled the lookup: the answer, or data of another type with a suffix,
/// which shows that the name needs the suffix.
fn settled(lookup: &Lookup) -> Option<usize> {
    let there = || {
        let nodata =
            |a: &crate::correlate::Attempt| a.outcome == Outcome::Nodata && a.suffix.is_some();
        lookup.attempts.iter().position(nodata)
    };
    lookup.winner.or_else(there)
}

impl Profile {
    /// Takes a lookup in.
    pub(super) fn lookup(
        &mut self,
        lookup: &Lookup,
        domain: Option<&str>,
        attempts: &[Priced<'_>],
    ) {
        self.configuration(lookup, domain);
        self.count_name(&lookup.name);
        let at = settled(lookup);
        for (index, priced) in attempts.iter().enumerate() {
            let Some(suffix) = &priced.attempt.suffix else { continue };
            let Some(known) = self.suffix(suffix) else { continue };
            if at == Some(index) {
                known.needed.add(&lookup.name, Cost::default());
            } else {
                known.spent.add(priced.cost);
            }
        }
        self.could_be_short(lookup, at);
        let mut others = Cost::default();
        let (mut all, first_as_typed) =
            (Cost::default(), lookup.attempts.first().is_some_and(|a| a.suffix.is_none()));
        for (index, priced) in attempts.iter().enumerate() {
            all.add(priced.cost);
            if at != Some(index) && (at.is_some() || priced.attempt.suffix.is_some()) {
                others.add(priced.cost);
            }
        }
        if at.is_some() || matches!(lookup.outcome, Outcome::Nxdomain | Outcome::Nodata) {
            self.unjudged.judged(&lookup.name);
        }
        let class = self.classes.entry(dots(&lookup.name)).or_default();
        class.attempts += lookup.attempts.len() as u64;
        class.spent.add(all);
        let suffixed = at.and_then(|at| lookup.attempts.get(at)).map(|a| a.suffix.is_some());
        if suffixed == Some(true)
            && let Some(first) = attempts.first().filter(|_| first_as_typed)
        {
            class.typed_first.add(first.cost);
        }
        let tally = match (suffixed, first_as_typed) {
            (Some(true), true) => &mut class.suffixed_last,
            (Some(true), false) => &mut class.suffixed,
            (Some(false), true) => &mut class.itself_first,
            (Some(false), false) => &mut class.itself_last,
            (None, _) if !matches!(lookup.outcome, Outcome::Nxdomain | Outcome::Nodata) => {
                self.unjudged.add(lookup, dots(&lookup.name));
                return;
            }
            (None, true) => return,
            (None, false) => &mut class.nowhere,
        };
        tally.add(&lookup.name, others);
    }

    fn configuration(&mut self, lookup: &Lookup, domain: Option<&str>) {
        if let Some(library) = lookup.library {
            self.libraries.insert(library);
        }
        if let Some(domain) = domain.filter(|domain| self.domain.as_deref() != Some(domain)) {
            self.domain = Some(domain.to_owned());
        }
        let Some(list) = &lookup.search else { return };
        let read = list.source == SearchSource::ResolvConf;
        // A list told from names is never better than one that was read, or a longer one.
        if read || (!self.read && list.suffixes.len() > self.search.len()) {
            self.read = read;
            self.ndots = list.ndots;
            if self.search != list.suffixes {
                self.search = match list.suffixes.get(..SUFFIXES_MAX) {
                    Some(first) => Arc::new(first.to_vec()),
                    None => Arc::clone(&list.suffixes),
                };
            }
        }
    }

    /// A name asked once, as the first suffix would make it, may have been typed without.
    fn could_be_short(&mut self, lookup: &Lookup, at: Option<usize>) {
        let ([only], Some(_)) = (lookup.attempts.as_slice(), at) else { return };
        if only.suffix.is_some() {
            return;
        }
        let Some(first) = self.search.first().cloned() else { return };
        if lookup.name != first
            && within(&lookup.name, &first)
            && let Some(known) = self.suffix(&first)
        {
            known.needed.add(&lookup.name, Cost::default());
        }
    }

    fn suffix(&mut self, name: &str) -> Option<&mut Suffix> {
        if !self.suffixes.contains_key(name) {
            if self.suffixes.len() >= SUFFIXES_MAX {
                return None;
            }
            self.suffixes.insert(name.to_owned(), Suffix::default());
        }
        self.suffixes.get_mut(name)
    }

    fn count_name(&mut self, name: &str) {
        let hash = hash(name);
        if self.names.len() < NAMES_MAX {
            self.names.insert(hash);
        } else if !self.names.contains(&hash) {
            self.names_capped = true;
        }
    }

    /// Another client of the same workload.
    pub(super) fn merge(&mut self, other: &Self) {
        if (other.read && !self.read) || other.search.len() > self.search.len() {
            self.search.clone_from(&other.search);
            self.ndots = other.ndots;
            self.read = other.read;
        }
        if self.domain.is_none() {
            self.domain.clone_from(&other.domain);
        }
        self.libraries.extend(&other.libraries);
        for (dots, class) in &other.classes {
            self.classes.entry(*dots).or_default().merge(class);
        }
        for (name, suffix) in &other.suffixes {
            if let Some(known) = self.suffix(name) {
                known.spent.add(suffix.spent);
                known.needed.merge(&suffix.needed);
            }
        }
        for hash in &other.names {
            if self.names.len() < NAMES_MAX {
                self.names.insert(*hash);
            } else {
                self.names_capped |= !self.names.contains(hash);
            }
        }
        self.names_capped |= other.names_capped;
        self.unjudged.merge(&other.unjudged);
    }

    /// musl asks a name with enough dots as it is and nothing else. It may be at work where no
    /// library was recognised.
    fn may_be_musl(&self) -> bool {
        self.libraries.is_empty() || self.libraries.contains("musl")
    }

    fn only_musl(&self) -> bool {
        self.libraries.len() == 1 && self.libraries.contains("musl")
    }

    fn with_ndots(&self, wanted: u32) -> WhatIf {
        let mut saved = Change::default();
        let (mut breaks, mut leaks) = (Tally::default(), Tally::default());
        for (dots, class) in &self.classes {
            if *dots >= wanted {
                saved.save(class.itself_last.cost);
                if self.may_be_musl() {
                    breaks.merge(&class.suffixed);
                } else {
                    leaks.merge(&class.suffixed);
                    saved.spend(class.candidates(class.suffixed.lookups));
                }
                if self.only_musl() {
                    saved.save(class.nowhere.cost);
                }
            } else if self.ndots.is_some_and(|ndots| *dots >= ndots) {
                saved.save(class.typed_first);
                let more = class.itself_first.lookups * self.search.len() as u64;
                saved.spend(class.candidates(more));
            }
        }
        // Those that would be asked as they are first, and were not.
        let sooner = |dots| dots >= wanted && self.ndots.is_none_or(|ndots| dots < ndots);
        let unknown = self.unjudged.may_need(&self.search, sooner);
        what_if(format!("ndots:{wanted}"), saved, breaks, leaks, unknown)
    }

    fn trailing_dot(&self) -> WhatIf {
        let mut saved = Change::default();
        for class in self.classes.values() {
            for tally in [&class.itself_last, &class.suffixed, &class.suffixed_last] {
                saved.save(tally.cost);
            }
        }
        what_if("trailing-dot".to_owned(), saved, Tally::default(), Tally::default(), 0)
    }

    fn without(&self, name: &str, suffix: &Suffix) -> WhatIf {
        let mut saved = Change::default();
        saved.save(suffix.spent);
        let (needed, unknown) = (suffix.needed.clone(), self.unjudged.may_need_suffix(name));
        what_if(format!("without {name}"), saved, needed, Tally::default(), unknown)
    }

    /// A suffix that is not the cluster's.
    fn is_foreign(&self, suffix: &str) -> bool {
        self.domain.as_deref().is_some_and(|domain| !within(suffix, domain))
    }

    /// The largest saving by a value of `ndots` that changes no answer.
    pub(super) fn best_ndots(&self) -> Option<(u32, WhatIf)> {
        let mut order = NDOTS;
        if self.may_be_musl() {
            order.swap(0, 1); // SERVICE.NAMESPACE.svc then stays found
        }
        let tried = order.into_iter().filter(|n| Some(*n) != self.ndots);
        let safe = tried.map(|n| (n, self.with_ndots(n))).filter(|(_, what_if)| what_if.safe);
        let mut best: Option<(u32, WhatIf)> = None;
        for (n, what_if) in safe {
            if best.as_ref().is_none_or(|(_, b)| what_if.queries_saved > b.queries_saved) {
                best = Some((n, what_if));
            }
        }
        best
    }

    /// Why a smaller `ndots` would do harm, if it would.
    pub(super) fn harm(&self) -> Option<String> {
        let smaller = |n: &u32| self.ndots.is_none_or(|ndots| *n < ndots);
        let mut tried = NDOTS.into_iter().filter(smaller).map(|n| self.with_ndots(n));
        let bad = tried.find(|w| w.breaks_lookups + w.leaks_lookups > 0)?;
        let names = if bad.breaks_lookups > 0 { &bad.breaks } else { &bad.leaks };
        let names = words::list(names, 2);
        let change = &bad.change;
        let musl = if self.libraries.contains("musl") { "musl" } else { "a client with musl" };
        Some(if bad.breaks_lookups > 0 {
            format!("with {change}, {musl} would no longer find {names}")
        } else {
            format!("with {change}, {names} would be asked outside the cluster first")
        })
    }

    /// Names found with `suffix`, if there were any.
    pub(super) fn needs(&self, suffix: &str) -> Option<String> {
        let suffix = self.suffixes.get(suffix)?;
        (suffix.needed.lookups > 0).then(|| words::list(&suffix.needed.names, 3))
    }

    /// Different names looked up, in words.
    pub(super) fn names_in_words(&self) -> String {
        let more = if self.names_capped { "over " } else { "" };
        format!("{more}{}", words::count(self.names.len(), "name", "names"))
    }
}

fn what_if(change: String, saved: Change, breaks: Tally, leaks: Tally, unknown: u64) -> WhatIf {
    WhatIf {
        change,
        queries_saved: saved.queries,
        bytes_saved: saved.bytes,
        time_saved_ns: saved.ns,
        safe: saved.queries > 0 && breaks.lookups == 0 && leaks.lookups == 0 && unknown == 0,
        unknown_names: unknown,
        breaks_lookups: breaks.lookups,
        breaks: breaks.names,
        leaks_lookups: leaks.lookups,
        leaks: leaks.names,
    }
}

/// What is recommended, and why; or why nothing.
struct Advice {
    recommended: Option<String>,
    why: String,
    snippet: Option<Snippet>,
}

fn advice(identity: &Identity, profile: &Profile, tried: &[WhatIf]) -> Advice {
    let names = profile.names_in_words();
    let foreign = |w: &&WhatIf| {
        w.safe && w.change.strip_prefix("without ").is_some_and(|s| profile.is_foreign(s))
    };
    let without = tried.iter().filter(foreign).max_by_key(|w| w.queries_saved);
    let ndots = profile.best_ndots();
    let better =
        |w: &&WhatIf| ndots.as_ref().is_none_or(|(_, n)| w.queries_saved > n.queries_saved);
    if let Some(without) = without.filter(better) {
        let ndots = profile.harm().filter(|_| ndots.is_none());
        let ndots = ndots.map(|harm| format!("; {harm}")).unwrap_or_default();
        return Advice {
            recommended: Some(without.change.clone()),
            why: format!("checked with {names}: none was found with this suffix{ndots}"),
            snippet: None,
        };
    }
    if let Some((n, what_if)) = ndots {
        return Advice {
            recommended: Some(what_if.change),
            why: format!("checked with {names}: {}", none_needs_the_list(n)),
            snippet: Some(remedy::option(identity, "ndots", Some(&n.to_string()))),
        };
    }
    let unknown = tried.iter().filter(|w| w.change.starts_with("ndots:") && w.queries_saved > 0);
    let why = match (profile.harm(), unknown.map(|w| w.unknown_names).max().unwrap_or(0)) {
        (Some(harm), _) => harm,
        (None, 0) => format!("checked with {names}: no smaller ndots spares a query"),
        (None, n) => format!(
            "checked with {names}: of {}, whose lookups failed, nobody knows whether a suffix has it",
            words::count(usize::try_from(n).unwrap_or(usize::MAX), "name", "names")
        ),
    };
    Advice { recommended: None, why, snippet: None }
}

/// What makes `ndots` safe.
pub(super) fn none_needs_the_list(ndots: u32) -> String {
    let dots = words::count(ndots as usize, "dot", "dots");
    format!("none with {dots} or more needs the search list")
}

/// In the words of the contract.
pub(super) fn told(identity: &Identity, profile: &Profile) -> WorkloadCosts {
    let mut what_if: Vec<WhatIf> = [1, 2, 3]
        .into_iter()
        .filter(|n| Some(*n) != profile.ndots)
        .map(|n| profile.with_ndots(n))
        .collect();
    what_if.push(profile.trailing_dot());
    let mut without: Vec<_> = profile.suffixes.iter().collect();
    without.retain(|(_, suffix)| suffix.spent.queries > 0);
    let place = |name: &str| profile.search.iter().position(|suffix| suffix == name);
    without.sort_by_key(|(name, suffix)| (std::cmp::Reverse(suffix.spent.queries), place(name)));
    what_if.extend(without.iter().take(WITHOUT_MAX).map(|(name, s)| profile.without(name, s)));
    let advice = advice(identity, profile, &what_if);
    let owned = identity.owner.is_some();
    WorkloadCosts {
        namespace: identity.namespace.clone(),
        owner: identity.owner.clone(),
        pod: identity.pod.clone().filter(|_| !owned),
        subject: remedy::subject(identity),
        ndots: profile.ndots,
        search: profile.search.to_vec(),
        libraries: profile.libraries.iter().map(|l| (*l).to_owned()).collect(),
        names: profile.names.len() as u64,
        names_capped: profile.names_capped,
        unjudged_lookups: profile.unjudged.lookups,
        what_if,
        recommended: advice.recommended,
        why: advice.why,
        yaml: advice.snippet.as_ref().map(|s| s.yaml.clone()),
        command: advice.snippet.and_then(|s| s.command),
    }
}
