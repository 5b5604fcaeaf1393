//! What comes to a namespace's door: answers, ICMP errors and the queries that they quote, cut and hostile.

use etherparse::PacketBuilder;
use proptest::prelude::*;
use tracer_common::bodies::PACKET_DNS;

use super::super::tests::{QUERY, body_of, decode_one, packet_body, record};
use crate::event::Body;
use crate::event::{Direction, Icmp, IcmpError};
use crate::record::{Record, RecordKind};

const V4: [[u8; 4]; 3] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 9]];
const V6: [[u8; 16]; 3] = [[1; 16], [2; 16], [9; 16]];

/// A query from the first address to the second.
fn query(v6: bool) -> Vec<u8> {
    let mut out = Vec::new();
    match v6 {
        false => PacketBuilder::ipv4(V4[0], V4[1], 64).udp(4000, 53).write(&mut out, QUERY),
        true => PacketBuilder::ipv6(V6[0], V6[1], 64).udp(4000, 53).write(&mut out, QUERY),
    }
    .unwrap();
    out
}

/// An ICMP message from the third address with this type, code and word, about `quoted`.
fn icmp(v6: bool, kind: [u8; 2], word: u32, quoted: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let [b5, b6, b7, b8] = word.to_be_bytes();
    let five = [b5, b6, b7, b8];
    match v6 {
        false => {
            let to = PacketBuilder::ipv4(V4[2], V4[0], 64);
            to.icmpv4_raw(kind[0], kind[1], five).write(&mut out, quoted)
        }
        true => {
            let to = PacketBuilder::ipv6(V6[2], V6[0], 64);
            to.icmpv6_raw(kind[0], kind[1], five).write(&mut out, quoted)
        }
    }
    .unwrap();
    out
}

fn wire(packet: &[u8]) -> Record {
    record(RecordKind::Wire, packet_body(0, PACKET_DNS, packet.len(), packet))
}

fn error(packet: &[u8]) -> Icmp {
    let body = decode_one(&wire(packet)).unwrap().unwrap().body;
    let Body::Icmp(icmp) = body else { panic!("{body:?}") };
    *icmp
}

#[test]
fn an_answer_is_on_its_way_and_not_there() {
    let mut answer = QUERY.to_vec();
    answer[2] = 0x81;
    let mut packet = Vec::new();
    PacketBuilder::ipv4(V4[1], V4[0], 64).udp(53, 4000).write(&mut packet, &answer).unwrap();
    let got = decode_one(&wire(&packet)).unwrap().unwrap();
    assert_eq!(
        (got.actor.cookie, got.actor.local),
        (Some(99), Some("10.0.0.1:4000".parse().unwrap()))
    );
    let Body::Passing(dns) = got.body else { panic!("{:?}", got.body) };
    assert_eq!((dns.direction, dns.message.id), (Direction::In, 0x1234));
    assert!(dns.message.response && dns.message.undecoded.is_none());
    assert_eq!(dns.remote.to_string(), "10.0.0.2:53");
}

#[test]
fn errors_by_type_and_code() {
    use IcmpError::*;
    for (v6, kind, code, want) in [
        (false, 3, 0, NetUnreachable),
        (false, 3, 1, HostUnreachable),
        (false, 3, 2, ProtocolUnreachable),
        (false, 3, 3, PortUnreachable),
        (false, 3, 13, AdminProhibited),
        (false, 3, 99, Other),
        (false, 11, 0, TimeExceeded),
        (false, 12, 0, Other),
        (true, 1, 0, NetUnreachable),
        (true, 1, 1, AdminProhibited),
        (true, 1, 3, HostUnreachable),
        (true, 1, 4, PortUnreachable),
        (true, 3, 0, TimeExceeded),
        (true, 4, 1, Other),
    ] {
        let got = error(&icmp(v6, [kind, code], 7, &query(v6)));
        assert_eq!((got.error, got.mtu, got.code), (want, None, (kind, code)));
        let from: std::net::IpAddr = if v6 { V6[2].into() } else { V4[2].into() };
        assert_eq!(got.from, from);
        assert_eq!((got.query.local.port(), got.query.remote.port()), (4000, 53));
        assert_eq!(got.query.message.question.map(|q| q.name), Some("www.test".to_owned()));
    }
    let big = error(&icmp(false, [3, 4], 0xffff_0578, &query(false)));
    assert_eq!((big.error, big.mtu), (TooBig, Some(1400)));
    assert_eq!(error(&icmp(true, [2, 0], 1400, &query(true))).mtu, Some(1400));
    assert_eq!(error(&icmp(false, [3, 4], 0, &query(false))).mtu, None);
}

/// What routers quote may end anywhere behind the ports (RFC 792: 8 bytes).
#[test]
fn a_quote_may_end_early() {
    let quoted = query(false);
    for len in 28..quoted.len() {
        let got = error(&icmp(false, [3, 3], 0, &quoted[..len]));
        assert_eq!(got.query.local.port(), 4000);
        assert!(got.query.message.undecoded.is_some(), "{len}");
    }
    for len in 0..28 {
        assert!(decode_one(&wire(&icmp(false, [3, 3], 0, &quoted[..len]))).is_err(), "{len}");
    }
}

#[test]
fn what_is_no_error_about_a_datagram_is_refused() {
    let mut tcp = Vec::new();
    PacketBuilder::ipv4(V4[0], V4[1], 64).tcp(4000, 53, 1, 1).write(&mut tcp, b"").unwrap();
    let nested = icmp(false, [3, 3], 0, &query(false));
    for packet in [
        icmp(false, [0, 0], 0, &query(false)), // an echo's answer
        icmp(true, [135, 0], 0, &query(true)),
        icmp(false, [3, 3], 0, &tcp),
        icmp(false, [3, 3], 0, &nested),
        tcp.clone(),
    ] {
        assert!(decode_one(&wire(&packet)).is_err(), "{packet:?}");
    }
    // In front of a socket it never was: that hook sees no ICMP.
    let packet = icmp(false, [3, 3], 0, &query(false));
    let body = packet_body(0, PACKET_DNS, packet.len(), &packet);
    assert!(decode_one(&record(RecordKind::Packet, body)).is_err());
    let whole = packet_body(0, PACKET_DNS, packet.len(), &packet);
    assert!(matches!(body_of(RecordKind::Wire, whole), Body::Icmp(_)));
}

proptest! {
    #[test]
    fn any_bytes(start in 0_u8..3, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut bytes = bytes;
        let quoted = query(false);
        match start {
            0 => {}
            // A whole header in front of them.
            1 => bytes = icmp(false, [3, 3], 0, &bytes),
            _ => {
                let place = bytes.len() % quoted.len();
                let mut broken = icmp(false, [3, 3], 0, &quoted);
                for (at, byte) in bytes.iter().enumerate() {
                    if let Some(to) = broken.get_mut(place + at) {
                        *to = *byte;
                    }
                }
                bytes = broken;
            }
        }
        let _ = decode_one(&wire(&bytes));
    }
}
