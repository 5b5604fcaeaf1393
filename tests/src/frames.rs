//! Capture files made by hand: frames on several link layers, in classic pcap and pcapng.

use std::net::SocketAddr;

use crate::records::START_NS;
use crate::wire;

/// A frame and when it passed, in nanoseconds after the start of all scenarios.
pub type Frame = (u64, Vec<u8>);

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Classic pcap.
    Pcap {
        /// Byte order.
        big: bool,
        /// Nanoseconds, not microseconds.
        nano: bool,
    },
    /// pcapng.
    Pcapng {
        /// Byte order.
        big: bool,
    },
}

/// All of them.
pub const FORMATS: [Format; 6] = [
    Format::Pcap { big: false, nano: false },
    Format::Pcap { big: false, nano: true },
    Format::Pcap { big: true, nano: false },
    Format::Pcap { big: true, nano: true },
    Format::Pcapng { big: false },
    Format::Pcapng { big: true },
];

/// Numbers in one byte order.
struct Writer {
    big: bool,
    out: Vec<u8>,
}

impl Writer {
    fn u16(&mut self, n: u16) {
        self.out.extend(if self.big { n.to_be_bytes() } else { n.to_le_bytes() });
    }

    fn u32(&mut self, n: u32) {
        self.out.extend(if self.big { n.to_be_bytes() } else { n.to_le_bytes() });
    }

    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.u32(kind);
        self.u32(0);
        body(self);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        let length = u32::try_from(self.out.len() - start + 4).unwrap();
        self.u32(length);
        let bytes = if self.big { length.to_be_bytes() } else { length.to_le_bytes() };
        self.out[start + 4..start + 8].copy_from_slice(&bytes);
    }
}

/// A whole file; frames longer than `snap` are cut.
pub fn file(format: Format, link: u16, snap: usize, frames: &[Frame]) -> Vec<u8> {
    match format {
        Format::Pcap { big, nano } => {
            let mut w = Writer { big, out: Vec::new() };
            w.u32(if nano { 0xa1b2_3c4d } else { 0xa1b2_c3d4 });
            w.u16(2);
            w.u16(4);
            w.u32(0);
            w.u32(0);
            w.u32(u32::try_from(snap).unwrap());
            w.u32(link.into());
            for (at, frame) in frames {
                let at = START_NS + at;
                let part = at % 1_000_000_000 / if nano { 1 } else { 1000 };
                let kept = frame.len().min(snap);
                w.u32(u32::try_from(at / 1_000_000_000).unwrap());
                w.u32(u32::try_from(part).unwrap());
                w.u32(u32::try_from(kept).unwrap());
                w.u32(u32::try_from(frame.len()).unwrap());
                w.out.extend(&frame[..kept]);
            }
            w.out
        }
        Format::Pcapng { big } => {
            let mut w = Writer { big, out: Vec::new() };
            w.block(0x0a0d_0d0a, |w| {
                w.u32(0x1a2b_3c4d);
                w.u16(1);
                w.u16(0);
                w.u32(u32::MAX);
                w.u32(u32::MAX);
            });
            w.block(1, |w| {
                w.u16(link);
                w.u16(0);
                w.u32(u32::try_from(snap).unwrap());
                w.u16(9); // if_tsresol
                w.u16(1);
                w.out.extend([9, 0, 0, 0]);
                w.u32(0); // opt_endofopt
            });
            w.block(0x0000_0bad, |w| w.u32(32_473)); // somebody's custom block
            for (at, frame) in frames {
                let at = START_NS + at;
                let kept = frame.len().min(snap);
                w.block(6, |w| {
                    w.u32(0);
                    w.u32(u32::try_from(at >> 32).unwrap());
                    w.u32((at & 0xffff_ffff) as u32);
                    w.u32(u32::try_from(kept).unwrap());
                    w.u32(u32::try_from(frame.len()).unwrap());
                    w.out.extend(&frame[..kept]);
                });
            }
            w.out
        }
    }
}

/// `packet` (from its IP header on) on a link of this `LINKTYPE_*`.
pub fn framed(link: u16, packet: &[u8]) -> Vec<u8> {
    let kind: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    let mut out = match link {
        1 => vec![2; 12],
        113 => vec![0; 14],
        276 => kind.to_be_bytes().to_vec(),
        0 => 2u32.to_le_bytes().to_vec(),
        108 => 2u32.to_be_bytes().to_vec(),
        _ => Vec::new(),
    };
    match link {
        1 | 113 => out.extend(kind.to_be_bytes()),
        276 => out.resize(20, 0),
        _ => {}
    }
    out.extend(packet);
    if link == 1 && out.len() < 60 {
        out.resize(60, 0xee); // padding that is not part of the packet
    }
    out
}

/// A UDP packet with this IP identification; IPv6 packets have none.
pub fn udp(from: &str, to: &str, ip_id: u16, payload: &[u8]) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    identified(wire::udp(from, to, payload), ip_id)
}

/// Sets the identification of an IPv4 packet.
pub fn identified(mut packet: Vec<u8>, ip_id: u16) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        packet[4..6].copy_from_slice(&ip_id.to_be_bytes());
    }
    packet
}

/// A TCP packet without payload.
pub fn tcp(from: &str, to: &str, seq: u32, flags: &str, ip_id: u16) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let (SocketAddr::V4(a), SocketAddr::V4(b)) = (from, to) else { panic!("IPv4 only") };
    let mut packet = etherparse::PacketBuilder::ipv4(a.ip().octets(), b.ip().octets(), 64).tcp(
        a.port(),
        b.port(),
        seq,
        64_000,
    );
    for flag in flags.chars() {
        packet = match flag {
            'S' => packet.syn(),
            'A' => packet.ack(1),
            'F' => packet.fin(),
            'R' => packet.rst(),
            other => panic!("flag {other}"),
        };
    }
    let mut out = Vec::new();
    packet.write(&mut out, &[]).unwrap();
    identified(out, ip_id)
}

/// A TCP segment of IPv4 or IPv6; the acknowledgment is left out with 0.
pub fn segment(from: &str, to: &str, seq: u32, ack: u32, flags: &str, payload: &[u8]) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let ip = match (from, to) {
        (SocketAddr::V4(a), SocketAddr::V4(b)) => {
            etherparse::PacketBuilder::ipv4(a.ip().octets(), b.ip().octets(), 64)
        }
        (SocketAddr::V6(a), SocketAddr::V6(b)) => {
            etherparse::PacketBuilder::ipv6(a.ip().octets(), b.ip().octets(), 64)
        }
        mixed => panic!("a packet of two families: {mixed:?}"),
    };
    let mut packet = ip.tcp(from.port(), to.port(), seq, 64_000);
    if ack != 0 {
        packet = packet.ack(ack);
    }
    for flag in flags.chars() {
        packet = match flag {
            'S' => packet.syn(),
            'F' => packet.fin(),
            'R' => packet.rst(),
            'P' => packet.psh(),
            other => panic!("flag {other}"),
        };
    }
    let mut out = Vec::new();
    packet.write(&mut out, payload).unwrap();
    // Every packet of a host has another one, so that copies are told from retransmissions.
    let id = seq.wrapping_mul(31).wrapping_add(ack) as u16;
    identified(out, id.max(1))
}
