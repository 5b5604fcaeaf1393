//! Who is to blame behind the resolver: several in a row, waits that others caused, a resolver that dies.

use crate::context::{Cgroup, Role, Scope};
use crate::correlate::testing::*;
use crate::event::Body;
use crate::report::Finding;

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
