//! Real resolver libraries in the lab, all at once in one pod: each one's lookups, its library, and
//! the times it measured itself. A client that cannot be had here is skipped by name.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use serde_json::Value;
use tests::{binary, lines, of_type};
use xtask::lab::clients::{self, CLIENTS, Client};
use xtask::lab::incidents;
use xtask::skips;

use crate::lab::{PATIENCE, attached, lab_for};

const NAME: &str = "backend.critical-app.svc.cluster.local";

/// The library behind a client's calls, where its habits tell: Node's c-ares asks without EDNS, and
/// without a search list there is no walk to know it by.
fn library(client: &str) -> Value {
    match client {
        "musl" => "musl".into(),
        "go" => "go".into(),
        "c-ares" => "c-ares".into(),
        "node-resolve" => Value::Null,
        _ => "glibc".into(),
    }
}

/// A client's process: what it printed and the lookups that svctrace saw of it.
struct Ran {
    client: Client,
    stdout: String,
    lookups: Vec<Value>,
}

/// Every client to be had asks for `names` at the same time.
fn run(test: &str, incident: &str, names: &[&str]) -> Option<(Vec<Ran>, Vec<Value>)> {
    let _guard = lab_for(test)?;
    let mut ready: Vec<Client> = Vec::new();
    for name in CLIENTS {
        match clients::prepare(name) {
            Ok(client) => ready.push(client),
            Err(why) => skips::note(&format!("{test}, client {name}"), &format!("{why:#}")),
        }
    }
    let lab = incidents::find(incident).unwrap().set_up().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let capture = scratch.path().join("live.pcapng.zst");
    let (pod, record) = (["--pod", "client", "-n", "critical-app"], capture.to_str().unwrap());
    let trace = attached(&[&pod[..], &["-o", "json", "-w", record]].concat());
    let start = |client: Client| -> (Client, Child) {
        let mut command = lab.command(lab.pod("client").unwrap(), &client.words[0]).unwrap();
        command.args(&client.words[1..]).args(names);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        (client, command.spawn().unwrap())
    };
    let running: Vec<(Client, Child)> = ready.into_iter().map(start).collect();
    let ended: Vec<(Client, u32, String)> = running
        .into_iter()
        .map(|(client, child)| {
            let pid = child.id();
            (client, pid, binary::stdout(&child.wait_with_output().unwrap()))
        })
        .collect();
    let traced = trace.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    let replay = binary::run(&["-r", record, "-o", "json"]);
    assert_eq!(binary::stdout(&replay), traced.stdout, "the replay equals the live run");
    let lines = lines(&traced.stdout);
    let mut by_pid: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for line in of_type(&lines, "lookup") {
        by_pid.entry(line["identity"]["pid"].as_u64().unwrap()).or_default().push(line.clone());
    }
    let ran = ended.into_iter().map(|(client, pid, stdout)| {
        let lookups = by_pid.remove(&u64::from(pid)).unwrap_or_default();
        Ran { client, stdout, lookups }
    });
    let ran: Vec<Ran> = ran.collect();
    assert!(by_pid.is_empty(), "nobody's lookups: {by_pid:?}");
    Some((ran, lines))
}

impl Ran {
    /// Its lookups are those it made, in order, by its library; `names` as given to it.
    fn is_told(&self, names: &[&str]) {
        let all = format!("{}: {}\n{:#?}", self.client.name, self.stdout, self.lookups);
        assert_eq!(self.lookups.len(), names.len(), "{all}");
        for (lookup, line) in self.lookups.iter().zip(self.stdout.lines()) {
            assert_eq!(lookup["outcome"] == "answered", !line.contains("error="), "{all}");
            assert_eq!(lookup["resolver_library"], library(self.client.name), "{all}");
            let asked = lookup["attempts"][0]["name"].as_str().unwrap();
            let name = line.split(' ').next().unwrap().trim_end_matches('.');
            assert!(asked.starts_with(name), "{all}");
        }
    }

    fn suffixes(&self, lookup: usize) -> usize {
        let attempts = self.lookups[lookup]["attempts"].as_array().unwrap();
        attempts.iter().filter(|attempt| !attempt["suffix"].is_null()).count()
    }
}

#[test]
fn each_library_in_health() {
    // (c-ares keeps answers: no candidate of one name is another's.)
    let names =
        [NAME, "kubernetes.default", "www.example.com", "no-such.critical-app.svc.cluster.local."];
    let Some((ran, lines)) = run("libraries::each_library_in_health", "nxdomain", &names) else {
        return;
    };
    for ran in &ran {
        ran.is_told(&names);
        let alone = ran.client.name == "node-resolve";
        assert_eq!([ran.suffixes(0), ran.suffixes(2)], if alone { [0; 2] } else { [3; 2] });
        assert_eq!(ran.lookups[2]["name"], "www.example.com");
        // Node's own resolver asks for names as they are.
        assert_eq!(ran.lookups[2]["search_source"].is_null(), alone, "{}", ran.lookups[2]);
    }
    let findings = of_type(&lines, "finding");
    assert!(findings.iter().all(|finding| finding["code"] == "nxdomain"), "{findings:?}");
}

/// What each library makes of a suffix whose answers never come, told in seconds and in words.
#[test]
fn each_library_with_a_silent_upstream() {
    let test = "libraries::each_library_with_a_silent_upstream";
    let Some((ran, lines)) = run(test, "search-timeout", &[NAME]) else { return };
    for ran in &ran {
        ran.is_told(&[NAME]);
        let suffixes = if ran.client.name == "node-resolve" { 0 } else { 4 };
        assert_eq!(ran.suffixes(0), suffixes, "{}: {:#?}", ran.client.name, ran.lookups);
        let took = Client::took(NAME, &ran.stdout).unwrap();
        let seen = ran.lookups[0]["duration_ns"].as_u64().unwrap() as f64 / 1e9;
        let slack = (0.05 * took).max(0.1); // Java and Node start their threads first
        assert!((took - seen).abs() < slack, "{}: {seen} s, not {took} s", ran.client.name);
    }
    let findings = of_type(&lines, "finding").into_iter();
    // Those that gave up long before the others may have been told first.
    let silences: Vec<_> = findings.filter(|line| line["code"] == "upstream-timeout").collect();
    let clients: Vec<_> =
        silences.iter().filter_map(|s| s["details"]["clients"].as_array()).flatten().collect();
    for ran in ran.iter().filter(|ran| ran.client.name != "node-resolve") {
        let its = clients.iter().find(|c| c["lookup"] == ran.lookups[0]["id"]).unwrap();
        assert_eq!(its["patience"]["resolver_library"], library(ran.client.name), "{its}");
    }
    let cause: String = silences.iter().filter_map(|s| s["cause"].as_str()).collect();
    if ran.iter().any(|ran| ran.client.name == "glibc") {
        assert!(
            cause.contains("glibc gives up after 2 tries of 5.00 s; after a silent"),
            "{cause}"
        );
    }
}
