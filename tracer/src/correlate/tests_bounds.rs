//! Transactions that are not as they should be: strays by reason, one datagram seen twice, and
//! more of them than there is room for.

use super::testing::*;
use super::*;
use crate::event::Actor;

const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
const US: u64 = 1_000;

fn socket(n: u64) -> Socket {
    Socket { client: curl(), cookie: 100 + n, port: 46_000 }
}

fn played(steps: Vec<Step>, until: u64) -> Bench {
    let mut bench = Bench::node(false);
    bench.play(steps).quiet_until(until);
    bench.finish()
}

fn from(mut step: Step, server: &str) -> Step {
    if let Body::Dns(dns) = &mut step.body {
        dns.remote = addr(server);
    }
    step
}

#[test]
fn strays_are_counted_by_reason() {
    let s = socket(0);
    let name = "a.example.org";
    let says = Says::Addr("192.0.2.1");
    let steps = vec![
        s.open(0),
        s.ask(MS, name, "A", 1),
        s.told(2 * MS, name, "A", 99, says),
        s.told(3 * MS, "b.example.org", "A", 1, says),
        from(s.told(4 * MS, name, "A", 1, Says::Addr("192.0.2.66")), "10.96.0.66:53"),
        s.told(4 * MS + 500 * US, name, "A", 1, says),
    ];
    let bench = played(steps, 3 * S);
    let summary = bench.summary.as_ref().unwrap();
    let wanted = [("unknown-id", 1), ("wrong-question", 1), ("wrong-server", 1)];
    for (reason, n) in wanted {
        assert_eq!(summary.unmatched.get(reason), Some(&n), "{reason}: {:?}", summary.unmatched);
    }
    assert_eq!(summary.unmatched_responses, 3);
    let lookup = bench.lookups[0].clone().report(&bench.who);
    assert_eq!(lookup.answers, ["192.0.2.1"], "that of the server that was asked");
}

#[test]
fn an_answer_after_the_lookup_was_told_is_late() {
    let s = socket(0);
    let name = "a.critical-app.svc.cluster.local";
    let steps =
        vec![s.open(0), s.ask(MS, name, "A", 1), s.told(20 * S, name, "A", 1, Says::NoData)];
    let bench = played(steps, 25 * S);
    assert_eq!(bench.summary.unwrap().unmatched.get("late"), Some(&1));
}

#[test]
fn one_datagram_at_two_hooks_is_one() {
    let (s, name) = (socket(0), "a.example.org");
    let says = Says::Addr("192.0.2.1");
    let steps = vec![
        s.open(0),
        s.ask(MS, name, "A", 1),
        s.ask(MS + 2 * US, name, "A", 1),
        s.told(2 * MS, name, "A", 1, says),
        s.told(2 * MS + 2 * US, name, "A", 1, says),
    ];
    let bench = played(steps, 3 * S);
    let t = &bench.lookups[0].attempts[0].transactions[0];
    assert_eq!((t.retransmits, t.sends.len(), t.repeats.len()), (0, 1, 0));
    assert_eq!(bench.unmatched, 0);
}

#[test]
fn names_in_mixed_case_match_and_show_as_sent() {
    let s = socket(0);
    let steps = vec![
        s.open(0),
        s.ask(MS, "wWw.ExAmPlE.oRg", "A", 1),
        s.told(2 * MS, "www.example.org", "A", 1, Says::Addr("192.0.2.1")),
        s.ask(3 * MS, "WWW.example.ORG", "AAAA", 2),
        s.told(4 * MS, "WWW.example.ORG", "AAAA", 2, Says::NoData),
    ];
    let bench = played(steps, 3 * S);
    assert_eq!((bench.unmatched, bench.lookups.len()), (0, 1));
    let names = bench.lookups[0].transactions().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(names, ["wWw.ExAmPlE.oRg", "WWW.example.ORG"]);
}

/// The id is used again while the socket lives: what is forgotten is the older query.
#[test]
fn a_query_with_the_id_of_an_older_one_is_remembered_in_its_own_right() {
    let s = socket(0);
    let name = |n: u64| format!("n{n}.critical-app.svc.cluster.local");
    let steps = vec![
        s.open(0),
        s.ask(MS, &name(0), "A", 1),
        s.ask(60 * S, &name(1), "A", 1),
        s.ask(125 * S, &name(2), "A", 2),
        s.told(150 * S, &name(1), "A", 1, Says::NoData),
    ];
    let bench = played(steps, 155 * S);
    assert_eq!(bench.summary.unwrap().unmatched.get("late"), Some(&1));
}

#[test]
fn of_many_other_answers_those_nearest_to_a_silent_name_are_kept() {
    let mut steps = Vec::new();
    for n in 0..300 {
        let s = socket(1 + n);
        let name = if n == 250 { "b.example.org".to_owned() } else { format!("n{n}.example.net") };
        let at = n * MS;
        steps.extend([s.open(at), s.ask(at, &name, "A", 7)]);
        steps.extend([
            s.told(at + US, &name, "A", 7, Says::Addr("192.0.2.1")),
            s.close(at + 2 * US),
        ]);
    }
    let s = socket(0);
    steps.extend([s.open(400 * MS), s.ask(400 * MS, "a.example.org", "A", 1)]);
    let bench = played(steps, 20 * S);
    let silent = bench.lookups.iter().find(|l| l.name == "a.example.org").unwrap();
    let others = &silent.attempts[0].transactions[0].tie.others;
    assert_eq!(others.len(), 64);
    assert_eq!(others[63].name.as_ref(), "b.example.org", "in order of time");
}

fn connect(n: u64, at: u64) -> Step {
    let mut step = socket(n).open(at);
    if let Body::SocketAddress(call) = &mut step.body {
        call.protocol = crate::event::Protocol::Tcp;
        call.remote = addr("192.0.2.7:80");
    }
    step
}

/// The keys of later connects sort before those of earlier ones.
#[test]
fn of_too_many_connects_the_oldest_is_told() {
    const OPEN_MAX: u64 = 16_384;
    let mut bench = Bench::node(false);
    for n in 0..OPEN_MAX {
        bench.play_as_is(vec![connect(2 * OPEN_MAX - n, n)]);
    }
    assert_eq!(bench.connections.len(), 0);
    bench.play_as_is(vec![connect(1, OPEN_MAX)]);
    let told: Vec<_> = bench.connections.iter().map(|c| c.actor.cookie).collect();
    assert_eq!(told, [Some(100 + 2 * OPEN_MAX)]);
    let refused = socket(1).fails(OPEN_MAX + MS, crate::event::Call::Connect, 111);
    bench.play_as_is(vec![refused]).quiet_until(S);
    assert_eq!(bench.connections.len(), 2, "the newest goes on");
    assert_eq!(bench.connections[1].outcome, crate::report::ConnectionOutcome::Refused);
}

/// 300,000 queries that nobody answers, from one process with ever new names.
#[test]
fn the_open_transactions_are_bounded_and_what_is_given_up_is_counted() {
    const QUERIES: u64 = 300_000;
    let who = Identifier::default();
    let mut correlator = Correlator::default();
    let (mut done, mut most, mut lookups) = (Vec::new(), (0, 0), 0);
    for n in 0..QUERIES {
        let s = Socket { client: curl(), cookie: n / 2, port: 1024 + (n / 2 % 60_000) as u16 };
        let name = format!("n{}.example.org", n / 2);
        let qtype = if n % 2 == 0 { "A" } else { "AAAA" };
        let step = s.ask(n * US, &name, qtype, n as u16);
        let mut event = Event {
            number: n + 1,
            at: Timestamp(ZERO + step.at),
            cpu: None,
            probe: None,
            actor: Actor { task: s.client.task.clone(), ..step.actor },
            body: step.body,
        };
        correlator.observe(&mut event, &who, &mut done);
        let (transactions, open) = correlator.clients.open_now();
        most = (most.0.max(transactions), most.1.max(open));
        lookups += done.len() as u64;
        assert!(done.drain(..).all(|c| match c {
            Conclusion::Lookup(l) => l.outcome == crate::report::Outcome::Undecided,
            Conclusion::Connection(_) => false,
        }));
    }
    assert!((99_000..=100_000).contains(&most.0), "{most:?}");
    assert!(correlator.evicted() >= 100_000 / 2, "{}", correlator.evicted());
    correlator.finish(&who, &mut done);
    assert_eq!(lookups + done.len() as u64, QUERIES / 2, "each is told");
    assert_eq!(correlator.clients.open_now(), (0, 0));
}
