//! `search-expansion` and `foreign-suffix`: what the search list cost, and who put a suffix into it
//! that is not the cluster's.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::correlate::{Attempt, Lookup, Transaction};
use crate::identify::{Identifier, OriginKind, ResolverConfig, SuffixOrigin};
use crate::report::{Code, Confidence, Outcome};

use super::draft::{self, Draft, Known, Text};
use super::origin;
use super::remedy::{self, Snippet};
use super::upstream::within;
use super::what_if::{self, Profile};
use super::words;

/// Names kept of one finding.
const NAMES_MAX: usize = 256;

/// What a walk looked like.
#[derive(Clone, Debug)]
pub(crate) struct Expansion {
    typed: String,
    ndots: Option<u32>,
    search: Arc<Vec<String>>,
    domain: Option<String>,
    queries: u64,
    walks: u64,
    candidates: Vec<Value>,
    tried: usize,
    /// Name that answered.
    winner: Option<String>,
    slowest: Option<(String, u64)>,
    cut_by: Option<Outcome>,
    library: Option<&'static str>,
    /// Queries with the cluster's suffixes.
    cluster_queries: u64,
}

impl Expansion {
    pub(crate) fn merge(&mut self, other: Self) {
        self.queries += other.queries;
        self.walks += other.walks;
        self.cluster_queries += other.cluster_queries;
    }

    /// The name itself answered, and it is not the cluster's; `None` where that is not known.
    fn external(&self) -> Option<bool> {
        let (winner, domain) = (self.winner.as_ref()?, self.domain.as_ref()?);
        Some(!within(winner, domain))
    }
}

fn is_cut(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Timeout | Outcome::Servfail | Outcome::Refused | Outcome::Error)
}

/// A name that ends in the cluster's domain needs no suffix.
pub(crate) fn complete(name: &str, domain: &str) -> bool {
    name != domain && within(name, domain)
}

/// The finding, if the walk cost time, or failed at an error or a silence.
pub(crate) fn expansion(lookup: &Lookup, domain: Option<&str>, threshold_ns: u64) -> Option<Draft> {
    let suffixed = || lookup.attempts.iter().filter(|a| a.suffix.is_some());
    let others: Vec<&Attempt> = match lookup.winner {
        Some(winner) => lookup.attempts.get(..winner)?.iter().collect(),
        // That the name itself fails, too, is not the walk's doing.
        None => suffixed().collect(),
    };
    if suffixed().next().is_none() || lookup.outcome == Outcome::Undecided {
        return None;
    }
    let winner = lookup.winner.and_then(|w| lookup.attempts.get(w));
    let (first, last) = (others.first()?, others.last()?);
    let walk = (first.started, winner.map_or(last.ended, |winner| winner.started));
    let cut = others.iter().filter(|a| a.suffix.is_some()).map(|a| a.outcome).find(|o| is_cut(*o));
    let failed = lookup.winner.is_none() && cut.is_some() && lookup.attempts.len() > 1;
    let walked = lookup.winner.is_some() || lookup.attempts.len() > 1;
    let slow = walked && walk.1.since(walk.0) > threshold_ns;
    if !slow && !failed {
        return None;
    }
    let candidates = lookup.attempts.iter().map(|a| {
        json!({ "name": a.name, "suffix": a.suffix, "outcome": a.outcome,
            "duration_ns": a.ended.since(a.started), "queries": a.datagrams(),
            "asked_again_ns": asked_again(a) })
    });
    let time = |a: &Attempt| a.ended.since(a.started);
    let slowest =
        suffixed().max_by_key(|a| time(a)).and_then(|a| Some((a.suffix.clone()?, time(a))));
    let facts = Expansion {
        typed: lookup.name.clone(),
        ndots: lookup.search.as_ref().and_then(|s| s.ndots),
        search: lookup.search.as_ref().map(|s| Arc::clone(&s.suffixes)).unwrap_or_default(),
        domain: domain.map(str::to_owned),
        queries: others.iter().map(|a| a.datagrams()).sum(),
        walks: 1,
        candidates: candidates.collect(),
        tried: others.iter().filter(|a| a.suffix.is_some()).count(),
        winner: winner.map(|a| a.name.clone()),
        slowest,
        cut_by: cut,
        library: lookup.library,
        cluster_queries: others
            .iter()
            .filter(|a| a.suffix.as_deref().zip(domain).is_some_and(|(s, d)| within(s, d)))
            .map(|a| a.datagrams())
            .sum(),
    };
    let subject = lookup.name.clone();
    let facts = draft::Facts::Expansion(facts);
    let mut draft = Draft::about(lookup, Code::SearchExpansion, subject, facts);
    draft.charge(walk);
    draft.show(others.iter().flat_map(|a| &a.transactions).flat_map(|t| &t.events).copied());
    Some(draft)
}

/// resolv.conf as the victim of `draft` read it, if it is known.
fn read_conf(draft: &Draft, who: &Identifier) -> Value {
    let config = draft.victims.first().and_then(|victim| who.resolver_config(&victim.actor));
    let told = |config: &ResolverConfig| json!({ "path": config.path, "lines": config.lines, "more_lines": config.more_lines });
    config.map_or(Value::Null, told)
}

/// When a query of `attempt` went out once more, in nanoseconds after its start; both address types
/// together count once.
fn asked_again(attempt: &Attempt) -> Vec<u64> {
    const TOGETHER_NS: u64 = 50_000_000;
    let again = |t: &Transaction| usize::from(t.try_number == 1);
    let sends = attempt.transactions.iter().flat_map(|t| t.sends.iter().skip(again(t)));
    let mut times: Vec<u64> = sends.map(|sent| sent.at.since(attempt.started)).collect();
    times.sort_unstable();
    times.dedup_by(|later, earlier| *later - *earlier < TOGETHER_NS);
    times
}

pub(crate) fn expansion_text(draft: &Draft, facts: &Expansion, known: &Known<'_>) -> Text {
    let who = known.who;
    let typed = &facts.typed;
    let time = words::time(draft.cost.length_ns());
    let queries = usize::try_from(facts.queries).unwrap_or(usize::MAX);
    let queries = words::count(queries, "query", "queries");
    let tried = words::count(facts.tried, "search suffix", "search suffixes");
    let end = match &facts.winner {
        Some(winner) if winner.eq_ignore_ascii_case(typed) => "before the name itself answered",
        Some(_) => "before one answered",
        None => "and none answered",
    };
    let dots = typed.bytes().filter(|b| *b == b'.').count();
    let mut cause = match facts.ndots {
        Some(ndots) if dots < ndots as usize => format!(
            "The name has {}, fewer than ndots:{ndots} asks for, so the resolver library tried it with each search suffix first.",
            words::count(dots, "dot", "dots"),
        ),
        _ => "The resolver library tried the name with search suffixes.".to_owned(),
    };
    if let Some((suffix, ns)) = &facts.slowest
        && *ns > draft.cost.length_ns() / 2
    {
        cause.push_str(&format!(" Suffix {suffix} alone took {}.", words::time(*ns)));
    }
    if let (Some(outcome), None) = (facts.cut_by, &facts.winner) {
        let word = if outcome == Outcome::Timeout { "a silence" } else { "an error response" };
        cause.push_str(&format!(" The walk ended at {word}, and the lookup failed."));
    }
    let complete = facts.domain.as_deref().map(|d| complete(typed, d));
    let (remedy, snippet) = expansion_remedy(facts, dots, complete, draft, known);
    Text {
        title: format!("{typed} was tried with {tried} {end}: {queries}, {time}"),
        cause,
        remedy,
        details: [
            ("typed", json!(typed)),
            ("external", json!(facts.external())),
            ("cluster_suffix_queries", json!(facts.cluster_queries)),
            ("yaml", json!(snippet.as_ref().map(|s| &s.yaml))),
            ("command", json!(snippet.as_ref().map(|s| &s.command))),
            ("queries", json!(facts.queries)),
            ("time_ns", json!(draft.cost.length_ns())),
            ("complete_as_typed", json!(complete)),
            ("walks", json!(facts.walks)),
            ("ndots", json!(facts.ndots)),
            ("search", json!(*facts.search)),
            ("candidates", json!(facts.candidates)),
            ("resolv_conf", read_conf(draft, who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: Vec::new(),
    }
}

fn expansion_remedy(
    facts: &Expansion,
    dots: usize,
    complete: Option<bool>,
    draft: &Draft,
    known: &Known<'_>,
) -> (Vec<String>, Option<Snippet>) {
    let typed = &facts.typed;
    let mut remedy = Vec::new();
    match &facts.winner {
        Some(winner) if !winner.eq_ignore_ascii_case(typed) => {
            remedy.push(format!("write the complete name with a trailing dot: `{winner}.`"));
        }
        None if complete == Some(false) && dots < 2 => {}
        _ => remedy.push(format!("write the name with a trailing dot: `{typed}.`")),
    }
    let as_typed = facts.winner.as_ref().is_none_or(|w| w.eq_ignore_ascii_case(typed));
    let Some(victim) = draft.victims.first().filter(|_| as_typed) else { return (remedy, None) };
    let identity = known.who.identity(&victim.actor);
    let profile = known.totals.profile(&identity);
    let best = profile.best_ndots().filter(|(ndots, _)| dots >= *ndots as usize);
    let snippet = best.map(|(ndots, _)| {
        let musl = match facts.library {
            Some("musl") => " (musl then asks such names only as they are)",
            _ => "",
        };
        let sentence = format!(
            "or set ndots:{ndots}{musl}; checked with {}, {}:",
            profile.names_in_words(),
            what_if::none_needs_the_list(ndots),
        );
        let snippet = remedy::option(&identity, "ndots", Some(&ndots.to_string()));
        remedy.push(snippet.beneath(&sentence));
        snippet
    });
    if snippet.is_none()
        && let Some(harm) = profile.harm()
    {
        remedy.push(format!("leave ndots as it is: {harm}"));
    }
    (remedy, snippet)
}

/// What a suffix did that is not the cluster's.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    suffix: String,
    domain: String,
    names: BTreeSet<String>,
    upstreams: BTreeSet<SocketAddr>,
    queries: u64,
    /// Queries of the resolver to upstreams, where they were seen.
    forwarded: u64,
    outcomes: BTreeSet<&'static str>,
}

impl Foreign {
    pub(crate) fn merge(&mut self, other: Self) {
        self.names.extend(other.names);
        self.upstreams.extend(other.upstreams);
        self.outcomes.extend(other.outcomes);
        self.queries += other.queries;
        self.forwarded += other.forwarded;
        while self.names.len() > NAMES_MAX {
            self.names.pop_last();
        }
    }
}

/// The suffix of an attempt, if it is not the cluster's.
pub(crate) fn foreign_suffix<'a>(attempt: &'a Attempt, domain: Option<&str>) -> Option<&'a str> {
    let suffix = attempt.suffix.as_deref()?;
    domain.is_some_and(|d| !within(suffix, d)).then_some(suffix)
}

/// The finding about an attempt with a foreign suffix that cost time or made the lookup fail.
pub(crate) fn foreign(
    lookup: &Lookup,
    attempt: &Attempt,
    domain: Option<&str>,
    threshold_ns: u64,
) -> Option<Draft> {
    let slow = attempt.ended.since(attempt.started) > threshold_ns;
    let fatal = lookup.winner.is_none() && is_cut(attempt.outcome);
    if !(slow || fatal) || attempt.outcome == Outcome::Answered {
        return None;
    }
    let suffix = foreign_suffix(attempt, domain)?;
    let tries = attempt.transactions.iter().filter_map(|t| t.tie.received.as_ref());
    let facts = Foreign {
        suffix: suffix.to_owned(),
        domain: domain?.to_owned(),
        names: BTreeSet::from([attempt.name.clone()]),
        upstreams: tries.clone().flat_map(|r| &r.tries).map(|t| t.server).collect(),
        queries: attempt.datagrams(),
        forwarded: tries.clone().map(|r| r.tries.len() as u64).sum(),
        outcomes: BTreeSet::from([match attempt.outcome {
            Outcome::Timeout => "no answer",
            Outcome::Nxdomain => "NXDOMAIN",
            Outcome::Nodata => "no data",
            _ => "an error",
        }]),
    };
    let seen = !facts.upstreams.is_empty();
    let facts = draft::Facts::Foreign(facts);
    let mut draft = Draft::about(lookup, Code::ForeignSuffix, suffix.to_owned(), facts);
    if !seen {
        draft.confidence = Confidence::Inferred;
    }
    draft.charge((attempt.started, attempt.ended));
    draft.show(attempt.transactions.iter().flat_map(|t| &t.events).copied());
    Some(draft)
}

pub(crate) fn foreign_text(draft: &Draft, facts: &Foreign, known: &Known<'_>) -> Text {
    let who = known.who;
    let suffix = &facts.suffix;
    let actor = draft.victims.first().map(|v| &v.actor);
    let origin = actor.map(|a| who.suffix_origin(a, suffix)).unwrap_or_default();
    let upstreams: Vec<String> = facts.upstreams.iter().map(|u| words::address(*u, who)).collect();
    let names: Vec<String> = facts.names.iter().cloned().collect();
    let outcomes: Vec<String> = facts.outcomes.iter().map(|o| (*o).to_owned()).collect();
    let (to, asked) = match words::list(&upstreams, 3) {
        none if none.is_empty() => ("an upstream".to_owned(), "has to ask an upstream".to_owned()),
        seen => (seen.clone(), format!("asked {seen}")),
    };
    let (place, remedy) = origin::words(suffix, &origin);
    let fix = foreign_remedy(facts, remedy, &origin, draft, known);
    Text {
        title: format!(
            "search suffix {suffix} sends the cluster's names to {to}, which cost {}",
            words::time(draft.cost.length_ns())
        ),
        cause: format!(
            "{} is not in {}, so the cluster DNS {asked} about it; the client got {}. {place}",
            words::list(&names, 3),
            facts.domain,
            words::list(&outcomes, 3),
        ),
        remedy: fix.remedy,
        details: [
            ("suffix", json!(suffix)),
            ("forwarded_queries", json!(facts.forwarded)),
            ("needed_by", json!(fix.needed)),
            ("yaml", json!(fix.snippet.as_ref().map(|s| &s.yaml))),
            ("command", json!(fix.snippet.as_ref().map(|s| &s.command))),
            ("kubelet", json!(fix.kubelet)),
            ("corefile", json!(fix.corefile)),
            ("cluster_domain", json!(facts.domain)),
            ("origin", origin::details(&origin)),
            (
                "upstreams",
                json!(facts.upstreams.iter().map(SocketAddr::to_string).collect::<Vec<_>>()),
            ),
            ("names", json!(names)),
            ("queries", json!(facts.queries)),
            ("resolv_conf", read_conf(draft, who)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: vec![
            "what the resolver did with these names was not seen; they are not the cluster's"
                .to_owned(),
        ],
    }
}

/// What to do about a suffix, for whom.
struct Fix {
    remedy: Vec<String>,
    /// Names that were found with it.
    needed: Option<String>,
    snippet: Option<Snippet>,
    kubelet: Option<String>,
    corefile: Option<String>,
}

fn foreign_remedy(
    facts: &Foreign,
    first: String,
    origin: &SuffixOrigin,
    draft: &Draft,
    known: &Known<'_>,
) -> Fix {
    let suffix = &facts.suffix;
    let identity = draft.victims.first().map(|v| known.who.identity(&v.actor)).unwrap_or_default();
    let profile: Profile = known.totals.profile(&identity);
    let needed = profile.needs(suffix);
    let mut fix = Fix {
        remedy: Vec::new(),
        needed: needed.clone(),
        snippet: None,
        kubelet: None,
        corefile: None,
    };
    if let Some(names) = needed {
        fix.remedy.push(format!(
            "{first}; but {names} was found with it, and needs its complete name then"
        ));
        return fix;
    }
    let on_node = origin.kind == OriginKind::NodeFile;
    fix.kubelet = origin
        .place
        .as_deref()
        .filter(|_| on_node && origin.whole_file.is_none())
        .and_then(|path| remedy::kubelet(path, suffix));
    fix.remedy.push(match &fix.kubelet {
        Some(lines) => format!("{first}:\n{lines}"),
        None => first,
    });
    let config = draft.victims.first().and_then(|v| known.who.resolver_config(&v.actor));
    fix.snippet = config
        .filter(|_| on_node)
        .and_then(|config| remedy::without_suffix(&identity, config, suffix));
    if let Some(snippet) = &fix.snippet {
        fix.remedy.push(
            snippet.beneath("or, without touching the node, give the pod a list of its own:"),
        );
    }
    fix.corefile = remedy::corefile(suffix);
    if let Some(lines) = &fix.corefile {
        fix.remedy.push(format!(
            "or, where the cluster DNS is CoreDNS and nobody needs names in {suffix}, let it answer them itself:\n{lines}"
        ));
    }
    fix
}
