//! Each resolver library's walks, alone and interleaved with others: the same lookups every time, and
//! the outcome that the library returned.

use proptest::prelude::*;
use proptest::sample::select;

use super::testing::*;
use super::walks::{Library, PAIRS, Plan, Player, Told};
use super::*;
use crate::event::Actor;
use crate::report::Outcome;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
const NDOTS: usize = 5;

/// What was seen of a process, as its library would tell it.
fn told(lookup: &Lookup) -> Told {
    Told {
        pid: lookup.actor.task.as_ref().map_or(0, |task| task.pid),
        typed: (lookup.attempts.len() > 1).then(|| lookup.name.clone()),
        found: lookup.outcome == Outcome::Answered,
        attempts: lookup.attempts.iter().map(|a| (a.name.clone(), a.datagrams())).collect(),
        duration: lookup.duration_ns(),
    }
}

/// Events of all, and what must be seen.
fn played_all(plans: &[Plan]) -> (Vec<Step>, Vec<Told>) {
    let (mut steps, mut expected) = (Vec::new(), Vec::new());
    let mut ended = 0;
    for plan in plans {
        let mut plan = plan.clone();
        if plan.follows {
            plan.start += ended;
        }
        let (its, told) = Player::play(&plan, SEARCH, NDOTS);
        ended = its.iter().map(|s| s.at).max().unwrap();
        steps.extend(its);
        expected.push(told);
    }
    (steps, expected)
}

/// The lookups that were seen, and what they were.
fn seen(plans: &[Plan]) -> (Vec<Lookup>, Vec<Told>) {
    let (steps, expected) = played_all(plans);
    let last = steps.iter().map(|s| s.at).max().unwrap();
    let mut bench = Bench::node(false);
    bench.play(steps).quiet_until(last + 12 * S);
    (bench.finish().lookups, expected)
}

fn name() -> impl Strategy<Value = String> {
    select(vec![
        "web",
        "web.shop",
        "api.example.org",
        "backend.critical-app.svc.cluster.local",
        "a.b.c.d.example.org",
        "one.two.three.four.five.example",
    ])
    .prop_map(str::to_owned)
}

fn plan() -> impl Strategy<Value = Plan> {
    let library = select(vec![Library::Glibc, Library::Musl, Library::Go, Library::CAres]);
    let script =
        prop::collection::vec(prop_oneof![3 => Just(PAIRS[0]), 2 => select(PAIRS.to_vec())], 1..6);
    let times = (1..40 * MS, 50 * US..20 * MS, select(vec![250 * MS, 410 * MS, 2 * S]));
    (library, name(), script, times).prop_map(|(library, typed, script, times)| Plan {
        library,
        typed,
        pid: 4000,
        tid: 4001,
        script,
        start: times.0,
        follows: false,
        latency: times.1,
        base: 10_000,
        first_wait: times.2,
    })
}

/// Several, in one process or in several of the pod. Those of one process have a thread each; a
/// library that shares its threads or merges equal questions asks for different names.
fn plans() -> impl Strategy<Value = Vec<Plan>> {
    let spread = prop_oneof![Just(1u64), Just(1_000), Just(12_000)];
    let how = (0..3u32, any::<u64>(), any::<bool>(), any::<bool>());
    let all = prop::collection::vec((plan(), how), 2..7);
    (all, spread).prop_map(|(all, spread)| {
        let mut plans: Vec<Plan> = Vec::new();
        for (n, (mut plan, (process, shift, follows, same))) in all.into_iter().enumerate() {
            let n = n as u64;
            plan.pid = 4000 + 1000 * process;
            plan.tid = plan.pid + 10 * n as u32;
            plan.start += shift % (spread * MS);
            plan.base = 10_000 + n * 100;
            let shares = |l: Library| matches!(l, Library::Go | Library::CAres);
            if shares(plan.library) {
                plan.typed = format!("n{n}-{}", plan.typed);
            }
            if let Some(before) = plans.last().filter(|_| follows) {
                (plan.library, plan.pid, plan.tid) = (before.library, before.pid, before.tid);
                plan.follows = true;
                if same || shares(plan.library) {
                    plan.typed = before.typed.clone();
                }
            }
            plans.push(plan);
        }
        plans
    })
}

/// The library is the right one or none.
fn right_library(plans: &[Plan], lookups: &[Lookup]) -> Result<(), TestCaseError> {
    for lookup in lookups {
        let pid = lookup.actor.task.as_ref().unwrap().pid;
        let of_process = || plans.iter().filter(|p| p.pid == pid).map(|p| p.library);
        let Some(library) = lookup.library else {
            // Its habits show in each lookup, but for c-ares with one name and no calls told.
            prop_assert!(of_process().any(|l| l == Library::CAres), "{:?}", lookup);
            continue;
        };
        prop_assert!(of_process().any(|l| l.name() == library), "{}: {:?}", library, lookup);
    }
    Ok(())
}

fn must_be(plans: &[Plan]) -> Result<(), TestCaseError> {
    let (lookups, mut expected) = seen(plans);
    right_library(plans, &lookups)?;
    let mut got: Vec<Told> = lookups.iter().map(told).collect();
    got.sort();
    expected.sort();
    prop_assert_eq!(got, expected);
    Ok(())
}

/// nginx and its like: other servers than the pod's, no search list, in a process whose libc is busy.
#[test]
fn a_resolver_of_its_own_is_not_the_libcs() {
    let plan = Plan {
        library: Library::Glibc,
        typed: "api.example.org".to_owned(),
        pid: 4000,
        tid: 4000,
        script: vec![PAIRS[0]],
        start: 0,
        follows: false,
        latency: 300 * US,
        base: 10_000,
        first_wait: S,
    };
    let (mut steps, libc) = Player::play(&plan, SEARCH, NDOTS);
    let task = Some(crate::record::Task { pid: 4000, tid: 4000, comm: "nginx".into() });
    let own = Socket { client: Client { task, ..curl() }, cookie: 77, port: 7_777 };
    let mut its = own.pair(1, 200 * US, "api.example.org", 7, [Says::Addr("192.0.2.1"), Says::Nx]);
    for step in &mut its {
        let there = addr("192.0.2.53:53");
        match &mut step.body {
            Body::Dns(dns) => dns.remote = there,
            Body::SocketAddress(hook) => hook.remote = there,
            _ => {}
        }
    }
    steps.extend(its);
    let mut bench = Bench::node(false);
    bench.play(steps).quiet_until(5 * S);
    let bench = bench.finish();
    let [one, other]: &[Lookup; 2] = bench.lookups.as_slice().try_into().unwrap();
    assert_eq!((one.name.as_str(), one.outcome), ("api.example.org", Outcome::Answered));
    assert_eq!((one.attempts.len(), one.library), (1, None));
    let report = one.clone().report(&bench.who);
    assert_eq!((report.search, report.search_source, report.ndots), (None, None, None));
    assert_eq!(told(other), libc);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A packet capture has no threads, no sockets and no closes.
    #[test]
    fn interleaved_walks_on_the_wire_alone(plans in plans()) {
        let mut plans = plans;
        for (n, plan) in (0u64..).zip(&mut plans) {
            let one_by_one = matches!(plan.library, Library::Glibc | Library::Go);
            plan.library = if one_by_one { plan.library } else { Library::Glibc };
            if !plan.follows {
                plan.typed = format!("w{n}-{}", plan.typed);
            }
        }
        for n in 1..plans.len() {
            if plans[n].follows {
                (plans[n].library, plans[n].typed) = (plans[n - 1].library, plans[n - 1].typed.clone());
            }
        }
        let (mut steps, mut expected) = played_all(&plans);
        steps.retain(|s| matches!(s.body, Body::Dns(_)));
        for step in &mut steps {
            step.actor = Actor { cgroup: step.actor.cgroup, local: step.actor.local, ..Actor::default() };
        }
        let last = steps.iter().map(|s| s.at).max().unwrap();
        let mut bench = Bench::node(false);
        bench.play(steps).quiet_until(last + 15 * S);
        let mut got: Vec<Told> = bench.finish().lookups.iter().map(told).collect();
        // When a client closed its socket is not seen.
        for told in got.iter_mut().chain(&mut expected) {
            (told.pid, told.duration) = (0, 0);
        }
        got.sort();
        expected.sort();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn a_walk_is_one_lookup(plan in plan()) {
        must_be(&[plan])?;
    }

    #[test]
    fn interleaved_walks_are_what_each_is_alone(plans in plans()) {
        must_be(&plans)?;
    }
}
