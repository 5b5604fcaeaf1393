//! What happens on a node, as records. Judges nothing: the tests that use them do.

use tests::records::*;
use tests::wire::Dns;
use tracer::context::{
    Cgroup, Container, Endpoint, EndpointSlice, Host, NodeFile, Origin, Pod, Port, ResolvConf,
    Role, Scope, Service,
};
use tracer::record::{Record, RecordKind};

const CLIENT_UID: &str = "6f0f0d63-0001-4000-8000-000000000001";
const DNS_UID: &str = "6f0f0d63-0002-4000-8000-000000000002";
const CONTAINER: &str = "b3a7000000000000000000000000000000000000000000000000000000000001";

const NAME: &str = "backend.critical-app.svc.cluster.local";
const SUFFIXES: [&str; 3] =
    ["critical-app.svc.cluster.local", "svc.cluster.local", "cluster.local"];
const SERVER: &str = "10.96.0.10:53";
const BACKEND: &str = "10.96.7.7";
const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;

/// The node before anything happens.
pub(crate) struct Node {
    pub(crate) stream: Stream,
    client: Process,
    pub(crate) dns: Process,
    resolver: bool,
}

/// Every scenario with its name.
pub(crate) fn all() -> Vec<(&'static str, Vec<Record>)> {
    vec![
        ("healthy", healthy()),
        ("story", story(true)),
        ("story-no-resolver", story(false)),
        ("nxdomain", nxdomain()),
        ("resolver-silent", resolver_silent()),
        ("resolver-refused", resolver_refused()),
        ("servfail", servfail()),
        ("hostile-name", hostile_name()),
        ("cut-short", cut_short()),
        ("loss", loss_in_between()),
        ("wire", at_the_door()),
        ("stranger", stranger()),
    ]
}

impl Node {
    pub(crate) fn new(resolver: bool, foreign: bool) -> Self {
        let slice = |uid: &str| {
            let uid = uid.replace('-', "_");
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice")
        };
        let search = if foreign {
            format!("{} localdomain", SUFFIXES.join(" "))
        } else {
            SUFFIXES.join(" ")
        };
        let scope = |cgroup, uid, role| Scope {
            cgroup,
            path: slice(uid),
            role,
            only_pid: None,
            ended: false,
        };
        let cgroup = |id, uid| Cgroup {
            id,
            path: format!("{}/cri-containerd-{CONTAINER}.scope", slice(uid)),
        };
        let resolv_conf = ResolvConf {
            cgroup: Some(101),
            pid: Some(4000),
            path: "/etc/resolv.conf".into(),
            text: Some(format!("search {search}\nnameserver 10.96.0.10\noptions ndots:5\n")),
            ..ResolvConf::default()
        };
        let mut stream = Stream::default();
        stream.add([
            fact(
                RecordKind::Host,
                &Host {
                    boot_id: "0f".into(),
                    node: Some("node-1".into()),
                    hostname: "node-1".into(),
                    kernel: "6.12.0".into(),
                    arch: "x86_64".into(),
                    cpus: 2,
                    version: "0.1.0".into(),
                    dns_ports: vec![53],
                    resolver_traced: resolver,
                    syscalls: true,
                    missing_probes: Vec::new(),
                    ended: false,
                    kubelet: None,
                },
            ),
            fact(RecordKind::Cgroup, &Cgroup { id: 100, path: slice(CLIENT_UID) }),
            fact(RecordKind::Cgroup, &cgroup(101, CLIENT_UID)),
            fact(RecordKind::Scope, &scope(100, CLIENT_UID, Role::Target)),
            fact(
                RecordKind::Pod,
                &pod(CLIENT_UID, "critical-app", "client", "10.244.1.10", Some(CONTAINER)),
            ),
            fact(RecordKind::Pod, &pod(DNS_UID, "kube-system", "coredns-1", "10.244.1.2", None)),
            fact(RecordKind::ResolvConf, &resolv_conf),
        ]);
        if foreign {
            let text = "nameserver 10.99.0.53\nsearch localdomain\n".into();
            stream.add([fact(
                RecordKind::NodeFile,
                &NodeFile { path: "/etc/resolv.conf".into(), text },
            )]);
        }
        if resolver {
            stream.add([
                fact(RecordKind::Cgroup, &Cgroup { id: 200, path: slice(DNS_UID) }),
                fact(RecordKind::Cgroup, &cgroup(201, DNS_UID)),
                fact(RecordKind::Scope, &scope(200, DNS_UID, Role::Resolver)),
            ]);
        }
        stream.add(services());
        let client = Process::target(4711, "curl", 101);
        Self { stream, client, dns: Process::resolver(900, "coredns", 201), resolver }
    }

    fn socket(&self, cookie: u64) -> Socket {
        let port = 40_000 + cookie;
        self.client.socket(cookie, &format!("10.244.1.10:{port}"), SERVER)
    }

    /// A question of the client, and its answer after `took` ms, seen at both ends.
    fn asks(&mut self, at: f64, socket: &Socket, id: u16, name: &str, answer: Option<(f64, u8)>) {
        for (n, qtype) in [(0, "A"), (1, "AAAA")] {
            let (id, sent) = (id + n, at + f64::from(n) * 0.05);
            self.stream.add([query(socket, id, name, qtype).at_ms(sent)]);
            let message = |rcode| Dns { id, name: name.into(), qtype, rcode, answers: Vec::new() };
            let listening = self.dns.socket(900, "10.244.1.2:53", &socket.local.to_string());
            if self.resolver {
                self.stream.add([served(&listening, false, &message(None)).at_ms(sent + 0.1)]);
            }
            let Some((took, rcode)) = answer else { continue };
            let answers: &[&str] = if rcode == 0 && qtype == "A" { &[BACKEND] } else { &[] };
            self.stream.add([response(socket, id, name, qtype, rcode, answers).at_ms(sent + took)]);
            if self.resolver {
                let sent = served(&listening, true, &message(Some(rcode))).at_ms(sent + took - 0.1);
                self.stream.add([sent]);
            }
        }
    }

    /// The resolver forwards to an upstream that stays silent.
    fn forwards(&mut self, at: f64, name: &str) {
        if !self.resolver {
            return;
        }
        for (n, qtype) in [(0u16, "A"), (1, "AAAA")] {
            let port = 50_000 + n;
            let local = format!("10.244.1.2:{port}");
            let socket = self.dns.socket(950 + u64::from(n), &local, "10.99.0.53:53");
            self.stream
                .add([query(&socket, 700 + n, name, qtype).at_ms(at + 0.3 + f64::from(n) * 0.05)]);
        }
    }

    /// curl connects to what it found.
    fn connects(&mut self, at: f64) {
        let socket = self.client.tcp(77, "10.244.1.10:41000", &format!("{BACKEND}:80"));
        self.stream.add([
            connect(&socket).at_ms(at),
            established(&socket).at_ms(at + 0.4),
            close(&socket).at_ms(at + 3.0),
        ]);
    }

    fn ends(mut self, ms: u32) -> Vec<Record> {
        self.stream.beat_until_ms(ms);
        self.stream.records()
    }
}

fn pod(uid: &str, namespace: &str, name: &str, ip: &str, container: Option<&str>) -> Pod {
    Pod {
        uid: uid.into(),
        namespace: namespace.into(),
        name: name.into(),
        node: Some("node-1".into()),
        ips: vec![ip.parse().unwrap()],
        dns_policy: Some("ClusterFirst".into()),
        containers: vec![Container { name: name.into(), id: container.map(Into::into) }],
        origin: Origin::Api,
        ..Pod::default()
    }
}

fn services() -> Vec<Fact> {
    let port = |name: &str, protocol: &str, port| Port {
        name: name.into(),
        protocol: protocol.into(),
        port,
        node_port: None,
    };
    let service = |namespace: &str, name: &str, ip: &str, ports| Service {
        namespace: namespace.into(),
        name: name.into(),
        cluster_ips: vec![ip.parse().unwrap()],
        ports,
        ..Service::default()
    };
    let slice = EndpointSlice {
        namespace: "kube-system".into(),
        name: "kube-dns-1".into(),
        service: Some("kube-dns".into()),
        ports: vec![port("dns", "UDP", 53)],
        endpoints: vec![Endpoint {
            addresses: vec!["10.244.1.2".parse().unwrap()],
            ready: Some(true),
            pod: Some("kube-system/coredns-1".into()),
            pod_uid: Some(DNS_UID.into()),
            node: Some("node-1".into()),
            ..Endpoint::default()
        }],
        deleted: false,
    };
    vec![
        fact(
            RecordKind::Service,
            &service("kube-system", "kube-dns", "10.96.0.10", vec![port("dns", "UDP", 53)]),
        ),
        fact(
            RecordKind::Service,
            &service("critical-app", "backend", BACKEND, vec![port("http", "TCP", 80)]),
        ),
        fact(RecordKind::EndpointSlice, &slice),
    ]
}

/// The search list is walked, quickly, and the name is found.
pub(crate) fn healthy() -> Vec<Record> {
    let mut node = Node::new(true, false);
    let socket = node.socket(1);
    node.stream.add([connect(&socket).at_ms(9.9)]);
    for (n, suffix) in (0..).zip(SUFFIXES) {
        let at = 10.0 + f64::from(n) * 2.0;
        node.asks(at, &socket, 100 + 10 * n, &format!("{NAME}.{suffix}"), Some((1.0, NXDOMAIN)));
    }
    node.asks(16.0, &socket, 200, NAME, Some((1.0, 0)));
    node.stream.add([close(&socket).at_ms(18.0)]);
    node.connects(20.0);
    node.ends(8000)
}

/// Ten seconds: a foreign suffix goes to an upstream that stays silent, twice five seconds.
pub(crate) fn story(resolver: bool) -> Vec<Record> {
    let mut node = Node::new(resolver, true);
    let socket = node.socket(1);
    node.stream.add([connect(&socket).at_ms(9.9)]);
    for (n, suffix) in (0..).zip(SUFFIXES) {
        let at = 10.0 + f64::from(n) * 2.0;
        node.asks(at, &socket, 100 + 10 * n, &format!("{NAME}.{suffix}"), Some((1.0, NXDOMAIN)));
    }
    let foreign = format!("{NAME}.localdomain");
    for at in [16.0, 5016.0] {
        node.asks(at, &socket, 150, &foreign, None);
        node.forwards(at, &foreign);
    }
    node.stream.add([close(&socket).at_ms(10_016.0)]);
    let socket = node.socket(2);
    node.stream.add([connect(&socket).at_ms(10_016.2)]);
    node.asks(10_016.4, &socket, 200, NAME, Some((1.0, 0)));
    node.stream.add([close(&socket).at_ms(10_018.0)]);
    node.connects(10_020.0);
    node.ends(20_000)
}

/// What nodes that are read together do begins that much after the start: no clock runs that far
/// ahead.
const LATER_MS: u32 = 1000;

/// The client of `story(false)`, on a node of its own.
pub(crate) fn client_node() -> Vec<Record> {
    later(story(false))
}

fn later(records: Vec<Record>) -> Vec<Record> {
    let later = u64::from(LATER_MS) * 1_000_000;
    records.into_iter().map(|record| Record { at: record.at.plus(later), ..record }).collect()
}

/// The resolver of `client_node`, traced as a target on a node of its own, whose cgroup, socket and
/// process ids are those of the client on the other, and whose clock is `ahead` ms ahead.
pub(crate) fn resolver_node(ahead: f64) -> Vec<Record> {
    let mut node = ResolverNode::new(ahead);
    for (n, suffix) in (0..).zip(SUFFIXES) {
        let at = 10.0 + f64::from(n) * 2.0;
        node.serves(at, 1, 100 + 10 * n, &format!("{NAME}.{suffix}"), Some((0.9, NXDOMAIN)));
    }
    let foreign = format!("{NAME}.localdomain");
    for at in [16.0, 5016.0] {
        node.serves(at, 1, 150, &foreign, None);
        node.forwards(at, &foreign, None);
    }
    node.serves(10_016.4, 2, 200, NAME, Some((0.9, 0)));
    node.ends(20_000)
}

/// A client whose answer takes 2 s, on a node of its own.
pub(crate) fn patient_node() -> Vec<Record> {
    let mut node = Node::new(false, true);
    let socket = node.socket(1);
    node.stream.add([connect(&socket).at_ms(9.9)]);
    node.asks(10.0, &socket, 150, "www.example.org", Some((2000.0, 0)));
    node.stream.add([close(&socket).at_ms(2011.0)]);
    later(node.ends(20_000))
}

/// Its resolver, whose upstream took that long.
pub(crate) fn slow_node(ahead: f64) -> Vec<Record> {
    let mut node = ResolverNode::new(ahead);
    node.serves(10.0, 1, 150, "www.example.org", Some((1999.9, 0)));
    node.forwards(10.0, "www.example.org", Some(1999.0));
    node.ends(20_000)
}

/// A node with a resolver and nothing else that is traced.
struct ResolverNode {
    stream: Stream,
    dns: Process,
    ahead: f64,
}

impl ResolverNode {
    fn new(ahead: f64) -> Self {
        let uid = DNS_UID.replace('-', "_");
        let slice = format!("/kubepods.slice/kubepods-pod{uid}.slice");
        let mut stream = Stream::default();
        let host = Host {
            boot_id: "1e".into(),
            node: Some("node-2".into()),
            hostname: "node-2".into(),
            dns_ports: vec![53],
            ..Host::default()
        };
        let role = Role::Target;
        let (only_pid, ended) = (None, false);
        let scope = Scope { cgroup: 100, path: slice.clone(), role, only_pid, ended };
        let at = 1.0;
        stream.add([
            fact(RecordKind::Host, &host).at_ms(at),
            fact(RecordKind::Cgroup, &Cgroup { id: 100, path: slice.clone() }).at_ms(at),
            fact(RecordKind::Cgroup, &Cgroup { id: 101, path: format!("{slice}/c") }).at_ms(at),
            fact(RecordKind::Scope, &scope).at_ms(at),
        ]);
        let dns = Process::target(4711, "coredns", 101);
        Self { stream, dns, ahead: ahead + f64::from(LATER_MS) }
    }

    fn serves(&mut self, at: f64, socket: u16, id: u16, name: &str, answer: Option<(f64, u8)>) {
        let client = format!("10.244.1.10:{}", 40_000 + socket);
        let listening = self.dns.socket(1, "10.244.1.2:53", &client);
        for (n, qtype) in [(0, "A"), (1, "AAAA")] {
            let at = at + f64::from(n) * 0.05 + 0.1 + self.ahead;
            let message = |rcode| {
                let (id, name) = (id + n, name.into());
                Dns { id, name, qtype, rcode, answers: Vec::new() }
            };
            self.stream.add([served(&listening, false, &message(None)).at_ms(at)]);
            if let Some((took, rcode)) = answer {
                let reply = served(&listening, true, &message(Some(rcode)));
                self.stream.add([reply.at_ms(at + took - 0.1)]);
            }
        }
    }

    fn forwards(&mut self, at: f64, name: &str, answer: Option<f64>) {
        for (n, qtype) in [(0u16, "A"), (1, "AAAA")] {
            let local = format!("10.244.1.2:{}", 50_000 + n);
            let socket = self.dns.socket(2 + u64::from(n), &local, "10.99.0.53:53");
            let at = at + 0.3 + f64::from(n) * 0.05 + self.ahead;
            self.stream.add([query(&socket, 700 + n, name, qtype).at_ms(at)]);
            if let Some(took) = answer {
                let reply = response(&socket, 700 + n, name, qtype, 0, &[]);
                self.stream.add([reply.at_ms(at + took)]);
            }
        }
    }

    fn ends(mut self, ms: u32) -> Vec<Record> {
        self.stream.beat_until_ms(ms);
        self.stream.records()
    }
}

/// No candidate exists.
pub(crate) fn nxdomain() -> Vec<Record> {
    let mut node = Node::new(true, false);
    let socket = node.socket(1);
    node.stream.add([connect(&socket).at_ms(9.9)]);
    for (n, suffix) in (0..).zip(SUFFIXES) {
        let at = 10.0 + f64::from(n) * 2.0;
        node.asks(at, &socket, 100 + 10 * n, &format!("nowhere.{suffix}"), Some((1.0, NXDOMAIN)));
    }
    node.asks(16.0, &socket, 200, "nowhere", Some((1.0, NXDOMAIN)));
    node.stream.add([close(&socket).at_ms(18.0)]);
    node.ends(8000)
}

/// Nobody answers the client, and the resolver is not traced.
pub(crate) fn resolver_silent() -> Vec<Record> {
    let mut node = Node::new(false, false);
    for (cookie, at) in [(1, 10.0), (2, 10_010.0)] {
        let socket = node.socket(cookie);
        node.stream.add([connect(&socket).at_ms(at - 0.1)]);
        let name = if cookie == 1 { format!("{NAME}.{}", SUFFIXES[0]) } else { NAME.to_owned() };
        node.asks(at, &socket, 100, &name, None);
        node.asks(at + 5000.0, &socket, 100, &name, None);
        node.stream.add([close(&socket).at_ms(at + 9999.0)]);
    }
    node.ends(40_000)
}

/// With `--wire`: all is well, each answer seen twice; then the resolver answers from its pod's own
/// address, and once when the socket is gone; then a firewall refuses the queries.
pub(crate) fn at_the_door() -> Vec<Record> {
    let mut node = Node::new(false, false);
    let [fine, silent, refused] = [1, 2, 3].map(|cookie| node.socket(cookie));
    let answer = |id, name: &str, qtype| {
        tests::wire::dns(&Dns { id, name: name.into(), qtype, rcode: Some(0), answers: Vec::new() })
    };
    node.stream.add([connect(&fine).at_ms(9.9)]);
    node.asks(10.0, &fine, 100, NAME, Some((1.0, 0)));
    node.stream.add([
        // In front of the socket's own copy, and behind it, as kernels differ.
        at_door(&fine, &answer(100, NAME, "A")).at_ms(10.998),
        at_door(&fine, &answer(101, NAME, "AAAA")).at_ms(11.052),
        close(&fine).at_ms(12.0),
        connect(&silent).at_ms(99.9),
    ]);
    let name = format!("{NAME}.");
    let elsewhere = silent.towards("10.244.1.2:53");
    for at in [100.0, 5100.0] {
        node.asks(at, &silent, 110, &name, None);
        let a = at_door(&elsewhere, &answer(110, &name, "A")).at_ms(at + 2.0);
        let aaaa = at_door(&elsewhere, &answer(111, &name, "AAAA")).at_ms(at + 2.1);
        node.stream.add([a, aaaa]);
    }
    let late = at_door(&silent, &answer(110, &name, "A")).at_ms(10_300.0);
    node.stream.add([close(&silent).at_ms(10_100.0), late, connect(&refused).at_ms(10_999.9)]);
    for at in [11_000.0, 16_000.0] {
        node.asks(at, &refused, 120, "www.example.org.", None);
        for (n, qtype) in [(0, "A"), (1, "AAAA")] {
            let name = b"www.example.org".to_vec();
            let query = Dns { id: 120 + n, name, qtype, rcode: None, answers: Vec::new() };
            let firewall = "10.244.1.1".parse().unwrap();
            let error = refused_on_the_way(&refused, firewall, &tests::wire::dns(&query));
            node.stream.add([error.at_ms(at + 0.3 + f64::from(n) * 0.05)]);
        }
    }
    node.stream.add([close(&refused).at_ms(21_000.0)]);
    node.ends(40_000)
}

/// The client's socket is told that nobody listens.
pub(crate) fn resolver_refused() -> Vec<Record> {
    use tracer_common::bodies::call;
    let mut node = Node::new(false, false);
    let socket = node.socket(1);
    node.stream.add([connect(&socket).at_ms(9.9)]);
    for (n, at) in [(0u16, 10.0), (1, 11.0)] {
        let name = if n == 0 { format!("{NAME}.{}", SUFFIXES[0]) } else { NAME.to_owned() };
        node.asks(at, &socket, 100 + 10 * n, &name, None);
        node.stream.add([
            syscall(&socket, call::SENDMMSG, 2, at + 0.1, 0.2),
            syscall(&socket, call::RECVFROM, -111, at + 0.4, 0.2),
        ]);
    }
    node.stream.add([close(&socket).at_ms(12.0)]);
    node.ends(8000)
}

/// The server fails, after a while.
pub(crate) fn servfail() -> Vec<Record> {
    let mut node = Node::new(true, false);
    let socket = node.socket(1);
    node.stream.add([connect(&socket).at_ms(9.9)]);
    node.asks(
        10.0,
        &socket,
        100,
        "www.example.org.critical-app.svc.cluster.local",
        Some((1.0, NXDOMAIN)),
    );
    node.asks(12.0, &socket, 110, "www.example.org.svc.cluster.local", Some((1.0, NXDOMAIN)));
    node.asks(14.0, &socket, 120, "www.example.org.cluster.local", Some((1.0, NXDOMAIN)));
    node.asks(16.0, &socket, 130, "www.example.org", Some((300.0, SERVFAIL)));
    node.stream.add([close(&socket).at_ms(400.0)]);
    node.ends(8000)
}

/// A name, a process and a pod that would like to speak to the terminal.
pub(crate) fn hostile_name() -> Vec<Record> {
    let mut node = Node::new(false, false);
    node.client.comm = "\\x1b[31mcurl";
    let socket = node.socket(1);
    let name = b"\x1b]0;owned\x07\n.\xff\xfe.\xe2\x80\xae.example";
    node.stream.add([
        connect(&socket).at_ms(9.9),
        query(&socket, 5, name, "A").at_ms(10.0),
        packet(
            &socket,
            false,
            &tests::wire::dns(&Dns {
                id: 5,
                name: name.to_vec(),
                qtype: "A",
                rcode: Some(NXDOMAIN),
                answers: Vec::new(),
            }),
        )
        .at_ms(11.0),
        close(&socket).at_ms(12.0),
    ]);
    node.ends(8000)
}

/// The input ends while the client waits.
pub(crate) fn cut_short() -> Vec<Record> {
    let mut node = Node::new(true, true);
    let socket = node.socket(1);
    node.stream.add([connect(&socket).at_ms(9.9)]);
    node.asks(10.0, &socket, 150, &format!("{NAME}.localdomain"), None);
    node.ends(1000)
}

/// Healthy, but the probes could not keep up.
pub(crate) fn loss_in_between() -> Vec<Record> {
    let mut node = Node::new(true, false);
    let socket = node.socket(1);
    node.stream.add([connect(&socket).at_ms(9.9)]);
    node.asks(10.0, &socket, 100, &format!("{NAME}."), Some((1.0, 0)));
    node.stream.add([close(&socket).at_ms(12.0), loss(12).at_ms(13.0)]);
    node.ends(8000)
}

/// Packets of nobody known: no context at all, IPv6, and payload that is no DNS.
pub(crate) fn stranger() -> Vec<Record> {
    let mut stream = Stream::default();
    let process = Process::target(1, "x", 7);
    let socket = process.socket(1, "[fd00::1]:4000", "[fd00::53]:53");
    stream.add([
        query(&socket, 1, "example.org", "AAAA").at_ms(1.0),
        response(&socket, 1, "example.org", "AAAA", 0, &["2001:db8::1"]).at_ms(2.0),
        response(&socket, 9, "never.asked", "A", 0, &["192.0.2.1"]).at_ms(2.5),
        packet(&socket, true, b"not a dns message").at_ms(3.0),
        packet(&socket, true, b"").at_ms(4.0),
        sendmsg(&socket.towards("[fd00::54]:53")).at_ms(5.0),
        close(&socket).at_ms(6.0),
    ]);
    stream.beat_until_ms(8000);
    stream.records()
}
