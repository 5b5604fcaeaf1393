//! Events to lookups and connections: libraries, concurrency, disorder, strangers.

use proptest::prelude::*;

use super::testing::*;
use super::*;
use crate::context::Role;
use crate::event::{
    Actor, AddressCall, Call, Protocol, SocketAddress, SocketClosed, Syscall, Tcp, TcpChange,
    TcpState,
};
use crate::record::Task;
use crate::report::{ConnectionOutcome, Outcome, SearchSource, TransactionOutcome};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

fn client(pid: u32, comm: &str) -> Client {
    Client { task: Some(Task { pid, tid: pid, comm: comm.into() }), ..curl() }
}

fn socket(client: &Client, cookie: u64) -> Socket {
    Socket { client: client.clone(), cookie, port: 30_000 + cookie as u16 }
}

fn played(mut bench: Bench, steps: Vec<Step>, until: u64) -> Bench {
    bench.play(steps).quiet_until(until);
    bench.finish()
}

/// What matters of a lookup, for comparing.
fn shape(lookup: &Lookup) -> Vec<String> {
    let whole = format!("{} {:?} {}", lookup.name, lookup.outcome, lookup.duration_ns());
    let attempts = lookup.attempts.iter().map(|a| {
        let start = a.started.since(lookup.started);
        format!("{} {:?} {} {start}", a.name, a.outcome, a.transactions.len())
    });
    [whole].into_iter().chain(attempts).collect()
}

#[test]
fn the_library_shows_in_a_call_told_after_the_answer() {
    let socket = socket(&curl(), 1);
    let name = "web.critical-app.svc.cluster.local";
    let mut steps = socket.pair(MS, MS, name, 1, [Says::Addr("10.0.0.1"), Says::NoData]);
    let close = steps.pop().unwrap();
    steps.push(socket.sends_both(close.at - 5_000, 2));
    steps.push(close);
    let bench = played(Bench::node(false), steps, 10 * MS);
    assert_eq!(bench.lookups[0].library, Some("glibc"));
}

#[test]
fn the_story_is_one_lookup() {
    let bench = played(Bench::node(true), story(&curl(), true, 10), 12 * S);
    let [lookup]: &[Lookup; 1] = bench.lookups.as_slice().try_into().unwrap();
    assert_eq!((lookup.name.as_str(), lookup.outcome), (NAME, Outcome::Answered));
    assert_eq!(lookup.library, Some("glibc"));
    let outcomes: Vec<Outcome> = lookup.attempts.iter().map(|a| a.outcome).collect();
    let nx = Outcome::Nxdomain;
    assert_eq!(outcomes, [nx, nx, nx, Outcome::Timeout, Outcome::Answered]);
    assert_eq!(lookup.attempts[3].suffix.as_deref(), Some("localdomain"));
    assert_eq!(lookup.attempts[3].transactions[0].retransmits, 1);
    assert_eq!(lookup.wasted_queries(), Some(10));
    let wasted = lookup.wasted_ns().unwrap();
    assert!((10_006 * MS..10_008 * MS).contains(&wasted), "{wasted}");
    let received = lookup.attempts[3].transactions[0].tie.received.as_ref().unwrap();
    assert_eq!((received.arrivals.len(), received.tries.len()), (2, 2));
    let report = lookup.clone().report(&bench.who);
    assert_eq!(report.answers, ["10.96.100.50"]);
    assert_eq!((report.ndots, report.search_source), (Some(5), Some(SearchSource::ResolvConf)));
    assert_eq!(report.identity.pid, Some(4000));
    assert_eq!(bench.unmatched, 0);
}

#[test]
fn without_resolv_conf_the_list_is_inferred() {
    let bench = played(Bench::bare(), story(&curl(), false, 10), 13 * S);
    let [lookup]: &[Lookup; 1] = bench.lookups.as_slice().try_into().unwrap();
    assert_eq!(lookup.name, NAME);
    let search = lookup.search.as_ref().unwrap();
    assert_eq!((search.source, search.ndots), (SearchSource::Inferred, None));
    assert_eq!(search.suffixes.join(" "), SEARCH);
}

#[test]
fn cut_short_it_is_undecided() {
    let steps: Vec<Step> = story(&curl(), true, 10).into_iter().filter(|s| s.at < 4 * S).collect();
    let bench = played(Bench::node(true), steps, 4 * S);
    assert_eq!(bench.lookups[0].outcome, Outcome::Undecided);
    let open = bench.lookups[0].attempts.last().unwrap();
    assert!(open.transactions.iter().all(|t| t.outcome() == TransactionOutcome::Undecided));
    assert!(bench.findings.is_empty());
}

#[test]
fn a_only_and_twice_in_a_row() {
    let who = client(7, "ping");
    let mut steps = Vec::new();
    for n in 0..2 {
        let s = socket(&who, 20 + n);
        steps.extend([
            s.open(n * 20 * MS),
            s.ask(n * 20 * MS + 1, "www.example.org.", "A", 5),
            s.told(n * 20 * MS + MS, "www.example.org.", "A", 5, Says::Addr("192.0.2.1")),
            s.close(n * 20 * MS + 2 * MS),
        ]);
    }
    let bench = played(Bench::bare(), steps, S);
    assert_eq!(bench.lookups.len(), 2);
    assert!(bench.lookups.iter().all(|l| l.duration_ns() == MS - 1));
}

#[test]
fn case_does_not_matter() {
    let s = socket(&curl(), 20);
    let steps = vec![
        s.open(0),
        s.ask(1, "wWw.Example.ORG", "A", 5),
        s.told(MS, "www.eXample.org", "A", 5, Says::Addr("192.0.2.1")),
    ];
    let bench = played(Bench::bare(), steps, S);
    assert_eq!(bench.lookups[0].outcome, Outcome::Answered);
    assert_eq!(bench.lookups[0].attempts[0].name, "wWw.Example.ORG");
    assert_eq!(bench.lookups[0].name, "www.example.org");
}

#[test]
fn musl_ends_at_a_silent_suffix() {
    let who = Client { connects: false, ..client(8, "busybox") };
    let mut steps = Vec::new();
    for (i, suffix) in SEARCH.split(' ').take(3).enumerate() {
        let at = i as u64 * MS;
        let name = format!("{NAME}.{suffix}");
        steps.extend(socket(&who, 30 + i as u64).pair(at, 300 * US, &name, 1, [Says::Nx; 2]));
    }
    let name = format!("{NAME}.localdomain");
    let s = socket(&who, 40);
    steps.push(s.open(4 * MS));
    for at in [4 * MS, 2_504 * MS] {
        steps.extend([s.ask(at + 1, &name, "A", 7), s.ask(at + 2, &name, "AAAA", 8)]);
    }
    steps.push(s.close(5_004 * MS));
    let bench = played(Bench::node(false), steps, 8 * S);
    let [lookup]: &[Lookup; 1] = bench.lookups.as_slice().try_into().unwrap();
    assert_eq!((lookup.outcome, lookup.library), (Outcome::Timeout, Some("musl")));
    assert_eq!(lookup.attempts.len(), 4);
    assert_eq!(bench.codes(), ["upstream-timeout", "foreign-suffix", "search-expansion"]);
    assert_eq!(bench.findings[2].severity, crate::report::Severity::Error);
}

/// Go: A and AAAA from two sockets and threads, each try with a new id and socket.
#[test]
fn go_retries_on_new_sockets() {
    let threads = [(90, 91), (90, 93)].map(|(pid, tid)| Client {
        task: Some(Task { pid, tid, comm: "server".into() }),
        edns: true,
        ..curl()
    });
    let mut steps = Vec::new();
    let mut cookie = 50;
    let mut ask = |at: u64, name: &str, says: Option<[Says; 2]>, until: u64| {
        for (i, qtype) in ["A", "AAAA"].into_iter().enumerate() {
            cookie += 1;
            let s = socket(&threads[(cookie as usize / 2 + i) % 2], cookie);
            let at = at + i as u64 * 30 * US;
            steps.extend([s.open(at), s.ask(at + US, name, qtype, cookie as u16 * 7)]);
            if let Some(says) = says {
                steps.push(s.told(until, name, qtype, cookie as u16 * 7, says[i]));
            }
            steps.push(s.close(until + 100 * US + i as u64 * US));
        }
    };
    for (i, suffix) in SEARCH.split(' ').take(3).enumerate() {
        let at = i as u64 * MS;
        ask(at, &format!("{NAME}.{suffix}"), Some([Says::Nx; 2]), at + 400 * US);
    }
    let silent = format!("{NAME}.localdomain");
    ask(4 * MS, &silent, None, 5_004 * MS);
    ask(5_005 * MS, &silent, None, 10_005 * MS);
    ask(10_006 * MS, NAME, Some([Says::Addr("10.96.100.50"), Says::NoData]), 10_007 * MS);
    let bench = played(Bench::node(false), steps, 12 * S);
    let [lookup]: &[Lookup; 1] = bench.lookups.as_slice().try_into().unwrap();
    assert_eq!((lookup.outcome, lookup.library), (Outcome::Answered, Some("go")));
    let tries: Vec<u32> = lookup.attempts[3].transactions.iter().map(|t| t.try_number).collect();
    assert_eq!(tries, [1, 1, 2, 2]);
    assert_eq!(lookup.wasted_queries(), Some(10));
    assert_eq!(bench.codes(), ["upstream-timeout", "foreign-suffix", "search-expansion"]);
}

#[test]
fn threads_asking_for_the_same_name_do_not_mix() {
    let mut steps = Vec::new();
    for n in 0..2 {
        let mut who = curl();
        who.task = Some(Task { pid: 4000, tid: 4001 + n as u32, comm: "curl".into() });
        let says = [Says::Addr("10.96.100.50"), Says::NoData];
        let id = 9 + 20 * n as u16;
        steps.extend(socket(&who, 60 + n).pair(n * 12 * US, 5 * MS, NAME, id, says));
    }
    let bench = played(Bench::node(false), steps, 3 * S);
    assert_eq!(bench.lookups.len(), 2);
    assert!(bench.lookups.iter().all(|l| l.attempts[0].transactions.len() == 2));
}

#[test]
fn a_response_told_before_its_query_still_counts() {
    let s = socket(&curl(), 20);
    let steps = vec![
        s.open(0),
        s.told(100 * US, NAME, "A", 5, Says::Addr("192.0.2.1")),
        s.ask(100 * US - 3 * US, NAME, "A", 5),
        s.told(200 * US, NAME, "AAAA", 6, Says::NoData),
        s.ask(200 * US - 2 * US, NAME, "AAAA", 6),
    ];
    let mut bench = Bench::bare();
    bench.play_as_is(steps).quiet_until(S);
    let bench = bench.finish();
    assert_eq!(bench.unmatched, 0);
    assert_eq!(bench.lookups.len(), 1);
    assert_eq!(bench.lookups[0].outcome, Outcome::Answered);
}

#[test]
fn a_late_answer_joins_again_and_a_strange_one_is_counted() {
    let (slow, other) = (socket(&curl(), 20), socket(&curl(), 21));
    let steps = vec![
        slow.open(0),
        slow.ask(1, NAME, "A", 5),
        other.open(5 * S),
        other.ask(5 * S + 1, NAME, "A", 6),
        slow.told(5_100 * MS, NAME, "A", 5, Says::Addr("192.0.2.1")),
        other.told(5_200 * MS, NAME, "A", 6, Says::Addr("192.0.2.1")),
        other.told(5_300 * MS, NAME, "A", 77, Says::Addr("192.0.2.66")),
    ];
    let bench = played(Bench::bare(), steps, 7 * S);
    assert_eq!(bench.unmatched, 1);
    let all = &bench.lookups[0].attempts[0].transactions;
    assert!(all.iter().all(|t| t.outcome() == TransactionOutcome::Answered));
    assert!(matches!(all[0].gave_up, Some((_, GaveUp::Retried))));
}

#[test]
fn an_answer_from_a_rewritten_address_matches_by_cookie() {
    let s = socket(&curl(), 20);
    let mut ask = s.ask(MS, NAME, "A", 5);
    if let Body::Dns(dns) = &mut ask.body {
        dns.remote = addr("127.0.0.1:15053");
    }
    let steps = vec![s.open(0), ask, s.told(2 * MS, NAME, "A", 5, Says::Addr("192.0.2.1"))];
    let bench = played(Bench::node(false), steps, S);
    let lookup = bench.lookups[0].clone().report(&bench.who);
    assert_eq!((lookup.outcome, lookup.server), (Outcome::Answered, addr(SERVER)));
    let line = bench.lookups[0].attempts[0].transactions[0].clone().report(&bench.who);
    assert_eq!(line.server_wire, Some(addr("127.0.0.1:15053")));
}

#[test]
fn the_process_ends() {
    let s = socket(&curl(), 20);
    let exit = Step {
        at: 2 * S,
        actor: Actor { task: s.client.task.clone(), ..Actor::default() },
        body: Body::Exit,
    };
    let steps = vec![s.open(0), s.ask(1, NAME, "A", 5), exit];
    let mut bench = Bench::node(false);
    bench.play(steps);
    assert_eq!(bench.lookups.len(), 1, "told at once");
    assert_eq!(bench.lookups[0].outcome, Outcome::Timeout);
    assert_eq!(bench.lookups[0].duration_ns(), 2 * S - 1);
}

#[test]
fn time_alone_ends_a_lookup() {
    let s = socket(&curl(), 20);
    let mut bench = Bench::node(false);
    bench.play(vec![s.open(0), s.ask(1, NAME, "A", 5)]).quiet_until(10_900 * MS);
    assert!(bench.lookups.is_empty());
    bench.quiet_until(14 * S);
    assert_eq!(bench.lookups[0].outcome, Outcome::Timeout);
    assert_eq!(bench.lookups[0].duration_ns(), 10 * S);
}

/// Another pod asks the same resolver for the same and for other names.
#[test]
fn a_noisy_neighbour_leaves_no_trace() {
    let neighbour = Client { cgroup: 999, ip: "10.244.1.77", task: None, ..curl() };
    let mut steps = story(&curl(), true, 10);
    for n in 0..400 {
        let s = socket(&neighbour, 5_000 + n);
        let at = n * 25 * MS + 3;
        let name = if n % 3 == 0 { format!("{NAME}.localdomain") } else { format!("n{n}.example") };
        steps.push(Resolver::hears(&s, at, &name, "A", n as u16));
        if n % 3 != 0 {
            steps.push(Resolver::says(&s, at + MS, &name, "A", n as u16, Says::Addr("192.0.2.9")));
        }
    }
    let quiet = played(Bench::node(true), story(&curl(), true, 10), 12 * S);
    let noisy = played(Bench::node(true), steps, 12 * S);
    let text = |b: &Bench| -> Vec<_> {
        b.findings.iter().map(|f| (f.title.clone(), f.cause.clone(), f.cost_ns)).collect()
    };
    assert_eq!(text(&quiet), text(&noisy));
    assert_eq!(noisy.lookups.len(), 1);
}

#[test]
fn the_resolvers_own_queries_are_no_lookups() {
    let who = Client { cgroup: RESOLVER, task: None, ..curl() };
    let steps = socket(&who, 33).pair(0, MS, "health.check.example", 4, [Says::Nx; 2]);
    let bench = played(Bench::node(true), steps, 3 * S);
    assert!(bench.lookups.is_empty());
    assert_eq!(bench.unmatched, 0);
}

/// Go reads with read(), which is not traced: a closed port shows only as haste.
#[test]
fn haste_again_and_again_is_an_error_once_is_a_change_of_mind() {
    let who = Client { edns: true, ..client(12, "server") };
    let mut steps = Vec::new();
    for n in 0..4 {
        let (s, at) = (socket(&who, 80 + n), n * 3 * MS);
        let qtype = if n % 2 == 0 { "A" } else { "AAAA" };
        steps.extend([s.open(at), s.ask(at + 1, NAME, qtype, n as u16), s.close(at + MS)]);
    }
    let once: Vec<Step> = steps[..6].to_vec();
    let bench = played(Bench::node(false), steps, 4 * S);
    assert_eq!(bench.lookups[0].outcome, Outcome::Unreachable);
    assert_eq!(bench.codes(), ["resolver-unreachable"]);
    assert_eq!(bench.findings[0].confidence, crate::report::Confidence::Inferred);
    let bench = played(Bench::node(false), once, 4 * S);
    assert_eq!(bench.lookups[0].outcome, Outcome::Timeout);
    assert!(bench.findings.is_empty());
}

proptest! {
    /// Two processes' lookups, interleaved with any shift, are the two lookups they are alone.
    #[test]
    fn interleaving_changes_nothing(shift in 0u64..11_000_000, resolver: bool) {
        let other = client(6000, "wget");
        let shifted: Vec<Step> = story(&other, resolver, 200)
            .into_iter()
            .map(|s| Step { at: s.at + shift * US, ..s })
            .collect();
        let alone = played(Bench::node(resolver), story(&curl(), resolver, 10), 12 * S);
        let mut steps = story(&curl(), resolver, 10);
        steps.extend(shifted);
        let both = played(Bench::node(resolver), steps, 25 * S);
        let shapes: Vec<_> = both.lookups.iter().map(shape).collect();
        prop_assert_eq!(&shapes, &vec![shape(&alone.lookups[0]); 2]);
        let pids: Vec<_> = both.lookups.iter().map(|l| l.actor.task.as_ref().unwrap().pid).collect();
        prop_assert_eq!(pids, [4000, 6000]);
    }
}

const LOCAL: &str = "10.244.1.10:50000";
const REMOTE: &str = "10.96.100.50:80";
const BACKEND: &str = "10.244.1.31:8080";

fn tcp(at: u64, task: bool, body: Body) -> Step {
    let task = curl().task.filter(|_| task);
    Step {
        at,
        actor: Actor { task, cgroup: Some(CLIENT), cookie: Some(77), ..Actor::default() },
        body,
    }
}

fn connect(at: u64) -> Step {
    let body = Body::SocketAddress(SocketAddress {
        call: AddressCall::Connect,
        protocol: Protocol::Tcp,
        remote: addr(REMOTE),
        fd: Some(6),
    });
    tcp(at, true, body)
}

fn packet(at: u64, direction: Direction, syn: bool, ack: bool, rst: bool) -> Step {
    let (local, remote) = (addr(LOCAL), addr(REMOTE));
    tcp(at, false, Body::Tcp(Tcp { direction, local, remote, syn, ack, fin: false, rst }))
}

fn state(at: u64, change: TcpChange, peer_side: bool) -> Step {
    let (local, remote) =
        if peer_side { (addr(BACKEND), addr(LOCAL)) } else { (addr(LOCAL), addr(REMOTE)) };
    let body = Body::TcpState(TcpState {
        change,
        peer_side,
        local,
        remote,
        srtt_us: None,
        retransmits: 0,
    });
    let mut step = tcp(at, false, body);
    if peer_side {
        step.actor = Actor { cgroup: Some(300), cookie: Some(78), ..Actor::default() };
    }
    step
}

#[test]
fn a_connection_knows_its_name_and_backend() {
    let says = [Says::Addr("10.96.100.50"), Says::NoData];
    let mut steps = socket(&curl(), 20).pair(0, MS, NAME, 5, says);
    steps.extend([
        connect(2 * MS),
        packet(2 * MS + 10 * US, Direction::Out, true, false, false),
        packet(2 * MS + 60 * US, Direction::In, true, true, false),
        state(2 * MS + 61 * US, TcpChange::ActiveEstablished, false),
        state(2 * MS + 90 * US, TcpChange::PassiveEstablished, true),
    ]);
    let bench = played(Bench::node(true), steps, S);
    let [one]: &[Connection; 1] = bench.connections.as_slice().try_into().unwrap();
    assert_eq!((one.outcome, one.handshake_ns), (ConnectionOutcome::Established, Some(50 * US)));
    assert_eq!((one.backend, one.local), (Some(addr(BACKEND)), Some(addr(LOCAL))));
    assert_eq!(one.name.as_deref(), Some(NAME));
    assert_eq!(one.report(&bench.who).identity.comm.as_deref(), Some("curl"));
}

#[test]
fn a_refused_connection_has_its_errno() {
    let call = |result| {
        Body::Syscall(Syscall {
            call: Call::Connect,
            entered: Timestamp(ZERO),
            result: Some(result),
            fd: 6,
            size: None,
            peer: None,
        })
    };
    let blocking = vec![
        connect(0),
        packet(10 * US, Direction::Out, true, false, false),
        packet(60 * US, Direction::In, false, true, true),
        tcp(70 * US, true, call(-111)),
    ];
    let bench = played(Bench::node(true), blocking, S);
    assert_eq!(bench.connections[0].outcome, ConnectionOutcome::Refused);
    let report = bench.connections[0].report(&bench.who);
    assert_eq!(
        (report.errno.as_deref(), report.duration_ns),
        (Some("ECONNREFUSED"), Some(60 * US))
    );

    let nonblocking = vec![connect(0), tcp(US, true, call(-115))];
    let bench = played(Bench::node(true), nonblocking, S);
    assert_eq!(bench.connections[0].outcome, ConnectionOutcome::Undecided);
    assert_eq!(bench.connections[0].errno, None);
}

#[test]
fn a_connect_given_up_has_timed_out() {
    let closed = SocketClosed { protocol: Protocol::Tcp, local: None, remote: None };
    let steps = vec![
        connect(0),
        packet(10 * US, Direction::Out, true, false, false),
        packet(S, Direction::Out, true, false, false),
        tcp(3 * S, false, Body::SocketClosed(closed)),
    ];
    let bench = played(Bench::node(true), steps, 4 * S);
    assert_eq!(bench.connections[0].outcome, ConnectionOutcome::Timeout);
    assert_eq!(bench.connections[0].duration_ns, Some(3 * S));
    let summary = bench.summary.unwrap();
    assert_eq!(summary.connections["timeout"], 1);
    assert!(
        bench.who.role(&Actor { cgroup: Some(CLIENT), ..Actor::default() }) == Some(Role::Target)
    );
}
