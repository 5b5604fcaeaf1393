//! What Kubernetes told: pods, Services, endpoints, and the addresses they have. Deleted things stay
//! readable for a while. Knows no processes and no cgroups.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::addresses::{Addresses, Key, Listing, Slice, State};
use super::table::Table;
use crate::context::{Endpoint, EndpointSlice, Origin, Pod, Service};
use crate::event::Protocol;
use crate::record::Timestamp;
use crate::text;

const CAP: usize = 16_384;
const CONTAINER_CAP: usize = 65_536;
/// Most addresses one slice can have: the API allows 1000 endpoints.
const SLICE_ADDRESSES_MAX: usize = 4096;

/// Later than everything: as things stand.
pub(super) const NOW: Timestamp = Timestamp(u64::MAX);

#[derive(Debug)]
struct ContainerFacts {
    pod: String,
    name: String,
    origin: Origin,
}

/// A Service with the places it is reached at.
type Places = (Vec<IpAddr>, Vec<(IpAddr, u16, Protocol)>, Vec<(u16, Protocol)>);

/// The tables.
#[derive(Debug)]
pub(super) struct Cluster {
    pods: Table<String, Pod>,
    containers: Table<String, ContainerFacts>,
    services: Table<Key, Service>,
    slices: Table<Key, Vec<SocketAddr>>,
    pub(super) addresses: Addresses,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            pods: Table::new(CAP),
            containers: Table::new(CONTAINER_CAP),
            services: Table::new(CAP),
            slices: Table::new(CAP),
            addresses: Addresses::default(),
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
        let gone = best.ips.iter().chain(&best.host_ips);
        let dropped: Vec<IpAddr> = known
            .into_iter()
            .flat_map(|old| old.ips.iter())
            .filter(|ip| !gone.clone().any(|kept| kept == *ip))
            .map(IpAddr::to_canonical)
            .collect();
        for ip in dropped {
            self.addresses.take_pod(ip, &uid, at);
        }
        self.give_addresses(&uid, &best, deleted, at);
        self.pods.insert(uid.clone(), best);
        if deleted {
            self.pods.retire(&uid, at);
        }
    }

    fn give_addresses(&mut self, uid: &str, pod: &Pod, deleted: bool, at: Timestamp) {
        let known = self.pods.get(uid);
        if let Some(node) = &pod.node {
            let own = pod.ips.iter().filter(|_| pod.host_network);
            for ip in own.chain(&pod.host_ips).map(IpAddr::to_canonical) {
                self.addresses.give_node(ip, node);
            }
        }
        for ip in pod.ips.iter().map(IpAddr::to_canonical) {
            if pod.host_network {
                self.addresses.not_of_pod(ip, uid); // as a worse source had it
                continue;
            }
            let over = deleted || pod.finished;
            let had = known.is_some_and(|old| old.ips.iter().any(|ip2| ip2.to_canonical() == ip));
            let takes = match self.addresses.holder(ip) {
                None => true,
                Some((holder, gone)) if holder == uid => gone && !over,
                // What says nothing new does not take back what another got meanwhile.
                Some((_, gone)) if over || had => gone && !over,
                Some((_, true)) => true,
                Some((holder, false)) => {
                    let other = self.pods.get(holder);
                    let created = other.and_then(|other| other.created.as_ref());
                    let older =
                        created.zip(pod.created.as_ref()).is_some_and(|(its, own)| own < its);
                    !older || other.is_none_or(|other| other.finished)
                }
            };
            if takes {
                self.addresses.give_pod(ip, uid, at);
            }
            if over {
                self.addresses.take_pod(ip, uid, at);
            }
        }
    }

    pub(super) fn learn_service(&mut self, service: &Service, at: Timestamp) {
        let key = (clean(&service.namespace), clean(&service.name));
        let known = self.services.get(&key);
        let old = known.map(places).unwrap_or_default();
        let new = places(service);
        let deleted = service.deleted;
        for ip in &new.0 {
            if !deleted || !self.addresses.has_service(*ip) {
                self.addresses.give_service(*ip, &key, at);
            }
        }
        for ip in old.0.iter().filter(|ip| deleted || !new.0.contains(ip)) {
            self.addresses.take_service(*ip, &key, at);
        }
        for ip in new.0.iter().filter(|_| deleted) {
            self.addresses.take_service(*ip, &key, at);
        }
        for place in new.1.iter().filter(|_| !deleted) {
            self.addresses.give_external(*place, &key);
        }
        for place in old.1.iter().filter(|place| deleted || !new.1.contains(place)) {
            self.addresses.take_external(*place, &key, at);
        }
        for port in new.2.iter().filter(|_| !deleted) {
            self.addresses.give_node_port(*port, &key);
        }
        for port in old.2.iter().filter(|port| deleted || !new.2.contains(port)) {
            self.addresses.take_node_port(*port, &key, at);
        }
        // Often only the name is told of what is gone.
        if !deleted || known.is_none() {
            self.services.insert(key.clone(), service.clone());
        }
        if deleted {
            self.services.retire(&key, at);
        }
    }

    pub(super) fn learn_slice(&mut self, slice: &EndpointSlice, at: Timestamp) {
        let key = (slice.namespace.clone(), slice.name.clone());
        for address in self.slices.remove(&key).unwrap_or_default() {
            // Those still listed come back below.
            self.addresses.unlist(address, &slice.namespace, &slice.name, at);
        }
        if slice.deleted {
            return;
        }
        let shared = Arc::new(Slice {
            namespace: slice.namespace.clone(),
            name: slice.name.clone(),
            service: slice.service.as_deref().map(clean),
        });
        let mut addresses = Vec::new();
        for endpoint in &slice.endpoints {
            let pod: Option<Arc<str>> = endpoint.pod.as_deref().map(|pod| clean(pod).into());
            let uid: Option<Arc<str>> =
                endpoint.pod_uid.as_deref().map(|uid| uid.to_ascii_lowercase().into());
            for ip in endpoint.addresses.iter().map(IpAddr::to_canonical) {
                for port in slice.ports.iter().filter(|port| port.port != 0) {
                    if addresses.len() >= SLICE_ADDRESSES_MAX {
                        break;
                    }
                    let address = SocketAddr::new(ip, port.port);
                    addresses.push(address);
                    let listing = Listing::new(&shared, state(endpoint), at)
                        .of(pod.as_ref(), uid.as_ref())
                        .over(protocol(&port.protocol));
                    self.addresses.list(address, listing);
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
        self.addresses.pod(ip.to_canonical(), NOW)
    }

    /// UID of the pod and the container's name there.
    pub(super) fn container(&self, id: &str) -> Option<(&str, &str)> {
        let facts = self.containers.get(id)?;
        Some((&facts.pod, &facts.name))
    }

    /// A Service that is or was.
    pub(super) fn service(&self, key: &Key) -> Option<&Service> {
        self.services.get(key)
    }

    /// The same with the key that the tables hold.
    pub(super) fn service_entry(&self, key: &Key) -> Option<(&Key, &Service)> {
        self.services.entry(key)
    }

    /// `namespace/name` of a pod.
    pub(super) fn path(&self, uid: &str) -> Option<String> {
        let pod = self.pod(uid)?;
        Some(format!("{}/{}", pod.namespace, pod.name))
    }

    pub(super) fn sweep(&mut self, now: Timestamp) {
        self.pods.sweep(now);
        self.services.sweep(now);
        self.addresses.sweep(now);
    }

    pub(super) fn evicted(&self) -> u64 {
        self.pods.evicted()
            + self.containers.evicted()
            + self.services.evicted()
            + self.slices.evicted()
            + self.addresses.evicted()
    }
}

/// A protocol as the API writes it; `None` where it says nothing.
pub(super) fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Other(132)),
        _ => None,
    }
}

fn state(endpoint: &Endpoint) -> State {
    match (endpoint.terminating, endpoint.ready) {
        (Some(true), _) => State::Terminating,
        // `ready` is also what a Service with publishNotReadyAddresses says of all.
        (_, Some(false)) => State::NotReady,
        _ if endpoint.serving == Some(false) => State::NotReady,
        _ => State::Ready,
    }
}

/// Cluster addresses, addresses from outside, and ports of every node.
fn places(service: &Service) -> Places {
    let ports = || service.ports.iter().filter_map(|port| Some((port, protocol(&port.protocol)?)));
    let outside = service
        .external_ips
        .iter()
        .flat_map(|ip| ports().map(|(port, protocol)| (ip.to_canonical(), port.port, protocol)));
    let node_ports = ports().filter_map(|(port, protocol)| Some((port.node_port?, protocol)));
    let own = service.cluster_ips.iter().map(IpAddr::to_canonical);
    (own.collect(), outside.collect(), node_ports.collect())
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
    best.created = best.created.or(other.created);
    best.owner = best.owner.or(other.owner);
    if best.ips.is_empty() {
        best.ips = other.ips;
        best.host_network |= other.host_network;
    }
    if best.host_ips.is_empty() {
        best.host_ips = other.host_ips;
    }
    if best.dns_searches.is_empty() {
        best.dns_searches = other.dns_searches;
    }
    best.dns_config_known |= other.dns_config_known;
    if best.labels.is_empty() {
        best.labels = other.labels;
    }
    if best.containers.is_empty() {
        best.containers = other.containers;
    }
    best
}
