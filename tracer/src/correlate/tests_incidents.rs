//! What went wrong in incidents that were played for real, each with its healthy twin.

use super::testing::*;
use super::*;
use crate::record::Task;
use crate::report::{Outcome, TransactionOutcome};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
const OUTSIDE: &str = "www.example.org";

fn musl() -> Client {
    let task = Some(Task { pid: 4100, tid: 4100, comm: "lookup-musl".into() });
    Client { task, connects: false, ..curl() }
}

fn played(steps: Vec<Step>, until: u64) -> Bench {
    let mut bench = Bench::node(false);
    bench.play(steps).quiet_until(until);
    bench.finish()
}

fn said_by(mut step: Step, server: &str) -> Step {
    if let Body::Dns(dns) = &mut step.body {
        dns.remote = addr(server);
    }
    step
}

/// musl's queries at 0 and 2.5 s, each answered with `says`; without its socket's end if not `closed`.
fn asked_twice(says: Says, closed: bool) -> Vec<Step> {
    let s = Socket { client: musl(), cookie: 1, port: 40_001 };
    let mut steps = vec![s.open(0)];
    for at in [MS, 2_501 * MS] {
        for (qtype, id) in [("A", 1), ("AAAA", 2)] {
            steps.push(s.ask(at + 5 * US * u64::from(id), OUTSIDE, qtype, id));
            steps.push(s.told(at + 400 * US + 5 * US * u64::from(id), OUTSIDE, qtype, id, says));
        }
    }
    steps.extend(closed.then(|| s.close(5_031 * MS)));
    steps
}

#[test]
fn musl_waits_on_after_an_error() {
    for (says, closed, ms) in [
        (Says::Rcode(2), true, 5_029),
        (Says::Rcode(5), true, 5_029),
        (Says::Rcode(5), false, 5_000),
    ] {
        let bench = played(asked_twice(says, closed), 9 * S);
        let [lookup]: &[Lookup; 1] = bench.lookups.as_slice().try_into().unwrap();
        assert_eq!(lookup.library, Some("musl"));
        assert_eq!(lookup.duration_ns() / MS, ms, "{says:?} {closed}");
        assert_eq!(bench.codes(), ["dns-error"]);
        assert_eq!(bench.findings[0].cost_ns / MS, ms);
    }
}

#[test]
fn after_an_answer_nobody_waits() {
    let s = Socket { client: musl(), cookie: 1, port: 40_001 };
    let found = [Says::Addr("192.0.2.1"), Says::NoData];
    let mut steps = s.pair(MS, MS, OUTSIDE, 1, found);
    steps.pop();
    steps.push(s.close(5 * S)); // it was paused
    let bench = played(steps, 9 * S);
    assert_eq!(bench.lookups[0].duration_ns(), MS + 10 * US);
    assert!(bench.findings.is_empty());
}

/// One query for each type, answered from `server`; given up after 2 s unless that was heard.
fn answered_from(server: &str, heard: bool) -> Vec<Step> {
    let s = Socket { client: musl(), cookie: 1, port: 40_001 };
    let says = [Says::Addr("192.0.2.1"), Says::NoData];
    let mut steps: Vec<Step> =
        s.pair(0, 700 * US, OUTSIDE, 1, says).into_iter().map(|s| said_by(s, SERVER)).collect();
    steps.pop();
    for step in &mut steps[3..] {
        *step = said_by(step.clone(), server);
    }
    steps.push(s.close(if heard { MS } else { 2 * S }));
    steps
}

#[test]
fn an_answer_from_elsewhere_is_none() {
    let bench = played(answered_from("10.244.1.99:53", false), 9 * S);
    let [lookup]: &[Lookup; 1] = bench.lookups.as_slice().try_into().unwrap();
    assert_eq!(lookup.outcome, Outcome::Timeout);
    assert!(lookup.transactions().all(|t| t.outcome() == TransactionOutcome::Timeout));
    assert_eq!(bench.codes(), ["resolver-timeout"]);
    let summary = bench.summary.unwrap();
    assert_eq!(summary.unmatched.get("wrong-server"), Some(&2));
    assert_eq!(summary.unmatched_responses, 2);
}

#[test]
fn an_answer_from_the_server_asked_or_on_the_packet_is_one() {
    let same = answered_from(SERVER, true);
    // DNAT in the pod: packets go to a pod of the Service, answers are told as either's.
    let sent_to = |steps: Vec<Step>, backend: &str| -> Vec<Step> {
        let out = |s: &Step| matches!(&s.body, Body::Dns(dns) if dns.direction == Direction::Out);
        steps.into_iter().map(|s| if out(&s) { said_by(s, backend) } else { s }).collect()
    };
    let back = sent_to(answered_from(SERVER, true), "10.244.1.20:53");
    let on_packet = sent_to(answered_from("10.244.1.20:53", true), "10.244.1.20:53");
    for steps in [same, back, on_packet] {
        let bench = played(steps, 9 * S);
        assert_eq!(bench.lookups[0].outcome, Outcome::Answered);
        assert_eq!((bench.unmatched, bench.findings.len()), (0, 0));
    }
}

/// What the program asked for is not known: the answer may have been translated on its way.
#[test]
fn without_the_address_asked_an_answer_from_elsewhere_counts() {
    let mut steps = answered_from("10.244.1.99:53", true);
    steps.remove(0);
    let bench = played(steps, 9 * S);
    assert_eq!(bench.lookups[0].outcome, Outcome::Answered);
    assert_eq!(bench.unmatched, 0);
}
