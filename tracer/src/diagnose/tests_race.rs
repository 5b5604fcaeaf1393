//! Pairs that lose one of their two queries, and everything that looks like it.

use crate::context::{Conntrack, ConntrackCounters, Process};
use crate::correlate::testing::*;
use crate::event::Body;
use crate::record::Timestamp;
use crate::report::{Confidence, Outcome};

const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
const US: u64 = 1_000;
const FIRST: &str = "backend.critical-app.svc.cluster.local";

/// How the queries of a pair fare the first time.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    /// Lost before the resolver.
    Lost,
    /// Received and left alone.
    Swallowed,
    /// Answered on time.
    Answered,
}

fn socket(cookie: u64) -> Socket {
    Socket { client: curl(), cookie, port: 43_000 + cookie as u16 }
}

/// One datagram and what becomes of it.
fn query(s: &Socket, at: u64, qtype: &str, id: u16, fate: Fate, traced: bool) -> Vec<Step> {
    let says = if qtype == "A" { Says::Addr("10.96.100.50") } else { Says::NoData };
    let mut steps = vec![s.ask(at, FIRST, qtype, id)];
    if traced && fate != Fate::Lost {
        steps.push(Resolver::hears(s, at + 50 * US, FIRST, qtype, id));
    }
    if fate == Fate::Answered {
        if traced {
            steps.push(Resolver::says(s, at + 200 * US, FIRST, qtype, id, says));
        }
        steps.push(s.told(at + 300 * US, FIRST, qtype, id, says));
    }
    steps
}

/// glibc: five seconds after the pair it asks again, one after the other.
fn glibc(first: [Fate; 2], again: Fate, traced: bool) -> Bench {
    let s = socket(10);
    let mut steps = vec![s.open(0)];
    for (i, (qtype, id)) in [("A", 1), ("AAAA", 2)].into_iter().enumerate() {
        let at = MS + 8 * US * i as u64;
        steps.extend(query(&s, at, qtype, id, first[i], traced));
        let fate = if first[i] == Fate::Answered { Fate::Answered } else { again };
        steps.extend(query(&s, 5_002 * MS + 400 * US * i as u64, qtype, id, fate, traced));
    }
    let end = if again == Fate::Answered { 5_004 * MS } else { 10_005 * MS };
    steps.push(s.close(end));
    let mut bench = Bench::node(traced);
    bench.play(steps).quiet_until(14 * S);
    bench.finish()
}

/// The node's conntrack at the beginning, and after the first second; `None` where it cannot be read.
fn with_conntrack(traced: bool, refused: Option<u64>) -> Bench {
    let s = socket(10);
    let mut steps = vec![s.open(0)];
    for (i, (qtype, id, fate)) in
        [("A", 1, Fate::Answered), ("AAAA", 2, Fate::Lost)].into_iter().enumerate()
    {
        steps.extend(query(&s, MS + 8 * US * i as u64, qtype, id, fate, traced));
        let again = 5_002 * MS + 400 * US * i as u64;
        steps.extend(query(&s, again, qtype, id, Fate::Answered, traced));
    }
    steps.push(s.close(5_004 * MS));
    let mut bench = Bench::node(traced);
    bench.fact(Body::Process(Process {
        pid: 4000,
        cgroup: Some(CLIENT),
        net_ns: Some(77),
        ..Default::default()
    }));
    let reading = |net_ns, since, at, refused: Option<u64>| {
        let sum = |n| ConntrackCounters { insert_failed: n, drop: n, early_drop: 0 };
        let (since, at) = (Timestamp(ZERO + since - S), Timestamp(ZERO + at - S));
        let counters = refused.map(sum);
        Body::Conntrack(Conntrack { net_ns, own: net_ns == 1, counters, since, at })
    };
    bench.fact(reading(1, S / 2, S / 2, refused.map(|_| 0)));
    bench.fact(reading(77, S / 2, S / 2, refused.map(|_| 0)));
    // Another pod's.
    bench.fact(reading(99, S / 2, 3 * S / 2, Some(50)));
    if let Some(n) = refused.filter(|n| *n > 0) {
        bench.fact(reading(77, S / 2, 3 * S / 2, Some(n)));
    }
    bench.play(steps).quiet_until(14 * S);
    let bench = bench.finish();
    assert_eq!(bench.codes(), ["aaaa-race"]);
    bench
}

#[test]
fn what_conntrack_refused_is_told_and_settles_it() {
    // Without the resolver's side a pair alone is not certain; with its loser counted it is.
    let told = |traced, refused| with_conntrack(traced, refused).findings[0].clone();
    let proven = told(false, Some(1));
    assert_eq!(proven.confidence, Confidence::Certain);
    assert!(proven.inferred_from.is_empty());
    let says = "Conntrack refused 1 insertion (insert_failed) in";
    assert!(proven.cause.contains(says), "{}", proven.cause);
    let details = proven.details["conntrack"].as_array().unwrap();
    let failed = |n: usize| details[n]["insert_failed"].as_u64();
    assert_eq!((details.len(), failed(0), failed(1)), (2, Some(0), Some(1)));

    // More than what got lost here: others lose, too, and one of theirs may be the one.
    let busy = told(false, Some(9));
    assert_eq!(busy.confidence, Confidence::Inferred);
    assert!(busy.cause.contains("refused 9 insertions"), "{}", busy.cause);
}

#[test]
fn what_conntrack_did_not_refuse_was_lost_otherwise() {
    let told = |traced, refused| with_conntrack(traced, refused).findings[0].clone();
    let filtered = told(true, Some(0));
    assert_eq!(filtered.confidence, Confidence::Certain);
    assert!(filtered.cause.contains("refused no insertion just then"), "{}", filtered.cause);
    assert!(filtered.remedy[0].contains("filter rules"), "{:?}", filtered.remedy);
    assert_eq!(told(false, Some(0)).confidence, Confidence::Inferred);
    let unread = told(false, None);
    assert_eq!(unread.confidence, Confidence::Inferred);
    assert!(unread.cause.contains("could not be read"), "{}", unread.cause);
    assert_eq!(unread.details["conntrack"], serde_json::json!([]));
}

#[test]
fn the_later_query_of_a_pair_got_lost() {
    let bench = glibc([Fate::Answered, Fate::Lost], Fate::Answered, true);
    assert_eq!(bench.codes(), ["aaaa-race"]);
    let race = &bench.findings[0];
    assert_eq!(race.confidence, Confidence::Certain, "{:?}", race.inferred_from);
    assert!(race.cost_ns.abs_diff(5_001 * MS) < 50 * MS, "{}", race.cost_ns);
    assert_eq!(race.details["lost"][0], "AAAA");
    assert_eq!(race.details["gap_ns"], 8 * US);
    // Nobody tried to read conntrack's counters.
    assert_eq!(race.details["conntrack"], serde_json::Value::Null);
    assert!(race.cause.contains(". Two packets of a new flow at once race"), "{}", race.cause);
    assert!(race.remedy[0].contains("single-request-reopen"), "{:?}", race.remedy);
    assert!(!race.evidence.is_empty() && race.lookups == [1]);
    assert_eq!(bench.lookups[0].outcome, Outcome::Answered);
    assert_eq!(bench.unmatched, 0, "the answer to the repeated A is no stranger");
    let summary = bench.summary.unwrap();
    assert!(summary.time_ns["aaaa-race"].abs_diff(5_001 * MS) < 50 * MS);
    assert_eq!(summary.time_ns["resolver-timeout"], 0);
}

#[test]
fn swallowed_by_the_resolver_it_is_the_resolvers() {
    let bench = glibc([Fate::Answered, Fate::Swallowed], Fate::Answered, true);
    assert_eq!(bench.codes(), ["resolver-timeout"]);
    let finding = &bench.findings[0];
    assert_eq!(finding.class.as_deref(), Some("received"));
    assert_eq!(finding.confidence, Confidence::Certain);
    assert!(finding.cost_ns.abs_diff(5_001 * MS) < 50 * MS, "{}", finding.cost_ns);
    assert!(finding.cause.contains("received 1 query"), "{}", finding.cause);
    assert!(finding.cause.ends_with("Asked again, it answered."), "{}", finding.cause);
}

#[test]
fn both_lost_is_a_lost_packet_and_no_race() {
    let bench = glibc([Fate::Lost, Fate::Lost], Fate::Answered, true);
    assert_eq!(bench.codes(), ["resolver-timeout"]);
    assert_eq!(bench.findings[0].class.as_deref(), Some("query-lost"));
}

#[test]
fn the_earlier_one_lost_is_not_the_usual_race() {
    let bench = glibc([Fate::Lost, Fate::Answered], Fate::Answered, true);
    assert_eq!(bench.codes(), ["aaaa-race"]);
    assert_eq!(bench.findings[0].confidence, Confidence::Inferred);
    assert!(bench.findings[0].inferred_from.iter().any(|why| why.contains("sent first")));
}

#[test]
fn lost_again_and_again_it_is_inferred() {
    let bench = glibc([Fate::Answered, Fate::Lost], Fate::Lost, true);
    assert_eq!(bench.codes(), ["aaaa-race"]);
    assert_eq!(bench.findings[0].confidence, Confidence::Inferred);
    assert!(bench.findings[0].inferred_from[0].contains("a filter"));
}

#[test]
fn without_the_resolver_the_pair_has_to_tell() {
    let bench = glibc([Fate::Answered, Fate::Lost], Fate::Answered, false);
    assert_eq!(bench.codes(), ["aaaa-race"]);
    assert_eq!(bench.findings[0].confidence, Confidence::Inferred);
    // Unanswered for good: a resolver that is stuck on AAAA looks the same.
    let bench = glibc([Fate::Answered, Fate::Lost], Fate::Lost, false);
    assert_eq!(bench.codes(), ["resolver-timeout"]);
}

#[test]
fn an_upstreams_silence_is_no_race() {
    let name = "www.example.org";
    let s = socket(10);
    let mut steps = vec![
        s.open(0),
        s.ask(MS, name, "A", 1),
        s.ask(MS + 8 * US, name, "AAAA", 2),
        Resolver::hears(&s, MS + 50 * US, name, "A", 1),
        Resolver::hears(&s, MS + 60 * US, name, "AAAA", 2),
        Resolver::asks(90, MS + 100 * US, name, "AAAA", 9, UPSTREAM),
        Resolver::says(&s, 2 * MS, name, "A", 1, Says::Addr("192.0.2.1")),
        s.told(2 * MS + 50 * US, name, "A", 1, Says::Addr("192.0.2.1")),
    ];
    for (i, (qtype, id)) in [("A", 1), ("AAAA", 2)].into_iter().enumerate() {
        let at = 5_002 * MS + 400 * US * i as u64;
        steps.extend([
            s.ask(at, name, qtype, id),
            Resolver::hears(&s, at + 50 * US, name, qtype, id),
            Resolver::says(&s, at + 90 * US, name, qtype, id, Says::NoData),
            s.told(at + 100 * US, name, qtype, id, Says::NoData),
        ]);
    }
    steps.push(s.close(5_005 * MS));
    let mut bench = Bench::node(true);
    bench.play(steps).quiet_until(8 * S);
    let bench = bench.finish();
    assert_eq!(bench.codes(), ["upstream-timeout"]);
}

/// Go asks from two sockets: there is no conntrack entry that both want.
#[test]
fn two_sockets_do_not_race() {
    let (a, b) = (socket(10), socket(11));
    let mut steps = vec![a.open(0), b.open(0)];
    steps.extend(query(&a, MS, "A", 1, Fate::Answered, true));
    steps.extend(query(&b, MS + 9 * US, "AAAA", 2, Fate::Lost, true));
    steps.extend([a.close(2 * MS), b.close(5_002 * MS)]);
    let c = socket(12);
    steps.push(c.open(5_003 * MS));
    steps.extend(query(&c, 5_004 * MS, "AAAA", 3, Fate::Answered, true));
    steps.push(c.close(5_006 * MS));
    let mut bench = Bench::node(true);
    bench.play(steps).quiet_until(9 * S);
    assert_eq!(bench.finish().codes(), ["resolver-timeout"]);
}

#[test]
fn healthy_pairs_are_silent() {
    let s = socket(10);
    let mut steps = vec![s.open(0)];
    steps.extend(query(&s, MS, "A", 1, Fate::Answered, true));
    steps.extend(query(&s, MS + 9 * US, "AAAA", 2, Fate::Answered, true));
    steps.push(s.close(2 * MS));
    let mut bench = Bench::node(true);
    bench.play(steps).quiet_until(3 * S);
    let bench = bench.finish();
    assert!(bench.codes().is_empty());
    assert_eq!(bench.unmatched, 0);
}
