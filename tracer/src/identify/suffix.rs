//! Who put a search suffix into a resolv.conf: what a pod reads, against what kubelet makes for it
//! from dnsPolicy, dnsConfig and a file of the node. Also the cluster's domain.

use std::collections::BTreeMap;

use super::{Identifier, STUB, STUB_FILE, resolv_conf};
use crate::context::{Kubelet, Pod};
use crate::event::Actor;
use crate::text;

const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
/// kubelet writes no more.
const SEARCH_MAX: usize = 32;

/// Who put a suffix there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OriginKind {
    /// The file of the node that kubelet copies from.
    NodeFile,
    /// `dnsConfig.searches` of the pod.
    DnsConfig,
    /// Neither: it was written in the container.
    Image,
    /// Not known.
    #[default]
    Unknown,
}

impl OriginKind {
    /// As in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::NodeFile => "node-file",
            Self::DnsConfig => "dns-config",
            Self::Image => "image",
            Self::Unknown => "unknown",
        }
    }
}

/// Where a search suffix comes from, and why that is believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SuffixOrigin {
    /// Who.
    pub kind: OriginKind,
    /// Path on the node, or `dnsConfig`. With an unknown origin: where it stands all the same.
    pub place: Option<String>,
    /// Line there, from 1.
    pub line: Option<u32>,
    /// Path and line on the node where it stands besides dnsConfig.
    pub also: Option<(String, u32)>,
    /// kubelet is known to copy from `place`.
    pub kubelets: bool,
    /// The pod has the node's file as it is, for this reason.
    pub whole_file: Option<&'static str>,
    /// dnsPolicy None: nothing but dnsConfig.
    pub only_config: bool,
    /// What was not known, or does not fit.
    pub missing: Vec<String>,
}

/// What kubelet makes of dnsPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    /// The cluster's entries, then the node's.
    Cluster,
    /// The node's file, for this reason.
    Node(&'static str),
    /// dnsConfig alone.
    Config,
    Unknown,
}

impl Policy {
    fn of(pod: Option<&Pod>, kubelet: Option<&Kubelet>, has_cluster: bool) -> Self {
        let Some(pod) = pod else { return Self::Unknown };
        let no_dns = kubelet.is_some_and(|at| at.cluster_dns.is_empty()) && !has_cluster;
        match pod.dns_policy.as_deref() {
            Some("None") => Self::Config,
            Some("Default") => Self::Node("dnsPolicy Default"),
            Some("ClusterFirst") if pod.host_network => {
                Self::Node("dnsPolicy ClusterFirst on the node's network means Default")
            }
            Some("ClusterFirst" | "ClusterFirstWithHostNet") if no_dns => {
                Self::Node("kubelet has no clusterDNS, so ClusterFirst means Default")
            }
            Some("ClusterFirst" | "ClusterFirstWithHostNet") => Self::Cluster,
            _ => Self::Unknown,
        }
    }
}

/// What kubelet copies search entries from.
struct Source<'a> {
    path: &'a str,
    /// It was told to; else it is what most do.
    told: bool,
}

/// The search list that kubelet makes.
fn expected(
    policy: Policy,
    namespace: &str,
    domain: Option<&str>,
    node: &[String],
    config: &[String],
) -> Vec<String> {
    let mut all = Vec::new();
    if let (Policy::Cluster, Some(domain)) = (policy, domain) {
        all.extend([format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.into()]);
    }
    if policy != Policy::Config {
        all.extend(node.iter().cloned());
    }
    all.extend(config.iter().map(|name| resolv_conf::normal(name)));
    let mut list: Vec<String> = Vec::new();
    for name in all {
        if !list.contains(&name) && list.len() < SEARCH_MAX {
            list.push(name);
        }
    }
    list
}

/// The cluster's domain in a list as kubelet makes it: `NS.svc.DOMAIN svc.DOMAIN DOMAIN`.
pub(super) fn domain_of(search: &[String]) -> Option<&str> {
    search.iter().find_map(|entry| {
        let (_, service) = entry.split_once('.')?;
        let domain = service.strip_prefix("svc.").filter(|domain| !domain.is_empty())?;
        let has = |name: &str| search.iter().any(|entry| entry == name);
        (has(service) && has(domain)).then_some(domain)
    })
}

/// The same where only its first entry is there.
fn domain_of_first(search: &[String]) -> Option<&str> {
    search.iter().find_map(|entry| {
        let (_, rest) = entry.split_once('.')?;
        rest.strip_prefix("svc.").filter(|domain| !domain.is_empty())
    })
}

fn stands_in(files: Option<&BTreeMap<String, String>>, path: &str, suffix: &str) -> Option<u32> {
    resolv_conf::line_of_suffix(files?.get(path)?, suffix)
}

impl Identifier {
    /// The cluster's domain, such as `cluster.local`: from the search list `actor` reads; where
    /// that has none but `actor` asks the cluster DNS, as kubelet was told or other pods have it.
    pub fn cluster_domain(&self, actor: &Actor) -> Option<String> {
        let config = self.resolver_config(actor);
        let search = config.map(|config| config.search.as_slice()).unwrap_or_default();
        if let Some(domain) = domain_of(search).or_else(|| domain_of_first(search)) {
            return Some(domain.to_owned());
        }
        let asks =
            config.is_some_and(|config| config.servers.iter().any(|ip| self.is_cluster_dns(*ip)));
        let policy = self.pod_of(actor).and_then(|pod| pod.dns_policy.as_deref());
        if !asks && (config.is_some() || policy != Some("ClusterFirst")) {
            return None;
        }
        self.told_domain(actor).or_else(|| self.seen_domain.clone())
    }

    fn told_domain(&self, actor: &Actor) -> Option<String> {
        let own = self.hosts.get(actor.host).and_then(|host| host.kubelet.as_ref());
        let mut all = own.into_iter().chain(self.hosts.kubelets());
        all.find_map(|kubelet| kubelet.cluster_domain.as_deref()).map(resolv_conf::normal)
    }

    pub(super) fn pod_of(&self, actor: &Actor) -> Option<&Pod> {
        let place = self.node.place(actor);
        self.pod_uid(actor, &place).and_then(|uid| self.cluster.pod(uid))
    }

    /// Where `suffix`, which `actor` searches, comes from.
    pub fn suffix_origin(&self, actor: &Actor, suffix: &str) -> SuffixOrigin {
        let wanted = resolv_conf::normal(suffix);
        let pod = self.pod_of(actor);
        let config = self.resolver_config(actor);
        let actual = config.map(|config| config.search.as_slice()).unwrap_or_default();
        let kubelet = self.hosts.get(actor.host).and_then(|host| host.kubelet.as_ref());
        let files = self.hosts.files(actor.host);
        let policy = Policy::of(pod, kubelet, domain_of(actual).is_some());
        let source = self.source(actor, kubelet);
        let line = source.as_ref().and_then(|at| stands_in(files, at.path, &wanted));
        let in_file = source.as_ref().zip(line).filter(|_| policy != Policy::Config);
        let shown = |path: &str| text::escape(path.as_bytes());
        let mut origin = SuffixOrigin {
            only_config: policy == Policy::Config,
            whole_file: match policy {
                Policy::Node(why) => Some(why),
                _ => None,
            },
            ..SuffixOrigin::default()
        };
        if pod.is_some_and(|p| p.dns_searches.iter().any(|s| resolv_conf::normal(s) == wanted)) {
            origin.kind = OriginKind::DnsConfig;
            origin.place = Some("dnsConfig".to_owned());
            origin.also = in_file.map(|(at, line)| (shown(at.path), line));
            return origin;
        }
        if let Some((at, line)) = in_file {
            origin.kind = OriginKind::NodeFile;
            origin.place = Some(shown(at.path));
            origin.line = Some(line);
            origin.kubelets = at.told;
            return origin;
        }
        let known = pod.is_some_and(|pod| pod.dns_config_known);
        if !known {
            origin.missing.push("the pod's dnsConfig was not read".to_owned());
        }
        if policy == Policy::Config {
            if known {
                origin.kind = OriginKind::Image;
            }
            return origin;
        }
        let elsewhere = files
            .into_iter()
            .flatten()
            .find_map(|(path, text)| Some((path, resolv_conf::line_of_suffix(text, &wanted)?)));
        if let Some((path, line)) = elsewhere {
            origin.place = Some(shown(path));
            origin.line = Some(line);
            if !source.as_ref().is_some_and(|at| at.told) {
                // Which file kubelet takes is not known, and this one has it.
                origin.kind = OriginKind::NodeFile;
                origin.missing.clear();
                return origin;
            }
        }
        self.unexplained(&mut origin, source.as_ref(), policy, (pod, actual), actor);
        origin
    }

    /// Neither dnsConfig nor the file has it: the container's doing if all else is as kubelet makes
    /// it.
    fn unexplained(
        &self,
        origin: &mut SuffixOrigin,
        source: Option<&Source<'_>>,
        policy: Policy,
        (pod, actual): (Option<&Pod>, &[String]),
        actor: &Actor,
    ) {
        let Some(source) = source else {
            // kubelet was told to take no file at all.
            return self.judge(origin, policy, (pod, actual), &[], actor);
        };
        let shown = text::escape(source.path.as_bytes());
        let file = self.hosts.files(actor.host).and_then(|files| files.get(source.path));
        match file {
            _ if !source.told => {
                origin.missing.push(
                    "kubelet's configuration was not read, so which file it copies is not known"
                        .to_owned(),
                );
            }
            None => origin.missing.push(format!("{shown}, which kubelet copies, was not read")),
            Some(_) if origin.place.is_some() => {
                origin.missing.push(format!("{shown}, which kubelet copies, does not have it"));
            }
            Some(file) => {
                let node = resolv_conf::parse(file, source.path).search;
                self.judge(origin, policy, (pod, actual), &node, actor);
            }
        }
    }

    fn judge(
        &self,
        origin: &mut SuffixOrigin,
        policy: Policy,
        (pod, actual): (Option<&Pod>, &[String]),
        node: &[String],
        actor: &Actor,
    ) {
        let Some(pod) = pod.filter(|pod| pod.dns_config_known && policy != Policy::Unknown) else {
            return;
        };
        let domain = self.told_domain(actor).or_else(|| domain_of(actual).map(str::to_owned));
        let list = expected(policy, &pod.namespace, domain.as_deref(), node, &pod.dns_searches);
        let lacking: Vec<&str> =
            list.iter().filter(|name| !actual.contains(name)).map(String::as_str).collect();
        if lacking.is_empty() {
            origin.kind = OriginKind::Image;
        } else {
            origin.missing.push(format!(
                "the pod lacks {}, which kubelet would write now: the node's file changed since the pod was made, or something in the image wrote resolv.conf anew",
                lacking.join(" ")
            ));
        }
    }

    /// The file kubelet copies from; `None` where it was told to take none.
    fn source<'a>(&'a self, actor: &Actor, kubelet: Option<&'a Kubelet>) -> Option<Source<'a>> {
        match kubelet.and_then(|kubelet| kubelet.resolv_conf.as_deref()) {
            Some("") => None,
            Some(path) => Some(Source { path, told: true }),
            None => {
                let files = self.hosts.files(actor.host);
                let stub = files.and_then(|files| files.get(STUB_FILE)).is_some_and(|text| {
                    resolv_conf::parse(text, STUB_FILE).servers.contains(&STUB)
                });
                Some(Source { path: if stub { BEHIND_STUB } else { STUB_FILE }, told: false })
            }
        }
    }
}
