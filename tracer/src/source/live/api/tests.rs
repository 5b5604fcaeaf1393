//! The watches against the fake API server: every fault costs names and one line, never more.
#![expect(clippy::disallowed_methods, reason = "tests measure real time")]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;
use xtask::lab::api::Object;
use xtask::lab::api::cluster::{self, NODE, Size};
use xtask::lab::api::faults::Fault;
use xtask::lab::api::server::{Server, Transport};

use super::known::WEIGHT_MAX;
use crate::context;
use crate::source::live::kubernetes::{Access, Cluster, Fact};

const SMALL: Size = Size { pods: 12, here: 4, services: 5, endpoints: 12 };
const PATIENCE: Duration = Duration::from_secs(30);

/// A server, what follows it, and what that told.
struct Story {
    server: Server,
    cluster: Cluster,
    pods: BTreeMap<String, context::Pod>,
    services: BTreeSet<String>,
    slices: BTreeMap<String, context::EndpointSlice>,
    listed: BTreeSet<&'static str>,
    lines: Vec<String>,
    gone: Vec<String>,
}

fn connect(server: &Server) -> Cluster {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("kubeconfig");
    std::fs::write(&path, server.kubeconfig()).unwrap();
    let access = Access { kubeconfig: Some(path), ..Access::default() };
    Cluster::connect(&access).unwrap().unwrap()
}

impl Story {
    fn new(size: &Size, transport: Transport) -> Self {
        Self::over(Server::start(cluster::objects(size), transport).unwrap())
    }

    fn over(server: Server) -> Self {
        let cluster = connect(&server);
        let (pods, services, slices) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        let (listed, lines, gone) = (BTreeSet::new(), Vec::new(), Vec::new());
        Self { server, cluster, pods, services, slices, listed, lines, gone }
    }

    fn with(fault: Fault) -> Self {
        let story = Self::new(&SMALL, Transport::Plain);
        story.server.faults.set(None, fault);
        story
    }

    fn follow(&self) {
        self.cluster.follow_services();
        self.cluster.follow_node(Some(NODE.into()), "host".into(), HashSet::new());
    }

    fn take(&mut self) {
        for fact in self.cluster.facts() {
            match fact {
                Fact::Pod(pod) if pod.deleted => {
                    self.gone.push(pod.name);
                    self.pods.remove(&pod.uid);
                }
                Fact::Pod(pod) => {
                    self.pods.insert(pod.uid.clone(), pod);
                }
                Fact::Service(service) if service.deleted => {
                    self.services.remove(&service.name);
                }
                Fact::Service(service) => {
                    self.services.insert(service.name);
                }
                Fact::EndpointSlice(slice) if slice.deleted => {
                    self.slices.remove(&slice.name);
                }
                Fact::EndpointSlice(slice) => {
                    self.slices.insert(slice.name.clone(), slice);
                }
                Fact::Listed(resource) => {
                    self.listed.insert(resource);
                }
                Fact::Node(_) => {}
                Fact::Trouble(trouble, line) => {
                    if self.cluster.is_news(&trouble) {
                        self.lines.push(line);
                    }
                }
            }
        }
    }

    /// Waits until it holds; says what was told when it does not.
    fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        loop {
            self.take();
            if holds(self) {
                return begun.elapsed();
            }
            let (pods, services, slices) =
                (self.pods.len(), self.services.len(), self.slices.len());
            assert!(
                begun.elapsed() < PATIENCE,
                "{what}: {pods} pods, {services} services, {slices} slices, {:?}, {:?}",
                self.lines,
                self.server.asked()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn whole(&self) -> bool {
        self.pods.len() == 4
            && self.services.len() == 5
            && self.slices.len() == 5
            && self.listed.len() == 3
    }

    fn asked(&self, what: &str) -> usize {
        self.server.asked().iter().filter(|at| at.contains(what)).count()
    }
}

#[test]
fn everything_is_told_over_each_transport() {
    for transport in [Transport::Plain, Transport::Token, Transport::Certificate] {
        let mut story = Story::new(&SMALL, transport);
        story.follow();
        let took = story.until("everything", Story::whole);
        assert!(took < Duration::from_secs(3), "{transport:?}: {took:?}");
        assert!(story.lines.is_empty(), "{:?}", story.lines);
        let pod = story.pods.values().next().unwrap();
        assert_eq!(pod.owner.as_deref(), Some("Deployment/checkout-service"));
        assert_eq!(pod.containers[1].id.as_ref().unwrap().len(), 64);
        assert_eq!((pod.ips.len(), pod.node.as_deref()), (1, Some(NODE)));
        // Streamed: no request for pages.
        assert_eq!(story.asked("limit="), 0);
        // A pod comes to this node, changes, goes; one of another node does not concern us.
        story.server.put(cluster::pod(77, NODE));
        story.server.put(cluster::pod(78, "node-else"));
        story.until("a new pod", |story| story.pods.len() == 5);
        assert!(story.server.remove("pods", "load", "checkout-service-7c9d8b6f5d-00077"));
        story.until("its end", |story| story.pods.len() == 4);
        assert_eq!(story.gone, ["checkout-service-7c9d8b6f5d-00077"]);
    }
}

#[test]
fn asking_for_one_pod() {
    let story = Story::new(&SMALL, Transport::Token);
    let second = Duration::from_secs(2);
    let pod = story.cluster.pod("load", "checkout-service-7c9d8b6f5d-00002", second).unwrap();
    assert_eq!(pod.unwrap().labels["app.kubernetes.io/part-of"], "shop");
    assert!(story.cluster.pod("load", "nobody", second).unwrap().is_none());
    assert_eq!(story.cluster.pod_names(second).unwrap().len(), 12);
}

#[test]
fn pages_where_lists_cannot_be_streamed() {
    let size = Size { pods: 600, here: 600, services: 5, endpoints: 10 };
    let mut story = Story::new(&size, Transport::Plain);
    story.server.faults.set(None, Fault::NoStreaming);
    // From the start: a watch that is open already would outlast our patience.
    story.server.faults.set(None, Fault::ShortWatch(Duration::from_millis(100)));
    story.follow();
    story.until("all pages", |story| story.pods.len() == 600 && story.listed.len() == 3);
    assert_eq!(story.asked("continue="), 2);
    assert!(story.lines.len() <= 1, "{:?}", story.lines);
    // The server loses its memory, and with it the pages; the first line was the only one.
    story.server.faults.set(None, Fault::ExpiredContinue);
    story.server.compact();
    assert!(story.server.remove("pods", "load", "checkout-service-7c9d8b6f5d-00003"));
    story.server.compact();
    story.until("the sweep", |story| story.pods.len() == 599);
}

#[test]
fn what_was_deleted_while_the_server_was_away_is_told() {
    let mut story = Story::new(&SMALL, Transport::Plain);
    story.follow();
    story.until("everything", Story::whole);
    // A restart: the connections end, the port is closed for a while, old versions are unknown.
    let mut left = cluster::objects(&SMALL);
    left.retain(|object| object.body["metadata"]["name"] != "service-2");
    left.retain(|object| object.body["metadata"]["name"] != "checkout-service-7c9d8b6f5d-00001");
    let nothing = Server::start(Vec::new(), Transport::Plain).unwrap();
    let address = std::mem::replace(&mut story.server, nothing).address;
    std::thread::sleep(Duration::from_millis(1500));
    story.server = Server::start_at(left, Transport::Plain, address).unwrap();
    story.server.compact();
    story.until("the deletions", |story| story.services.len() == 4 && story.pods.len() == 3);
    assert!(story.lines.is_empty(), "a restart is nothing to speak of: {:?}", story.lines);
}

#[test]
fn a_missing_rule_is_told_once_and_by_name() {
    let mut story = Story::new(&SMALL, Transport::Plain);
    story.server.faults.set(Some("endpointslices"), Fault::Forbidden);
    story.follow();
    story.until("the line", |story| {
        story.pods.len() == 4 && story.services.len() == 5 && !story.lines.is_empty()
    });
    std::thread::sleep(Duration::from_secs(4));
    story.take();
    assert_eq!(
        story.lines,
        ["the Kubernetes API does not let us read endpointslices (403); the role lacks: \
         - {apiGroups: [\"discovery.k8s.io\"], resources: [\"endpointslices\"], verbs: [\"get\", \"list\", \"watch\"]}"]
    );
    assert!((2..=4).contains(&story.asked("endpointslices")), "{:?}", story.server.asked());
    // And when somebody grants it, the names come.
    story.server.faults.clear();
    story.until("the slices", Story::whole);
}

#[test]
fn credentials_that_are_refused_are_told_once() {
    let mut story = Story::with(Fault::Refused(401, "Unauthorized", None));
    story.follow();
    story.until("the line", |story| !story.lines.is_empty());
    std::thread::sleep(Duration::from_millis(500));
    story.take();
    assert_eq!(story.lines.len(), 1);
    assert!(story.lines[0].contains("does not accept our credentials (401)"));
}

#[test]
fn one_line_while_it_fails_and_names_when_it_works_again() {
    for fault in [
        Fault::Refused(500, "InternalError", None),
        Fault::Refused(429, "TooManyRequests", Some(2)),
        Fault::Cut,
    ] {
        let mut story = Story::with(fault.clone());
        story.follow();
        story.until("a line", |story| !story.lines.is_empty());
        std::thread::sleep(Duration::from_secs(2));
        story.take();
        assert_eq!(story.lines.len(), 1, "{fault:?}: {:?}", story.lines);
        assert!(
            story.lines[0].starts_with("no answer from the Kubernetes API ("),
            "{:?}",
            story.lines
        );
        assert!(story.server.asked().len() <= 12, "{fault:?}: {:?}", story.server.asked());
        story.server.faults.clear();
        story.until("names after all", Story::whole);
        assert_eq!(story.lines.len(), 1);
    }
}

#[test]
fn a_black_hole_and_silence_are_noticed_within_a_minute() {
    let mut holes = Story::with(Fault::BlackHole);
    holes.follow();
    let mut silent = Story::with(Fault::SilentWatch);
    silent.follow();
    silent.until("the list", Story::whole);
    silent.server.faults.clear();
    silent.server.put(cluster::pod(5, NODE));
    let begun = Instant::now();
    holes.until("a line", |story| !story.lines.is_empty());
    assert_eq!(holes.lines.len(), 1);
    holes.server.faults.clear();
    holes.until("names after all", Story::whole);
    while silent.pods.len() < 5 {
        silent.take();
        assert!(begun.elapsed() < Duration::from_secs(65));
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(silent.lines.is_empty());
}

#[test]
fn half_of_the_lines_are_rubbish() {
    let mut story = Story::with(Fault::Malformed);
    story.follow();
    story.until("the rest", Story::whole);
    story.until("the lines", |story| story.lines.len() == 3);
    assert!(story.lines.iter().all(|line| line.contains("that are none")), "{:?}", story.lines);
}

#[test]
fn versions_that_the_server_no_longer_knows() {
    for fault in [Fault::GoneStatus, Fault::GoneEvent] {
        let mut story = Story::new(&SMALL, Transport::Plain);
        story.server.faults.set(None, Fault::ShortWatch(Duration::from_millis(200)));
        story.server.faults.set(None, fault.clone());
        story.follow();
        story.until("everything", Story::whole);
        story.server.compact();
        assert!(story.server.remove("pods", "load", "checkout-service-7c9d8b6f5d-00001"));
        story.until("the sweep", |story| story.pods.len() == 3);
        assert!(story.lines.is_empty(), "{fault:?}: {:?}", story.lines);
    }
}

#[test]
fn watches_that_end_each_second_go_on() {
    let mut story = Story::with(Fault::ShortWatch(Duration::from_secs(1)));
    story.follow();
    story.until("everything", Story::whole);
    for number in 20..24 {
        std::thread::sleep(Duration::from_secs(1));
        story.server.put(cluster::pod(number, NODE));
    }
    story.until("the new ones", |story| story.pods.len() == 8);
    assert!(story.gone.is_empty() && story.lines.is_empty());
}

#[test]
fn more_endpoints_than_anybody_can_keep() {
    let mut story = Story::with(Fault::Million(100));
    story.follow();
    story.until("the list", |story| story.listed.len() == 3 && !story.lines.is_empty());
    let endpoints: usize = story.slices.values().map(|slice| slice.endpoints.len()).sum();
    assert!((WEIGHT_MAX - 1000..=WEIGHT_MAX).contains(&endpoints), "{endpoints}");
    assert_eq!(story.pods.len(), 4);
    assert_eq!(story.lines.len(), 1);
    assert!(story.lines[0].contains("more endpointslices than svctrace keeps"));
}

#[test]
fn huge_and_hostile_objects() {
    let mut story = Story::new(&SMALL, Transport::Plain);
    story.follow();
    story.until("everything", Story::whole);
    let mut huge = cluster::pod(50, NODE);
    huge.body["metadata"]["labels"]["note"] = json!("x".repeat(2 << 20));
    let mut larger = cluster::pod(51, NODE);
    larger.body["metadata"]["annotations"] = json!({ "note": "x".repeat(5 << 20) });
    let mut escape = cluster::pod(52, NODE);
    escape.body["metadata"]["uid"] = json!("\u{1b}[31m");
    let mut wrong = cluster::pod(53, NODE);
    wrong.body["status"]["podIPs"] = json!("none");
    for object in [huge, larger, escape, wrong, cluster::pod(54, NODE)] {
        story.server.put(object);
    }
    story.until("the good ones", |story| story.pods.len() == 6 && story.lines.len() == 2);
    assert!(story.pods.values().all(|pod| !pod.labels.contains_key("note")));
    let service = Object {
        resource: "services",
        body: json!({ "metadata": { "name": "bell\u{7}", "namespace": "load" }, "spec": null }),
    };
    story.server.put(service);
    story.until("a third line", |story| story.lines.len() == 3);
    assert_eq!(story.services.len(), 5);
    let ports: Vec<_> = [-1, 0, 80, 70_000].map(|port| json!({ "port": port })).into();
    let endpoints = vec![json!({ "addresses": ["10.9.9.9"] }); 100_000];
    let body = json!({ "metadata": { "name": "wide", "namespace": "load" },
        "endpoints": endpoints, "ports": ports });
    story.server.put(Object { resource: "endpointslices", body });
    story.until("the slice", |story| story.slices.contains_key("wide") && story.lines.len() == 4);
    let slice = &story.slices["wide"];
    assert_eq!(slice.endpoints.len(), 1000);
    assert_eq!(slice.ports.iter().map(|at| at.port).collect::<Vec<_>>(), [0, 80]);
}

#[test]
fn this_nodes_name_is_found_even_when_the_api_comes_late() {
    let story = Story::with(Fault::Refused(503, "ServiceUnavailable", None));
    let uid = "00000001-1111-4222-8333-000000000002".to_owned();
    story.cluster.follow_node(None, "not-the-nodes-name".into(), HashSet::from([uid]));
    std::thread::sleep(Duration::from_millis(500));
    story.server.faults.clear();
    let mut story = story;
    story.until("its pods", |story| story.pods.len() == 4);
    assert_eq!(story.lines.len(), 1);
}

#[test]
fn a_new_token_in_the_file_is_used() {
    // kube reads a token file again at least once a minute; this holds it to that.
    let server = Server::start(cluster::objects(&SMALL), Transport::Token).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "stale").unwrap();
    let mut config: serde_json::Value = serde_json::from_str(server.kubeconfig()).unwrap();
    config["users"][0]["user"] = json!({ "tokenFile": token });
    let path = dir.path().join("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    let access = Access { kubeconfig: Some(path), ..Access::default() };
    let cluster = Cluster::connect(&access).unwrap().unwrap();
    let within = Duration::from_secs(2);
    let name = "checkout-service-7c9d8b6f5d-00002";
    assert!(cluster.pod("load", name, within).unwrap_err().to_string().contains("401"));
    std::fs::write(&token, xtask::lab::api::TOKEN).unwrap();
    let begun = Instant::now();
    while cluster.pod("load", name, within).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(65));
        std::thread::sleep(Duration::from_secs(1));
    }
}
