//! Captures of several nodes, read together: one stream, whose ids belong to their hosts.

use std::fs;

use bytes::Bytes;
use serde_json::Value;
use tests::capture::{file, replay, ring};
use tests::{Output, binary, lines};
use tracer::capture::Options;
use tracer::record::{HostId, Record, RecordKind, Timestamp};
use tracer::redact::Redactor;

use crate::scenarios;

const PLAIN: Options = Options { compress: false, rotate_bytes: None, rotate_ns: None };

fn merged(recordings: &[Vec<Record>]) -> Vec<Record> {
    let files: Vec<_> = recordings.iter().map(|records| file(records, PLAIN)).collect();
    let (read, error) = replay(&files);
    assert!(error.is_none(), "{error:?}");
    let ordered = |pair: &[Record]| pair[0].number < pair[1].number && pair[0].at <= pair[1].at;
    assert!(read.windows(2).all(ordered));
    read
}

fn root(output: &Output) -> Value {
    let roots = output.lines("finding").into_iter().filter(|f| f["code"] == "upstream-timeout");
    let roots: Vec<_> = roots.collect();
    assert_eq!(roots.len(), 1, "{}", output.json);
    roots[0].clone()
}

/// The same records as another node with another pod would tell them, all ids alike, a little later.
fn another(records: Vec<Record>) -> Vec<Record> {
    let words = [
        ("\"0f\"", "\"1e\""),
        ("node-1", "node-2"),
        ("000000000001", "000000000009"),
        ("client", "klient"),
    ];
    let told = |record: Record| {
        let record = Record { at: record.at.plus(30_000), ..record };
        if !record.kind.is_context() || record.kind == RecordKind::Heartbeat {
            return record;
        }
        let mut body = String::from_utf8(record.body.to_vec()).unwrap();
        for (from, to) in words {
            body = body.replace(from, to);
        }
        Record { body: Bytes::from(body), ..record }
    };
    records.into_iter().map(told).collect()
}

#[test]
fn a_resolver_on_another_node_makes_the_finding_certain() {
    let client = scenarios::client_node();
    let alone = root(&tests::run_default(&client));
    assert_eq!(alone["confidence"], "inferred");
    for ahead in [-50.0, -20.0, -1.0, 0.0, 1.0, 20.0, 50.0] {
        let records = merged(&[client.clone(), scenarios::resolver_node(ahead)]);
        let output = tests::run_default(&records);
        let found = root(&output);
        assert_eq!(found["confidence"], "certain", "{ahead} ms: {found}");
        assert_eq!(found["subject"], "10.99.0.53:53", "{ahead} ms: {found}");
        assert_eq!(found["details"]["tries"].as_array().unwrap().len(), 4, "{ahead} ms: {found}");
        let (cost, expected) = (found["cost_ns"].as_u64().unwrap(), alone["cost_ns"].as_u64());
        assert!(cost.abs_diff(expected.unwrap()) < 10_000_000, "{ahead} ms: {cost}");
        assert_eq!(output.codes(), tests::run_default(&client).codes(), "{ahead} ms");
        let resolver = &found["details"]["resolver"];
        assert_eq!((&resolver["pod"], &resolver["host"]), (&"coredns-1".into(), &"node-2".into()));
        for lookup in output.lines("lookup") {
            let who = &lookup["identity"];
            assert_eq!((&who["pod"], &who["host"]), (&"client".into(), &"node-1".into()));
        }
        assert_eq!(output.lines("summary")[0]["unmatched_responses"], 0, "{ahead} ms");
    }
}

#[test]
fn an_upstream_that_answered_is_not_silent_by_another_clock() {
    for ahead in [-50.0, -1.0, 0.0, 1.0, 20.0, 50.0] {
        let records = merged(&[scenarios::patient_node(), scenarios::slow_node(ahead)]);
        let output = tests::run_default(&records);
        assert_eq!(output.lines("lookup").len(), 1, "{}", output.json);
        assert_eq!(output.codes(), ["slow-dns"], "{ahead} ms: {}", output.json);
        assert_eq!(output.lines("finding")[0]["class"], "upstream", "{ahead} ms: {}", output.json);
    }
}

#[test]
fn clocks_too_far_apart_leave_it_inferred() {
    let records = merged(&[scenarios::client_node(), scenarios::resolver_node(-700.0)]);
    assert_eq!(root(&tests::run_default(&records))["confidence"], "inferred");
}

#[test]
fn the_order_of_the_files_does_not_matter() {
    let recordings = [scenarios::client_node(), scenarios::resolver_node(3.0)];
    let mut turned = recordings.clone();
    turned.reverse();
    assert_eq!(merged(&recordings), merged(&turned));
}

#[test]
fn rings_of_several_nodes_are_merged() {
    let recordings = [scenarios::client_node(), scenarios::resolver_node(3.0)];
    let options = Options { rotate_ns: Some(3_000_000_000), ..PLAIN };
    let mut files: Vec<_> = recordings.iter().flat_map(|r| ring(r, 10, options)).collect();
    files.retain(|file| !file.is_empty());
    assert!(files.len() > 8, "{}", files.len());
    files.reverse();
    let (read, error) = replay(&files);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(read, merged(&recordings));
}

#[test]
fn a_merged_capture_is_the_same_stream_in_one_file_or_a_ring() {
    let records = merged(&[scenarios::client_node(), scenarios::resolver_node(3.0)]);
    assert!(records.iter().any(|record| record.host == HostId(1)));
    let live = tests::run(&records);
    let bytes = file(&records, PLAIN);
    let (read, error) = replay(std::slice::from_ref(&bytes));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(read, records);
    assert_eq!(tests::run(&read).json, live.json);
    assert_eq!(file(&read, PLAIN), bytes);
    // A later file of a ring stands alone, with both hosts' facts under their own ids.
    let mut files = ring(&records, 10, Options { rotate_ns: Some(3_000_000_000), ..PLAIN });
    files.retain(|file| !file.is_empty());
    let (read, error) = replay(&files[1..]);
    assert!(error.is_none(), "{error:?}");
    let found = root(&tests::run_default(&read));
    assert_eq!(
        (&found["confidence"], &found["identity"]["pod"]),
        (&"certain".into(), &"client".into())
    );
    // And it merges with a third.
    let third = file(&another(another(scenarios::healthy())), PLAIN);
    let (read, _) = replay(&[bytes, third]);
    let found = root(&tests::run_default(&read));
    assert_eq!(found["confidence"], "certain");
}

#[test]
fn ids_that_collide_are_those_of_their_hosts() {
    for (name, records) in scenarios::all() {
        if name == "stranger" || name == "loss" {
            continue; // nobody in particular
        }
        let nodes = [records.clone(), another(records)];
        let output = tests::run(&merged(&nodes));
        for (node, pod, host) in [(&nodes[0], "client", "node-1"), (&nodes[1], "klient", "node-2")]
        {
            let alone = tests::run(node);
            for kind in ["lookup", "connection", "transaction"] {
                let plain = |mut line: Value| {
                    for key in ["id", "events", "attempts"] {
                        line[key] = Value::Null;
                    }
                    line["identity"]["host"] = Value::Null;
                    for about in ["unheard", "icmp"] {
                        if let Some(event) = line[about].get_mut("event") {
                            *event = Value::Null;
                        }
                    }
                    line
                };
                let of_pod = |line: &Value| line["identity"]["pod"] == pod;
                let expected: Vec<_> = alone.lines(kind).into_iter().map(plain).collect();
                let told: Vec<_> = output.lines(kind).into_iter().filter(of_pod).collect();
                assert!(told.iter().all(|line| line["identity"]["host"] == host), "{name}");
                assert_eq!(told.into_iter().map(plain).collect::<Vec<_>>(), expected, "{name}");
            }
        }
        let unmatched =
            |output: &Output| output.lines("summary")[0]["unmatched_responses"].as_u64().unwrap();
        let alone: u64 = nodes.iter().map(|node| unmatched(&tests::run(node))).sum();
        assert_eq!(unmatched(&output), alone, "{name}");
    }
}

#[test]
fn recordings_of_one_host_share_its_ids() {
    let whole = scenarios::story(true);
    let resolver = |r: &Record| matches!(r.cookie, Some(900 | 950 | 951));
    let host = |r: &Record| r.kind == RecordKind::Host;
    let (first, second): (Vec<_>, Vec<_>) = (
        whole.iter().filter(|r| !resolver(r)).cloned().collect(),
        whole.iter().filter(|r| resolver(r) || host(r)).cloned().collect(),
    );
    let second = second.into_iter().map(|mut r| {
        r.at = r.at.plus(u64::from(host(&r))); // another recording
        r
    });
    let records = merged(&[first, second.collect()]);
    assert!(records.iter().all(|record| record.host == HostId(0)));
    let output = tests::run_default(&records);
    assert_eq!(root(&output)["confidence"], "certain");
    assert!(!output.json.contains("\"host\":\"node"), "{}", output.json);
}

#[test]
fn what_is_open_when_its_recording_ends_is_undecided() {
    let mut client = scenarios::client_node();
    let first = client[0].at;
    client.retain(|record| record.at.since(first) < 3_000_000_000);
    let output = tests::run_default(&merged(&[client, scenarios::resolver_node(0.0)]));
    assert_eq!(output.lines("lookup")[0]["outcome"], "undecided", "{}", output.json);
    assert_eq!(output.codes(), Vec::<String>::new());
    // The resolver's recording ends at once: nothing is known of what it did.
    let mut resolver = scenarios::resolver_node(0.0);
    resolver.retain(|record| record.at.0 < first.0 + 500_000_000);
    let output = tests::run_default(&merged(&[scenarios::client_node(), resolver]));
    assert_eq!(root(&output)["confidence"], "inferred", "{}", output.json);
}

/// One of format 1.1, kept forever.
#[test]
fn an_old_merged_capture_still_reads() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/captures/v1.1-hosts.pcapng");
    let (read, error) = replay(&[fs::read(path).unwrap()]);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(read, merged(&[scenarios::patient_node(), scenarios::slow_node(3.0)]));
}

/// Makes it; only ever run before the format was released.
#[test]
#[ignore = "writes the fixture"]
fn make_the_fixture() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/captures/v1.1-hosts.pcapng");
    let records = merged(&[scenarios::patient_node(), scenarios::slow_node(3.0)]);
    fs::write(path, file(&records, PLAIN)).unwrap();
}

/// Hosts may begin in the same nanosecond; a recording and its redacted copy always do.
#[test]
fn one_first_instant_does_not_make_one_recording() {
    let client = scenarios::client_node();
    let other = another(client.clone()).into_iter();
    let other = other.map(|r| Record { at: Timestamp(r.at.0 - 30_000), ..r }).collect::<Vec<_>>();
    assert_eq!(client[0].at, other[0].at);
    let records = merged(&[client.clone(), other.clone()]);
    let of = |host: u16| records.iter().filter(|r| r.host == HostId(host)).count();
    assert!(of(0) >= client.len() && of(1) >= other.len(), "{} {}", of(0), of(1));
    let options = Options { rotate_ns: Some(3_000_000_000), ..PLAIN };
    let mut files: Vec<_> =
        [&other, &client].into_iter().flat_map(|r| ring(r, 10, options)).collect();
    files.retain(|file| !file.is_empty());
    assert_eq!(replay(&files).0, records);
    // The same file twice is one; so is one of which the end is missing.
    let whole = file(&client, PLAIN);
    for half in [whole.clone(), whole[..whole.len() / 2].to_vec()] {
        let (read, error) = replay(&[half, whole.clone()]);
        assert_eq!((read.as_slice(), error.is_none()), (client.as_slice(), true));
    }
    let mut redactor = Redactor::new(b"key");
    let redacted: Vec<_> = client.iter().map(|record| redactor.record(record)).collect();
    let (read, error) = replay(&[whole, file(&redacted, PLAIN)]);
    assert!(read.is_empty() && error.unwrap().to_string().contains("differently"));
}

// The program.

#[test]
fn the_program_merges_converts_and_tells() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (a, b, c) = (path("a.pcapng"), path("b.pcapng.zst"), path("c.pcapng"));
    fs::write(&a, file(&scenarios::client_node(), PLAIN)).unwrap();
    let zstd = Options { compress: true, ..PLAIN };
    fs::write(&b, file(&scenarios::resolver_node(3.0), zstd)).unwrap();
    let both = binary::run(&["-r", &a, "-r", &b, "-w", &c, "-o", "json", "--events"]);
    assert_eq!((both.status.code(), binary::stderr(&both).as_str()), (Some(0), ""));
    let turned = binary::run(&["-r", &b, "-r", &a, "-o", "json", "--events"]);
    assert_eq!(binary::stdout(&turned), binary::stdout(&both));
    let again = binary::run(&["-r", &c, "-o", "json", "--events"]);
    assert_eq!(binary::stdout(&again), binary::stdout(&both));
    let text = binary::run(&["-r", &c]);
    assert!(binary::stdout(&text).contains("upstream-timeout"), "{}", binary::stdout(&text));
    let info = binary::stdout(&binary::run(&["info", &b, &a, &c]));
    for word in ["node-1", "node-2", "recording "] {
        assert!(info.contains(word), "{word}: {info}");
    }
}

#[test]
fn a_missing_tail_of_one_is_told_with_its_name() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (a, b) = (path("a.pcapng"), path("b.pcapng"));
    let whole = file(&scenarios::client_node(), PLAIN);
    fs::write(&a, &whole[..whole.len() - 40]).unwrap();
    fs::write(&b, file(&scenarios::resolver_node(3.0), PLAIN)).unwrap();
    let output = binary::run(&["-r", &a, "-r", &b, "-o", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let told = binary::stderr(&output);
    assert!(told.starts_with(&format!("svctrace: {a}: at byte")), "{told}");
    assert!(told.contains("tail is missing") && told.lines().count() == 1, "{told}");
    let lines = lines(&binary::stdout(&output));
    assert!(lines.iter().any(|line| line["code"] == "upstream-timeout"));
    assert_eq!(lines.last().unwrap()["type"], "summary");
    let pcap = path("other.pcap");
    fs::write(&pcap, [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let output = binary::run(&["-r", &b, "-r", &pcap]);
    assert_eq!(output.status.code(), Some(2));
    let told = binary::stderr(&output);
    assert!(told.contains("other.pcap") && told.contains("only captures of svctrace"), "{told}");
}
