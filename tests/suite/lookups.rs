//! Scenarios through the pipeline, and what svctrace makes of them. Wording is the golden files'
//! business, facts are checked here.

use serde_json::Value;
use tests::{Output, golden, run, run_default};

use crate::scenarios;

/// The only lookup of a run.
fn lookup(output: &Output) -> Value {
    let lookups = output.lines("lookup");
    assert_eq!(lookups.len(), 1, "{}", output.json);
    lookups[0].clone()
}

fn finding(output: &Output, code: &str) -> Value {
    let all = output.lines("finding");
    all.into_iter().find(|f| f["code"] == code).unwrap_or_else(|| panic!("{code}: {}", output.json))
}

#[test]
fn every_scenario_says_what_it_said() {
    for (name, records) in scenarios::all() {
        let output = run(&records);
        tests::lines(&output.json);
        golden::check(&format!("{name}.jsonl"), &output.json);
        golden::check(&format!("{name}.txt"), &run_default(&records).text);
    }
}

#[test]
fn the_same_records_give_the_same_bytes() {
    for (name, records) in scenarios::all() {
        assert_eq!(run(&records).json, run(&records).json, "{name}");
    }
}

#[test]
fn healthy_has_no_finding() {
    let output = run_default(&scenarios::healthy());
    assert_eq!(output.codes(), Vec::<String>::new());
    let lookup = lookup(&output);
    assert_eq!(lookup["outcome"], "answered");
    assert_eq!(lookup["name"], "backend.critical-app.svc.cluster.local");
    assert_eq!(lookup["identity"]["pod"], "client");
    assert_eq!(lookup["identity"]["pid"], 4711);
    assert_eq!(lookup["answers"][0], "10.96.7.7");
    assert_eq!(lookup["attempts"].as_array().unwrap().len(), 4);
    assert_eq!(lookup["wasted_queries"], 6);
    let connections = output.lines("connection");
    assert_eq!(connections.len(), 1, "{}", output.json);
    assert_eq!(connections[0]["outcome"], "established");
    assert_eq!(connections[0]["service"], "svc/backend.critical-app:80");
}

#[test]
fn the_story_is_one_block_with_its_root_first() {
    let output = run_default(&scenarios::story(true));
    let mut codes = output.codes();
    assert_eq!(codes.first().map(String::as_str), Some("upstream-timeout"), "{}", output.json);
    codes.sort();
    assert_eq!(codes, ["foreign-suffix", "search-expansion", "upstream-timeout"]);
    let root = finding(&output, "upstream-timeout");
    assert_eq!(root["confidence"], "certain");
    let cost = root["cost_ns"].as_u64().unwrap() as f64 / 1e9;
    assert!((9.5..=10.5).contains(&cost), "{cost}");
    for code in ["foreign-suffix", "search-expansion"] {
        let caused_by = finding(&output, code)["caused_by"].clone();
        assert!(caused_by.as_array().unwrap().contains(&root["id"]), "{code}: {caused_by}");
    }
    let block = output.text.find("upstream-timeout").unwrap();
    let nested = output.text.find("which caused").unwrap();
    assert!(block < nested && output.text.matches("\n[").count() == 1, "{}", output.text);
    let lookup = lookup(&output);
    assert_eq!(lookup["outcome"], "answered");
    assert_eq!(lookup["attempts"][3]["outcome"], "timeout");
    assert!(lookup["wasted_ns"].as_u64().unwrap() > 9_900_000_000);
}

#[test]
fn without_the_resolver_the_story_is_inferred() {
    let output = run_default(&scenarios::story(false));
    let root = finding(&output, "upstream-timeout");
    assert_eq!(root["confidence"], "inferred");
    assert!(!root["inferred_from"].as_array().unwrap().is_empty());
}

#[test]
fn a_name_that_does_not_exist() {
    let output = run_default(&scenarios::nxdomain());
    assert_eq!(output.codes(), ["nxdomain"]);
    assert_eq!(lookup(&output)["outcome"], "nxdomain");
    assert_eq!(lookup(&output)["wasted_ns"], Value::Null);
}

#[test]
fn a_silent_resolver() {
    let output = run_default(&scenarios::resolver_silent());
    let root = finding(&output, "resolver-timeout");
    assert!(root["cost_ns"].as_u64().unwrap() > 9_000_000_000, "{root}");
    assert!(!output.codes().contains(&"upstream-timeout".to_owned()), "{}", output.json);
}

#[test]
fn a_resolver_that_is_not_there() {
    let output = run_default(&scenarios::resolver_refused());
    assert!(output.codes().contains(&"resolver-unreachable".to_owned()), "{}", output.json);
}

#[test]
fn a_server_that_fails() {
    let output = run_default(&scenarios::servfail());
    assert!(output.codes().contains(&"dns-error".to_owned()), "{}", output.json);
}

#[test]
fn what_is_open_at_the_end_is_undecided() {
    let output = run(&scenarios::cut_short());
    assert_eq!(output.codes(), Vec::<String>::new(), "{}", output.json);
    assert_eq!(lookup(&output)["outcome"], "undecided");
    assert!(output.lines("transaction").iter().all(|line| line["outcome"] == "undecided"));
}

#[test]
fn loss_is_told_and_makes_the_result_incomplete() {
    let output = run_default(&scenarios::loss_in_between());
    assert_eq!(output.codes(), ["events-lost"]);
    assert_eq!(output.lines("loss")[0]["count"], 12);
    assert_eq!(output.lines("summary")[0]["lost"], 12);
    assert!(output.verdict.incomplete > 0);
}

#[test]
fn what_reaches_no_socket() {
    let output = run(&scenarios::at_the_door());
    let lookups = output.lines("lookup");
    let outcomes: Vec<_> = lookups.iter().map(|l| l["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["answered", "timeout", "unreachable"], "{}", output.json);
    assert_eq!(output.codes(), ["resolver-timeout", "resolver-unreachable"]);
    let of = |lookup: &Value| {
        let transactions = lookup["attempts"][0]["transactions"].as_array().unwrap().clone();
        assert_eq!(transactions.len(), 2, "{lookup}");
        transactions
    };
    for t in of(&lookups[0]) {
        assert_eq!((t["events"].as_array().unwrap().len(), &t["unheard"]), (2, &Value::Null));
    }
    for t in of(&lookups[1]) {
        assert_eq!(
            (&t["unheard"]["from"], &t["unheard"]["answers"]),
            (&"10.244.1.2:53".into(), &2.into())
        );
        assert_eq!(t["outcome"], "timeout");
    }
    for t in of(&lookups[2]) {
        assert_eq!(
            (&t["icmp"]["error"], &t["icmp"]["errors"]),
            (&"admin-prohibited".into(), &2.into())
        );
        assert_eq!(t["outcome"], "unreachable");
    }
    let root = finding(&output, "resolver-timeout");
    assert_eq!((&root["class"], &root["confidence"]), (&"wrong-address".into(), &"certain".into()));
    assert_eq!(root["details"]["answered_after_ns"], 2_000_000);
    let refused = finding(&output, "resolver-unreachable");
    assert_eq!(refused["details"]["icmp"][0], "admin-prohibited from 10.244.1.1");
    let summary = &output.lines("summary")[0];
    assert_eq!(summary["unmatched"], serde_json::json!({ "late": 1, "no-socket": 4 }));
}

#[test]
fn a_stranger_is_not_an_error() {
    let output = run(&scenarios::stranger());
    let lookup = lookup(&output);
    assert_eq!(lookup["outcome"], "answered");
    assert_eq!(lookup["identity"]["pod"], Value::Null);
    let summary = &output.lines("summary")[0];
    assert_eq!(summary["unmatched_responses"], 1);
    assert!(summary["undecoded"].as_u64().unwrap() >= 1, "{summary}");
}
