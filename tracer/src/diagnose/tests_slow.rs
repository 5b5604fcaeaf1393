//! Servers that answer late, whose lateness it is, and what must stay quiet.

use crate::correlate::testing::*;
use crate::report::{Confidence, Finding, Outcome, Severity};

const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

fn socket(n: u64) -> Socket {
    Socket { client: curl(), cookie: 100 + n, port: 44_000 + n as u16 }
}

/// Where the time of an answer goes.
#[derive(Clone, Copy)]
struct Took {
    /// At the resolver, before it asks the upstream.
    own: u64,
    /// Until the upstream answered; 0: it is not asked.
    upstream: u64,
}

/// One question for an A record, answered.
fn lookup(n: u64, at: u64, name: &str, took: Took, traced: bool) -> Vec<Step> {
    let s = socket(n);
    let says = Says::Addr("192.0.2.7");
    let left = at + took.own + took.upstream;
    let mut steps = vec![s.open(at), s.ask(at, name, "A", 7)];
    if traced {
        steps.push(Resolver::hears(&s, at + 1000, name, "A", 7));
        if took.upstream > 0 {
            let cookie = 7_000 + n;
            let asked = at + took.own;
            steps.push(Resolver::asks(cookie, asked, name, "A", 8, UPSTREAM));
            let back = asked + took.upstream - 1000;
            steps.push(Resolver::hears_back(cookie, back, name, "A", 8, UPSTREAM, says));
        }
        steps.push(Resolver::says(&s, left, name, "A", 7, says));
    }
    steps.push(s.told(left + 1000, name, "A", 7, says));
    steps.push(s.close(left + 2000));
    steps
}

fn told(steps: Vec<Step>, traced: bool, until: u64) -> Bench {
    let mut bench = Bench::node(traced);
    bench.play(steps).quiet_until(until);
    bench.finish()
}

fn slow(bench: &Bench) -> &Finding {
    assert_eq!(bench.codes(), ["slow-dns"]);
    &bench.findings[0]
}

#[test]
fn one_finding_a_server_names_the_upstream() {
    let took = Took { own: MS, upstream: 399 * MS };
    let mut steps = Vec::new();
    for n in 0..6 {
        steps.extend(lookup(n, n * 500 * MS, &format!("w{n}.example.org"), took, true));
    }
    let bench = told(steps, true, 5 * S);
    let finding = slow(&bench);
    assert_eq!((finding.class.as_deref(), finding.severity), (Some("upstream"), Severity::Warning));
    assert_eq!((finding.subject.as_str(), finding.confidence), (SERVER, Confidence::Certain));
    assert_eq!(finding.lookups, [1, 2, 3, 4, 5, 6]);
    assert!(finding.cost_ns.abs_diff(2_400 * MS) < 24 * MS, "{}", finding.cost_ns);
    assert_eq!(finding.details["answers"], 6);
    assert_eq!(finding.details["slow"], 6);
    assert_eq!(finding.details["p50_ns"], 400 * MS + 1000);
    assert_eq!(finding.details["upstreams"][0]["server"], UPSTREAM);
    assert_eq!(finding.details["upstreams"][0]["percent"], 99);
    assert_eq!(finding.details["slowest"].as_array().unwrap().len(), 5);
    assert!(finding.cause.contains(UPSTREAM), "{}", finding.cause);
    let servers = bench.summary.unwrap().servers;
    assert_eq!((servers.len(), servers[0].answers, servers[0].slow), (1, 6, 6));
    assert_eq!(servers[0].p95_ns, Some(400 * MS + 1000));
}

#[test]
fn the_resolver_itself_is_slow() {
    let took = Took { own: 290 * MS, upstream: 10 * MS };
    let mut steps = lookup(0, 0, "a.example.org", took, true);
    steps.extend(lookup(1, S, "b.example.org", took, true));
    let bench = told(steps, true, 4 * S);
    assert_eq!(slow(&bench).class.as_deref(), Some("resolver"));
    assert!(slow(&bench).cause.contains("account for 3 %"), "{}", slow(&bench).cause);
}

#[test]
fn without_the_resolver_nobody_is_blamed() {
    let steps = lookup(0, 0, "a.example.org", Took { own: 1_200 * MS, upstream: 0 }, false);
    let bench = told(steps, false, 4 * S);
    assert_eq!(slow(&bench).class, None);
    assert!(slow(&bench).cause.contains("was not seen"));
}

#[test]
fn a_cold_cache_now_and_then_is_ordinary() {
    let quick = Took { own: MS, upstream: 0 };
    let mut steps = Vec::new();
    for n in 0..60 {
        let cold = Took { own: MS, upstream: 200 * MS };
        let took = if n % 30 == 7 { cold } else { quick };
        steps.extend(lookup(n, n * 300 * MS, &format!("w{n}.example.org"), took, true));
    }
    let bench = told(steps, true, 20 * S);
    assert_eq!(bench.codes(), [""; 0]);
    let server = bench.summary.unwrap().servers[0];
    assert_eq!((server.answers, server.slow, server.unanswered), (60, 2, 0));
}

#[test]
fn a_silence_is_not_told_a_second_time() {
    // The first upstream stays silent for two seconds, the second answers.
    let (s, name) = (socket(0), "www.example.org");
    let other = "10.99.0.54:53";
    let steps = vec![
        s.open(0),
        s.ask(MS, name, "A", 1),
        Resolver::hears(&s, 2 * MS, name, "A", 1),
        Resolver::asks(800, 2 * MS, name, "A", 9, UPSTREAM),
        Resolver::asks(801, 2_002 * MS, name, "A", 10, other),
        Resolver::hears_back(801, 2_003 * MS, name, "A", 10, other, Says::Addr("1.2.3.4")),
        Resolver::says(&s, 2_004 * MS, name, "A", 1, Says::Addr("1.2.3.4")),
        s.told(2_005 * MS, name, "A", 1, Says::Addr("1.2.3.4")),
        s.close(2_006 * MS),
    ];
    assert_eq!(told(steps, true, 5 * S).codes(), ["upstream-timeout"]);
}

#[test]
fn an_answer_after_the_client_went_on_is_slow_and_not_missing() {
    let (first, next) = (socket(0), socket(1));
    let name = |suffix: &str| format!("{NAME}.{suffix}");
    let (one, two) = (name("critical-app.svc.cluster.local"), name("svc.cluster.local"));
    let steps = vec![
        first.open(0),
        first.ask(MS, &one, "A", 1),
        Resolver::hears(&first, 2 * MS, &one, "A", 1),
        next.open(5_001 * MS),
        next.ask(5_001 * MS, &two, "A", 2),
        Resolver::hears(&next, 5_002 * MS, &two, "A", 2),
        Resolver::says(&first, 5_500 * MS, &one, "A", 1, Says::Nx),
        first.told(5_501 * MS, &one, "A", 1, Says::Nx),
        Resolver::says(&next, 5_502 * MS, &two, "A", 2, Says::Addr("10.96.0.77")),
        next.told(5_503 * MS, &two, "A", 2, Says::Addr("10.96.0.77")),
        next.close(5_504 * MS),
    ];
    let bench = told(steps, true, 20 * S);
    let lookup = &bench.lookups[0];
    let line = lookup.attempts[0].transactions[0].clone().report(&bench.who);
    assert_eq!((lookup.outcome, lookup.attempts[0].outcome), (Outcome::Answered, Outcome::Timeout));
    assert_eq!((line.latency_ns, line.late_ns), (None, Some(5_500 * MS)));
    assert_eq!(bench.codes(), ["search-expansion", "slow-dns"]);
    assert_eq!(bench.findings[1].details["late"], 1);
    assert_eq!(bench.findings[1].class.as_deref(), Some("resolver"));
    assert_eq!(bench.unmatched, 0);
}

#[test]
fn a_long_run_hears_of_it_before_its_end() {
    let took = Took { own: 300 * MS, upstream: 0 };
    let mut bench = Bench::node(true);
    let all = |from: u64| {
        (from..from + 3)
            .flat_map(|n| lookup(n, n * S, &format!("w{n}.example.org"), took, true))
            .collect::<Vec<_>>()
    };
    bench.play(all(0)).quiet_until(9 * S);
    assert!(bench.findings.is_empty());
    bench.quiet_until(12 * S);
    assert_eq!(bench.codes(), ["slow-dns"]);
    bench.play(all(20)).quiet_until(60 * S);
    assert_eq!(bench.codes(), ["slow-dns"], "the rest at the end");
    let bench = bench.finish();
    assert_eq!(bench.codes(), ["slow-dns", "slow-dns"]);
    let second = &bench.findings[1];
    assert_eq!((&second.details["slow"], &second.details["answers"]), (&3.into(), &3.into()));
    assert!(second.cause.starts_with("3 of 3 answers"), "{}", second.cause);
    assert_eq!(bench.summary.as_ref().unwrap().servers[0].answers, 6);
}
