//! Who: turns cgroups, sockets, pids and addresses into identities, from events and context alone.
//! Asks nobody; knows no DNS.

mod addresses;
mod again;
mod cluster;
mod conntrack;
mod hosts;
mod node;
mod peers;
mod resolv_conf;
mod suffix;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_peers;
#[cfg(test)]
mod tests_suffix;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::context;
use crate::event::{Actor, Body, Event};
use crate::record::{HostId, Task, Timestamp};
use crate::report::Identity;
use crate::text;
pub(crate) use again::nameless;
use cluster::Cluster;
use conntrack::Readings;
pub use conntrack::Refused;
use hosts::Hosts;
use node::{Node, Place};
pub(crate) use peers::is_system_dns;
pub use suffix::{OriginKind, SuffixOrigin};
use table::Table;

const CONFIG_CAP: usize = 8192;
/// How often old entries are looked for, in nanoseconds of record time.
const SWEEP_NS: u64 = 10_000_000_000;
/// Address of systemd-resolved's stub: a resolv.conf with it is not the one kubelet uses.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
const STUB_FILE: &str = "/etc/resolv.conf";
/// Servers remembered that pods were given.
const GIVEN_MAX: usize = 64;

/// The unit that a resolver or client is: a pod, else a cgroup, else an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entity {
    /// Pod UID.
    Pod(String),
    /// cgroup id (of the attach point where one is above it).
    Cgroup(HostId, u64),
    /// Address only, and where it means something.
    Address(HostId, IpAddr),
}

/// resolv.conf understood (resolv.conf(5)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolverConfig {
    /// Servers in order.
    pub servers: Vec<IpAddr>,
    /// Search list in order, lower case, without final dots.
    pub search: Arc<Vec<String>>,
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
    /// Its first lines as they were read, safe to print.
    pub lines: Vec<String>,
    /// Lines it has besides.
    pub more_lines: usize,
    /// Lines that mean nothing to a resolver.
    pub strange: Vec<String>,
}

/// What a resolver configuration belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ConfigKey {
    MountNamespace(HostId, u64),
    Cgroup(HostId, u64),
}

#[derive(Debug)]
struct ConfigFacts {
    config: ResolverConfig,
    /// Who it was read through.
    reader: Actor,
}

/// Knows who is who.
#[derive(Debug)]
pub struct Identifier {
    hosts: Hosts,
    node: Node,
    cluster: Cluster,
    conntrack: Readings,
    configs: Table<ConfigKey, ConfigFacts>,
    config_of_cgroup: Table<(HostId, u64), ConfigKey>,
    /// First servers of lists as kubelet makes them, and the domain in the latest.
    given_dns: Vec<IpAddr>,
    seen_domain: Option<String>,
    swept: Timestamp,
}

impl Default for Identifier {
    fn default() -> Self {
        Self {
            hosts: Hosts::default(),
            node: Node::default(),
            cluster: Cluster::default(),
            conntrack: Readings::default(),
            configs: Table::new(CONFIG_CAP),
            config_of_cgroup: Table::new(CONFIG_CAP),
            given_dns: Vec::new(),
            seen_domain: None,
            swept: Timestamp::default(),
        }
    }
}

impl Identifier {
    /// Takes in what an event says about identities.
    pub fn learn(&mut self, event: &Event) {
        self.node.learn(event);
        match &event.body {
            Body::Host(host) => self.hosts.learn(event.actor.host, host),
            Body::Pod(pod) => self.cluster.learn_pod(pod, event.at),
            Body::Service(service) => self.cluster.learn_service(service, event.at),
            Body::EndpointSlice(slice) => self.cluster.learn_slice(slice, event.at),
            Body::ResolvConf(conf) => self.learn_config(event.actor.host, conf),
            Body::Conntrack(reading) => self.conntrack.learn(event.actor.host, reading),
            Body::NodeFile(file) => self.hosts.learn_file(event.actor.host, file),
            _ => {}
        }
        if event.at.since(self.swept) >= SWEEP_NS {
            self.swept = event.at;
            self.node.sweep(event.at);
            self.cluster.sweep(event.at);
        }
    }

    fn learn_config(&mut self, host: HostId, conf: &context::ResolvConf) {
        let key = match (conf.mnt_ns, conf.cgroup) {
            (Some(id), _) => ConfigKey::MountNamespace(host, id),
            (None, Some(id)) => ConfigKey::Cgroup(host, id),
            (None, None) => return,
        };
        let Some(text) = &conf.text else {
            self.configs.remove(&key);
            return;
        };
        if let Some(cgroup) = conf.cgroup {
            self.config_of_cgroup.insert((host, cgroup), key);
        }
        let reader = Actor { host, cgroup: conf.cgroup, ..Actor::default() };
        let config = resolv_conf::parse(text, &conf.path);
        self.learn_dns(&reader, &config);
        self.configs.insert(key, ConfigFacts { config, reader });
    }

    /// A list as kubelet makes it names the cluster's DNS and domain.
    fn learn_dns(&mut self, reader: &Actor, config: &ResolverConfig) {
        let Some(domain) = suffix::domain_of(&config.search) else { return };
        if self.pod_of(reader).is_some_and(|pod| pod.dns_policy.as_deref() == Some("None")) {
            return;
        }
        self.seen_domain = Some(domain.to_owned());
        let server = config.servers.first().filter(|ip| !ip.is_loopback());
        if let Some(server) = server.filter(|ip| !self.given_dns.contains(ip)) {
            self.given_dns.truncate(GIVEN_MAX - 1);
            self.given_dns.push(*server);
        }
    }

    /// Who `actor` is, as well as is known now.
    pub fn identity(&self, actor: &Actor) -> Identity {
        let place = self.node.place(actor);
        let facts = place.path.map(|path| &path.facts);
        let container_id = facts.and_then(|facts| facts.container.clone());
        let container = container_id.as_deref().and_then(|id| self.cluster.container(id));
        let pod = self.pod_uid(actor, &place).and_then(|uid| self.cluster.pod(uid));
        let path = place.path.filter(|path| pod.is_none() && !path.text.is_empty());
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Identity {
            namespace: pod.and_then(|pod| known(&pod.namespace)),
            pod: pod.and_then(|pod| known(&pod.name)),
            named_by: pod.map(|pod| pod.origin),
            container: container.and_then(|(_, name)| known(name)),
            container_id,
            node: pod
                .and_then(|pod| pod.node.clone())
                .or_else(|| self.hosts.get(actor.host)?.node.clone()),
            host: self.hosts.name(actor.host).map(str::to_owned),
            owner: pod.and_then(|pod| pod.owner.clone()),
            cgroup: path.map(|path| text::escape(path.text.as_bytes())),
            pid: place.pid,
            tid: place.tid,
            comm: place.comm.map(str::to_owned),
            address: actor.local.filter(|_| pod.is_none() && actor.is_address()).map(|l| l.ip()),
        }
    }

    /// The thread that `actor`'s socket is known by.
    pub fn task(&self, actor: &Actor) -> Option<Task> {
        let place = self.node.place(actor);
        let pid = place.pid?;
        let comm = place.comm.unwrap_or_default().to_owned();
        Some(Task { pid, tid: place.tid.unwrap_or(pid), comm })
    }

    /// From the cgroup path, else from the container's id; where no path is known, from the
    /// address of the socket.
    fn pod_uid<'a>(&'a self, actor: &Actor, place: &Place<'a>) -> Option<&'a str> {
        match place.path.filter(|path| !path.text.is_empty()).map(|path| &path.facts) {
            Some(facts) => facts.pod.as_deref().or_else(|| {
                let (uid, _) = self.cluster.container(facts.container.as_deref()?)?;
                Some(uid)
            }),
            None => self.cluster.uid_of_ip(actor.local?.ip()),
        }
    }

    /// The unit `actor` belongs to, for tying a resolver's two sides together.
    pub fn entity(&self, actor: &Actor) -> Option<Entity> {
        let place = self.node.place(actor);
        if let Some(uid) = self.pod_uid(actor, &place) {
            return Some(Entity::Pod(uid.to_owned()));
        }
        let unit = self.node.unit(&place).map(|id| Entity::Cgroup(actor.host, id));
        unit.or_else(|| {
            let ip = actor.local?.ip().to_canonical();
            Some(Entity::Address(actor.host.of(ip), ip))
        })
    }

    /// The actor's role if its cgroup lies in a traced scope; `None` where scopes are unknown.
    pub fn role(&self, actor: &Actor) -> Option<context::Role> {
        self.node.role(&self.node.place(actor))
    }

    /// What connection tracking refused at these instants in the network namespaces of `actors` and of their
    /// nodes; `None` where on one of those nobody tried to read that.
    pub fn refused<'a>(
        &self,
        actors: impl Iterator<Item = &'a Actor>,
        instants: &BTreeSet<Timestamp>,
    ) -> Option<Vec<Refused>> {
        let mut hosts: BTreeMap<HostId, BTreeSet<u64>> = BTreeMap::new();
        for actor in actors {
            hosts.entry(actor.host).or_default().extend(self.node.net_ns(actor));
        }
        let around = |(host, namespaces): (&HostId, &BTreeSet<u64>)| {
            self.conntrack.around(*host, namespaces, instants)
        };
        let tried = hosts.keys().all(|host| self.conntrack.tried(*host));
        tried.then(|| hosts.iter().flat_map(around).collect())
    }

    /// Inode of the network namespace that `actor` is in, as far as known.
    pub fn net_ns(&self, actor: &Actor) -> Option<u64> {
        self.node.net_ns(actor)
    }

    /// What comes to `actor` at `at` may answer something asked before it was traced: its socket is older.
    pub fn asked_before(&self, actor: &Actor, at: Timestamp) -> bool {
        self.node.asked_before(actor, at)
    }

    /// What `client` asked at `at` it may have asked before `resolver` was traced: its program is older, and
    /// the trace began just before.
    pub fn repeats(&self, client: &Actor, resolver: &Actor, at: Timestamp) -> bool {
        self.node.repeats(client, resolver, at)
    }

    /// The record of `actor`'s host, if one came.
    pub fn host(&self, actor: &Actor) -> Option<&context::Host> {
        self.hosts.get(actor.host)
    }

    /// Records of several hosts are in the stream.
    pub fn several_hosts(&self) -> bool {
        self.hosts.several()
    }

    /// The resolver configuration `actor` reads.
    pub fn resolver_config(&self, actor: &Actor) -> Option<&ResolverConfig> {
        let place = self.node.place(actor);
        let by_namespace = place.mnt_ns.map(|id| ConfigKey::MountNamespace(actor.host, id));
        let by_cgroup = || self.config_of_cgroup.get(&(actor.host, place.cgroup?)).copied();
        let exact = by_namespace.and_then(|key| self.configs.get(&key));
        if let Some(facts) = exact.or_else(|| self.configs.get(&by_cgroup()?)) {
            return Some(&facts.config);
        }
        // Containers of a pod share one file; so do, as a rule, the processes of one scope.
        let entity = self.entity(actor)?;
        let mut all = self.configs.iter().map(|(_, facts)| facts);
        let same = all.find(|facts| self.entity(&facts.reader).as_ref() == Some(&entity));
        same.map(|facts| &facts.config)
    }

    /// The socket's latest intended destination, from the connect/sendmsg hook or the kernel's own
    /// list of sockets: what the program asked for, before any translation.
    pub fn intended(&self, actor: &Actor) -> Option<SocketAddr> {
        self.node.asked(actor).last().copied()
    }

    /// What the program asked for when packets of its socket show `wire`: `wire` itself if it ever
    /// asked for that (one socket can serve several servers), else the latest destination.
    pub fn asked_for(&self, actor: &Actor, wire: SocketAddr) -> SocketAddr {
        let asked = self.node.asked(actor);
        if asked.contains(&wire) { wire } else { asked.last().copied().unwrap_or(wire) }
    }

    /// Identity facts given up because a table was full.
    pub fn evicted(&self) -> u64 {
        self.node.evicted()
            + self.cluster.evicted()
            + self.configs.evicted()
            + self.hosts.evicted()
            + self.conntrack.evicted()
    }
}
