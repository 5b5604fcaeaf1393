//! The event: a record understood. Plain parts with public fields, no behaviour beyond reading.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use crate::context;
use crate::record::{HostId, Task, Timestamp};

/// A record understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Number of its record.
    pub number: u64,
    /// Instant.
    pub at: Timestamp,
    /// Processor.
    pub cpu: Option<u32>,
    /// Hook number.
    pub probe: Option<u16>,
    /// Who, where, on which socket.
    pub actor: Actor,
    /// What.
    pub body: Body,
}

/// The one behind an event, as far as the source knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Actor {
    /// Machine whose ids these are.
    pub host: HostId,
    /// Thread.
    pub task: Option<Task>,
    /// cgroup v2 id.
    pub cgroup: Option<u64>,
    /// Socket cookie.
    pub cookie: Option<u64>,
    /// Own end of the socket, when a packet tells it.
    pub local: Option<SocketAddr>,
}

impl Actor {
    /// Its socket's cookie, which means something on its host only.
    pub fn socket(&self) -> Option<(HostId, u64)> {
        Some((self.host, self.cookie?))
    }

    /// Nothing but an address is known: the packet was captured on its way, at no socket.
    pub fn is_address(&self) -> bool {
        self.task.is_none() && self.cgroup.is_none() && self.cookie.is_none()
    }
}

/// What happened. `Passing` is an answer where it enters the network namespace of the socket that waits
/// for it: it may reach that or not.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "variants are named after their bodies")]
pub enum Body {
    Syscall(Syscall),
    SocketAddress(SocketAddress),
    SocketClosed(SocketClosed),
    Dns(Dns),
    Passing(Dns),
    Icmp(Box<Icmp>),
    Tcp(Tcp),
    TcpState(TcpState),
    Exec { filename: String },
    Exit,
    CgroupMade(context::Cgroup),
    CgroupRemoved(context::Cgroup),
    Call(CallSide),
    Data(Data),
    Host(context::Host),
    Heartbeat,
    Loss(context::Loss),
    Scope(context::Scope),
    Cgroup(context::Cgroup),
    Process(context::Process),
    Socket(context::Socket),
    ResolvConf(context::ResolvConf),
    NodeFile(context::NodeFile),
    Conntrack(context::Conntrack),
    Pod(context::Pod),
    Service(context::Service),
    EndpointSlice(context::EndpointSlice),
}

/// A traced system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named after the calls")]
pub enum Call {
    Connect,
    Sendto,
    Sendmsg,
    Sendmmsg,
    Recvfrom,
    Recvmsg,
    Recvmmsg,
}

impl Call {
    /// Name as in the manual.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Sendto => "sendto",
            Self::Sendmsg => "sendmsg",
            Self::Sendmmsg => "sendmmsg",
            Self::Recvfrom => "recvfrom",
            Self::Recvmsg => "recvmsg",
            Self::Recvmmsg => "recvmmsg",
        }
    }
}

/// One system call, told at its exit.
#[derive(Clone, Debug, PartialEq)]
pub struct Syscall {
    /// Which.
    pub call: Call,
    /// Entry.
    pub entered: Timestamp,
    /// Return value (negative: -errno); `None` while the call was open at the end of the trace.
    pub result: Option<i64>,
    /// Descriptor.
    pub fd: i32,
    /// Length argument or number of messages; `None` where the call has none.
    pub size: Option<u64>,
    /// Address argument.
    pub peer: Option<SocketAddr>,
}

/// One side of a system call, or another event, as a foreign capture tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct CallSide {
    /// The call returned; else it began, or has one side only.
    pub exit: bool,
    /// Descriptor.
    pub fd: Option<i64>,
    /// Return value (negative: -errno).
    pub result: Option<i64>,
    /// Name as in the manual, bytes as in the record.
    pub name: Bytes,
    /// `key=value` each with a NUL behind it, bytes as in the record.
    pub args: Bytes,
}

/// What [`Data`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataKind {
    /// Arguments of a command from the second word on, each with a NUL behind it.
    Arguments,
    /// Sent on a socket.
    Sent,
    /// Received on a socket.
    Received,
}

/// Arguments of a command, or what passed a socket and is not DNS (`--keep-payload`).
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// Which.
    pub kind: DataKind,
    /// The bytes that were captured.
    pub bytes: Bytes,
    /// Bytes there were.
    pub original_len: u32,
}

/// Which call a cgroup hook saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named after the calls")]
pub enum AddressCall {
    Connect,
    Sendmsg,
    Recvmsg,
}

/// Transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the protocols' names")]
pub enum Protocol {
    Udp,
    Tcp,
    Other(u8),
}

/// The address a program gave or got, before any translation.
#[derive(Clone, Debug, PartialEq)]
pub struct SocketAddress {
    /// Which call.
    pub call: AddressCall,
    /// Transport.
    pub protocol: Protocol,
    /// Destination asked for; for recvmsg the source reported.
    pub remote: SocketAddr,
    /// Descriptor, when known.
    pub fd: Option<i32>,
}

/// A socket is gone.
#[derive(Clone, Debug, PartialEq)]
pub struct SocketClosed {
    /// Transport.
    pub protocol: Protocol,
    /// Own end.
    pub local: Option<SocketAddr>,
    /// Far end.
    pub remote: Option<SocketAddr>,
}

/// Direction seen from the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards the socket.
    In,
    /// From the socket.
    Out,
}

/// A DNS message that passed a socket.
#[derive(Clone, Debug, PartialEq)]
pub struct Dns {
    /// Direction.
    pub direction: Direction,
    /// Transport.
    pub protocol: Protocol,
    /// Own end, as on the packet.
    pub local: SocketAddr,
    /// Far end, as on the packet.
    pub remote: SocketAddr,
    /// Port the program asked for, when it differs from the packet's.
    pub intended_port: Option<u16>,
    /// The message.
    pub message: Message,
    /// The payload's bytes (for `--payload` and for messages nothing could decode).
    pub payload: Bytes,
    /// Payload bytes before the snap length cut it.
    pub original_len: u32,
}

/// A DNS message, as far as it could be decoded (RFC 1035).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// Transaction id.
    pub id: u16,
    /// QR bit.
    pub response: bool,
    /// OPCODE; 0 is QUERY.
    pub opcode: u8,
    /// RCODE with EDNS's upper bits.
    pub rcode: u16,
    /// TC bit.
    pub truncated: bool,
    /// First question; `None` when there is none or it could not be decoded.
    pub question: Option<Question>,
    /// Answer records: type and data as text (addresses, CNAME targets, ...).
    pub answers: Vec<Answer>,
    /// An OPT record was there (EDNS).
    pub edns: bool,
    /// Largest datagram its sender takes, of the OPT record; 0 without one.
    pub udp_size: u16,
    /// DO bit of the OPT record.
    pub dnssec_ok: bool,
    /// Seconds for which the absence that a response tells may be kept (RFC 2308), from its SOA.
    pub negative_ttl: Option<u32>,
    /// Options of the OPT record; most have none.
    pub options: Option<Box<EdnsOptions>>,
    /// Payload bytes that could not be decoded begin at this offset, and why.
    pub undecoded: Option<(usize, String)>,
}

/// Options of an OPT record (RFC 6891).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EdnsOptions {
    /// Their codes, in order, as far as the message has them whole.
    pub codes: Vec<u16>,
    /// Extended errors (RFC 8914): code and text, escaped.
    pub errors: Vec<(u16, String)>,
}

/// Purpose of an extended error by its code (IANA registry); `None` where it has none.
pub fn extended_error_name(code: u16) -> Option<&'static str> {
    const NAMES: [&str; 31] = [
        "Other Error",
        "Unsupported DNSKEY Algorithm",
        "Unsupported DS Digest Type",
        "Stale Answer",
        "Forged Answer",
        "DNSSEC Indeterminate",
        "DNSSEC Bogus",
        "Signature Expired",
        "Signature Not Yet Valid",
        "DNSKEY Missing",
        "RRSIGs Missing",
        "No Zone Key Bit Set",
        "NSEC Missing",
        "Cached Error",
        "Not Ready",
        "Blocked",
        "Censored",
        "Filtered",
        "Prohibited",
        "Stale NXDOMAIN Answer",
        "Not Authoritative",
        "Not Supported",
        "No Reachable Authority",
        "Network Error",
        "Invalid Data",
        "Signature Expired before Valid",
        "Too Early",
        "Unsupported NSEC3 Iterations Value",
        "Unable to conform to policy",
        "Synthesized",
        "Invalid Query Type",
    ];
    NAMES.get(usize::from(code)).copied()
}

impl Message {
    /// RCODE by name.
    pub fn rcode_name(&self) -> Cow<'static, str> {
        rcode_name(self.rcode)
    }
}

/// RCODE by name (IANA registry), `RCODE4095` where it has none.
pub fn rcode_name(rcode: u16) -> Cow<'static, str> {
    let name = match rcode {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        6 => "YXDOMAIN",
        7 => "YXRRSET",
        8 => "NXRRSET",
        9 => "NOTAUTH",
        10 => "NOTZONE",
        11 => "DSOTYPENI",
        16 => "BADVERS",
        17 => "BADKEY",
        18 => "BADTIME",
        19 => "BADMODE",
        20 => "BADNAME",
        21 => "BADALG",
        22 => "BADTRUNC",
        23 => "BADCOOKIE",
        other => return format!("RCODE{other}").into(),
    };
    name.into()
}

/// Neither an answer nor the word that there is none (NOERROR, NXDOMAIN).
pub fn is_error_rcode(rcode: u16) -> bool {
    rcode != 0 && rcode != 3
}

/// A question. The name is without the final dot, as sent; compare it without case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Name, presentation format, as sent.
    pub name: String,
    /// Type as text: `A`, `AAAA`, `TYPE65280`.
    pub qtype: Cow<'static, str>,
}

/// An answer record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Owner name.
    pub name: String,
    /// Type as text.
    pub rtype: Cow<'static, str>,
    /// Seconds.
    pub ttl: u32,
    /// Data in presentation format.
    pub data: String,
}

/// What an ICMP error says (RFC 792, 1812, 4443).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the errors' names")]
pub enum IcmpError {
    NetUnreachable,
    HostUnreachable,
    ProtocolUnreachable,
    PortUnreachable,
    AdminProhibited,
    TooBig,
    TimeExceeded,
    Other,
}

impl IcmpError {
    /// In the contract.
    pub fn name(self) -> &'static str {
        match self {
            Self::NetUnreachable => "net-unreachable",
            Self::HostUnreachable => "host-unreachable",
            Self::ProtocolUnreachable => "protocol-unreachable",
            Self::PortUnreachable => "port-unreachable",
            Self::AdminProhibited => "admin-prohibited",
            Self::TooBig => "too-big",
            Self::TimeExceeded => "time-exceeded",
            Self::Other => "other",
        }
    }

    /// The packet came to nothing: nobody will answer it.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::TooBig | Self::Other)
    }
}

/// An ICMP error about a DNS query.
#[derive(Clone, Debug, PartialEq)]
pub struct Icmp {
    /// Who sent it.
    pub from: IpAddr,
    /// What it says.
    pub error: IcmpError,
    /// Type and code as on the wire.
    pub code: (u8, u8),
    /// Most bytes of a packet that goes through, when it says that one was too big.
    pub mtu: Option<u32>,
    /// The query that it quotes, as far as it does.
    pub query: Dns,
}

/// A TCP control packet.
#[derive(Clone, Debug, PartialEq)]
pub struct Tcp {
    /// Direction.
    pub direction: Direction,
    /// Own end.
    pub local: SocketAddr,
    /// Far end.
    pub remote: SocketAddr,
    /// SYN bit.
    pub syn: bool,
    /// ACK bit.
    pub ack: bool,
    /// FIN bit.
    pub fin: bool,
    /// RST bit.
    pub rst: bool,
}

/// What a TCP socket went through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpChange {
    /// connect began.
    Connect,
    /// connect succeeded.
    ActiveEstablished,
    /// A connection was accepted.
    PassiveEstablished,
    /// Kernel state numbers (`TCP_ESTABLISHED` = 1 ... ).
    State {
        /// Before.
        old: u8,
        /// After.
        new: u8,
    },
    /// A segment went out again.
    Retransmit,
}

/// A change of a TCP socket.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpState {
    /// What.
    pub change: TcpChange,
    /// Seen at the far end of a target's connection (a backend on this node).
    pub peer_side: bool,
    /// Own end.
    pub local: SocketAddr,
    /// Far end.
    pub remote: SocketAddr,
    /// Smoothed round-trip time in microseconds.
    pub srtt_us: Option<u32>,
    /// Segments retransmitted so far.
    pub retransmits: u32,
}
