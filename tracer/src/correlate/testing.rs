//! A bench for tests: events as a source would make them, through identify, correlate and diagnose.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{Conclusion, Connection, Correlator, Lookup};
use crate::context::{self, Role};
use crate::diagnose::{Counts, Diagnoser};
use crate::event::{
    Actor, AddressCall, Answer, Body, Call, Direction, Dns, Event, Message, Protocol, Question,
    SocketAddress, SocketClosed, Syscall,
};
use crate::identify::Identifier;
use crate::record::{Task, Timestamp};
use crate::report::{Finding, Summary};

pub(crate) const CLIENT: u64 = 100;
pub(crate) const RESOLVER: u64 = 200;
pub(crate) const SERVER: &str = "10.96.0.10:53";
pub(crate) const SEARCH: &str =
    "critical-app.svc.cluster.local svc.cluster.local cluster.local localdomain";
/// Wall clock of t = 0.
pub(crate) const ZERO: u64 = 1_795_000_000_000_000_000;

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A process that looks names up.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) task: Option<Task>,
    pub(crate) cgroup: u64,
    pub(crate) ip: &'static str,
    pub(crate) edns: bool,
    /// Whether the connect hook (glibc, Go) or the sendmsg hook (musl) tells the owner.
    pub(crate) connects: bool,
}

pub(crate) fn curl() -> Client {
    Client {
        task: Some(Task { pid: 4000, tid: 4001, comm: "curl".into() }),
        cgroup: CLIENT,
        ip: "10.244.1.10",
        edns: false,
        connects: true,
    }
}

/// One event, not yet numbered; times in nanoseconds from t = 0.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) at: u64,
    pub(crate) actor: Actor,
    pub(crate) body: Body,
}

/// What a response says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Says {
    Nx,
    NoData,
    Addr(&'static str),
    Rcode(u16),
}

fn message(name: &str, qtype: &str, id: u16, edns: bool, says: Option<Says>) -> Message {
    let mut message = Message {
        id,
        response: says.is_some(),
        question: Some(Question { name: name.into(), qtype: qtype.to_owned().into() }),
        edns,
        ..Message::default()
    };
    match says {
        Some(Says::Nx) => message.rcode = 3,
        Some(Says::Rcode(rcode)) => message.rcode = rcode,
        Some(Says::Addr(data)) => message.answers.push(Answer {
            name: name.into(),
            rtype: qtype.to_owned().into(),
            ttl: 5,
            data: data.into(),
        }),
        Some(Says::NoData) | None => {}
    }
    message
}

pub(crate) fn dns(
    at: u64,
    actor: Actor,
    direction: Direction,
    ends: (SocketAddr, SocketAddr),
    message: Message,
) -> Step {
    let body = Body::Dns(Dns {
        direction,
        protocol: Protocol::Udp,
        local: ends.0,
        remote: ends.1,
        intended_port: None,
        message,
        payload: Bytes::new(),
        original_len: 40, // of all messages here
    });
    let actor = Actor { local: Some(ends.0), ..actor };
    Step { at, actor, body }
}

/// Steps of one socket of a client.
#[derive(Clone, Debug)]
pub(crate) struct Socket {
    pub(crate) client: Client,
    pub(crate) cookie: u64,
    pub(crate) port: u16,
}

impl Socket {
    fn actor(&self, task: bool) -> Actor {
        Actor {
            task: self.client.task.clone().filter(|_| task),
            cgroup: Some(self.client.cgroup),
            cookie: Some(self.cookie),
            ..Actor::default()
        }
    }

    pub(crate) fn ends(&self) -> (SocketAddr, SocketAddr) {
        (SocketAddr::new(self.client.ip.parse().unwrap(), self.port), addr(SERVER))
    }

    pub(crate) fn open(&self, at: u64) -> Step {
        let call = if self.client.connects { AddressCall::Connect } else { AddressCall::Sendmsg };
        let body = Body::SocketAddress(SocketAddress {
            call,
            protocol: Protocol::Udp,
            remote: addr(SERVER),
            fd: Some(5),
        });
        Step { at, actor: self.actor(true), body }
    }

    pub(crate) fn ask(&self, at: u64, name: &str, qtype: &str, id: u16) -> Step {
        let message = message(name, qtype, id, self.client.edns, None);
        dns(at, self.actor(false), Direction::Out, self.ends(), message)
    }

    pub(crate) fn told(&self, at: u64, name: &str, qtype: &str, id: u16, says: Says) -> Step {
        let message = message(name, qtype, id, self.client.edns, Some(says));
        dns(at, self.actor(false), Direction::In, self.ends(), message)
    }

    pub(crate) fn close(&self, at: u64) -> Step {
        let body =
            Body::SocketClosed(SocketClosed { protocol: Protocol::Udp, local: None, remote: None });
        Step { at, actor: self.actor(false), body }
    }

    pub(crate) fn fails(&self, at: u64, call: Call, errno: i64) -> Step {
        let body = Body::Syscall(Syscall {
            call,
            entered: Timestamp(ZERO + at - 1_000),
            result: Some(-errno),
            fd: 5,
            size: Some(2048),
            peer: None,
        });
        Step { at, actor: self.actor(true), body }
    }

    /// sendmmsg took `sent` of the two queries.
    pub(crate) fn sends_both(&self, at: u64, sent: i64) -> Step {
        let mut step = self.fails(at, Call::Sendmmsg, -sent);
        if let Body::Syscall(call) = &mut step.body {
            call.size = Some(2);
        }
        step
    }

    /// A and AAAA of one name with both answers `wait` ns later; ids `id` and `id + 1`.
    pub(crate) fn pair(
        &self,
        at: u64,
        wait: u64,
        name: &str,
        id: u16,
        says: [Says; 2],
    ) -> Vec<Step> {
        vec![
            self.open(at),
            self.ask(at + 10_000, name, "A", id),
            self.ask(at + 15_000, name, "AAAA", id + 1),
            self.told(at + wait, name, "A", id, says[0]),
            self.told(at + wait + 20_000, name, "AAAA", id + 1, says[1]),
            self.close(at + wait + 30_000),
        ]
    }
}

/// The resolver pod's two sides.
pub(crate) struct Resolver;

impl Resolver {
    fn actor(cookie: u64) -> Actor {
        let task = Some(Task { pid: 900, tid: 900, comm: "dnsmasq".into() });
        Actor { task, cgroup: Some(RESOLVER), cookie: Some(cookie), ..Actor::default() }
    }

    fn listener(socket: &Socket) -> (SocketAddr, SocketAddr) {
        (addr("10.244.1.20:53"), socket.ends().0)
    }

    pub(crate) fn hears(socket: &Socket, at: u64, name: &str, qtype: &str, id: u16) -> Step {
        let message = message(name, qtype, id, false, None);
        dns(at, Self::actor(1), Direction::In, Self::listener(socket), message)
    }

    pub(crate) fn says(
        socket: &Socket,
        at: u64,
        name: &str,
        qtype: &str,
        id: u16,
        says: Says,
    ) -> Step {
        let message = message(name, qtype, id, false, Some(says));
        dns(at, Self::actor(1), Direction::Out, Self::listener(socket), message)
    }

    /// Asks the upstream from a socket of its own.
    pub(crate) fn asks(cookie: u64, at: u64, name: &str, qtype: &str, id: u16, to: &str) -> Step {
        let ends = (addr("10.244.1.20:33333"), addr(to));
        dns(at, Self::actor(cookie), Direction::Out, ends, message(name, qtype, id, false, None))
    }

    pub(crate) fn hears_back(
        cookie: u64,
        at: u64,
        name: &str,
        qtype: &str,
        id: u16,
        from: &str,
        says: Says,
    ) -> Step {
        let ends = (addr("10.244.1.20:33333"), addr(from));
        let message = message(name, qtype, id, false, Some(says));
        dns(at, Self::actor(cookie), Direction::In, ends, message)
    }
}

/// The stages after decode.
pub(crate) struct Bench {
    pub(crate) who: Identifier,
    correlator: Correlator,
    diagnoser: Diagnoser,
    number: u64,
    now: Timestamp,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) unmatched: u64,
    pub(crate) summary: Option<Summary>,
}

impl Bench {
    /// Nothing is known about anybody.
    pub(crate) fn bare() -> Self {
        Self {
            who: Identifier::default(),
            correlator: Correlator::default(),
            diagnoser: Diagnoser::new(100_000_000),
            number: 0,
            now: Timestamp(ZERO - 1_000_000),
            lookups: Vec::new(),
            connections: Vec::new(),
            findings: Vec::new(),
            unmatched: 0,
            summary: None,
        }
    }

    /// A client pod with kubelet's resolv.conf; with its resolver on the same node or not.
    pub(crate) fn node(resolver: bool) -> Self {
        let mut bench = Self::bare();
        bench.fact(Body::Host(context::Host {
            dns_ports: vec![53],
            resolver_traced: resolver,
            syscalls: true,
            ..Default::default()
        }));
        bench.place(CLIENT, "/kubepods/podclient", Role::Target);
        if resolver {
            bench.place(RESOLVER, "/kubepods/podresolver", Role::Resolver);
        }
        bench.fact(Body::ResolvConf(context::ResolvConf {
            cgroup: Some(CLIENT),
            path: "/etc/resolv.conf".into(),
            text: Some(format!("search {SEARCH}\nnameserver 10.96.0.10\noptions ndots:5\n")),
            ..Default::default()
        }));
        bench.fact(Body::NodeFile(context::NodeFile {
            path: "/etc/resolv.conf".into(),
            text: "# node\nnameserver 10.99.0.53\nsearch localdomain\n".into(),
        }));
        bench
    }

    fn place(&mut self, id: u64, path: &str, role: Role) {
        self.fact(Body::Cgroup(context::Cgroup { id, path: path.into() }));
        self.fact(Body::Scope(context::Scope {
            cgroup: id,
            path: path.into(),
            role,
            ..Default::default()
        }));
    }

    pub(crate) fn fact(&mut self, body: Body) {
        self.event(self.now, Actor::default(), body);
    }

    fn event(&mut self, at: Timestamp, actor: Actor, body: Body) {
        self.number += 1;
        self.now = self.now.max(at);
        let mut event = Event { number: self.number, at, cpu: None, probe: None, actor, body };
        self.who.learn(&event);
        if let Body::Loss(loss) = &event.body {
            self.diagnoser.loss(loss, self.now);
        }
        let mut done = Vec::new();
        self.correlator.observe(&mut event, &self.who, &mut done);
        self.take(done);
        self.diagnoser.advance(self.now, &self.who, &mut self.findings);
    }

    fn take(&mut self, done: Vec<Conclusion>) {
        for conclusion in done {
            match conclusion {
                Conclusion::Lookup(lookup) => {
                    self.diagnoser.lookup(&lookup, self.now, &self.who);
                    self.diagnoser.relieve(&self.who, &mut self.findings);
                    self.lookups.push(*lookup);
                }
                Conclusion::Connection(connection) => {
                    self.diagnoser.connection(&connection, self.now);
                    self.connections.push(*connection);
                }
            }
        }
    }

    /// Plays steps in the order of their times.
    pub(crate) fn play(&mut self, mut steps: Vec<Step>) -> &mut Self {
        steps.sort_by_key(|s| s.at);
        self.play_as_is(steps)
    }

    /// Plays steps in the order given.
    pub(crate) fn play_as_is(&mut self, steps: Vec<Step>) -> &mut Self {
        for step in steps {
            self.event(Timestamp(ZERO + step.at), step.actor, step.body);
        }
        self
    }

    /// Heartbeats every 250 ms until `ns` from t = 0.
    pub(crate) fn quiet_until(&mut self, ns: u64) -> &mut Self {
        while self.now.plus(250_000_000) <= Timestamp(ZERO + ns) {
            self.event(self.now.plus(250_000_000), Actor::default(), Body::Heartbeat);
        }
        self
    }

    pub(crate) fn finish(mut self) -> Self {
        let mut done = Vec::new();
        self.correlator.finish(&self.who, &mut done);
        self.take(done);
        self.diagnoser.finish(&self.who, &mut self.findings);
        let unmatched = self.correlator.unmatched();
        self.unmatched = unmatched.total();
        let counts =
            Counts { first: Some(Timestamp(ZERO)), last: self.now, unmatched, ..Counts::default() };
        self.summary = Some(self.diagnoser.summary(&counts));
        self
    }

    pub(crate) fn codes(&self) -> Vec<&'static str> {
        self.findings.iter().map(|f| f.code.name()).collect()
    }
}

const MS: u64 = 1_000_000;
const US: u64 = 1_000;
pub(crate) const UPSTREAM: &str = "10.99.0.53:53";
pub(crate) const NAME: &str = "backend.critical-app.svc.cluster.local";

/// The incident as measured: three pairs of NXDOMAIN, silence for `localdomain` with one
/// retransmission after 5.003 s, the name itself at 10.007 s. With the resolver's side or without.
pub(crate) fn story(client: &Client, resolver: bool, cookie: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    let socket = |n: u64| Socket {
        client: client.clone(),
        cookie: cookie + n,
        port: 40_000 + (cookie + n) as u16,
    };
    for (i, suffix) in SEARCH.split(' ').take(3).enumerate() {
        let name = format!("{NAME}.{suffix}");
        let (n, at) = (i as u64, 330 * US * i as u64);
        let id = 100 + 2 * i as u16;
        steps.extend(socket(n).pair(at, 300 * US, &name, id, [Says::Nx; 2]));
        if resolver {
            for (qtype, id) in [("A", id), ("AAAA", id + 1)] {
                steps.push(Resolver::hears(&socket(n), at + 100 * US, &name, qtype, id));
                steps.push(Resolver::says(&socket(n), at + 200 * US, &name, qtype, id, Says::Nx));
            }
        }
    }
    let name = format!("{NAME}.localdomain");
    let silent = socket(3);
    steps.push(silent.open(MS));
    for at in [MS + 10 * US, 5_003 * MS] {
        for (i, (qtype, id)) in [("A", 110), ("AAAA", 111)].into_iter().enumerate() {
            let at = at + 5 * US * i as u64;
            steps.push(silent.ask(at, &name, qtype, id));
            if resolver {
                steps.push(Resolver::hears(&silent, at + 50 * US, &name, qtype, id));
                let up = 9_000 + cookie + i as u64;
                steps.push(Resolver::asks(up, at + 90 * US, &name, qtype, id + 7, UPSTREAM));
            }
        }
    }
    steps.push(silent.close(10_007 * MS - 50 * US));
    let last = socket(4);
    let says = [Says::Addr("10.96.100.50"), Says::NoData];
    steps.extend(last.pair(10_007 * MS, 300 * US, NAME, 120, says));
    if resolver {
        for (qtype, id, says) in [("A", 120, says[0]), ("AAAA", 121, says[1])] {
            steps.push(Resolver::hears(&last, 10_007 * MS + 100 * US, NAME, qtype, id));
            steps.push(Resolver::says(&last, 10_007 * MS + 200 * US, NAME, qtype, id, says));
        }
    }
    steps
}
