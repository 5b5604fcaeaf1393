//! Addresses in words: Services, backends, pods, nodes, and what plays a part of its own in every
//! cluster. Says nothing about who acts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Identifier;
use super::addresses::{Key, State};
use super::cluster::{self, NOW};
use crate::context::Service;
use crate::event::Protocol;
use crate::record::Timestamp;
use crate::report::Backend;
use crate::text;

/// Where NodeLocal DNSCache listens on every node that has it.
const NODE_LOCAL_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10));
/// Where clouds tell a machine about itself, and its IPv6 address at Amazon.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];
const DNS_PORT: u16 = 53;

/// How an address leads to a Service.
enum Way {
    Own,
    NodePort,
    /// It is an endpoint of a Service without an address of its own.
    Headless,
}

/// The API server's own Service.
fn is_api_server(key: &Key) -> bool {
    key.0 == "default" && key.1 == "kubernetes"
}

fn has_label(service: &Service, key: &str, value: &str) -> bool {
    service.labels.get(key).is_some_and(|at| at == value)
}

/// The cluster's DNS beyond doubt: by its makers' labels, in a namespace that is the cluster's own.
pub(crate) fn is_system_dns(service: &Service) -> bool {
    match service.namespace.as_str() {
        "kube-system" => {
            has_label(service, "k8s-app", "kube-dns")
                || has_label(service, "app.kubernetes.io/name", "coredns")
        }
        "openshift-dns" => service.name == "dns-default",
        _ => false,
    }
}

/// What is called the cluster's DNS. Wider than [`is_system_dns`]: a name is no reason to trace.
fn is_cluster_dns(service: &Service) -> bool {
    is_system_dns(service)
        || match service.namespace.as_str() {
            "openshift-dns" => false,
            "kube-system" => service.name == "kube-dns",
            _ => has_label(service, "k8s-app", "kube-dns"),
        }
}

impl Identifier {
    fn way(&self, addr: SocketAddr, protocol: Protocol, at: Timestamp) -> Option<(&Key, Way)> {
        let addresses = &self.cluster.addresses;
        if let Some(key) = addresses.service(addr.ip(), at) {
            return Some((key, Way::Own));
        }
        if let Some(key) = addresses.external(addr, protocol) {
            return Some((key, Way::Own));
        }
        if let Some(key) = self.headless(addr, protocol, at) {
            return Some((key, Way::Headless));
        }
        addresses.node(addr.ip())?;
        let key = addresses.node_port(addr.port(), protocol)?;
        Some((key, Way::NodePort))
    }

    fn headless(&self, addr: SocketAddr, protocol: Protocol, at: Timestamp) -> Option<&Key> {
        let mut all = self.cluster.addresses.listings(addr, protocol);
        all.find_map(|listing| {
            let name = listing.slice.service.clone().filter(|_| listing.is_live(at))?;
            let key = (listing.slice.namespace.clone(), name);
            let (key, service) = self.cluster.service_entry(&key)?;
            let headless = service.cluster_ips.is_empty() && service.external_name.is_none();
            headless.then_some(key)
        })
    }

    /// `svc/NAME.NS:PORT` for a Service's address, as it was at `at`; also for an endpoint of a
    /// headless one, and for a node's port that leads to one. Says so where the Service has no
    /// such port.
    pub fn service(&self, addr: SocketAddr, protocol: Protocol, at: Timestamp) -> Option<String> {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let (key, way) = self.way(addr, protocol, at)?;
        let name = format!("svc/{}.{}", key.1, key.0);
        let port = addr.port();
        let of = self.cluster.service(key);
        Some(match way {
            Way::Headless => format!("{name}:{port}"),
            Way::NodePort => {
                let is_it = |at: &&crate::context::Port| {
                    at.node_port == Some(port) && cluster::protocol(&at.protocol) == Some(protocol)
                };
                let inside = of.and_then(|of| of.ports.iter().find(is_it));
                let inside = inside.map_or(port, |at| at.port);
                format!("{name}:{inside} via node port {port}")
            }
            Way::Own if of.is_some_and(|of| lacks(of, port, protocol)) => {
                format!("{name}:{port} (no such {} port)", protocol_name(protocol))
            }
            Way::Own => format!("{name}:{port}"),
        })
    }

    /// The pod behind an address as a backend at `at`, `namespace/name` where known, and what its
    /// slice said of it then.
    pub fn backend(&self, addr: SocketAddr, protocol: Protocol, at: Timestamp) -> Backend {
        let (pod, state) = self.backing(addr, protocol, at);
        Backend { address: addr, pod, state: state.map(str::to_owned) }
    }

    fn backing(
        &self,
        addr: SocketAddr,
        protocol: Protocol,
        at: Timestamp,
    ) -> (Option<String>, Option<&'static str>) {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let holder = self.cluster.addresses.pod(addr.ip(), at);
        let named = |uid: &str| self.cluster.path(uid);
        let by_ip = || holder.and_then(named);
        let Some(listing) = self.cluster.addresses.listing(addr, protocol, at) else {
            return (by_ip(), None);
        };
        let state = listing.state(at);
        // Its address went to another pod since.
        let moved =
            state == State::Gone && holder.is_some_and(|uid| listing.uid.as_deref() != Some(uid));
        if moved && let Some(pod) = by_ip() {
            return (Some(pod), None);
        }
        let told = listing.pod.as_deref().map(str::to_owned);
        let pod = told.or_else(|| named(listing.uid.as_deref()?)).or_else(by_ip);
        (pod, state.words())
    }

    /// An address in words: the API server, the cluster DNS, `svc/NAME.NS`, `pod NS/NAME`,
    /// `node NAME`; or the address.
    pub fn address_name(&self, addr: SocketAddr, protocol: Protocol) -> String {
        self.peer(addr, protocol, NOW).unwrap_or_else(|| addr.to_string())
    }

    /// The same for what was there at `at`; `None` where nothing is known.
    pub fn peer(&self, addr: SocketAddr, protocol: Protocol, at: Timestamp) -> Option<String> {
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let ip = addr.ip();
        let service = self.service_words(addr, protocol, at);
        if service.is_some() {
            return service;
        }
        if self.is_api_endpoint(addr, protocol) {
            return Some("API server".to_owned());
        }
        if ip == NODE_LOCAL_DNS {
            return Some("node-local DNS cache".to_owned());
        }
        if METADATA.contains(&ip) {
            return Some("metadata server".to_owned());
        }
        if addr.port() == DNS_PORT && self.is_given_dns(ip) {
            return Some("cluster DNS".to_owned());
        }
        if let (Some(pod), state) = self.backing(addr, protocol, at) {
            let state = state.map(|state| format!(", {state}")).unwrap_or_default();
            return Some(format!("pod {pod}{state}"));
        }
        self.cluster.addresses.node(ip).map(|node| format!("node {node}"))
    }

    fn service_words(&self, addr: SocketAddr, protocol: Protocol, at: Timestamp) -> Option<String> {
        let (key, way) = self.way(addr, protocol, at)?;
        let of = self.cluster.service(key);
        let name = format!("svc/{}.{}", key.1, key.0);
        let part = if is_api_server(key) {
            "API server, "
        } else if of.is_some_and(is_cluster_dns)
            || addr.port() == DNS_PORT && self.is_given_dns(addr.ip())
        {
            "cluster DNS, "
        } else {
            ""
        };
        Some(match way {
            // The pod says more.
            Way::Headless => return None,
            Way::NodePort => format!("{part}{name} via node port {}", addr.port()),
            Way::Own if of.is_some_and(|of| lacks(of, addr.port(), protocol)) => {
                format!(
                    "{part}{name}, which has no {} port {}",
                    protocol_name(protocol),
                    addr.port()
                )
            }
            Way::Own => format!("{part}{name}"),
        })
    }

    fn is_api_endpoint(&self, addr: SocketAddr, protocol: Protocol) -> bool {
        self.cluster.addresses.listings(addr, protocol).any(|listing| {
            listing.slice.namespace == "default"
                && listing.slice.service.as_deref() == Some("kubernetes")
        })
    }

    /// kubelet was told to give it to pods, or did.
    fn is_given_dns(&self, ip: IpAddr) -> bool {
        self.given_dns.contains(&ip)
            || self.hosts.kubelets().any(|kubelet| kubelet.cluster_dns.contains(&ip))
    }

    /// An address of the cluster's DNS.
    pub(super) fn is_cluster_dns(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let service = || self.cluster.service(self.cluster.addresses.service(ip, NOW)?);
        ip == NODE_LOCAL_DNS || self.is_given_dns(ip) || service().is_some_and(is_cluster_dns)
    }

    /// Namespace and name of the Service with this address.
    pub fn service_key(&self, addr: SocketAddr) -> Option<(&str, &str)> {
        let key = self.cluster.addresses.service(addr.ip().to_canonical(), NOW)?;
        Some((&key.0, &key.1))
    }

    /// The name that `name` stands for, if it is that of a Service of type ExternalName in `domain`.
    pub fn external_name(&self, name: &str, domain: &str) -> Option<String> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let (service, namespace) =
            name.strip_suffix(domain)?.strip_suffix(".svc.")?.split_once('.')?;
        let key = (namespace.to_owned(), service.to_owned());
        let target = self.cluster.service(&key)?.external_name.as_deref()?;
        Some(text::escape(target.as_bytes()))
    }
}

/// It has ports, but not this one.
fn lacks(service: &Service, port: u16, protocol: Protocol) -> bool {
    let is_it = |at: &crate::context::Port| {
        at.port == port && cluster::protocol(&at.protocol).is_none_or(|its| its == protocol)
    };
    !service.ports.is_empty() && !service.ports.iter().any(is_it)
}

fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Udp => "UDP",
        Protocol::Tcp => "TCP",
        Protocol::Other(132) => "SCTP",
        Protocol::Other(_) => "such",
    }
}
