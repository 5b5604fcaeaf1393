//! Facts about host and cluster with pseudonyms. Every field is named here, so that a new one asks
//! what it is.

use std::collections::BTreeMap;

use crate::context::{
    Cgroup, Conntrack, Container, Endpoint, EndpointSlice, Host, Kubelet, Loss, NodeFile, Pod,
    Port, Process, ResolvConf, Scope, Service, Socket,
};

use super::pseudonyms::Pseudonyms;

/// Policies of the Kubernetes API.
const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

/// A fact in which names can stand.
pub(super) trait Redact: Sized {
    /// The same with pseudonyms.
    fn redact(self, names: &mut Pseudonyms) -> Self;
}

impl Redact for Host {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self {
            boot_id: self.boot_id,
            node: self.node.map(|node| names.name(&node)),
            hostname: names.name(&self.hostname),
            kernel: names.release(&self.kernel),
            arch: self.arch,
            cpus: self.cpus,
            version: self.version,
            dns_ports: self.dns_ports,
            resolver_traced: self.resolver_traced,
            syscalls: self.syscalls,
            missing_probes: self.missing_probes,
            ended: self.ended,
            kubelet: self.kubelet.map(|kubelet| kubelet.redact(names)),
        }
    }
}

impl Redact for Conntrack {
    fn redact(self, _names: &mut Pseudonyms) -> Self {
        let Self { net_ns, own, counters, since, at } = self;
        Self { net_ns, own, counters, since, at }
    }
}

impl Redact for Kubelet {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self {
            read_from: self.read_from.iter().map(|place| names.words(place)).collect(),
            cluster_domain: self.cluster_domain.map(|domain| names.name(&domain)),
            cluster_dns: self.cluster_dns,
            resolv_conf: self.resolv_conf.map(|path| names.words(&path)),
        }
    }
}

impl Redact for Loss {
    fn redact(self, _names: &mut Pseudonyms) -> Self {
        Self {
            stage: self.stage,
            source: self.source,
            count: self.count,
            first: self.first,
            last: self.last,
        }
    }
}

impl Redact for Scope {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self {
            cgroup: self.cgroup,
            path: names.cgroup(&self.path),
            role: self.role,
            only_pid: self.only_pid,
            ended: self.ended,
        }
    }
}

impl Redact for Cgroup {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self { id: self.id, path: names.cgroup(&self.path) }
    }
}

impl Redact for Process {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self {
            pid: self.pid,
            ppid: self.ppid,
            comm: names.words(&self.comm),
            exe: self.exe.map(|exe| names.words(&exe)),
            cgroup: self.cgroup,
            cgroup_path: self.cgroup_path.map(|cgroup_path| names.cgroup(&cgroup_path)),
            mnt_ns: self.mnt_ns,
            net_ns: self.net_ns,
            uid: self.uid,
        }
    }
}

impl Redact for Socket {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self {
            cookie: self.cookie,
            protocol: self.protocol,
            local: self.local,
            remote: self.remote,
            pid: self.pid,
            comm: self.comm.map(|comm| names.words(&comm)),
            fd: self.fd,
            cgroup: self.cgroup,
            net_ns: self.net_ns,
        }
    }
}

impl Redact for ResolvConf {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self {
            cgroup: self.cgroup,
            mnt_ns: self.mnt_ns,
            pid: self.pid,
            path: names.words(&self.path),
            text: self.text.map(|text| names.resolv_conf(&text)),
            error: self.error.map(|error| names.reason(&error)),
        }
    }
}

impl Redact for NodeFile {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self { path: names.words(&self.path), text: names.resolv_conf(&self.text) }
    }
}

impl Redact for Pod {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self {
            uid: names.id(&self.uid),
            namespace: names.name(&self.namespace),
            name: names.name(&self.name),
            node: self.node.map(|node| names.name(&node)),
            ips: self.ips,
            host_ips: self.host_ips,
            host_network: self.host_network,
            dns_policy: self.dns_policy.map(|policy| unless(&DNS_POLICIES, policy, names)),
            dns_searches: self.dns_searches.iter().map(|name| names.name(name)).collect(),
            dns_config_known: self.dns_config_known,
            labels: BTreeMap::new(),
            owner: self.owner.map(|owner| names.owner(&owner)),
            containers: all(self.containers, names),
            origin: self.origin,
            created: self.created.filter(|at| is_instant(at)),
            finished: self.finished,
            deleted: self.deleted,
        }
    }
}

impl Redact for Container {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self { name: names.name(&self.name), id: self.id.map(|id| names.id(&id)) }
    }
}

impl Redact for Port {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self {
            name: names.name(&self.name),
            protocol: unless(&PROTOCOLS, self.protocol, names),
            port: self.port,
            node_port: self.node_port,
        }
    }
}

impl Redact for Service {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self {
            namespace: names.name(&self.namespace),
            name: names.name(&self.name),
            cluster_ips: self.cluster_ips,
            external_ips: self.external_ips,
            external_name: self.external_name.map(|name| names.name(&name)),
            ports: all(self.ports, names),
            labels: BTreeMap::new(),
            deleted: self.deleted,
        }
    }
}

impl Redact for EndpointSlice {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self {
            namespace: names.name(&self.namespace),
            name: names.name(&self.name),
            service: self.service.map(|service| names.name(&service)),
            ports: all(self.ports, names),
            endpoints: all(self.endpoints, names),
            deleted: self.deleted,
        }
    }
}

impl Redact for Endpoint {
    fn redact(self, names: &mut Pseudonyms) -> Self {
        Self {
            addresses: self.addresses,
            ready: self.ready,
            serving: self.serving,
            terminating: self.terminating,
            pod: self.pod.map(|pod| names.names(&pod)),
            pod_uid: self.pod_uid.map(|pod_uid| names.id(&pod_uid)),
            node: self.node.map(|node| names.name(&node)),
        }
    }
}

fn all<T: Redact>(facts: Vec<T>, names: &mut Pseudonyms) -> Vec<T> {
    facts.into_iter().map(|fact| fact.redact(names)).collect()
}

/// Nothing but an instant as the API writes it.
fn is_instant(text: &str) -> bool {
    text.len() <= 40 && text.bytes().all(|byte| byte.is_ascii_digit() || b"TZ:-+.".contains(&byte))
}

/// A word that the API defines stays.
fn unless(known: &[&str], word: String, names: &mut Pseudonyms) -> String {
    if known.contains(&word.as_str()) { word } else { names.name(&word) }
}
