//! Who is to blame behind the resolver: several in a row, waits that others caused, a resolver that dies.

use crate::context::{Cgroup, Role, Scope};
use crate::correlate::testing::*;
use crate::event::Body;
use crate::report::{Confidence, Finding};

const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
/// The cluster's DNS behind the node-local cache.
const SECOND: u64 = 300;
const SECOND_IP: &str = "10.244.1.30";
const NAME: &str = "www.example.org";

fn socket(n: u64) -> Socket {
    Socket { client: curl(), cookie: 100 + n, port: 45_000 + n as u16 }
}

/// The step as the second resolver sees it.
fn second(mut step: Step, cookie: u64, local: &str, remote: &str) -> Step {
    step.actor.cgroup = Some(SECOND);
    step.actor.cookie = Some(cookie);
    step.actor.task = None;
    if let Body::Dns(dns) = &mut step.body {
        (dns.local, dns.remote) = (addr(local), addr(remote));
        step.actor.local = Some(dns.local);
    }
    step
}

fn node() -> Bench {
    let mut bench = Bench::node(true);
    let path = "/kubepods/podsecond".to_owned();
    bench.fact(Body::Cgroup(Cgroup { id: SECOND, path: path.clone() }));
    bench.fact(Body::Scope(Scope {
        cgroup: SECOND,
        path,
        role: Role::Resolver,
        ..Default::default()
    }));
    bench
}

/// The client asks the cache, that asks the cluster's DNS as 10.244.1.20:33333 with another id.
fn through(n: u64, at: u64) -> Vec<Step> {
    let s = socket(n);
    let heard = Resolver::hears(&s, at + 2 * MS, NAME, "A", 40);
    let arrives = second(heard, 1, &format!("{SECOND_IP}:53"), "10.244.1.20:33333");
    vec![
        s.open(at),
        s.ask(at, NAME, "A", 7),
        Resolver::hears(&s, at + MS, NAME, "A", 7),
        Resolver::asks(500, at + 2 * MS, NAME, "A", 40, &format!("{SECOND_IP}:53")),
        arrives,
    ]
}

fn asks_upstream(cookie: u64, at: u64) -> Step {
    let step = Resolver::asks(cookie, at, NAME, "A", 41, UPSTREAM);
    second(step, cookie, &format!("{SECOND_IP}:44444"), UPSTREAM)
}

fn end(mut bench: Bench, steps: Vec<Step>, until: u64) -> Bench {
    bench.play(steps).quiet_until(until);
    bench.finish()
}

fn only(bench: &Bench) -> &Finding {
    assert_eq!(bench.codes(), ["upstream-timeout"]);
    &bench.findings[0]
}

#[test]
fn the_silence_behind_two_resolvers_is_the_last_ones() {
    let mut steps = through(0, 0);
    steps.push(asks_upstream(900, 3 * MS));
    steps.push(socket(0).close(5_001 * MS));
    let bench = end(node(), steps, 8 * S);
    let finding = only(&bench);
    assert_eq!(finding.subject, UPSTREAM);
    assert_eq!(finding.details["hops"].as_array().unwrap().len(), 1);
    assert!(finding.cause.contains("by way of cgroup /kubepods/podsecond"), "{}", finding.cause);
    assert!(finding.cost_ns.abs_diff(5_001 * MS) < 50 * MS, "{}", finding.cost_ns);
}

#[test]
fn the_second_resolver_itself_is_silent() {
    let mut steps = through(0, 0);
    steps.push(socket(0).close(5_001 * MS));
    let bench = end(node(), steps, 8 * S);
    let finding = only(&bench);
    assert_eq!(finding.subject, format!("{SECOND_IP}:53"));
    assert!(finding.cause.contains("received it there and asked nobody"), "{}", finding.cause);
}

/// The cache asks again while the cluster's DNS still waits for what it asked the first time: one silence.
#[test]
fn a_silence_that_outlasts_the_caches_patience_is_charged_whole() {
    let mut steps = through(0, 0);
    let s = socket(0);
    steps.push(asks_upstream(900, 3 * MS));
    let heard = Resolver::hears(&s, 2_001 * MS, NAME, "A", 41);
    steps.extend([
        Resolver::asks(501, 2 * S, NAME, "A", 41, &format!("{SECOND_IP}:53")),
        second(heard, 1, &format!("{SECOND_IP}:53"), "10.244.1.20:33333"),
        s.close(5_001 * MS),
    ]);
    let bench = end(node(), steps, 8 * S);
    let finding = only(&bench);
    assert_eq!(finding.subject, UPSTREAM);
    assert!(finding.cost_ns.abs_diff(5_001 * MS) < 50 * MS, "{}", finding.cost_ns);
}

/// The cache asks over TCP in vain; of the client's next question it says nothing, for want of a connection.
fn no_connection(answered: bool) -> Bench {
    let other = "api.example.org";
    let tcp = |mut step: Step| {
        if let Body::Dns(dns) = &mut step.body {
            dns.protocol = crate::event::Protocol::Tcp;
        }
        step
    };
    let (a, b) = (socket(0), socket(1));
    let cluster = format!("{SECOND_IP}:53");
    let mut steps = vec![
        a.open(0),
        a.ask(0, NAME, "A", 7),
        Resolver::hears(&a, MS, NAME, "A", 7),
        tcp(Resolver::asks(500, 2 * MS, NAME, "A", 40, &cluster)),
        a.close(5 * S),
        b.open(5 * S),
        b.ask(5 * S, other, "A", 8),
        Resolver::hears(&b, 5 * S + MS, other, "A", 8),
    ];
    if answered {
        let says = Says::Addr("192.0.2.7");
        steps.push(tcp(Resolver::hears_back(500, 6 * S, NAME, "A", 40, &cluster, says)));
    }
    steps.push(b.close(9 * S));
    end(node(), steps, 12 * S)
}

#[test]
fn a_connection_that_does_not_come_about_is_the_upstreams() {
    let bench = no_connection(false);
    assert_eq!(bench.codes(), ["upstream-timeout", "upstream-timeout"]);
    let [seen, unseen] = bench.findings.as_slice() else { panic!("two findings") };
    assert_eq!(seen.subject, unseen.subject);
    assert_eq!((seen.confidence, unseen.confidence), (Confidence::Certain, Confidence::Inferred));
    assert!(unseen.cost_ns.abs_diff(4 * S) < 50 * MS, "{}", unseen.cost_ns);
    assert!(unseen.cause.contains("most likely waited for a connection"), "{}", unseen.cause);
    // The upstream lives: why the resolver keeps the question is its own affair.
    let codes = no_connection(true).codes();
    assert_eq!(codes, ["upstream-timeout", "resolver-timeout"]);
}

#[test]
fn servfail_on_the_way_back_is_caused_by_the_silence() {
    let mut steps = through(0, 0);
    let s = socket(0);
    let fail = Says::Rcode(2);
    let back = Resolver::says(&s, 4_003 * MS, NAME, "A", 40, fail);
    steps.extend([
        asks_upstream(900, 3 * MS),
        asks_upstream(901, 2_003 * MS),
        second(back, 1, &format!("{SECOND_IP}:53"), "10.244.1.20:33333"),
        Resolver::hears_back(500, 4_004 * MS, NAME, "A", 40, &format!("{SECOND_IP}:53"), fail),
        Resolver::says(&s, 4_005 * MS, NAME, "A", 7, fail),
        s.told(4_006 * MS, NAME, "A", 7, fail),
        s.close(4_007 * MS),
    ]);
    let bench = end(node(), steps, 10 * S);
    assert_eq!(bench.codes(), ["upstream-timeout", "dns-error"]);
    assert_eq!(
        (bench.findings[0].subject.as_str(), &bench.findings[1].caused_by),
        (UPSTREAM, &vec![1])
    );
}

/// An error is that of the last one asked, whose own words are named.
#[test]
fn an_upstreams_error_is_told_with_its_upstream() {
    let mut steps = through(0, 0);
    let s = socket(0);
    let refused = Says::Rcode(5);
    let fail = Says::Rcode(2);
    let back = Resolver::says(&s, 5 * MS, NAME, "A", 40, fail);
    let told = Resolver::hears_back(900, 4 * MS, NAME, "A", 41, UPSTREAM, refused);
    steps.extend([
        asks_upstream(900, 3 * MS),
        second(told, 900, &format!("{SECOND_IP}:44444"), UPSTREAM),
        second(back, 1, &format!("{SECOND_IP}:53"), "10.244.1.20:33333"),
        Resolver::hears_back(500, 6 * MS, NAME, "A", 40, &format!("{SECOND_IP}:53"), fail),
        Resolver::says(&s, 7 * MS, NAME, "A", 7, fail),
        s.told(8 * MS, NAME, "A", 7, fail),
        s.close(9 * MS),
    ]);
    let bench = end(node(), steps, 4 * S);
    assert_eq!(bench.codes(), ["dns-error"]);
    let finding = &bench.findings[0];
    assert_eq!(finding.details["rcode"], "SERVFAIL");
    let upstreams = serde_json::json!([{ "server": UPSTREAM, "rcode": "REFUSED" }]);
    assert_eq!(finding.details["upstreams"], upstreams);
    assert!(finding.remedy[0].contains(UPSTREAM), "{:?}", finding.remedy);
}

#[test]
fn two_resolvers_in_good_health_are_silent() {
    let mut steps = through(0, 0);
    let s = socket(0);
    let says = Says::Addr("192.0.2.1");
    let back = Resolver::says(&s, 3 * MS, NAME, "A", 40, says);
    steps.extend([
        second(back, 1, &format!("{SECOND_IP}:53"), "10.244.1.20:33333"),
        Resolver::hears_back(500, 4 * MS, NAME, "A", 40, &format!("{SECOND_IP}:53"), says),
        Resolver::says(&s, 5 * MS, NAME, "A", 7, says),
        s.told(6 * MS, NAME, "A", 7, says),
        s.close(7 * MS),
    ]);
    assert!(end(node(), steps, 4 * S).codes().is_empty());
}

/// The resolver asks once for two clients; both waited for the same silence.
#[test]
fn a_wait_that_another_client_caused() {
    let (a, mut b) = (socket(0), socket(1));
    b.client.task.as_mut().unwrap().pid = 5000;
    let steps = vec![
        a.open(0),
        a.ask(0, NAME, "A", 7),
        Resolver::hears(&a, MS, NAME, "A", 7),
        Resolver::asks(500, 2 * MS, NAME, "A", 40, UPSTREAM),
        b.open(S),
        b.ask(S, NAME, "A", 8),
        Resolver::hears(&b, S + MS, NAME, "A", 8),
        a.close(5 * S),
        b.close(6 * S),
    ];
    let bench = end(node(), steps, 9 * S);
    assert_eq!(only(&bench).lookups, [1, 2]);
    assert!(only(&bench).cost_ns.abs_diff(6 * S) < 50 * MS, "{}", only(&bench).cost_ns);
}

/// What was asked a minute ago is nothing anybody still waits for.
#[test]
fn an_old_silence_does_not_explain_a_new_one() {
    let (a, b) = (socket(0), socket(1));
    let steps = vec![
        a.open(0),
        a.ask(0, NAME, "A", 7),
        Resolver::hears(&a, MS, NAME, "A", 7),
        Resolver::asks(500, 2 * MS, NAME, "A", 40, UPSTREAM),
        a.close(5 * S),
        b.open(60 * S),
        b.ask(60 * S, NAME, "A", 8),
        Resolver::hears(&b, 60 * S + MS, NAME, "A", 8),
        b.close(65 * S),
    ];
    let bench = end(node(), steps, 70 * S);
    assert_eq!(bench.codes(), ["upstream-timeout", "resolver-timeout"]);
    assert_eq!(bench.findings[0].lookups, [1]);
}

/// It dies while its upstream still had time to answer: nobody knows whether it would have.
#[test]
fn a_dying_resolver_blames_nobody() {
    let dies = |at: u64| {
        let a = socket(0);
        let listener =
            Step { at, actor: Resolver::hears(&a, 0, NAME, "A", 7).actor, ..a.close(at) };
        let mut upstream = listener.clone();
        upstream.actor.cookie = Some(500);
        upstream.at = at - 1000;
        let steps = vec![
            a.open(0),
            a.ask(0, NAME, "A", 7),
            Resolver::hears(&a, MS, NAME, "A", 7),
            Resolver::asks(500, 2 * MS, NAME, "A", 40, UPSTREAM),
            upstream,
            listener,
            a.ask(5 * S, NAME, "A", 7),
            a.close(10 * S),
        ];
        end(node(), steps, 13 * S)
    };
    assert_eq!(dies(900 * MS).codes(), ["resolver-timeout"]);
    assert_eq!(dies(4 * S).codes(), ["upstream-timeout"], "that silence was long enough");
}

/// A resolver without a cache asks the same all the time: what is open is found among all that is not.
#[test]
fn many_answered_queries_for_a_name_do_not_hide_the_silent_one() {
    let asked = |n: u64| (1_000 + n, n * 3 * MS);
    let mut steps: Vec<Step> = (0..2_000)
        .flat_map(|n| {
            let (cookie, at) = asked(n);
            let says = Says::Addr("192.0.2.7");
            [
                Resolver::asks(cookie, at, NAME, "A", 40, UPSTREAM),
                Resolver::hears_back(cookie, at + MS, NAME, "A", 40, UPSTREAM, says),
            ]
        })
        .collect();
    let (a, at) = (socket(0), asked(1_000).1);
    steps.extend([
        a.open(at),
        a.ask(at, NAME, "A", 7),
        Resolver::hears(&a, at + MS, NAME, "A", 7),
        Resolver::asks(500, at + MS + 1, NAME, "A", 41, "10.99.0.54:53"),
        a.close(at + 5 * S),
    ]);
    let mut bench = end(node(), steps, at + 9 * S);
    bench.findings.retain(|f| f.code.name() == "upstream-timeout");
    assert!(bench.findings.iter().all(|f| f.subject == "10.99.0.54:53"), "{:?}", bench.findings);
}
