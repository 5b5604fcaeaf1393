//! The JSON contract: what svctrace tells, one object a line, `"schema": 1`. Names and types are
//! API: fields and enum values may be added, never renamed or re-typed. Unknown is `null`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::Serialize;

use crate::context::{LossStage, Origin};
use crate::digits;
use crate::record::Timestamp;

mod costs;

pub use costs::{ClientLoad, DnsCosts, DnsLoad, Leak, Leaks, WhatIf, WorkloadCosts};

/// One line of output.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
#[expect(missing_docs, reason = "variants are named after their bodies")]
pub enum Output {
    Event(EventLine),
    Transaction(Transaction),
    Lookup(Lookup),
    Connection(Connection),
    Finding(Finding),
    Loss(Loss),
    Summary(Summary),
}

/// An instant: RFC 3339 with nanoseconds, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ts(pub Timestamp);

impl Serialize for Ts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(digits::instant(self.0.0).as_str())
    }
}

impl Ts {
    /// RFC 3339 in UTC with nine digits after the second.
    pub fn rfc3339(self) -> String {
        digits::instant(self.0.0).as_str().to_owned()
    }
}

impl JsonSchema for Ts {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// Who.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Identity {
    /// Namespace.
    pub namespace: Option<String>,
    /// Pod.
    pub pod: Option<String>,
    /// Where the pod's name came from; `proc` is a guess.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub named_by: Option<Origin>,
    /// Container's name in the pod.
    pub container: Option<String>,
    /// Container's runtime id.
    pub container_id: Option<String>,
    /// Node.
    pub node: Option<String>,
    /// Host name of the machine, where captures of several are read together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Owner of the pod, `Kind/name`.
    pub owner: Option<String>,
    /// cgroup path, where no pod is known.
    pub cgroup: Option<String>,
    /// Process id on the host.
    pub pid: Option<u32>,
    /// Thread id on the host.
    pub tid: Option<u32>,
    /// Thread name, escaped.
    pub comm: Option<String>,
    /// Own address, where nothing else is known (captured packets).
    pub address: Option<IpAddr>,
}

/// Transport of a DNS transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the protocols' names")]
pub enum Transport {
    Udp,
    Tcp,
}

/// What came of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TransactionOutcome {
    /// A response came.
    Answered,
    /// None came before the sender gave up.
    Timeout,
    /// The sender's socket was told that the server cannot be reached.
    Unreachable,
    /// Still open when the input ended.
    Undecided,
}

/// What followed a truncated answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Followed {
    /// The same question over TCP was answered.
    TcpAnswered,
    /// The connection was refused.
    TcpRefused,
    /// Nobody answered the SYN.
    TcpTimeout,
    /// The connection was broken off before the answer.
    TcpReset,
    /// The server could not be reached over TCP.
    TcpUnreachable,
    /// The question over TCP got no answer.
    TcpUnanswered,
    /// The client began a connection and gave it up.
    GivenUp,
    /// The client asked again over UDP.
    AskedAgain,
    /// The client did not ask again.
    NotRetried,
    /// Not known: the input ended.
    Undecided,
}

impl Followed {
    /// As in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::TcpAnswered => "tcp-answered",
            Self::TcpRefused => "tcp-refused",
            Self::TcpTimeout => "tcp-timeout",
            Self::TcpReset => "tcp-reset",
            Self::TcpUnreachable => "tcp-unreachable",
            Self::TcpUnanswered => "tcp-unanswered",
            Self::GivenUp => "given-up",
            Self::AskedAgain => "asked-again",
            Self::NotRetried => "not-retried",
            Self::Undecided => "undecided",
        }
    }
}

/// What followed a truncated answer, and how long it took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AfterTruncation {
    /// What.
    pub followed: Followed,
    /// Truncated answer to the end of what followed; `null` where nothing followed.
    pub duration_ns: Option<u64>,
    /// Numbers of the events of the connect, where it failed.
    pub events: Vec<u64>,
}

/// The OPT record of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Edns {
    /// Largest datagram the client takes, in bytes.
    pub udp_size: u16,
    /// DO bit.
    pub dnssec_ok: bool,
}

/// An extended error in a response (RFC 8914).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ExtendedError {
    /// INFO-CODE.
    pub code: u16,
    /// Its purpose; `null` where the code has none.
    pub name: Option<String>,
    /// What the server says besides, escaped.
    pub text: Option<String>,
}

/// What came of an attempt or lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "RFC 8499 and RCODE names")]
pub enum Outcome {
    Answered,
    Nxdomain,
    Nodata,
    Timeout,
    Servfail,
    Refused,
    Unreachable,
    Error,
    Undecided,
}

/// One DNS query and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Transaction {
    /// Contract version.
    pub schema: u32,
    /// First send.
    pub ts: Ts,
    /// Who asked.
    pub identity: Identity,
    /// Own end.
    #[serde(serialize_with = "digits::address")]
    pub client: SocketAddr,
    /// Address the program asked for.
    #[serde(serialize_with = "digits::address")]
    pub server: SocketAddr,
    /// Address on the packet, when it differs.
    pub server_wire: Option<SocketAddr>,
    /// Transport.
    pub transport: Transport,
    /// Id on the wire.
    pub id: u16,
    /// Which try of its attempt, from 1.
    #[serde(rename = "try")]
    pub try_number: u32,
    /// Name asked, as sent, escaped.
    pub name: String,
    /// Type.
    pub qtype: String,
    /// RCODE by name.
    pub rcode: Option<String>,
    /// Data of the answers of the asked type, and CNAME targets before them.
    pub answers: Vec<String>,
    /// First send to response.
    pub latency_ns: Option<u64>,
    /// First send to a response that came after the sender had given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_ns: Option<u64>,
    /// Times the same datagram was sent again.
    pub retransmits: u32,
    /// The capture does not hold the query itself: it was told from the resolver's side or from the
    /// response.
    pub recovered: bool,
    /// TC bit.
    pub truncated: bool,
    /// What followed a truncated answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_truncation: Option<AfterTruncation>,
    /// The query's EDNS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edns: Option<Edns>,
    /// Codes of the EDNS options in the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_options: Option<Vec<u16>>,
    /// Extended errors in the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_errors: Option<Vec<ExtendedError>>,
    /// The name exists, but has no data of this type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodata: Option<bool>,
    /// Seconds for which the absence may be kept, from the response's SOA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_ttl_s: Option<u32>,
    /// What came of it.
    pub outcome: TransactionOutcome,
    /// Numbers of the events.
    pub events: Vec<u64>,
}

/// A transaction inside an attempt: the same, without what the lookup says already.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AttemptTransaction {
    /// Own end.
    #[serde(serialize_with = "digits::address")]
    pub client: SocketAddr,
    /// Address the program asked for.
    #[serde(serialize_with = "digits::address")]
    pub server: SocketAddr,
    /// Transport.
    pub transport: Transport,
    /// Type.
    pub qtype: String,
    /// Id on the wire.
    pub id: u16,
    /// Which try, from 1.
    #[serde(rename = "try")]
    pub try_number: u32,
    /// RCODE by name.
    pub rcode: Option<String>,
    /// What came of it.
    pub outcome: TransactionOutcome,
    /// First send to response.
    pub latency_ns: Option<u64>,
    /// First send to a response that came after the sender had given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_ns: Option<u64>,
    /// Times the same datagram was sent again.
    pub retransmits: u32,
    /// The capture does not hold the query itself: it was told from the resolver's side or from the
    /// response.
    pub recovered: bool,
    /// Data of the answers.
    pub answers: Vec<String>,
    /// What followed a truncated answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_truncation: Option<AfterTruncation>,
    /// Extended errors in the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extended_errors: Option<Vec<ExtendedError>>,
    /// Numbers of the events.
    pub events: Vec<u64>,
}

/// One candidate name tried.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Attempt {
    /// Name asked.
    pub name: String,
    /// Suffix it got; `null` for the name as typed.
    pub suffix: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// Start, relative to the lookup's.
    pub start_ns: u64,
    /// To the last response, or to the moment the client gave up.
    pub duration_ns: u64,
    /// Its transactions.
    pub transactions: Vec<AttemptTransaction>,
}

/// How the search list is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub enum SearchSource {
    /// Read.
    #[serde(rename = "resolv.conf")]
    ResolvConf,
    /// From at least two candidates with a common stem.
    #[serde(rename = "inferred")]
    Inferred,
}

/// Everything one process did to resolve one name as typed.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Lookup {
    /// Contract version.
    pub schema: u32,
    /// Number of the lookup in this run, from 1; findings refer to it.
    pub id: u64,
    /// First query.
    pub ts: Ts,
    /// Who asked.
    pub identity: Identity,
    /// Name as typed, as far as it can be told.
    pub name: String,
    /// Server of the first query.
    #[serde(serialize_with = "digits::address")]
    pub server: SocketAddr,
    /// Search list.
    pub search: Option<Vec<String>>,
    /// `ndots`.
    pub ndots: Option<u32>,
    /// How both are known.
    pub search_source: Option<SearchSource>,
    /// In order.
    pub attempts: Vec<Attempt>,
    /// What came of it.
    pub outcome: Outcome,
    /// Addresses (or data of the asked type).
    pub answers: Vec<String>,
    /// First query to last response, or to the moment the client gave up.
    pub duration_ns: u64,
    /// Wall time before the first query of the winning attempt; `null` without a winner.
    pub wasted_ns: Option<u64>,
    /// Datagrams sent for other attempts than the winning one; `null` without a winner.
    pub wasted_queries: Option<u64>,
    /// `glibc`, `musl`, `go`, `c-ares`, when its behaviour tells.
    pub resolver_library: Option<String>,
    /// What the name stands for, where it is that of a Service of type ExternalName.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
}

/// What came of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "plain words")]
pub enum ConnectionOutcome {
    Established,
    Refused,
    Timeout,
    Reset,
    Unreachable,
    Undecided,
}

/// The pod or address behind a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Backend {
    /// Address and port.
    pub address: SocketAddr,
    /// `namespace/name`.
    pub pod: Option<String>,
    /// What its EndpointSlice said at the start, if not that it is ready: `not ready`,
    /// `terminating`, `no longer listed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// One connect.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Connection {
    /// Contract version.
    pub schema: u32,
    /// Start.
    pub ts: Ts,
    /// Who.
    pub identity: Identity,
    /// `tcp`.
    pub protocol: String,
    /// Own end.
    pub local: Option<SocketAddr>,
    /// Address the program asked for.
    pub remote: SocketAddr,
    /// `svc/NAME.NS:PORT`.
    pub service: Option<String>,
    /// Who has the address, in words: `pod NS/NAME`, `node NAME`, `API server`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Who accepted.
    pub backend: Option<Backend>,
    /// The name that was looked up just before and gave this address.
    pub name: Option<String>,
    /// What came of it.
    pub outcome: ConnectionOutcome,
    /// errno by name.
    pub errno: Option<String>,
    /// SYN to established.
    pub handshake_ns: Option<u64>,
    /// Start to close; `null` while open.
    pub duration_ns: Option<u64>,
    /// `dns-over-tls` (by its port), `dns-over-https` (port 443 of a nameserver in the client's
    /// resolv.conf): DNS whose messages cannot be seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inside: Option<String>,
    /// Numbers of the events.
    pub events: Vec<u64>,
}

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

/// Records that never arrived.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Loss {
    /// Contract version.
    pub schema: u32,
    /// Host name of the machine, where captures of several are read together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// When it became known.
    pub ts: Ts,
    /// Where.
    pub stage: LossStage,
    /// Probe or component.
    pub source: String,
    /// How many.
    pub count: u64,
    /// Earliest instant.
    pub first_ts: Ts,
    /// Latest instant.
    pub last_ts: Ts,
}

/// One event in a line.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct EventLine {
    /// Contract version.
    pub schema: u32,
    /// Number.
    pub n: u64,
    /// Instant.
    pub ts: Ts,
    /// Processor.
    pub cpu: Option<u32>,
    /// Who.
    pub identity: Identity,
    /// What: `connect`, `dns`, `exec`, ...
    pub kind: String,
    /// `enter`, `exit`, `in`, `out`.
    pub direction: Option<String>,
    /// Return value.
    pub result: Option<i64>,
    /// errno by name.
    pub errno: Option<String>,
    /// The rest, by kind.
    pub args: BTreeMap<String, serde_json::Value>,
    /// With `--payload`: the bytes of a DNS message in hex, as far as they were captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

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
    /// as timed out long before), `query-not-seen` (a resolver's).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unmatched: BTreeMap<String, u64>,
    /// Lookups by outcome.
    pub lookups: BTreeMap<String, u64>,
    /// Connections by outcome.
    pub connections: BTreeMap<String, u64>,
    /// Findings by code.
    pub findings: BTreeMap<String, u64>,
    /// Wall time of lookups by cause; each instant is charged once, in the order
    /// upstream-timeout, resolver-timeout, search-expansion, others.
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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
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
