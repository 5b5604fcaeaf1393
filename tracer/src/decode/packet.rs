//! Packets from their IP header on: endpoints, DNS payload over UDP, TCP control bits. Reassembles
//! nothing.

use std::net::SocketAddr;

use etherparse::{LaxIpSlice, TcpHeaderSlice, UdpSlice, ip_number};
use tracer_common::bodies::{DIRECTION_IN, DIRECTION_OUT, PACKET_DNS};

use super::DecodeError;
use super::cursor::Cursor;
use super::dns;
use crate::event::{Body, Direction, Dns, Protocol, Tcp};
use crate::fragment;
use crate::record::{Record, RecordKind};

const UDP_HEADER: usize = 8;

/// The fixed part in front of the bytes, as far as it matters here.
struct Front {
    direction: Direction,
    dns: bool,
    intended_port: u16,
    cut: bool,
    start: usize,
    captured: usize,
}

fn front(record: &Record) -> Result<Front, DecodeError> {
    let cursor = &mut Cursor::new(RecordKind::Packet, &record.body);
    let direction = cursor.u8("direction")?;
    cursor.bytes(3, "ip_version, protocol, role")?; // the packet itself is the better witness
    let flags = cursor.u16("flags")?;
    cursor.u16("transport_offset")?;
    let original = cursor.length("original")?;
    let captured = cursor.length("captured")?;
    let intended_port = cursor.u16("intended_port")?;
    cursor.bytes(6, "pad")?;
    let start = size_of::<tracer_common::bodies::Packet>();
    cursor.bytes(captured, "packet")?;
    let direction = match direction {
        DIRECTION_IN => Direction::In,
        DIRECTION_OUT => Direction::Out,
        other => return Err(cursor.field_error("direction", other.to_string())),
    };
    Ok(Front {
        direction,
        dns: flags & PACKET_DNS != 0,
        intended_port,
        cut: record.cut || captured < original,
        start,
        captured,
    })
}

/// What the packet says; nothing for TCP data and for UDP that is not DNS.
pub(super) fn decode(record: &Record) -> Result<Option<Body>, DecodeError> {
    let front = front(record)?;
    let bytes = record.body.get(front.start..front.start + front.captured).unwrap_or_default();
    let (ip, _) = LaxIpSlice::from_slice(bytes).map_err(|error| field("IP header", error))?;
    if fragment::is_later(&ip) {
        return Err(field("transport header", "this is not a packet's first fragment"));
    }
    let payload = ip.payload();
    let ends = |source: u16, destination: u16| {
        let from = SocketAddr::new(ip.source_addr().to_canonical(), source);
        let to = SocketAddr::new(ip.destination_addr().to_canonical(), destination);
        match front.direction {
            Direction::Out => (from, to),
            Direction::In => (to, from),
        }
    };
    match payload.ip_number {
        ip_number::TCP => {
            let tcp = TcpHeaderSlice::from_slice(payload.payload)
                .map_err(|error| field("TCP header", error))?;
            if !(tcp.syn() || tcp.fin() || tcp.rst()) {
                return Ok(None);
            }
            let (local, remote) = ends(tcp.source_port(), tcp.destination_port());
            Ok(Some(Body::Tcp(Tcp {
                direction: front.direction,
                local,
                remote,
                syn: tcp.syn(),
                ack: tcp.ack(),
                fin: tcp.fin(),
                rst: tcp.rst(),
            })))
        }
        ip_number::UDP if front.dns => {
            let udp = UdpSlice::from_slice_lax(payload.payload)
                .map_err(|error| field("UDP header", error))?;
            let (local, remote) = ends(udp.source_port(), udp.destination_port());
            Ok(Some(dns_body(record, &front, &udp, payload.fragmented, local, remote)))
        }
        ip_number::UDP => Ok(None),
        other => Err(field("protocol", other.0)),
    }
}

fn dns_body(
    record: &Record,
    front: &Front,
    udp: &UdpSlice<'_>,
    fragmented: bool,
    local: SocketAddr,
    remote: SocketAddr,
) -> Body {
    let payload = udp.payload();
    let told = usize::from(udp.length()).saturating_sub(UDP_HEADER);
    let missing = (front.cut || fragmented) && payload.len() < told;
    let whole = if missing { told } else { payload.len() };
    let port = front.intended_port;
    Body::Dns(Dns {
        direction: front.direction,
        protocol: Protocol::Udp,
        local,
        remote,
        intended_port: (port != 0 && port != remote.port()).then_some(port),
        message: dns::message(payload, missing),
        payload: record.body.slice_ref(payload),
        original_len: u32::try_from(whole).unwrap_or(u32::MAX),
    })
}

fn field(field: &'static str, why: impl std::fmt::Display) -> DecodeError {
    DecodeError::Field { kind: RecordKind::Packet, field, why: why.to_string() }
}
