//! `--redact names`: what is concluded stays, what is named goes, and what is printed is what is
//! written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;
use tests::capture::{file, replay};
use tests::{binary, lines};
use tracer::capture::Options;
use tracer::record::Record;
use tracer::redact::{Redactor, Shared};

use crate::scenarios;

const PLAIN: Options = Options { compress: false, rotate_bytes: None, rotate_ns: None };
const INCIDENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/incident.pcapng.zst");

/// Fields whose text is the program's own, not a name.
const OWN: [&str; 24] = [
    "type",
    "ts",
    "kind",
    "code",
    "severity",
    "confidence",
    "result",
    "rcode",
    "qtype",
    "rtype",
    "library",
    "direction",
    "protocol",
    "role",
    "transport",
    "errno",
    "stage",
    "search_source",
    "first_ts",
    "last_ts",
    "start",
    "end",
    "server",
    "outcome",
];

fn redacted(records: &[Record]) -> Vec<Record> {
    let mut redactor = Redactor::new(b"a key of a test");
    let redacted = records.iter().map(|record| redactor.record(record)).collect();
    assert_eq!(redactor.shared(), Shared::default());
    redacted
}

/// The structure, the figures and the program's own words; texts that may hold names are only there.
fn shape(value: &Value) -> Value {
    match value {
        Value::String(_) => "text".into(),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                let own = OWN.contains(&key.as_str()) && value.is_string();
                let dropped = key == "labels";
                let value = match (own, dropped) {
                    (true, _) => value.clone(),
                    (_, true) => Value::Null,
                    _ => shape(value),
                };
                (key.clone(), value)
            };
            Value::Object(fields.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

fn same_shape(name: &str, before: &str, after: &str) {
    let (before, after) = (lines(before), lines(after));
    assert_eq!(before.len(), after.len(), "{name}");
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(shape(before), shape(after), "{name}\n{before}\n{after}");
    }
}

/// Everything in JSON lines that names somebody, in lower case, in pieces.
fn names(json: &str, found: &mut BTreeSet<String>) {
    const NAMING: [&str; 14] = [
        "namespace",
        "pod",
        "container",
        "node",
        "owner",
        "comm",
        "question",
        "name",
        "typed",
        "hostname",
        "suffix",
        "filename",
        "dns_searches",
        "exe",
    ];
    fn texts(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::String(text) => {
                let pieces = text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'));
                found.extend(pieces.map(str::to_lowercase));
            }
            Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
            _ => {}
        }
    }
    fn walk(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
            Value::Object(fields) => {
                for (key, value) in fields {
                    if NAMING.contains(&key.as_str()) {
                        texts(value, found);
                    }
                    walk(value, found);
                }
            }
            _ => {}
        }
    }
    lines(json).iter().for_each(|line| walk(line, found));
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()))
}

#[test]
fn every_scenario_is_concluded_as_before() {
    for (name, records) in scenarios::all() {
        let redacted = redacted(&records);
        let (before, after) = (tests::run(&records), tests::run(&redacted));
        same_shape(name, &before.json, &after.json);
        assert_eq!(before.verdict, after.verdict, "{name}");
        let (read, error) = replay(&[file(&redacted, PLAIN)]);
        assert!(error.is_none(), "{name}: {error:?}");
        assert_eq!(tests::run(&read).json, after.json, "{name}");
    }
}

#[test]
fn no_name_of_a_scenario_is_in_its_file() {
    let mut secrets = 0;
    for (name, records) in scenarios::all() {
        let mut found = BTreeSet::new();
        names(&tests::run(&records).json, &mut found);
        let (open, bytes) = (file(&records, PLAIN), file(&redacted(&records), PLAIN));
        let written: Vec<_> = found.iter().filter(|name| is_secret(name)).collect();
        secrets += written.iter().filter(|name| holds(&open, name)).count();
        for secret in written {
            assert!(!holds(&bytes, secret), "{name}: {secret}");
        }
    }
    assert!(secrets > 20, "{secrets} names were looked for");
}

/// Long enough not to be there by chance, and not one that is documented to stay.
fn is_secret(name: &str) -> bool {
    const PUBLIC: [&str; 16] = [
        "cluster",
        "local",
        "localdomain",
        "kube-system",
        "coredns",
        "kube-dns",
        "kubernetes",
        "resolv",
        "default",
        "container",
        "metrics",
        "example",
        "dns-tcp",
        "dnsmasq",
        "https",
        "sleep",
    ];
    name.len() >= 5 && !PUBLIC.contains(&name) && name.bytes().any(|b| b.is_ascii_alphabetic())
}

#[test]
fn names_stay_tied_to_each_other() {
    let records = scenarios::story(true);
    let (before, after) = (tests::run(&records), tests::run(&redacted(&records)));
    let (mut pairs, mut seen) = (BTreeMap::new(), 0);
    let label = |line: &Value, field: &str| {
        line["identity"][field].as_str().map(str::to_owned).unwrap_or_default()
    };
    for (before, after) in before.lines("lookup").iter().zip(after.lines("lookup")) {
        for field in ["namespace", "pod", "node"] {
            let known = pairs.entry(label(before, field)).or_insert_with(|| label(&after, field));
            assert_eq!(*known, label(&after, field));
        }
        let name = after["name"].as_str().unwrap();
        if before["name"] == "backend.critical-app.svc.cluster.local" {
            seen += 1;
            assert_eq!(name.split('.').nth(1), pairs.get("critical-app").map(String::as_str));
        }
        let search: Vec<_> = after["search"].as_array().unwrap().iter().collect();
        for attempt in after["attempts"].as_array().unwrap() {
            let rest = attempt["name"].as_str().unwrap().strip_prefix(name).unwrap();
            assert!(rest.is_empty() || search.iter().any(|suffix| **suffix == rest[1..]), "{rest}");
        }
    }
    assert!(seen > 0);
    let distinct: BTreeSet<_> = pairs.values().collect();
    assert_eq!(distinct.len(), pairs.len(), "{pairs:?}");
    assert!(pairs.get("critical-app").is_some_and(|name| name != "critical-app"), "{pairs:?}");
}

#[test]
fn the_recorded_incident_is_shared_without_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let key = path("key");
    fs::write(&key, [7; 32]).unwrap();
    let json = |words: &[&str]| {
        let output = binary::run(&[words, &["-o", "json", "--events"]].concat());
        assert!(output.status.success(), "{words:?}: {}", binary::stderr(&output));
        (binary::stdout(&output), binary::stderr(&output))
    };
    let (one, two) = (path("one.pcapng"), path("two.pcapng"));
    let (before, silent) = json(&["-r", INCIDENT]);
    let redact = ["-r", INCIDENT, "--redact", "names", "--redact-key", &key, "-w"];
    let (printed, told) = json(&[&redact[..], &[&one]].concat());
    let (again, _) = json(&[&redact[..], &[&two]].concat());
    assert!(silent.is_empty() && told.contains("addresses"), "{told}");
    assert_eq!(printed, again);
    assert_eq!(fs::read(&one).unwrap(), fs::read(&two).unwrap());
    assert_eq!(json(&["-r", &one]).0, printed, "what is written replays to what was printed");
    same_shape("incident", &before, &printed);
    let mut found = BTreeSet::new();
    names(&before, &mut found);
    let bytes = fs::read(&one).unwrap();
    let secrets: Vec<_> = found.iter().filter(|name| is_secret(name)).collect();
    let there: Vec<_> = secrets.iter().filter(|name| holds(&bytes, name)).collect();
    assert!(secrets.len() > 5, "{secrets:?}");
    assert!(there.is_empty(), "{there:?}");
    let other = json(&["-r", INCIDENT, "--redact", "names", "-q"]);
    assert!(other.0 != printed && other.1.is_empty(), "a new key each time");
}

#[test]
fn keys_that_are_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (short, out) = (path("short"), path("out.pcapng"));
    fs::write(&short, "guess").unwrap();
    for key in [short, path("missing"), dir.path().to_str().unwrap().to_owned()] {
        let words = ["-r", INCIDENT, "-w", &out, "--redact", "names", "--redact-key", &key];
        let output = binary::run(&words);
        assert_eq!(output.status.code(), Some(2), "{key}");
        assert!(!fs::exists(&out).unwrap(), "{key}");
    }
    let output = binary::run(&["-r", INCIDENT, "--redact-key", "x"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn tshark_finds_nothing_wrong() {
    let tshark = |words: &[&str]| Command::new("tshark").args(words).output();
    if tshark(&["--version"]).is_err() {
        return xtask::skips::note("redact::tshark_finds_nothing_wrong", "no tshark");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("redacted.pcapng");
    let path = path.to_str().unwrap();
    let output = binary::run(&["-r", INCIDENT, "-w", path, "--redact", "names"]);
    assert!(output.status.success(), "{}", binary::stderr(&output));
    let count_with = |more: &[&str], file: &str, filter: &str| {
        let output = tshark(&[&["-r", file, "-Y", filter], more].concat()).unwrap();
        let errors = binary::stderr(&output);
        let errors: Vec<_> =
            errors.lines().filter(|line| !line.starts_with("Running as")).collect();
        assert!(output.status.success() && errors.is_empty(), "{errors:?}");
        binary::stdout(&output).lines().count()
    };
    let count = |file: &str, filter: &str| count_with(&[], file, filter);
    let wrong = "_ws.malformed || _ws.expert.severity == \"Error\"";
    let bad_sums = "udp.checksum.status == 0 || tcp.checksum.status == 0";
    assert!(count(path, "dns") > 0);
    assert_eq!(count(path, wrong), 0);
    let plain = dir.path().join("plain.pcapng");
    let plain = plain.to_str().unwrap();
    assert!(binary::run(&["-r", INCIDENT, "-w", plain]).status.success());
    assert_eq!(count(plain, "dns"), count(path, "dns"));
    let sums = ["-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"];
    let bad = |file: &str| count_with(&sums, file, bad_sums);
    assert_eq!(bad(plain), bad(path), "checksums are as right as before");
}
