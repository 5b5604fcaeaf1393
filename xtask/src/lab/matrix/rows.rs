//! The table: what happens, to whom, and what svctrace owes. What is owed follows from what the client
//! does (measured, by resolver library) and what each code means (docs/findings.md), never from output.

use super::{Expect, How, Incident, Row, Scene, paths};
use crate::lab::clients::POOLS;
use crate::lab::{Resolver, Setup, Upstream};

/// Every scene.
pub fn scenes() -> Vec<Scene> {
    vec![
        dnsmasq(),
        paths::broken_paths(),
        paths::refused(),
        unbound_silent(),
        unbound_errors(),
        forwarder(),
        autopath(),
        older_pools(),
        resolver_elsewhere(),
        noisy_neighbour(),
        resolver_dies(),
        resolver_dies_later(),
        paths::ipv6_only(),
        paths::node_local(),
        paths::slow(),
        paths::long_answers(),
        paths::watched_wire(),
    ]
}

pub(super) const fn scene(name: &'static str, resolver: Resolver, rows: Vec<Row>) -> Scene {
    Scene {
        name,
        setup: Setup {
            leak: false,
            resolver,
            upstream: Upstream::Zones,
            ipv6: false,
            node_local: false,
        },
        args: &[],
        neighbour: false,
        resolver_dies_ms: None,
        rows,
    }
}

/// The same expectation for several clients.
pub(super) fn each(incident: Incident, clients: &[&'static str], expect: Expect) -> Vec<Row> {
    clients.iter().map(|client| Row { incident, client, expect }).collect()
}

pub(super) const EVERYBODY: &[&str] =
    &["glibc", "musl", "go", "c-ares", "node-lookup", "node-resolve", "java", "python"];
/// One of each resolver library that knows a search list.
pub(super) const LIBRARIES: &[&str] = &["glibc", "musl", "go", "c-ares"];
pub(super) const FEW: &[&str] = &["glibc", "musl", "go"];

/// A suffix of the node's network leaked, and its upstream stays silent.
pub(super) const STORY: Expect =
    Expect::codes(&["upstream-timeout", "foreign-suffix", "search-expansion"])
        .costs("upstream-timeout");
/// The same behind a forwarder that says SERVFAIL after three tries of two seconds, for which glibc waits.
pub(super) const TOLD: Expect =
    Expect::codes(&["upstream-timeout", "dns-error", "foreign-suffix", "search-expansion"])
        .costs("upstream-timeout");
/// A suffix leaked, its zone is answered with an error, and the client goes on at once.
pub(super) const ERROR_PASSED: Expect = Expect::codes(&["dns-error"]);
/// The same, and the client gives up: at once, or (musl) after asking again until its time is over.
pub(super) const ERROR_FATAL: Expect =
    Expect::codes(&["dns-error", "foreign-suffix", "search-expansion"]);
pub(super) const ERROR_WAITED: Expect = ERROR_FATAL.costs("search-expansion");

pub(super) const COMPLETE: Incident = Incident::healthy("a complete name");
pub(super) const SUFFIX_FINE: Incident =
    Incident { search: "fine.example", ..Incident::healthy("foreign suffix, its zone answers") };
pub(super) const SUFFIX_SILENT: Incident = Incident {
    title: "foreign suffix, its upstream is silent",
    search: "silent.example",
    ..SUFFIX_FINE
};
pub(super) const SUFFIX_SERVFAIL: Incident = Incident {
    title: "foreign suffix, its upstream says SERVFAIL",
    search: "servfail.example",
    ..SUFFIX_FINE
};
pub(super) const SUFFIX_REFUSED: Incident = Incident {
    title: "foreign suffix, its upstream says REFUSED",
    search: "refused.example",
    ..SUFFIX_FINE
};
pub(super) const OUTSIDE_FINE: Incident =
    Incident { name: "www-{}.fine.example.", ..Incident::healthy("a name outside") };
pub(super) const OUTSIDE_SILENT: Incident = Incident {
    title: "a name outside, its upstream is silent",
    name: "www-{}.silent.example.",
    ..OUTSIDE_FINE
};
pub(super) const OUTSIDE_SERVFAIL: Incident = Incident {
    title: "a name outside, its upstream says SERVFAIL",
    name: "www-{}.servfail.example.",
    ..OUTSIDE_FINE
};
pub(super) const OUTSIDE_REFUSED: Incident = Incident {
    title: "a name outside, its upstream says REFUSED",
    name: "www-{}.refused.example.",
    ..OUTSIDE_FINE
};

fn dnsmasq() -> Scene {
    let not_there = Incident {
        title: "a Service that does not exist",
        twin: COMPLETE.title,
        name: "no-such-{}.critical-app.svc.cluster.local",
        ..COMPLETE
    };
    let outside = Expect::codes(&["upstream-timeout"]).costs("upstream-timeout");
    let rows = [
        each(SUFFIX_FINE, EVERYBODY, Expect::NOTHING),
        each(
            SUFFIX_SILENT,
            &["glibc", "musl", "go", "c-ares", "node-lookup", "java", "python"],
            STORY,
        ),
        // It knows no search list.
        each(SUFFIX_SILENT, &["node-resolve"], Expect::NOTHING),
        each(SUFFIX_SERVFAIL, &["glibc", "go", "java"], ERROR_PASSED),
        each(SUFFIX_SERVFAIL, &["musl"], ERROR_WAITED),
        each(SUFFIX_SERVFAIL, &["c-ares"], ERROR_FATAL),
        each(SUFFIX_REFUSED, &["glibc", "go", "python"], ERROR_PASSED),
        each(SUFFIX_REFUSED, &["musl"], ERROR_WAITED),
        each(SUFFIX_REFUSED, &["c-ares"], ERROR_FATAL),
        each(OUTSIDE_FINE, LIBRARIES, Expect::NOTHING),
        each(OUTSIDE_SILENT, LIBRARIES, outside),
        each(OUTSIDE_SERVFAIL, LIBRARIES, ERROR_PASSED),
        each(OUTSIDE_REFUSED, LIBRARIES, ERROR_PASSED),
        each(COMPLETE, EVERYBODY, Expect::NOTHING),
        each(not_there, EVERYBODY, Expect::codes(&["nxdomain"])),
    ];
    scene("dnsmasq", Resolver::Dnsmasq, rows.concat())
}

/// What unbound waits depends on what it learnt of the upstream: nothing else may be asked of it here.
fn unbound_silent() -> Scene {
    let rows = [
        each(SUFFIX_SILENT, FEW, STORY.may(&["dns-error"])),
        each(
            Incident {
                twin: SUFFIX_FINE.title,
                title: SUFFIX_FINE.title,
                search: "",
                ..SUFFIX_FINE
            },
            FEW,
            Expect::NOTHING,
        ),
    ];
    scene("unbound, a silent upstream", Resolver::Unbound, rows.concat())
}

fn unbound_errors() -> Scene {
    let rows = [
        each(SUFFIX_FINE, FEW, Expect::NOTHING),
        each(SUFFIX_SERVFAIL, &["glibc", "go"], ERROR_PASSED),
        each(SUFFIX_SERVFAIL, &["musl"], ERROR_WAITED),
        each(OUTSIDE_FINE, FEW, Expect::NOTHING),
        each(OUTSIDE_SERVFAIL, FEW, ERROR_PASSED),
        each(OUTSIDE_REFUSED, FEW, ERROR_PASSED),
    ];
    scene("unbound", Resolver::Unbound, rows.concat())
}

fn forwarder() -> Scene {
    let outside = Expect::codes(&["upstream-timeout"]).costs("upstream-timeout");
    let swallowed = Incident {
        title: "the resolver swallows AAAA",
        name: "www-{}.swallowed.example.",
        options: "ndots:5 timeout:2 attempts:2",
        ..OUTSIDE_FINE
    };
    let elsewhere = Incident {
        title: "the resolver answers from another address",
        name: "www-{}.elsewhere.example.",
        ..swallowed
    };
    let silent = Expect::codes(&["resolver-timeout"]).costs("resolver-timeout");
    let rows = [
        each(SUFFIX_FINE, EVERYBODY, Expect::NOTHING),
        each(SUFFIX_SILENT, &["glibc", "java"], TOLD),
        each(SUFFIX_SILENT, &["musl", "go"], STORY),
        each(SUFFIX_SILENT, &["c-ares"], STORY.may(&["dns-error"])),
        each(SUFFIX_SERVFAIL, &["glibc", "go"], ERROR_PASSED),
        each(SUFFIX_SERVFAIL, &["musl"], ERROR_WAITED),
        each(SUFFIX_SERVFAIL, &["c-ares"], ERROR_FATAL),
        each(SUFFIX_REFUSED, &["glibc", "go"], ERROR_PASSED),
        each(SUFFIX_REFUSED, &["musl"], ERROR_WAITED),
        each(SUFFIX_REFUSED, &["c-ares"], ERROR_FATAL),
        each(OUTSIDE_FINE, LIBRARIES, Expect::NOTHING),
        each(OUTSIDE_SILENT, &["musl", "go"], outside),
        each(OUTSIDE_SILENT, &["glibc", "c-ares"], outside.may(&["dns-error"])),
        each(OUTSIDE_SERVFAIL, LIBRARIES, ERROR_PASSED),
        each(OUTSIDE_REFUSED, LIBRARIES, ERROR_PASSED),
        each(swallowed, LIBRARIES, silent),
        each(elsewhere, &["glibc", "go", "c-ares"], silent),
        each(elsewhere, &["musl"], silent),
    ];
    scene("CoreDNS's timing", Resolver::Forwarder, rows.concat())
}

fn autopath() -> Scene {
    let walked = Incident {
        name: "www-{}.fine.example",
        ..Incident::healthy("the resolver walks the list: a CNAME answers the first query")
    };
    let rows =
        [each(walked, LIBRARIES, Expect::NOTHING), each(COMPLETE, LIBRARIES, Expect::NOTHING)];
    scene("CoreDNS's timing, autopath", Resolver::Autopath, rows.concat())
}

/// Clients with an open socket each, the resolver and its sockets to the upstream: all in use before svctrace.
fn older_pools() -> Scene {
    let pool = Incident {
        how: How::Older,
        options: "ndots:5 timeout:2 attempts:4",
        title: "a pool older than svctrace",
        twin: "a pool older than svctrace",
        ..OUTSIDE_FINE
    };
    let pool_silent = Incident {
        title: "a pool older than svctrace, upstream silent",
        name: "www-{}.silent.example.",
        options: "ndots:5 timeout:2 attempts:2",
        ..pool
    };
    let pool_refused = Incident {
        title: "a pool older than svctrace, upstream says REFUSED",
        name: "www-{}.refused.example.",
        ..pool
    };
    let answered_after = Incident {
        title: "asked before svctrace came, answered after",
        name: "www-{}.slow.example.",
        how: How::Asked,
        ..pool
    };
    let asked_again = Incident {
        title: "asked before svctrace came, asked again after, upstream silent",
        name: "www-{}.silent.example.",
        options: "ndots:5 timeout:2 attempts:3",
        ..answered_after
    };
    let told_after = Incident {
        title: "asked before svctrace came, SERVFAIL after",
        options: pool.options,
        ..asked_again
    };
    let silent = Expect::codes(&["upstream-timeout"]);
    let rows = [
        each(pool, &POOLS, Expect::NOTHING),
        each(pool_silent, &POOLS, silent.costs("upstream-timeout").may(&["dns-error"])),
        each(pool_refused, &POOLS, ERROR_PASSED),
        each(answered_after, &POOLS, Expect::NOTHING),
        each(asked_again, &["pool-udp"], silent),
        // What was asked over TCP is not asked again.
        each(told_after, &["pool-tcp"], Expect::NOTHING),
    ];
    scene("CoreDNS's timing, all older than svctrace", Resolver::Keeping, rows.concat())
}

/// As if the resolver ran on another node.
fn resolver_elsewhere() -> Scene {
    let rows = [
        each(SUFFIX_FINE, LIBRARIES, Expect::NOTHING),
        each(SUFFIX_SILENT, LIBRARIES, STORY.inferred()),
        each(SUFFIX_SERVFAIL, &["glibc", "go"], ERROR_PASSED),
    ];
    let mut scene = scene("dnsmasq, not traced", Resolver::Dnsmasq, rows.concat());
    scene.args = &["--no-resolver"];
    scene
}

fn noisy_neighbour() -> Scene {
    let rows = [
        each(SUFFIX_FINE, FEW, Expect::NOTHING),
        each(SUFFIX_SILENT, FEW, STORY),
        each(COMPLETE, FEW, Expect::NOTHING),
    ];
    let mut scene = scene("dnsmasq, a noisy neighbour", Resolver::Dnsmasq, rows.concat());
    scene.neighbour = true;
    scene
}

/// Clients wait for an answer that takes 1.5 s when the resolver is killed; then its pod refuses.
fn resolver_dies() -> Scene {
    let dies = Incident {
        title: "the resolver dies during a query",
        name: "www-{}.slow.example.",
        options: "ndots:5 timeout:2 attempts:2",
        ..OUTSIDE_FINE
    };
    // glibc's socket hears of it when it asks again, Go asks from a new one, musl's hears of nothing.
    let unreachable =
        Expect::codes(&["resolver-unreachable"]).inferred().costs("resolver-unreachable");
    let both = Expect::codes(&["resolver-timeout", "resolver-unreachable"]).apart();
    let silent = Expect::codes(&["resolver-timeout"]).costs("resolver-timeout");
    let rows = [
        each(dies, &["glibc"], unreachable),
        each(dies, &["go"], both),
        each(dies, &["musl"], silent),
        each(OUTSIDE_FINE, FEW, Expect::NOTHING),
    ];
    let mut scene = scene("dnsmasq, killed", Resolver::Dnsmasq, rows.concat());
    scene.resolver_dies_ms = Some(700);
    scene
}

/// The same while a pool older than svctrace waits: its socket hears of it when it asks again.
fn resolver_dies_later() -> Scene {
    let pool = Incident {
        how: How::Older,
        title: "a pool older than svctrace",
        twin: "a pool older than svctrace",
        ..OUTSIDE_FINE
    };
    let dies = Incident {
        title: "the resolver dies during a query of a pool older than svctrace",
        name: "www-{}.slow.example.",
        options: "ndots:5 timeout:2 attempts:2",
        ..pool
    };
    let unreachable = Expect::codes(&["resolver-unreachable"]).costs("resolver-unreachable");
    let rows = [each(dies, &["pool-udp"], unreachable), each(pool, &["pool-udp"], Expect::NOTHING)];
    let mut scene = scene("dnsmasq, killed while a pool waits", Resolver::Dnsmasq, rows.concat());
    scene.resolver_dies_ms = Some(700);
    scene
}
