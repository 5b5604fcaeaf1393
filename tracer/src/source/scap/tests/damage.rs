//! Files that end in the middle, were changed, or are none; several in one.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;

#[test]
fn gzip_members_and_sections_follow_each_other() {
    let mut file = File::new();
    file.event(0x204, 0, 10, 4, &[&n(3)]);
    let zipped: Vec<u8> = (0..2)
        .flat_map(|_| {
            let mut member = GzEncoder::new(Vec::new(), Compression::fast());
            member.write_all(&file.0).unwrap();
            member.finish().unwrap()
        })
        .collect();
    let (records, end) = read(zipped.clone());
    assert!(end.is_none(), "{end:?}");
    assert_eq!(calls(&records).len(), 2);
    let (records, end) = read(zipped[..zipped.len() - 4].to_vec());
    assert_eq!(calls(&records).len(), 2);
    assert!(matches!(end.unwrap().kind, CaptureErrorKind::TailMissing));
}

#[test]
fn all_whole_events_then_the_damage() {
    let mut file = client(0x204);
    let first = file.event(0x216, 40, 10, 4, &[&n(3)]);
    let second = file.event(0x204, 50, 10, 5, &[&n(0)]);
    let whole = calls(&file.read().0).len();
    for len in 0..file.0.len() {
        let (records, end) = read(file.0[..len].to_vec());
        if len >= first {
            let lost = usize::from(len < second) + 1;
            assert_eq!(calls(&records).len(), whole - lost, "{len}");
            let at = if len < second { first } else { second };
            match end {
                Some(end) => assert_eq!(end.offset, at as u64, "{len}"),
                None => assert!(len == first || len == second, "{len}"),
            }
        }
    }
    let mut absurd = file.clone();
    absurd.0[second + 4..second + 8].copy_from_slice(&w(0x7fff_0000));
    let (records, end) = absurd.read();
    assert_eq!((calls(&records).len(), end.unwrap().offset), (whole - 1, second as u64));
}

#[test]
fn a_writers_short_interface_list() {
    let mut file = File::new();
    let entry = [&w(30)[..], &[0; 30]].concat();
    let at = file.block(0x219, &[entry.clone(), entry].concat());
    let told = w(u32::try_from(file.0.len() - at - 8).unwrap());
    file.0[at + 4..at + 8].copy_from_slice(&told);
    let end = file.0.len();
    file.0[end - 4..].copy_from_slice(&told);
    file.event(0x216, 0, 10, 4, &[&n(3)]);
    let (records, error) = file.read();
    assert!(error.is_none(), "{error:?}");
    assert_eq!(calls(&records).len(), 1);
}

#[test]
fn what_is_refused() {
    let good = File::new().0;
    let mut swapped = good.clone();
    swapped[8..12].reverse();
    let mut major = good;
    major[12] = 2;
    for bytes in [swapped, major, b"GET / HTTP/1.1\r\n".to_vec()] {
        let (records, end) = read(bytes);
        assert!(records.is_empty());
        assert!(matches!(end.unwrap().kind, CaptureErrorKind::Unsupported(_)));
    }
    assert!(read(Vec::new()).1.is_some());
}

proptest! {
    #[test]
    fn any_damage(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
    ) {
        let mut file = client(0x216);
        let response = dns(1, true, "a.test", 1);
        file.event(0x204, 40, 10, 50, &[]);
        file.event(0x204, 45, 10, 51, &[]);
        file.event(0x204, 50, 10, 34, &[&n(3), &w(99)]);
        file.event(0x204, 60, 10, 35, &[&n(24), &response, &ends("10.0.2.15:53", "172.17.0.7:4000")]);
        for (at, value) in changes {
            let at = at.index(file.0.len());
            file.0[at] = value;
        }
        read(file.0);
    }
}
