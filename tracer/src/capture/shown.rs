//! Packets for other readers, made around DNS messages that were seen in a system call's buffer and
//! not on the wire. svctrace reads the record and ignores the packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, UdpHeader};
use tracer_common::record::probe;

use crate::event::{Body, Direction, Event, Protocol};

/// Hop limit of a packet that never was one.
const TTL: u8 = 64;

/// A packet that never passed a wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// From the IP header on.
    pub(super) bytes: Vec<u8>,
    /// Bytes it would have if the message had not been cut.
    pub(super) original: u32,
    /// Seen from the socket.
    pub(super) outbound: bool,
    /// Where it comes from, for people.
    pub(super) note: &'static str,
}

/// The packet around the message in `event`; `None` where there is no such message, or no packet
/// that could have carried it.
pub(super) fn packet(event: &Event) -> Option<Shown> {
    let Body::Dns(dns) = &event.body else { return None };
    (dns.protocol == Protocol::Udp).then_some(())?;
    let outbound = dns.direction == Direction::Out;
    let (from, to) = if outbound { (dns.local, dns.remote) } else { (dns.remote, dns.local) };
    let whole = usize::try_from(dns.original_len).ok()?.max(dns.payload.len());
    let length = u16::try_from(whole.checked_add(UdpHeader::LEN)?).ok()?;
    let mut udp =
        UdpHeader { source_port: from.port(), destination_port: to.port(), length, checksum: 0 };
    let mut bytes = Vec::with_capacity(Ipv6Header::LEN + UdpHeader::LEN + dns.payload.len());
    match same_family(from, to)? {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip =
                Ipv4Header::new(length, TTL, IpNumber::UDP, from.octets(), to.octets()).ok()?;
            ip.header_checksum = ip.calc_header_checksum();
            bytes.extend_from_slice(&ip.to_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ip = Ipv6Header {
                payload_length: length,
                next_header: IpNumber::UDP,
                hop_limit: TTL,
                source: from.octets(),
                destination: to.octets(),
                ..Ipv6Header::default()
            };
            // IPv6 knows no datagram without a checksum.
            udp.checksum = udp.calc_checksum_ipv6(&ip, &dns.payload).ok()?;
            bytes.extend_from_slice(&ip.to_bytes());
        }
        _ => return None,
    }
    bytes.extend_from_slice(&udp.to_bytes());
    let missing = whole - dns.payload.len();
    bytes.extend_from_slice(&dns.payload);
    let original = u32::try_from(bytes.len().checked_add(missing)?).ok()?;
    let note = match event.probe {
        Some(probe::RECOVERED) => "made from the other side of a system call that hid its data",
        _ => "made from a system call",
    };
    Some(Shown { bytes, original, outbound, note })
}

/// Both addresses in one family: a wildcard that a socket is bound to is that of its peer's.
fn same_family(from: SocketAddr, to: SocketAddr) -> Option<(IpAddr, IpAddr)> {
    let (from, to) = (from.ip().to_canonical(), to.ip().to_canonical());
    let any = |like: IpAddr| -> IpAddr {
        if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    };
    match (from, to) {
        _ if from.is_ipv4() == to.is_ipv4() => Some((from, to)),
        _ if from.is_unspecified() => Some((any(to), to)),
        _ if to.is_unspecified() => Some((from, any(from))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;
    use crate::event::{Actor, Dns, Message};
    use crate::record::Timestamp;

    fn message(local: &str, remote: &str, direction: Direction, original_len: u32) -> Event {
        let body = Body::Dns(Dns {
            direction,
            protocol: Protocol::Udp,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            intended_port: None,
            message: Message::default(),
            payload: Bytes::from_static(b"0123456789"),
            original_len,
        });
        let actor = Actor::default();
        Event { number: 1, at: Timestamp(1), cpu: None, probe: None, actor, body }
    }

    #[test]
    fn the_packet_says_what_the_socket_did() {
        for (local, remote) in [("10.0.0.1:999", "10.0.0.2:53"), ("[fd::1]:999", "[fd::2]:53")] {
            for direction in [Direction::In, Direction::Out] {
                let shown = packet(&message(local, remote, direction, 10)).unwrap();
                let read = SlicedPacket::from_ip(&shown.bytes).unwrap();
                let Some(TransportSlice::Udp(udp)) = read.transport else { panic!("no UDP") };
                assert_eq!(udp.payload(), b"0123456789");
                let ports = (udp.source_port(), udp.destination_port());
                assert_eq!(ports, if shown.outbound { (999, 53) } else { (53, 999) });
                assert_eq!(shown.outbound, direction == Direction::Out);
                assert_eq!(shown.original as usize, shown.bytes.len());
                if let Some(NetSlice::Ipv6(ip)) = read.net {
                    let header = ip.header().to_header();
                    let right = udp.to_header().calc_checksum_ipv6(&header, udp.payload());
                    assert_eq!(udp.checksum(), right.unwrap());
                }
            }
        }
    }

    #[test]
    fn what_was_cut_is_missing_in_the_packet_too() {
        let shown = packet(&message("10.0.0.1:999", "10.0.0.2:53", Direction::Out, 300)).unwrap();
        assert_eq!((shown.bytes.len(), shown.original), (38, 328));
        assert_eq!(shown.bytes[2..4], 328_u16.to_be_bytes());
        assert_eq!(shown.bytes[24..26], 308_u16.to_be_bytes());
    }

    #[test]
    fn a_wildcard_takes_its_peers_family() {
        let shown = packet(&message("[::]:53", "10.0.0.1:999", Direction::In, 10)).unwrap();
        assert_eq!(shown.bytes[12..20], [10, 0, 0, 1, 0, 0, 0, 0]);
        let mixed = message("[fd::1]:53", "10.0.0.1:999", Direction::In, 10);
        assert_eq!(packet(&mixed), None);
        let huge = message("10.0.0.1:53", "10.0.0.2:999", Direction::In, 70_000);
        assert_eq!(packet(&huge), None);
    }
}
