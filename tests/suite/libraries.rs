//! Real resolver libraries in the lab, all at once in one pod: each one's lookups, its library, and
//! the times it measured itself. A client that cannot be had here is skipped by name.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use serde_json::Value;
use tests::{binary, lines};
use xtask::lab::clients::{self, CLIENTS, Client};
use xtask::lab::incidents;
use xtask::skips;

use crate::lab::{PATIENCE, attached, lab_for};

const NAME: &str = "backend.critical-app.svc.cluster.local";

/// The library that answers to a client's calls.
fn library(client: &str) -> &'static str {
    match client {
        "musl" => "musl",
        "go" => "go",
        "c-ares" | "node-resolve" => "c-ares",
        _ => "glibc",
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
    let capture = std::env::var("KEEP").map_or(capture, |folder| format!("{folder}/{incident}.pcapng.zst").into());
    let mut args = vec!["--pod", "client", "-n", "critical-app", "-o", "json", "--force"];
    args.extend(["-w", capture.to_str().unwrap()]);
    let trace = attached(&args);
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
    let lines = lines(&traced.stdout);
    let mut by_pid: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for line in lines.iter().filter(|line| line["type"] == "lookup") {
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

fn show(ran: &Ran) {
    println!("== {}\n{}", ran.client.name, ran.stdout);
    for l in &ran.lookups {
        println!("  {} {} lib={} {}ms src={}", l["name"], l["outcome"], l["resolver_library"], l["duration_ns"].as_u64().unwrap() as f64 / 1e6, l["search_source"]);
        for a in l["attempts"].as_array().unwrap() {
            println!("     {} {} {}", a["name"], a["outcome"], a["start_ns"]);
            for t in a["transactions"].as_array().unwrap() {
                println!("        {} {} {} try{} re{} {}", t["client"], t["qtype"], t["rcode"], t["try"], t["retransmits"], t["outcome"]);
            }
        }
    }
}

#[test]
fn each_library_in_health() {
    let names = [NAME, "backend", "www.example.com", "no-such.critical-app.svc.cluster.local."];
    let Some((ran, _lines)) = run("libraries::each_library_in_health", "nxdomain", &names) else { return };
    for ran in &ran { show(ran); let _ = library(ran.client.name); }
}

#[test]
fn each_library_with_a_silent_upstream() {
    let Some((ran, _lines)) = run("libraries::each_library_with_a_silent_upstream", "search-timeout", &[NAME]) else { return };
    for ran in &ran { show(ran); }
}
