//! The end of the text output.

use std::collections::BTreeMap;

use super::words::{count, duration, pad, place, process};
use super::{BAD, BOLD, Style};
use crate::report::{Code, DnsCosts, DnsLoad, Leaks, Server, Summary, WhatIf, WorkloadCosts};
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
    for (label, text) in costs(&of.dns) {
        line(label, text);
    }
    for (n, text) in leaks(&of.leaks).into_iter().enumerate() {
        line(if n == 0 { "leaks" } else { "" }, text);
    }
    let shown = if style.wide { of.servers.len() } else { SERVERS };
    for (n, server) in of.servers.iter().take(shown).enumerate() {
        line(if n == 0 { "servers" } else { "" }, answers(server, style));
    }
    if of.servers.len() > shown {
        line("", format!("and {} more", of.servers.len() - shown));
    }
    let of_reason = |reason| of.unmatched.get(reason).copied().unwrap_or_default();
    let (late, no_socket) = (of_reason("late"), of_reason("no-socket"));
    let asked_before = of_reason("asked-before");
    let strangers = of.unmatched_responses.saturating_sub(late + no_socket + asked_before);
    let oddities = [
        (of.cut, "payload cut", "payloads cut"),
        (of.undecoded, "record not understood", "records not understood"),
        (
            of.broken_off,
            "DNS message over TCP broken off by its sender",
            "DNS messages over TCP broken off by their senders",
        ),
        (of.late, "record came late", "records came late"),
        (of.evicted, "entry given up for lack of room", "entries given up for lack of room"),
        (strangers, "response without a question", "responses without a question"),
        (
            late,
            "answer after its socket or lookup was gone",
            "answers after their socket or lookup was gone",
        ),
        (no_socket, "answer that reached no socket", "answers that reached no socket"),
        (
            asked_before,
            "response to a question older than the trace",
            "responses to questions older than the trace",
        ),
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

/// Clients and workloads written out.
const COSTS_MAX: usize = 3;

/// What DNS cost and what would lower it; nothing where no search list was walked.
fn costs(of: &DnsCosts) -> Vec<(&'static str, String)> {
    let total = &of.total;
    if total.walk_queries == 0 {
        return Vec::new();
    }
    let mut lines = vec![(
        "DNS load",
        format!(
            "{} ({}), {}",
            count(total.queries, "query", "queries"),
            size(total.bytes),
            walk(total)
        ),
    )];
    let walking = || of.clients.iter().filter(|client| client.load.walk_queries > 0);
    if of.clients.len() > 1 {
        for client in walking().take(COSTS_MAX) {
            let who = [place(&client.identity), process(&client.identity)];
            let who: Vec<_> = who.into_iter().filter(|part| part != "-").collect();
            let who = if who.is_empty() { "?".to_owned() } else { who.join(" ") };
            let load = &client.load;
            lines.push((
                "",
                format!("{who}: {}, {}", count(load.queries, "query", "queries"), walk(load)),
            ));
        }
        let more = (walking().count().saturating_sub(COSTS_MAX)) as u64 + of.more_clients;
        if more > 0 {
            lines.push(("", format!("and {}", count(more, "client", "clients"))));
        }
    }
    let shown = of.workloads.iter().filter(|of| says(of)).take(COSTS_MAX).flat_map(what_if);
    lines.extend(shown.enumerate().map(|(n, text)| (if n == 0 { "what if" } else { "" }, text)));
    let more = of.workloads.iter().filter(|of| says(of)).count().saturating_sub(COSTS_MAX) as u64
        + of.more_workloads;
    if more > 0 {
        lines.push(("", format!("{} more in -o json", count(more, "workload", "workloads"))));
    }
    lines
}

fn walk(load: &DnsLoad) -> String {
    format!(
        "{} % of them search walk ({}, {}, {})",
        load.walk_percent,
        load.walk_queries,
        size(load.walk_bytes),
        duration(load.walk_time_ns),
    )
}

/// Some setting would have spared queries.
fn says(of: &WorkloadCosts) -> bool {
    of.what_if.iter().any(|what_if| what_if.queries_saved > 0)
}

fn what_if(of: &WorkloadCosts) -> Vec<String> {
    let saves = |w: &WhatIf| {
        let queries = u64::try_from(w.queries_saved).unwrap_or(0);
        let time = duration(u64::try_from(w.time_saved_ns).unwrap_or(0));
        format!("would save {} and {time}", count(queries, "query", "queries"))
    };
    let tried = |change: &str| of.what_if.iter().find(|w| w.change == change);
    let (subject, why) = (visible(&of.subject), visible(&of.why));
    let mut lines = match of.recommended.as_deref().and_then(tried) {
        Some(best) => vec![format!("{subject}: {} {}", visible(&best.change), saves(best)), why],
        None => vec![format!("{subject}: leave ndots as it is"), why],
    };
    if let Some(dot) = tried("trailing-dot").filter(|dot| dot.safe) {
        lines.push(format!("trailing dots in what its programs are told {}", saves(dot)));
    }
    let indent = |(n, line): (usize, String)| if n == 0 { line } else { format!("  {line}") };
    lines.into_iter().enumerate().map(indent).collect()
}

fn leaks(of: &Leaks) -> Vec<String> {
    let kinds = [
        (&of.foreign_suffix, "the cluster's names with a suffix that is not the cluster's"),
        (&of.cluster_names, "the cluster's complete names, at servers outside it"),
        (&of.short_names, "the cluster's short names as typed, which it forwards"),
        (&of.external_names, "external names with the cluster's suffixes"),
    ];
    let leaked = kinds.into_iter().filter(|(leak, _)| leak.queries > 0);
    leaked
        .map(|(leak, what)| {
            let name = leak.names.first().map(|n| format!(", such as {}", visible(n)));
            format!(
                "{} for {what}{}",
                count(leak.queries, "query", "queries"),
                name.unwrap_or_default()
            )
        })
        .collect()
}

/// Bytes as people say them.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
