//! Packets at the door of a network namespace: answers over UDP on their way to the socket that waits,
//! and ICMP errors with the query that they quote. Says nothing about where they ended.

use etherparse::{LaxIpSlice, UdpSlice, ip_number};

use super::DecodeError;
use super::packet::{Front, datagram, ends, front};
use crate::event::{Body, Direction, Dns, Icmp, IcmpError};
use crate::fragment;
use crate::record::{Record, RecordKind};

/// What such a packet says.
pub(super) fn decode(record: &Record) -> Result<Body, DecodeError> {
    let front = front(record)?;
    let (ip, _) =
        LaxIpSlice::from_slice(front.packet(record)).map_err(|e| field("IP header", e))?;
    if fragment::is_later(&ip) {
        return Err(field("transport header", "this is not a packet's first fragment"));
    }
    let payload = ip.payload();
    let v6 = match payload.ip_number {
        ip_number::UDP => {
            let dns = message(record, &front, &ip, Direction::In)?;
            return Ok(Body::Passing(dns));
        }
        ip_number::ICMP => false,
        ip_number::IPV6_ICMP => true,
        other => return Err(field("protocol", other.0)),
    };
    let head = payload.payload.split_first_chunk::<8>();
    let (head, quoted) = head.ok_or_else(|| field("ICMP header", "it is cut"))?;
    let [kind, code, _, _, word @ ..] = *head;
    let error = if v6 { error_v6(kind, code) } else { error_v4(kind, code) };
    let error = error.ok_or_else(|| field("ICMP type", kind))?;
    // The lower half in IPv4 (RFC 1191), all of it in IPv6.
    let mtu = u32::from_be_bytes(word) & if v6 { u32::MAX } else { 0xffff };
    let (inner, _) = LaxIpSlice::from_slice(quoted).map_err(|e| field("quoted IP header", e))?;
    if inner.payload().ip_number != ip_number::UDP || fragment::is_later(&inner) {
        return Err(field("quoted protocol", inner.payload().ip_number.0));
    }
    Ok(Body::Icmp(Box::new(Icmp {
        from: ip.source_addr().to_canonical(),
        error,
        code: (kind, code),
        mtu: (error == IcmpError::TooBig && mtu != 0).then_some(mtu),
        query: message(record, &front, &inner, Direction::Out)?,
    })))
}

/// The message in the datagram `ip`; what the kernel or an ICMP error left out of it is missing.
fn message(
    record: &Record,
    front: &Front,
    ip: &LaxIpSlice<'_>,
    direction: Direction,
) -> Result<Dns, DecodeError> {
    let payload = ip.payload();
    let udp = UdpSlice::from_slice_lax(payload.payload).map_err(|e| field("UDP header", e))?;
    let (local, remote) = ends(ip, direction, udp.source_port(), udp.destination_port());
    let cut = payload.fragmented || direction == Direction::Out;
    let payload = record.body.slice_ref(udp.payload());
    Ok(Dns { direction, payload, ..datagram(front, &udp, cut, local, remote) })
}

fn error_v4(kind: u8, code: u8) -> Option<IcmpError> {
    Some(match (kind, code) {
        (3, 0 | 6 | 8 | 11) => IcmpError::NetUnreachable,
        (3, 1 | 5 | 7 | 12) => IcmpError::HostUnreachable,
        (3, 2) => IcmpError::ProtocolUnreachable,
        (3, 3) => IcmpError::PortUnreachable,
        (3, 4) => IcmpError::TooBig,
        (3, 9 | 10 | 13) => IcmpError::AdminProhibited,
        (11, _) => IcmpError::TimeExceeded,
        (3 | 12, _) => IcmpError::Other,
        _ => return None,
    })
}

fn error_v6(kind: u8, code: u8) -> Option<IcmpError> {
    Some(match (kind, code) {
        (1, 0) => IcmpError::NetUnreachable,
        (1, 1 | 5 | 6) => IcmpError::AdminProhibited,
        (1, 2 | 3) => IcmpError::HostUnreachable,
        (1, 4) => IcmpError::PortUnreachable,
        (2, _) => IcmpError::TooBig,
        (3, _) => IcmpError::TimeExceeded,
        (1 | 4, _) => IcmpError::Other,
        _ => return None,
    })
}

fn field(field: &'static str, why: impl std::fmt::Display) -> DecodeError {
    DecodeError::Field { kind: RecordKind::Wire, field, why: why.to_string() }
}

#[cfg(test)]
mod tests;
