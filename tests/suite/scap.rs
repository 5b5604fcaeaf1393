//! The capture that started the project, against sysdig itself. It is not ours to ship: the tests
//! say that they were skipped where the file (`SVCTRACE_SCAP`, or `../shared/captures` beside the
//! repository) or sysdig is not there.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tests::{Output, run, run_default};
use tracer::record::Record;
use tracer::source::scap;

/// What sysdig is asked for, one event a line.
const FORMAT: &str = "*%evt.num|%evt.rawtime|%evt.cpu|%evt.dir|%evt.type|%thread.tid|%container.id|%evt.rawres|%evt.arg.tuple|%proc.name";
/// The day of the capture, Unix seconds.
const MIDNIGHT: u64 = 1_481_155_200;
/// Events of the capture, all kinds.
const EVENTS: u64 = 146_038;

fn capture() -> Option<PathBuf> {
    let default = || {
        let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        root.join("../shared/captures/critical-app.scap")
    };
    let path = std::env::var_os("SVCTRACE_SCAP").map_or_else(default, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED: no capture at {} (set SVCTRACE_SCAP)", path.display());
    None
}

fn records(path: &PathBuf) -> Vec<Record> {
    scap::open(Box::new(File::open(path).unwrap())).unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_capture_agrees_with_sysdig() {
    let Some(path) = capture() else { return };
    let Ok(theirs) = Command::new("sysdig").arg("-r").arg(&path).args(["-p", FORMAT]).output()
    else {
        eprintln!("SKIPPED: sysdig is not installed");
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
    let (mut compared, mut tuples, mut wrong) = (0, 0, Vec::new());
    for line in String::from_utf8_lossy(&theirs.stdout).lines() {
        let want: Vec<&str> = line.split('|').collect();
        let Some(got) = want[0].parse().ok().and_then(|n: u64| mine.get(&n)) else {
            wrong.push(format!("{line}: not there"));
            continue;
        };
        compared += 1;
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
    assert!(compared > 140_000 && tuples > 50);
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

fn lookup(output: &Output) -> Value {
    let lookups = output.lines("lookup");
    let one: Vec<_> = lookups.iter().filter(|l| l["identity"]["pod"] == "client").collect();
    assert_eq!(one.len(), 1);
    one[0].clone()
}

#[test]
fn the_capture_tells_the_story() {
    let Some(path) = capture() else { return };
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
