//! Who: turns cgroups, sockets, pids and addresses into identities, from events and context alone.
//! Asks nobody; knows no DNS.

use std::net::{IpAddr, SocketAddr};

use crate::context;
use crate::event::{Actor, Event, Protocol};
use crate::report::{Backend, Identity};

/// The unit that a resolver or client is: a pod, else a cgroup, else an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entity {
    /// Pod UID.
    Pod(String),
    /// cgroup id (of the attach point where one is above it).
    Cgroup(u64),
    /// Address only.
    Address(IpAddr),
}

/// resolv.conf understood (resolv.conf(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolverConfig {
    /// Servers in order.
    pub servers: Vec<IpAddr>,
    /// Search list in order, lower case, without final dots.
    pub search: Vec<String>,
    /// `ndots`, default 1.
    pub ndots: u32,
    /// `timeout` in seconds, default 5.
    pub timeout_s: u32,
    /// `attempts`, default 2.
    pub attempts: u32,
    /// Other options as written.
    pub options: Vec<String>,
    /// Path it was read from.
    pub path: String,
    /// Lines that mean nothing to a resolver.
    pub strange: Vec<String>,
}

/// Where a search suffix was found on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SuffixOrigin {
    /// Path on the node, or `dnsConfig`.
    pub place: String,
    /// Line, from 1.
    pub line: Option<u32>,
}

/// Knows who is who.
#[derive(Debug, Default)]
pub struct Identifier {}

impl Identifier {
    /// Takes in what an event says about identities.
    pub fn learn(&mut self, event: &Event) {
        let _ = event;
    }

    /// Who `actor` is, as well as is known now.
    pub fn identity(&self, actor: &Actor) -> Identity {
        let _ = actor;
        Identity::default()
    }

    /// The unit `actor` belongs to, for tying a resolver's two sides together.
    pub fn entity(&self, actor: &Actor) -> Option<Entity> {
        let _ = actor;
        None
    }

    /// The actor's role if its cgroup lies in a traced scope; `None` where scopes are unknown.
    pub fn role(&self, actor: &Actor) -> Option<context::Role> {
        let _ = actor;
        None
    }

    /// The host record, if one came.
    pub fn host(&self) -> Option<&context::Host> {
        None
    }

    /// The resolver configuration `actor` reads.
    pub fn resolver_config(&self, actor: &Actor) -> Option<&ResolverConfig> {
        let _ = actor;
        None
    }

    /// The socket's intended destination, from the connect/sendmsg hook, when it differs from what
    /// packets show.
    pub fn intended(&self, actor: &Actor) -> Option<SocketAddr> {
        let _ = actor;
        None
    }

    /// `svc/NAME.NS:PORT` for a Service address.
    pub fn service(&self, addr: SocketAddr, protocol: Protocol) -> Option<String> {
        let _ = (addr, protocol);
        None
    }

    /// The pod behind an address as a backend, `namespace/name` where known.
    pub fn backend(&self, addr: SocketAddr) -> Backend {
        Backend { address: addr, pod: None }
    }

    /// An address in words: `svc/…`, `pod NS/NAME`, `node NAME`, or the address.
    pub fn address_name(&self, addr: SocketAddr, protocol: Protocol) -> String {
        let _ = protocol;
        addr.to_string()
    }

    /// The cluster's domain, such as `cluster.local`, from the pod's search list and Services.
    pub fn cluster_domain(&self, actor: &Actor) -> Option<String> {
        let _ = actor;
        None
    }

    /// Where `suffix` stands on the node (or in the pod's dnsConfig).
    pub fn suffix_origin(&self, actor: &Actor, suffix: &str) -> Option<SuffixOrigin> {
        let _ = (actor, suffix);
        None
    }
}
