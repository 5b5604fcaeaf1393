//! The record: one fact at one instant, as bytes. All sources produce these and nothing else; all
//! stages after them are a pure function of the stream. Leaves interpretation to `decode`.

use std::net::IpAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracer_common::record::kind as wire;

/// Nanoseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Nanoseconds from `earlier` to `self`; 0 when `earlier` is later (clocks of several CPUs).
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This instant moved forward by `ns`.
    pub fn plus(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }
}

/// Which of the stream's hosts. Ids of processes, cgroups, sockets and namespaces mean something on
/// one host only. 0 where the stream has one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u16);

impl HostId {
    /// Where `ip` means something: loopback and link-local addresses (a node-local DNS cache has
    /// one) on this host, all others in the whole cluster, which is 0.
    pub fn of(self, ip: IpAddr) -> Self {
        let local = match ip.to_canonical() {
            IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
        };
        if local { self } else { Self::default() }
    }
}

/// A process's thread as a hook saw it. Absent when the source cannot know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Task {
    /// Process (thread group) id in the host's pid namespace.
    pub pid: u32,
    /// Thread id in the host's pid namespace.
    pub tid: u32,
    /// Thread name; bytes that are not printable UTF-8 are escaped (`\xNN`).
    pub comm: String,
}

/// What a record is; the numbers are part of the capture format and never change meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
#[allow(
    missing_docs,
    reason = "named after the numbers in tracer_common::record::kind and `context`"
)]
pub enum RecordKind {
    Syscall = wire::SYSCALL,
    SocketAddress = wire::SOCKET_ADDRESS,
    SocketClosed = wire::SOCKET_CLOSED,
    Packet = wire::PACKET,
    Wire = wire::WIRE,
    TcpState = wire::TCP_STATE,
    Exec = wire::EXEC,
    Exit = wire::EXIT,
    CgroupMade = wire::CGROUP_MADE,
    CgroupRemoved = wire::CGROUP_REMOVED,
    Payload = wire::PAYLOAD,
    Call = wire::CALL,
    Data = wire::DATA,
    // Context records: bodies are the JSON of the type of the same name in `context`.
    Host = 0x8000,
    Heartbeat = 0x8001,
    Loss = 0x8002,
    Scope = 0x8003,
    Cgroup = 0x8010,
    Process = 0x8011,
    Socket = 0x8012,
    ResolvConf = 0x8013,
    NodeFile = 0x8014,
    Conntrack = 0x8015,
    Pod = 0x8020,
    Service = 0x8021,
    EndpointSlice = 0x8022,
}

impl RecordKind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 26] = [
        Self::Syscall,
        Self::SocketAddress,
        Self::SocketClosed,
        Self::Packet,
        Self::Wire,
        Self::TcpState,
        Self::Exec,
        Self::Exit,
        Self::CgroupMade,
        Self::CgroupRemoved,
        Self::Payload,
        Self::Call,
        Self::Data,
        Self::Host,
        Self::Heartbeat,
        Self::Loss,
        Self::Scope,
        Self::Cgroup,
        Self::Process,
        Self::Socket,
        Self::ResolvConf,
        Self::NodeFile,
        Self::Conntrack,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// The kind with this number, if this version knows it.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }

    /// Holds arguments or payload, which are in no capture unless somebody asked for them.
    pub fn is_private(self) -> bool {
        self == Self::Data
    }

    /// Made by user space about host or cluster, not seen at a hook.
    pub fn is_context(self) -> bool {
        self as u16 >= 0x8000
    }
}

/// One fact at one instant. `None` is always "the source cannot know".
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Given by the source, never decreasing, never renumbered. The first record with a number is
    /// the event; further ones with the same number say what that event means.
    pub number: u64,
    /// Instant of the fact.
    pub at: Timestamp,
    /// The machine whose ids these are; no origin: several sources can tell of one.
    pub host: HostId,
    /// What the body is.
    pub kind: RecordKind,
    /// Processor.
    pub cpu: Option<u32>,
    /// Hook, a `tracer_common::record::probe` number.
    pub probe: Option<u16>,
    /// The payload was cut at the source's snap length.
    pub cut: bool,
    /// Who was running; for packets the source leaves it out (softirq): join by cookie.
    pub task: Option<Task>,
    /// cgroup v2 id.
    pub cgroup: Option<u64>,
    /// Socket cookie.
    pub cookie: Option<u64>,
    /// Kernel kinds: the `tracer_common::bodies` struct (times in it already Unix nanoseconds) and
    /// payload. Context kinds: JSON.
    pub body: Bytes,
}

impl Record {
    /// A record of which only this is known.
    pub fn bare(number: u64, at: Timestamp, kind: RecordKind, body: impl Into<Bytes>) -> Self {
        Self {
            number,
            at,
            host: HostId::default(),
            kind,
            cpu: None,
            probe: None,
            cut: false,
            task: None,
            cgroup: None,
            cookie: None,
            body: body.into(),
        }
    }
}
