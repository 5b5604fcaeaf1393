//! Costs of a run, what other settings would have saved, and leaks: each with what must not be said.

use crate::context::{Origin, Pod};
use crate::correlate::testing::*;
use crate::event::Body;
use crate::record::Task;
use crate::report::{Summary, WhatIf, WorkloadCosts};

const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;
const FOUND: [Says; 2] = [Says::Addr("10.96.100.50"), Says::NoData];
const NX: [Says; 2] = [Says::Nx; 2];

/// A client whose library nothing gives away, glibc (new ports, connected), or musl (addresses its
/// socket).
fn client(library: &str) -> Client {
    let pid = if library == "musl" { 4100 } else { 4000 };
    let comm = format!("app-{library}");
    Client { task: Some(Task { pid, tid: pid, comm }), connects: library == "glibc", ..curl() }
}

/// One lookup: these names in this order, each with what is said to it.
fn lookup(of: &Client, n: u64, names: &[(&str, [Says; 2])]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (i, (name, says)) in names.iter().enumerate() {
        let socket = Socket {
            client: of.clone(),
            cookie: 1_000 * (n + 1) + i as u64,
            port: 20_000 + (100 * n + i as u64) as u16,
        };
        let at = n * 100 * MS + i as u64 * MS;
        let id = (100 * n) as u16 + 2 * i as u16;
        steps.extend(socket.pair(at, 600_000, name, id, *says));
    }
    steps
}

/// `name` with the suffixes of [`SEARCH`] before `until`, none of which has it.
fn suffixed(name: &str, until: usize) -> Vec<String> {
    SEARCH.split(' ').take(until).map(|suffix| format!("{name}.{suffix}")).collect()
}

/// ndots:5: suffixes, then `name` itself, which answers with `last`.
fn walk(of: &Client, n: u64, name: &str, last: [Says; 2]) -> Vec<Step> {
    let before = suffixed(name, 4);
    let mut names: Vec<(&str, [Says; 2])> = before.iter().map(|n| (n.as_str(), NX)).collect();
    names.push((name, last));
    lookup(of, n, &names)
}

/// `name` is found with the suffix at `index`.
fn found_with(of: &Client, n: u64, name: &str, index: usize) -> Vec<Step> {
    let all = suffixed(name, index + 1);
    let mut names: Vec<(&str, [Says; 2])> = all.iter().map(|n| (n.as_str(), NX)).collect();
    if let Some(last) = names.last_mut() {
        last.1 = FOUND;
    }
    lookup(of, n, &names)
}

fn played(steps: Vec<Vec<Step>>) -> Bench {
    let mut bench = Bench::node(false);
    let steps: Vec<Step> = steps.into_iter().flatten().collect();
    let end = steps.iter().map(|s| s.at).max().unwrap_or(0);
    bench.play(steps).quiet_until(end + 12 * S);
    bench.finish()
}

fn summary(steps: Vec<Vec<Step>>) -> Summary {
    played(steps).summary.unwrap()
}

fn only(summary: &Summary) -> &WorkloadCosts {
    let [one] = summary.dns.workloads.as_slice() else { panic!("{:?}", summary.dns.workloads) };
    one
}

fn tried<'a>(of: &'a WorkloadCosts, change: &str) -> &'a WhatIf {
    let found = of.what_if.iter().find(|w| w.change == change);
    found.unwrap_or_else(|| panic!("{change}: {:?}", of.what_if))
}

#[test]
fn load_is_counted_once_and_by_client() {
    let (a, b) = (client("glibc"), client("musl"));
    let summary = summary(vec![
        walk(&a, 0, "api.example.org", FOUND),
        walk(&b, 1, "api.example.org", FOUND),
        found_with(&a, 2, "backend", 0),
    ]);
    let total = summary.dns.total;
    assert_eq!((total.lookups, total.queries, total.walk_queries), (3, 22, 16));
    assert_eq!(total.walk_percent, 73);
    // Every message of the bench has 40 bytes, and each query one response.
    assert_eq!((total.bytes, total.walk_bytes), (22 * 80, 16 * 80));
    assert_eq!(total.walk_time_ns, 8 * MS);
    let clients = &summary.dns.clients;
    assert_eq!(clients.len(), 2);
    assert_eq!(clients.iter().map(|c| c.load.queries).sum::<u64>(), total.queries);
    assert_eq!(clients[0].identity.comm.as_deref(), Some("app-glibc"));
    assert_eq!(clients[0].load.lookups, 2);
    assert_eq!((summary.dns.more_clients, summary.dns.unattributed_lookups), (0, 0));
}

#[test]
fn more_clients_than_are_known_stay_in_the_total() {
    let many: Vec<Vec<Step>> = (0..600)
        .map(|n| {
            let task = Some(Task { pid: n, tid: n, comm: format!("c{n}") });
            let of = Client { task, ..curl() };
            let name = format!("{NAME}.x{n}");
            let socket =
                Socket { client: of, cookie: 50_000 + u64::from(n), port: 10_000 + n as u16 };
            socket.pair(u64::from(n) * MS, 100_000, &name, n as u16, FOUND)
        })
        .collect();
    let dns = summary(many).dns;
    assert_eq!((dns.total.lookups, dns.clients.len() as u64), (600, 10));
    assert_eq!((dns.more_clients, dns.unattributed_lookups), (502, 88));
    assert!(dns.workloads.is_empty(), "nobody walked");
}

#[test]
fn a_smaller_ndots_is_recommended_where_no_name_needs_the_list() {
    let a = client("glibc");
    let summary = summary(vec![
        walk(&a, 0, "api.example.org", FOUND),
        walk(&a, 1, NAME, FOUND),
        found_with(&a, 2, "backend.other", 1),
    ]);
    let of = only(&summary);
    assert_eq!(of.ndots, Some(5));
    assert_eq!(of.libraries, ["glibc"]);
    assert_eq!((of.names, of.names_capped, of.unjudged_lookups), (3, false, 0));
    assert_eq!(of.recommended.as_deref(), Some("ndots:2"), "{}", of.why);
    let two = tried(of, "ndots:2");
    assert_eq!((two.queries_saved, two.bytes_saved, two.safe), (16, 16 * 80, true));
    assert_eq!(two.time_saved_ns, 8 * MS as i64);
    let one = tried(of, "ndots:1");
    assert!(!one.safe && one.breaks.is_empty());
    assert_eq!((one.leaks_lookups, one.leaks.as_slice()), (1, &["backend.other".to_owned()][..]));
    assert_eq!(one.queries_saved, 14, "the leaked pair is a cost");
    let three = tried(of, "ndots:3");
    assert_eq!(three.queries_saved, 8, "api.example.org has two dots only");
    let dot = tried(of, "trailing-dot");
    assert_eq!((dot.queries_saved, dot.safe), (18, true));
    assert!(tried(of, "without localdomain").safe);
    let needed = tried(of, "without svc.cluster.local");
    assert!(!needed.safe && needed.breaks == ["backend.other"], "{needed:?}");
}

#[test]
fn musl_would_lose_what_glibc_only_leaks() {
    let b = client("musl");
    let steps =
        || vec![walk(&b, 0, "api.example.org", FOUND), found_with(&b, 1, "api.shop.svc", 2)];
    let summary_musl = summary(steps());
    let of = only(&summary_musl);
    assert_eq!(of.libraries, ["musl"]);
    let two = tried(of, "ndots:2");
    assert_eq!((two.breaks_lookups, two.leaks_lookups, two.safe), (1, 0, false));
    assert_eq!(two.breaks, ["api.shop.svc"]);
    assert_eq!(of.recommended.as_deref(), Some("without localdomain"));
    assert!(of.why.contains("musl would no longer find api.shop.svc"), "{}", of.why);
    assert_eq!((of.yaml.as_ref(), of.command.as_ref()), (None, None));
    // The dot of three: nothing with three dots walks, so it saves nothing, and is not praised.
    assert!(!tried(of, "ndots:3").safe);
}

#[test]
fn an_unknown_library_may_be_musl() {
    let c = client("glibc");
    let mut steps = walk(&c, 0, "api.example.org", FOUND);
    steps.extend(found_with(&c, 1, "api.shop.svc", 2));
    // Without its connects, nothing gives the library away.
    steps.retain(|step| !matches!(step.body, Body::SocketAddress(_)));
    let summary = summary(vec![steps]);
    let of = only(&summary);
    assert!(of.libraries.is_empty(), "{:?}", of.libraries);
    assert_eq!(tried(of, "ndots:2").breaks, ["api.shop.svc"]);
    assert_ne!(of.recommended.as_deref(), Some("ndots:2"));
    assert!(of.why.contains("a client with musl would no longer find"), "{}", of.why);
}

#[test]
fn without_resolv_conf_the_names_alone_are_judged() {
    let mut bench = Bench::bare();
    bench.play(walk(&client("glibc"), 0, "api.example.org", FOUND)).quiet_until(12 * S);
    let summary = bench.finish().summary.unwrap();
    let of = only(&summary);
    assert_eq!((of.ndots, of.search.len()), (None, 4));
    assert_eq!(tried(of, "ndots:2").queries_saved, 8);
}

/// `name` is asked with the suffixes before `index`, which do not have it; then nobody answers well.
fn fails_at(of: &Client, n: u64, name: &str, index: usize) -> Vec<Step> {
    let mut all = suffixed(name, index);
    all.push(SEARCH.split(' ').nth(index).map_or(name.to_owned(), |s| format!("{name}.{s}")));
    let mut names: Vec<(&str, [Says; 2])> = all.iter().map(|n| (n.as_str(), NX)).collect();
    if let Some(last) = names.last_mut() {
        last.1 = [Says::Rcode(2); 2];
    }
    lookup(of, n, &names)
}

#[test]
fn a_name_of_which_nothing_is_known_may_need_the_list() {
    let a = client("glibc");
    let with = |more: Vec<Vec<Step>>| {
        summary([vec![walk(&a, 0, "api.example.org", FOUND)], more].concat())
    };
    let unknown = with(vec![fails_at(&a, 20, "db.prod.shop", 1)]);
    let of = only(&unknown);
    assert_eq!(of.unjudged_lookups, 1);
    let two = tried(of, "ndots:2");
    assert_eq!((two.queries_saved, two.unknown_names, two.safe), (8, 1, false), "{two:?}");
    assert!(of.why.contains("of 1 name, whose lookups failed"), "{}", of.why);
    assert_eq!(of.recommended, None);
    assert!(tried(of, "without critical-app.svc.cluster.local").safe, "it has no such name");
    assert!(!tried(of, "without svc.cluster.local").safe);
    // Its dots keep it out of the matter, it failed where the list was done with, or it came to
    // a result another time.
    for more in [
        vec![fails_at(&a, 20, "db.prod", 1)],
        vec![fails_at(&a, 20, "db.prod.shop", 4)],
        vec![fails_at(&a, 20, "db.prod.shop", 1), walk(&a, 40, "db.prod.shop", NX)],
        vec![walk(&a, 20, "db.prod.shop", FOUND), fails_at(&a, 40, "db.prod.shop", 1)],
    ] {
        let known = with(more);
        assert_eq!(only(&known).unjudged_lookups, 1);
        assert_eq!(only(&known).recommended.as_deref(), Some("ndots:2"), "{}", only(&known).why);
    }
}

#[test]
fn quiet_runs_have_no_advice() {
    let a = client("glibc");
    let summary = summary(vec![found_with(&a, 0, "backend", 0), lookup(&a, 1, &[(NAME, FOUND)])]);
    assert_eq!(summary.dns.total.walk_queries, 0);
    assert!(summary.dns.workloads.is_empty());
    assert_eq!(summary.leaks, crate::report::Leaks::default());
}

#[test]
fn names_that_exist_nowhere_are_not_saved_by_glibc() {
    let summary_of = |library| summary(vec![walk(&client(library), 0, "a.b.example", NX)]);
    let glibc = summary_of("glibc");
    assert_eq!(tried(only(&glibc), "ndots:2").queries_saved, 0);
    assert_eq!(only(&glibc).recommended.as_deref(), Some("without localdomain"));
    let musl = summary_of("musl");
    assert_eq!(tried(only(&musl), "ndots:2").queries_saved, 8, "musl would not walk at all");
}

#[test]
fn what_the_first_suffix_may_have_made_is_not_dropped() {
    let a = client("glibc");
    let summary = summary(vec![
        walk(&a, 0, "api.example.org", FOUND),
        // `backend`, or the complete name with a dot at its end.
        found_with(&a, 1, "backend", 0),
    ]);
    let first = tried(only(&summary), "without critical-app.svc.cluster.local").clone();
    assert_eq!((first.breaks_lookups, first.safe), (1, false), "{first:?}");
}

#[test]
fn the_owner_gets_yaml_and_a_command() {
    const UID: &str = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";
    let mut bench = Bench::node(false);
    let path = format!("/kubepods/pod{UID}");
    bench.fact(Body::Cgroup(crate::context::Cgroup { id: CLIENT, path }));
    bench.fact(Body::Pod(Pod {
        uid: UID.into(),
        namespace: "critical-app".into(),
        name: "client-5d9c7".into(),
        owner: Some("Deployment/client".into()),
        origin: Origin::Api,
        ..Pod::default()
    }));
    bench.play(walk(&client("glibc"), 0, "api.example.org", FOUND)).quiet_until(12 * S);
    let summary = bench.finish().summary.unwrap();
    let of = only(&summary);
    assert_eq!(of.subject, "Deployment/client in critical-app");
    assert_eq!((of.owner.as_deref(), of.pod.as_deref()), (Some("Deployment/client"), None));
    let command = of.command.as_ref().unwrap();
    assert!(
        command.starts_with("kubectl -n critical-app patch deployment client -p '{"),
        "{command}"
    );
    assert!(command.contains(r#"{"name":"ndots","value":"2"}"#), "{command}");
    assert!(of.yaml.as_ref().unwrap().contains("value: \"2\""), "{of:?}");
}

#[test]
fn leaks_are_counted_by_kind() {
    let a = client("glibc");
    let summary = summary(vec![
        walk(&a, 0, NAME, FOUND),              // .localdomain behind a cluster name
        walk(&a, 1, "api.example.org", FOUND), // through the cluster's suffixes
        walk(&a, 2, "nowhere.example.org", NX),
    ]);
    let leaks = summary.leaks;
    assert_eq!((leaks.foreign_suffix.lookups, leaks.foreign_suffix.queries), (1, 2));
    assert_eq!(leaks.foreign_suffix.names, [format!("{NAME}.localdomain")]);
    assert_eq!((leaks.external_names.lookups, leaks.external_names.queries), (1, 6));
    assert_eq!((leaks.short_names.queries, leaks.cluster_names.queries), (0, 0));
}

#[test]
fn a_short_name_asked_as_typed_first_leaks() {
    let mut bench = Bench::node(false);
    bench.fact(Body::ResolvConf(crate::context::ResolvConf {
        cgroup: Some(CLIENT),
        path: "/etc/resolv.conf".into(),
        text: Some(format!("search {SEARCH}\nnameserver 10.96.0.10\noptions ndots:1\n")),
        ..Default::default()
    }));
    let first = format!("backend.shop.{}", SEARCH.split(' ').next().unwrap());
    let second = "backend.shop.svc.cluster.local";
    let steps = lookup(&client("glibc"), 0, &[("backend.shop", NX), (&first, NX), (second, FOUND)]);
    bench.play(steps).quiet_until(12 * S);
    let summary = bench.finish().summary.unwrap();
    assert_eq!(summary.leaks.short_names.names, ["backend.shop"]);
    assert_eq!(summary.leaks.short_names.queries, 2);
    let of = only(&summary);
    assert_eq!(of.ndots, Some(1));
    let two = tried(of, "ndots:2");
    assert_eq!((two.queries_saved, two.safe), (2, true), "a larger ndots ends the leak");
}

/// Examples of names are the same in every run, whatever order a map has.
#[test]
fn the_names_of_a_workload_come_in_one_order() {
    let clients = (0..8).map(|n| {
        let task = Some(Task { pid: 4000 + n, tid: 4000 + n, comm: format!("app-{n}") });
        let of = Client { task, ..curl() };
        found_with(&of, n.into(), &format!("backend-{n}"), 1)
    });
    let bench = played(clients.collect());
    assert_eq!(bench.lookups.len(), 8);
    let identity = bench.who.identity(&bench.lookups[0].actor);
    let told: std::collections::BTreeSet<_> = (0..32)
        .map(|_| {
            let mut load = super::load::Load::default();
            for lookup in &bench.lookups {
                load.lookup(lookup, Some("cluster.local"), &bench.who);
            }
            load.profile(&identity).needs("svc.cluster.local").unwrap()
        })
        .collect();
    assert_eq!(told.len(), 1, "{told:?}");
}
