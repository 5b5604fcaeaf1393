//! What Kubernetes told: pods, Services, endpoints, and the addresses they have. Deleted things stay
//! readable for a while. Knows no processes and no cgroups.

use std::net::{IpAddr, SocketAddr};

use super::table::Table;
use crate::context::{EndpointSlice, Origin, Pod, Service};
use crate::record::Timestamp;
use crate::text;

const CAP: usize = 16_384;
const ADDRESS_CAP: usize = 65_536;
/// Most addresses one slice can have: the API allows 1000 endpoints.
const SLICE_ADDRESSES_MAX: usize = 4096;

/// Namespace and name.
pub(super) type Key = (String, String);

#[derive(Debug)]
struct ContainerFacts {
    pod: String,
    name: String,
    origin: Origin,
}

#[derive(Debug)]
struct EndpointFacts {
    pod: Option<String>,
    uid: Option<String>,
}

/// The tables.
#[derive(Debug)]
pub(super) struct Cluster {
    pods: Table<String, Pod>,
    containers: Table<String, ContainerFacts>,
    pod_ips: Table<IpAddr, String>,
    node_ips: Table<IpAddr, String>,
    services: Table<Key, Service>,
    cluster_ips: Table<IpAddr, Key>,
    slices: Table<Key, Vec<SocketAddr>>,
    endpoints: Table<SocketAddr, EndpointFacts>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            pods: Table::new(CAP),
            containers: Table::new(ADDRESS_CAP),
            pod_ips: Table::new(ADDRESS_CAP),
            node_ips: Table::new(CAP),
            services: Table::new(CAP),
            cluster_ips: Table::new(ADDRESS_CAP),
            slices: Table::new(CAP),
            endpoints: Table::new(ADDRESS_CAP),
        }
    }
}

fn clean(text: &str) -> String {
    text::escape(text.as_bytes())
}

impl Cluster {
    pub(super) fn learn_pod(&mut self, pod: &Pod, at: Timestamp) {
        let uid = pod.uid.to_ascii_lowercase();
        if uid.is_empty() {
            return;
        }
        let known = self.pods.get(&uid);
        let best = match known {
            Some(old) if old.origin > pod.origin => filled(old.clone(), pod),
            Some(old) if old.origin < pod.origin => filled(cleaned(pod), old),
            // Often only the name is told of what is gone.
            Some(old) if pod.deleted => filled(cleaned(pod), old),
            _ => cleaned(pod),
        };
        // A worse source may miss a pod that a better one still has.
        let deleted = pod.deleted && known.is_none_or(|old| old.origin <= pod.origin);
        for container in &pod.containers {
            if let Some(id) = &container.id
                && self.containers.get(id).is_none_or(|known| known.origin <= pod.origin)
            {
                let (name, origin) = (clean(&container.name), pod.origin);
                let facts = ContainerFacts { pod: uid.clone(), name, origin };
                self.containers.insert(id.clone(), facts);
            }
        }
        for ip in best.ips.iter().map(IpAddr::to_canonical) {
            if !best.host_network {
                if !deleted || self.pod_ips.get(&ip).is_none() {
                    self.pod_ips.insert(ip, uid.clone());
                }
            } else if let Some(node) = &best.node {
                self.node_ips.insert(ip, node.clone());
            }
        }
        self.pods.insert(uid.clone(), best);
        if deleted {
            self.pods.retire(&uid, at);
        }
    }

    pub(super) fn learn_service(&mut self, service: &Service, at: Timestamp) {
        let key = (clean(&service.namespace), clean(&service.name));
        if service.deleted {
            // Often only the name is told of what is gone.
            let known = self.services.get(&key).map(|old| old.cluster_ips.clone());
            for ip in known.iter().flatten().chain(&service.cluster_ips).map(IpAddr::to_canonical) {
                if self.cluster_ips.get(&ip).is_none() {
                    self.cluster_ips.insert(ip, key.clone());
                }
                if self.cluster_ips.get(&ip) == Some(&key) {
                    self.cluster_ips.retire(&ip, at);
                }
            }
            if known.is_none() {
                self.services.insert(key.clone(), service.clone());
            }
            return self.services.retire(&key, at);
        }
        for ip in service.cluster_ips.iter().map(IpAddr::to_canonical) {
            self.cluster_ips.insert(ip, key.clone());
        }
        self.services.insert(key, service.clone());
    }

    pub(super) fn learn_slice(&mut self, slice: &EndpointSlice, at: Timestamp) {
        let key = (slice.namespace.clone(), slice.name.clone());
        for address in self.slices.remove(&key).unwrap_or_default() {
            self.endpoints.retire(&address, at); // those still listed come back below
        }
        if slice.deleted {
            return;
        }
        let mut addresses = Vec::new();
        for endpoint in &slice.endpoints {
            for ip in endpoint.addresses.iter().map(IpAddr::to_canonical) {
                for port in slice.ports.iter().filter(|port| port.port != 0) {
                    if addresses.len() >= SLICE_ADDRESSES_MAX {
                        break;
                    }
                    let address = SocketAddr::new(ip, port.port);
                    addresses.push(address);
                    let facts = EndpointFacts {
                        pod: endpoint.pod.as_deref().map(clean),
                        uid: endpoint.pod_uid.clone(),
                    };
                    self.endpoints.insert(address, facts);
                }
            }
        }
        self.slices.insert(key, addresses);
    }

    pub(super) fn pod(&self, uid: &str) -> Option<&Pod> {
        self.pods.get(uid)
    }

    /// UID of the pod with this address; a host-network pod has none of its own.
    pub(super) fn uid_of_ip(&self, ip: IpAddr) -> Option<&str> {
        self.pod_ips.get(&ip.to_canonical()).map(String::as_str)
    }

    /// UID of the pod and the container's name there.
    pub(super) fn container(&self, id: &str) -> Option<(&str, &str)> {
        let facts = self.containers.get(id)?;
        Some((&facts.pod, &facts.name))
    }

    pub(super) fn service(&self, ip: IpAddr) -> Option<&Key> {
        self.cluster_ips.get(&ip.to_canonical())
    }

    pub(super) fn node(&self, ip: IpAddr) -> Option<&str> {
        self.node_ips.get(&ip.to_canonical()).map(String::as_str)
    }

    /// `namespace/name` of the pod that serves this address, else has it.
    pub(super) fn backend(&self, addr: SocketAddr) -> Option<String> {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let endpoint = self.endpoints.get(&addr);
        endpoint
            .and_then(|facts| facts.pod.clone())
            .or_else(|| self.path(endpoint?.uid.as_deref()?))
            .or_else(|| self.path(self.uid_of_ip(addr.ip())?))
    }

    /// `namespace/name` of a pod.
    pub(super) fn path(&self, uid: &str) -> Option<String> {
        let pod = self.pod(uid)?;
        Some(format!("{}/{}", pod.namespace, pod.name))
    }

    pub(super) fn sweep(&mut self, now: Timestamp) {
        self.pods.sweep(now);
        self.services.sweep(now);
        self.cluster_ips.sweep(now);
        self.endpoints.sweep(now);
    }

    pub(super) fn evicted(&self) -> u64 {
        self.pods.evicted()
            + self.containers.evicted()
            + self.pod_ips.evicted()
            + self.node_ips.evicted()
            + self.services.evicted()
            + self.cluster_ips.evicted()
            + self.slices.evicted()
            + self.endpoints.evicted()
    }
}

fn cleaned(pod: &Pod) -> Pod {
    Pod {
        namespace: clean(&pod.namespace),
        name: clean(&pod.name),
        node: pod.node.as_deref().map(clean),
        owner: pod.owner.as_deref().map(clean),
        ..pod.clone()
    }
}

/// `best` with what only `other` knows.
fn filled(mut best: Pod, other: &Pod) -> Pod {
    let other = cleaned(other);
    for (mine, theirs) in [(&mut best.namespace, other.namespace), (&mut best.name, other.name)] {
        if mine.is_empty() {
            *mine = theirs;
        }
    }
    best.node = best.node.or(other.node);
    best.dns_policy = best.dns_policy.or(other.dns_policy);
    best.owner = best.owner.or(other.owner);
    if best.ips.is_empty() {
        best.ips = other.ips;
        best.host_network |= other.host_network;
    }
    if best.dns_searches.is_empty() {
        best.dns_searches = other.dns_searches;
    }
    if best.labels.is_empty() {
        best.labels = other.labels;
    }
    if best.containers.is_empty() {
        best.containers = other.containers;
    }
    best
}
