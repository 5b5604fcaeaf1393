//! Packets with pseudonyms in their DNS messages: headers stay, other payloads become zero, and the
//! checksum changes by as much as the bytes under it.

use bytes::Bytes;
use etherparse::{LaxIpSlice, TcpHeaderSlice, UdpSlice, ip_number};
use tracer_common::bodies::PACKET_DNS;

use super::dns;
use super::pseudonyms::Pseudonyms;
use crate::{fragment, framing};

const FRONT: usize = size_of::<tracer_common::bodies::Packet>();
/// Where `flags` and `captured` stand in [`tracer_common::bodies::Packet`].
const FLAGS: usize = std::mem::offset_of!(tracer_common::bodies::Packet, flags);
const CAPTURED: usize = std::mem::offset_of!(tracer_common::bodies::Packet, captured);

const UDP_HEADER: usize = 8;
const UDP_CHECKSUM: usize = 6;
const TCP_CHECKSUM: usize = 16;
const ICMP_HEADER: usize = 8;
const ICMP_CHECKSUM: usize = 2;
const DNS_PORT: u16 = 53;
const DNS_HEADER: usize = 12;

/// The body of a packet record. One that says of itself more than it has stays too short.
pub(super) fn body(body: &[u8], names: &mut Pseudonyms) -> Bytes {
    let Some((front, rest)) = body.split_at_checked(FRONT) else {
        return Bytes::copy_from_slice(body);
    };
    let field = |at: usize| front.get(at..).unwrap_or_default();
    let flags = field(FLAGS).first_chunk().map_or(0, |bytes| u16::from_ne_bytes(*bytes));
    let captured = field(CAPTURED).first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let packet = usize::try_from(captured).ok().and_then(|captured| rest.get(..captured));
    let packet = packet.map(|bytes| packet_bytes(bytes, flags & PACKET_DNS != 0, false, names));
    Bytes::from([front, &packet.unwrap_or_default()].concat())
}

/// From the IP header on; `quoted` in an ICMP error.
fn packet_bytes(bytes: &[u8], dns: bool, quoted: bool, names: &mut Pseudonyms) -> Vec<u8> {
    let mut out = vec![0; bytes.len()];
    let Ok((ip, _)) = LaxIpSlice::from_slice(bytes) else { return out };
    let payload = ip.payload();
    let (at, len) = (place(bytes, payload.payload), payload.payload.len());
    copy(bytes, &mut out, 0, at);
    if fragment::is_later(&ip) {
        return out;
    }
    let Some(segment) = out.get_mut(at..at + len) else { return out };
    match payload.ip_number {
        ip_number::UDP => udp(payload.payload, segment, dns, names),
        ip_number::TCP => tcp(payload.payload, segment, dns, names),
        ip_number::ICMP | ip_number::IPV6_ICMP if dns && !quoted => {
            icmp(payload.payload, segment, names);
        }
        _ => {}
    }
    out
}

fn udp(from: &[u8], to: &mut [u8], dns: bool, names: &mut Pseudonyms) {
    copy(from, to, 0, UDP_HEADER);
    let Ok(udp) = UdpSlice::from_slice_lax(from) else { return };
    let message = udp.payload();
    if dns || udp.source_port() == DNS_PORT || udp.destination_port() == DNS_PORT {
        let (redacted, _) = dns::message(message, names);
        copy(&redacted, to.get_mut(UDP_HEADER..).unwrap_or_default(), 0, redacted.len());
    }
    // Zero says that there is none (RFC 768).
    if udp.checksum() != 0 {
        update_checksum(from, to, UDP_HEADER, message.len(), UDP_CHECKSUM);
    }
}

/// An error and the packet that it quotes.
fn icmp(from: &[u8], to: &mut [u8], names: &mut Pseudonyms) {
    let Some(quoted) = from.get(ICMP_HEADER..) else { return };
    copy(from, to, 0, ICMP_HEADER);
    let redacted = packet_bytes(quoted, true, true, names);
    copy(&redacted, to.get_mut(ICMP_HEADER..).unwrap_or_default(), 0, redacted.len());
    update_checksum(from, to, ICMP_HEADER, quoted.len(), ICMP_CHECKSUM);
}

fn tcp(from: &[u8], to: &mut [u8], dns: bool, names: &mut Pseudonyms) {
    let Ok(header) = TcpHeaderSlice::from_slice(from) else { return };
    let start = header.slice().len();
    copy(from, to, 0, start);
    let data = from.get(start..).unwrap_or_default();
    if dns || header.source_port() == DNS_PORT || header.destination_port() == DNS_PORT {
        framed(data, to.get_mut(start..).unwrap_or_default(), names);
    }
    update_checksum(from, to, start, data.len(), TCP_CHECKSUM);
}

/// Messages behind their lengths (RFC 1035 section 4.2.2), as long as each is there and understood
/// as a whole: a segment may begin anywhere in a stream. Of one that goes on in another segment the
/// length and the header stay, which are numbers, so that the stream stays one.
fn framed(from: &[u8], to: &mut [u8], names: &mut Pseudonyms) {
    let mut at = 0;
    while let Some(len) = from.get(at..).and_then(<[u8]>::first_chunk) {
        let end = at + 2 + usize::from(u16::from_be_bytes(*len));
        let Some(message) = from.get(at + 2..end).filter(|message| !message.is_empty()) else {
            if framing::is_head(from.get(at..).unwrap_or_default()) {
                copy(from, to, at, 2 + DNS_HEADER);
            }
            return;
        };
        let (redacted, true) = dns::message(message, names) else { return };
        copy(from, to, at, 2);
        copy(&redacted, to.get_mut(at + 2..).unwrap_or_default(), 0, redacted.len());
        at = end;
    }
}

/// RFC 1624: right afterwards if it was right before, also where part of the packet is not there.
fn update_checksum(from: &[u8], to: &mut [u8], start: usize, len: usize, field: usize) {
    let Some(old) = from.get(field..).and_then(<[u8]>::first_chunk::<2>) else { return };
    let words = |bytes: &[u8]| -> u64 {
        let covered = bytes.get(start..start + len).unwrap_or_default();
        let word = |pair: &[u8]| match pair {
            [high, low] => u64::from(u16::from_be_bytes([*high, *low])),
            [high] => u64::from(*high) << 8,
            _ => 0,
        };
        covered.chunks(2).map(word).sum()
    };
    // ~C' = ~C + ~m + m', summed over all words; ~m is 0xffff - m.
    let count = len.div_ceil(2) as u64;
    let mut sum = u64::from(!u16::from_be_bytes(*old)) + count * 0xffff - words(from) + words(to);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let new = match !(sum as u16) {
        0 => 0xffff,
        other => other,
    };
    if let Some(place) = to.get_mut(field..field + 2) {
        place.copy_from_slice(&new.to_be_bytes());
    }
}

/// Where `part`, a slice of `whole`, begins in it.
fn place(whole: &[u8], part: &[u8]) -> usize {
    (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize).min(whole.len())
}

fn copy(from: &[u8], to: &mut [u8], at: usize, len: usize) {
    let end = (at + len).min(from.len()).min(to.len());
    if let (Some(from), Some(to)) = (from.get(at..end), to.get_mut(at..end)) {
        to.copy_from_slice(from);
    }
}
