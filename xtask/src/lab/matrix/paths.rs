//! The part of the table about the way to the resolver: kinds of resolv.conf, of pods and of transports, and what
//! breaks in between. The rest is in `rows`.

use super::rows::*;
use super::{Expect, How, Incident, PodFault, Qtype, Scene};
use crate::lab::Resolver;

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
pub(super) fn broken_paths() -> Scene {
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
    let aaaa_lost = Incident {
        title: "the AAAA query of a pair is lost before the resolver",
        fault: Some(PodFault::FirstLost(Qtype::Aaaa)),
        ..OUTSIDE_FINE
    };
    // A machine that is so slow that an answer comes between the two shows no pair.
    let raced = Expect::codes(&["aaaa-race"]).costs("aaaa-race").or_slow(&["resolver-timeout"]);
    let raced =
        raced.says("Conntrack refused no insertion just then (insert_failed stood still in");
    // A new socket may lead to another resolver: that this one never got the first stays a guess.
    let lost_alone = lost_at_once;
    // No single suffix costs what a finding needs; the walk does.
    let walk =
        Expect::codes(&["search-expansion"]).costs("search-expansion").may(&["foreign-suffix"]);
    let rows = [
        each(lost, &["glibc", "go"], lost_walk.costs("resolver-timeout")),
        each(lost, &["musl", "c-ares"], lost_at_once),
        each(COMPLETE, LIBRARIES, Expect::NOTHING),
        each(ndots_1, LIBRARIES, Expect::NOTHING),
        each(ndots_2, LIBRARIES, Expect::NOTHING),
        each(short, LIBRARIES, Expect::NOTHING),
        each(trap, &["glibc", "go", "c-ares"], Expect::NOTHING),
        // It tries no suffix for a name with so many dots.
        each(trap, &["musl"], Expect::codes(&["nxdomain"])),
        each(many, LIBRARIES, Expect::NOTHING),
        each(many_sluggish, &["glibc", "go"], walk),
        // They ignore a search line as long as this.
        each(many_sluggish, &["musl", "c-ares"], Expect::NOTHING),
        each(older, &["python", "c-ares"], Expect::NOTHING),
        each(older_silent, &["python", "c-ares"], STORY),
        each(host, FEW, Expect::NOTHING),
        each(host_silent, FEW, STORY),
        each(one_port, &["glibc", "musl"], Expect::NOTHING),
        each(stale, &["glibc"], lost_walk.costs("resolver-timeout")),
        each(stale, &["musl"], lost_at_once),
        each(proxied, &["glibc", "musl"], Expect::NOTHING),
        each(proxied, &["go"], Expect::NOTHING),
        each(proxied_silent, &["glibc"], TOLD),
        each(proxied_silent, &["musl"], STORY),
        each(proxied_silent, &["go"], STORY),
        each(OUTSIDE_FINE, LIBRARIES, Expect::NOTHING),
        each(aaaa_lost, &["glibc", "musl", "c-ares"], raced),
        // Each of its queries has a socket of its own: nothing to race for.
        each(aaaa_lost, &["go"], lost_alone),
    ];
    scene("dnsmasq, one pod's own trouble", Resolver::Dnsmasq, rows.concat())
}

/// Conntrack itself refuses one of a pair, as it does with the loser of a race.
pub(super) fn refused() -> Scene {
    let refused = Incident {
        title: "conntrack refuses the AAAA query of a pair",
        fault: Some(PodFault::Refused),
        ..OUTSIDE_FINE
    };
    let raced = Expect::codes(&["aaaa-race"]).costs("aaaa-race").or_slow(&["resolver-timeout"]);
    let raced = raced.says("(insert_failed) in pod kube-system/");
    let rows = [
        each(refused, &["glibc", "musl"], raced),
        each(OUTSIDE_FINE, &["glibc", "musl"], Expect::NOTHING),
    ];
    scene("dnsmasq, conntrack refuses", Resolver::Dnsmasq, rows.concat())
}

/// Pods and a resolver that know only IPv6 of each other.
pub(super) fn ipv6_only() -> Scene {
    let fine = Incident {
        title: "IPv6 only",
        twin: "IPv6 only",
        nameserver: "fd00:10:244:1::14",
        fault: Some(PodFault::NoIpv4),
        ..SUFFIX_FINE
    };
    let silent = Incident { title: "IPv6 only, upstream silent", search: "silent.example", ..fine };
    let rows = [each(fine, LIBRARIES, Expect::NOTHING), each(silent, LIBRARIES, STORY)];
    let mut scene = scene("dnsmasq, IPv6", Resolver::Dnsmasq, rows.concat());
    scene.setup.ipv6 = true;
    scene
}

/// A cache on the node asks the cluster's server over TCP, and that one the upstream.
pub(super) fn node_local() -> Scene {
    let cached = |incident: Incident| Incident { nameserver: "169.254.20.10", ..incident };
    let silent = cached(SUFFIX_SILENT);
    let rows = [
        each(cached(SUFFIX_FINE), LIBRARIES, Expect::NOTHING),
        each(cached(OUTSIDE_FINE), FEW, Expect::NOTHING),
        each(silent, &["glibc"], TOLD),
        each(silent, &["musl"], STORY),
        each(silent, &["go"], STORY),
        each(silent, &["c-ares"], STORY.may(&["dns-error"])),
    ];
    let mut scene = scene("a node-local cache before dnsmasq", Resolver::Dnsmasq, rows.concat());
    scene.setup.node_local = true;
    scene
}

/// Answers after 1.5 s: sooner than any client asks again.
pub(super) fn slow() -> Scene {
    let suffix = Incident {
        title: "foreign suffix, its upstream takes 1.5 s",
        search: "slow.example",
        ..SUFFIX_FINE
    };
    let outside = Incident {
        title: "a name outside, its upstream takes 1.5 s",
        name: "www-{}.slow.example.",
        ..OUTSIDE_FINE
    };
    let walk = Expect::codes(&["slow-dns", "foreign-suffix", "search-expansion"])
        .apart()
        .costs("search-expansion");
    let late = Expect::codes(&["slow-dns"]).costs("slow-dns");
    let rows = [
        each(SUFFIX_FINE, FEW, Expect::NOTHING),
        each(suffix, FEW, walk),
        each(OUTSIDE_FINE, LIBRARIES, Expect::NOTHING),
        each(outside, LIBRARIES, late),
    ];
    scene("dnsmasq, a slow upstream", Resolver::Dnsmasq, rows.concat())
}

/// What reaches no socket, seen where it enters the pod's namespace.
pub(super) fn watched_wire() -> Scene {
    let patient = Incident { options: "ndots:5 timeout:2 attempts:2", ..OUTSIDE_FINE };
    let elsewhere = Incident {
        title: "the resolver answers from another address",
        name: "www-{}.elsewhere.example.",
        ..patient
    };
    let dropped = Incident {
        title: "answers are dropped inside the pod",
        fault: Some(PodFault::AnswersDropped),
        ..patient
    };
    let prohibited = Incident {
        title: "a firewall on the way refuses the queries",
        fault: Some(PodFault::Prohibited),
        ..patient
    };
    let silent = Expect::codes(&["resolver-timeout"]).costs("resolver-timeout");
    let unreachable = Expect::codes(&["resolver-unreachable"]);
    let rows = [
        each(SUFFIX_FINE, EVERYBODY, Expect::NOTHING),
        each(OUTSIDE_FINE, LIBRARIES, Expect::NOTHING),
        each(elsewhere, LIBRARIES, silent.class("wrong-address")),
        each(dropped, LIBRARIES, silent.class("answer-lost-inside")),
        // Sockets of glibc, Go and c-ares hear of it; musl's do not, and it waits.
        each(prohibited, &["glibc", "go", "c-ares"], unreachable),
        each(prohibited, &["musl"], unreachable.costs("resolver-unreachable")),
    ];
    let mut scene = scene("CoreDNS's timing, --wire", Resolver::Forwarder, rows.concat());
    scene.args = &["--wire"];
    scene
}

/// Answers that do not fit a datagram, and DNS over TCP.
pub(super) fn long_answers() -> Scene {
    let cut = Incident {
        name: "www-{}.truncated.example.",
        ..Incident::healthy("a truncated answer, TCP works")
    };
    let big =
        Incident { name: "www-{}.big.example.", ..Incident::healthy("an answer of 2,000 bytes") };
    let refused = Incident {
        title: "a truncated answer, TCP refused",
        fault: Some(PodFault::TcpRefused),
        ..cut
    };
    let blocked = Incident {
        title: "a truncated answer, TCP dropped on the way",
        options: "ndots:5 timeout:2 attempts:2",
        fault: Some(PodFault::TcpDropped),
        ..cut
    };
    let use_vc =
        Incident { options: "ndots:5 use-vc", title: "use-vc", twin: "use-vc", ..SUFFIX_FINE };
    let use_vc_error = Incident {
        title: "use-vc, foreign suffix says SERVFAIL",
        search: "servfail.example",
        ..use_vc
    };
    let use_vc_refused = Incident {
        title: "use-vc, TCP refused",
        name: OUTSIDE_FINE.name,
        fault: Some(PodFault::TcpRefused),
        ..use_vc
    };
    let use_vc_silent = Incident {
        title: "use-vc, TCP dropped on the way",
        options: "ndots:5 use-vc timeout:2 attempts:2",
        fault: Some(PodFault::TcpDropped),
        ..use_vc_refused
    };
    let tcp_refused = Expect::codes(&["resolver-unreachable"]);
    let tcp_silent = Expect::codes(&["resolver-timeout"]).costs("resolver-timeout");
    let a_lost = Incident {
        title: "the A query of a pair is lost before the resolver",
        fault: Some(PodFault::FirstLost(Qtype::A)),
        ..OUTSIDE_FINE
    };
    let raced =
        Expect::codes(&["aaaa-race"]).inferred().costs("aaaa-race").or_slow(&["resolver-timeout"]);
    let lost_alone = Expect::codes(&["resolver-timeout"]).inferred().costs("resolver-timeout");
    let truncated = Expect::codes(&["dns-truncated"]);
    let (tcp, musl) = (&["glibc", "go", "c-ares"], &["musl"]);
    let rows = [
        each(OUTSIDE_FINE, LIBRARIES, Expect::NOTHING),
        each(a_lost, &["glibc", "musl", "c-ares"], raced),
        each(a_lost, &["go"], lost_alone),
        each(cut, tcp, Expect::NOTHING),
        // This release of musl knows no TCP.
        each(Incident { twin: OUTSIDE_FINE.title, ..cut }, musl, truncated),
        each(big, tcp, Expect::NOTHING),
        each(Incident { twin: OUTSIDE_FINE.title, ..big }, musl, truncated),
        each(refused, &["go", "c-ares"], truncated),
        each(blocked, &["go"], truncated.costs("dns-truncated")),
        each(use_vc, tcp, Expect::NOTHING),
        each(use_vc_error, &["glibc", "go"], ERROR_PASSED),
        each(use_vc_refused, &["glibc", "go"], tcp_refused.nameless()),
        each(use_vc_silent, &["glibc", "go"], tcp_silent.nameless()),
    ];
    scene("dnsmasq, long answers", Resolver::Dnsmasq, rows.concat())
}
