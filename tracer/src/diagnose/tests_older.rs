//! What is older than the trace: questions asked before it, clients and connections that were there, and
//! questions that stand behind another on one connection.

use crate::context;
use crate::correlate::testing::*;
use crate::event::{Body, Protocol};
use crate::record::Task;
use crate::report::Confidence;

const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
const NAME: &str = "www.example.org";
const OTHER: &str = "api.example.org";

fn socket(n: u64) -> Socket {
    Socket { client: curl(), cookie: 100 + n, port: 45_000 + n as u16 }
}

/// Both the client's socket and the resolver's were there before.
fn with_older_sockets() -> Bench {
    let mut bench = Bench::node(true);
    for (cookie, local, remote, cgroup) in
        [(100, "10.244.1.10:45000", Some(SERVER), CLIENT), (1, "10.244.1.20:53", None, RESOLVER)]
    {
        bench.fact(Body::Socket(context::Socket {
            cookie,
            protocol: 17,
            local: addr(local),
            remote: remote.map(addr),
            pid: None,
            comm: None,
            fd: None,
            cgroup: Some(cgroup),
            net_ns: None,
        }));
    }
    bench
}

fn older(pid: u32) -> Body {
    Body::Process(context::Process {
        pid,
        comm: "curl".into(),
        cgroup: Some(CLIENT),
        ..Default::default()
    })
}

/// What the client says; the resolver asks its upstream over UDP.
fn over_tcp(mut step: Step) -> Step {
    if let Body::Dns(dns) = &mut step.body
        && dns.remote != addr(UPSTREAM)
    {
        dns.protocol = Protocol::Tcp;
    }
    step
}

#[test]
fn answers_to_questions_before_the_trace_are_counted_as_that() {
    let mut bench = with_older_sockets();
    let says = Says::Addr("192.0.2.1");
    let (s, young) = (socket(0), socket(1));
    bench.play(vec![
        Resolver::says(&s, S, NAME, "A", 7, says),
        s.told(S + MS, NAME, "A", 7, says),
        // Over a socket of this time nothing can be older.
        young.open(2 * S),
        young.told(2 * S + MS, NAME, "A", 8, says),
        // And nobody waits that long.
        s.told(20 * S, NAME, "A", 9, says),
    ]);
    let bench = bench.finish();
    let unmatched = bench.summary.unwrap().unmatched;
    let n = |reason| unmatched.get(reason).copied().unwrap_or_default();
    assert_eq!((n("asked-before"), n("unknown-id"), n("query-not-seen")), (2, 2, 0));
    assert!(bench.findings.is_empty());
}

/// The client may have asked before, and the resolver its upstream.
#[test]
fn a_silent_resolver_is_not_certain_when_the_trace_is_young() {
    let run = |at: u64, process: Option<Body>, exec: bool| {
        let mut bench = Bench::node(true);
        if exec {
            let task = Some(Task { pid: 4000, tid: 4000, comm: "curl".into() });
            let actor = crate::event::Actor { task, ..Default::default() };
            let body = Body::Exec { filename: "/bin/curl".into() };
            bench.play(vec![Step { at: 0, actor, body }]);
        }
        if let Some(body) = process {
            bench.fact(body);
        }
        let s = socket(0);
        let steps = vec![
            s.open(at),
            s.ask(at, NAME, "A", 7),
            Resolver::hears(&s, at + MS, NAME, "A", 7),
            s.close(at + 5 * S),
        ];
        bench.play(steps).quiet_until(at + 8 * S);
        let bench = bench.finish();
        assert_eq!(bench.codes(), ["resolver-timeout"]);
        bench.findings[0].clone()
    };
    let doubted = run(2 * S, Some(older(4000)), false);
    assert_eq!(doubted.confidence, Confidence::Inferred);
    assert!(doubted.inferred_from[0].contains("just begun"), "{:?}", doubted.inferred_from);
    let certain = |finding: crate::report::Finding| {
        assert_eq!(finding.confidence, Confidence::Certain, "{finding:?}");
    };
    certain(run(20 * S, Some(older(4000)), false));
    certain(run(2 * S, None, false));
    certain(run(2 * S, Some(older(4000)), true));
}

/// A and AAAA over one connection: the resolver reads the second when it has answered the first.
#[test]
fn what_stands_behind_another_question_waits_for_that_ones_upstream() {
    let s = socket(0);
    let run = |silent: bool, second: Option<&str>| {
        let mut steps = vec![
            s.open(0),
            s.ask(0, NAME, "A", 7),
            s.ask(MS, second.unwrap_or(NAME), "AAAA", 8),
            Resolver::hears(&s, 2 * MS, NAME, "A", 7),
            Resolver::hears(&s, 2 * MS, second.unwrap_or(NAME), "AAAA", 8),
            s.close(4 * S),
        ];
        let asks = |at| Resolver::asks(500, at, NAME, "A", 40, UPSTREAM);
        if silent {
            steps.extend([asks(3 * MS), asks(2 * S)]);
        }
        let steps = steps.into_iter().map(over_tcp).collect();
        let mut bench = Bench::node(true);
        bench.play(steps).quiet_until(8 * S);
        bench.finish()
    };
    for second in [None, Some(OTHER)] {
        let bench = run(true, second);
        assert_eq!(bench.codes(), ["upstream-timeout"]);
        let finding = &bench.findings[0];
        assert_eq!(finding.subject, UPSTREAM);
        assert_eq!(finding.confidence, Confidence::Certain);
        assert!(finding.cost_ns.abs_diff(4 * S) < 50 * MS, "{}", finding.cost_ns);
        // Each try is told once, under its own name.
        let tries = finding.details["tries"].as_array().unwrap();
        assert_eq!(tries.len(), 2, "{tries:?}");
        assert!(tries.iter().all(|t| t["name"] == NAME && t["behind"] == false), "{tries:?}");
    }
    // A resolver that asks nobody is silent itself.
    assert_eq!(run(false, None).codes(), ["resolver-timeout"]);
}

/// Another's connection is another's.
#[test]
fn nobody_stands_behind_a_question_of_another_connection() {
    let (a, b) = (socket(0), socket(1));
    let steps = vec![
        a.open(0),
        b.open(0),
        a.ask(0, NAME, "A", 7),
        b.ask(MS, OTHER, "A", 8),
        Resolver::hears(&a, 2 * MS, NAME, "A", 7),
        Resolver::hears(&b, 2 * MS, OTHER, "A", 8),
        Resolver::asks(500, 3 * MS, NAME, "A", 40, UPSTREAM),
        a.close(4 * S),
        b.close(4 * S),
    ];
    let mut bench = Bench::node(true);
    bench.play(steps.into_iter().map(over_tcp).collect()).quiet_until(8 * S);
    let mut codes = bench.finish().codes();
    codes.sort_unstable();
    assert_eq!(codes, ["resolver-timeout", "upstream-timeout"]);
}

/// The port was translated on the way, as when another flow has it.
#[test]
fn a_query_from_another_port_is_known_by_its_id_if_it_is_the_only_one() {
    let heard = |from: &[Socket]| {
        let s = socket(0);
        let mut steps = vec![s.open(0), s.ask(0, NAME, "A", 7), s.close(5 * S)];
        steps.extend(from.iter().map(|from| Resolver::hears(from, MS, NAME, "A", 7)));
        let mut bench = Bench::node(true);
        bench.play(steps).quiet_until(8 * S);
        let bench = bench.finish();
        assert_eq!(bench.codes(), ["resolver-timeout"]);
        bench.findings[0].class.clone()
    };
    let stranger = Socket { client: Client { ip: "10.244.1.11", ..curl() }, ..socket(3) };
    assert_eq!(heard(&[socket(1)]).as_deref(), Some("received"));
    assert_eq!(heard(&[socket(1), socket(2)]), None);
    assert_eq!(heard(&[stranger]), None);
}
