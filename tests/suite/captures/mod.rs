//! Captures: what is recorded replays as it was, whole or not, in one file or a ring. Live
//! recordings are in `lab`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tests::capture::{file, replay, ring, writer};
use tests::{binary, lines, of_type};
use tracer::capture::{Item, Options, Reader, Skipped, What};
use tracer::record::{HostId, Record, RecordKind, Timestamp};
use tracer::source::CaptureErrorKind;

use crate::scenarios;

mod program;

const PLAIN: Options = Options { compress: false, rotate_bytes: None, rotate_ns: None };
const ZSTD: Options = Options { compress: true, ..PLAIN };

fn small() -> Vec<Record> {
    scenarios::cut_short()
}

fn tail_missing(error: Option<tracer::source::CaptureError>) -> bool {
    error.is_some_and(|error| matches!(error.kind, CaptureErrorKind::TailMissing))
}

#[test]
fn every_scenario_replays_to_the_same_records_and_output() {
    for (name, records) in scenarios::all() {
        for options in [PLAIN, ZSTD] {
            let (read, error) = replay(&[file(&records, options)]);
            assert!(error.is_none(), "{name}: {error:?}");
            assert_eq!(read, records, "{name}");
        }
        let (read, _) = replay(&[file(&records, PLAIN)]);
        let (live, replayed) = (tests::run(&records), tests::run(&read));
        assert_eq!(live.json, replayed.json, "{name}");
        assert_eq!(live.text, replayed.text, "{name}");
        assert_eq!(live.verdict, replayed.verdict, "{name}");
    }
}

#[test]
fn descriptions_of_interfaces_have_a_bound() {
    let whole = file(&small(), PLAIN);
    let header = u32::from_le_bytes(whole[4..8].try_into().unwrap()) as usize;
    // Interfaces of a MiB each: link type, no snap length, comments.
    let comment = [&[1, 0, 0xfc, 0xff][..], &[b'x'; 0xfffc]].concat();
    let body = [&[101, 0, 0, 0, 0, 0, 0, 0][..], &comment.repeat(16), &[0; 4]].concat();
    let len = u32::try_from(body.len() + 12).unwrap().to_le_bytes();
    let interface = [&[1, 0, 0, 0][..], &len, &body, &len].concat();
    let with = |count| [&whole[..header], &interface.repeat(count), &whole[header..]].concat();
    let (read, error) = replay(&[with(8)]);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(read, small());
    let error = replay(&[with(20)]).1.unwrap();
    assert_eq!(error.offset, (header + 15 * interface.len()) as u64);
    assert!(error.to_string().contains("too many interfaces"), "{error}");
}

#[test]
fn a_capture_of_a_capture_is_the_same_capture() {
    for (name, records) in scenarios::all() {
        let first = file(&records, PLAIN);
        let (read, _) = replay(std::slice::from_ref(&first));
        assert_eq!(file(&read, PLAIN), first, "{name}");
    }
}

#[test]
fn cut_at_every_byte_all_whole_records_come_back() {
    // Records of another host, and packets made from system calls, came with 1.1.
    let mut elsewhere = minor_1();
    elsewhere.iter_mut().for_each(|record| record.host = HostId(1));
    for records in [small(), minor_1(), elsewhere] {
        let whole = file(&records, PLAIN);
        let mut most = 0;
        for len in 1..whole.len() {
            let (read, error) = replay(&[whole[..len].to_vec()]);
            assert!(tail_missing(error), "{len} of {} bytes", whole.len());
            assert!(read.len() >= most, "{len} bytes give fewer records than {}", len - 1);
            assert!(read[..] == records[..read.len()], "{len} bytes");
            most = read.len();
        }
        assert_eq!(most, records.len());
    }
}

#[test]
fn a_compressed_capture_cut_at_every_byte_does_no_harm() {
    let records = small();
    let whole = file(&records, ZSTD);
    for len in 1..whole.len() {
        let (read, error) = replay(&[whole[..len].to_vec()]);
        assert!(error.is_some(), "{len} of {} bytes", whole.len());
        assert!(read[..] == records[..read.len()], "{len} bytes");
    }
}

#[test]
fn what_was_flushed_is_there_without_an_end() {
    let records = scenarios::story(true);
    for options in [PLAIN, ZSTD] {
        let (mut writer, memory) = writer(1, options);
        for (n, record) in records.iter().enumerate() {
            writer.record(record).unwrap();
            if n % 50 != 0 {
                continue;
            }
            let (read, error) = replay(&[memory[0].bytes()]);
            assert!(memory[0].bytes().is_empty() || tail_missing(error));
            assert!(read[..] == records[..read.len()]);
            let seen = read.last().map_or(records[0].at, |record| record.at);
            assert!(record.at.since(seen) <= 1_000_000_000, "at most a second is not flushed");
        }
        std::mem::forget(writer); // killed: no destructor writes anything
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn flipped_bits_never_panic(at in any::<prop::sample::Index>(), bit in 0..8_u8, zstd: bool) {
        let mut bytes = file(&small(), if zstd { ZSTD } else { PLAIN });
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let (read, _) = replay(&[bytes]);
        let _ = tests::run(&read);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut ours = file(&small(), PLAIN)[..60].to_vec();
        let _ = replay(std::slice::from_ref(&bytes));
        ours.extend(bytes);
        let _ = replay(&[ours]);
    }
}

#[test]
fn garbage_behind_whole_records_is_one_error_at_its_place() {
    let records = small();
    let mut bytes = file(&records, PLAIN);
    let at = bytes.len() as u64;
    bytes.extend([0; 64]);
    let (read, error) = replay(&[bytes]);
    assert_eq!(read, records);
    let error = error.unwrap();
    assert_eq!(error.offset, at);
    assert!(matches!(error.kind, CaptureErrorKind::Damaged(_)), "{error}");
}

#[test]
fn a_ring_replays_as_one_in_any_order_and_without_its_first_files() {
    let records = scenarios::story(true);
    let live = tests::run_default(&records);
    for options in [
        Options { rotate_bytes: Some(8192), ..PLAIN },
        Options { rotate_ns: Some(3_000_000_000), ..ZSTD },
    ] {
        let mut files = ring(&records, 10, options);
        files.retain(|file| !file.is_empty());
        assert!(files.len() > 3, "{} files", files.len());
        files.rotate_left(2);
        let (read, error) = replay(&files);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(read, records);
        files.rotate_right(2);
        let (read, error) = replay(&files[1..]);
        assert!(error.is_none(), "{error:?}");
        assert!(read.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert_eq!(read.last(), records.last());
        // Who is who is known from the first packet on, though it was told in the dropped file.
        let output = tests::run_default(&read);
        for line in output.lines("lookup") {
            assert_eq!(line["identity"]["pod"], "client", "{line}");
            assert_eq!(line["identity"]["comm"], "curl", "{line}");
        }
        assert!(output.codes().contains(&"upstream-timeout".to_owned()), "{}", output.json);
        assert!(output.lines("connection") == live.lines("connection"));
    }
}

/// Files put one behind the other, by `cat`.
#[test]
fn a_file_holds_the_sections_of_one_recording() {
    let records = scenarios::story(true);
    let options = Options { rotate_ns: Some(2_000_000_000), ..PLAIN };
    let mut files = ring(&records, 20, options);
    files.retain(|file| !file.is_empty());
    assert!(files.len() > 2);
    let (read, error) = replay(&[files.concat()]);
    assert!(error.is_none() && read == records, "{error:?}");
    // All of it once more changes nothing.
    let (read, error) = replay(&[[files.concat(), files.concat()].concat()]);
    assert!(error.is_none() && read == records, "{error:?}");
    let later = records.iter().map(|r| Record { at: r.at.plus(1), ..r.clone() });
    let whole = file(&records, PLAIN);
    let two = [whole.clone(), file(&later.collect::<Vec<_>>(), PLAIN)].concat();
    let (read, error) = replay(&[two]);
    assert_eq!(read, records);
    let error = error.unwrap();
    assert!(error.offset > whole.len() as u64 && error.to_string().contains("another recording"));
}

#[test]
fn an_event_of_several_records_may_go_on_in_the_next_file() {
    let mut records = small();
    for pair in 0..records.len() / 2 {
        // As scap's, with context before the first event.
        let number = if pair < 3 { 0 } else { records[2 * pair].number };
        records[2 * pair].number = number;
        records[2 * pair + 1].number = number;
    }
    let rotate = |bytes| ring(&records, 500, Options { rotate_bytes: Some(bytes), ..PLAIN });
    for bytes in [1, 4096, 5000] {
        let mut files = rotate(bytes);
        files.retain(|file| !file.is_empty());
        assert!(files.len() > 1);
        let (read, error) = replay(&files);
        let numbers = |of: &[Record]| of.iter().map(|r| r.number).collect::<Vec<_>>();
        assert_eq!(numbers(&read), numbers(&records), "{bytes}: {error:?}");
        files.extend(files.clone());
        assert_eq!(replay(&files).0, records, "{bytes}");
        // Each file stands alone, whatever facts share a number.
        let facts = records.iter().filter(|record| record.kind.is_context()).count();
        let (read, _) = replay(&files[files.len() / 2 - 1..files.len() / 2]);
        let told = read.iter().filter(|record| record.kind.is_context()).count();
        assert!(told + 8 >= facts, "{bytes}: {told} of {facts}"); // heartbeats
    }
}

#[test]
fn a_full_ring_begins_again_with_its_oldest_file() {
    let records = scenarios::story(true);
    let options = Options { rotate_ns: Some(3_000_000_000), ..PLAIN };
    let files = ring(&records, 3, options);
    let (read, error) = replay(&files);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(read.last(), records.last());
    assert!(read.len() < records.len());
    assert!(read.iter().any(|record| record.kind == RecordKind::Pod));
}

#[test]
fn a_file_missing_in_the_middle_is_told_as_loss() {
    let records = scenarios::story(true);
    let options = Options { rotate_ns: Some(3_000_000_000), ..PLAIN };
    let mut files = ring(&records, 10, options);
    files.retain(|file| !file.is_empty());
    files.remove(2);
    let (read, error) = replay(&files);
    assert!(error.is_none(), "{error:?}");
    let missing = records.len() - read.iter().filter(|r| records.contains(r)).count();
    let output = tests::run_default(&read);
    let loss = &output.lines("loss")[0];
    assert_eq!((loss["stage"].as_str(), loss["source"].as_str()), (Some("user"), Some("capture")));
    assert_eq!(loss["count"], missing, "{loss}");
    assert!(output.verdict.incomplete > 0);
}

#[test]
fn snapshots_come_again_and_change_nothing() {
    let mut records = scenarios::healthy();
    let last = records.last().unwrap().clone();
    for second in 1..200 {
        let number = last.number + second;
        records.push(Record { number, at: last.at.plus(second * 1_000_000_000), ..last.clone() });
    }
    let bytes = file(&records, PLAIN);
    let marks = Reader::new(&bytes[..]).unwrap().filter(|item| {
        matches!(item, Ok(Item::Mark(mark)) if mark.what == What::Snapshot && mark.count > 0)
    });
    assert!(marks.count() >= 3);
    assert_eq!(replay(&[bytes]).0, records);
}

#[test]
fn a_newer_format_is_refused_and_a_newer_minor_read() {
    let mut bytes = file(&small(), PLAIN);
    let at = bytes.windows(8).position(|window| window == tracer::capture::MAGIC).unwrap() + 8;
    bytes[at + 2] = 9;
    assert!(replay(&[bytes.clone()]).1.is_none());
    bytes[at] = 2;
    let error = replay(&[bytes]).1.unwrap();
    assert!(error.to_string().contains("format 2.9"), "{error}");
}

/// Captures of every format version, kept forever.
#[test]
fn old_captures_still_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    for (name, records) in [("v1.pcapng", scenarios::servfail()), ("v1.1.pcapng", minor_1())] {
        let bytes = fs::read(dir.join(name)).unwrap();
        let mut reader = Reader::new(&bytes[..]).unwrap();
        reader.by_ref().for_each(|item| drop(item.unwrap()));
        assert_eq!(reader.skipped(), Skipped::default(), "{name}");
        let (read, error) = replay(&[bytes]);
        assert!(error.is_none(), "{name}: {error:?}");
        assert_eq!(read, records, "{name}");
    }
}

/// What format 1.1 added: a message out of a system call, with its packet beside it, and data.
fn minor_1() -> Vec<Record> {
    let query =
        b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x04test\x00\x00\x01\x00\x01";
    let len = u32::try_from(query.len()).unwrap().to_ne_bytes();
    let end = |port: u16, last: u8| {
        let mut end = [2_u16.to_ne_bytes(), port.to_ne_bytes()].concat();
        end.extend([10, 0, 0, last]);
        end.resize(20, 0);
        end
    };
    let cut = 300_u32.to_ne_bytes();
    let head = [end(4000, 1), end(53, 2), vec![17, 1, 0, 0]].concat();
    let payload = [&head, &cut[..], &len, &query[..]].concat();
    let words = b"-u\0root\0";
    let size = u32::try_from(words.len()).unwrap().to_ne_bytes();
    let data = [&[1, 0, 0, 0], &size[..], &size, &words[..]].concat();
    let at = |ms: u64| Timestamp(1_700_000_000_000_000_000 + ms * 1_000_000);
    vec![
        Record { cut: true, ..Record::bare(1, at(0), RecordKind::Payload, payload) },
        Record::bare(2, at(1), RecordKind::Data, data),
    ]
}

#[test]
fn a_message_out_of_a_call_is_a_packet_for_others_and_counts_once() {
    let bytes = file(&minor_1(), PLAIN);
    let mut frames = tracer::source::pcap::open(Box::new(std::io::Cursor::new(bytes))).unwrap();
    let frame = frames.find_map(|r| r.ok().filter(|r| r.kind == RecordKind::Packet)).unwrap();
    assert!(frame.cut && frame.at == minor_1()[0].at, "others see it at its time, and cut");
    let output = tests::run(&replay(&[file(&minor_1(), PLAIN)]).0);
    assert_eq!(output.lines("summary")[0]["events"], 2);
}

/// Makes `captures/v1.1.pcapng`; only ever run before that version was released.
#[test]
#[ignore = "writes the fixture"]
fn make_the_fixture() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    fs::write(dir.join("v1.1.pcapng"), file(&minor_1(), PLAIN)).unwrap();
}
