//! The table: what happens, to whom, and what svctrace owes. What is owed follows from what the client
//! does (measured, by resolver library) and what each code means (docs/findings.md), never from output.

use super::{Expect, How, Incident, PodFault, Row, Scene};
use crate::lab::{Resolver, Setup, Upstream};

/// Every scene.
pub fn scenes() -> Vec<Scene> {
    vec![
        dnsmasq(),
        broken_paths(),
        unbound_silent(),
        unbound_errors(),
        forwarder(),
        autopath(),
        resolver_elsewhere(),
        noisy_neighbour(),
        resolver_dies(),
        ipv6_only(),
        node_local(),
    ]
}

const fn scene(name: &'static str, resolver: Resolver, rows: Vec<Row>) -> Scene {
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
fn each(incident: Incident, clients: &[&'static str], expect: Expect) -> Vec<Row> {
    clients.iter().map(|client| Row { incident, client, expect, pending: None }).collect()
}

/// Rows that svctrace still gets wrong.
fn pending(rows: Vec<Row>, why: &'static str) -> Vec<Row> {
    rows.into_iter().map(|row| Row { pending: Some(why), ..row }).collect()
}

const SPLIT: &str = "c-ares asks from two threads: one lookup is taken for several";
const MUSL_WAITS: &str = "musl waits on after an error; only the time to the response is charged";
const KILLED: &str = "a killed resolver's own question is taken for an upstream's silence";

/// For every client, where only c-ares has a walk that is split.
fn walking(incident: Incident, clients: &[&'static str], expect: Expect) -> Vec<Row> {
    let split =
        |row: Row| if row.client == "c-ares" { Row { pending: Some(SPLIT), ..row } } else { row };
    each(incident, clients, expect).into_iter().map(split).collect()
}

const EVERYBODY: &[&str] =
    &["glibc", "musl", "go", "c-ares", "node-lookup", "node-resolve", "java", "python"];
/// One of each resolver library that knows a search list.
const LIBRARIES: &[&str] = &["glibc", "musl", "go", "c-ares"];
const FEW: &[&str] = &["glibc", "musl", "go"];

/// A suffix of the node's network leaked, and its upstream stays silent.
const STORY: Expect = Expect::codes(&["upstream-timeout", "foreign-suffix", "search-expansion"])
    .costs("upstream-timeout");
/// The same behind a forwarder that says SERVFAIL after three tries of two seconds, for which glibc waits.
const TOLD: Expect =
    Expect::codes(&["upstream-timeout", "dns-error", "foreign-suffix", "search-expansion"])
        .costs("upstream-timeout");
/// A suffix leaked, its zone is answered with an error, and the client goes on at once.
const ERROR_PASSED: Expect = Expect::codes(&["dns-error"]);
/// The same, and the client gives up: at once, or (musl) after asking again until its time is over.
const ERROR_FATAL: Expect = Expect::codes(&["dns-error", "foreign-suffix", "search-expansion"]);
const ERROR_WAITED: Expect = ERROR_FATAL.costs("search-expansion");

const COMPLETE: Incident = Incident::healthy("a complete name");
const SUFFIX_FINE: Incident =
    Incident { search: "fine.example", ..Incident::healthy("foreign suffix, its zone answers") };
const SUFFIX_SILENT: Incident = Incident {
    title: "foreign suffix, its upstream is silent",
    search: "silent.example",
    ..SUFFIX_FINE
};
const SUFFIX_SERVFAIL: Incident = Incident {
    title: "foreign suffix, its upstream says SERVFAIL",
    search: "servfail.example",
    ..SUFFIX_FINE
};
const SUFFIX_REFUSED: Incident = Incident {
    title: "foreign suffix, its upstream says REFUSED",
    search: "refused.example",
    ..SUFFIX_FINE
};
const OUTSIDE_FINE: Incident =
    Incident { name: "www-{}.fine.example.", ..Incident::healthy("a name outside") };
const OUTSIDE_SILENT: Incident = Incident {
    title: "a name outside, its upstream is silent",
    name: "www-{}.silent.example.",
    ..OUTSIDE_FINE
};
const OUTSIDE_SERVFAIL: Incident = Incident {
    title: "a name outside, its upstream says SERVFAIL",
    name: "www-{}.servfail.example.",
    ..OUTSIDE_FINE
};
const OUTSIDE_REFUSED: Incident = Incident {
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
        walking(SUFFIX_FINE, EVERYBODY, Expect::NOTHING),
        walking(
            SUFFIX_SILENT,
            &["glibc", "musl", "go", "c-ares", "node-lookup", "java", "python"],
            STORY,
        ),
        // It knows no search list.
        each(SUFFIX_SILENT, &["node-resolve"], Expect::NOTHING),
        each(SUFFIX_SERVFAIL, &["glibc", "go", "java"], ERROR_PASSED),
        pending(each(SUFFIX_SERVFAIL, &["musl"], ERROR_WAITED), MUSL_WAITS),
        walking(SUFFIX_SERVFAIL, &["c-ares"], ERROR_FATAL),
        each(SUFFIX_REFUSED, &["glibc", "go", "python"], ERROR_PASSED),
        pending(each(SUFFIX_REFUSED, &["musl"], ERROR_WAITED), MUSL_WAITS),
        walking(SUFFIX_REFUSED, &["c-ares"], ERROR_FATAL),
        each(OUTSIDE_FINE, LIBRARIES, Expect::NOTHING),
        each(OUTSIDE_SILENT, LIBRARIES, outside),
        each(OUTSIDE_SERVFAIL, LIBRARIES, ERROR_PASSED),
        each(OUTSIDE_REFUSED, LIBRARIES, ERROR_PASSED),
        walking(COMPLETE, EVERYBODY, Expect::NOTHING),
        each(not_there, EVERYBODY, Expect::codes(&["nxdomain"])),
    ];
    scene("dnsmasq", Resolver::Dnsmasq, rows.concat())
}

/// 28 suffixes more make the 32 that Kubernetes allows, with one to spare.
const MANY_FINE: &str = "d01.fine.example d02.fine.example d03.fine.example d04.fine.example \
    d05.fine.example d06.fine.example d07.fine.example d08.fine.example d09.fine.example \
    d10.fine.example d11.fine.example d12.fine.example d13.fine.example d14.fine.example \
    d15.fine.example d16.fine.example d17.fine.example d18.fine.example d19.fine.example \
    d20.fine.example d21.fine.example d22.fine.example d23.fine.example d24.fine.example \
    d25.fine.example d26.fine.example d27.fine.example d28.fine.example d29.fine.example";
const MANY_SLUGGISH: &str = "d01.sluggish.example d02.sluggish.example d03.sluggish.example \
    d04.sluggish.example d05.sluggish.example d06.sluggish.example d07.sluggish.example \
    d08.sluggish.example d09.sluggish.example d10.sluggish.example d11.sluggish.example \
    d12.sluggish.example d13.sluggish.example d14.sluggish.example d15.sluggish.example \
    d16.sluggish.example d17.sluggish.example d18.sluggish.example d19.sluggish.example \
    d20.sluggish.example d21.sluggish.example d22.sluggish.example d23.sluggish.example \
    d24.sluggish.example d25.sluggish.example d26.sluggish.example d27.sluggish.example \
    d28.sluggish.example d29.sluggish.example";

/// Faults of a path, kinds of resolv.conf, ways to run: one pod each, in one lab.
fn broken_paths() -> Scene {
    let lost = Incident {
        title: "all queries are lost on the way",
        options: "ndots:5 timeout:1 attempts:2",
        fault: Some(PodFault::AllLost),
        ..COMPLETE
    };
    let lost_walk = Expect::codes(&["resolver-timeout", "search-expansion"]).inferred();
    let lost_at_once = Expect::codes(&["resolver-timeout"]).inferred().costs("resolver-timeout");
    let ndots_1 = Incident {
        options: "ndots:1",
        ..Incident {
            title: "ndots:1, complete name",
            twin: "ndots:1, complete name",
            ..SUFFIX_SILENT
        }
    };
    let ndots_2 = Incident {
        options: "ndots:2",
        title: "ndots:2, complete name",
        twin: "ndots:2, complete name",
        ..SUFFIX_SILENT
    };
    let short = Incident {
        name: "svc-{}",
        title: "ndots:1, short name",
        twin: "ndots:1, short name",
        ..ndots_1
    };
    let trap = Incident {
        title: "ndots:2, a name without the cluster's domain",
        name: "svc-{}.critical-app.svc",
        search: "",
        ..ndots_2
    };
    let many = Incident { search: MANY_FINE, ..Incident::healthy("32 search domains") };
    let many_sluggish = Incident {
        title: "32 search domains, most answered after 40 ms",
        search: MANY_SLUGGISH,
        ..many
    };
    let older = Incident {
        how: How::Older,
        title: "client older than svctrace",
        twin: "client older than svctrace",
        ..SUFFIX_FINE
    };
    let older_silent = Incident {
        title: "client older than svctrace, upstream silent",
        search: "silent.example",
        ..older
    };
    let host = Incident {
        how: How::HostNetwork,
        title: "client on the host's network",
        twin: "client on the host's network",
        ..SUFFIX_FINE
    };
    let host_silent = Incident {
        title: "client on the host's network, upstream silent",
        search: "silent.example",
        ..host
    };
    let one_port = Incident {
        fault: Some(PodFault::OnePort),
        ..Incident::healthy("every query from one port")
    };
    let stale = Incident {
        title: "a stale conntrack entry leads to a resolver that is gone",
        fault: Some(PodFault::StaleConntrack),
        options: lost.options,
        ..one_port
    };
    let proxied = Incident {
        fault: Some(PodFault::LocalProxy),
        title: "port 53 redirected to a proxy in the pod",
        twin: "port 53 redirected to a proxy in the pod",
        ..SUFFIX_FINE
    };
    let proxied_silent = Incident {
        title: "port 53 redirected to a proxy in the pod, upstream silent",
        search: "silent.example",
        ..proxied
    };
    // No single suffix costs what a finding needs; the walk does.
    let walk =
        Expect::codes(&["search-expansion"]).costs("search-expansion").may(&["foreign-suffix"]);
    let rows = [
        each(lost, &["glibc", "go"], lost_walk.costs("resolver-timeout")),
        each(lost, &["musl", "c-ares"], lost_at_once),
        walking(COMPLETE, LIBRARIES, Expect::NOTHING),
        each(ndots_1, LIBRARIES, Expect::NOTHING),
        each(ndots_2, LIBRARIES, Expect::NOTHING),
        each(short, LIBRARIES, Expect::NOTHING),
        walking(trap, &["glibc", "go", "c-ares"], Expect::NOTHING),
        // It tries no suffix for a name with so many dots.
        each(trap, &["musl"], Expect::codes(&["nxdomain"])),
        each(many, LIBRARIES, Expect::NOTHING),
        each(many_sluggish, &["glibc", "go"], walk),
        // They ignore a search line as long as this.
        each(many_sluggish, &["musl", "c-ares"], Expect::NOTHING),
        walking(older, &["python", "c-ares"], Expect::NOTHING),
        walking(older_silent, &["python", "c-ares"], STORY),
        each(host, FEW, Expect::NOTHING),
        each(host_silent, FEW, STORY),
        each(one_port, &["glibc", "musl"], Expect::NOTHING),
        each(stale, &["glibc"], lost_walk.costs("resolver-timeout")),
        each(stale, &["musl"], lost_at_once),
        each(proxied, FEW, Expect::NOTHING),
        each(proxied_silent, &["glibc"], TOLD),
        each(proxied_silent, &["musl", "go"], STORY),
    ];
    scene("dnsmasq, one pod's own trouble", Resolver::Dnsmasq, rows.concat())
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
        pending(each(SUFFIX_SERVFAIL, &["musl"], ERROR_WAITED), MUSL_WAITS),
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
        walking(SUFFIX_FINE, EVERYBODY, Expect::NOTHING),
        each(SUFFIX_SILENT, &["glibc", "java"], TOLD),
        each(SUFFIX_SILENT, &["musl", "go"], STORY),
        walking(SUFFIX_SILENT, &["c-ares"], STORY.may(&["dns-error"])),
        each(SUFFIX_SERVFAIL, &["glibc", "go"], ERROR_PASSED),
        pending(each(SUFFIX_SERVFAIL, &["musl"], ERROR_WAITED), MUSL_WAITS),
        walking(SUFFIX_SERVFAIL, &["c-ares"], ERROR_FATAL),
        each(SUFFIX_REFUSED, &["glibc", "go"], ERROR_PASSED),
        pending(each(SUFFIX_REFUSED, &["musl"], ERROR_WAITED), MUSL_WAITS),
        walking(SUFFIX_REFUSED, &["c-ares"], ERROR_FATAL),
        each(OUTSIDE_FINE, LIBRARIES, Expect::NOTHING),
        each(OUTSIDE_SILENT, &["musl", "go"], outside),
        each(OUTSIDE_SILENT, &["glibc", "c-ares"], outside.may(&["dns-error"])),
        each(OUTSIDE_SERVFAIL, LIBRARIES, ERROR_PASSED),
        each(OUTSIDE_REFUSED, LIBRARIES, ERROR_PASSED),
        each(swallowed, LIBRARIES, silent),
        each(elsewhere, LIBRARIES, silent),
    ];
    scene("CoreDNS's timing", Resolver::Forwarder, rows.concat())
}

fn autopath() -> Scene {
    let walked = Incident {
        name: "www-{}.fine.example",
        ..Incident::healthy("the resolver walks the list: a CNAME answers the first query")
    };
    let rows =
        [each(walked, LIBRARIES, Expect::NOTHING), walking(COMPLETE, LIBRARIES, Expect::NOTHING)];
    scene("CoreDNS's timing, autopath", Resolver::Autopath, rows.concat())
}

/// As if the resolver ran on another node.
fn resolver_elsewhere() -> Scene {
    let rows = [
        walking(SUFFIX_FINE, LIBRARIES, Expect::NOTHING),
        walking(SUFFIX_SILENT, LIBRARIES, STORY.inferred()),
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
        pending(each(dies, &["glibc"], unreachable), KILLED),
        pending(each(dies, &["go"], both), KILLED),
        pending(each(dies, &["musl"], silent), KILLED),
        each(OUTSIDE_FINE, FEW, Expect::NOTHING),
    ];
    let mut scene = scene("dnsmasq, killed", Resolver::Dnsmasq, rows.concat());
    scene.resolver_dies_ms = Some(700);
    scene
}

/// Pods and a resolver that know only IPv6 of each other.
fn ipv6_only() -> Scene {
    let fine = Incident {
        title: "IPv6 only",
        twin: "IPv6 only",
        nameserver: "fd00:10:244:1::14",
        fault: Some(PodFault::NoIpv4),
        ..SUFFIX_FINE
    };
    let silent = Incident { title: "IPv6 only, upstream silent", search: "silent.example", ..fine };
    let rows = [walking(fine, LIBRARIES, Expect::NOTHING), walking(silent, LIBRARIES, STORY)];
    let mut scene = scene("dnsmasq, IPv6", Resolver::Dnsmasq, rows.concat());
    scene.setup.ipv6 = true;
    scene
}

/// A cache on the node asks the cluster's server over TCP, and that one the upstream.
fn node_local() -> Scene {
    let cached = |incident: Incident| Incident { nameserver: "169.254.20.10", ..incident };
    let silent = cached(SUFFIX_SILENT);
    let rows = [
        walking(cached(SUFFIX_FINE), LIBRARIES, Expect::NOTHING),
        each(cached(OUTSIDE_FINE), FEW, Expect::NOTHING),
        each(silent, &["glibc"], TOLD),
        each(silent, &["musl", "go"], STORY),
        walking(silent, &["c-ares"], STORY.may(&["dns-error"])),
    ];
    let mut scene = scene("a node-local cache before dnsmasq", Resolver::Dnsmasq, rows.concat());
    scene.setup.node_local = true;
    scene
}
