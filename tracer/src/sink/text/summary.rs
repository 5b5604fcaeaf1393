//! The end of the text output.

use std::collections::BTreeMap;

use super::words::{count, duration, pad};
use super::{BAD, BOLD, Style};
use crate::report::{Code, Server, Summary};
use crate::text::visible;

/// Servers that are written out, but for the wide form.
const SERVERS: usize = 3;

/// The summary's lines; `worst` is the highest cost of a finding by code, in nanoseconds.
pub(super) fn text(of: &Summary, worst: &BTreeMap<Code, u64>, style: &Style) -> String {
    let lost = format!("{} lost", of.lost);
    let lost = if of.lost > 0 { style.paint(&lost, BAD) } else { lost };
    let mut lines = vec![format!(
        "{}  {}, {} seen, {lost}",
        style.paint("summary", BOLD),
        duration(of.duration_ns),
        count(of.events, "event", "events"),
    )];
    let mut line = |label: &str, text: String| lines.push(format!("  {}{text}", pad(label, 14)));
    line("lookups", counts(&of.lookups));
    line("connections", counts(&of.connections));
    if of.time_ns.values().any(|ns| *ns > 0) {
        line("lookup time", times(&of.time_ns));
    }
    line("findings", findings(&of.findings, worst));
    let walk = of.search_walk;
    if walk.walks > 0 {
        line(
            "search walks",
            format!(
                "{} ({}, {}; {} complete as typed)",
                walk.walks,
                count(walk.queries, "extra query", "extra queries"),
                duration(walk.time_ns),
                count(walk.complete_as_typed, "name was", "names were"),
            ),
        );
    }
    let shown = if style.wide { of.servers.len() } else { SERVERS };
    for (n, server) in of.servers.iter().take(shown).enumerate() {
        line(if n == 0 { "servers" } else { "" }, answers(server, style));
    }
    if of.servers.len() > shown {
        line("", format!("and {} more", of.servers.len() - shown));
    }
    let oddities = [
        (of.cut, "payload cut", "payloads cut"),
        (of.undecoded, "record not understood", "records not understood"),
        (of.late, "record came late", "records came late"),
        (of.evicted, "entry given up for lack of room", "entries given up for lack of room"),
        (of.unmatched_responses, "response without a question", "responses without a question"),
    ];
    let oddities: Vec<_> = oddities
        .iter()
        .filter(|(n, ..)| *n > 0)
        .map(|(n, one, many)| count(*n, one, many))
        .collect();
    if !oddities.is_empty() {
        line("also", oddities.join(", "));
    }
    lines.join("\n")
}

/// How fast a server answered.
fn answers(of: &Server, style: &Style) -> String {
    let mut text = format!("{}  {}", of.server, count(of.answers, "answer", "answers"));
    let columns = [("p50", of.p50_ns), ("p95", of.p95_ns), ("p99", of.p99_ns), ("max", of.max_ns)];
    for (label, ns) in columns {
        if let Some(ns) = ns
            && (style.wide || label != "p99")
        {
            text.push_str(&format!(", {label} {}", duration(ns)));
        }
    }
    if of.unanswered > 0 {
        let unanswered = format!("{} unanswered", of.unanswered);
        text.push_str(&format!(", {}", style.paint(&unanswered, BAD)));
    }
    text
}

/// Most frequent first.
fn counts(by: &BTreeMap<String, u64>) -> String {
    let mut all: Vec<_> = by.iter().filter(|(_, n)| **n > 0).collect();
    all.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    let all: Vec<_> = all.iter().map(|(key, n)| format!("{n} {}", visible(key))).collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

/// Longest first.
fn times(by: &BTreeMap<String, u64>) -> String {
    let mut all: Vec<_> = by.iter().filter(|(_, ns)| **ns > 0).collect();
    all.sort_by_key(|(_, ns)| std::cmp::Reverse(**ns));
    let all: Vec<_> =
        all.iter().map(|(key, ns)| format!("{} {}", duration(**ns), visible(key))).collect();
    all.join(", ")
}

/// Costliest first.
fn findings(by: &BTreeMap<String, u64>, worst: &BTreeMap<Code, u64>) -> String {
    let cost = |name: &str| {
        worst.iter().find(|(code, _)| code.name() == name).map_or(0, |(_, cost)| *cost)
    };
    let mut all: Vec<_> = by.iter().filter(|(_, n)| **n > 0).collect();
    all.sort_by_key(|(name, _)| std::cmp::Reverse(cost(name)));
    let all: Vec<_> = all
        .iter()
        .map(|(name, n)| match cost(name) {
            0 => format!("{n} {}", visible(name)),
            ns => format!("{n} {} (worst {})", visible(name), duration(ns)),
        })
        .collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}
