//! Lines about what is wrong, and their codes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::{Identity, Ts};

/// How bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "plain words")]
pub enum Severity {
    Info,
    Warning,
    Error,
}

/// How sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// Every step of it was seen.
    Certain,
    /// A fact is missing; `inferred_from` says what it was told from.
    Inferred,
}

/// A finding's stable code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "documented one by one in docs/findings.md")]
pub enum Code {
    UpstreamTimeout,
    ResolverTimeout,
    ResolverUnreachable,
    DnsError,
    DnsTruncated,
    SearchExpansion,
    ForeignSuffix,
    Nxdomain,
    EventsLost,
    AaaaRace,
    SlowDns,
}

impl Code {
    /// As in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::UpstreamTimeout => "upstream-timeout",
            Self::ResolverTimeout => "resolver-timeout",
            Self::ResolverUnreachable => "resolver-unreachable",
            Self::DnsError => "dns-error",
            Self::DnsTruncated => "dns-truncated",
            Self::SearchExpansion => "search-expansion",
            Self::ForeignSuffix => "foreign-suffix",
            Self::Nxdomain => "nxdomain",
            Self::EventsLost => "events-lost",
            Self::AaaaRace => "aaaa-race",
            Self::SlowDns => "slow-dns",
        }
    }

    /// All codes.
    pub const ALL: [Self; 11] = [
        Self::UpstreamTimeout,
        Self::ResolverTimeout,
        Self::ResolverUnreachable,
        Self::DnsError,
        Self::DnsTruncated,
        Self::SearchExpansion,
        Self::ForeignSuffix,
        Self::Nxdomain,
        Self::EventsLost,
        Self::AaaaRace,
        Self::SlowDns,
    ];
}

/// A diagnosis.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Finding {
    /// Contract version.
    pub schema: u32,
    /// Number in this run, from 1.
    pub id: u64,
    /// Start of what it is about.
    pub ts: Ts,
    /// What.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// Finer class within the code.
    pub class: Option<String>,
    /// How sure.
    pub confidence: Confidence,
    /// What an inferred finding was told from.
    pub inferred_from: Vec<String>,
    /// What could make it wrong, such as loss in its window.
    pub caveats: Vec<String>,
    /// Findings that explain this one's cost.
    pub caused_by: Vec<u64>,
    /// Lookups it delayed.
    pub lookups: Vec<u64>,
    /// Whom it hit.
    pub identity: Identity,
    /// What it is about: a name, a server, a suffix.
    pub subject: String,
    /// Wall time of the lookups that it delayed.
    pub cost_ns: u64,
    /// Numbers of the events that show it.
    pub evidence: Vec<u64>,
    /// One line.
    pub title: String,
    /// Why.
    pub cause: String,
    /// What to do.
    pub remedy: Vec<String>,
    /// Per code.
    pub details: BTreeMap<String, serde_json::Value>,
}
