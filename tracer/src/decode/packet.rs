//! Packets from their IP header on: endpoints, DNS payload over UDP, TCP control bits and segments.
//! Puts no segments together: `tcp` does.

use std::net::SocketAddr;

use bytes::{Buf, Bytes};
use etherparse::{LaxIpSlice, TcpHeaderSlice, UdpSlice, ip_number};
use tracer_common::bodies::{DIRECTION_IN, DIRECTION_OUT, PACKET_DNS, role};

use super::DecodeError;
use super::cursor::Cursor;
use super::dns;
use super::tcp::{Connections, Key, Message, Segment};
use crate::event::{Body, Direction, Dns, Protocol, Tcp};
use crate::record::{Record, RecordKind, Timestamp};
use crate::{fragment, framing};

const UDP_HEADER: usize = 8;

/// The fixed part in front of the bytes, as far as it matters here.
pub(super) struct Front {
    direction: Direction,
    dns: bool,
    intended_port: u16,
    pub(super) cut: bool,
    /// At the resolver only what belongs to targets is recorded, so streams have holes.
    sampled: bool,
    start: usize,
    captured: usize,
    original: usize,
}

impl Front {
    /// The packet, from its IP header on.
    pub(super) fn packet<'a>(&self, record: &'a Record) -> &'a [u8] {
        record.body.get(self.start..self.start + self.captured).unwrap_or_default()
    }
}

/// A message of a stream, with the record that completed it.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) number: u64,
    pub(super) at: Timestamp,
    pub(super) dns: Dns,
}

pub(super) fn front(record: &Record) -> Result<Front, DecodeError> {
    let cursor = &mut Cursor::new(record.kind, &record.body);
    let direction = cursor.u8("direction")?;
    cursor.bytes(2, "ip_version, protocol")?; // the packet itself is the better witness
    let sampled = cursor.u8("role")? == role::RESOLVER;
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
        sampled,
        start,
        captured,
        original,
    })
}

/// What the packet itself says; nothing for TCP data and for UDP that is not DNS. The messages that a
/// TCP segment made whole are appended to `heard`.
pub(super) fn decode(
    record: &mut Record,
    connections: &mut Connections,
    heard: &mut Vec<Heard>,
) -> Result<Option<Body>, DecodeError> {
    let front = front(record)?;
    let (ip, _) =
        LaxIpSlice::from_slice(front.packet(record)).map_err(|error| field("IP header", error))?;
    if fragment::is_later(&ip) {
        return Err(field("transport header", "this is not a packet's first fragment"));
    }
    let payload = ip.payload();
    let ends = |source, destination| ends(&ip, front.direction, source, destination);
    match payload.ip_number {
        ip_number::TCP => {
            let tcp = TcpHeaderSlice::from_slice(payload.payload)
                .map_err(|error| field("TCP header", error))?;
            let (local, remote) = ends(tcp.source_port(), tcp.destination_port());
            if front.dns && front.sampled {
                let bytes = payload.payload.get(tcp.slice().len()..).unwrap_or_default();
                alone(record, &front, bytes, (local, remote), heard);
            } else if front.dns {
                segment(record, &front, &tcp, payload.payload, (local, remote), connections, heard);
            }
            if !(tcp.syn() || tcp.fin() || tcp.rst()) {
                return Ok(None);
            }
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
            let mut dns = datagram(&front, &udp, payload.fragmented, local, remote);
            let (payload, len) = (udp.payload().as_ptr() as usize, udp.payload().len());
            let start = payload.wrapping_sub(record.body.as_ptr() as usize);
            dns.payload = cut_out(std::mem::take(&mut record.body), start, len);
            Ok(Some(Body::Dns(dns)))
        }
        ip_number::UDP => Ok(None),
        other => Err(field("protocol", other.0)),
    }
}

/// A segment of a DNS connection finds its place.
fn segment(
    record: &Record,
    front: &Front,
    tcp: &TcpHeaderSlice<'_>,
    segment: &[u8],
    (local, remote): (SocketAddr, SocketAddr),
    connections: &mut Connections,
    heard: &mut Vec<Heard>,
) {
    let bytes = segment.get(tcp.slice().len()..).unwrap_or_default();
    let missing = front.original.saturating_sub(front.captured);
    let Record { host, cookie, cgroup, number, at, .. } = *record;
    let segment = Segment {
        direction: front.direction,
        at,
        number,
        seq: tcp.sequence_number(),
        ack: tcp.ack().then(|| tcp.acknowledgment_number()),
        syn: tcp.syn(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        bytes: record.body.slice_ref(bytes),
        size: u32::try_from(bytes.len() + missing).unwrap_or(u32::MAX),
    };
    let mut messages = Vec::new();
    connections.add(Key { host, cookie, cgroup, local, remote }, segment, &mut messages);
    heard.extend(messages.into_iter().map(|message| Heard {
        number: message.number,
        at: message.at,
        dns: streamed(message, local, remote, front.intended_port),
    }));
}

/// A segment without its neighbours.
fn alone(
    record: &Record,
    front: &Front,
    bytes: &[u8],
    (local, remote): (SocketAddr, SocketAddr),
    heard: &mut Vec<Heard>,
) {
    for whole in framing::alone(bytes) {
        let message = Message {
            direction: front.direction,
            bytes: Bytes::copy_from_slice(&whole.bytes),
            original: whole.original,
            at: record.at,
            number: record.number,
        };
        let dns = streamed(message, local, remote, front.intended_port);
        heard.push(Heard { number: record.number, at: record.at, dns });
    }
}

fn streamed(message: Message, local: SocketAddr, remote: SocketAddr, port: u16) -> Dns {
    let cut = message.bytes.len() < usize::from(message.original);
    Dns {
        direction: message.direction,
        protocol: Protocol::Tcp,
        local,
        remote,
        intended_port: (port != 0 && port != remote.port()).then_some(port),
        message: dns::message(&message.bytes, cut),
        payload: message.bytes,
        original_len: message.original.into(),
    }
}

/// The own end and the far one of a packet between these ports that goes in `direction`.
pub(super) fn ends(
    ip: &LaxIpSlice<'_>,
    direction: Direction,
    source: u16,
    destination: u16,
) -> (SocketAddr, SocketAddr) {
    let from = SocketAddr::new(ip.source_addr().to_canonical(), source);
    let to = SocketAddr::new(ip.destination_addr().to_canonical(), destination);
    match direction {
        Direction::Out => (from, to),
        Direction::In => (to, from),
    }
}

/// The message in a datagram, without its payload, yet.
pub(super) fn datagram(
    front: &Front,
    udp: &UdpSlice<'_>,
    fragmented: bool,
    local: SocketAddr,
    remote: SocketAddr,
) -> Dns {
    let payload = udp.payload();
    let told = usize::from(udp.length()).saturating_sub(UDP_HEADER);
    let missing = (front.cut || fragmented) && payload.len() < told;
    let whole = if missing { told } else { payload.len() };
    let port = front.intended_port;
    Dns {
        direction: front.direction,
        protocol: Protocol::Udp,
        local,
        remote,
        intended_port: (port != 0 && port != remote.port()).then_some(port),
        message: dns::message(payload, missing),
        payload: Bytes::new(),
        original_len: u32::try_from(whole).unwrap_or(u32::MAX),
    }
}

/// A part of `body`, which nobody else needs: unlike a slice it is not counted.
fn cut_out(mut body: Bytes, start: usize, len: usize) -> Bytes {
    body.advance(start.min(body.len()));
    body.truncate(len);
    body
}

fn field(field: &'static str, why: impl std::fmt::Display) -> DecodeError {
    DecodeError::Field { kind: RecordKind::Packet, field, why: why.to_string() }
}
