//! The text sink over hand-made outputs.

use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::record::RecordKind;
use crate::report::*;
use crate::text::is_visible;

/// Noon, and `ms` milliseconds.
fn at(ms: u64) -> Ts {
    Ts(Timestamp(1_700_049_600_000_000_000 + ms * 1_000_000))
}

fn who() -> Identity {
    Identity {
        namespace: Some("critical-app".into()),
        pod: Some("client".into()),
        pid: Some(22370),
        tid: Some(22371),
        comm: Some("curl".into()),
        ..Identity::default()
    }
}

fn lookup() -> Lookup {
    let attempt = |name: &str, outcome| Attempt {
        name: name.into(),
        suffix: None,
        outcome,
        start_ns: 0,
        duration_ns: 1,
        transactions: Vec::new(),
    };
    Lookup {
        schema: 1,
        id: 1,
        ts: at(0),
        identity: who(),
        name: "backend.critical-app".into(),
        server: "10.96.0.10:53".parse().unwrap(),
        search: None,
        ndots: Some(5),
        search_source: None,
        attempts: vec![
            attempt("backend.critical-app.localdomain", Outcome::Timeout),
            attempt("backend.critical-app", Outcome::Answered),
        ],
        outcome: Outcome::Answered,
        answers: vec!["10.3.0.214".into()],
        duration_ns: 10_012_000_000,
        wasted_ns: Some(10_010_000_000),
        wasted_queries: Some(4),
        resolver_library: Some("glibc".into()),
        external_name: None,
    }
}

fn finding(id: u64, code: Code, caused_by: &[u64]) -> Finding {
    Finding {
        schema: 1,
        id,
        ts: at(0),
        code,
        severity: Severity::Error,
        class: None,
        confidence: Confidence::Certain,
        inferred_from: Vec::new(),
        caveats: Vec::new(),
        caused_by: caused_by.to_vec(),
        lookups: vec![1],
        identity: who(),
        subject: "10.0.2.3:53".into(),
        cost_ns: 10_010_000_000,
        evidence: (100..120).collect(),
        title: "the upstream stayed silent".into(),
        cause: "word ".repeat(30),
        remedy: vec!["set this in the pod:\ndnsConfig:\n  options:\n  - name: ndots".into()],
        details: BTreeMap::new(),
    }
}

fn connection() -> Connection {
    Connection {
        schema: 1,
        ts: at(10_020),
        identity: who(),
        protocol: "tcp".into(),
        local: None,
        remote: "10.3.0.214:80".parse().unwrap(),
        service: Some("svc/backend.critical-app:80".into()),
        peer: None,
        backend: None,
        name: None,
        outcome: ConnectionOutcome::Established,
        errno: None,
        handshake_ns: Some(400_000),
        duration_ns: None,
        inside: None,
        events: Vec::new(),
    }
}

fn summary() -> Summary {
    let by = |key: &str, n| BTreeMap::from([(key.to_owned(), n)]);
    Summary {
        schema: 1,
        ts: at(0),
        duration_ns: 12_000_000_000,
        events: 99,
        lost: 3,
        cut: 0,
        undecoded: 1,
        broken_off: 0,
        late: 0,
        evicted: 0,
        unmatched_responses: 0,
        unmatched: BTreeMap::new(),
        lookups: by("answered", 1),
        connections: BTreeMap::new(),
        findings: by("upstream-timeout", 1),
        time_ns: by("upstream-timeout", 10_010_000_000),
        search_walk: SearchWalk { walks: 1, complete_as_typed: 0, queries: 4, time_ns: 10 },
        dns: DnsCosts::default(),
        leaks: Leaks::default(),
        servers: vec![Server {
            server: "10.96.0.10:53".parse().unwrap(),
            answers: 8,
            slow: 1,
            unanswered: 2,
            p50_ns: Some(300_000),
            p95_ns: Some(5_000_000),
            p99_ns: Some(5_000_000),
            max_ns: Some(250_000_000),
        }],
    }
}

fn event() -> EventLine {
    EventLine {
        payload: None,
        schema: 1,
        n: 10032,
        ts: at(7),
        cpu: Some(0),
        identity: who(),
        kind: "connect".into(),
        direction: Some("exit".into()),
        result: Some(-115),
        errno: Some("EINPROGRESS".into()),
        args: BTreeMap::from([("fd".into(), 5.into()), ("peer".into(), serde_json::Value::Null)]),
    }
}

fn record(ms: u64) -> Record {
    Record::bare(1, at(ms).0, RecordKind::Heartbeat, bytes::Bytes::new())
}

#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

fn print(style: Style, outputs: &[Output]) -> String {
    let shared = Shared::default();
    let mut sink = Text::new(shared.clone(), style);
    outputs.iter().for_each(|output| sink.output(output).unwrap());
    sink.finish().unwrap();
    shared.text()
}

#[test]
fn lines_align_and_say_what_came_before() {
    let text =
        print(Style::default(), &[Output::Lookup(lookup()), Output::Connection(connection())]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines[1].starts_with("12:00:00.000000000  critical-app/client   curl[22370]"),
        "{text}"
    );
    assert!(lines[1].ends_with("10.3.0.214, after 1 other name (4 queries, 10.0 s)"), "{text}");
    assert!(lines[2].ends_with("0.4 ms  10.3.0.214:80"), "{text}");
    let column = |line: &str, word: &str| line.find(word).unwrap();
    assert_eq!(column(lines[0], "OUTCOME"), column(lines[1], "answered"));
    assert_eq!(column(lines[1], "answered"), column(lines[2], "established"));
}

#[test]
fn what_a_root_caused_stands_inside_its_block() {
    let text = print(
        Style { width: Some(72), ..Style::default() },
        &[
            Output::Finding(finding(1, Code::UpstreamTimeout, &[])),
            Output::Finding(finding(2, Code::Nxdomain, &[])),
            Output::Finding(finding(3, Code::SearchExpansion, &[1])),
            Output::Finding(finding(4, Code::ForeignSuffix, &[3])),
            Output::Connection(connection()),
        ],
    );
    let place = |needle: &str| text.find(needle).unwrap_or_else(|| panic!("{needle} in {text}"));
    assert!(!text.contains("\n\n\n"), "{text}");
    assert!(place("[1] upstream-timeout") < place("\n    which caused [3] search-expansion"));
    assert!(place("[3] search-expansion") < place("\n    which caused [4] foreign-suffix"));
    assert!(place("[4] foreign-suffix") < place("\n[2] nxdomain"));
    assert!(place("[2] nxdomain") < place("established"));
    assert!(text.contains("because   of [3]"), "{text}");
    assert!(text.contains("20 events: 100 101 102 103 104 105 106 107 and 12 more"), "{text}");
    assert!(
        text.contains("\n                  dnsConfig:\n                    options:\n"),
        "{text}"
    );
    let widest = text.lines().filter(|line| line.contains("word")).map(str::len).max();
    assert!(widest <= Some(72), "{widest:?}");
}

#[test]
fn a_batch_ends_with_the_next_record() {
    let shared = Shared::default();
    let mut sink = Text::new(shared.clone(), Style::default());
    sink.output(&Output::Finding(finding(1, Code::UpstreamTimeout, &[]))).unwrap();
    assert_eq!(shared.text(), "");
    sink.record(&record(100)).unwrap();
    assert!(shared.text().contains("[1] upstream-timeout"));
}

#[test]
fn events_look_like_sysdig() {
    let text = print(Style::default(), &[Output::Event(event())]);
    assert_eq!(
        text,
        "10032 12:00:00.007000000 0 critical-app/client curl (22370:22371) < connect \
         res=-115(EINPROGRESS) fd=5\n"
    );
}

#[test]
fn times_are_sysdigs() {
    let line = |times, n: usize| {
        let shared = Shared::default();
        let mut sink = Text::new(shared.clone(), Style { times, ..Style::default() });
        sink.record(&record(0)).unwrap();
        sink.output(&Output::Event(EventLine { ts: at(5), ..event() })).unwrap();
        sink.output(&Output::Event(event())).unwrap();
        sink.output(&Output::Lookup(lookup())).unwrap();
        sink.finish().unwrap();
        let text = shared.text();
        text.lines().nth(n).unwrap().to_owned()
    };
    assert!(line(Times::Human, 1).contains(" 12:00:00.007000000 "));
    assert!(line(Times::Absolute, 1).contains(" 1700049600.007000000 "));
    assert!(line(Times::Relative, 1).contains(" 0.007000000 "));
    assert!(line(Times::Delta, 1).contains(" 0.002000000 "));
    assert!(line(Times::Delta, 3).starts_with("-0.007000000 "));
    assert!(line(Times::Own, 1).starts_with("10032 - 0 "));
    assert!(line(Times::Own, 3).starts_with("10.012000000 "));
}

#[test]
fn the_own_time_of_a_call_is_how_long_it_blocked() {
    let mut event = event();
    event.args.insert("blocked_ns".into(), 1_500_000.into());
    let text = print(Style { times: Times::Own, ..Style::default() }, &[Output::Event(event)]);
    assert!(text.starts_with("10032 0.001500000 0 "), "{text}");
}

#[test]
fn a_payload_stands_beneath_its_event() {
    let mut event = event();
    event.kind = "dns".into();
    event.args = serde_json::from_value(serde_json::json!({
        "id": 7, "response": true, "rcode": "NOERROR", "question": "a\u{1b}b", "qtype": "A",
        "answers": [{ "name": "ab", "type": "A", "ttl": 5, "data": "192.0.2.1" }],
        "truncated": false, "edns": true, "size": 30, "undecoded": null,
    }))
    .unwrap();
    event.payload = Some("0007818061621b00ff0102030405060708".into());
    let text = print(Style::default(), &[Output::Event(event)]);
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(
        lines,
        [
            "    response id 7 NOERROR: A a\\x1bb, EDNS",
            "      ab 5 A 192.0.2.1",
            "    0000  00 07 81 80 61 62 1b 00  ff 01 02 03 04 05 06 07  |....ab..........|",
            "    0010  08                                                |.|",
            "    … 13 more bytes were not captured",
        ]
    );
}

#[test]
fn the_summary_says_what_dns_cost() {
    let load = DnsLoad {
        lookups: 3,
        queries: 12,
        bytes: 2_048,
        walk_queries: 10,
        walk_bytes: 900,
        walk_percent: 83,
        walk_time_ns: 10_006_000_000,
    };
    let tried = |change: &str, queries_saved, safe| WhatIf {
        change: change.into(),
        queries_saved,
        bytes_saved: 1,
        time_saved_ns: 2_000_000_000,
        breaks_lookups: 0,
        breaks: Vec::new(),
        leaks_lookups: 0,
        leaks: Vec::new(),
        unknown_names: 0,
        safe,
    };
    let workload = WorkloadCosts {
        namespace: None,
        owner: None,
        pod: None,
        subject: "evil\u{1b}[31m".into(),
        ndots: Some(5),
        search: Vec::new(),
        libraries: Vec::new(),
        names: 2,
        names_capped: false,
        unjudged_lookups: 0,
        what_if: vec![tried("ndots:2", 8, true), tried("trailing-dot", 10, true)],
        recommended: Some("ndots:2".into()),
        why: "checked with 2 names".into(),
        yaml: None,
        command: None,
    };
    let none = WorkloadCosts {
        recommended: None,
        what_if: vec![tried("ndots:2", 8, false), tried("trailing-dot", 0, false)],
        ..workload.clone()
    };
    let dns = DnsCosts {
        total: load,
        workloads: vec![workload.clone(), none, workload.clone(), workload],
        ..DnsCosts::default()
    };
    let leaks = Leaks {
        short_names: Leak { lookups: 1, queries: 2, names: vec!["api.shop".into()] },
        ..Leaks::default()
    };
    let text = print(Style::default(), &[Output::Summary(Summary { dns, leaks, ..summary() })]);
    for said in [
        "DNS load      12 queries (2.0 KB), 83 % of them search walk (10, 900 B, 10.0 s)",
        "what if       evil\\x1b[31m: ndots:2 would save 8 queries and 2.00 s\n",
        "                  checked with 2 names\n",
        "would save 10 queries and 2.00 s\n",
        "evil\\x1b[31m: leave ndots as it is\n",
        "1 workload more in -o json",
        "leaks         2 queries for the cluster's short names as typed, which it forwards, such as api.shop",
    ] {
        assert!(text.contains(said), "{said:?} in {text}");
    }
    let quiet = print(Style::default(), &[Output::Summary(summary())]);
    assert!(!quiet.contains("DNS load") && !quiet.contains("leaks"), "{quiet}");
}

#[test]
fn the_summary_says_what_is_missing() {
    let text = print(
        Style::default(),
        &[Output::Finding(finding(1, Code::UpstreamTimeout, &[])), Output::Summary(summary())],
    );
    for said in [
        "12.0 s, 99 events seen, 3 lost",
        "lookups       1 answered",
        "connections   none",
        "lookup time   10.0 s upstream-timeout",
        "findings      1 upstream-timeout (worst 10.0 s)",
        "also          1 record not understood",
    ] {
        assert!(text.contains(said), "{said} in {text}");
    }
}

#[test]
fn colour_only_when_told() {
    let outputs = [
        Output::Lookup(lookup()),
        Output::Finding(finding(1, Code::UpstreamTimeout, &[])),
        Output::Summary(summary()),
    ];
    assert!(!print(Style::default(), &outputs).contains('\u{1b}'));
    assert!(print(Style { color: true, ..Style::default() }, &outputs).contains('\u{1b}'));
}

/// Every string of every output is foreign here, in both formats.
#[test]
fn no_foreign_string_reaches_the_terminal_raw() {
    let evil = "\u{1b}[2J\u{7}x\u{202e}\u{9b}31m\r\n\u{200b}";
    let outputs = [
        Output::Lookup(Lookup {
            name: evil.into(),
            answers: vec![evil.into()],
            external_name: Some(evil.into()),
            ..lookup()
        }),
        Output::Connection(Connection {
            service: Some(evil.into()),
            name: Some(evil.into()),
            errno: Some(evil.into()),
            identity: Identity {
                namespace: None,
                pod: Some(evil.into()),
                comm: Some(evil.into()),
                ..who()
            },
            backend: Some(Backend {
                address: "1.2.3.4:5".parse().unwrap(),
                pod: Some(evil.into()),
                state: Some(evil.into()),
            }),
            peer: Some(evil.into()),
            ..connection()
        }),
        Output::Event(EventLine {
            payload: None,
            kind: evil.into(),
            args: BTreeMap::from([(evil.into(), evil.into())]),
            ..event()
        }),
        Output::Finding(Finding {
            class: Some(evil.into()),
            subject: evil.into(),
            title: evil.into(),
            cause: evil.into(),
            remedy: vec![evil.into()],
            inferred_from: vec![evil.into()],
            caveats: vec![evil.into()],
            ..finding(1, Code::Nxdomain, &[])
        }),
        Output::Loss(Loss {
            schema: 1,
            host: None,
            ts: at(0),
            stage: crate::context::LossStage::Kernel,
            source: evil.into(),
            count: 1,
            first_ts: at(0),
            last_ts: at(1),
        }),
        Output::Summary(Summary { lookups: BTreeMap::from([(evil.into(), 1)]), ..summary() }),
    ];
    for style in [Style::default(), Style { wide: true, ..Style::default() }] {
        for output in &outputs {
            let text = print(style, std::slice::from_ref(output));
            assert!(!text.replace('\n', "").contains(|c| !is_visible(c)), "{text:?}");
            assert!(text.contains("\\x1b[2J"), "{text}");
        }
    }
    let shared = Shared::default();
    let mut sink = crate::sink::json::Json::new(shared.clone());
    outputs.iter().for_each(|output| sink.output(output).unwrap());
    sink.finish().unwrap();
    let text = shared.text();
    assert_eq!(text.lines().count(), outputs.len());
    assert!(!text.replace('\n', "").contains(|c| !is_visible(c)), "{text:?}");
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first["name"], evil);
}
