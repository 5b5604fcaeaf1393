//! Captures of others: the story as tcpdump sees it in the client's pod, on the bridge and on all
//! interfaces; what must be told, and what must not be claimed.

use std::io::Cursor;
use std::net::IpAddr;

use serde_json::Value;
use tests::frames::{FORMATS, Format, Frame, file, framed, tcp, udp};
use tests::wire::{Dns, dns};
use tests::{Output, binary, run};
use tracer::record::Record;
use tracer::source::{CaptureError, pcap};

mod files;

const NAME: &str = "backend.critical-app.svc.cluster.local";
const SUFFIXES: [&str; 4] =
    ["critical-app.svc.cluster.local", "svc.cluster.local", "cluster.local", "localdomain"];
const CLIENT: &str = "10.244.1.5";
const SERVICE: &str = "10.96.0.10:53";
const DNS_POD: &str = "10.244.1.3";
const NODE: &str = "192.168.7.2";
const UPSTREAM: &str = "8.8.8.8:53";
const BEST: Format = Format::Pcap { big: false, nano: true };
const MS: u64 = 1_000_000;

/// Where tcpdump listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum View {
    /// The client's eth0.
    Client,
    /// The DNS pod's eth0: addresses are translated already.
    DnsPod,
    /// A bridge that shows both sides of the translation.
    Bridge,
    /// The same, but answers only before they are translated back.
    HalfBridge,
    /// All interfaces of the node: each packet several times, its way out of the node, too.
    Any,
}

/// The story, packet by packet.
struct Story {
    view: View,
    frames: Vec<(u64, Vec<u8>)>,
    ip_id: u16,
}

fn message(
    id: u16,
    name: &str,
    qtype: &'static str,
    rcode: Option<u8>,
    answer: &[&str],
) -> Vec<u8> {
    let answers: Vec<IpAddr> = answer.iter().map(|a| a.parse().unwrap()).collect();
    dns(&Dns { id, name: name.as_bytes().to_vec(), qtype, rcode, answers })
}

impl Story {
    fn put(&mut self, at: u64, from: &str, to: &str, payload: &[u8]) {
        let packet = udp(from, to, self.ip_id, payload);
        self.frames.push((at, packet));
    }

    /// The client's datagram to the Service, as far as this view shows it.
    fn ask(&mut self, at: u64, port: u16, payload: &[u8]) {
        self.ip_id += 1;
        let client = format!("{CLIENT}:{port}");
        let pod = format!("{DNS_POD}:53");
        match self.view {
            View::Client => self.put(at, &client, SERVICE, payload),
            View::DnsPod => self.put(at, &client, &pod, payload),
            View::Bridge | View::HalfBridge => {
                self.put(at, &client, SERVICE, payload);
                self.put(at + MS / 10, &client, &pod, payload);
            }
            View::Any => {
                self.put(at, &client, SERVICE, payload);
                self.put(at + 1000, &client, SERVICE, payload);
                self.put(at + MS / 10, &client, &pod, payload);
                self.put(at + MS / 10 + 1000, &client, &pod, payload);
            }
        }
    }

    fn reply(&mut self, at: u64, port: u16, payload: &[u8]) {
        self.ip_id += 1;
        let client = format!("{CLIENT}:{port}");
        let pod = format!("{DNS_POD}:53");
        if self.view != View::Client {
            self.put(at, &pod, &client, payload);
        }
        if self.view == View::Any {
            self.put(at + 1000, &pod, &client, payload);
            self.put(at + MS / 10, SERVICE, &client, payload);
        }
        if matches!(self.view, View::Client | View::Bridge | View::Any) {
            self.put(at + MS / 10 + 1000, SERVICE, &client, payload);
        }
    }

    /// The DNS pod asks its upstream, in vain.
    fn forward(&mut self, at: u64, payload: &[u8]) {
        self.ip_id += 1;
        if self.view == View::Client {
            return;
        }
        let pod = format!("{DNS_POD}:40{:03}", self.ip_id % 1000);
        self.put(at, &pod, UPSTREAM, payload);
        if self.view == View::Any {
            let node = format!("{NODE}:61{:03}", self.ip_id % 1000);
            self.put(at + MS / 20, &node, UPSTREAM, payload);
        }
    }

    /// glibc: A and AAAA from one socket a candidate, 5 s patience, two attempts.
    fn told(view: View) -> Vec<Frame> {
        let mut story = Self { view, frames: Vec::new(), ip_id: 100 };
        let mut at = 10 * MS;
        let types = ["A", "AAAA"];
        for (n, suffix) in SUFFIXES.iter().enumerate() {
            let (n, name) = (u16::try_from(n).unwrap(), format!("{NAME}.{suffix}"));
            let port = 40_000 + n;
            let foreign = *suffix == "localdomain";
            for again in 0..if foreign { 2 } else { 1 } {
                for (k, qtype) in types.into_iter().enumerate() {
                    let k = u16::try_from(k).unwrap();
                    let query = message(100 + 2 * n + k, &name, qtype, None, &[]);
                    story.ask(at + u64::from(k) * MS / 5, port, &query);
                    if foreign {
                        let id = 30_000 + 2 * again + k;
                        let query = message(id, &name, qtype, None, &[]);
                        story.forward(at + 2 * MS + u64::from(k) * MS / 5, &query);
                        let id = id + 100;
                        let query = message(id, &name, qtype, None, &[]);
                        story.forward(at + 2502 * MS + u64::from(k) * MS / 5, &query);
                    } else {
                        let answer = message(100 + 2 * n + k, &name, qtype, Some(3), &[]);
                        story.reply(at + 2 * MS + u64::from(k) * MS / 5, port, &answer);
                    }
                }
                at += if foreign { 5005 * MS } else { 3 * MS };
            }
        }
        for (k, qtype) in types.into_iter().enumerate() {
            let id = 200 + u16::try_from(k).unwrap();
            let query = message(id, NAME, qtype, None, &[]);
            story.ask(at + u64::try_from(k).unwrap() * MS / 5, 40_100, &query);
            let address: &[&str] = if qtype == "A" { &["10.96.7.7"] } else { &[] };
            let answer = message(id, NAME, qtype, Some(0), address);
            story.reply(at + 2 * MS + u64::try_from(k).unwrap() * MS / 5, 40_100, &answer);
        }
        story.connect(at + 4 * MS);
        story.frames.sort_by_key(|(at, _)| *at);
        // Something else, so that time goes on.
        let end = at + 1500 * MS;
        story.frames.push((end, udp("10.244.1.9:1000", "10.244.1.8:2000", 1, b"x")));
        story.frames
    }

    fn connect(&mut self, at: u64) {
        let (client, service, pod) = ("10.244.1.5:50000", "10.96.7.7:80", "10.244.1.7:8080");
        let both = matches!(self.view, View::Bridge | View::Any);
        self.frames.push((at, tcp(client, service, 7, "S", 900)));
        if both {
            self.frames.push((at + MS / 10, tcp(client, pod, 7, "S", 900)));
            self.frames.push((at + MS / 5, tcp(pod, client, 9, "SA", 0)));
        }
        self.frames.push((at + MS / 4, tcp(service, client, 9, "SA", 0)));
        self.frames.push((at + 9 * MS, tcp(client, service, 70, "FA", 905)));
    }
}

fn read(bytes: Vec<u8>) -> (Vec<Record>, Option<CaptureError>) {
    let records = match pcap::open(Box::new(Cursor::new(bytes))) {
        Ok(records) => records,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let (mut all, mut error) = (Vec::new(), None);
    for record in records {
        assert!(error.is_none(), "nothing follows an error");
        match record {
            Ok(record) => all.push(record),
            Err(told) => error = Some(told),
        }
    }
    assert!(all.windows(2).all(|w| w[0].number < w[1].number), "numbers grow");
    (all, error)
}

fn seen(view: View, link: u16) -> Output {
    let frames: Vec<Frame> =
        Story::told(view).iter().map(|(at, packet)| (*at, framed(link, packet))).collect();
    let (records, error) = read(file(BEST, link, 65_535, &frames));
    assert!(error.is_none(), "{error:?}");
    run(&records)
}

fn finding(output: &Output, code: &str) -> Value {
    let all = output.lines("finding");
    let found = all.into_iter().find(|f| f["code"] == code);
    found.unwrap_or_else(|| panic!("{code}: {}", output.json))
}

/// One lookup, one block of three findings; returns the root.
fn is_the_story(output: &Output, confidence: &str) -> Value {
    let lookups = output.lines("lookup");
    assert_eq!(lookups.len(), 1, "{}", output.json);
    assert_eq!(lookups[0]["name"], NAME);
    assert_eq!(lookups[0]["outcome"], "answered");
    assert_eq!(lookups[0]["attempts"].as_array().unwrap().len(), 5);
    assert_eq!(lookups[0]["search_source"], "inferred");
    assert_eq!(lookups[0]["identity"]["address"], CLIENT);
    assert_eq!(lookups[0]["identity"]["pid"], Value::Null);
    let mut codes = output.codes();
    codes.sort();
    assert_eq!(
        codes,
        ["foreign-suffix", "search-expansion", "upstream-timeout"],
        "{}",
        output.text
    );
    let root = finding(output, "upstream-timeout");
    assert_eq!(root["confidence"], confidence, "{root}");
    assert_eq!(root["identity"]["address"], CLIENT, "{root}");
    assert!(root["caveats"][0].as_str().unwrap().contains("captured packets"), "{root}");
    let cost = root["cost_ns"].as_u64().unwrap();
    assert!(cost.abs_diff(10_010 * MS) < 20 * MS, "{cost}");
    let summary = &output.lines("summary")[0];
    assert_eq!(summary["unmatched_responses"], 0, "{summary}");
    assert_eq!(summary["undecoded"], 0, "{summary}");
    root
}

#[test]
fn the_client_alone_is_inferred() {
    let output = seen(View::Client, 1);
    let root = is_the_story(&output, "inferred");
    assert_eq!(root["details"]["upstream"], Value::Null);
    assert_eq!(root["details"]["zone"], "localdomain");
    assert!(!root["inferred_from"].as_array().unwrap().is_empty());
    let connection = &output.lines("connection")[0];
    assert_eq!(connection["outcome"], "established");
    assert_eq!(connection["name"], NAME);
    assert_eq!(connection["backend"], Value::Null);
}

#[test]
fn the_resolvers_side_is_certain() {
    for view in [View::DnsPod, View::Bridge, View::HalfBridge, View::Any] {
        let output = seen(view, 1);
        let root = is_the_story(&output, "certain");
        assert_eq!(root["details"]["upstream"], UPSTREAM, "{view:?}");
        assert_eq!(root["details"]["tries"].as_array().unwrap().len(), 8, "{view:?}: {root}");
        assert_eq!(root["details"]["resolver"]["address"], DNS_POD, "{view:?}");
        let lookup = &output.lines("lookup")[0];
        let server = if view == View::DnsPod { "10.244.1.3:53" } else { SERVICE };
        assert_eq!(lookup["server"], server, "{view:?}");
        let queries: u64 = lookup["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|a| a["transactions"].as_array().unwrap())
            .map(|t| 1 + t["retransmits"].as_u64().unwrap())
            .sum();
        assert_eq!(queries, 12, "{view:?}: copies count once: {lookup}");
        if matches!(view, View::Bridge | View::Any) {
            let connections = output.lines("connection");
            assert_eq!(connections.len(), 1, "{view:?}");
            assert_eq!(connections[0]["backend"]["address"], "10.244.1.7:8080", "{view:?}");
        }
    }
}

#[test]
fn every_link_layer_and_format_says_the_same() {
    let bodies = |bytes| {
        let (records, error) = read(bytes);
        assert!(error.is_none(), "{error:?}");
        records.into_iter().map(|r| (r.number, r.at, r.kind, r.body)).collect::<Vec<_>>()
    };
    // Whole microseconds, so that all formats can say them.
    let frames = |link| -> Vec<Frame> {
        let all = Story::told(View::Any);
        all.iter().map(|(at, packet)| (*at, framed(link, packet))).collect()
    };
    let expected = bodies(file(BEST, 1, 65_535, &frames(1)));
    assert!(expected.len() > 40);
    for link in [0, 1, 12, 101, 108, 113, 228, 276] {
        for format in FORMATS {
            let got = bodies(file(format, link, 65_535, &frames(link)));
            assert_eq!(got, expected, "link {link}, {format:?}");
        }
    }
}

#[test]
fn evidence_is_frame_numbers() {
    let output = seen(View::Client, 113);
    let root = finding(&output, "upstream-timeout");
    let last = u64::try_from(Story::told(View::Client).len()).unwrap();
    for number in root["evidence"].as_array().unwrap() {
        assert!((1..=last).contains(&number.as_u64().unwrap()), "{root}");
    }
}

/// The query is seen behind the translation, but nothing is forwarded and nothing answered.
#[test]
fn silence_on_the_way_is_not_a_certain_reception() {
    let mut story = Story { view: View::Bridge, frames: Vec::new(), ip_id: 1 };
    for again in 0..2 {
        let query = message(7, "db.prod.svc.cluster.local", "A", None, &[]);
        story.ask(again * 5000 * MS, 41_000, &query);
    }
    story.frames.push((12_000 * MS, udp("10.0.0.1:1", "10.0.0.2:2", 1, b"x")));
    story.frames.push((13_500 * MS, udp("10.0.0.1:1", "10.0.0.2:2", 2, b"x")));
    let frames: Vec<Frame> = story.frames.iter().map(|(at, p)| (*at, framed(1, p))).collect();
    let (records, _) = read(file(BEST, 1, 65_535, &frames));
    let output = run(&records);
    let silent = finding(&output, "resolver-timeout");
    assert_eq!(silent["confidence"], "inferred", "{silent}");
    assert!(silent["inferred_from"][0].as_str().unwrap().contains("on their way"), "{silent}");
}

/// musl asks all its nameservers at once, from one socket with one id. Two Services here, each before
/// a pod of its own; only one of the pods answers, and what is behind the translation back is not seen.
#[test]
fn of_two_services_asked_at_once_the_one_whose_pod_answers_has_answered() {
    let (query, client) = (message(7, "www.example.org", "A", None, &[]), "10.244.1.5:41000");
    let answer = message(7, "www.example.org", "A", Some(0), &["192.0.2.7"]);
    for answering in [0, 1] {
        let servers = [("10.96.0.10:53", "10.244.1.3:53"), ("10.96.0.11:53", "10.244.1.4:53")];
        let mut story = Story { view: View::HalfBridge, frames: Vec::new(), ip_id: 1 };
        for (n, (service, pod)) in servers.into_iter().enumerate() {
            story.ip_id += 1;
            let at = MS + n as u64 * MS / 2;
            story.put(at, client, service, &query);
            story.put(at + MS / 10, client, pod, &query);
        }
        story.ip_id += 1;
        story.put(4 * MS, servers[answering].1, client, &answer);
        story.frames.push((20_000 * MS, udp("10.0.0.1:1", "10.0.0.2:2", 1, b"x")));
        let frames: Vec<Frame> = story.frames.iter().map(|(at, p)| (*at, framed(1, p))).collect();
        let (records, _) = read(file(BEST, 1, 65_535, &frames));
        let output = run(&records);
        let mut answered = output.lines("transaction");
        assert_eq!(answered.len(), 2, "{}", output.json);
        answered.retain(|t| t["outcome"] == "answered");
        assert_eq!(answered.len(), 1, "{}", output.json);
        assert_eq!(answered[0]["server"], servers[answering].0);
    }
}

#[test]
fn a_cut_answer_is_no_silence() {
    let mut story = Story { view: View::Client, frames: Vec::new(), ip_id: 1 };
    let name = "a-rather-long-name.example.org";
    story.ask(0, 41_000, &message(9, name, "A", None, &[]));
    let addresses: Vec<String> = (0..40).map(|n| format!("192.0.2.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    story.reply(5 * MS, 41_000, &message(9, name, "A", Some(0), &addresses));
    story.frames.push((2_000 * MS, udp("10.0.0.1:1", "10.0.0.2:2", 1, b"x")));
    let frames: Vec<Frame> = story.frames.iter().map(|(at, p)| (*at, framed(1, p))).collect();
    let (records, error) = read(file(BEST, 1, 120, &frames));
    assert!(error.is_none());
    assert_eq!(records.iter().filter(|r| r.cut).count(), 1);
    let output = run(&records);
    assert_eq!(output.lines("lookup")[0]["outcome"], "answered", "{}", output.json);
    assert_eq!(output.lines("summary")[0]["cut"], 1);
}

fn replayed(words: &[&str]) -> (std::process::Output, String) {
    let frames: Vec<Frame> =
        Story::told(View::Bridge).iter().map(|(at, p)| (*at, framed(1, p))).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bridge.pcap");
    std::fs::write(&path, file(BEST, 1, 65_535, &frames)).unwrap();
    let words: Vec<&str> = ["-r", path.to_str().unwrap()].iter().chain(words).copied().collect();
    let output = binary::run(&words);
    let text = binary::stdout(&output);
    (output, text)
}

#[test]
fn the_binary_reads_filters_and_shows() {
    let (output, text) = replayed(&["-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", binary::stderr(&output));
    let all = tests::lines(&text);
    assert!(all.iter().any(|line| line["code"] == "upstream-timeout"), "{text}");

    let filter = "type == 'finding' && cost_ns > 1000000000 && code != 'search-expansion'";
    let (output, text) = replayed(&["-o", "json", "--filter", filter, "--fail-on", "error"]);
    assert_eq!(output.status.code(), Some(1), "the exit code knows no filter");
    let some = tests::lines(&text);
    assert_eq!(some.len(), 3, "two findings and the summary: {text}");
    assert_eq!(some.last(), all.last(), "nor does the summary");
    assert_eq!(binary::stderr(&output), "");

    let (output, text) = replayed(&["--events", "-x", "--filter", "kind == 'dns'"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text.contains("\n    query id 100: A backend."), "{text}");
    assert!(text.contains("|.d..........."), "{text}");

    let (output, text) = replayed(&["-o", "json", "--events", "--payload"]);
    assert_eq!(output.status.code(), Some(0));
    let lines = tests::lines(&text);
    let dns = lines.iter().find(|line| line["kind"] == "dns").unwrap();
    assert!(dns["payload"].as_str().unwrap().starts_with("006401000001"), "{dns}");
    assert!(
        lines.iter().filter(|line| line["kind"] == "tcp").all(|line| line["payload"].is_null())
    );
}

#[test]
fn a_filter_that_fails_says_so() {
    let (output, _) = replayed(&["-o", "json", "--filter", "type > 5"]);
    assert_eq!(output.status.code(), Some(0));
    let told = binary::stderr(&output);
    assert!(told.contains("--filter") && told.contains("lines"), "{told}");
    let (output, text) = replayed(&["--filter", "type == 'x' && duraton_ns > 5"]);
    assert_eq!((output.status.code(), text.as_str()), (Some(2), ""));
    let told = binary::stderr(&output);
    let mark = told.lines().position(|line| line.trim() == "^").unwrap();
    let (above, mark) = (told.lines().nth(mark - 1).unwrap(), told.lines().nth(mark).unwrap());
    assert_eq!(above.find("duraton_ns"), mark.find('^'), "{told}");
}
