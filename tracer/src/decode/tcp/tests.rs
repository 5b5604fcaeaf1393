//! The reassembler: whatever the network does to the segments, the same messages.

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000_000;

fn key() -> Key {
    Key {
        host: HostId::default(),
        cookie: Some(7),
        cgroup: None,
        local: "10.0.0.1:40000".parse().unwrap(),
        remote: "10.0.0.2:53".parse().unwrap(),
    }
}

/// A query-like message of `len` bytes; `n` tells it from others.
fn dns_like(n: u16, len: usize) -> Vec<u8> {
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message[..2].copy_from_slice(&n.to_be_bytes());
    message.resize(len.max(12), n as u8);
    message
}

fn stream(messages: &[Vec<u8>]) -> Vec<u8> {
    let framed = |m: &Vec<u8>| [&u16::try_from(m.len()).unwrap().to_be_bytes(), &m[..]].concat();
    messages.iter().flat_map(framed).collect()
}

fn segment(direction: Direction, at: u64, seq: u32, bytes: &[u8]) -> Segment {
    Segment {
        direction,
        at: Timestamp(at),
        number: at,
        seq,
        ack: None,
        syn: false,
        fin: false,
        rst: false,
        bytes: Bytes::copy_from_slice(bytes),
        size: u32::try_from(bytes.len()).unwrap(),
    }
}

fn out(at: u64, seq: u32, bytes: &[u8]) -> Segment {
    segment(Direction::Out, at, seq, bytes)
}

fn syn(at: u64, isn: u32) -> Segment {
    Segment { syn: true, ..out(at, isn, &[]) }
}

/// Messages of `segments`, and what was lost.
fn told(segments: impl IntoIterator<Item = Segment>) -> (Vec<Message>, u64) {
    let (mut connections, mut messages) = (Connections::default(), Vec::new());
    for segment in segments {
        connections.add(key(), segment, &mut messages);
    }
    (messages, connections.take_lost())
}

fn bytes(messages: &[Message]) -> Vec<Vec<u8>> {
    messages.iter().map(|m| m.bytes.to_vec()).collect()
}

#[test]
fn two_in_one_segment_and_one_in_two() {
    let messages = [dns_like(1, 40), dns_like(2, 50), dns_like(3, 3000)];
    let all = stream(&messages);
    let (first, second) = all.split_at(1500);
    let (got, lost) = told([syn(1, 99), out(2, 100, first), out(3, 1600, second)]);
    assert_eq!(bytes(&got), messages);
    assert_eq!(got.iter().map(|m| m.number).collect::<Vec<_>>(), [2, 2, 3]);
    assert_eq!(lost, 0);
}

#[test]
fn numbers_wrap_around() {
    let messages = [dns_like(1, 400), dns_like(2, 500)];
    let all = stream(&messages);
    let isn = u32::MAX - 300;
    let pieces = all.chunks(64).enumerate();
    let segments = pieces.map(|(i, part)| {
        let seq = isn.wrapping_add(1 + 64 * u32::try_from(i).unwrap());
        out(2 + i as u64, seq, part)
    });
    let (got, lost) = told(std::iter::once(syn(1, isn)).chain(segments));
    assert_eq!((bytes(&got), lost), (messages.to_vec(), 0));
}

#[test]
fn what_filled_a_hole_decides_when_it_could_be_read() {
    let message = dns_like(1, 100);
    let all = stream(&[message]);
    let (got, _) = told([
        syn(1, 99),
        out(2, 150, &all[50..]),
        out(300, 100, &all[..50]), // retransmitted
        out(301, 100, &all[..50]),
    ]);
    assert_eq!(got.iter().map(|m| (m.at.0, m.number)).collect::<Vec<_>>(), [(300, 300)]);
}

#[test]
fn keepalives_and_overlaps_add_nothing() {
    let messages = [dns_like(1, 60), dns_like(2, 60)];
    let all = stream(&messages);
    let (got, lost) = told([
        syn(1, 99),
        out(2, 100, &all[..62]),
        out(3, 161, &[0]), // keep-alive: a byte before the next
        out(4, 130, &all[30..90]),
        out(5, 150, &all[50..]),
    ]);
    assert_eq!((bytes(&got), lost), (messages.to_vec(), 0));
}

#[test]
fn begun_in_the_middle() {
    let messages = [dns_like(1, 600), dns_like(2, 60)];
    let all = stream(&messages);
    // The rest of a message that began before the trace, then one more.
    let (got, lost) = told([out(1, 300, &all[200..602]), out(2, 702, &all[602..])]);
    assert_eq!((bytes(&got), lost), (messages[1..].to_vec(), 0));
    // The response of two segments begins with the first that is seen.
    let (got, _) = told([out(1, 100, &all[..400]), out(2, 500, &all[400..602])]);
    assert_eq!(bytes(&got), messages[..1]);
}

#[test]
fn what_the_far_end_acknowledged_is_not_waited_for() {
    let messages = [dns_like(1, 60), dns_like(2, 60), dns_like(3, 60)];
    let all = stream(&messages);
    let answer = stream(&[dns_like(9, 20)]);
    let ack = |at, seq, ack| Segment { ack: Some(ack), ..segment(Direction::In, at, seq, &answer) };
    let segments = [
        syn(1, 99),
        out(2, 100, &all[..62]),
        // The second was not captured.
        out(4 * MS, 224, &all[124..]),
        ack(5 * MS, 500, 286),
        ack(60 * MS, 522, 286),
    ];
    let (got, lost) = told(segments);
    let out: Vec<_> = got.iter().filter(|m| m.direction == Direction::Out).collect();
    assert_eq!(out.len(), 2);
    // Its time is that of its own segment, though the hole was given up later.
    assert_eq!((out[1].bytes.to_vec(), out[1].at.0), (messages[2].clone(), 4 * MS));
    assert_eq!(lost, 1);
}

#[test]
fn a_hole_inside_a_message_costs_that_message_only() {
    let messages = [dns_like(1, 600), dns_like(2, 60)];
    let all = stream(&messages);
    let cut = Segment { bytes: Bytes::copy_from_slice(&all[..200]), ..out(2, 100, &all[..400]) };
    let (got, lost) = told([syn(1, 99), cut, out(3, 500, &all[400..])]);
    assert_eq!(bytes(&got), [all[2..200].to_vec(), messages[1].clone()]);
    assert_eq!((got[0].original, lost), (600, 0));
}

#[test]
fn ends_used_again_by_another_connection() {
    let message = stream(&[dns_like(1, 60)]);
    let (got, lost) = told([
        syn(1, 99),
        out(2, 100, &message),
        // A new connection, with its SYN; then one more, without.
        syn(3, 0x7000_0000),
        out(4, 0x7000_0001, &message),
        out(5, 0x1000_0000, &message),
    ]);
    assert_eq!((got.len(), lost), (3, 0));
}

#[test]
fn memory_is_bounded() {
    let mut connections = Connections::default();
    let mut messages = Vec::new();
    let junk = [0xff; 1400];
    for n in 0..60_000u32 {
        // Holes everywhere, and messages that never end, on ever new connections.
        let port = u16::try_from(1 + n / 40 % 60_000).unwrap();
        let local = SocketAddr::new([10, 0, 0, 1].into(), port);
        let seq = n.wrapping_mul(1500);
        connections.add(Key { local, ..key() }, out(n.into(), seq, &junk), &mut messages);
        assert!(connections.all.len() <= CONNECTIONS_MAX);
        assert!(connections.held <= HELD_MAX + (1 << 20), "{}", connections.held);
        messages.clear();
    }
    let held: usize = connections.all.values().map(|c| c.out.held() + c.r#in.held()).sum();
    assert_eq!(held, connections.held);
}

#[test]
fn one_connection_is_bounded() {
    let mut connections = Connections::default();
    let mut messages = Vec::new();
    connections.add(key(), syn(0, 0), &mut messages);
    for n in 1..20_000u32 {
        let segment = out(u64::from(n), n.wrapping_mul(700), &[0xff; 500]);
        connections.add(key(), segment, &mut messages);
        assert!(connections.held <= 320 * 1024, "{n}: {}", connections.held);
    }
    assert!(connections.take_lost() > 0);
}

/// What a sender ends in the middle of a message was never there to lose; what is missing was.
#[test]
fn a_message_broken_off_is_no_loss() {
    let message = stream(&[dns_like(1, 40)]);
    let part = || out(2, 1, &message[..30]);
    let fin = |seq| Segment { fin: true, ..out(3, seq, &[]) };
    let rst = |seq| Segment { rst: true, ..out(3, seq, &[]) };
    let back = Segment { rst: true, ack: Some(31), ..segment(Direction::In, 3, 9, &[]) };
    let more = Segment { ack: Some(41), ..back.clone() };
    let behind = out(2, 21, &message[20..30]);
    for (segments, broken_off, lost) in [
        (vec![part(), fin(31)], 1, 0),
        (vec![part(), rst(31)], 1, 0),
        (vec![part(), back], 1, 0),
        // The end of it was received, but not seen; there is a hole.
        (vec![part(), fin(41), rst(42)], 0, 1),
        (vec![part(), rst(41)], 0, 1),
        (vec![part(), more], 0, 1),
        (vec![out(2, 1, &message[..10]), behind, rst(31)], 0, 2),
        // A connection that begins anew says nothing of how the old one ended.
        (vec![part(), syn(4, 900_000)], 0, 1),
    ] {
        let (mut connections, mut messages) = (Connections::default(), Vec::new());
        for segment in std::iter::once(syn(1, 0)).chain(segments.clone()) {
            connections.add(key(), segment, &mut messages);
        }
        let got = (connections.broken_off(), connections.take_lost());
        assert_eq!(got, (broken_off, lost), "{segments:?}");
    }
}

/// The capture ends with something behind a hole: that is not silent; a message that goes on is open.
#[test]
fn a_hole_at_the_end_is_counted() {
    let message = stream(&[dns_like(1, 40)]);
    for (from, lost) in [(10, 1), (0, 0)] {
        let (mut connections, mut messages) = (Connections::default(), Vec::new());
        let part = out(2, 1 + from as u32, &message[from..30]);
        for segment in [syn(1, 0), part] {
            connections.add(key(), segment, &mut messages);
        }
        connections.finish();
        assert_eq!((messages.len(), connections.take_lost()), (0, lost), "{from}");
    }
}

proptest! {
    /// Any cut into segments, any order (but the SYN first), any repetition and overlap.
    #[test]
    fn any_way_through_the_network(
        lens in prop::collection::vec(12usize..900, 1..8),
        isn: u32,
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..24),
        again in prop::collection::vec((any::<prop::sample::Index>(), 1usize..400), 0..12),
        shuffle in any::<u64>(),
    ) {
        let messages: Vec<Vec<u8>> =
            lens.iter().enumerate().map(|(n, len)| dns_like(n as u16, *len)).collect();
        let all = stream(&messages);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(all.len())).collect();
        at.extend([0, all.len()]);
        at.sort_unstable();
        at.dedup();
        let mut parts: Vec<(usize, usize)> = at.windows(2).map(|w| (w[0], w[1])).collect();
        for (start, len) in again {
            let start = start.index(all.len());
            parts.push((start, (start + len).min(all.len())));
        }
        // A shuffle that is the same each time the case is run.
        let mut state = shuffle | 1;
        for i in (1..parts.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            parts.swap(i, (state >> 33) as usize % (i + 1));
        }
        let segments = parts.iter().enumerate().map(|(n, (from, to))| {
            let seq = isn.wrapping_add(1).wrapping_add(u32::try_from(*from).unwrap());
            out(1 + n as u64, seq, &all[*from..*to])
        });
        let (got, lost) = told(std::iter::once(syn(0, isn)).chain(segments));
        prop_assert_eq!(bytes(&got), messages);
        prop_assert_eq!(lost, 0);
    }

    /// Any segments at all: bounded, no panic.
    #[test]
    fn any_segments(
        segments in prop::collection::vec(
            (any::<bool>(), any::<u32>(), any::<Option<u32>>(), any::<[bool; 3]>(),
             prop::collection::vec(any::<u8>(), 0..80), 0u32..70_000, 0u64..20_000_000_000),
            0..80,
        ),
    ) {
        let (mut connections, mut messages) = (Connections::default(), Vec::new());
        for (inward, seq, ack, [syn, fin, rst], bytes, more, at) in segments {
            let direction = if inward { Direction::In } else { Direction::Out };
            let size = bytes.len() as u32 + more;
            // Near each other, so that they meet.
            let (seq, ack) = (seq % 200_000, ack.map(|ack| ack % 200_000));
            let bytes = bytes.into();
            let (at, number) = (Timestamp(at), at);
            let segment =
                Segment { direction, at, number, seq, ack, syn, fin, rst, bytes, size };
            connections.add(key(), segment, &mut messages);
            prop_assert!(connections.held <= 2 * 320 * 1024);
        }
        prop_assert!(messages.iter().all(|m| m.bytes.len() <= usize::from(m.original)));
    }
}
