//! IP packets to records: DNS over UDP and TCP, and TCP's SYN, FIN and RST; everything else only moves
//! the time. Leaves what the messages say, and putting segments together, to `decode`.

use std::hash::BuildHasher;
use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use etherparse::{LaxIpSlice, TcpHeaderSlice, UdpSlice, ip_number};
use foldhash::quality::RandomState;
use tracer_common::bodies::{DIRECTION_IN, DIRECTION_OUT, PACKET_DNS, role};

use super::copies::{Act, Copies, End, Flow, Sighting, TCP};
use super::fragments::Fragments;
use crate::event::Direction;
use crate::record::{HostId, Record, RecordKind, Timestamp};

/// Length of `bodies::Packet` in front of the bytes.
const FRONT: usize = size_of::<tracer_common::bodies::Packet>();
/// Room for bodies that is taken at once, in bytes; it is used again as soon as nobody holds a part.
const ROOM: usize = 16 << 10;

/// A packet from its IP header on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    pub(super) number: u64,
    pub(super) at: Timestamp,
    pub(super) bytes: &'a [u8],
    /// The capture has not all of it.
    pub(super) cut: bool,
}

/// Turns packets into records.
pub(super) struct Packets {
    dns_ports: Vec<u16>,
    pub(super) fragments: Fragments,
    copies: Copies,
    hasher: RandomState,
    room: BytesMut,
}

/// What is interesting about a packet.
struct Facts<'a> {
    sighting: Sighting,
    protocol: u8,
    dns: bool,
    transport_offset: usize,
    bytes: &'a [u8],
    /// Bytes of the whole packet.
    original: usize,
}

impl Packets {
    pub(super) fn new(dns_ports: &[u16]) -> Self {
        Self {
            dns_ports: dns_ports.to_vec(),
            fragments: Fragments::default(),
            copies: Copies::default(),
            hasher: RandomState::default(),
            room: BytesMut::new(),
        }
    }

    /// The record of a packet that matters, once.
    pub(super) fn record(&mut self, packet: &Packet<'_>) -> Option<Record> {
        let (ip, _) = LaxIpSlice::from_slice(packet.bytes).ok()?;
        if ip.is_fragmenting_payload() {
            let whole = self.fragments.add(&ip, packet.at)?;
            let whole = Packet { bytes: &whole, cut: false, ..*packet };
            let (ip, _) = LaxIpSlice::from_slice(whole.bytes).ok()?;
            return self.whole(&whole, &ip);
        }
        self.whole(packet, &ip)
    }

    fn whole(&mut self, packet: &Packet<'_>, ip: &LaxIpSlice<'_>) -> Option<Record> {
        let facts = match ip.payload().ip_number {
            ip_number::UDP => self.dns(packet, ip),
            ip_number::TCP => self.segment(packet, ip),
            _ => None,
        }?;
        let direction = self.copies.direction(&facts.sighting)?;
        Some(Record {
            number: packet.number,
            at: packet.at,
            host: HostId::default(),
            kind: RecordKind::Packet,
            cpu: None,
            probe: None,
            cut: facts.dns && (packet.cut || facts.bytes.len() < facts.original),
            task: None,
            cgroup: None,
            cookie: None,
            body: body(&mut self.room, direction, ip, &facts),
        })
    }

    fn dns<'a>(&self, packet: &Packet<'a>, ip: &LaxIpSlice<'a>) -> Option<Facts<'a>> {
        let segment = ip.payload().payload;
        let udp = UdpSlice::from_slice_lax(segment).ok()?;
        let is_dns = |port| self.dns_ports.contains(&port);
        let (from, to) = (udp.source_port(), udp.destination_port());
        if !(is_dns(from) || is_dns(to)) {
            return None;
        }
        let message = udp.payload();
        let answer = match message.get(2) {
            Some(flags) => flags & 0x80 != 0,
            None => !is_dns(to),
        };
        let id = message.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        let sighting = Sighting {
            at: packet.at,
            flow: self.flow(ip, from, to),
            act: if answer { Act::Answer } else { Act::Ask },
            fingerprint: self.hasher.hash_one(message),
            ip_id: ip_id(ip),
            exchange: u32::from(id),
        };
        Some(facts(packet, ip, sighting, None))
    }

    /// Of DNS connections whatever carries something; of others what begins and ends them.
    fn segment<'a>(&self, packet: &Packet<'a>, ip: &LaxIpSlice<'a>) -> Option<Facts<'a>> {
        let segment = ip.payload().payload;
        let tcp = TcpHeaderSlice::from_slice(segment).ok()?;
        let is_dns = |port| self.dns_ports.contains(&port);
        let (from, to) = (tcp.source_port(), tcp.destination_port());
        let dns = is_dns(from) || is_dns(to);
        let payload = segment.get(tcp.slice().len()..).filter(|_| dns).unwrap_or_default();
        if !(tcp.syn() || tcp.fin() || tcp.rst()) && payload.is_empty() {
            return None;
        }
        let act = match (tcp.syn(), tcp.ack()) {
            (true, false) => Act::Ask,
            (true, true) => Act::Answer,
            _ if is_dns(to) && !is_dns(from) => Act::Ask,
            _ if is_dns(from) && !is_dns(to) => Act::Answer,
            _ => Act::Either,
        };
        let bits = (tcp.syn(), tcp.ack(), tcp.fin(), tcp.rst());
        let same = (tcp.sequence_number(), tcp.acknowledgment_number(), bits, payload);
        let sighting = Sighting {
            at: packet.at,
            flow: self.flow(ip, from, to),
            act,
            fingerprint: self.hasher.hash_one(same),
            ip_id: ip_id(ip),
            exchange: TCP,
        };
        // What a SYN or FIN carries is nobody's business, unless it is DNS.
        Some(facts(packet, ip, sighting, (!dns).then_some(tcp.slice().len())))
    }

    fn flow(&self, ip: &LaxIpSlice<'_>, from: u16, to: u16) -> Flow {
        Flow {
            from: End::new(SocketAddr::new(ip.source_addr(), from), &self.hasher),
            to: End::new(SocketAddr::new(ip.destination_addr(), to), &self.hasher),
        }
    }
}

fn ip_id(ip: &LaxIpSlice<'_>) -> Option<u16> {
    ip.ipv4().map(|v4| v4.header().identification())
}

/// `header`: bytes of the transport header, where only that is kept.
fn facts<'a>(
    packet: &Packet<'a>,
    ip: &LaxIpSlice<'a>,
    sighting: Sighting,
    header: Option<usize>,
) -> Facts<'a> {
    let whole = match ip {
        LaxIpSlice::Ipv4(v4) => usize::from(v4.header().total_len()),
        LaxIpSlice::Ipv6(v6) => 40 + usize::from(v6.header().payload_length()),
    };
    // Frames are padded to 60 bytes; offloading leaves the length out.
    let payload = ip.payload().payload;
    let transport_offset = (payload.as_ptr() as usize).wrapping_sub(packet.bytes.as_ptr() as usize);
    let there = transport_offset.saturating_add(payload.len()).min(packet.bytes.len());
    let most = header.map_or(there, |len| there.min(transport_offset.saturating_add(len)));
    Facts {
        sighting,
        protocol: ip.payload().ip_number.0,
        dns: header.is_none(),
        transport_offset,
        bytes: packet.bytes.get(..most).unwrap_or_default(),
        original: if whole > transport_offset { whole } else { there },
    }
}

/// `bodies::Packet` and the bytes behind it, in `room`.
fn body(
    room: &mut BytesMut,
    direction: Direction,
    ip: &LaxIpSlice<'_>,
    facts: &Facts<'_>,
) -> Bytes {
    let direction = match direction {
        Direction::In => DIRECTION_IN,
        Direction::Out => DIRECTION_OUT,
    };
    let version = if ip.ipv4().is_some() { 4 } else { 6 };
    let flags = if facts.dns { PACKET_DNS } else { 0 };
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).to_ne_bytes();
    let needed = FRONT + facts.bytes.len();
    if room.capacity() < needed {
        room.reserve(needed.max(ROOM));
    }
    let offset = u16::try_from(facts.transport_offset).unwrap_or(u16::MAX);
    let words = [
        [direction, version, facts.protocol, role::TARGET],
        two(flags, offset),
        size(facts.original),
        size(facts.bytes.len()),
        [0; 4], // intended port: not known; padding
        [0; 4],
    ];
    room.put_slice(words.as_flattened());
    room.put_slice(facts.bytes);
    room.split().freeze()
}

/// Two half words, one behind the other.
fn two(first: u16, second: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d]
}
