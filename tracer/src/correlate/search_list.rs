//! Which name a process typed, told from the names it asked: the search list of resolv.conf(5)
//! applied backwards. Knows names only, no time and no transactions.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use crate::identify::ResolverConfig;
use crate::report::SearchSource;

/// The search list a lookup walked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchList {
    /// Suffixes in order, lower case.
    pub suffixes: Arc<Vec<String>>,
    /// `ndots`; `None` when the list is inferred.
    pub ndots: Option<u32>,
    /// How it is known.
    pub source: SearchSource,
}

/// One name as typed that explains all names asked so far.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hypothesis {
    typed: String,
    /// The form as typed comes first (enough dots), else after the suffixes.
    as_is_first: bool,
    /// The list follows or precedes the form as typed; else it is asked alone.
    walks: bool,
    /// Position of the last name asked.
    position: usize,
}

/// What one lookup's names say about the name typed.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    known: Option<(Arc<Vec<String>>, u32)>,
    hypotheses: Vec<Hypothesis>,
    /// Lower-cased names in the order asked.
    asked: SmallVec<[Arc<str>; 1]>,
    /// Without a known list: the stem, once two names agree on it.
    stem: Option<String>,
}

fn dots(name: &str) -> u32 {
    name.bytes().filter(|b| *b == b'.').count().try_into().unwrap_or(u32::MAX)
}

/// `name` without `stem.` in front.
fn after<'a>(name: &'a str, stem: &str) -> Option<&'a str> {
    name.strip_prefix(stem)?.strip_prefix('.').filter(|rest| !rest.is_empty())
}

/// `name` without `.suffix` at its end.
fn before<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    name.strip_suffix(suffix)?.strip_suffix('.').filter(|stem| !stem.is_empty())
}

/// Longest run of whole labels that both names begin with.
fn common_stem<'a>(a: &'a str, b: &str) -> Option<&'a str> {
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    let ends = |name: &str, at| matches!(name.as_bytes().get(at), None | Some(b'.'));
    let end = (0..=same).rev().find(|at| ends(a, *at) && ends(b, *at))?;
    a.get(..end)
}

impl Walk {
    /// A lookup begins with `name` (lower case).
    pub(crate) fn begin(name: impl Into<Arc<str>>, config: Option<&ResolverConfig>) -> Self {
        let name: Arc<str> = name.into();
        let known = config.map(|c| (Arc::clone(&c.search), c.ndots));
        // Nobody looks for the name of an address with suffixes.
        let reverse = name.ends_with(".in-addr.arpa") || name.ends_with(".ip6.arpa");
        let mut hypotheses = Vec::new();
        if let Some((search, ndots)) = &known {
            hypotheses.push(Hypothesis {
                typed: name.to_string(),
                as_is_first: true,
                walks: dots(&name) >= *ndots && !reverse,
                position: 0,
            });
            for (position, suffix) in search.iter().enumerate() {
                if let Some(stem) = before(&name, suffix).filter(|stem| dots(stem) < *ndots) {
                    hypotheses.push(Hypothesis {
                        typed: stem.to_owned(),
                        as_is_first: false,
                        walks: true,
                        position,
                    });
                }
            }
        }
        Self { known, hypotheses, asked: smallvec![name], stem: None }
    }

    /// `name` fits as a later candidate of the same lookup.
    pub(crate) fn fits(&self, name: &str) -> bool {
        if self.asked.iter().any(|n| **n == *name) {
            return false;
        }
        match &self.known {
            Some((search, _)) => self.hypotheses.iter().any(|h| h.later(name, search).is_some()),
            None => self.inferred_stem(name).is_some(),
        }
    }

    /// Takes `name` as the next candidate; call only when it [`fits`](Self::fits).
    pub(crate) fn advance(&mut self, name: impl Into<Arc<str>>) {
        let name = name.into();
        if let Some((search, _)) = &self.known {
            self.hypotheses.retain_mut(|h| match h.later(&name, search) {
                Some(position) => {
                    h.position = position;
                    true
                }
                None => false,
            });
        } else {
            self.stem = self.inferred_stem(&name).map(str::to_owned);
        }
        self.asked.push(name);
    }

    /// The list is from a resolver configuration.
    pub(crate) fn list_known(&self) -> bool {
        self.known.is_some()
    }

    /// It began with a name that can only be the one typed, which has too few dots for that by the
    /// known list.
    pub(crate) fn asked_at_once(&self) -> bool {
        let first = self.asked.first().map_or("", AsRef::as_ref);
        let as_typed = self.hypotheses.iter().all(|h| h.as_is_first);
        as_typed && self.known.as_ref().is_some_and(|(_, ndots)| dots(first) < *ndots)
    }

    /// A resolver could go on to another candidate.
    pub(crate) fn can_go_on(&self) -> bool {
        let Some((search, _)) = &self.known else {
            // As typed after suffixes is the end; anything else may go on.
            let last = self.asked.last().map(AsRef::as_ref);
            return !(self.asked.len() > 1 && self.stem.as_deref() == last);
        };
        self.hypotheses.iter().any(|h| h.walks && h.position < search.len())
    }

    /// The name as typed, as far as the names tell. When one name alone could be either, it is
    /// taken as it was asked, unless that would put more than a host in front of the first suffix.
    pub(crate) fn typed(&self) -> &str {
        let first = self.asked.first().map_or("", AsRef::as_ref);
        if self.known.is_none() {
            return self.stem.as_deref().unwrap_or(first);
        }
        let likely = if self.asked.len() > 1 {
            self.hypotheses.first()
        } else {
            self.hypotheses
                .iter()
                .find(|h| !h.as_is_first && h.position == 0 && dots(&h.typed) > 0)
                .or(self.hypotheses.first())
        };
        likely.map_or(first, |h| &h.typed)
    }

    /// The suffix that makes `name` of the typed name; `None` for the typed name itself.
    pub(crate) fn suffix(&self, name: &str) -> Option<String> {
        after(name, self.typed()).map(str::to_owned)
    }

    /// The search list, as far as known.
    pub(crate) fn search(&self) -> Option<SearchList> {
        if let Some((suffixes, ndots)) = &self.known {
            return Some(SearchList {
                suffixes: Arc::clone(suffixes),
                ndots: Some(*ndots),
                source: SearchSource::ResolvConf,
            });
        }
        self.stem.as_ref()?;
        Some(SearchList {
            suffixes: Arc::new(self.asked.iter().filter_map(|n| self.suffix(n)).collect()),
            ndots: None,
            source: SearchSource::Inferred,
        })
    }

    /// Without a known list: the stem that the names asked and `name` have in common, where one
    /// suffix being the tail of the other (as kubelet's are) or the bare stem vouches for it.
    fn inferred_stem<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        if !self.can_go_on() {
            return None;
        }
        if let Some(stem) = &self.stem {
            return (name == stem || after(name, stem).is_some()).then_some(stem);
        }
        let first = self.asked.first()?;
        if after(first, name).is_some() {
            return Some(name);
        }
        if after(name, first).is_some() {
            return Some(first);
        }
        let stem = common_stem(first, name)?;
        before(after(first, stem)?, after(name, stem)?).map(|_| stem)
    }
}

impl Hypothesis {
    /// Position of `name` in this walk, if it comes after the current one.
    fn later(&self, name: &str, search: &[String]) -> Option<usize> {
        if !self.walks {
            return None;
        }
        let shift = usize::from(self.as_is_first);
        let position = if name == self.typed {
            if self.as_is_first { 0 } else { search.len() }
        } else {
            let suffix = after(name, &self.typed)?;
            shift + search.iter().position(|s| s == suffix)?
        };
        (position > self.position).then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ResolverConfig {
        ResolverConfig {
            search: Arc::new(
                ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            ndots: 5,
            ..ResolverConfig::default()
        }
    }

    fn walk(config: Option<&ResolverConfig>, names: &[&str]) -> Walk {
        let mut walk = Walk::begin(names[0], config);
        for name in &names[1..] {
            assert!(walk.fits(name), "{name} does not fit {walk:?}");
            walk.advance(*name);
        }
        walk
    }

    #[test]
    fn suffixes_then_as_typed() {
        let config = config();
        let names = ["a.b.ns.svc.cluster.local", "a.b.svc.cluster.local", "a.b.cluster.local"];
        let mut walk = walk(Some(&config), &names);
        assert_eq!(walk.typed(), "a.b");
        assert!(walk.can_go_on());
        assert!(walk.fits("a.b.corp.example"));
        assert!(walk.fits("a.b"), "a resolver may skip the rest");
        assert!(!walk.fits("a.b.svc.cluster.local"), "never back");
        assert!(!walk.fits("a.c.corp.example"));
        walk.advance("a.b");
        assert!(!walk.can_go_on());
        assert_eq!(walk.suffix(names[1]).as_deref(), Some("svc.cluster.local"));
        assert_eq!(walk.suffix("a.b"), None);
    }

    #[test]
    fn enough_dots_come_first_as_typed() {
        let config = ResolverConfig { ndots: 1, ..config() };
        let walk =
            walk(Some(&config), &["www.example.org", "www.example.org.ns.svc.cluster.local"]);
        assert_eq!(walk.typed(), "www.example.org");
        assert!(walk.can_go_on());
    }

    #[test]
    fn one_name_alone() {
        let config = config();
        assert_eq!(walk(Some(&config), &["www.example.org"]).typed(), "www.example.org");
        assert!(!walk(Some(&config), &["www.example.org"]).can_go_on());
        let short = walk(Some(&config), &["web.ns.svc.cluster.local"]);
        assert_eq!(short.typed(), "web.ns.svc.cluster.local");
        assert!(short.can_go_on());
        let cut = walk(Some(&config), &["api.example.org.ns.svc.cluster.local"]);
        assert_eq!(cut.typed(), "api.example.org");
    }

    #[test]
    fn inferred_from_nested_suffixes_or_the_stem() {
        let nested = ["x.y.ns.svc.c.l", "x.y.svc.c.l", "x.y.c.l", "x.y.corp.example", "x.y"];
        let seen = walk(None, &nested);
        assert_eq!(seen.typed(), "x.y");
        assert!(!seen.can_go_on());
        let list = seen.search().expect("two candidates");
        assert_eq!(list.source, SearchSource::Inferred);
        assert_eq!(*list.suffixes, ["ns.svc.c.l", "svc.c.l", "c.l", "corp.example"]);
        assert_eq!(walk(None, &["x.corp.example", "x"]).typed(), "x");
        assert!(!Walk::begin("www.example.com", None).fits("www.example.org"));
        assert!(walk(None, &["www.example.com"]).search().is_none());
    }
}
