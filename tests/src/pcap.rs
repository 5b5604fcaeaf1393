//! DNS messages in a pcap file, for comparing svctrace with tcpdump: enough of the formats for that,
//! read independently of svctrace's decoder.

use std::net::SocketAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

/// A DNS message on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// Id.
    pub id: u16,
    /// QR bit.
    pub response: bool,
    /// Name asked, lower case.
    pub name: String,
    /// Type asked, its number.
    pub qtype: u16,
}

const NANOSECONDS: u32 = 0xa1b2_3c4d;
const MICROSECONDS: u32 = 0xa1b2_c3d4;

/// All UDP packets to or from port 53 in a classic pcap file of Ethernet.
pub fn dns_messages(file: &[u8]) -> Vec<Message> {
    let word = |at: usize| Some(u32::from_ne_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let unit = match word(0) {
        Some(NANOSECONDS) => 1,
        Some(MICROSECONDS) => 1000,
        other => panic!("not a pcap file of this machine: {other:x?}"),
    };
    assert_eq!(word(20), Some(1), "Ethernet");
    let mut messages = Vec::new();
    let mut at = 24;
    while let (Some(seconds), Some(part), Some(length)) = (word(at), word(at + 4), word(at + 8)) {
        let bytes = &file[at + 16..at + 16 + length as usize];
        let at_ns = u64::from(seconds) * 1_000_000_000 + u64::from(part) * unit;
        messages.extend(message(at_ns, bytes));
        at += 16 + length as usize;
    }
    messages
}

fn message(at_ns: u64, ethernet: &[u8]) -> Option<Message> {
    let packet = SlicedPacket::from_ethernet(ethernet).ok()?;
    let NetSlice::Ipv4(ip) = packet.net? else { return None };
    let TransportSlice::Udp(udp) = packet.transport? else { return None };
    let from = SocketAddr::new(ip.header().source_addr().into(), udp.source_port());
    let to = SocketAddr::new(ip.header().destination_addr().into(), udp.destination_port());
    if from.port() != 53 && to.port() != 53 {
        return None;
    }
    let dns = udp.payload();
    let word = |at: usize| Some(u16::from_be_bytes(dns.get(at..at + 2)?.try_into().ok()?));
    let mut labels = Vec::new();
    let mut at = 12;
    while let Some(length @ 1..) = dns.get(at).map(|length| usize::from(*length)) {
        labels.push(String::from_utf8_lossy(dns.get(at + 1..at + 1 + length)?).to_lowercase());
        at += 1 + length;
    }
    let (name, qtype) = (labels.join("."), word(at + 1)?);
    Some(Message { at_ns, from, to, id: word(0)?, response: word(2)? & 0x8000 != 0, name, qtype })
}
