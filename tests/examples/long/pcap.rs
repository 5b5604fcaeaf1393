//! A node's DNS as tcpdump sees it: pods that resolve names with glibc, most of them through a walk
//! of the search list, some answers lost, some errors. The same bytes at every run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tests::frames;
use tests::records::START_NS;
use tests::wire::{self, Dns};

const PODS: u32 = 200;
const SEARCH: [&str; 3] = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"];
/// Lookups begin this far apart on average: some 20,000 messages a second.
const APART_NS: u64 = 260_000;
const US: u64 = 1_000;
const MS: u64 = 1_000_000;

/// A step of a lookup: both queries of one candidate.
struct Step {
    pod: u32,
    typed: String,
    candidate: usize,
    /// Candidates that do not exist before the one that does.
    misses: usize,
    try_number: u32,
}

/// What happens next; ordered by time, then by when it was planned.
enum Next {
    Lookup,
    Ask(Step),
    Packet(Box<(SocketAddr, SocketAddr, Dns)>),
}

struct Plan {
    at: u64,
    order: u64,
    next: Next,
}

impl PartialEq for Plan {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Plan {}
impl PartialOrd for Plan {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Plan {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[derive(Default)]
struct Node {
    plans: BinaryHeap<Reverse<Plan>>,
    order: u64,
    random: u64,
    ports: Vec<u16>,
}

/// `messages` DNS messages as classic pcap with nanoseconds, Ethernet.
pub(crate) fn write(mut out: impl Write, messages: u64) {
    let header = frames::file(frames::Format::Pcap { big: false, nano: true }, 1, 65_535, &[]);
    out.write_all(&header).unwrap();
    let mut node = Node { ports: vec![32_768; PODS as usize], ..Node::default() };
    node.plan(0, Next::Lookup);
    let mut written = 0;
    while written < messages
        && let Some(Reverse(plan)) = node.plans.pop()
    {
        match plan.next {
            Next::Lookup => node.lookup(plan.at),
            Next::Ask(step) => node.ask(plan.at, step),
            Next::Packet(packet) => {
                let (from, to, dns) = *packet;
                let ip = wire::udp(from, to, &wire::dns(&dns));
                let ip = frames::identified(ip, u16::try_from(written % 65_535 + 1).unwrap());
                let frame = frames::framed(1, &ip);
                let at = START_NS + plan.at;
                let length = u32::try_from(frame.len()).unwrap();
                let seconds = u32::try_from(at / 1_000_000_000).unwrap();
                let part = u32::try_from(at % 1_000_000_000).unwrap();
                for word in [seconds, part, length, length] {
                    out.write_all(&word.to_le_bytes()).unwrap();
                }
                out.write_all(&frame).unwrap();
                written += 1;
            }
        }
    }
    out.flush().unwrap();
}

impl Node {
    fn plan(&mut self, at: u64, next: Next) {
        self.order += 1;
        self.plans.push(Reverse(Plan { at, order: self.order, next }));
    }

    /// Knuth's constants; below `limit`.
    fn random(&mut self, limit: u64) -> u64 {
        let next = self.random.wrapping_mul(6_364_136_223_846_793_005);
        self.random = next.wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit
    }

    fn lookup(&mut self, at: u64) {
        let n = self.random(5_000);
        let (typed, misses) = match self.random(10) {
            0..4 => (format!("backend{n}.store"), 1), // a Service of another namespace
            4..7 => (format!("backend{n}"), 0),       // one of its own
            7..9 => (format!("api{n}.example.org"), 3), // outside, after the whole walk
            _ => (format!("gone{n}"), SEARCH.len() + 1), // nowhere
        };
        let pod = u32::try_from(self.random(PODS.into())).unwrap();
        self.ask(at, Step { pod, typed, candidate: 0, misses, try_number: 0 });
        let apart = self.random(2 * APART_NS);
        self.plan(at + apart, Next::Lookup);
    }

    /// A and AAAA from one new socket, and what comes of them.
    fn ask(&mut self, at: u64, step: Step) {
        let suffix = SEARCH.get(step.candidate);
        let name = suffix.map_or_else(|| step.typed.clone(), |s| format!("{}.{s}", step.typed));
        let client = self.client(step.pod);
        let server = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 53);
        let lost = step.try_number == 0 && self.random(2_000) == 0;
        let failed = self.random(5_000) == 0;
        let hit = step.candidate == step.misses;
        let took = match (suffix.is_some(), hit) {
            (true, _) => 100 * US + self.random(900 * US),
            (false, _) => 2 * MS + self.random(30 * MS),
        };
        for (qtype, after) in [("A", 0), ("AAAA", 20 * US)] {
            let id = u16::try_from(self.random(65_536)).unwrap();
            let ask =
                Dns { id, name: name.clone().into(), qtype, rcode: None, answers: Vec::new() };
            let mut reply = Dns { rcode: Some(if hit { 0 } else { 3 }), ..ask.clone() };
            if failed {
                reply.rcode = Some(2);
            } else if hit && qtype == "A" {
                let low = u8::try_from(self.random(250)).unwrap();
                reply.answers.push(IpAddr::V4(Ipv4Addr::new(10, 96, 1, low)));
            }
            self.plan(at + after, Next::Packet(Box::new((client, server, ask))));
            if !lost {
                let at = at + after + took;
                self.plan(at, Next::Packet(Box::new((server, client, reply))));
            }
        }
        let over = at + took + 60 * US;
        if lost || failed && step.try_number == 0 {
            let again = Step { try_number: step.try_number + 1, ..step };
            self.plan(if lost { at + 5_000 * MS } else { over }, Next::Ask(again));
        } else if !hit && step.candidate < SEARCH.len() {
            self.plan(over, Next::Ask(Step { candidate: step.candidate + 1, ..step }));
        }
    }

    fn client(&mut self, pod: u32) -> SocketAddr {
        let port = &mut self.ports[pod as usize];
        *port = if *port == 60_999 { 32_768 } else { *port + 1 };
        let ip = Ipv4Addr::new(10, 244, 1, u8::try_from(pod + 1).unwrap());
        SocketAddr::new(IpAddr::V4(ip), *port)
    }
}
