//! The lab's pods: who they are, and the record of a running one, which is the tests' ground truth.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Kubernetes' quality-of-service classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Qos {
    /// Nothing requested.
    BestEffort,
    /// Something requested.
    Burstable,
    /// Requests equal limits.
    Guaranteed,
}

impl Qos {
    /// The word in the cgroup path; guaranteed pods have no such level.
    pub(crate) fn slice(self) -> Option<&'static str> {
        match self {
            Self::BestEffort => Some("besteffort"),
            Self::Burstable => Some("burstable"),
            Self::Guaranteed => None,
        }
    }

    /// As the API writes it.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::BestEffort => "BestEffort",
            Self::Burstable => "Burstable",
            Self::Guaranteed => "Guaranteed",
        }
    }
}

/// What a pod is for, hence what runs in it and which resolv.conf it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sleeps; commands are executed in it. `dnsPolicy: ClusterFirst`.
    Client,
    /// The cluster's DNS server. `dnsPolicy: Default`.
    Resolver,
    /// An HTTP server on port 8080. `dnsPolicy: ClusterFirst`.
    Backend,
}

/// A pod to make.
#[derive(Clone, Debug)]
pub struct PodSpec {
    /// Short name: of the network namespace (`svct-KEY`), its veth and its files.
    pub key: String,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Last byte of its address in 10.244.1.0/24.
    pub host: u8,
    /// Its quality-of-service class.
    pub qos: Qos,
    /// What it is for.
    pub role: Role,
    /// The ReplicaSet that owns it.
    pub owner: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its resolv.conf, if it is not what kubelet writes by default.
    pub resolv_conf: Option<String>,
}

/// A pod that runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pod {
    /// Short name: of the network namespace (`svct-KEY`), its veth and its files.
    pub key: String,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's uid.
    pub uid: String,
    /// Its address.
    pub ip: String,
    /// Its IPv6 address, if it has one.
    #[serde(default)]
    pub ipv6: Option<String>,
    /// Its quality-of-service class.
    pub qos: Qos,
    /// What it is for.
    pub role: Role,
    /// The ReplicaSet that owns it.
    pub owner: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The name of its one container.
    pub container: String,
    /// That container's id, 64 hex digits.
    pub container_id: String,
    /// The container's cgroup folder.
    pub cgroup: PathBuf,
    /// The id of that folder.
    pub cgroup_id: u64,
    /// The sandbox ("pause") container's id.
    pub sandbox_id: String,
    /// The process that holds the pod's mount namespace, in the sandbox's cgroup.
    pub sandbox_pid: i32,
    /// The container's first process.
    pub main_pid: i32,
    /// The file under its network namespace's name.
    pub netns: PathBuf,
    /// The file that is its /etc/resolv.conf.
    pub resolv_conf: PathBuf,
    /// When it started, RFC 3339.
    pub started: String,
}

impl Pod {
    /// The pod-level cgroup folder, parent of the containers' folders.
    pub fn pod_cgroup(&self) -> PathBuf {
        self.cgroup.parent().map(PathBuf::from).unwrap_or_default()
    }

    /// The id that another container of this pod has.
    pub(crate) fn id_of(&self, container: &str) -> String {
        hashed(&format!("{}/{}/container/{container}", self.namespace, self.name))
    }
}

impl PodSpec {
    /// A sleeping client in critical-app; `host` is the last byte of its address.
    pub fn client(name: &str, host: u8) -> Self {
        Self {
            key: name.to_owned(),
            name: name.to_owned(),
            namespace: "critical-app".to_owned(),
            host,
            qos: Qos::BestEffort,
            role: Role::Client,
            owner: None,
            labels: labels(&[("app", name)]),
            resolv_conf: None,
        }
    }

    /// A sleeping client in critical-app that a Deployment owns: its ReplicaSet ends in `hash`.
    pub fn of_deployment(deployment: &str, hash: &str, suffix: &str, host: u8) -> Self {
        let owner = format!("{deployment}-{hash}");
        Self {
            key: suffix.to_owned(),
            name: format!("{owner}-{suffix}"),
            owner: Some(owner),
            labels: labels(&[("app", deployment), ("pod-template-hash", hash)]),
            ..Self::client(deployment, host)
        }
    }

    /// The name of its container.
    pub(crate) fn container(&self) -> &str {
        match self.role {
            Role::Client => &self.name,
            Role::Resolver => "coredns",
            Role::Backend => "http",
        }
    }

    /// A uid or a 64-digit id that is always the same for this pod and `part`.
    pub(crate) fn id(&self, part: &str) -> String {
        hashed(&format!("{}/{}/{part}", self.namespace, self.name))
    }

    /// The pod's uid, a version 4 UUID.
    pub(crate) fn uid(&self) -> String {
        let id = self.id("uid");
        let part = |range: std::ops::Range<usize>| id.get(range).unwrap_or_default().to_owned();
        format!(
            "{}-{}-4{}-a{}-{}",
            part(0..8),
            part(8..12),
            part(13..16),
            part(17..20),
            part(20..32)
        )
    }
}

/// 64 hex digits that are always the same for this text.
fn hashed(text: &str) -> String {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    (0..4).map(|_| format!("{:016x}", mix(&mut state))).collect()
}

fn mix(state: &mut u64) -> u64 {
    // splitmix64: spreads a small hash over all bits.
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The pods of a fresh lab, in the order they start.
pub fn standard() -> Vec<PodSpec> {
    let mut pods = vec![PodSpec {
        key: "dns".to_owned(),
        name: "coredns-7d764666f9-x2m4k".to_owned(),
        namespace: "kube-system".to_owned(),
        host: 20,
        qos: Qos::Burstable,
        role: Role::Resolver,
        owner: Some("coredns-7d764666f9".to_owned()),
        labels: labels(&[("k8s-app", "kube-dns"), ("pod-template-hash", "7d764666f9")]),
        resolv_conf: None,
    }];
    for (number, suffix) in (1..).zip(["4kq8z", "9xw2p", "tj6vn"]) {
        pods.push(PodSpec {
            key: format!("be{number}"),
            name: format!("backend-6f7bd8c9d5-{suffix}"),
            namespace: "critical-app".to_owned(),
            host: 30 + number,
            qos: Qos::Guaranteed,
            role: Role::Backend,
            owner: Some("backend-6f7bd8c9d5".to_owned()),
            labels: labels(&[("app", "backend"), ("pod-template-hash", "6f7bd8c9d5")]),
            resolv_conf: None,
        });
    }
    pods.push(PodSpec::client("client", 10));
    pods.push(PodSpec::client("noisy", 11));
    pods
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_their_kubernetes_shapes() {
        let pod = PodSpec::client("client", 10);
        let uid = pod.uid();
        assert_eq!(uid.len(), 36, "{uid}");
        assert_eq!(uid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_eq!(pod.id("container").len(), 64);
        assert_ne!(pod.id("container"), pod.id("sandbox"));
        assert_ne!(pod.id("container"), PodSpec::client("noisy", 11).id("container"));
    }
}
