//! DNS over TCP in captures of others: connections put together from their segments, and what each
//! question came to.

use std::io::Cursor;
use std::net::IpAddr;

use serde_json::Value;
use tests::frames::{Format, Frame, file, framed, segment, udp};
use tests::wire::{Dns, dns};
use tests::{Output, run};
use tracer::record::Record;
use tracer::source::pcap;

const BEST: Format = Format::Pcap { big: false, nano: true };
const MS: u64 = 1_000_000;
const NAME: &str = "backend.example.org";

fn message(id: u16, qtype: &'static str, rcode: Option<u8>, answer: &[&str]) -> Vec<u8> {
    let answers: Vec<IpAddr> = answer.iter().map(|a| a.parse().unwrap()).collect();
    dns(&Dns { id, name: NAME.into(), qtype, rcode, answers })
}

fn truncated(id: u16, qtype: &'static str, answer: &[&str]) -> Vec<u8> {
    let mut message = message(id, qtype, Some(0), answer);
    message[2] |= 2;
    message
}

fn prefixed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// A connection as tcpdump sees it, segment by segment.
struct Conn {
    client: &'static str,
    server: &'static str,
    /// The next number of each.
    out: u32,
    back: u32,
}

impl Conn {
    fn new(client: &'static str, server: &'static str) -> Self {
        // Numbers that wrap around soon.
        Self { client, server, out: u32::MAX - 20, back: 7000 }
    }

    fn to(&mut self, flags: &str, payload: &[u8]) -> Vec<u8> {
        let ack = if flags == "S" { 0 } else { self.back };
        let packet = segment(self.client, self.server, self.out, ack, flags, payload);
        self.out = self.out.wrapping_add(took(flags, payload));
        packet
    }

    fn from(&mut self, flags: &str, payload: &[u8]) -> Vec<u8> {
        let packet = segment(self.server, self.client, self.back, self.out, flags, payload);
        self.back = self.back.wrapping_add(took(flags, payload));
        packet
    }

    fn open(&mut self, at: u64) -> Vec<Frame> {
        vec![
            (at, self.to("S", &[])),
            (at + MS / 2, self.from("S", &[])),
            (at + MS, self.to("", &[])),
        ]
    }
}

fn took(flags: &str, payload: &[u8]) -> u32 {
    let control = flags.matches(['S', 'F']).count();
    u32::try_from(payload.len() + control).unwrap()
}

fn records(frames: &[Frame], snap: usize) -> Vec<Record> {
    let frames: Vec<Frame> = frames.iter().map(|(at, p)| (*at, framed(1, p))).collect();
    let records = pcap::open(Box::new(Cursor::new(file(BEST, 1, snap, &frames)))).unwrap();
    records.map(Result::unwrap).collect()
}

/// Another packet, so that time goes on.
fn later(at: u64) -> Frame {
    (at, udp("10.9.9.9:1000", "10.9.9.8:2000", 1, b"x"))
}

fn seen(mut frames: Vec<Frame>) -> Output {
    let end = frames.iter().map(|(at, _)| *at).max().unwrap();
    frames.push(later(end + 20_000 * MS));
    run(&records(&frames, 65_535))
}

fn transactions(output: &Output) -> Vec<Value> {
    output.lines("transaction")
}

/// `use-vc` of glibc: both questions in one connection, answered in one segment, the other way round.
fn both_on_one(client: &'static str, server: &'static str) -> Vec<Frame> {
    let mut conn = Conn::new(client, server);
    let mut frames = conn.open(MS);
    let both = [prefixed(&message(1, "A", None, &[])), prefixed(&message(2, "AAAA", None, &[]))];
    frames.push((2 * MS, conn.to("P", &both.concat())));
    let answers = [
        prefixed(&message(2, "AAAA", Some(0), &[])),
        prefixed(&message(1, "A", Some(0), &["192.0.2.7"])),
    ];
    frames.push((5 * MS, conn.from("P", &answers.concat())));
    frames.push((6 * MS, conn.to("F", &[])));
    frames.push((6 * MS + 1, conn.from("F", &[])));
    frames
}

#[test]
fn several_questions_of_one_connection() {
    for (client, server) in
        [("10.0.0.5:40000", "10.96.0.10:53"), ("[fd00::5]:40000", "[fd00::a]:53")]
    {
        let output = seen(both_on_one(client, server));
        let all = transactions(&output);
        assert_eq!(all.len(), 2, "{}", output.json);
        for (t, qtype) in all.iter().zip(["A", "AAAA"]) {
            assert_eq!((&t["transport"], &t["qtype"]), (&"tcp".into(), &qtype.into()));
            assert_eq!((&t["outcome"], &t["client"]), (&"answered".into(), &client.into()));
            assert_eq!(t["latency_ns"], 3 * MS);
        }
        assert_eq!(all[0]["answers"], serde_json::json!(["192.0.2.7"]));
        assert_eq!(output.lines("lookup").len(), 1);
        assert_eq!(output.codes(), [""; 0]);
        assert_eq!((output.lines("loss").len(), output.verdict.incomplete), (0, 0));
    }
}

#[test]
fn one_message_over_many_segments_late_and_twice() {
    let mut conn = Conn::new("10.0.0.5:40000", "10.96.0.10:53");
    let mut frames = conn.open(MS);
    frames.push((2 * MS, conn.to("P", &prefixed(&message(1, "A", None, &[])))));
    let addresses: Vec<String> = (0..200).map(|n| format!("192.0.2.{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let answer = prefixed(&message(1, "A", Some(0), &addresses));
    let parts: Vec<Vec<u8>> = answer.chunks(500).map(|part| conn.from("", part)).collect();
    assert_eq!(parts.len(), 7);
    // The third is lost on the way and sent again, the others are out of order.
    for (n, at) in [(0, 5), (1, 6), (3, 7), (4, 8), (1, 9), (6, 10), (5, 11), (2, 212)] {
        frames.push((at * MS, parts[n].clone()));
    }
    let output = seen(frames);
    let all = transactions(&output);
    assert_eq!(all.len(), 1);
    assert_eq!(
        (&all[0]["outcome"], &all[0]["latency_ns"]),
        (&"answered".into(), &(210 * MS).into())
    );
    assert_eq!(all[0]["answers"].as_array().unwrap().len(), 200);
    assert_eq!(output.verdict.incomplete, 0);
}

#[test]
fn a_connection_older_than_the_capture() {
    let frames = both_on_one("10.0.0.5:40000", "10.96.0.10:53").split_off(3);
    let all = transactions(&seen(frames));
    assert!(all.len() == 2 && all.iter().all(|t| t["outcome"] == "answered"), "{all:?}");
}

#[test]
fn a_segment_that_was_not_captured_is_counted() {
    let mut conn = Conn::new("10.0.0.5:40000", "10.96.0.10:53");
    let mut frames = conn.open(MS);
    for id in 1..4 {
        let at = u64::from(id) * 200 * MS;
        frames.push((at, conn.to("P", &prefixed(&message(id, "A", None, &[])))));
        let answer = conn.from("P", &prefixed(&message(id, "A", Some(0), &["192.0.2.7"])));
        if id != 2 {
            frames.push((at + MS, answer));
        }
    }
    frames.push((800 * MS, conn.to("F", &[])));
    let output = seen(frames);
    let loss = output.lines("loss");
    assert_eq!(loss.len(), 1, "{}", output.json);
    assert_eq!((&loss[0]["stage"], &loss[0]["source"]), (&"decode".into(), &"DNS over TCP".into()));
    assert_eq!((&loss[0]["count"], output.verdict.incomplete), (&1.into(), 1));
    let answered = transactions(&output).iter().filter(|t| t["outcome"] == "answered").count();
    assert_eq!(answered, 2, "{}", output.json);
}

#[test]
fn a_capture_that_cuts_its_packets() {
    let mut conn = Conn::new("10.0.0.5:40000", "10.96.0.10:53");
    let mut frames = conn.open(MS);
    for id in 1..3 {
        let at = u64::from(id) * 200 * MS;
        frames.push((at, conn.to("P", &prefixed(&message(id, "A", None, &[])))));
        let many = ["192.0.2.7"; 20];
        frames.push((at + MS, conn.from("P", &prefixed(&message(id, "A", Some(0), &many)))));
    }
    frames.push(later(5000 * MS));
    // Room for the questions, not for the answers.
    let output = run(&records(&frames, 130));
    let all = transactions(&output);
    assert_eq!(all.len(), 2, "{}", output.json);
    assert!(all.iter().all(|t| t["outcome"] == "answered" && t["latency_ns"] == MS), "{all:?}");
    assert_eq!(output.lines("summary")[0]["cut"], 2);
}

const CLIENT: &str = "10.0.0.5:40000";
const SERVER: &str = "10.96.0.10:53";

/// A question over UDP, and an answer that did not fit.
fn cut_short(answer: &[&str]) -> Vec<Frame> {
    vec![
        (MS, udp("10.0.0.5:41000", SERVER, 1, &message(7, "A", None, &[]))),
        (2 * MS, udp(SERVER, "10.0.0.5:41000", 2, &truncated(7, "A", answer))),
    ]
}

/// The same over TCP, from 3 ms on, up to the question.
fn again(conn: &mut Conn) -> Vec<Frame> {
    let mut frames = conn.open(3 * MS);
    frames.push((5 * MS, conn.to("P", &prefixed(&message(7, "A", None, &[])))));
    frames
}

/// The one lookup; what followed its truncated answer; its finding, if there is one.
fn followed(output: &Output) -> (Value, Value, Option<Value>) {
    let lookups = output.lines("lookup");
    assert_eq!(lookups.len(), 1, "{}", output.json);
    let first = &transactions(output)[0];
    assert!(first["truncated"] == true && first["transport"] == "udp", "{first}");
    let in_lookup = &lookups[0]["attempts"][0]["transactions"][0];
    assert_eq!(in_lookup["after_truncation"], first["after_truncation"]);
    let mut findings = output.lines("finding");
    findings.retain(|f| f["code"] == "dns-truncated");
    assert!(findings.len() < 2);
    (lookups[0].clone(), first["after_truncation"].clone(), findings.pop())
}

#[test]
fn a_truncated_answer_then_all_of_it() {
    let mut frames = cut_short(&["192.0.2.1"]);
    let mut conn = Conn::new(CLIENT, SERVER);
    frames.extend(again(&mut conn));
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    frames.push((7 * MS, conn.from("P", &prefixed(&message(7, "A", Some(0), &all)))));
    frames.push((8 * MS, conn.to("F", &[])));
    let output = seen(frames);
    let (lookup, after, finding) = followed(&output);
    assert_eq!(after["followed"], "tcp-answered");
    assert_eq!(after["duration_ns"], 5 * MS);
    assert_eq!(
        (&lookup["outcome"], &lookup["duration_ns"]),
        (&"answered".into(), &(6 * MS).into())
    );
    assert_eq!(lookup["answers"], serde_json::json!(all));
    assert_eq!(finding, None, "what works and is quick is no finding");
    assert_eq!(output.codes(), [""; 0]);
}

#[test]
fn a_truncated_answer_and_tcp_is_refused() {
    let mut frames = cut_short(&["192.0.2.1"]);
    let mut conn = Conn::new(CLIENT, SERVER);
    frames.push((3 * MS, conn.to("S", &[])));
    frames.push((4 * MS, conn.from("R", &[])));
    let output = seen(frames);
    let (lookup, after, finding) = followed(&output);
    assert_eq!(
        (&after["followed"], &after["duration_ns"]),
        (&"tcp-refused".into(), &(2 * MS).into())
    );
    assert_eq!(lookup["outcome"], "error", "the client does not take the part for the whole");
    let finding = finding.unwrap();
    assert_eq!((&finding["class"], &finding["severity"]), (&"tcp-refused".into(), &"error".into()));
    assert_eq!(finding["cost_ns"], 2 * MS);
    let connections = output.lines("connection");
    assert_eq!(connections.len(), 1);
    assert_eq!(connections[0]["outcome"], "refused");
}

#[test]
fn a_truncated_answer_and_tcp_is_silent() {
    let mut frames = cut_short(&[]);
    let mut conn = Conn::new(CLIENT, SERVER);
    let syn = conn.to("S", &[]);
    for (n, at) in [3, 1003, 3003, 7003].into_iter().enumerate() {
        let n = u16::try_from(n).unwrap();
        frames.push((at * MS, tests::frames::identified(syn.clone(), 900 + n)));
    }
    // The client gives up; nothing but its silence says so.
    frames.push((200_000 * MS, udp("10.9.9.9:1000", "10.9.9.8:2000", 1, b"x")));
    let (_, after, finding) = followed(&seen(frames));
    assert_eq!(after["followed"], "tcp-timeout");
    assert_eq!(finding.unwrap()["class"], "tcp-timeout");
}

#[test]
fn a_truncated_answer_and_the_connection_breaks() {
    for flag in ["R", "F"] {
        let mut frames = cut_short(&["192.0.2.1"]);
        let mut conn = Conn::new(CLIENT, SERVER);
        frames.extend(again(&mut conn));
        frames.push((9 * MS, conn.from(flag, &[])));
        let output = seen(frames);
        let (lookup, after, finding) = followed(&output);
        assert_eq!(
            (&after["followed"], &lookup["outcome"]),
            (&"tcp-reset".into(), &"unreachable".into())
        );
        assert_eq!(finding.unwrap()["class"], "tcp-reset");
        let over_tcp = &transactions(&output)[1];
        assert_eq!(over_tcp["outcome"], "unreachable");
    }
}

#[test]
fn a_truncated_answer_that_is_taken_as_it_is() {
    let (lookup, after, finding) = followed(&seen(cut_short(&["192.0.2.1", "192.0.2.2"])));
    assert_eq!((&after["followed"], &after["duration_ns"]), (&"not-retried".into(), &Value::Null));
    assert_eq!(lookup["outcome"], "answered");
    let finding = finding.unwrap();
    assert_eq!((&finding["class"], &finding["severity"]), (&"not-retried".into(), &"info".into()));
    assert_eq!(finding["details"]["records_that_fitted"], 2);
    // `tcpdump udp port 53` shows the same of a client that does ask again.
    assert_eq!(finding["confidence"], "inferred");
    // Without time for the client to ask again, nothing is said.
    let records = records(&cut_short(&["192.0.2.1"]), 65_535);
    let (_, after, finding) = followed(&run(&records));
    assert_eq!((&after["followed"], finding), (&"undecided".into(), None));
}

#[test]
fn a_question_over_tcp_that_its_connection_takes_down() {
    let mut conn = Conn::new(CLIENT, SERVER);
    let mut frames = again(&mut conn);
    frames.push((9 * MS, conn.from("R", &[])));
    let output = seen(frames);
    assert_eq!(transactions(&output)[0]["outcome"], "unreachable");
    assert_eq!(output.codes(), ["resolver-unreachable"]);
}

/// A connection that was idle for as long as the server has patience: it closes it just as the next
/// question leaves, which is asked again on a new one.
#[test]
fn an_idle_connection_that_is_closed_while_a_question_leaves() {
    for (flag, waits, codes) in
        [("F", 1, &[][..]), ("R", 1, &[]), ("F", 900, &["resolver-unreachable"])]
    {
        let mut conn = Conn::new(CLIENT, SERVER);
        let mut frames = again(&mut conn);
        frames.push((6 * MS, conn.from("P", &prefixed(&message(7, "A", Some(0), &["192.0.2.1"])))));
        let question = prefixed(&message(8, "A", None, &[]));
        frames.push((10_006 * MS, conn.to("P", &question)));
        frames.push(((10_006 + waits) * MS, conn.from(flag, &[])));
        let mut next = Conn::new("10.0.0.5:40002", SERVER);
        let from = (10_007 + waits) * MS;
        frames.extend(next.open(from));
        frames.push((from + 2 * MS, next.to("P", &question)));
        let answer = prefixed(&message(8, "A", Some(0), &["192.0.2.1"]));
        frames.push((from + 3 * MS, next.from("P", &answer)));
        let output = seen(frames);
        let lookups = output.lines("lookup");
        assert_eq!(lookups.len(), 2, "{}", output.json);
        assert_eq!(lookups[1]["outcome"], "answered");
        let outcomes: Vec<_> = transactions(&output).iter().map(|t| t["outcome"].clone()).collect();
        assert_eq!(outcomes, ["answered", "unreachable", "answered"], "what was seen is told");
        assert_eq!(output.codes(), codes, "{flag} after {waits} ms");
    }
}

/// The server's answer ends with its connection: that is not for us to have lost.
#[test]
fn an_answer_that_its_server_breaks_off() {
    let mut conn = Conn::new(CLIENT, SERVER);
    let mut frames = again(&mut conn);
    let answer = prefixed(&message(7, "A", Some(0), &["192.0.2.1"; 30]));
    frames.push((6 * MS, conn.from("P", &answer[..100])));
    frames.push((7 * MS, conn.from("F", &[])));
    let output = seen(frames);
    assert_eq!((output.lines("loss").len(), output.verdict.incomplete), (0, 0), "{}", output.json);
    assert_eq!(output.lines("summary")[0]["broken_off"], 1);
    assert!(output.text.contains("1 DNS message over TCP broken off by its sender"));
    assert_eq!(output.codes(), ["resolver-unreachable"]);
}

#[test]
fn what_cannot_be_looked_into_is_named() {
    let mut conn = Conn::new(CLIENT, "1.1.1.1:853");
    let mut frames = conn.open(MS);
    frames.push((5 * MS, conn.to("P", b"\x16\x03\x01")));
    let output = seen(frames);
    let connections = output.lines("connection");
    assert_eq!(connections[0]["inside"], "dns-over-tls");
    assert!(output.text.contains("DNS over TLS"), "{}", output.text);
    assert_eq!(transactions(&output).len(), 0);
}
