//! The last line: sums of the run.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Serialize;

use super::{DnsCosts, Leaks, Ts, is_zero};

/// The end.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Summary {
    /// Contract version.
    pub schema: u32,
    /// Instant of the last record.
    pub ts: Ts,
    /// First record to last.
    pub duration_ns: u64,
    /// Records understood.
    pub events: u64,
    /// Records lost, all stages that lose whole records.
    pub lost: u64,
    /// Payloads cut at the snap length.
    pub cut: u64,
    /// Records or messages that could not be decoded.
    pub undecoded: u64,
    /// DNS messages over TCP that their senders began and did not end: the connection was closed or
    /// reset. No loss of ours.
    #[serde(skip_serializing_if = "is_zero")]
    pub broken_off: u64,
    /// Records that came too late for their place in time.
    pub late: u64,
    /// Correlation state given up because its cap was reached.
    pub evicted: u64,
    /// Responses that matched no question.
    pub unmatched_responses: u64,
    /// The same by reason: `unknown-id`, `wrong-question`, `wrong-server`, `late` (its lookup was told
    /// as timed out long before, or its socket was closed), `no-socket` (it came in and reached no
    /// socket: `--wire`), `query-not-seen` (a resolver's), `asked-before` (soon after the trace began, over
    /// a socket that is older).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unmatched: BTreeMap<String, u64>,
    /// Lookups by outcome.
    pub lookups: BTreeMap<String, u64>,
    /// Connections by outcome.
    pub connections: BTreeMap<String, u64>,
    /// Findings by code.
    pub findings: BTreeMap<String, u64>,
    /// Wall time of lookups by cause; each instant is charged once, in the order
    /// upstream-timeout, resolver-timeout, aaaa-race, search-expansion, others.
    pub time_ns: BTreeMap<String, u64>,
    /// Search walks, including the quick and harmless ones.
    pub search_walk: SearchWalk,
    /// What DNS cost, by whom, and what would lower it.
    pub dns: DnsCosts,
    /// Names where they have no business.
    pub leaks: Leaks,
    /// DNS servers that clients asked, the busiest first.
    pub servers: Vec<Server>,
}

/// How fast a DNS server answered its clients: first send to response, repeated queries left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Server {
    /// Address the programs asked for.
    pub server: SocketAddr,
    /// Answers that the times are of.
    pub answers: u64,
    /// Those of them that took longer than the threshold.
    pub slow: u64,
    /// Queries that were given up without an answer.
    pub unanswered: u64,
    /// Half of the answers took no longer.
    pub p50_ns: Option<u64>,
    /// 95 % of the answers took no longer; exact up to 256 answers, else within 1/32.
    pub p95_ns: Option<u64>,
    /// 99 % of the answers took no longer.
    pub p99_ns: Option<u64>,
    /// The slowest.
    pub max_ns: Option<u64>,
}

/// Totals of search walks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SearchWalk {
    /// Lookups that tried at least one candidate before the one that answered.
    pub walks: u64,
    /// Walks whose name was complete as typed.
    pub complete_as_typed: u64,
    /// Queries for candidates that did not win.
    pub queries: u64,
    /// Time before the winning candidate.
    pub time_ns: u64,
}
