//! The part of the contract that says what DNS cost in a run, what would lower it, and which names
//! went where they have no business.

use schemars::JsonSchema;
use serde::Serialize;

use super::Identity;

/// Messages and time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DnsLoad {
    /// Lookups.
    pub lookups: u64,
    /// Queries sent, retransmissions included.
    pub queries: u64,
    /// Bytes of queries and their responses, as DNS messages without the headers around them.
    pub bytes: u64,
    /// Queries of search walks: for candidates that did not answer though another one did, and,
    /// where several were tried in vain, for those with a search suffix.
    pub walk_queries: u64,
    /// Their bytes.
    pub walk_bytes: u64,
    /// Share of them in all queries, in percent.
    pub walk_percent: u64,
    /// Time of the lookups that went into such candidates, in nanoseconds; lookups that ran side by
    /// side each count.
    pub walk_time_ns: u64,
}

/// What DNS cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct DnsCosts {
    /// All clients together.
    pub total: DnsLoad,
    /// Clients with most queries of search walks first, at most ten.
    pub clients: Vec<ClientLoad>,
    /// Further clients.
    pub more_clients: u64,
    /// Lookups of clients that came when too many were known; they are in `total` only.
    pub unattributed_lookups: u64,
    /// What other settings would have saved, by what shares a pod template: at most ten, most
    /// queries of search walks first.
    pub workloads: Vec<WorkloadCosts>,
    /// Further ones.
    pub more_workloads: u64,
}

/// One client's part.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ClientLoad {
    /// Who.
    pub identity: Identity,
    /// How much.
    pub load: DnsLoad,
}

/// What other settings would have saved for the pods of one owner, for a pod, or a process.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct WorkloadCosts {
    /// Namespace.
    pub namespace: Option<String>,
    /// Owner, `Kind/name`.
    pub owner: Option<String>,
    /// Pod, where no owner is known.
    pub pod: Option<String>,
    /// In words.
    pub subject: String,
    /// `ndots` in force; `null` where no resolv.conf was read.
    pub ndots: Option<u32>,
    /// Search list, as far as known.
    pub search: Vec<String>,
    /// Resolver libraries that were recognised.
    pub libraries: Vec<String>,
    /// Different names that were looked up.
    pub names: u64,
    /// There were more names than are counted.
    pub names_capped: bool,
    /// Lookups without a result that could be judged (time-outs, errors, still open).
    pub unjudged_lookups: u64,
    /// Settings tried on the names seen.
    pub what_if: Vec<WhatIf>,
    /// The best of them that changes no answer: its `change`.
    pub recommended: Option<String>,
    /// Why this one, or why none.
    pub why: String,
    /// The recommended setting, to be pasted into the pod's template.
    pub yaml: Option<String>,
    /// The same as a command, where the owner is known and can be changed.
    pub command: Option<String>,
}

/// A setting tried on the names that were seen.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct WhatIf {
    /// `ndots:N`, `trailing-dot` or `without SUFFIX`.
    pub change: String,
    /// Queries that would not have been sent; negative where there would have been more.
    pub queries_saved: i64,
    /// Their bytes.
    pub bytes_saved: i64,
    /// Time of lookups, in nanoseconds.
    pub time_saved_ns: i64,
    /// Lookups that would no longer find their name.
    pub breaks_lookups: u64,
    /// Some of these names.
    pub breaks: Vec<String>,
    /// Lookups that would find it, but ask for the name as typed outside the cluster first.
    pub leaks_lookups: u64,
    /// Some of these names.
    pub leaks: Vec<String>,
    /// Names that it concerns and that may need what it takes away: no lookup of them came to a
    /// result.
    #[serde(skip_serializing_if = "super::is_zero")]
    pub unknown_names: u64,
    /// It saves something, breaks nothing that was seen, leaks nothing, and concerns no name of which
    /// nothing is known.
    pub safe: bool,
}

/// Names where they have no business, with counts; ordinary as long as they are quick.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Leaks {
    /// Names with a suffix that is not the cluster's behind a name that is, or that was found in the
    /// cluster: the cluster DNS forwards them.
    pub foreign_suffix: Leak,
    /// Complete names of the cluster asked at servers outside it, by the resolver or the client.
    pub cluster_names: Leak,
    /// Names found in the cluster with a suffix, but asked as they are, too: the cluster DNS
    /// forwards them.
    pub short_names: Leak,
    /// External names asked with the cluster's suffixes first.
    pub external_names: Leak,
}

/// One kind of leak.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Leak {
    /// Lookups.
    pub lookups: u64,
    /// Queries.
    pub queries: u64,
    /// The first of the names asked, at most eight.
    pub names: Vec<String>,
}
