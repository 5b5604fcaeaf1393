//! An hour of a pod in which all is well: lookups of every resolver library, at once and one after the
//! other, names inside and outside, answers of all usual kinds and times. Nothing may be found.

use tests::binary;
use tests::records::*;
use tests::wire::Dns;
use tests::{capture, lines};
use tracer::capture::Options;
use tracer::record::Record;

use crate::scenarios::Node;

const SUFFIXES: [&str; 3] =
    ["critical-app.svc.cluster.local", "svc.cluster.local", "cluster.local"];
const SERVER: &str = "10.96.0.10:53";
const HOUR_MS: u32 = 3_600_000;
const NXDOMAIN: u8 = 3;
/// cgroup of the pod's container.
const CLIENT: u64 = 101;

/// How a resolver library asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Library {
    Glibc,
    Musl,
    Go,
    CAres,
}

/// A generator of numbers, always the same ones.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn ms(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.below(1_000_000) as f64 / 1e6
    }
}

/// The hour as it is made.
struct Hour {
    node: Node,
    dice: Dice,
    cookie: u64,
    lookups: u64,
}

/// A name that is asked for.
struct Question<'a> {
    name: &'a str,
    rcode: u8,
    /// Whether the resolver asks its upstream.
    outside: bool,
}

impl Hour {
    fn socket(&mut self, process: &Process) -> Socket {
        self.cookie += 1;
        let port = 32_768 + self.cookie % 28_000;
        process.socket(self.cookie, &format!("10.244.1.10:{port}"), SERVER)
    }

    fn opens(&mut self, library: Library, process: &Process, at: f64) -> Socket {
        let socket = self.socket(process);
        let opened = if library == Library::Musl { sendmsg(&socket) } else { connect(&socket) };
        self.node.stream.add([opened.at_ms(at - 0.02)]);
        socket
    }

    /// Query and answer, at the client, at the resolver, and at its upstream if that is asked. Returns
    /// when the client has its answer.
    fn asks(&mut self, at: f64, socket: &Socket, q: &Question<'_>, qtype: &'static str) -> f64 {
        let id = self.dice.below(65_536) as u16;
        let upstream = if q.outside { self.dice.ms(0.5, 25.0) } else { 0.0 };
        let took = upstream + self.dice.ms(0.3, 3.0);
        let message = |rcode| Dns { id, name: q.name.into(), qtype, rcode, answers: Vec::new() };
        let listening = self.node.dns.socket(900, "10.244.1.2:53", &socket.local.to_string());
        let address = if qtype == "A" && q.rcode == 0 { &["10.96.7.7"][..] } else { &[] };
        self.node.stream.add([
            query(socket, id, q.name, qtype).at_ms(at),
            served(&listening, false, &message(None)).at_ms(at + 0.05),
            served(&listening, true, &message(Some(q.rcode))).at_ms(at + took - 0.05),
            response(socket, id, q.name, qtype, q.rcode, address).at_ms(at + took),
        ]);
        if q.outside {
            self.cookie += 1;
            let port = 32_768 + self.cookie % 28_000;
            let local = format!("10.244.1.2:{port}");
            let up = self.node.dns.socket(self.cookie, &local, "10.99.0.53:53");
            let other = id.wrapping_add(7);
            let (asked, told) = (at + 0.1, at + 0.1 + upstream);
            self.node.stream.add([
                query(&up, other, q.name, qtype).at_ms(asked),
                response(&up, other, q.name, qtype, q.rcode, address).at_ms(told),
                close(&up).at_ms(told + 0.02),
            ]);
        }
        at + took
    }

    /// One lookup as this library makes it; returns its end.
    fn looks_up(&mut self, library: Library, process: &Process, name: &str, at: f64) -> f64 {
        self.lookups += 1;
        let outside = !name.ends_with(".cluster.local");
        let mut candidates: Vec<(String, u8)> =
            SUFFIXES.iter().map(|suffix| (format!("{name}.{suffix}"), NXDOMAIN)).collect();
        match name.strip_suffix('.') {
            Some(absolute) => candidates = vec![(absolute.to_owned(), 0)],
            None if name.contains('.') => candidates.push((name.to_owned(), 0)),
            None => candidates = vec![(format!("{name}.{}", SUFFIXES[0]), 0)],
        }
        let mut at = at;
        let mut sockets: Vec<Socket> = Vec::new();
        for (candidate, rcode) in &candidates {
            let outside = outside && !candidate.ends_with(".cluster.local");
            let question = Question { name: candidate, rcode: *rcode, outside };
            if library != Library::CAres || sockets.is_empty() {
                let opened = self.opens(library, process, at);
                sockets.push(opened);
            }
            let first = sockets.last().unwrap().clone();
            let second = match library {
                Library::Go => self.opens(library, process, at + 0.03),
                _ => first.clone(),
            };
            let a = self.asks(at, &first, &question, "A");
            let aaaa = self.asks(at + 0.04, &second, &question, "AAAA");
            at = a.max(aaaa) + self.dice.ms(0.02, 0.3);
            if library != Library::CAres {
                self.node.stream.add([close(&first).at_ms(at)]);
            }
            if library == Library::Go {
                self.node.stream.add([close(&second).at_ms(at)]);
            }
        }
        if library == Library::CAres {
            let last = sockets.last().unwrap();
            self.node.stream.add([close(last).at_ms(at)]);
        }
        at
    }
}

/// Four programs, each looking up one name after the other, beside each other.
fn hour() -> (Vec<Record>, u64) {
    let node = Node::new(true, false);
    let mut hour = Hour { node, dice: Dice(0x5eed), cookie: 1_000, lookups: 0 };
    let programs = [
        (Library::Glibc, 4711, "curl"),
        (Library::Glibc, 4712, "python3"),
        (Library::Musl, 4713, "wget"),
        (Library::Go, 4714, "server"),
        (Library::CAres, 4715, "node"),
    ];
    for (library, pid, comm) in programs {
        let process = Process::target(pid, comm, CLIENT);
        let mut at = 100.0 + f64::from(pid % 10);
        while at < f64::from(HOUR_MS) - 5_000.0 {
            let n = hour.dice.below(40);
            let name = match hour.dice.below(5) {
                0 => format!("svc-{n}.critical-app.svc.cluster.local"),
                1 => format!("svc-{n}"),
                2 => format!("www{n}.example.com"),
                3 => format!("api.host-{n}.example.org."),
                _ => format!("db-{n}.storage.svc.cluster.local"),
            };
            at = hour.looks_up(library, &process, &name, at);
            // Now and then at once, mostly after a while.
            at += if n == 0 { 0.5 } else { hour.dice.ms(200.0, 12_000.0) };
        }
    }
    hour.node.stream.beat_until_ms(HOUR_MS);
    (hour.node.stream.records(), hour.lookups)
}

#[test]
fn an_hour_without_findings() {
    let (records, lookups) = hour();
    assert!(lookups > 2_500, "{lookups}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("hour.pcapng.zst");
    std::fs::write(&file, capture::file(&records, Options::default())).unwrap();
    let output = binary::run(&["-r", file.to_str().unwrap(), "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", binary::stderr(&output));
    let text = binary::stdout(&output);
    let findings: Vec<&str> = text.lines().filter(|l| l.contains(r#""type":"finding""#)).collect();
    assert!(findings.is_empty(), "{} findings, as {}", findings.len(), findings[0]);
    let last = lines(text.lines().last().unwrap());
    assert_eq!(last[0]["lookups"], serde_json::json!({ "answered": lookups }), "{last:?}");
    assert_eq!(last[0]["unmatched_responses"], 0, "{last:?}");
}
