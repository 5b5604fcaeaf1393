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
mod dns;
mod finding;
mod summary;

pub use costs::{ClientLoad, DnsCosts, DnsLoad, Leak, Leaks, WhatIf, WorkloadCosts};
pub use dns::{
    AfterTruncation, Attempt, AttemptTransaction, Edns, ExtendedError, Followed, IcmpAbout, Lookup,
    Outcome, SearchSource, Transaction, TransactionOutcome, Transport, Unheard,
};
pub use finding::{Code, Confidence, Finding, Severity};
pub use summary::{SearchWalk, Server, Summary};

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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}
