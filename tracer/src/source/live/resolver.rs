//! Which cgroups on this node belong to the resolver that the target asks: by Services and their
//! endpoints, or as the pod with the resolver's address; else by well-known pod names, else as the process
//! bound to that address.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::IpAddr;

use super::cgroups::{Directory, Mount};
use super::node_files::NodeFiles;
use super::sockets;
use crate::context::{EndpointSlice, Pod, Service};
use crate::identify::is_system_dns;

/// Most resolvers traced along.
const RESOLVERS_MAX: usize = 16;

/// What the API told about Services, as far as finding resolvers needs it.
#[derive(Debug, Default)]
pub(super) struct Services {
    services: HashMap<(String, String), Service>,
    slices: HashMap<(String, String), EndpointSlice>,
    lists: usize,
}

impl Services {
    /// Takes in a Service.
    pub(super) fn service(&mut self, service: &Service) {
        let key = (service.namespace.clone(), service.name.clone());
        if service.deleted {
            self.services.remove(&key);
        } else {
            self.services.insert(key, service.clone());
        }
    }

    /// Takes in an EndpointSlice.
    pub(super) fn slice(&mut self, slice: &EndpointSlice) {
        let key = (slice.namespace.clone(), slice.name.clone());
        if slice.deleted {
            self.slices.remove(&key);
        } else {
            self.slices.insert(key, slice.clone());
        }
    }

    /// A first list is complete.
    pub(super) fn listed(&mut self) {
        self.lists += 1;
    }

    /// Both lists are complete.
    pub(super) fn complete(&self) -> bool {
        self.lists >= 2
    }

    /// Whether a Service's slices name this pod.
    pub(super) fn is_behind(&self, namespace: &str, service: &str, uid: &str) -> bool {
        let slices = self.slices.values().filter(|slice| {
            slice.namespace == namespace && slice.service.as_deref() == Some(service)
        });
        slices.flat_map(|slice| &slice.endpoints).any(|at| at.pod_uid.as_deref() == Some(uid))
    }

    /// Whether pods are known that answer at `servers`.
    pub(super) fn answer_at(&self, servers: &HashSet<IpAddr>) -> bool {
        !self.resolver_pods(servers).is_empty()
    }

    /// UIDs of the pods that answer at `servers`; where no server is known yet, of the cluster's
    /// DNS by its label.
    fn resolver_pods(&self, servers: &HashSet<IpAddr>) -> Vec<&str> {
        let asked = |service: &Service| match servers.is_empty() {
            true => is_system_dns(service),
            false => service.cluster_ips.iter().any(|ip| servers.contains(ip)),
        };
        let services: HashSet<(&str, &str)> = self
            .services
            .values()
            .filter(|service| asked(service))
            .map(|service| (service.namespace.as_str(), service.name.as_str()))
            .collect();
        let mut pods = Vec::new();
        for slice in self.slices.values() {
            let of_service = slice
                .service
                .as_deref()
                .is_some_and(|name| services.contains(&(slice.namespace.as_str(), name)));
            let direct = |ip: &IpAddr| servers.contains(ip);
            let asked = slice
                .endpoints
                .iter()
                .filter(|endpoint| of_service || endpoint.addresses.iter().any(direct));
            pods.extend(asked.filter_map(|endpoint| endpoint.pod_uid.as_deref()));
        }
        pods
    }
}

/// Where to look.
pub(super) struct Search<'a> {
    /// The cgroup tree.
    pub(super) mount: &'a Mount,
    /// kubelet's folders.
    pub(super) node_files: &'a NodeFiles,
    /// What the API told.
    pub(super) services: &'a Services,
    /// UIDs of the pods that have one of `servers` as their own address.
    pub(super) at_servers: Vec<String>,
    /// Addresses in the target's resolv.conf.
    pub(super) servers: &'a HashSet<IpAddr>,
    /// The cgroups found by their sockets.
    pub(super) on_node: &'a [Directory],
}

impl Search<'_> {
    /// The resolvers' cgroups on this node.
    pub(super) fn find(&self) -> Vec<Directory> {
        let mut found = self.by_services();
        if found.is_empty() && !self.services.complete() {
            found = self.by_names();
        }
        found.extend_from_slice(self.on_node);
        found.truncate(RESOLVERS_MAX);
        found
    }

    fn by_services(&self) -> Vec<Directory> {
        let uids = self.services.resolver_pods(self.servers);
        // A cache on the node asks the cluster's DNS in its turn.
        let behind = !self.on_node.is_empty();
        let behind = behind.then(|| self.services.resolver_pods(&HashSet::new()));
        let uids = uids.into_iter().chain(behind.into_iter().flatten());
        let uids = uids.chain(self.at_servers.iter().map(String::as_str));
        let mut uids: Vec<&str> = uids.collect();
        uids.sort_unstable();
        uids.dedup();
        uids.into_iter().flat_map(|uid| self.mount.pods(uid)).collect()
    }

    fn by_names(&self) -> Vec<Directory> {
        let pods = self.node_files.names();
        let resolvers = pods.iter().filter(|pod| is_resolver(&pod.namespace, &pod.name));
        resolvers.flat_map(|pod| self.mount.pods(&pod.uid)).collect()
    }
}

/// The cgroup of the process that owns a socket on port 53 of a server's address: a resolver of the host,
/// such as a node-local cache, or one in the network namespace of `process`, a target's.
pub(super) fn by_socket(mount: &Mount, servers: &HashSet<IpAddr>, process: u32) -> Vec<Directory> {
    if servers.is_empty() {
        return Vec::new();
    }
    let own = std::process::id();
    let mut inodes = HashSet::new();
    for process in [process, own] {
        let local = if process == own { host_addresses() } else { HashSet::new() };
        let is_server = |ip: IpAddr| {
            servers.contains(&ip)
                || ip.is_unspecified() && servers.iter().any(|at| local.contains(at))
        };
        let found = sockets::list(process).unwrap_or_default();
        let bound = found.iter().filter(|at| at.local.port() == 53 && at.remote.is_none());
        inodes.extend(bound.filter(|at| is_server(at.local.ip())).map(|at| at.inode));
    }
    if inodes.is_empty() {
        return Vec::new();
    }
    let owners = sockets::owners(&all_processes());
    let mut pids: Vec<u32> = inodes
        .iter()
        .filter_map(|inode| owners.get(inode))
        .flatten()
        .map(|(pid, _)| *pid)
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids.into_iter().filter_map(|pid| mount.of_process(pid)).collect()
}

/// A pod that is asked at its own address, as where no Service stands before the resolver. Those on the
/// node's network share the node's.
pub(super) fn answers_at(pod: &Pod, servers: &HashSet<IpAddr>) -> bool {
    !pod.host_network && !pod.finished && pod.ips.iter().any(|ip| servers.contains(ip))
}

/// Pods that are a cluster's resolver by the names everybody gives them.
fn is_resolver(namespace: &str, name: &str) -> bool {
    let begins = |names: &[&str]| names.iter().any(|at| name.starts_with(at));
    match namespace {
        "kube-system" => begins(&["coredns", "kube-dns", "node-local-dns", "rke2-coredns"]),
        "openshift-dns" => begins(&["dns-default"]),
        _ => false,
    }
}

fn host_addresses() -> HashSet<IpAddr> {
    let addresses = nix::ifaddrs::getifaddrs().into_iter().flatten();
    addresses
        .filter_map(|at| {
            let address = at.address?;
            let v4 = address.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|at| IpAddr::V6(at.ip())))
        })
        .collect()
}

fn all_processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The servers that a resolv.conf names; nothing else of it is looked at.
pub(super) fn servers(text: &str) -> impl Iterator<Item = IpAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = (words.next()? == "nameserver").then(|| words.next())??;
        address.split('%').next()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Endpoint;

    #[test]
    fn resolver_pods_by_the_address_asked() {
        let mut services = Services::default();
        let ip: IpAddr = "10.96.0.10".parse().unwrap();
        let service = |name: &str, ip: IpAddr| Service {
            namespace: "kube-system".into(),
            name: name.into(),
            cluster_ips: vec![ip],
            ..Service::default()
        };
        services.service(&service("kube-dns", ip));
        services.service(&service("other", "10.96.0.11".parse().unwrap()));
        for (name, uid, address) in [("kube-dns", "u1", "10.0.0.2"), ("other", "u2", "10.0.0.3")] {
            services.slice(&EndpointSlice {
                namespace: "kube-system".into(),
                name: format!("{name}-x"),
                service: Some(name.into()),
                endpoints: vec![Endpoint {
                    addresses: vec![address.parse().unwrap()],
                    pod_uid: Some(uid.into()),
                    ..Endpoint::default()
                }],
                ..EndpointSlice::default()
            });
        }
        assert_eq!(services.resolver_pods(&HashSet::from([ip])), ["u1"]);
        assert!(services.answer_at(&HashSet::from([ip])));
        assert_eq!(services.resolver_pods(&HashSet::from(["10.0.0.3".parse().unwrap()])), ["u2"]);
        assert!(services.resolver_pods(&HashSet::from(["127.0.0.53".parse().unwrap()])).is_empty());
    }

    #[test]
    fn a_pod_asked_at_its_own_address() {
        let ip: IpAddr = "fd00::14".parse().unwrap();
        let pod = Pod { ips: vec!["10.0.0.2".parse().unwrap(), ip], ..Pod::default() };
        let servers = HashSet::from([ip]);
        assert!(answers_at(&pod, &servers));
        assert!(!answers_at(&pod, &HashSet::new()));
        assert!(!answers_at(&Pod { host_network: true, ..pod.clone() }, &servers));
        assert!(!answers_at(&Pod { finished: true, ..pod }, &servers));
    }

    #[test]
    fn servers_of_a_strange_file() {
        let text = "nameserver 10.96.0.10\n nameserver\tfe80::1%eth0 x\nnameserver\nnameserver y\n#nameserver 1.1.1.1";
        let found: Vec<String> = servers(text).map(|ip| ip.to_string()).collect();
        assert_eq!(found, ["10.96.0.10", "fe80::1"]);
    }
}
