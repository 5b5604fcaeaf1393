//! Addresses in words, by what was said of them and when.

use super::cluster::NOW;
use super::tests::{MINUTE, Story, UID, addr, ip, pod};
use crate::context::{self, Endpoint, EndpointSlice, Kubelet, Origin, Port, Service};
use crate::event::{Body, Protocol};
use crate::record::Timestamp;

fn port(protocol: &str, port: u16) -> Port {
    Port { name: String::new(), protocol: protocol.into(), port, node_port: None }
}

fn service(namespace: &str, name: &str, ips: &[&str], ports: Vec<Port>) -> Service {
    Service {
        namespace: namespace.into(),
        name: name.into(),
        cluster_ips: ips.iter().map(|at| ip(at)).collect(),
        ports,
        ..Default::default()
    }
}

fn endpoint(at: &str, pod: Option<&str>) -> Endpoint {
    let pod = pod.map(|pod| format!("critical-app/{pod}"));
    Endpoint { addresses: vec![ip(at)], pod_uid: pod.clone(), pod, ..Default::default() }
}

/// Of a Service in `critical-app`.
fn slice(service: &str, port: Port, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        namespace: "critical-app".into(),
        name: format!("{service}-x"),
        service: Some(service.into()),
        ports: vec![port],
        endpoints,
        ..Default::default()
    }
}

fn other_pod(name: &str, at: &str) -> context::Pod {
    let uid = format!("uid-of-{name}");
    context::Pod { uid, name: name.into(), ips: vec![ip(at)], containers: vec![], ..pod() }
}

impl Story {
    fn service(&mut self, service: Service) -> &mut Self {
        self.says(Body::Service(service))
    }

    fn slice(&mut self, slice: EndpointSlice) -> &mut Self {
        self.says(Body::EndpointSlice(slice))
    }

    fn name(&self, at: &str) -> String {
        self.who.address_name(addr(at), Protocol::Tcp)
    }

    fn reached(&self, at: &str) -> Option<String> {
        self.who.service(addr(at), Protocol::Tcp, NOW)
    }

    fn backend(&self, at: &str) -> (Option<String>, Option<String>) {
        self.backend_at(at, NOW)
    }

    fn backend_at(&self, at: &str, when: Timestamp) -> (Option<String>, Option<String>) {
        let backend = self.who.backend(addr(at), Protocol::Tcp, when);
        (backend.pod, backend.state)
    }

    /// Just after what was said last.
    fn time(&self) -> Timestamp {
        Timestamp(self.now + 1)
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn addresses_in_words() {
    let mut story = Story::new();
    let proxy = context::Pod { host_network: true, ..other_pod("proxy", "192.0.2.1") };
    story.says(Body::Pod(pod())).says(Body::Pod(proxy));
    story.service(service("critical-app", "backend", &["10.3.0.214"], vec![port("TCP", 80)]));
    assert_eq!(story.name("10.3.0.214:80"), "svc/backend.critical-app");
    assert_eq!(story.reached("10.3.0.214:80"), some("svc/backend.critical-app:80"));
    assert_eq!(story.name("[::ffff:172.17.0.7]:80"), "pod critical-app/client");
    assert_eq!(story.name("192.0.2.1:80"), "node node-1");
    assert_eq!(story.name("192.0.2.9:80"), "192.0.2.9:80");
    assert_eq!(story.name("169.254.169.254:80"), "metadata server");
    assert_eq!(story.name("169.254.20.10:53"), "node-local DNS cache");
    assert_eq!(story.who.peer(addr("192.0.2.9:80"), Protocol::Tcp, NOW), None);
}

#[test]
fn a_port_that_the_service_has_not() {
    let mut story = Story::new();
    story.service(service("shop", "web", &["10.3.0.2"], vec![port("TCP", 80), port("UDP", 443)]));
    assert_eq!(story.reached("10.3.0.2:443"), some("svc/web.shop:443 (no such TCP port)"));
    assert_eq!(story.name("10.3.0.2:81"), "svc/web.shop, which has no TCP port 81");
    let udp = story.who.service(addr("10.3.0.2:443"), Protocol::Udp, NOW);
    assert_eq!(udp, some("svc/web.shop:443"));
    story.service(service("shop", "bare", &["10.3.0.3"], vec![]));
    assert_eq!(story.reached("10.3.0.3:81"), some("svc/bare.shop:81"), "ports were not told");
}

#[test]
fn node_ports_and_addresses_from_outside() {
    let mut story = Story::new();
    let web = Service {
        external_ips: vec![ip("203.0.113.7"), ip("192.0.2.1")],
        ports: vec![Port { node_port: Some(30_080), ..port("TCP", 80) }],
        ..service("shop", "web", &["10.3.0.2"], vec![])
    };
    let mine = context::Pod { host_ips: vec![ip("192.0.2.1")], ..pod() };
    story.says(Body::Pod(mine)).service(web.clone());
    assert_eq!(story.reached("192.0.2.1:30080"), some("svc/web.shop:80 via node port 30080"));
    assert_eq!(story.name("192.0.2.1:30080"), "svc/web.shop via node port 30080");
    assert_eq!(story.reached("203.0.113.7:80"), some("svc/web.shop:80"));
    assert_eq!(story.reached("192.0.2.1:80"), some("svc/web.shop:80"), "balancers on the node");
    assert_eq!(story.name("192.0.2.1:22"), "node node-1");
    assert_eq!(story.reached("203.0.113.9:30080"), None, "no node");
    let moved = Service { ports: vec![port("TCP", 80)], external_ips: vec![], ..web };
    story.service(moved).wait(3 * MINUTE);
    assert_eq!(story.reached("192.0.2.1:30080"), None);
    assert_eq!(story.reached("203.0.113.7:80"), None);
}

#[test]
fn the_api_server_is_no_node_and_no_pod() {
    let mut story = Story::new();
    story.service(service("default", "kubernetes", &["10.3.0.1"], vec![port("TCP", 443)]));
    let api = slice("kubernetes", port("TCP", 6443), vec![endpoint("192.0.2.1", None)]);
    let proxy = context::Pod { host_network: true, ..other_pod("proxy", "192.0.2.1") };
    story.slice(EndpointSlice { namespace: "default".into(), ..api }).says(Body::Pod(proxy));
    assert_eq!(story.name("10.3.0.1:443"), "API server, svc/kubernetes.default");
    assert_eq!(story.name("192.0.2.1:6443"), "API server");
    assert_eq!(story.name("192.0.2.1:10250"), "node node-1");
}

#[test]
fn the_cluster_dns_is_found_not_assumed() {
    let mut story = Story::new();
    let name = |story: &Story, at| story.who.address_name(addr(at), Protocol::Udp);
    let labels = [("k8s-app".to_owned(), "kube-dns".to_owned())].into();
    let dns = service("kube-system", "rke2-dns", &["10.3.0.53"], vec![port("UDP", 53)]);
    story.service(Service { labels, ..dns });
    assert_eq!(name(&story, "10.3.0.53:53"), "cluster DNS, svc/rke2-dns.kube-system");
    assert_eq!(name(&story, "10.9.0.53:53"), "10.9.0.53:53");
    let kubelet = Kubelet { cluster_dns: vec![ip("10.9.0.53")], ..Default::default() };
    story.says(Body::Host(context::Host { kubelet: Some(kubelet), ..Default::default() }));
    assert_eq!(name(&story, "10.9.0.53:53"), "cluster DNS");
    assert_eq!(name(&story, "10.9.0.53:80"), "10.9.0.53:80");
    let list = "search a.svc.one.test svc.one.test one.test";
    story.says(Body::ResolvConf(context::ResolvConf {
        mnt_ns: Some(1),
        text: Some(format!("{list}\nnameserver 10.8.0.53\nnameserver 9.9.9.9\n")),
        ..Default::default()
    }));
    assert_eq!(name(&story, "10.8.0.53:53"), "cluster DNS");
    assert_eq!(name(&story, "9.9.9.9:53"), "9.9.9.9:53");
}

#[test]
fn the_state_of_an_endpoint_at_the_moment() {
    let mut story = Story::new();
    let with = |ready, terminating| {
        let one = endpoint("10.0.0.5", Some("web-1"));
        let one = Endpoint { ready: Some(ready), terminating: Some(terminating), ..one };
        slice("web", port("TCP", 8080), vec![one])
    };
    let web = || some("critical-app/web-1");
    let state = |story: &Story, when| story.backend_at("10.0.0.5:8080", when);
    let starting = story.slice(with(false, false)).time();
    assert_eq!(state(&story, starting), (web(), some("not ready")));
    let ready = story.slice(with(true, false)).time();
    assert_eq!(state(&story, starting), (web(), some("not ready")), "one step back");
    let ending = story.slice(with(false, true)).time();
    assert_eq!(state(&story, ready), (web(), None));
    assert_eq!(state(&story, ending), (web(), some("terminating")));
    assert_eq!(story.name("10.0.0.5:8080"), "pod critical-app/web-1, terminating");
    story.slice(EndpointSlice { endpoints: vec![], ..with(true, true) });
    assert_eq!(state(&story, ending), (web(), some("terminating")));
    assert_eq!(state(&story, NOW), (web(), some("no longer listed")));
    assert_eq!(state(story.wait(3 * MINUTE), NOW), (None, None));
}

#[test]
fn an_address_in_two_slices() {
    let mut story = Story::new();
    let one = || slice("web", port("TCP", 8080), vec![endpoint("10.0.0.5", Some("web-1"))]);
    let two = slice("all", port("TCP", 8080), vec![endpoint("10.0.0.5", Some("web-1"))]);
    story.slice(one()).slice(two).slice(EndpointSlice { deleted: true, ..one() });
    let still = (some("critical-app/web-1"), None);
    assert_eq!(story.backend("10.0.0.5:8080"), still);
    assert_eq!(story.wait(3 * MINUTE).backend("10.0.0.5:8080"), still);
}

#[test]
fn headless_services_are_known_by_their_slices() {
    let mut story = Story::new();
    story.service(service("critical-app", "db", &[], vec![port("TCP", 5432)]));
    story.service(service("critical-app", "web", &["10.3.0.9"], vec![port("TCP", 80)]));
    let pods = || vec![endpoint("10.0.0.5", Some("db-0"))];
    story.slice(slice("db", port("TCP", 5432), pods()));
    story.slice(slice("web", port("TCP", 8080), pods()));
    assert_eq!(story.reached("10.0.0.5:5432"), some("svc/db.critical-app:5432"));
    assert_eq!(story.name("10.0.0.5:5432"), "pod critical-app/db-0");
    assert_eq!(story.reached("10.0.0.5:8080"), None, "its Service has an address of its own");
    assert_eq!(story.who.service(addr("10.0.0.5:5432"), Protocol::Udp, NOW), None);
}

#[test]
fn external_names_are_aliases() {
    let mut story = Story::new();
    let alias = service("shop", "db", &[], vec![]);
    story.service(Service { external_name: some("db.example.com"), ..alias });
    let target = |name| story.who.external_name(name, "one.test");
    assert_eq!(target("DB.shop.svc.one.test."), some("db.example.com"));
    for other in
        ["db.shop.svc.two.test", "web.shop.svc.one.test", "db.shop", "a.db.shop.svc.one.test"]
    {
        assert_eq!(target(other), None, "{other}");
    }
}

#[test]
fn nodes_and_their_pods_are_kept_apart() {
    let mut story = Story::new();
    let on_node = |name| context::Pod { host_network: true, ..other_pod(name, "192.0.2.1") };
    // A worse source did not know that it shares the node's network.
    let (origin, host_network, node) = (Origin::NodeFiles, false, None);
    let poor = context::Pod { origin, host_network, node, ..on_node("proxy") };
    story.says(Body::Pod(poor));
    assert_eq!(story.name("192.0.2.1:80"), "pod critical-app/proxy");
    story.says(Body::Pod(on_node("proxy"))).says(Body::Pod(on_node("exporter")));
    assert_eq!(story.name("192.0.2.1:80"), "node node-1");
    assert_eq!(story.backend("192.0.2.1:80"), (None, None));
    let one = vec![endpoint("192.0.2.1", Some("exporter"))];
    story.slice(slice("exporter", port("TCP", 9100), one));
    assert_eq!(
        story.backend("192.0.2.1:9100").0,
        some("critical-app/exporter"),
        "its slice says so"
    );
    assert_eq!(story.name("192.0.2.1:9101"), "node node-1");
}

#[test]
fn an_address_used_again() {
    let mut story = Story::new();
    let first = story.says(Body::Pod(pod())).time();
    let gone = || context::Pod { deleted: true, ..pod() };
    story.says(Body::Pod(gone()));
    assert_eq!(story.backend("172.17.0.7:80").0, some("critical-app/client"), "late records");
    let second = story.says(Body::Pod(other_pod("next", "172.17.0.7"))).time();
    assert_eq!(story.backend_at("172.17.0.7:80", first).0, some("critical-app/client"));
    assert_eq!(story.backend_at("172.17.0.7:80", second).0, some("critical-app/next"));
    story.says(Body::Pod(gone()));
    assert_eq!(story.backend("172.17.0.7:80").0, some("critical-app/next"));
    assert_eq!(story.wait(3 * MINUTE).backend("172.17.0.7:80").0, some("critical-app/next"));
}

#[test]
fn an_address_moves_on_while_its_first_pod_lingers() {
    let job = context::Pod { created: some("2026-01-01T00:00:00Z"), ..pod() };
    let created = some("2026-01-01T00:05:00Z");
    let next = context::Pod { created, ..other_pod("next", "172.17.0.7") };
    let finished = context::Pod { finished: true, ..job.clone() };
    let relabelled = context::Pod { labels: [("a".into(), "b".into())].into(), ..job.clone() };
    // In every order, as in a snapshot, and with news of the old one after the new one.
    for says in [
        vec![&job, &next, &relabelled],
        vec![&next, &relabelled],
        vec![&job, &finished, &next, &finished],
        vec![&next, &finished],
    ] {
        let mut story = Story::new();
        for pod in says {
            story.says(Body::Pod(pod.clone()));
        }
        assert_eq!(story.backend("172.17.0.7:80").0, some("critical-app/next"));
    }
    let mut story = Story::new();
    story.says(Body::Pod(finished));
    assert_eq!(story.backend("172.17.0.7:80").0, some("critical-app/client"), "nobody else's yet");
    assert_eq!(story.wait(3 * MINUTE).backend("172.17.0.7:80").0, None);
    assert!(story.who.cluster.pod(UID).is_some());
}

#[test]
fn a_slice_of_the_dead_does_not_name_the_next() {
    let mut story = Story::new();
    let with = |pods| slice("web", port("TCP", 8080), pods);
    story.slice(with(vec![endpoint("172.17.0.7", Some("old"))]));
    let before = story.time();
    story.slice(with(vec![])).says(Body::Pod(other_pod("next", "172.17.0.7")));
    assert_eq!(story.backend("172.17.0.7:8080"), (some("critical-app/next"), None));
    assert_eq!(story.backend_at("172.17.0.7:8080", before).0, some("critical-app/old"));
}

#[test]
fn a_service_address_moves() {
    let mut story = Story::new();
    let web = service("shop", "web", &["10.3.0.2"], vec![]);
    let before = story.service(web.clone()).time();
    story.service(Service { deleted: true, cluster_ips: vec![], ..web });
    assert_eq!(story.name("10.3.0.2:80"), "svc/web.shop", "late records");
    story.service(service("shop", "new", &["10.3.0.2"], vec![]));
    assert_eq!(story.name("10.3.0.2:80"), "svc/new.shop");
    let then = story.who.service(addr("10.3.0.2:80"), Protocol::Tcp, before);
    assert_eq!(then, some("svc/web.shop:80"));
    story.service(service("shop", "new", &["10.3.0.4"], vec![])).wait(3 * MINUTE);
    assert_eq!(story.reached("10.3.0.2:80"), None);
    assert_eq!(story.reached("10.3.0.4:80"), some("svc/new.shop:80"));
}
