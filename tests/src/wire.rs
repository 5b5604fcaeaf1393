//! Bytes as the network and the probes make them: DNS messages, packets, record bodies.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use tracer_common::bodies;

/// What a test says of a DNS message.
#[derive(Clone, Debug)]
pub struct Dns {
    /// Id.
    pub id: u16,
    /// Name in dotted form; labels may hold any byte.
    pub name: Vec<u8>,
    /// `A` or `AAAA`.
    pub qtype: &'static str,
    /// `None` for a query, else RCODE.
    pub rcode: Option<u8>,
    /// Addresses of the answer section.
    pub answers: Vec<IpAddr>,
}

/// RFC 1035.
pub fn dns(message: &Dns) -> Vec<u8> {
    let flags = match message.rcode {
        None => 0x0100u16,
        Some(rcode) => 0x8180 | u16::from(rcode),
    };
    let answers = u16::try_from(message.answers.len()).unwrap();
    let mut out = Vec::new();
    for word in [message.id, flags, 1, answers, 0, 0] {
        out.extend(word.to_be_bytes());
    }
    for label in message.name.split(|byte| *byte == b'.').filter(|label| !label.is_empty()) {
        out.push(u8::try_from(label.len()).unwrap());
        out.extend(label);
    }
    let qtype: u16 = if message.qtype == "AAAA" { 28 } else { 1 };
    out.push(0);
    out.extend([qtype.to_be_bytes(), 1u16.to_be_bytes()].concat());
    for answer in &message.answers {
        let (rtype, data) = match answer {
            IpAddr::V4(ip) => (1u16, ip.octets().to_vec()),
            IpAddr::V6(ip) => (28, ip.octets().to_vec()),
        };
        out.extend([0xc0, 0x0c]); // the name is the question's
        out.extend([rtype.to_be_bytes(), 1u16.to_be_bytes()].concat());
        out.extend(30u32.to_be_bytes());
        out.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        out.extend(data);
    }
    out
}

/// A UDP packet from its IP header on.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => PacketBuilder::ipv4(a.octets(), b.octets(), 64),
        (IpAddr::V6(a), IpAddr::V6(b)) => PacketBuilder::ipv6(a.octets(), b.octets(), 64),
        mixed => panic!("a packet of two families: {mixed:?}"),
    };
    ip.udp(from.port(), to.port()).write(&mut out, payload).unwrap();
    out
}

/// An ICMP message of this type and code about `quoted`, from its IP header on.
pub fn icmp_v4(from: IpAddr, to: IpAddr, kind: [u8; 2], quoted: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else { panic!("not IPv4") };
    let mut out = Vec::new();
    let ip = PacketBuilder::ipv4(from.octets(), to.octets(), 64);
    ip.icmpv4_raw(kind[0], kind[1], [0; 4]).write(&mut out, quoted).unwrap();
    out
}

/// `bodies::Packet` with the packet behind it.
pub fn packet_body(out: bool, role: u8, intended_port: u16, packet: &[u8]) -> Vec<u8> {
    let length = u32::try_from(packet.len()).unwrap();
    let version = packet[0] >> 4;
    let transport: u16 = if version == 4 { 20 } else { 40 };
    let direction = if out { bodies::DIRECTION_OUT } else { bodies::DIRECTION_IN };
    let mut body = vec![direction, version, 17, role];
    body.extend(bodies::PACKET_DNS.to_ne_bytes());
    body.extend(transport.to_ne_bytes());
    body.extend(length.to_ne_bytes());
    body.extend(length.to_ne_bytes());
    body.extend(intended_port.to_ne_bytes());
    body.extend([0; 6]);
    assert_eq!(body.len(), size_of::<bodies::Packet>());
    body.extend(packet);
    body
}

fn address(of: SocketAddr) -> Vec<u8> {
    let (family, mut addr) = match of.ip() {
        IpAddr::V4(ip) => (bodies::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (bodies::AF_INET6, ip.octets().to_vec()),
    };
    addr.resize(16, 0);
    [family.to_ne_bytes().to_vec(), of.port().to_ne_bytes().to_vec(), addr].concat()
}

/// `bodies::SocketAddress`.
pub fn socket_address_body(remote: SocketAddr, fd: i32, protocol: u8) -> Vec<u8> {
    let mut body = address(remote);
    body.extend(fd.to_ne_bytes());
    body.extend([protocol, if protocol == 6 { 1 } else { 2 }, 0, 0, 0, 0, 0, 0]);
    assert_eq!(body.len(), size_of::<bodies::SocketAddress>());
    body
}

/// `bodies::SocketClosed`.
pub fn socket_closed_body(
    local: SocketAddr,
    remote: SocketAddr,
    protocol: u8,
    role: u8,
) -> Vec<u8> {
    let mut body = [address(local), address(remote)].concat();
    body.extend([protocol, role, 0, 0, 0, 0, 0, 0]);
    assert_eq!(body.len(), size_of::<bodies::SocketClosed>());
    body
}

/// `bodies::TcpState`.
pub fn tcp_state_body(local: SocketAddr, remote: SocketAddr, event: u8, role: u8) -> Vec<u8> {
    let mut body = [address(local), address(remote)].concat();
    body.extend([event, role, 0, 0]);
    body.extend([0; 12]);
    assert_eq!(body.len(), size_of::<bodies::TcpState>());
    body
}

/// `bodies::Syscall`; `enter_ns` in Unix nanoseconds, as a source delivers it.
pub fn syscall_body(
    call: u16,
    fd: i32,
    result: i64,
    enter_ns: u64,
    peer: Option<SocketAddr>,
) -> Vec<u8> {
    let mut body = [call.to_ne_bytes(), 0u16.to_ne_bytes()].concat();
    body.extend(fd.to_ne_bytes());
    body.extend(result.to_ne_bytes());
    body.extend(enter_ns.to_ne_bytes());
    body.extend(0u64.to_ne_bytes());
    body.extend(peer.map_or_else(|| vec![0; 20], address));
    body.extend([0; 4]);
    assert_eq!(body.len(), size_of::<bodies::Syscall>());
    body
}
