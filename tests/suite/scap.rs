//! The capture that started the project, against sysdig itself. It is not ours to ship: the tests
//! say that they were skipped where the file (`SVCTRACE_SCAP`, or `../shared/captures` beside the
//! repository) or sysdig is not there.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::{Output, binary, run, run_default};
use tracer::decode::Decoder;
use tracer::event::Body;
use tracer::record::{Record, RecordKind};
use tracer::source::scap;

/// What sysdig is asked for, one event a line.
const FORMAT: &str = "*%evt.num|%evt.rawtime|%evt.cpu|%evt.dir|%evt.type|%thread.tid|%container.id|%evt.rawres|%evt.arg.tuple|%proc.name";
/// The day of the capture, Unix seconds.
const MIDNIGHT: u64 = 1_481_155_200;
/// Events of the capture, all kinds.
const EVENTS: u64 = 146_038;
/// Those that sysdig prints. It keeps its own to itself: containers are swallowed when the file is
/// opened, Kubernetes' and the processes' accounts are of a category that only `-D` shows. They count
/// all the same, so the numbers of the others agree.
const PRINTED: u64 = 143_904;
const KEPT: [(&str, u64); 3] = [("container", 20), ("k8s", 25), ("procinfo", 2089)];

fn capture(test: &str) -> Option<PathBuf> {
    let default = || {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        root.join("../shared/captures/critical-app.scap")
    };
    let path = std::env::var_os("SVCTRACE_SCAP").map_or_else(default, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    let why = format!("no capture at {} (SVCTRACE_SCAP names another place)", path.display());
    xtask::skips::note(test, &why);
    None
}

fn records(path: &PathBuf) -> Vec<Record> {
    scap::open(Box::new(File::open(path).unwrap())).unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_capture_agrees_with_sysdig() {
    let Some(path) = capture("the_capture_agrees_with_sysdig") else { return };
    let Ok(theirs) = Command::new("sysdig").arg("-r").arg(&path).args(["-p", FORMAT]).output()
    else {
        xtask::skips::note("scap::the_capture_agrees_with_sysdig", "sysdig is not installed");
        return;
    };
    let ours = run(&records(&path));
    let mine: BTreeMap<u64, Value> = ours
        .json
        .lines()
        .filter(|line| line.contains("\"type\":\"event\""))
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| (line["n"].as_u64().unwrap(), line))
        .collect();
    assert_eq!(mine.len() as u64, EVENTS, "every event has one line");
    let mut kept = mine.clone();
    let (mut compared, mut tuples, mut wrong) = (0, 0, Vec::new());
    for line in String::from_utf8_lossy(&theirs.stdout).lines() {
        let want: Vec<&str> = line.split('|').collect();
        let Some(got) = want[0].parse().ok().and_then(|n: u64| mine.get(&n)) else {
            wrong.push(format!("{line}: not there"));
            continue;
        };
        compared += 1;
        kept.remove(&got["n"].as_u64().unwrap());
        let got = shown(got);
        for (index, (want, got)) in want.iter().zip(&got).enumerate() {
            // Of a thread before its own first event, or after its end, sysdig knows no container;
            // unix sockets have no addresses.
            let nothing = index == 6 && *want == "<NA>";
            // A call that sysdig has no name for; the kernel's number tells us.
            let nameless = index == 4 && *want == "<unknown>";
            let unix =
                index == 8 && (*want == "NULL" || want.contains("->") && want.contains("ffff8"));
            tuples += u64::from(index == 8 && got != "<NA>");
            if want != got && !nothing && !nameless && !unix {
                wrong.push(format!("{line}: we have {got} in place {index}"));
            }
        }
    }
    eprintln!("{compared} events compared, {tuples} tuples, {} mismatches", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong[..wrong.len().min(20)].join("\n"));
    assert_eq!(compared, PRINTED);
    assert!(tuples > 50);
    let mut kinds = BTreeMap::new();
    for line in kept.values() {
        *kinds.entry(line["kind"].as_str().unwrap()).or_default() += 1;
    }
    assert_eq!(kinds, BTreeMap::from(KEPT));
    assert_eq!(PRINTED + KEPT.iter().map(|(_, count)| count).sum::<u64>(), EVENTS);
}

/// Our line of an event in the words of sysdig's.
fn shown(line: &Value) -> [String; 10] {
    let text = |value: &Value| match value {
        Value::Null => "<NA>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let who = &line["identity"];
    let container = who["container_id"].as_str().map_or("host", |id| &id[..12]);
    let (day, time) = line["ts"].as_str().unwrap().split_once('T').unwrap();
    let part = |at: usize| time[at..at + 2].parse::<u64>().unwrap();
    assert_eq!(day, "2016-12-08");
    let seconds = MIDNIGHT + part(0) * 3600 + part(3) * 60 + part(6);
    [
        text(&line["n"]),
        format!("{seconds}{}", &time[9..18]),
        text(&line["cpu"]),
        if line["direction"] == "enter" { ">" } else { "<" }.to_owned(),
        text(&line["kind"]),
        who["tid"].as_u64().unwrap_or(0).to_string(),
        container.to_owned(),
        text(&line["result"]),
        text(&line["args"]["tuple"]).replace(['[', ']'], ""),
        text(&who["comm"]),
    ]
}

/// `svctrace -r` of the capture into a new file, its JSON, and what else was asked.
fn convert(path: &Path, into: &Path, more: &[&str]) -> String {
    let words = ["-r", path.to_str().unwrap(), "-w", into.to_str().unwrap(), "-o", "json"];
    let output = binary::run(&[&words, more].concat());
    assert_eq!(binary::stderr(&output), "");
    binary::stdout(&output)
}

#[test]
fn the_conversion_replays_and_keeps_only_what_it_should() {
    let Some(path) = capture("scap::the_conversion_replays_and_keeps_only_what_it_should") else {
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let (plain, kept) = (scratch.path().join("plain.pcapng"), scratch.path().join("kept.pcapng"));
    let original = convert(&path, &plain, &[]);
    convert(&path, &kept, &["--keep-payload"]);
    for file in [&plain, &kept] {
        let replay = binary::run(&["-r", file.to_str().unwrap(), "-o", "json"]);
        assert_eq!(binary::stderr(&replay), "");
        assert!(binary::stdout(&replay) == original, "{}", file.display());
    }
    let again = scratch.path().join("again.pcapng");
    convert(&kept, &again, &[]);
    let has = |file: &Path, text: &str| {
        let bytes = std::fs::read(file).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    for secret in ["GET / HTTP/1.1", "KUBERNETES_SERVICE_HOST="] {
        assert!(!has(&plain, secret) && !has(&again, secret), "{secret}");
    }
    assert!(has(&kept, "GET / HTTP/1.1"));
    assert!(!has(&kept, "KUBERNETES_SERVICE_HOST="), "environment is in no capture");
    let shown = binary::run(&["-r", kept.to_str().unwrap(), "--events", "-x"]);
    let shown = binary::stdout(&shown);
    for text in ["    arguments backend.critical-app.svc.cluster.local\n", "|GET / HTTP/1.1..|"] {
        assert!(shown.contains(text), "{text}");
    }
}

#[test]
fn the_conversion_shows_its_dns_in_wireshark() {
    let Some(path) = capture("scap::the_conversion_shows_its_dns_in_wireshark") else { return };
    let test = "scap::the_conversion_shows_its_dns_in_wireshark";
    if Command::new("tshark").arg("--version").output().is_err() {
        return xtask::skips::note(test, "no tshark");
    }
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("converted.pcapng");
    convert(&path, &file, &[]);
    let fields = ["frame.time_epoch", "frame.interface_name", "ip.dst", "dns.qry.name"];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&file).args(["-Y", "dns.flags.response == 0", "-T", "fields"]);
    tshark.args(fields.map(|field| ["-e", field]).concat());
    let output = tshark.output().unwrap();
    let warned = binary::stderr(&output);
    assert!(warned.lines().all(|line| line.starts_with("Running as user")), "{warned}");
    let seen = binary::stdout(&output);
    let sent: Vec<String> = records(&path)
        .iter()
        .filter(|record| record.kind == RecordKind::Payload)
        .filter_map(|record| {
            let mut events = Vec::new();
            Decoder::default().decode(&mut record.clone(), &mut events).unwrap();
            let Body::Dns(dns) = &events[0].body else { return None };
            let question = dns.message.question.as_ref().filter(|_| !dns.message.response)?;
            let at = record.at.0;
            Some(format!("{}.{:09}|{}", at / 1_000_000_000, at % 1_000_000_000, question.name))
        })
        .collect();
    let shown: Vec<String> = seen
        .lines()
        .map(|line| {
            let fields: Vec<_> = line.split('\t').collect();
            format!("{}|{}", fields[0], fields[3])
        })
        .collect();
    assert_eq!(shown, sent);
    let foreign =
        "critical-app/client\t10.0.2.15\tbackend.critical-app.svc.cluster.local.localdomain";
    assert!(seen.contains(foreign), "{seen}");
    assert!(
        seen.contains("\t8.8.8.8\tbackend.critical-app.svc.cluster.local.localdomain"),
        "{seen}"
    );
}

#[test]
fn the_report_has_all_of_it() {
    let Some(path) = capture("scap::the_report_has_all_of_it") else { return };
    let text = run_default(&records(&path)).text;
    for words in [
        "critical-app/client, curl[22369]",
        "The resolver (skydns (pid 4617)) received the question and forwarded it to 8.8.8.8:53",
        "tries each, silent for 4.0",
        "search suffix localdomain sends the cluster's names to 8.8.8.8:53, which cost 8.01 s",
        "│ nameserver 10.0.2.15",
        "│ options ndots:5",
        ".critical-app.svc.cluster.local  nxdomain      2.2 ms",
        ".svc.cluster.local               nxdomain      0.7 ms",
        ".cluster.local                   nxdomain      0.9 ms",
        ".localdomain                     servfail      8.01 s  asked again after 5.00 s",
        "as typed                         answered      1.4 ms",
        "svc/backend.critical-app:80",
        "10.3.0.214:80, to critical-app/backend-1440326531-csj02 172.17.0.5:80",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(text.matches("│ options ndots:5").count(), 1, "told once");
}

fn lookup(output: &Output) -> Value {
    let lookups = output.lines("lookup");
    let one: Vec<_> = lookups.iter().filter(|l| l["identity"]["pod"] == "client").collect();
    assert_eq!(one.len(), 1);
    one[0].clone()
}

#[test]
fn the_capture_tells_the_story() {
    let Some(path) = capture("the_capture_tells_the_story") else { return };
    let output = run_default(&records(&path));
    let lookup = lookup(&output);
    let who = &lookup["identity"];
    assert_eq!((&who["namespace"], &who["comm"]), (&"critical-app".into(), &"curl".into()));
    assert_eq!(lookup["name"], "backend.critical-app.svc.cluster.local");
    assert_eq!((&lookup["search_source"], &lookup["ndots"]), (&"resolv.conf".into(), &5.into()));
    let outcomes: Vec<(&str, &str)> = lookup["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| (a["suffix"].as_str().unwrap_or(""), a["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(
        outcomes,
        [
            ("critical-app.svc.cluster.local", "nxdomain"),
            ("svc.cluster.local", "nxdomain"),
            ("cluster.local", "nxdomain"),
            ("localdomain", "servfail"),
            ("", "answered"),
        ]
    );
    let foreign = &lookup["attempts"][3];
    assert_eq!(foreign["duration_ns"].as_u64().unwrap() / 1_000_000, 8_011);
    let asked = &foreign["transactions"][0];
    assert_eq!((&asked["recovered"], &asked["retransmits"]), (&true.into(), &1.into()));
    assert_eq!(asked["events"][0], 10_617, "the number of the sendmmsg");
    assert_eq!(output.lines("lookup").len(), 1, "what the resolver asks is no lookup");
    let mut codes = output.codes();
    codes.sort();
    assert_eq!(codes, ["dns-error", "foreign-suffix", "search-expansion", "upstream-timeout"]);
    let connections = output.lines("connection");
    let mine = connections.iter().find(|c| c["identity"]["pod"] == "client").unwrap();
    assert_eq!(mine["service"], "svc/backend.critical-app:80");
    assert_eq!(mine["backend"]["pod"], "critical-app/backend-1440326531-csj02");
    assert_eq!(output.lines("summary")[0]["events"], EVENTS);
}

/// What was cut, what was recovered, and the calls' own times, of the events as people read them.
#[test]
fn events_are_shown_as_sysdig_shows_them() {
    let Some(path) = capture("events_are_shown_as_sysdig_shows_them") else { return };
    let shown = |words: &[&str]| {
        let all = [&["-r", path.to_str().unwrap(), "--events"], words].concat();
        let output = binary::run(&all);
        assert_eq!(output.status.code(), Some(0));
        let text = binary::stdout(&output);
        text.lines().take_while(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    let filter = ["--filter", "n >= 10043 && n <= 10046"];
    for (letter, wanted) in [
        ("a", ["1481211699.536806064", "1481211699.536809721", "1481211699.536813152"]),
        ("d", ["0.000000000", "0.000000000", "0.000003431"]),
        ("D", ["0.000000000", "0.000003657", "0.000003431"]),
    ] {
        let lines = shown(&[&["-t", letter], &filter[..]].concat());
        assert_eq!(lines.len(), 4);
        for (line, time) in lines.iter().zip(wanted) {
            assert_eq!(line.split(' ').nth(1), Some(time), "-t {letter}: {line}");
        }
    }
    let told = shown(&["-x", "--filter", "n == 10617"]);
    let recovered: Vec<_> = told.iter().filter(|l| l.contains("recovered=true")).collect();
    assert_eq!(recovered.len(), 2, "{told:#?}");
    assert!(told.iter().any(|line| line.contains("0000  ")), "in hex: {told:#?}");
}
