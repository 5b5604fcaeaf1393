//! Link layers, fragments and copies by themselves; whole files are tested from outside.

use std::net::SocketAddr;

use etherparse::{IpFragOffset, Ipv4Header, Ipv6FragmentHeader, LaxIpSlice, PacketBuilder};
use proptest::prelude::*;

use super::copies::{Act, Copies, End, Flow, Sighting};
use super::fragments::Fragments;
use super::link::{Content, content};
use super::packets::{Packet, Packets};
use crate::event::Direction;
use crate::record::Timestamp;

fn query() -> Vec<u8> {
    let mut out = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, 53);
    builder.write(&mut out, &[7; 100]).unwrap();
    out
}

#[test]
fn tags_are_looked_behind() {
    let ip = query();
    for tags in 0..=3usize {
        let mut frame = vec![0; 12];
        for _ in 0..tags {
            frame.extend([0x81, 0x00, 0x00, 0x05]);
        }
        frame.extend([0x08, 0x00]);
        frame.extend(&ip);
        assert_eq!(content(1, &frame), Content::Ip(&ip), "{tags} tags");
        for keep in 0..14 + 4 * tags {
            assert_eq!(content(1, &frame[..keep]), Content::Other, "{tags} tags cut to {keep}");
        }
    }
    let arp = [&[0; 12][..], &[0x08, 0x06], &ip].concat();
    assert_eq!(content(1, &arp), Content::Other);
    assert_eq!(content(105, &arp), Content::UnknownLink);
}

/// `payload` in pieces of `size` bytes, each behind a header of its own.
fn pieces_v4(payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let last = payload.len().div_ceil(size) - 1;
    let chunks = payload.chunks(size).enumerate();
    chunks
        .map(|(n, chunk)| {
            let length = u16::try_from(chunk.len()).unwrap();
            let (from, to) = ([10, 0, 0, 1], [10, 0, 0, 2]);
            let mut header =
                Ipv4Header::new(length, 64, etherparse::ip_number::UDP, from, to).unwrap();
            header.identification = 77;
            header.dont_fragment = false;
            header.more_fragments = n != last;
            let offset = u16::try_from(n * size / 8).unwrap();
            header.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            let mut out = Vec::new();
            header.write(&mut out).unwrap();
            out.extend(chunk);
            out
        })
        .collect()
}

fn pieces_v6(payload: &[u8], size: usize) -> Vec<Vec<u8>> {
    let last = payload.len().div_ceil(size) - 1;
    let chunks = payload.chunks(size).enumerate();
    chunks
        .map(|(n, chunk)| {
            let offset = IpFragOffset::try_new(u16::try_from(n * size / 8).unwrap()).unwrap();
            let fragment =
                Ipv6FragmentHeader::new(etherparse::ip_number::UDP, offset, n != last, 99);
            let mut out = vec![0x60, 0, 0, 0];
            out.extend(u16::try_from(8 + chunk.len()).unwrap().to_be_bytes());
            out.extend([44, 64]);
            out.extend([1; 32]);
            fragment.write(&mut out).unwrap();
            out.extend(chunk);
            out
        })
        .collect()
}

/// A UDP datagram to port 53 with so many bytes of payload.
fn datagram(len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(4000u16.to_be_bytes());
    out.extend(53u16.to_be_bytes());
    out.extend(u16::try_from(8 + len).unwrap().to_be_bytes());
    out.extend([0, 0]);
    out.extend((0..len).map(|n| n as u8));
    out
}

#[test]
fn fragments_come_together_in_any_order() {
    let whole = datagram(3000);
    for mut pieces in [pieces_v4(&whole, 1000), pieces_v6(&whole, 1000)] {
        for turn in 0..pieces.len() {
            pieces.rotate_left(1);
            let mut packets = Packets::new(&[53]);
            let mut records = Vec::new();
            for (n, piece) in pieces.iter().enumerate() {
                let at = Timestamp(1_000_000 * n as u64);
                let packet = Packet { number: n as u64, at, bytes: piece, cut: false };
                records.extend(packets.record(&packet));
            }
            assert_eq!(records.len(), 1, "turn {turn}");
            assert_eq!(records[0].number, 3, "the piece that made it whole");
            assert!(records[0].body.ends_with(&whole[8..]), "turn {turn}");
            assert!(!records[0].cut);
            assert_eq!(packets.fragments.finish(), 0);
        }
    }
}

#[test]
fn fragments_never_pile_up() {
    let mut fragments = Fragments::default();
    for n in 0..20_000u32 {
        let mut piece = pieces_v4(&datagram(64), 32).remove(0);
        piece[4..6].copy_from_slice(&(n as u16).to_be_bytes());
        let (ip, _) = LaxIpSlice::from_slice(&piece).unwrap();
        assert!(fragments.add(&ip, Timestamp(u64::from(n))).is_none());
    }
    assert!(fragments.finish() > 19_000);
}

#[test]
fn extension_headers_are_looked_behind() {
    let datagram = datagram(40);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(8 + datagram.len()).unwrap().to_be_bytes());
    packet.extend([0, 64]); // hop-by-hop options
    packet.extend([1; 32]);
    packet.extend([17, 0, 1, 4, 0, 0, 0, 0]); // then UDP; padding
    packet.extend(&datagram);
    let packet = Packet { number: 1, at: Timestamp(0), bytes: &packet, cut: false };
    let record = Packets::new(&[53]).record(&packet).unwrap();
    assert!(record.body.ends_with(&datagram));
}

fn sighting(at_ms: u64, from: &str, to: &str, act: Act, ip_id: Option<u16>) -> Sighting {
    let hasher = foldhash::quality::RandomState::default();
    let end = |text: &str| End::new(text.parse::<SocketAddr>().unwrap(), &hasher);
    let flow = Flow { from: end(from), to: end(to) };
    let fingerprint = if act == Act::Ask { 1 } else { 2 };
    Sighting { at: Timestamp(at_ms * 1_000_000), flow, act, fingerprint, ip_id, exchange: 9 }
}

#[test]
fn each_copy_has_its_place() {
    let (client, service, pod, node) =
        ("10.1.0.5:4000", "10.96.0.10:53", "10.1.0.3:53", "1.2.3.4:9");
    for id in [Some(7), Some(0), None] {
        let mut copies = Copies::default();
        let mut tell = |at, from, to, act| copies.direction(&sighting(at, from, to, act, id));
        assert_eq!(tell(0, client, service, Act::Ask), Some(Direction::Out));
        assert_eq!(tell(0, client, service, Act::Ask), None, "the same again");
        assert_eq!(tell(1, client, pod, Act::Ask), Some(Direction::In), "translated");
        assert_eq!(tell(1, node, pod, Act::Ask), None, "behind a gateway");
        assert_eq!(tell(4, pod, node, Act::Answer), None);
        assert_eq!(tell(4, pod, client, Act::Answer), Some(Direction::Out));
        assert_eq!(tell(5, service, client, Act::Answer), Some(Direction::In));
        assert_eq!(tell(5, service, client, Act::Answer), None);
    }
}

#[test]
fn a_retransmission_is_no_copy() {
    let (client, server) = ("10.1.0.5:4000", "10.96.0.10:53");
    let mut copies = Copies::default();
    for (at, id) in
        [(0, Some(7)), (250, Some(8)), (5_000, Some(8)), (5_250, Some(0)), (5_500, Some(0))]
    {
        let told = copies.direction(&sighting(at, client, server, Act::Ask, id));
        assert_eq!(told, Some(Direction::Out), "{at} ms");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_a_frame(link in 0u32..300, frame in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Content::Ip(bytes) = content(link, &frame) {
            let packet = Packet { number: 1, at: Timestamp(0), bytes, cut: false };
            let _ = Packets::new(&[53]).record(&packet);
        }
    }
}
