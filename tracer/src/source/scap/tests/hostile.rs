//! Files made to hurt: lengths that lie, and more of everything than there is room for.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

/// A file with everything in it.
fn rich() -> File {
    let mut file = client(0x204);
    let query = dns(7, false, "a.test", 1);
    let json =
        format!("{{\"container\":{{\"id\":\"{}\",\"name\":\"k8s_a.1_b_c_d_2\"}}}}\0", &ID[..12]);
    file.event(0x221, 40, 0, 324, &[json.as_bytes()]);
    file.event(0x204, 50, 10, 50, &[]);
    file.event(0x216, 60, 10, 51, &[]);
    file.event(0x217, 70, 10, 3, &[&n(4), b"/etc/resolv.conf\0", &w(1), &w(0)]);
    file.event(0x204, 80, 10, 6, &[&n(4), &w(99)]);
    file.event(0x222, 90, 10, 7, &[&n(9), b"search x\n"]);
    file.event(0x208, 100, 10, 52, &[&n(3)]);
    file.event(0x204, 110, 10, 53, &[&n(24), &w(24), &query, &ends("10.0.2.15:53", "1.2.3.4:5")]);
    file.event(0x204, 120, 10, 186, &[&n(0)]);
    file
}

#[test]
fn cut_at_each_byte() {
    let file = rich();
    let whole = calls(&file.read().0).len();
    let mut seen = 0;
    for len in 0..file.0.len() {
        let (records, end) = read(file.0[..len].to_vec());
        let now = calls(&records).len();
        assert!(now >= seen && now < whole, "{len}");
        seen = now;
        if let Some(end) = end {
            assert!(end.offset <= len as u64, "{len}: {end:?}");
        }
    }
    assert_eq!(seen + 1, whole);
}

#[test]
fn bits_flipped_in_each_byte() {
    let file = rich();
    for at in 0..file.0.len() {
        for bits in [1 << (at % 8), 0xff] {
            let mut damaged = file.clone();
            damaged.0[at] ^= bits;
            let (records, _) = damaged.read();
            let mut decoder = Decoder::default();
            for record in &records {
                let _ = decoder.decode(&mut record.clone(), &mut Vec::new());
            }
        }
    }
}

#[test]
fn gzip_with_each_byte_changed_is_one_error_at_most() {
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped.write_all(&rich().0).unwrap();
    let zipped = zipped.finish().unwrap();
    for at in 0..zipped.len() {
        let mut damaged = zipped.clone();
        damaged[at] ^= 0x55;
        read(damaged);
    }
}

/// Feeds blocks to an engine that nobody empties but by its own bounds.
fn feed(engine: &mut Engine, file: &File) -> u64 {
    let mut blocks = Blocks::new(Box::new(Cursor::new(file.0.clone()))).unwrap();
    let mut popped = 0;
    while let Some(block) = blocks.next().unwrap() {
        engine.block(&block).unwrap();
        while engine.out.pop().is_some() {
            popped += 1;
        }
    }
    popped
}

fn without_head() -> File {
    File::default()
}

#[test]
fn events_without_a_time_do_not_pile_up() {
    let mut engine = Engine::new(Options::default());
    let mut file = without_head();
    for _ in 0..50_000 {
        file.event(0x204, 0, 10, 4, &[&n(3)]);
    }
    let step = file.0.len() / 50_000;
    for event in file.0.chunks_mut(step) {
        event[10..18].copy_from_slice(&[0; 8]);
    }
    let popped = feed(&mut engine, &file) + feed(&mut engine, &file);
    assert!(popped > 30_000, "{popped}");
}

#[test]
fn large_events_do_not_pile_up_behind_one_that_waits() {
    let mut engine = Engine::new(Options::default());
    feed(&mut engine, &client(0x204));
    let mut file = without_head();
    file.event(0x204, 40, 10, 50, &[]);
    file.event(0x204, 50, 10, 51, &[]);
    assert_eq!(feed(&mut engine, &file), 2, "behind the return its queries are waited for");
    let message = [dns(7, false, "a.test", 1), vec![0; 60_000]].concat();
    let mut file = without_head();
    for at in 0..100 {
        file.event(0x204, 60 + at, 10, 30, &[&n(3), &w(60_000), &[]]);
        file.event(0x204, 60 + at, 10, 31, &[&n(60_024), &message]);
    }
    let popped: u64 = (0..12).map(|_| feed(&mut engine, &file)).sum();
    assert!(popped > 0);
}

#[test]
fn more_of_everything_than_there_is_room_for() {
    let mut engine = Engine::new(Options::default());
    // Many descriptors, then many processes that would each have them all.
    let mut file = without_head();
    file.event(0x204, 0, 10, 3, &[&n(3), b"/etc/resolv.conf\0", &w(1), &w(0)]);
    for fd in 4..30_000 {
        file.event(0x204, 0, 10, 125, &[&n(fd), &n(3)]);
    }
    feed(&mut engine, &file);
    let mut file = without_head();
    for child in 100..140 {
        let (zero, parent) = (n(0), n(10));
        let all: [&[u8]; 20] = std::array::from_fn(|at| match at {
            4 | 18 | 19 => b"".as_slice(),
            5 => &parent,
            _ => &zero,
        });
        file.event(0x204, 10, child, 223, &all);
    }
    feed(&mut engine, &file);
    assert!(engine.state.refused > 0);
    // The text of one file under way, again and again, with descriptors that copy it.
    let long = vec![b'x'; 60_000];
    let mut file = without_head();
    for fd in 4..400 {
        file.event(0x204, 20, 10, 3, &[&n(fd), b"/etc/resolv.conf\0", &w(1), &w(0)]);
        file.event(0x204, 20, 10, 6, &[&n(fd), &w(60_000)]);
        file.event(0x204, 20, 10, 7, &[&n(60_000), &long]);
    }
    let kept = {
        let mut blocks = Blocks::new(Box::new(Cursor::new(file.0))).unwrap();
        let mut told = 0;
        while let Some(block) = blocks.next().unwrap() {
            engine.block(&block).unwrap();
            while let Some(record) = engine.out.pop() {
                told += usize::from(record.kind == RecordKind::ResolvConf);
            }
        }
        told
    };
    assert_eq!(kept, (16 << 20) / 60_000);
}

#[test]
fn names_of_absurd_length_are_cut_or_refused() {
    let mut file = File::new();
    let name = "x".repeat(60_000);
    file.processes((0x212, 6), &[(10, 10, &name)]);
    let json = format!(
        "{{\"container\":{{\"id\":\"1\",\"full_id\":\"{ID}\",\"name\":\"k8s_a.1_{}_c_d_2\"}}}}",
        &name[..40_000]
    );
    file.event(0x204, 0, 0, 272, &[json.as_bytes()]);
    let huge = format!("{{\"container\":{{\"labels\":{{\"a\":\"{}\"}}}}}}", "y".repeat(2 << 20));
    file.event(0x221, 0, 0, 324, &[huge.as_bytes()]);
    file.event(0x204, 0, 10, 4, &[&n(3)]);
    let (records, end) = file.read();
    assert!(end.is_none(), "{end:?}");
    assert_eq!(records.last().unwrap().task.as_ref().unwrap().comm.len(), COMM_MAX);
    assert!(records.iter().all(|r| r.kind != RecordKind::Pod));
}

#[test]
fn a_bomb_is_read_block_by_block() {
    // 12 MB of one event in a few kB of gzip, cut off by a length that no event has.
    let mut file = File::new();
    for _ in 0..200 {
        file.event(0x204, 0, 10, 7, &[&n(60_000), &vec![0; 60_000]]);
    }
    let at = file.0.len();
    file.0.extend([w(0x221), w(u32::MAX)].concat());
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped.write_all(&file.0).unwrap();
    let zipped = zipped.finish().unwrap();
    assert!(zipped.len() * 50 < at);
    let mut count = 0;
    let mut error = None;
    for record in open(Box::new(Cursor::new(zipped))).unwrap() {
        match record {
            Ok(record) => count += u64::from(record.kind == RecordKind::Call),
            Err(end) => error = Some(end),
        }
    }
    assert_eq!((count, error.unwrap().offset), (200, at as u64));
}

#[test]
fn objects_of_a_cluster_do_not_pile_up() {
    let mut file = File::new();
    let items = vec![r#"{"name":"a"}"#; 30_000].join(",");
    let json = format!(r#"{{"kind":"Service","type":"ADDED","items":[{items},{{}},7]}}"#);
    for at in 0..10 {
        file.event(0x221, at, 0, 260, &[json.as_bytes()]);
        file.event(0x204, at, 10, 4, &[&n(3)]);
    }
    let mut blocks = Blocks::new(Box::new(Cursor::new(file.0))).unwrap();
    let mut engine = Engine::new(Options::default());
    engine.block(&blocks.next().unwrap().unwrap()).unwrap();
    let mut reader = Reader { blocks, engine, error: None, ended: false };
    let (mut services, mut most) = (0, 0);
    while let Some(record) = reader.next() {
        services += usize::from(record.unwrap().kind == RecordKind::Service);
        most = most.max(reader.engine.out.waiting());
    }
    assert_eq!(services, 300_000);
    assert!(most < 100_000, "{most} at once");
}
