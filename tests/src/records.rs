//! Records made by hand: `query(&socket, 7, "name", "A").at_ms(3.0)`. Holds no scenario.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use serde::Serialize;
use tracer::context;
use tracer::record::{HostId, Record, RecordKind, Task, Timestamp};
use tracer_common::bodies::{call, role, tcp_event};
use tracer_common::record::probe;

use crate::wire::{self, Dns};

/// Midnight that all scenarios begin at: 2026-01-01 UTC.
pub const START_NS: u64 = 1_767_225_600_000_000_000;

/// A process as hooks see it.
#[derive(Clone, Debug)]
pub struct Process {
    /// Process and only thread.
    pub pid: u32,
    /// Name.
    pub comm: &'static str,
    /// cgroup id.
    pub cgroup: u64,
    /// Why its cgroup is traced.
    pub role: u8,
}

impl Process {
    /// A process of the target.
    pub fn target(pid: u32, comm: &'static str, cgroup: u64) -> Self {
        Self { pid, comm, cgroup, role: role::TARGET }
    }

    /// A process of the resolver.
    pub fn resolver(pid: u32, comm: &'static str, cgroup: u64) -> Self {
        Self { pid, comm, cgroup, role: role::RESOLVER }
    }

    /// A UDP socket of it, connected in spirit to `remote`.
    pub fn socket(&self, cookie: u64, local: &str, remote: &str) -> Socket {
        Socket {
            owner: self.clone(),
            cookie,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            protocol: 17,
        }
    }

    /// A TCP socket of it.
    pub fn tcp(&self, cookie: u64, local: &str, remote: &str) -> Socket {
        Socket { protocol: 6, ..self.socket(cookie, local, remote) }
    }
}

/// A socket and both its ends.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Who opened it.
    pub owner: Process,
    /// Cookie.
    pub cookie: u64,
    /// Own end.
    pub local: SocketAddr,
    /// Far end, as the program asked.
    pub remote: SocketAddr,
    /// `IPPROTO_*`.
    pub protocol: u8,
}

impl Socket {
    /// The same socket towards another server.
    pub fn towards(&self, remote: &str) -> Self {
        Self { remote: remote.parse().unwrap(), ..self.clone() }
    }
}

/// A record without its number.
#[derive(Clone, Debug)]
pub struct Fact(Record);

impl Fact {
    fn new(kind: RecordKind, probe: Option<u16>, body: Vec<u8>) -> Self {
        Self(Record {
            number: 0,
            at: Timestamp(START_NS),
            host: HostId::default(),
            kind,
            cpu: None,
            probe,
            cut: false,
            task: None,
            cgroup: None,
            cookie: None,
            body: Bytes::from(body),
        })
    }

    fn by(mut self, process: &Process) -> Self {
        let comm = process.comm.to_owned();
        self.0.task = Some(Task { pid: process.pid, tid: process.pid, comm });
        self.0.cgroup = Some(process.cgroup);
        self
    }

    fn on(mut self, socket: &Socket) -> Self {
        self.0.cookie = Some(socket.cookie);
        self.0.cgroup = Some(socket.owner.cgroup);
        self.0.cpu = Some(0);
        self
    }

    /// Milliseconds after the start.
    #[must_use]
    pub fn at_ms(mut self, ms: f64) -> Self {
        self.0.at = Timestamp(START_NS + (ms * 1e6).round() as u64);
        self
    }
}

/// A DNS query leaves the socket.
pub fn query(socket: &Socket, id: u16, name: impl AsRef<[u8]>, qtype: &'static str) -> Fact {
    let name = name.as_ref().to_vec();
    let message = wire::dns(&Dns { id, name, qtype, rcode: None, answers: Vec::new() });
    packet(socket, true, &message)
}

/// A DNS response with these addresses reaches the socket.
pub fn response(
    socket: &Socket,
    id: u16,
    name: &str,
    qtype: &'static str,
    rcode: u8,
    answers: &[&str],
) -> Fact {
    let answers: Vec<IpAddr> = answers.iter().map(|ip| ip.parse().unwrap()).collect();
    let name = name.as_bytes().to_vec();
    packet(socket, false, &wire::dns(&Dns { id, name, qtype, rcode: Some(rcode), answers }))
}

/// The resolver's side: a question reaches its listening socket, or its response leaves it.
pub fn served(socket: &Socket, out: bool, message: &Dns) -> Fact {
    packet(socket, out, &wire::dns(message))
}

/// Any payload passes the socket.
pub fn packet(socket: &Socket, out: bool, payload: &[u8]) -> Fact {
    let (from, to) =
        if out { (socket.local, socket.remote) } else { (socket.remote, socket.local) };
    let resolver = socket.owner.role == role::RESOLVER;
    let probe = match (resolver, out) {
        (false, true) => probe::TARGET_EGRESS,
        (false, false) => probe::TARGET_INGRESS,
        (true, true) => probe::RESOLVER_EGRESS,
        (true, false) => probe::RESOLVER_INGRESS,
    };
    let intended = if socket.remote.port() == 53 { 53 } else { 0 };
    let packet = wire::udp(from, to, payload);
    let body = wire::packet_body(out, socket.owner.role, intended, &packet);
    Fact::new(RecordKind::Packet, Some(probe), body).on(socket)
}

/// The same at the door of the socket's network namespace, whether it gets there or not.
pub fn at_door(socket: &Socket, payload: &[u8]) -> Fact {
    let packet = wire::udp(socket.remote, socket.local, payload);
    let body = wire::packet_body(false, socket.owner.role, 0, &packet);
    Fact::new(RecordKind::Wire, Some(probe::WIRE), body).on(socket)
}

/// An ICMP error of `from` (admin-prohibited) about a query of the socket comes to the door.
pub fn refused_on_the_way(socket: &Socket, from: IpAddr, query: &[u8]) -> Fact {
    let quoted = wire::udp(socket.local, socket.remote, query);
    let packet = wire::icmp_v4(from, socket.local.ip(), [3, 13], &quoted);
    let body = wire::packet_body(false, socket.owner.role, 0, &packet);
    Fact::new(RecordKind::Wire, Some(probe::WIRE), body).on(socket)
}

/// connect(2) as the cgroup hook sees it.
pub fn connect(socket: &Socket) -> Fact {
    let hook = if socket.remote.is_ipv4() { probe::CONNECT4 } else { probe::CONNECT6 };
    let body = wire::socket_address_body(socket.remote, 5, socket.protocol);
    Fact::new(RecordKind::SocketAddress, Some(hook), body).on(socket).by(&socket.owner)
}

/// sendto(2) without connect, as the cgroup hook sees it.
pub fn sendmsg(socket: &Socket) -> Fact {
    let hook = if socket.remote.is_ipv4() { probe::SENDMSG4 } else { probe::SENDMSG6 };
    let body = wire::socket_address_body(socket.remote, 5, socket.protocol);
    Fact::new(RecordKind::SocketAddress, Some(hook), body).on(socket).by(&socket.owner)
}

/// The socket is gone.
pub fn close(socket: &Socket) -> Fact {
    let Socket { local, remote, protocol, owner, .. } = socket;
    let body = wire::socket_closed_body(*local, *remote, *protocol, owner.role);
    Fact::new(RecordKind::SocketClosed, Some(probe::SOCK_RELEASE), body).on(socket).by(owner)
}

/// A handshake succeeded.
pub fn established(socket: &Socket) -> Fact {
    let event = tcp_event::ACTIVE_ESTABLISHED;
    let body = wire::tcp_state_body(socket.local, socket.remote, event, socket.owner.role);
    Fact::new(RecordKind::TcpState, Some(probe::TARGET_SOCK_OPS), body).on(socket)
}

/// A call that returned `result`, entered `took_ms` before.
pub fn syscall(socket: &Socket, call: u16, result: i64, at_ms: f64, took_ms: f64) -> Fact {
    let enter = START_NS + ((at_ms - took_ms) * 1e6).round() as u64;
    let peer = (call == call::CONNECT || call == call::SENDTO).then_some(socket.remote);
    let probe = match call {
        call::CONNECT => probe::SYS_CONNECT,
        call::SENDTO => probe::SYS_SENDTO,
        call::SENDMMSG => probe::SYS_SENDMMSG,
        call::RECVFROM => probe::SYS_RECVFROM,
        other => panic!("call {other} has no builder yet"),
    };
    let body = wire::syscall_body(call, 5, result, enter, peer);
    Fact::new(RecordKind::Syscall, Some(probe), body).on(socket).by(&socket.owner).at_ms(at_ms)
}

/// A context record.
pub fn fact(kind: RecordKind, body: &impl Serialize) -> Fact {
    Fact::new(kind, None, serde_json::to_vec(body).unwrap())
}

/// The passage of time.
pub fn heartbeat() -> Fact {
    Fact::new(RecordKind::Heartbeat, None, b"{}".to_vec())
}

/// Records were lost.
pub fn loss(count: u64) -> Fact {
    let (stage, first) = (context::LossStage::Kernel, Timestamp(START_NS));
    let source = "target_egress".to_owned();
    fact(
        RecordKind::Loss,
        &context::Loss { stage, source, count, first, last: first.plus(9_000_000) },
    )
}

/// A stream of records, in time order, numbered.
#[derive(Clone, Debug, Default)]
pub struct Stream(Vec<Fact>);

impl Stream {
    /// Adds facts; their order among equals stays.
    pub fn add(&mut self, facts: impl IntoIterator<Item = Fact>) -> &mut Self {
        self.0.extend(facts);
        self
    }

    /// Adds a heartbeat every second until `ms`.
    pub fn beat_until_ms(&mut self, ms: u32) -> &mut Self {
        self.add((1..=ms / 1000).map(|second| heartbeat().at_ms(f64::from(second) * 1000.0)))
    }

    /// What a source delivers.
    pub fn records(&self) -> Vec<Record> {
        let mut records: Vec<_> = self.0.iter().map(|fact| fact.0.clone()).collect();
        records.sort_by_key(|record| record.at);
        for (number, record) in (1..).zip(&mut records) {
            record.number = number;
        }
        records
    }
}
