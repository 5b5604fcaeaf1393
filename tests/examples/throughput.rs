//! How many DNS messages a second the pipeline takes, by kind of traffic. Records are made by hand
//! first; only the pipeline is timed. `cargo run --release -p tests --example throughput`
#![expect(clippy::unwrap_used, reason = "a measurement that fails is none")]

use std::io;

use tests::records::{
    Fact, Process, Socket, Stream, close, connect, fact, query, response, served,
};
use tests::wire::Dns;
use tracer::context;
use tracer::pipeline::{Options, Pipeline};
use tracer::record::{Record, RecordKind};
use tracer::sink::json::Json;

const SEARCH: [&str; 3] = ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"];
const TARGET: u64 = 100;
const RESOLVER: u64 = 200;

fn main() {
    println!("{:28} {:>9} {:>12} {:>9}", "TRAFFIC", "MESSAGES", "MESSAGES/S", "FINDINGS");
    measure("search walks, one by one", &walks(20_000, false));
    measure("walks seen at the resolver", &walks(10_000, true));
    measure("1000 lookups at a time", &crowd(40_000, 1_000));
    measure("one socket for everything", &one_socket(40_000));
    measure("nothing answers", &silence(20_000));
}

fn measure(name: &str, records: &[Record]) {
    let messages = records.iter().filter(|r| r.kind == RecordKind::Packet).count();
    let mut pipeline = Pipeline::new(Options::default(), vec![Box::new(Json::new(io::sink()))]);
    let start = cpu_ns();
    for record in records {
        pipeline.push(record.clone()).unwrap();
    }
    let verdict = pipeline.finish().unwrap();
    let rate = messages as f64 / ((cpu_ns() - start) as f64 / 1e9);
    println!("{name:28} {messages:>9} {rate:>12.0} {:>9}", verdict.findings.len());
}

/// Time this process spent on a processor, in nanoseconds: other load does not count.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    stat.split_whitespace().next().unwrap().parse().unwrap()
}

fn context() -> Vec<Fact> {
    let text = format!("search {}\nnameserver 10.96.0.10\noptions ndots:5\n", SEARCH.join(" "));
    let conf = context::ResolvConf {
        cgroup: Some(TARGET),
        path: "/etc/resolv.conf".to_owned(),
        text: Some(text),
        ..context::ResolvConf::default()
    };
    vec![fact(RecordKind::ResolvConf, &conf)]
}

fn socket(process: &Process, n: u32) -> Socket {
    let port = 1024 + n % 60_000;
    process.socket(u64::from(n) + 1, &format!("10.244.1.10:{port}"), "10.96.0.10:53")
}

fn id(n: u32) -> u16 {
    (n % 65_521) as u16
}

/// glibc: connect, A and AAAA, close, for each candidate; then the next lookup.
fn walks(lookups: u32, at_resolver: bool) -> Vec<Record> {
    let mut stream = Stream::default();
    stream.add(context());
    let server = Process::resolver(53, "coredns", RESOLVER).socket(
        9_999_999,
        "10.96.0.10:53",
        "10.244.1.10:1",
    );
    for n in 0..lookups {
        let process = Process::target(1_000 + n % 200, "curl", TARGET);
        let typed = format!("web{}.other", n % 500);
        let mut ms = f64::from(n) * 0.05;
        for (step, suffix) in SEARCH.iter().take(2).enumerate() {
            let socket = socket(&process, 2 * n + step as u32);
            let name = format!("{typed}.{suffix}");
            stream.add([connect(&socket).at_ms(ms)]);
            for (qtype, i) in [("A", 0), ("AAAA", 1)] {
                let id = id(4 * n + i);
                let rcode = if step == 0 { 3 } else { 0 };
                let answers: &[&str] = if step == 1 && i == 0 { &["10.96.1.1"] } else { &[] };
                stream.add([query(&socket, id, &name, qtype).at_ms(ms + 0.001)]);
                if at_resolver {
                    let server = server.towards(&socket.local.to_string());
                    let mut dns =
                        Dns { id, name: name.clone().into(), qtype, rcode: None, answers: vec![] };
                    stream.add([served(&server, false, &dns).at_ms(ms + 0.002)]);
                    dns.rcode = Some(rcode);
                    stream.add([served(&server, true, &dns).at_ms(ms + 0.005)]);
                }
                let reply = response(&socket, id, &name, qtype, rcode, answers);
                stream.add([reply.at_ms(ms + 0.008)]);
            }
            stream.add([close(&socket).at_ms(ms + 0.009)]);
            ms += 0.01;
        }
    }
    stream.records()
}

/// One process, many lookups under way at once, each on a socket of its own.
fn crowd(lookups: u32, at_once: u32) -> Vec<Record> {
    let mut stream = Stream::default();
    stream.add(context());
    let process = Process::target(1_000, "crawler", TARGET);
    for n in 0..lookups {
        let socket = socket(&process, n);
        let name = format!("host{n}.example.org.");
        let ms = f64::from(n) * 0.05;
        stream.add([connect(&socket).at_ms(ms)]);
        for (qtype, i) in [("A", 0), ("AAAA", 1)] {
            let id = id(2 * n + i);
            let end = ms + f64::from(at_once) * 0.05;
            stream.add([query(&socket, id, &name, qtype).at_ms(ms)]);
            let reply = response(&socket, id, &name, qtype, 0, &["192.0.2.1"]);
            stream.add([reply.at_ms(end)]);
        }
    }
    stream.records()
}

/// A resolver of its own that keeps its socket, as proxies do: one question after the other.
fn one_socket(lookups: u32) -> Vec<Record> {
    let mut stream = Stream::default();
    stream.add(context());
    let socket = socket(&Process::target(1_000, "envoy", TARGET), 1);
    for n in 0..lookups {
        let name = format!("host{}.example.org", n % 5_000);
        let ms = f64::from(n) * 0.05;
        stream.add([query(&socket, id(n), &name, "A").at_ms(ms)]);
        let reply = response(&socket, id(n), &name, "A", 0, &["192.0.2.1"]);
        stream.add([reply.at_ms(ms + 0.5)]);
    }
    stream.records()
}

/// A server that never answers; everybody asks on.
fn silence(lookups: u32) -> Vec<Record> {
    let mut stream = Stream::default();
    stream.add(context());
    for n in 0..lookups {
        let process = Process::target(1_000 + n % 50, "curl", TARGET);
        let socket = socket(&process, n);
        let name = format!("host{n}.example.org");
        let ms = f64::from(n) * 1.0;
        stream.add([connect(&socket).at_ms(ms)]);
        for (qtype, i) in [("A", 0), ("AAAA", 1)] {
            stream.add([query(&socket, id(2 * n + i), &name, qtype).at_ms(ms)]);
        }
    }
    stream.add([close(&socket(&Process::target(1_000, "curl", TARGET), 0)).at_ms(60_000.0)]);
    stream.records()
}
