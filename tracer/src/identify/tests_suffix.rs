//! Who put a suffix there, for every dnsPolicy and each thing that may not be known.

use super::suffix::OriginKind::{self, DnsConfig, Image, NodeFile, Unknown};
use super::tests::{Story, cgroup_actor, path, pod};
use super::{STUB_FILE, SuffixOrigin};
use crate::context::{self, Kubelet, Pod};
use crate::event::Body;

const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
const CLUSTER: &str = "critical-app.svc.one.test svc.one.test one.test";
/// As kubelet makes it on the node of `story`, and one more.
const WALKED: &str = "critical-app.svc.one.test svc.one.test one.test \
                      corp.example lab.example own.example";

fn known() -> Pod {
    Pod { dns_policy: Some("ClusterFirst".into()), dns_config_known: true, ..pod() }
}

fn policy(policy: &str) -> Pod {
    Pod { dns_policy: Some(policy.into()), ..known() }
}

fn kubelet(file: Option<&str>) -> Option<Kubelet> {
    Some(Kubelet {
        cluster_domain: Some("one.test".into()),
        cluster_dns: vec!["10.3.0.10".parse().unwrap()],
        resolv_conf: file.map(str::to_owned),
        ..Default::default()
    })
}

impl Story {
    fn file(&mut self, path: &str, text: &str) -> &mut Self {
        self.says(Body::NodeFile(context::NodeFile { path: path.into(), text: text.into() }))
    }

    fn reads(&mut self, search: &str, server: &str) -> &mut Self {
        self.says(Body::ResolvConf(context::ResolvConf {
            cgroup: Some(77),
            mnt_ns: Some(1),
            text: Some(format!("search {search}\nnameserver {server}\n")),
            ..Default::default()
        }))
    }

    fn origin(&self, suffix: &str) -> SuffixOrigin {
        self.who.suffix_origin(&cgroup_actor(77), suffix)
    }

    fn domain(&self) -> Option<String> {
        self.who.cluster_domain(&cgroup_actor(77))
    }
}

/// `pod` searches `search`, on a node with systemd-resolved.
fn story(pod: Pod, search: &str, kubelet: Option<Kubelet>) -> Story {
    let mut story = Story::new();
    story.says(Body::Host(context::Host { kubelet, ..Default::default() }));
    story.cgroup(77, &path()).says(Body::Pod(pod)).reads(search, "10.3.0.10");
    story.file(STUB_FILE, "nameserver 127.0.0.53\nsearch stub.example\n");
    story.file(BEHIND_STUB, "# x\n\nsearch corp.example lab.example\n");
    story
}

fn at(origin: &SuffixOrigin) -> (OriginKind, Option<&str>, Option<u32>) {
    (origin.kind, origin.place.as_deref(), origin.line)
}

#[test]
fn cluster_first() {
    let told = story(known(), WALKED, kubelet(Some(BEHIND_STUB)));
    let origin = told.origin("Corp.Example.");
    assert_eq!(at(&origin), (NodeFile, Some(BEHIND_STUB), Some(3)));
    assert!(origin.kubelets && origin.whole_file.is_none());
    assert_eq!(at(&told.origin("own.example")), (Image, None, None));
}

#[test]
fn cluster_first_where_kubelet_says_nothing() {
    let told = story(known(), WALKED, kubelet(None));
    let origin = told.origin("lab.example");
    assert_eq!(at(&origin), (NodeFile, Some(BEHIND_STUB), Some(3)), "behind the stub");
    assert!(!origin.kubelets);
    assert_eq!(at(&told.origin("stub.example")), (NodeFile, Some(STUB_FILE), Some(2)));
    let origin = told.origin("own.example");
    assert_eq!(origin.kind, Unknown);
    assert!(origin.missing[0].contains("kubelet's configuration was not read"), "{origin:?}");
}

#[test]
fn another_file_of_the_node_than_kubelets() {
    let told = story(known(), WALKED, kubelet(Some(STUB_FILE)));
    let origin = told.origin("corp.example");
    assert_eq!(at(&origin), (Unknown, Some(BEHIND_STUB), Some(3)));
    assert!(origin.missing[0].contains("/etc/resolv.conf, which kubelet copies"), "{origin:?}");
    let told = story(known(), WALKED, kubelet(Some("/etc/kubelet.conf")));
    let origin = told.origin("own.example");
    assert_eq!(origin.kind, Unknown);
    assert_eq!(origin.missing, ["/etc/kubelet.conf, which kubelet copies, was not read"]);
    // No file at all: what is there besides is the image's.
    let told = story(known(), &format!("{CLUSTER} own.example"), kubelet(Some("")));
    assert_eq!(told.origin("own.example").kind, Image);
}

#[test]
fn dns_config() {
    let dns_searches = vec!["own.example.".to_owned(), "corp.example".to_owned()];
    for policy in ["ClusterFirst", "Default", "None"] {
        let dns_policy = Some(policy.to_owned());
        let pod = Pod { dns_searches: dns_searches.clone(), dns_policy, ..known() };
        let told = story(pod, WALKED, kubelet(Some(BEHIND_STUB)));
        let origin = told.origin("own.example");
        assert_eq!(at(&origin), (DnsConfig, Some("dnsConfig"), None), "{policy}");
        assert_eq!(origin.also, None);
        let origin = told.origin("corp.example");
        assert_eq!(at(&origin), (DnsConfig, Some("dnsConfig"), None), "{policy}");
        let also = (policy != "None").then(|| (BEHIND_STUB.to_owned(), 3));
        assert_eq!(origin.also, also, "{policy}");
    }
}

#[test]
fn policies_that_take_the_nodes_file() {
    let search = "corp.example lab.example own.example";
    let host = Pod { host_network: true, ..known() };
    for (pod, why) in [(policy("Default"), "dnsPolicy Default"), (host, "node's network")] {
        let told = story(pod, search, kubelet(Some(BEHIND_STUB)));
        let origin = told.origin("corp.example");
        assert_eq!(at(&origin), (NodeFile, Some(BEHIND_STUB), Some(3)));
        assert!(origin.whole_file.is_some_and(|said| said.contains(why)), "{origin:?}");
        assert_eq!(told.origin("own.example").kind, Image);
    }
    let no_dns = Kubelet { cluster_dns: vec![], ..kubelet(Some(BEHIND_STUB)).unwrap() };
    let origin = story(known(), search, Some(no_dns)).origin("corp.example");
    assert!(origin.whole_file.is_some_and(|said| said.contains("clusterDNS")), "{origin:?}");
}

#[test]
fn cluster_first_with_host_net() {
    let pod = Pod { host_network: true, ..policy("ClusterFirstWithHostNet") };
    let told = story(pod, WALKED, kubelet(Some(BEHIND_STUB)));
    assert_eq!(at(&told.origin("corp.example")), (NodeFile, Some(BEHIND_STUB), Some(3)));
    assert!(told.origin("corp.example").whole_file.is_none());
    assert_eq!(told.origin("own.example").kind, Image);
}

#[test]
fn policy_none() {
    let told = story(policy("None"), "corp.example", kubelet(Some(BEHIND_STUB)));
    let origin = told.origin("corp.example");
    assert_eq!((origin.kind, origin.only_config), (Image, true), "the node's file is not taken");
    let pod = Pod { dns_config_known: false, ..policy("None") };
    let origin = story(pod, "corp.example", kubelet(Some(BEHIND_STUB))).origin("corp.example");
    assert_eq!(origin.kind, Unknown);
    assert_eq!(origin.missing, ["the pod's dnsConfig was not read"]);
}

#[test]
fn unknown_says_what_is_missing() {
    let search = format!("{CLUSTER} corp.example own.example");
    let origin = story(known(), &search, kubelet(Some(BEHIND_STUB))).origin("own.example");
    assert_eq!(origin.kind, Unknown);
    assert!(origin.missing[0].starts_with("the pod lacks lab.example"), "{origin:?}");
    let poor = Pod { dns_config_known: false, ..known() };
    let origin = story(poor, WALKED, kubelet(Some(BEHIND_STUB))).origin("own.example");
    assert_eq!((origin.kind, origin.missing.len()), (Unknown, 1), "{origin:?}");
    let nobody = Story::new().origin("own.example");
    assert_eq!((nobody.kind, nobody.missing.len()), (Unknown, 2), "{nobody:?}");
}

#[test]
fn the_domain_is_found_where_it_stands() {
    let domain = |story: Story| story.domain();
    assert_eq!(domain(story(known(), CLUSTER, None)).as_deref(), Some("one.test"));
    assert_eq!(domain(story(known(), "a.svc.two.test", None)).as_deref(), Some("two.test"));
    // A list without it, but the cluster's DNS.
    let told = story(policy("None"), "corp.example", kubelet(None));
    assert_eq!(domain(told).as_deref(), Some("one.test"), "as kubelet was told");
    let mut seen = story(policy("None"), "corp.example", None);
    assert_eq!(seen.domain(), None);
    seen.says(Body::ResolvConf(context::ResolvConf {
        mnt_ns: Some(2),
        text: Some("search b.svc.six.test svc.six.test six.test\nnameserver 10.3.0.10\n".into()),
        ..Default::default()
    }));
    assert_eq!(seen.domain().as_deref(), Some("six.test"), "as another pod has it");
    // Who asks the node's own server knows nothing of the cluster.
    let mut node = story(policy("Default"), "corp.example", kubelet(None));
    assert_eq!(node.reads("corp.example", "9.9.9.9").domain(), None);
}
