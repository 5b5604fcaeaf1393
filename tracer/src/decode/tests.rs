//! Every kind of record: what it says, and that it may end anywhere.

use std::net::SocketAddr;

use bytes::Bytes;
use etherparse::PacketBuilder;
use proptest::prelude::*;
use tracer_common::bodies::{AF_INET, AF_INET6, PACKET_DNS, role};
use tracer_common::record::probe;

use super::*;
use crate::event::{AddressCall, Call, Direction, Protocol, Syscall, TcpChange};
use crate::record::{HostId, Task, Timestamp};

pub(super) const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x04test\0\0\x01\0\x01";

pub(super) fn record(kind: RecordKind, body: Vec<u8>) -> Record {
    Record {
        number: 7,
        at: Timestamp(1_000),
        host: HostId(3),
        kind,
        cpu: Some(1),
        probe: (kind == RecordKind::SocketAddress).then_some(probe::SENDMSG6),
        cut: false,
        task: Some(Task { pid: 10, tid: 11, comm: "curl".into() }),
        cgroup: Some(42),
        cookie: Some(99),
        body: Bytes::from(body),
    }
}

pub(super) fn decode_one(record: &Record) -> Result<Option<Event>, DecodeError> {
    let mut events = Vec::new();
    Decoder::default().decode(&mut record.clone(), &mut events)?;
    Ok(events.pop())
}

pub(super) fn body_of(kind: RecordKind, body: Vec<u8>) -> Body {
    decode_one(&record(kind, body)).unwrap().unwrap().body
}

fn address(family: u16, port: u16, ip: &[u8]) -> Vec<u8> {
    let mut out = [family.to_ne_bytes(), port.to_ne_bytes()].concat();
    out.extend(ip);
    out.resize(20, 0);
    out
}

fn v4(port: u16) -> Vec<u8> {
    address(AF_INET, port, &[10, 0, 0, 1])
}

fn mapped(port: u16) -> Vec<u8> {
    address(AF_INET6, port, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1])
}

fn syscall_body(call: u16, flags: u16, size: u64) -> Vec<u8> {
    let mut out = [call.to_ne_bytes(), flags.to_ne_bytes()].concat();
    out.extend(5i32.to_ne_bytes());
    out.extend((-111i64).to_ne_bytes());
    out.extend(900u64.to_ne_bytes());
    out.extend(size.to_ne_bytes());
    out.extend(v4(53));
    out.extend([0; 4]);
    out
}

fn cgroup_body(path: &[u8]) -> Vec<u8> {
    let mut out = 77u64.to_ne_bytes().to_vec();
    for value in [3, 0, u32::try_from(path.len()).unwrap(), 0] {
        out.extend(value.to_ne_bytes());
    }
    out.extend(path);
    out
}

fn exec_body(name: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(name.len()).unwrap().to_ne_bytes().to_vec();
    out.extend([0; 4]);
    out.extend(name);
    out
}

pub(super) fn packet_body(direction: u8, flags: u16, original: usize, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![direction, 4, 17, 1];
    out.extend(flags.to_ne_bytes());
    out.extend(20u16.to_ne_bytes());
    out.extend(u32::try_from(original).unwrap().to_ne_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap().to_ne_bytes());
    out.extend(5353u16.to_ne_bytes());
    out.extend([0; 6]);
    out.extend(bytes);
    out
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, 53);
    builder.write(&mut out, payload).unwrap();
    out
}

fn tcp_state_body(event: u8) -> Vec<u8> {
    let mut out = [v4(1), mapped(2)].concat();
    out.extend([event, 4, 1, 8]);
    out.extend([0; 12]);
    out
}

fn socket_address_body() -> Vec<u8> {
    let mut out = mapped(53);
    out.extend((-1i32).to_ne_bytes());
    out.extend([17, 2, 0, 0, 0, 0, 0, 0]);
    out
}

fn socket_closed_body() -> Vec<u8> {
    let mut out = [v4(1), address(AF_INET, 0, &[])].concat();
    out.extend([6, 1, 0, 0, 0, 0, 0, 0]);
    out
}

fn payload_body(bytes: &[u8]) -> Vec<u8> {
    let mut out = address(AF_INET, 40000, &[10, 0, 0, 2]);
    out.extend(address(AF_INET, 53, &[10, 0, 0, 1]));
    out.extend([17, 1, 0, 0]);
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend_from_slice(bytes);
    out
}

fn data_body(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![1, 0, 0, 0];
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
    out.extend_from_slice(bytes);
    out
}

fn call_body(name: &[u8], args: &[u8]) -> Vec<u8> {
    let mut out = 5_i64.to_le_bytes().to_vec();
    out.extend((-11_i64).to_le_bytes());
    out.extend([1, 3]);
    out.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
    out.extend(u32::try_from(args.len()).unwrap().to_le_bytes());
    out.extend_from_slice(name);
    out.extend_from_slice(args);
    out
}

/// One good body of each kind that has one.
fn good() -> Vec<(RecordKind, Vec<u8>)> {
    let socket = context::Socket {
        cookie: 1,
        protocol: 17,
        local: SocketAddr::from(([127, 0, 0, 1], 1)),
        remote: None,
        pid: None,
        comm: None,
        fd: None,
        cgroup: None,
        net_ns: None,
    };
    vec![
        (RecordKind::Syscall, syscall_body(1, 0, 0)),
        (RecordKind::SocketAddress, socket_address_body()),
        (RecordKind::SocketClosed, socket_closed_body()),
        (RecordKind::Packet, packet_body(1, PACKET_DNS, udp(QUERY).len(), &udp(QUERY))),
        (RecordKind::Wire, packet_body(0, PACKET_DNS, udp(QUERY).len(), &udp(QUERY))),
        (RecordKind::TcpState, tcp_state_body(4)),
        (RecordKind::Exec, exec_body(b"/bin/curl")),
        (RecordKind::CgroupMade, cgroup_body(b"/a/b")),
        (RecordKind::CgroupRemoved, cgroup_body(b"/a/b")),
        (RecordKind::Payload, payload_body(QUERY)),
        (RecordKind::Data, data_body(b"-u\0root\0")),
        (RecordKind::Call, call_body(b"read", b"size=80\0")),
        (RecordKind::Host, br#"{"boot_id":"x"}"#.to_vec()),
        (RecordKind::Loss, br#"{"stage":"kernel"}"#.to_vec()),
        (RecordKind::Scope, br#"{"cgroup":1}"#.to_vec()),
        (RecordKind::Cgroup, br#"{"id":1}"#.to_vec()),
        (RecordKind::Process, br#"{"pid":1}"#.to_vec()),
        (RecordKind::Socket, serde_json::to_vec(&socket).unwrap()),
        (RecordKind::ResolvConf, br#"{"path":"/etc/resolv.conf"}"#.to_vec()),
        (RecordKind::NodeFile, br#"{"path":"/etc/resolv.conf"}"#.to_vec()),
        (RecordKind::Conntrack, br#"{"net_ns":7,"counters":{"drop":1}}"#.to_vec()),
        (RecordKind::Pod, br#"{"uid":"u","future":[1]}"#.to_vec()),
        (RecordKind::Service, br#"{"name":"s"}"#.to_vec()),
        (RecordKind::EndpointSlice, br#"{"name":"s"}"#.to_vec()),
    ]
}

#[test]
fn every_kind_decodes_and_every_truncation_is_short() {
    let bodiless = [RecordKind::Exit, RecordKind::Heartbeat];
    let good = good();
    for kind in RecordKind::ALL {
        assert!(bodiless.contains(&kind) || good.iter().any(|(k, _)| *k == kind), "{kind:?}");
    }
    for (kind, body) in good {
        for len in 0..body.len() {
            let error = decode_one(&record(kind, body[..len].to_vec())).unwrap_err();
            assert!(matches!(error, DecodeError::Short { .. }), "{kind:?} {len}: {error}");
        }
        let event = decode_one(&record(kind, body)).unwrap().unwrap();
        assert_eq!((event.number, event.cpu), (7, Some(1)));
    }
    for kind in bodiless {
        assert!(decode_one(&record(kind, Vec::new())).unwrap().is_some());
    }
}

#[test]
fn syscalls() {
    let peer = Some(SocketAddr::from(([10, 0, 0, 1], 53)));
    let want = Syscall {
        call: Call::Connect,
        entered: Timestamp(900),
        result: Some(-111),
        fd: 5,
        size: None,
        peer,
    };
    assert_eq!(body_of(RecordKind::Syscall, syscall_body(1, 0, 0)), Body::Syscall(want.clone()));
    let open = Syscall { call: Call::Sendto, result: None, size: Some(0), ..want };
    assert_eq!(body_of(RecordKind::Syscall, syscall_body(2, 1, 0)), Body::Syscall(open));
    let error = decode_one(&record(RecordKind::Syscall, syscall_body(8, 0, 0))).unwrap_err();
    assert!(matches!(error, DecodeError::Field { field: "call", .. }));
}

#[test]
fn hooks_and_numbers() {
    let Body::SocketAddress(got) = body_of(RecordKind::SocketAddress, socket_address_body()) else {
        panic!("another body");
    };
    assert_eq!((got.call, got.protocol, got.fd), (AddressCall::Sendmsg, Protocol::Udp, None));
    assert_eq!(got.remote, SocketAddr::from(([10, 0, 0, 1], 53)), "mapped IPv6 is IPv4");
    for probe in [None, Some(probe::SOCK_RELEASE), Some(999)] {
        let record = Record { probe, ..record(RecordKind::SocketAddress, socket_address_body()) };
        let error = decode_one(&record).unwrap_err();
        assert!(matches!(error, DecodeError::Field { field: "probe", .. }));
    }
    let Body::TcpState(state) = body_of(RecordKind::TcpState, tcp_state_body(4)) else {
        panic!("another body");
    };
    assert_eq!(state.change, TcpChange::State { old: 1, new: 8 });
    assert!(state.peer_side);
    assert_eq!(state.remote, SocketAddr::from(([10, 0, 0, 1], 2)));
    let error = decode_one(&record(RecordKind::TcpState, tcp_state_body(6))).unwrap_err();
    assert!(matches!(error, DecodeError::Field { field: "event", .. }));
}

#[test]
fn foreign_text() {
    let Body::Exec { filename } = body_of(RecordKind::Exec, exec_body(b"/tmp/\x1b[2J\0x")) else {
        panic!("another body");
    };
    assert_eq!(filename, "/tmp/\\x1b[2J");
    let path = br"/system.slice/a\x2db.service";
    let Body::CgroupMade(cgroup) = body_of(RecordKind::CgroupMade, cgroup_body(path)) else {
        panic!("another body");
    };
    assert_eq!((cgroup.id, cgroup.path.as_bytes()), (77, &path[..]));
}

fn dns_of(body: Vec<u8>) -> (crate::event::Dns, Option<SocketAddr>) {
    let event = decode_one(&record(RecordKind::Packet, body)).unwrap().unwrap();
    match event.body {
        Body::Dns(dns) => (dns, event.actor.local),
        other => panic!("{other:?}"),
    }
}

#[test]
fn more_copied_than_there_was() {
    for (kind, body) in
        [(RecordKind::Payload, payload_body(QUERY)), (RecordKind::Data, data_body(QUERY))]
    {
        let original = body.len() - QUERY.len() - 8;
        let mut less = body.clone();
        less[original..original + 4].copy_from_slice(&3_u32.to_ne_bytes());
        assert!(
            matches!(decode_one(&record(kind, less)), Err(DecodeError::Field { .. })),
            "{kind:?}"
        );
        assert!(decode_one(&record(kind, body)).is_ok(), "{kind:?}");
    }
}

#[test]
fn dns_packets() {
    let packet = udp(QUERY);
    let (dns, local) = dns_of(packet_body(1, PACKET_DNS, packet.len(), &packet));
    assert_eq!(local, Some(SocketAddr::from(([10, 0, 0, 1], 4000))));
    assert_eq!(dns.remote, SocketAddr::from(([10, 0, 0, 2], 53)));
    assert_eq!(dns.intended_port, Some(5353));
    assert_eq!(dns.message.question.unwrap().name, "www.test");
    assert_eq!((&dns.payload[..], dns.original_len as usize), (QUERY, QUERY.len()));

    let (dns, local) = dns_of(packet_body(0, PACKET_DNS, packet.len(), &packet));
    assert_eq!(
        (dns.direction, local),
        (Direction::In, Some(SocketAddr::from(([10, 0, 0, 2], 53))))
    );

    let (dns, _) = dns_of(packet_body(1, PACKET_DNS, packet.len(), &packet[..packet.len() - 2]));
    assert_eq!(dns.message.undecoded.unwrap().1, dns::SNAPPED);
    assert_eq!(dns.original_len as usize, QUERY.len());

    let plain = record(RecordKind::Packet, packet_body(1, 0, packet.len(), &packet));
    assert_eq!(decode_one(&plain).unwrap(), None);
    let garbage = record(RecordKind::Packet, packet_body(1, PACKET_DNS, 3, b"abc"));
    assert!(matches!(decode_one(&garbage), Err(DecodeError::Field { .. })));
}

#[test]
fn headers_with_options_and_extensions() {
    // IPv4 with options: the header grows by four bytes.
    let mut packet = udp(QUERY);
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    let total = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    let (dns, _) = dns_of(packet_body(1, PACKET_DNS, packet.len(), &packet));
    assert_eq!(dns.message.id, 0x1234);

    // IPv6 with a destination options header, and IPv4 mapped addresses.
    let mapped = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, last];
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv6(mapped(1), mapped(2), 64).udp(4000, 53);
    builder.write(&mut packet, QUERY).unwrap();
    packet.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
    packet[6] = 60;
    let len = u16::try_from(packet.len() - 40).unwrap();
    packet[4..6].copy_from_slice(&len.to_be_bytes());
    let (dns, local) = dns_of(packet_body(1, PACKET_DNS, packet.len(), &packet));
    assert_eq!(dns.message.undecoded, None);
    assert_eq!(local, Some(SocketAddr::from(([10, 0, 0, 1], 4000))));
}

#[test]
fn tcp_control_packets_only() {
    let build = |syn: bool| {
        let mut out = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1, 53, 0, 100);
        let builder = if syn { builder.syn() } else { builder.ack(1) };
        builder.write(&mut out, if syn { b"" } else { QUERY }).unwrap();
        record(RecordKind::Packet, packet_body(1, PACKET_DNS, out.len(), &out))
    };
    let event = decode_one(&build(true)).unwrap().unwrap();
    assert!(matches!(event.body, Body::Tcp(tcp) if tcp.syn && !tcp.ack));
    assert_eq!(decode_one(&build(false)).unwrap(), None);
}

/// At the resolver the segments of a connection are recorded that begin with a question of a target.
#[test]
fn segments_with_holes_at_the_resolver() {
    let framed = [&u16::try_from(QUERY.len()).unwrap().to_be_bytes(), QUERY].concat();
    let mut decoder = Decoder::default();
    let mut told = |role: u8, seq: u32, bytes: &[u8]| {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1, 53, seq, 100);
        builder.ack(1).write(&mut packet, bytes).unwrap();
        let mut body = packet_body(1, PACKET_DNS, packet.len(), &packet);
        body[3] = role;
        let mut events = Vec::new();
        decoder.decode(&mut record(RecordKind::Packet, body), &mut events).unwrap();
        let dns = |event: Event| match event.body {
            Body::Dns(dns) => (dns.protocol, dns.message.id, dns.original_len as usize),
            other => panic!("{other:?}"),
        };
        events.into_iter().map(dns).collect::<Vec<_>>()
    };
    let whole = (Protocol::Tcp, 0x1234, QUERY.len());
    assert_eq!(told(role::RESOLVER, 1_000, &framed), [whole]);
    assert_eq!(told(role::RESOLVER, 9_000, &framed.repeat(2)), [whole; 2], "behind a hole");
    assert_eq!(told(role::RESOLVER, 20_000, &framed[..framed.len() - 3]), [whole], "its beginning");
    assert_eq!(told(role::RESOLVER, 30_000, &framed[9..]), [], "not its end");
}

proptest! {
    #[test]
    fn any_body(kind in 0..RecordKind::ALL.len(), body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_one(&record(RecordKind::ALL[kind], body));
    }

    #[test]
    fn any_packet(flags in 0u16..2, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_one(&record(RecordKind::Packet, packet_body(1, flags, 300, &bytes)));
    }

    #[test]
    fn changed_bodies(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        value: u8,
    ) {
        let all = good();
        let (kind, mut body) = all[which.index(all.len())].clone();
        let at = at.index(body.len());
        body[at] = value;
        let _ = decode_one(&record(kind, body));
    }
}
