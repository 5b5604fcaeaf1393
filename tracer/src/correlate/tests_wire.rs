//! What is seen at the door of a namespace: copies of what sockets get, whichever is told first, and what
//! never gets there.

use super::testing::*;
use super::*;
use crate::event::{Icmp, IcmpError};
use crate::report::{Confidence, Outcome, TransactionOutcome};

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
const NAME: &str = "www.example.org";
const ELSEWHERE: &str = "10.244.1.99:53";

/// The same message at the door, `before` its time.
fn at_door(step: &Step, before: u64) -> Step {
    let mut copy = step.clone();
    copy.at = copy.at.saturating_sub(before);
    if let Body::Dns(dns) = copy.body {
        copy.body = Body::Passing(dns);
    }
    copy
}

fn from(mut step: Step, server: &str) -> Step {
    if let Body::Dns(dns) | Body::Passing(dns) = &mut step.body {
        dns.remote = addr(server);
    }
    step
}

fn icmp_about(step: &Step, at: u64, error: IcmpError) -> Step {
    let Body::Dns(query) = step.body.clone() else { panic!("no query") };
    let from = "10.244.1.1".parse().unwrap();
    let icmp = Icmp { from, error, code: (3, 13), mtu: None, query };
    Step { at, body: Body::Icmp(Box::new(icmp)), actor: step.actor.clone() }
}

fn socket() -> Socket {
    Socket { client: curl(), cookie: 1, port: 40_001 }
}

const FOUND: [Says; 2] = [Says::Addr("192.0.2.1"), Says::NoData];

fn played(steps: Vec<Step>) -> Bench {
    let mut bench = Bench::node(false);
    bench.play_as_is(steps).quiet_until(20 * S);
    bench.finish()
}

/// glibc's pair, asked twice 5 s apart, the socket closed after 10 s. `answer`: what comes for a query.
fn given_up(answer: impl Fn(&Socket, u64, &str, u16) -> Vec<Step>) -> Vec<Step> {
    let s = socket();
    let mut steps = vec![s.open(0)];
    for at in [MS, 5_001 * MS] {
        for (qtype, id) in [("A", 1), ("AAAA", 2)] {
            steps.push(s.ask(at + 5 * US * u64::from(id), NAME, qtype, id));
        }
        for (qtype, id) in [("A", 1), ("AAAA", 2)] {
            steps.extend(answer(&s, at + 5 * US * u64::from(id), qtype, id));
        }
    }
    steps.push(s.close(10_006 * MS));
    steps
}

#[test]
fn copies_count_once_whichever_comes_first() {
    for late in [false, true] {
        let steps = socket().pair(0, MS, NAME, 1, FOUND);
        let mut all = Vec::new();
        for step in steps {
            let answer = matches!(&step.body, Body::Dns(dns) if dns.message.response);
            let copy = answer.then(|| at_door(&step, if late { 0 } else { 3 * US }));
            match late {
                false => all.extend(copy.into_iter().chain([step])),
                true => all.extend([step].into_iter().chain(copy)),
            }
        }
        let bench = played(all);
        let [lookup]: &[Lookup; 1] = bench.lookups.as_slice().try_into().unwrap();
        assert_eq!(lookup.outcome, Outcome::Answered);
        for t in lookup.transactions() {
            assert_eq!((t.events.len(), t.repeats.len(), t.retransmits), (2, 0, 0), "{late}");
            assert!(t.unheard.is_none());
        }
        assert_eq!((bench.unmatched, bench.codes().len()), (0, 0), "{late}");
    }
}

/// What a translation in the pod's own namespace makes of an answer is still the same one.
#[test]
fn a_copy_may_have_been_translated() {
    let steps = socket().pair(0, MS, NAME, 1, FOUND);
    let mut all = Vec::new();
    for step in steps {
        if matches!(&step.body, Body::Dns(dns) if dns.message.response) {
            all.push(from(at_door(&step, 3 * US), "127.0.0.1:15053"));
        }
        all.push(step);
    }
    let bench = played(all);
    assert_eq!((bench.unmatched, bench.codes().len()), (0, 0));
}

#[test]
fn answers_from_another_address_reach_nobody() {
    let steps = given_up(|s, at, qtype, id| {
        let told = s.told(at + 400 * US, NAME, qtype, id, Says::Addr("192.0.2.1"));
        vec![from(at_door(&told, 0), ELSEWHERE)]
    });
    let bench = played(steps);
    let [lookup]: &[Lookup; 1] = bench.lookups.as_slice().try_into().unwrap();
    assert_eq!(lookup.outcome, Outcome::Timeout);
    for t in lookup.transactions() {
        assert_eq!(t.outcome(), TransactionOutcome::Timeout);
        let unheard = t.unheard.as_ref().unwrap();
        assert_eq!((unheard.from, unheard.count), (addr(ELSEWHERE), 2));
        assert!(!unheard.dismissed);
    }
    assert_eq!(bench.codes(), ["resolver-timeout"]);
    let finding = &bench.findings[0];
    assert_eq!(finding.class.as_deref(), Some("wrong-address"));
    assert_eq!(finding.confidence, Confidence::Certain);
    assert_eq!(finding.details["answered_after_ns"], 400 * US);
    assert_eq!(finding.details["answered_from"][0], ELSEWHERE);
    assert_eq!(finding.details["answers"], 4);
    assert!(finding.cause.contains(ELSEWHERE) && finding.cause.contains("0.4 ms"), "{finding:?}");
    let summary = bench.summary.unwrap();
    assert_eq!(summary.unmatched.get("no-socket"), Some(&4));
    assert_eq!(summary.unmatched_responses, 4);
}

/// The server's own answers come as far as the interface.
#[test]
fn answers_lost_inside_the_pod() {
    let steps = given_up(|s, at, qtype, id| {
        vec![at_door(&s.told(at + 400 * US, NAME, qtype, id, Says::NoData), 0)]
    });
    let bench = played(steps);
    assert_eq!(bench.codes(), ["resolver-timeout"]);
    let finding = &bench.findings[0];
    assert_eq!(finding.class.as_deref(), Some("answer-lost-inside"));
    assert_eq!(finding.confidence, Confidence::Certain);
}

#[test]
fn an_answer_behind_the_sockets_end_is_late() {
    let mut steps = given_up(|_, _, _, _| Vec::new());
    let late = socket().told(12 * S, NAME, "A", 1, Says::NoData);
    steps.push(at_door(&late, 0));
    let bench = played(steps);
    assert_eq!(bench.codes(), ["resolver-timeout"]);
    assert_eq!(bench.findings[0].class, None, "nothing came while somebody waited");
    let summary = bench.summary.unwrap();
    assert_eq!(summary.unmatched.get("late"), Some(&1));
}

/// While the walk goes on with the next name: of a query that went out once it says how slow the server is.
#[test]
fn a_late_answer_to_an_earlier_candidate() {
    let cases = [(false, "slow-dns", 0), (true, "resolver-timeout", 1), (false, "slow-dns", 0)];
    for (number, (again, codes, late)) in cases.into_iter().enumerate() {
        let s = socket();
        let first = "www.example.org.critical-app.svc.cluster.local";
        let mut steps = vec![s.open(0), s.ask(MS, first, "A", 1)];
        if number == 2 {
            // Of a way that was found later.
            steps.push(icmp_about(&steps[1], 2 * MS, IcmpError::HostUnreachable));
        }
        if again {
            steps.push(s.ask(5_001 * MS, first, "A", 1));
        }
        steps.push(s.close(10 * S));
        let next = Socket { cookie: 2, port: 40_002, ..s.clone() };
        steps.extend([next.open(10 * S + MS), next.ask(10 * S + 2 * MS, NAME, "A", 2)]);
        steps.push(at_door(&s.told(10 * S + 200 * MS, first, "A", 1, Says::Nx), 0));
        steps.push(next.told(10 * S + 900 * MS, NAME, "A", 2, Says::Addr("192.0.2.1")));
        steps.push(next.close(10 * S + 901 * MS));
        let bench = played(steps);
        assert_eq!(bench.lookups.len(), 1, "{again}");
        assert!(bench.codes().contains(&codes), "{again}: {:?}", bench.codes());
        assert!(!bench.codes().contains(&"resolver-unreachable"));
        let summary = bench.summary.unwrap();
        assert_eq!(summary.unmatched.get("late").copied().unwrap_or(0), late, "{again}");
    }
}

#[test]
fn icmp_errors_say_why_nobody_answers() {
    let s = socket();
    let steps = given_up(|_, at, qtype, id| {
        let query = s.ask(at, NAME, qtype, id);
        vec![icmp_about(&query, at + 100 * US, IcmpError::AdminProhibited)]
    });
    let bench = played(steps);
    let [lookup]: &[Lookup; 1] = bench.lookups.as_slice().try_into().unwrap();
    assert_eq!(lookup.outcome, Outcome::Unreachable);
    assert_eq!(bench.codes(), ["resolver-unreachable"]);
    let finding = &bench.findings[0];
    assert_eq!(finding.confidence, Confidence::Certain);
    assert_eq!(finding.details["icmp"][0], "admin-prohibited from 10.244.1.1");
    assert_eq!(finding.cost_ns / S, 10);
    assert!(finding.cause.contains("admin-prohibited"), "{}", finding.cause);
}

/// Too big a packet is sent again in a smaller one: that alone says nothing about who answers.
#[test]
fn an_answer_outweighs_an_error() {
    for error in [IcmpError::TooBig, IcmpError::HostUnreachable] {
        let mut steps = socket().pair(0, MS, NAME, 1, FOUND);
        let about = icmp_about(&steps[1], 50 * US, error);
        steps.insert(3, about);
        let bench = played(steps);
        assert_eq!(bench.lookups[0].outcome, Outcome::Answered);
        assert_eq!((bench.unmatched, bench.codes().len()), (0, 0));
    }
    let s = socket();
    let steps = given_up(|_, at, qtype, id| {
        vec![icmp_about(&s.ask(at, NAME, qtype, id), at + 100 * US, IcmpError::TooBig)]
    });
    assert_eq!(played(steps).codes(), ["resolver-timeout"]);
}

/// Nobody asked: an error or an answer about it is no transaction's.
#[test]
fn strangers_are_counted_and_bounded() {
    let s = socket();
    let steps: Vec<Step> = (0..10_000)
        .map(|n| at_door(&s.told(n * 1_000, NAME, "A", n as u16, Says::NoData), 0))
        .collect();
    let mut steps = steps;
    steps.push(icmp_about(&s.ask(S, NAME, "A", 1), S, IcmpError::PortUnreachable));
    let bench = played(steps);
    assert!(bench.lookups.is_empty() && bench.codes().is_empty());
    assert_eq!(bench.summary.unwrap().unmatched.get("late"), Some(&10_000));
}
