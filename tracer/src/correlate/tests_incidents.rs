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

const PROXY: &str = "127.0.0.1:15053";
const BEHIND: &str = "10.244.1.20:53";

/// Port 53 is redirected to a process of the pod, which asks the resolver: two datagrams for each of
/// the client's. Answered with `says`, or asked again after 5 s and given up after 10.
fn through_a_proxy(n: u64, name: &str, says: Option<[Says; 2]>, redirected: bool) -> Vec<Step> {
    let at = 20 * S * n;
    let client = Socket { client: curl(), cookie: 10 * n + 1, port: 41_000 + n as u16 };
    let task = Some(Task { pid: 5_000, tid: 5_000, comm: "envoy".into() });
    let mut steps = vec![client.open(at)];
    let query = |step| if redirected { said_by(step, PROXY) } else { step };
    for (i, qtype) in ["A", "AAAA"].into_iter().enumerate() {
        let id = 10 * n as u16 + i as u16;
        let sidecar = Client { task: task.clone(), ..curl() };
        let cookie = 10 * n + 5 + i as u64;
        let proxy = Socket { client: sidecar, cookie, port: 42_000 + cookie as u16 };
        let at = at + MS + i as u64 * 10 * US;
        let mut open = proxy.open(at + 50 * US);
        if let Body::SocketAddress(hook) = &mut open.body {
            hook.remote = addr(BEHIND);
        }
        steps.extend([open, query(client.ask(at, name, qtype, id))]);
        steps.push(said_by(proxy.ask(at + 60 * US, name, qtype, id), BEHIND));
        let Some(says) = says else {
            let again = at + 5 * S;
            steps.push(query(client.ask(again, name, qtype, id)));
            steps.push(said_by(proxy.ask(again + 60 * US, name, qtype, id), BEHIND));
            continue;
        };
        steps.push(said_by(proxy.told(at + 300 * US, name, qtype, id, says[i]), BEHIND));
        steps.push(proxy.close(at + 310 * US));
        // As the kernel tells it: already in the name of the server that was asked.
        let mut reply = client.told(at + 320 * US, name, qtype, id, says[i]);
        steps.push(reply.clone());
        if let Body::Dns(dns) = &mut reply.body {
            std::mem::swap(&mut dns.local, &mut dns.remote);
            dns.direction = Direction::Out;
        }
        (reply.at, reply.actor.cookie) = (at + 315 * US, Some(4_999));
        steps.push(reply);
    }
    let waits = if says.is_some() { 2 * MS } else { 10 * S };
    steps.push(client.close(at + waits));
    steps
}

#[test]
fn what_a_proxy_of_the_pod_forwards_is_no_lookup() {
    let name = format!("{NAME}.cluster.local");
    let mut steps = through_a_proxy(0, &name, Some([Says::Nx; 2]), true);
    let found = Some([Says::Addr("10.96.100.50"), Says::NoData]);
    // Also asked once more, when the proxy's question is long answered.
    for n in 1..3 {
        steps.extend(through_a_proxy(n, NAME, found, true));
    }
    // It asks whether its upstream lives, and it has a lookup of its own.
    let proxy =
        Client { task: Some(Task { pid: 5_000, tid: 5_000, comm: "envoy".into() }), ..curl() };
    let own = Socket { client: proxy, cookie: 99, port: 43_000 };
    let of_its_own = |step| said_by(step, BEHIND);
    let at = 59 * S;
    steps.push(of_its_own(own.ask(at, ".", "NS", 77)));
    steps.push(of_its_own(own.told(at + MS, ".", "NS", 77, Says::Nx)));
    steps.push(of_its_own(own.ask(at + 2 * MS, OUTSIDE, "A", 78)));
    steps.push(of_its_own(own.told(at + 3 * MS, OUTSIDE, "A", 78, Says::Addr("192.0.2.1"))));
    steps.insert(0, own.open(0));
    let bench = played(steps, 62 * S);
    let comms: Vec<_> =
        bench.lookups.iter().map(|l| l.actor.task.as_ref().unwrap().comm.as_str()).collect();
    assert_eq!(comms, ["curl", "curl", "curl", "envoy"]);
    assert_eq!(bench.lookups[3].name, OUTSIDE);
    assert_eq!(bench.unmatched, 0);
    assert_eq!(bench.findings.iter().filter(|f| f.lookups.len() > 1).count(), 0);
    let tie = |l: &Lookup| l.transactions().all(|t| t.tie.received.is_some());
    assert!(bench.lookups[..3].iter().all(tie));
}

#[test]
fn a_silence_behind_a_proxy_of_the_pod_is_charged_once() {
    let bench = played(through_a_proxy(0, OUTSIDE, None, true), 20 * S);
    let [lookup]: &[Lookup; 1] = bench.lookups.as_slice().try_into().unwrap();
    for t in lookup.transactions() {
        let received = t.tie.received.as_ref().unwrap();
        assert_eq!((received.arrivals.len(), received.tries.len()), (2, 2));
        assert_eq!(received.tries[0].server, addr(BEHIND));
    }
    assert_eq!(bench.codes(), ["upstream-timeout"]);
    assert_eq!(bench.findings[0].lookups, [1]);
}

/// Two processes that ask the same of the resolver are two clients, whoever waits.
#[test]
fn without_a_redirection_each_process_is_a_client() {
    let steps = through_a_proxy(0, OUTSIDE, Some([Says::Nx; 2]), false);
    let bench = played(steps, 9 * S);
    let mut pids: Vec<_> =
        bench.lookups.iter().map(|l| l.actor.task.as_ref().unwrap().pid).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids, [4_000, 5_000]);
}

/// Go asks for both types from sockets of their own, after 5 s again; the second sockets close at once.
/// The resolver received the first queries, and closed its own socket meanwhile if it `dies`.
fn closed_at_once(dies: bool) -> Vec<Step> {
    let go = Client {
        task: Some(Task { pid: 4_200, tid: 4_201, comm: "lookup-go".into() }),
        edns: true,
        ..curl()
    };
    let mut steps = Vec::new();
    for (i, qtype) in ["A", "AAAA"].into_iter().enumerate() {
        let n = i as u64;
        let of = |n: u64| Socket { client: go.clone(), cookie: 10 + n, port: 44_000 + n as u16 };
        let (first, second) = (of(n), of(n + 5));
        let (at, again) = (MS + 200 * US * n, 5_001 * MS + 200 * US * n);
        steps.extend([first.open(at), first.ask(at + 10 * US, OUTSIDE, qtype, 50 + i as u16)]);
        steps.push(Resolver::hears(&first, at + 40 * US, OUTSIDE, qtype, 50 + i as u16));
        steps.push(first.close(again - 10 * US));
        steps.extend([second.open(again), second.ask(again + US, OUTSIDE, qtype, 60 + i as u16)]);
        steps.push(second.close(again + 150 * US));
    }
    if dies {
        let listener = Resolver::hears(&Socket { client: go, cookie: 1, port: 1 }, 0, "x", "A", 1);
        let mut closes = steps.last().cloned().unwrap();
        (closes.at, closes.actor) = (2 * S, listener.actor);
        steps.push(closes);
    }
    steps
}

#[test]
fn sockets_that_close_at_once_tell_of_a_dead_resolver() {
    let play = |dies| {
        let mut bench = Bench::node(true);
        bench.play(closed_at_once(dies)).quiet_until(9 * S);
        bench.finish()
    };
    let bench = play(true);
    let outcomes: Vec<_> = bench.lookups[0].transactions().map(Transaction::outcome).collect();
    let (timeout, unreachable) = (TransactionOutcome::Timeout, TransactionOutcome::Unreachable);
    assert_eq!(bench.lookups.len(), 1);
    assert_eq!(outcomes.iter().filter(|o| **o == timeout).count(), 2);
    assert_eq!(outcomes.iter().filter(|o| **o == unreachable).count(), 2);
    let mut codes = bench.codes();
    codes.sort_unstable();
    assert_eq!(codes, ["resolver-timeout", "resolver-unreachable"]);
    // A request that was cancelled, as far as anybody can tell.
    assert_eq!(play(false).codes(), ["resolver-timeout"]);
}
