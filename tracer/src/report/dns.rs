//! Lines about DNS: transactions, and lookups with their attempts.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use smallvec::SmallVec;

use crate::digits;

use super::{Identity, Ts};

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

/// Answers to a query that never reached its socket (`--wire`), or that the program dismissed because
/// it had asked another server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Unheard {
    /// Where the first came from.
    pub from: SocketAddr,
    /// The send before it to the first.
    pub after_ns: u64,
    /// Its RCODE by name.
    pub rcode: Cow<'static, str>,
    /// How many there were.
    pub answers: u32,
    /// They reached the socket.
    pub dismissed: bool,
    /// The number of the first one's event.
    pub event: u64,
}

/// ICMP errors about a query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct IcmpAbout {
    /// Who sent the first.
    pub from: IpAddr,
    /// `net-unreachable`, `host-unreachable`, `protocol-unreachable`, `port-unreachable`,
    /// `admin-prohibited`, `too-big`, `time-exceeded`, `other`.
    pub error: String,
    /// The send before it to the first.
    pub after_ns: u64,
    /// Most bytes of a packet that goes through, if it says that.
    pub mtu: Option<u32>,
    /// How many there were.
    pub errors: u32,
    /// The number of the first one's event.
    pub event: u64,
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
    pub qtype: Cow<'static, str>,
    /// RCODE by name.
    pub rcode: Option<Cow<'static, str>>,
    /// Data of the answers of the asked type, and CNAME targets before them.
    pub answers: Vec<String>,
    /// First send to response.
    pub latency_ns: Option<u64>,
    /// First send to a response that came after the sender had given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_ns: Option<u64>,
    /// Answers that came and that the program did not take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unheard: Option<Unheard>,
    /// ICMP errors about it (`--wire`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IcmpAbout>,
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
    pub qtype: Cow<'static, str>,
    /// Id on the wire.
    pub id: u16,
    /// Which try, from 1.
    #[serde(rename = "try")]
    pub try_number: u32,
    /// RCODE by name.
    pub rcode: Option<Cow<'static, str>>,
    /// What came of it.
    pub outcome: TransactionOutcome,
    /// First send to response.
    pub latency_ns: Option<u64>,
    /// First send to a response that came after the sender had given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_ns: Option<u64>,
    /// Answers that came and that the program did not take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unheard: Option<Unheard>,
    /// ICMP errors about it (`--wire`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IcmpAbout>,
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
    #[serde(serialize_with = "list")]
    #[schemars(with = "Vec<u64>")]
    pub events: SmallVec<[u64; 2]>,
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
    #[serde(serialize_with = "shared")]
    #[schemars(with = "Option<Vec<String>>")]
    pub search: Option<Arc<Vec<String>>>,
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

fn shared<S: Serializer>(
    names: &Option<Arc<Vec<String>>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    names.as_deref().serialize(serializer)
}

fn list<S: Serializer>(numbers: &SmallVec<[u64; 2]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(numbers)
}
