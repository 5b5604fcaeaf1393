//! The files themselves: sections and clocks of pcapng, damage, what is no capture.

use proptest::prelude::*;

use super::*;

/// A pcapng block, little-endian.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padded = body.len().next_multiple_of(4);
    let len = u32::try_from(padded + 12).unwrap().to_le_bytes();
    let padding = vec![0; padded - body.len()];
    [&kind.to_le_bytes()[..], &len, body, &padding, &len].concat()
}

fn section() -> Vec<u8> {
    let head = [0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0];
    block(0x0a0d_0d0a, &[&head[..], &[0xff; 8]].concat())
}

/// An interface; `resolution` as in `if_tsresol`, `offset` in seconds.
fn interface(link: u16, resolution: u8, offset: i64) -> Vec<u8> {
    let mut body = [&link.to_le_bytes()[..], &[0; 6]].concat();
    body.extend([9, 0, 1, 0, resolution, 0, 0, 0, 14, 0, 8, 0]);
    body.extend(offset.to_le_bytes());
    body.extend([0; 4]);
    block(1, &body)
}

fn enhanced(interface: u32, ticks: u64, frame: &[u8]) -> Vec<u8> {
    let len = u32::try_from(frame.len()).unwrap();
    let (high, low) = ((ticks >> 32) as u32, ticks as u32);
    let head: Vec<u8> =
        [interface, high, low, len, len].into_iter().flat_map(u32::to_le_bytes).collect();
    block(6, &[head, frame.to_vec()].concat())
}

#[test]
fn sections_interfaces_and_clocks_of_pcapng() {
    const SECOND: u64 = 1_700_000_000;
    let query = udp("10.0.0.1:4000", "10.0.0.2:53", 1, &message(7, "a.test", "A", None, &[]));
    let answer = udp("10.0.0.2:53", "10.0.0.1:4000", 2, &message(7, "a.test", "A", Some(3), &[]));
    let (query, answer) = (framed(1, &query), framed(101, &answer));
    let first =
        |resolution, ticks| [section(), interface(1, resolution, 0), enhanced(0, ticks, &query)];
    // The answer 0.25 s later, at another interface with another clock, or in another section.
    for (resolution, unit) in
        [(0, 1), (3, 1000), (6, 1_000_000), (9, 1_000_000_000), (0x94, 1 << 20)]
    {
        let begin = first(resolution, SECOND * unit).concat();
        let same = [interface(101, 9, 0), enhanced(1, SECOND * 1_000_000_000 + 250 * MS, &answer)];
        let other = [section(), interface(101, 0x82, 0), enhanced(0, SECOND * 4 + 1, &answer)];
        let offset = [interface(101, 3, 1_699_999_999), enhanced(1, 1250, &answer)];
        for rest in [same.concat(), other.concat(), offset.concat()] {
            let (records, error) = read([begin.clone(), rest].concat());
            assert!(error.is_none(), "{resolution}: {error:?}");
            let lookups = run(&records).lines("lookup");
            assert_eq!(lookups.len(), 1, "{resolution}");
            assert_eq!(
                (&lookups[0]["outcome"], &lookups[0]["duration_ns"]),
                (&"nxdomain".into(), &(250 * MS).into()),
                "{resolution}"
            );
        }
    }
    // A Simple Packet Block has no time: that of the packet before.
    let simple = [&u32::try_from(query.len()).unwrap().to_le_bytes()[..], &query].concat();
    let (records, error) =
        read([first(6, SECOND * 1_000_000).concat(), block(3, &simple)].concat());
    assert!(error.is_none());
    assert_eq!(records.last().unwrap().at.0, SECOND * 1_000_000_000);
    // A clock that nobody here can read is an error with a place.
    let (records, error) = read(first(0xa0, SECOND << 32).concat());
    assert!(records.iter().all(|r| r.number == 0));
    assert_eq!(error.unwrap().offset, 28);
}

#[test]
fn cut_at_every_byte_all_whole_packets_come() {
    let frames: Vec<Frame> =
        Story::told(View::Client).iter().take(6).map(|(at, p)| (*at, framed(1, p))).collect();
    for format in FORMATS {
        let whole = file(format, 1, 65_535, &frames);
        let (all, error) = read(whole.clone());
        assert!(error.is_none());
        let mut most = 0;
        for keep in 0..whole.len() {
            let (records, error) = read(whole[..keep].to_vec());
            let kept = records.iter().filter(|r| all.contains(r)).count();
            assert!(kept >= most, "{format:?} cut to {keep}");
            most = kept;
            match error {
                Some(error) => assert!(error.offset <= keep as u64, "{error}"),
                // A file may end between two packets.
                None => assert!(!records.is_empty() || keep >= 24, "{format:?} cut to {keep}"),
            }
        }
        assert_eq!(most, all.len() - 1, "{format:?}");
    }
}

#[test]
fn absurd_lengths_are_damage_with_a_place() {
    let frames: Vec<Frame> =
        Story::told(View::Client).iter().take(3).map(|(at, p)| (*at, framed(1, p))).collect();
    for (format, header, length) in [(FORMATS[1], 24, 8), (FORMATS[4], 28 + 32 + 16, 4)] {
        for absurd in [u32::MAX, u32::MAX - 3, 0x7fff_fffc, 0x1000_0000] {
            let mut bytes = file(format, 1, 65_535, &frames);
            bytes[header + length..header + length + 4].copy_from_slice(&absurd.to_le_bytes());
            let (records, error) = read(bytes);
            let error = error.unwrap_or_else(|| panic!("{format:?} {absurd:#x}: {records:?}"));
            assert_eq!(error.offset, header as u64, "{format:?} {absurd:#x}: {error}");
        }
    }
}

/// A reader that never ends: an interface description, again and again.
struct Endless {
    head: Vec<u8>,
    again: Vec<u8>,
    at: usize,
}

impl std::io::Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let all = self.head.len()
            + (self.at.saturating_sub(self.head.len()) / self.again.len() + 1) * self.again.len();
        let n = out.len().min(all - self.at).min(64);
        for (i, byte) in out.iter_mut().enumerate().take(n) {
            let at = self.at + i;
            *byte = match self.head.get(at) {
                Some(byte) => *byte,
                None => self.again[(at - self.head.len()) % self.again.len()],
            };
        }
        self.at += n;
        Ok(n)
    }
}

#[test]
fn memory_is_bounded_by_refusing() {
    let bytes = file(Format::Pcapng { big: false }, 1, 65_535, &[]);
    let endless = Endless { head: bytes[..28].to_vec(), again: bytes[28..60].to_vec(), at: 0 };
    let mut records = pcap::open(Box::new(endless)).unwrap();
    let error = records.next().unwrap().unwrap_err();
    assert!(error.to_string().contains("interfaces"), "{error}");
    assert!(records.next().is_none());
}

#[test]
fn what_is_not_a_capture_is_refused() {
    for bytes in [&b""[..], b"{", b"hello, this is text", &[0; 64]] {
        let (records, error) = read(bytes.to_vec());
        assert!(records.is_empty());
        assert!(error.is_some(), "{bytes:?}");
    }
}

/// Links nobody here knows are counted, not dropped in silence.
#[test]
fn an_unknown_link_type_is_told() {
    let frames: Vec<Frame> = (0..5).map(|n| (n * MS, vec![0; 40])).collect();
    let (records, error) = read(file(BEST, 105, 65_535, &frames));
    assert!(error.is_none());
    let output = run(&records);
    let loss = &output.lines("loss")[0];
    assert_eq!((&loss["stage"], &loss["count"]), (&"decode".into(), &5.into()), "{loss}");
    assert!(loss["source"].as_str().unwrap().contains("105"), "{loss}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any damage: no panic, numbers grow, at most one error, the contract holds.
    #[test]
    fn damaged_captures_never_panic(
        format in 0..FORMATS.len(),
        link in prop::sample::select(vec![0u16, 1, 12, 108, 113, 276]),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        keep in any::<prop::sample::Index>(),
    ) {
        let frames: Vec<Frame> = Story::told(View::Any)
            .iter()
            .take(24)
            .map(|(at, p)| (*at, framed(link, p)))
            .collect();
        let mut bytes = file(FORMATS[format], link, 65_535, &frames);
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= byte;
        }
        bytes.truncate(bytes.len() - keep.index(bytes.len()) / 8);
        let (records, _) = read(bytes);
        tests::lines(&run(&records).json);
    }

    /// Packets of any bytes behind a good header.
    #[test]
    fn foreign_packets_never_panic(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
        link in prop::sample::select(vec![0u16, 1, 12, 108, 113, 276]),
        version in prop::sample::select(vec![0x45u8, 0x46, 0x60]),
    ) {
        let frames: Vec<Frame> = packets
            .into_iter()
            .enumerate()
            .map(|(n, mut packet)| {
                packet.insert(0, version);
                (n as u64 * MS, framed(link, &packet))
            })
            .collect();
        let (records, error) = read(file(BEST, link, 65_535, &frames));
        prop_assert!(error.is_none());
        tests::lines(&run(&records).json);
    }
}
