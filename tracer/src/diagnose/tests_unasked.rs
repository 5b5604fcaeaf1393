//! Clients that ask over TCP and get no connection to their nameserver.

use crate::context;
use crate::correlate::testing::*;
use crate::event::{
    Actor, AddressCall, Body, Call, Protocol, SocketAddress, SocketClosed, Syscall,
};
use crate::record::Timestamp;
use crate::report::{Confidence, Severity};

const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

fn node(options: &str) -> Bench {
    let mut bench = Bench::node(true);
    bench.fact(Body::ResolvConf(context::ResolvConf {
        cgroup: Some(CLIENT),
        path: "/etc/resolv.conf".into(),
        text: Some(format!("search {SEARCH}\nnameserver 10.96.0.10\noptions {options}\n")),
        ..Default::default()
    }));
    bench
}

fn actor(cookie: u64) -> Actor {
    let curl = curl();
    Actor { task: curl.task, cgroup: Some(CLIENT), cookie: Some(cookie), ..Actor::default() }
}

/// A connect from `at` to `server` that fails with `errno` after `wait`; without one it is given up then.
fn connects(cookie: u64, server: &str, at: u64, wait: u64, errno: Option<i64>) -> Vec<Step> {
    let (actor, remote) = (actor(cookie), addr(server));
    let (call, protocol) = (AddressCall::Connect, Protocol::Tcp);
    let begun = Body::SocketAddress(SocketAddress { call, protocol, remote, fd: Some(5) });
    let ended = match errno {
        Some(errno) => Body::Syscall(Syscall {
            call: Call::Connect,
            entered: Timestamp(ZERO + at),
            result: Some(-errno),
            fd: 5,
            size: None,
            peer: None,
        }),
        None => Body::SocketClosed(SocketClosed { protocol, local: None, remote: Some(remote) }),
    };
    vec![Step { at, actor: actor.clone(), body: begun }, Step { at: at + wait, actor, body: ended }]
}

fn over_tcp(mut step: Step) -> Step {
    if let Body::Dns(dns) = &mut step.body {
        dns.protocol = Protocol::Tcp;
    }
    step
}

fn run(mut bench: Bench, steps: Vec<Step>) -> Bench {
    bench.play(steps).quiet_until(12 * S);
    bench.finish()
}

#[test]
fn refused_over_tcp() {
    let steps =
        [connects(10, SERVER, 0, MS, Some(111)), connects(11, SERVER, 2 * MS, MS, Some(111))];
    let bench = run(node("use-vc"), steps.concat());
    assert_eq!(bench.codes(), ["resolver-unreachable"]);
    let finding = &bench.findings[0];
    assert_eq!(
        (finding.class.as_deref(), finding.confidence),
        (Some("connection"), Confidence::Certain)
    );
    assert_eq!((finding.subject.as_str(), finding.cost_ns), (SERVER, 2 * MS));
    assert!(finding.lookups.is_empty() && !finding.evidence.is_empty());
    assert_eq!(finding.details["connections"], 2);
    let clients = finding.details["clients"].as_array().unwrap();
    assert_eq!((clients.len(), clients[0]["name"].is_null()), (1, true));
    assert!(finding.cause.contains("2 connections"), "{}", finding.cause);
    assert!(finding.cause.contains("came back as ECONNREFUSED"), "{}", finding.cause);
}

#[test]
fn silent_over_tcp() {
    let steps =
        [connects(10, SERVER, 0, 3 * S, Some(110)), connects(11, SERVER, 3 * S, 2 * S, None)];
    let bench = run(node("ndots:5 use-vc"), steps.concat());
    assert_eq!(bench.codes(), ["resolver-timeout"]);
    let finding = &bench.findings[0];
    assert_eq!(finding.cost_ns, 5 * S);
    assert_eq!(finding.details["clients"][0]["waited_ns"], 5 * S);
    let summary = bench.summary.unwrap();
    assert_eq!(summary.time_ns["resolver-timeout"], 5 * S);
}

/// A health check of the DNS server's port, another server, a client that changed its mind.
#[test]
fn other_connections_are_no_lookups() {
    let refused =
        |options, server| run(node(options), connects(10, server, 0, MS, Some(111))).codes();
    assert!(refused("ndots:5", SERVER).is_empty());
    assert!(refused("use-vc", "10.96.0.99:53").is_empty());
    assert!(refused("use-vc", "10.96.0.10:80").is_empty());
    let cancelled = run(node("use-vc"), connects(10, SERVER, 0, 100 * MS, None));
    assert!(cancelled.codes().is_empty());
}

/// The next nameserver takes the connection at once.
#[test]
fn the_next_nameserver_helps() {
    let s = Socket { client: curl(), cookie: 11, port: 45_000 };
    let name = "www.example.org";
    let mut steps = connects(10, SERVER, 0, MS, Some(111));
    steps.extend([
        s.open(MS + 1),
        over_tcp(s.ask(2 * MS, name, "A", 7)),
        over_tcp(s.told(3 * MS, name, "A", 7, Says::Addr("192.0.2.1"))),
    ]);
    // Told at once where the socket is closed, after a grace where it is not.
    let closed = SocketClosed { protocol: Protocol::Tcp, local: None, remote: Some(addr(SERVER)) };
    let close = Step { at: MS, actor: actor(10), body: Body::SocketClosed(closed) };
    let mut closing = steps.clone();
    closing.insert(2, close);
    for steps in [steps, closing] {
        let bench = run(node("use-vc"), steps);
        assert_eq!(bench.codes(), ["resolver-unreachable"]);
        assert_eq!(bench.findings[0].severity, Severity::Info);
        assert_eq!(bench.findings[0].details["clients"][0]["failed"], false);
    }
    let alone = run(node("use-vc"), connects(10, SERVER, 0, MS, Some(111)));
    assert_eq!(alone.findings[0].severity, Severity::Error);
    assert_eq!(alone.findings[0].details["clients"][0]["failed"], true);
}

/// Who asked over TCP before does it again.
#[test]
fn known_by_what_it_did() {
    let s = Socket { client: curl(), cookie: 9, port: 45_000 };
    let name = "www.example.org";
    let mut steps = vec![
        s.open(0),
        over_tcp(s.ask(MS / 2, name, "A", 7)),
        over_tcp(s.told(MS, name, "A", 7, Says::Addr("192.0.2.1"))),
    ];
    steps.extend(connects(10, SERVER, S, MS, Some(111)));
    let bench = run(node("ndots:5"), steps);
    assert_eq!(bench.codes(), ["resolver-unreachable"]);
    assert_eq!(bench.findings[0].confidence, Confidence::Inferred);
    assert!(bench.findings[0].inferred_from[0].contains("over TCP before"));
}
