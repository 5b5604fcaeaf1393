//! Events to findings: the story, its variants, and what must stay quiet.

use crate::context::{Loss, LossStage};
use crate::correlate::testing::*;
use crate::diagnose::{DRAFTS_MAX, Diagnoser};
use crate::event::{Body, Call};
use crate::record::Timestamp;
use crate::report::{Code, Confidence, Finding, Outcome, Severity};

const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

fn played(bench: Bench, steps: Vec<Step>, until: u64) -> Bench {
    let mut bench = bench;
    bench.play(steps).quiet_until(until);
    bench.finish()
}

fn near(ns: u64, wanted: u64) -> bool {
    ns.abs_diff(wanted) <= wanted / 100
}

#[test]
fn the_story_is_one_block() {
    let bench = played(Bench::node(true), story(&curl(), true, 10), 12 * S);
    assert_eq!(bench.codes(), ["upstream-timeout", "foreign-suffix", "search-expansion"]);
    let [root, suffix, walk]: &[Finding; 3] = bench.findings.as_slice().try_into().unwrap();
    for finding in &bench.findings {
        assert!(near(finding.cost_ns, 10_006 * MS), "{} {}", finding.title, finding.cost_ns);
        assert_eq!(finding.severity, Severity::Error);
        assert_eq!(finding.confidence, Confidence::Certain);
        assert_eq!(finding.lookups, [1]);
        assert_eq!(finding.identity.comm.as_deref(), Some("curl"));
        assert!(!finding.evidence.is_empty() && !finding.remedy.is_empty());
    }
    assert_eq!((root.id, root.subject.as_str()), (1, UPSTREAM));
    assert_eq!(root.title, "upstream 10.99.0.53:53 did not answer: curl waited 10.0 s");
    assert_eq!(root.details["tries"].as_array().unwrap().len(), 4);
    assert!(near(root.details["tries"][0]["silence_ns"].as_u64().unwrap(), 5 * S));
    assert_eq!((suffix.caused_by.as_slice(), walk.caused_by.as_slice()), (&[1][..], &[1][..]));
    assert_eq!(suffix.subject, "localdomain");
    assert_eq!(suffix.details["origin"]["place"], "/etc/resolv.conf");
    assert_eq!(suffix.details["origin"]["line"], 3);
    assert_eq!(suffix.details["upstreams"][0], UPSTREAM);
    assert_eq!(walk.subject, NAME);
    assert_eq!(walk.details["queries"], 10);
    assert_eq!(walk.details["complete_as_typed"], true);
    assert!(walk.remedy[0].contains(&format!("`{NAME}.`")), "{:?}", walk.remedy);
    assert!(walk.remedy[1].contains("value: \"2\""), "{:?}", walk.remedy);

    let summary = bench.summary.unwrap();
    assert_eq!(summary.lookups["answered"], 1);
    assert_eq!(summary.search_walk.walks, 1);
    assert_eq!(summary.search_walk.complete_as_typed, 1);
    assert_eq!(summary.search_walk.queries, 10);
    assert!(near(summary.time_ns["upstream-timeout"], 10_006 * MS));
    let total: u64 = summary.time_ns.values().sum();
    assert_eq!(total, bench.lookups[0].duration_ns());
    assert_eq!(summary.unmatched_responses, 0);
}

#[test]
fn the_story_is_told_a_second_after_it_ended() {
    let mut bench = Bench::node(true);
    bench.play(story(&curl(), true, 10)).quiet_until(10_900 * MS);
    assert_eq!((bench.lookups.len(), bench.findings.len()), (1, 0));
    bench.quiet_until(11_600 * MS);
    assert_eq!(bench.findings.len(), 3);
}

#[test]
fn without_the_resolver_it_is_inferred() {
    let bench = played(Bench::node(false), story(&curl(), false, 10), 12 * S);
    assert_eq!(bench.codes(), ["upstream-timeout", "foreign-suffix", "search-expansion"]);
    let root = &bench.findings[0];
    assert_eq!(root.confidence, Confidence::Inferred);
    assert_eq!((root.subject.as_str(), root.class.as_deref()), ("localdomain", Some("zone")));
    assert!(root.details["upstream"].is_null() && !root.inferred_from.is_empty());
    assert!(near(root.cost_ns, 10_006 * MS));
    assert_eq!(bench.findings[2].caused_by, [1]);
    assert_eq!(bench.findings[1].confidence, Confidence::Inferred, "no upstream was seen");
}

#[test]
fn victims_of_one_upstream_share_its_finding() {
    let mut other = curl();
    other.task.as_mut().unwrap().pid = 5000;
    other.task.as_mut().unwrap().comm = "wget".into();
    let mut steps = story(&curl(), true, 10);
    steps.extend(story(&other, true, 50).into_iter().map(|s| Step { at: s.at + 200 * MS, ..s }));
    let bench = played(Bench::node(true), steps, 13 * S);
    assert_eq!(bench.codes(), ["upstream-timeout", "foreign-suffix", "search-expansion"]);
    let root = &bench.findings[0];
    assert_eq!(root.lookups, [1, 2]);
    assert!(near(root.cost_ns, 10_206 * MS), "{}", root.cost_ns);
    assert_eq!(root.identity.comm, None);
    assert!(root.title.contains("2 lookups of curl and wget"), "{}", root.title);
}

fn walk(client: &Client, last: [Says; 2], fate: Says) -> Vec<Step> {
    let mut steps = Vec::new();
    let names = SEARCH.split(' ').map(|s| format!("{NAME}.{s}")).chain([NAME.to_owned()]);
    for (i, name) in names.enumerate() {
        let n = i as u64;
        let socket = Socket { client: client.clone(), cookie: 10 + n, port: 41_000 + n as u16 };
        let says = if name == NAME { last } else { [fate; 2] };
        steps.extend(socket.pair(n * 400_000, 300_000, &name, 10 + 2 * i as u16, says));
    }
    steps
}

#[test]
fn a_quick_walk_is_no_finding() {
    let says = [Says::Addr("10.96.100.50"), Says::NoData];
    let bench = played(Bench::node(true), walk(&curl(), says, Says::Nx), 3 * S);
    assert_eq!(bench.codes(), [""; 0]);
    assert_eq!(bench.lookups[0].outcome, Outcome::Answered);
    let walks = bench.summary.unwrap().search_walk;
    assert_eq!((walks.walks, walks.queries), (1, 8));
}

#[test]
fn nothing_exists() {
    let bench = played(Bench::node(true), walk(&curl(), [Says::Nx; 2], Says::Nx), 3 * S);
    assert_eq!(bench.codes(), ["nxdomain"]);
    assert_eq!(bench.findings[0].subject, NAME);
    assert_eq!(bench.findings[0].severity, Severity::Error);
    assert_eq!(bench.findings[0].details["candidates"].as_array().unwrap().len(), 5);
}

#[test]
fn harmless_errors_are_information() {
    let says = [Says::Addr("10.96.100.50"), Says::NoData];
    let bench = played(Bench::node(true), walk(&curl(), says, Says::Rcode(5)), 5 * S);
    assert_eq!(bench.codes(), ["dns-error"]);
    assert_eq!(bench.findings[0].severity, Severity::Info);
    assert_eq!(bench.findings[0].class.as_deref(), Some("refused"));
}

fn first(n: u64) -> (Socket, String) {
    let socket = Socket { client: curl(), cookie: 70 + n, port: 42_000 + n as u16 };
    (socket, format!("{NAME}.critical-app.svc.cluster.local"))
}

#[test]
fn refused_by_the_resolvers_address() {
    let (socket, name) = first(0);
    let mut steps = vec![
        socket.open(0),
        socket.ask(MS, &name, "A", 1),
        socket.ask(MS, &name, "AAAA", 2),
        socket.fails(2 * MS, Call::Recvfrom, 111),
        socket.close(3 * MS),
    ];
    let (socket, _) = first(1);
    steps.extend([
        socket.open(3 * MS),
        socket.ask(4 * MS, NAME, "A", 3),
        socket.ask(4 * MS, NAME, "AAAA", 4),
        socket.fails(5 * MS, Call::Recvfrom, 111),
        socket.close(6 * MS),
    ]);
    let bench = played(Bench::node(true), steps, 3 * S);
    assert_eq!(bench.codes(), ["resolver-unreachable"]);
    assert_eq!(bench.findings[0].details["errno"][0], "ECONNREFUSED");
    assert_eq!(bench.findings[0].confidence, Confidence::Certain);
    assert_eq!(bench.lookups[0].outcome, Outcome::Unreachable);
}

#[test]
fn an_error_that_only_poll_tells_shows_in_the_cut_send() {
    let ask = |n: u64, sent| {
        let (socket, name) = first(n);
        let base = n * 5 * MS;
        vec![
            socket.open(base),
            socket.ask(base + MS, &name, "A", 1),
            socket.sends_both(base + MS + 50_000, sent),
            socket.ask(base + MS + 60_000, &name, "AAAA", 2),
            socket.close(base + MS + 70_000),
        ]
    };
    let bench = played(Bench::node(true), ask(0, 1), 3 * S);
    assert_eq!(bench.codes(), ["resolver-unreachable"]);
    let finding = &bench.findings[0];
    assert_eq!(finding.confidence, Confidence::Inferred);
    assert!(finding.inferred_from[0].starts_with("1 sendmmsg took only one"), "{finding:?}");
    assert_eq!(finding.evidence.len(), 3);
    // Somebody who merely changes his mind was told no error.
    assert!(played(Bench::node(true), ask(0, 2), 3 * S).codes().is_empty());
    let again: Vec<Step> = (0..2).flat_map(|n| ask(n, 2)).collect();
    let bench = played(Bench::node(true), again, 3 * S);
    assert!(bench.findings[0].inferred_from[0].ends_with("(poll(2) is not recorded)"));
}

/// glibc against a resolver that says nothing at all.
fn silence(resolver: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for (n, name) in [(0, first(0).1), (1, NAME.to_owned())] {
        let (socket, _) = first(n);
        let base = n * 10_010 * MS;
        steps.push(socket.open(base));
        for at in [base + MS, base + 5_003 * MS] {
            for (qtype, id) in [("A", 1), ("AAAA", 2)] {
                steps.push(socket.ask(at, &name, qtype, id));
                if resolver {
                    steps.push(Resolver::hears(&socket, at + 50_000, &name, qtype, id));
                }
            }
        }
        steps.push(socket.close(base + 10_008 * MS));
    }
    steps
}

#[test]
fn a_silent_resolver() {
    let bench = played(Bench::node(false), silence(false), 23 * S);
    assert_eq!(bench.codes(), ["resolver-timeout", "search-expansion"]);
    assert_eq!(bench.findings[0].confidence, Confidence::Inferred);
    assert_eq!(bench.findings[0].severity, Severity::Error);
    assert_eq!(bench.findings[1].caused_by, [1]);
    assert_eq!(bench.lookups[0].outcome, Outcome::Timeout);

    let bench = played(Bench::node(true), silence(true), 23 * S);
    assert_eq!(bench.codes(), ["resolver-timeout", "search-expansion"]);
    assert_eq!(bench.findings[0].class.as_deref(), Some("received"));
    assert_eq!(bench.findings[0].confidence, Confidence::Certain);
}

#[test]
fn a_cluster_name_left_alone_is_not_the_upstreams_fault() {
    let (socket, name) = first(0);
    let says = [Says::Nx; 2];
    let mut steps = socket.pair(0, MS, &name, 1, says);
    let name = format!("{NAME}.svc.cluster.local");
    let (socket, _) = first(1);
    steps.push(socket.open(2 * MS));
    steps.extend([3 * MS, 5_003 * MS].map(|at| socket.ask(at, &name, "A", 3)));
    steps.push(socket.close(10_004 * MS));
    let bench = played(Bench::node(false), steps, 13 * S);
    assert_eq!(bench.codes(), ["resolver-timeout", "search-expansion"]);
    assert_eq!(bench.findings[0].confidence, Confidence::Inferred);
}

#[test]
fn servfail_after_an_upstreams_silence_is_that_upstreams() {
    let name = format!("{NAME}.localdomain");
    let (socket, _) = first(0);
    let mut steps = vec![socket.open(0)];
    for (qtype, id) in [("A", 1), ("AAAA", 2)] {
        steps.extend([
            socket.ask(MS, &name, qtype, id),
            Resolver::hears(&socket, 2 * MS, &name, qtype, id),
            Resolver::asks(800 + u64::from(id), 2 * MS, &name, qtype, 9, UPSTREAM),
            Resolver::asks(900 + u64::from(id), 2_002 * MS, &name, qtype, 9, UPSTREAM),
            Resolver::says(&socket, 4_002 * MS, &name, qtype, id, Says::Rcode(2)),
            socket.told(4_003 * MS, &name, qtype, id, Says::Rcode(2)),
        ]);
    }
    steps.push(socket.close(4_004 * MS));
    let bench = played(Bench::node(true), steps, 9 * S);
    let codes = bench.codes();
    assert_eq!(codes[..2], ["upstream-timeout", "dns-error"], "{codes:?}");
    assert_eq!(bench.findings[1].caused_by, [1]);
    assert!(near(bench.findings[0].cost_ns, 4_002 * MS));
    assert_eq!(bench.findings[0].details["tries"].as_array().unwrap().len(), 4);
}

#[test]
fn a_second_upstream_that_answers_ends_the_first_ones_blame() {
    let name = "www.example.org";
    let (socket, _) = first(0);
    let steps = vec![
        socket.open(0),
        socket.ask(MS, name, "A", 1),
        Resolver::hears(&socket, 2 * MS, name, "A", 1),
        Resolver::asks(800, 2 * MS, name, "A", 9, UPSTREAM),
        Resolver::asks(801, 2_002 * MS, name, "A", 10, "10.99.0.54:53"),
        Resolver::hears_back(
            801,
            2_003 * MS,
            name,
            "A",
            10,
            "10.99.0.54:53",
            Says::Addr("1.2.3.4"),
        ),
        Resolver::says(&socket, 2_004 * MS, name, "A", 1, Says::Addr("1.2.3.4")),
        socket.told(2_005 * MS, name, "A", 1, Says::Addr("1.2.3.4")),
        socket.close(2_006 * MS),
    ];
    let bench = played(Bench::node(true), steps, 5 * S);
    assert_eq!(bench.codes(), ["upstream-timeout"]);
    assert!(near(bench.findings[0].cost_ns, 2_001 * MS), "{}", bench.findings[0].cost_ns);
    assert_eq!(bench.findings[0].severity, Severity::Warning);
}

#[test]
fn losses_are_told_and_mark_what_they_touch() {
    let mut bench = Bench::node(false);
    let mut steps = story(&curl(), false, 10);
    steps.push(Step {
        at: 6 * S,
        actor: crate::event::Actor::default(),
        body: Body::Loss(Loss {
            stage: LossStage::Kernel,
            source: "target_egress".into(),
            count: 12,
            first: Timestamp(ZERO + 5 * S),
            last: Timestamp(ZERO + 6 * S),
        }),
    });
    bench.play(steps).quiet_until(20 * S);
    let bench = bench.finish();
    assert!(bench.codes().contains(&"events-lost"));
    for finding in &bench.findings {
        assert_eq!(finding.caveats.is_empty(), finding.code.name() == "events-lost");
    }
    assert_eq!(bench.summary.unwrap().lost, 12);
}

/// Many lookups that fail at one instant and share a cause: what waits to be told has an end.
#[test]
fn what_waits_to_be_told_is_bounded() {
    let steps = (0..1_000_u64).flat_map(|n| {
        let socket = Socket { client: curl(), cookie: 1_000 + n, port: 20_000 + n as u16 };
        let name = format!("n{n}.example.org.");
        let at = n * 1000;
        [
            socket.open(at),
            socket.ask(at, &name, "A", 7),
            socket.ask(at + 2_500 * MS, &name, "A", 7),
            socket.told(at + 2_501 * MS, &name, "A", 7, Says::Nx),
            socket.close(at + 2_502 * MS),
        ]
    });
    let bench = played(Bench::node(false), steps.collect(), 12 * S);
    let (mut all, mut out) = (Diagnoser::new(100 * MS), Vec::new());
    let now = Timestamp(ZERO + 3 * S);
    for lookup in &bench.lookups {
        all.lookup(lookup, now, &bench.who);
        all.relieve(&bench.who, &mut out);
        let waiting: usize = all.cases.values().map(|case| case.drafts.len()).sum();
        assert!(waiting <= DRAFTS_MAX + 2, "{waiting}");
    }
    all.finish(&bench.who, &mut out);
    let silent: Vec<_> = out.iter().filter(|f| f.code == Code::ResolverTimeout).collect();
    assert!(silent.len() > 1, "{:?}", out.len());
    assert!(silent.iter().all(|f| f.details["names"].as_array().unwrap().len() <= 256));
    let told: usize = silent.iter().map(|f| f.lookups.len()).sum();
    assert_eq!(told, bench.lookups.len(), "each lookup is in one of them");
}
