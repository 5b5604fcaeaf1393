//! Bodies of context records: facts about host and cluster that user space learned, as JSON
//! (unknown fields are ignored, missing ones default: old and new versions read each other).
//! Applying one twice changes nothing. Holds no logic.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::record::Timestamp;

/// The machine the records come from; scopes pids, cgroup ids and cookies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Kubernetes node name, when known.
    pub node: Option<String>,
    /// Host name.
    pub hostname: String,
    /// Kernel release.
    pub kernel: String,
    /// Machine architecture.
    pub arch: String,
    /// Processors.
    pub cpus: u32,
    /// Version of svctrace that recorded.
    pub version: String,
    /// Ports that mean DNS.
    pub dns_ports: Vec<u16>,
    /// The cluster's resolver on this node is traced along.
    pub resolver_traced: bool,
    /// System calls are recorded (results and errno are known).
    pub syscalls: bool,
    /// Names of optional probes that this kernel refused.
    pub missing_probes: Vec<String>,
    /// A recording of it ends here while others go on: what is open on it stays undecided.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ended: bool,
    /// What its kubelet was told about DNS, where that could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubelet: Option<Kubelet>,
}

/// The settings from which a kubelet makes the resolv.conf of pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kubelet {
    /// Where they stand: paths on the node, or `command line`.
    pub read_from: Vec<String>,
    /// `clusterDomain`.
    pub cluster_domain: Option<String>,
    /// `clusterDNS`.
    pub cluster_dns: Vec<IpAddr>,
    /// `resolvConf`: path on the node of the file it copies from, empty for none; absent where
    /// nothing told it.
    pub resolv_conf: Option<String>,
}

/// Where records were lost.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum LossStage {
    /// The kernel's ring buffer was full, or a kernel map refused state.
    #[default]
    Kernel,
    /// A queue in user space overflowed, or a record came too late for its place in time.
    User,
    /// A payload was longer than the snap length.
    Payload,
    /// A record or message could not be understood.
    Decode,
}

/// Records that never arrived, since the last such record of the same stage and source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Loss {
    /// Where.
    pub stage: LossStage,
    /// Probe or component.
    pub source: String,
    /// How many.
    pub count: u64,
    /// Earliest instant the loss can have happened.
    pub first: Timestamp,
    /// Latest instant.
    pub last: Timestamp,
}

/// Why a cgroup is traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The user asked for it.
    #[default]
    Target,
    /// The cluster's resolver, traced along.
    Resolver,
}

/// A cgroup (with all below it) was attached to, or released again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scope {
    /// cgroup id of the attach point.
    pub cgroup: u64,
    /// Its path below the cgroup2 mount.
    pub path: String,
    /// Why.
    pub role: Role,
    /// Only this process in it (`--pid` in a shared cgroup).
    pub only_pid: Option<u32>,
    /// The trace of it ended.
    pub ended: bool,
}

/// A cgroup that exists.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cgroup {
    /// cgroup v2 id (inode of the directory).
    pub id: u64,
    /// Path below the cgroup2 mount, starting with `/`.
    pub path: String,
}

/// A process that exists (older than the attach, or just seen).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Process id on the host.
    pub pid: u32,
    /// Parent.
    pub ppid: Option<u32>,
    /// Name, escaped.
    pub comm: String,
    /// Path of the program, escaped.
    pub exe: Option<String>,
    /// cgroup v2 id.
    pub cgroup: Option<u64>,
    /// cgroup path (v2, or a v1 hierarchy's when v2 says only `/`).
    pub cgroup_path: Option<String>,
    /// Inode of its mount namespace.
    pub mnt_ns: Option<u64>,
    /// Inode of its network namespace.
    pub net_ns: Option<u64>,
    /// Real user id.
    pub uid: Option<u32>,
}

/// A socket that exists: older than the attach, found by sock_diag and /proc.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Socket {
    /// Cookie.
    pub cookie: u64,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// Local end.
    pub local: SocketAddr,
    /// Remote end, when connected.
    pub remote: Option<SocketAddr>,
    /// Owner.
    pub pid: Option<u32>,
    /// Its name, escaped.
    pub comm: Option<String>,
    /// Descriptor there.
    pub fd: Option<i32>,
    /// cgroup of the owner.
    pub cgroup: Option<u64>,
    /// Inode of the network namespace.
    pub net_ns: Option<u64>,
}

/// The resolver configuration that processes of one mount namespace read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResolvConf {
    /// cgroup of the process it was read through.
    pub cgroup: Option<u64>,
    /// Inode of the mount namespace.
    pub mnt_ns: Option<u64>,
    /// Process it was read through.
    pub pid: Option<u32>,
    /// Path inside that mount namespace.
    pub path: String,
    /// The text, lossy UTF-8, cut at 64 KiB; `None` when it could not be read.
    pub text: Option<String>,
    /// Why it could not be read.
    pub error: Option<String>,
}

/// A file of the node, such as its own resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeFile {
    /// Path on the node (without the host-root prefix).
    pub path: String,
    /// The text, lossy UTF-8, cut at 64 KiB.
    pub text: String,
}

/// What connection tracking refused in one network namespace, since it was first read. Told when it was
/// first read, and when it changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Conntrack {
    /// Inode of the network namespace.
    pub net_ns: u64,
    /// It is the one in which svctrace runs: the node's.
    pub own: bool,
    /// `None` where they cannot be read.
    pub counters: Option<ConntrackCounters>,
    /// When they were read before: what is new came later.
    pub since: Timestamp,
    /// When they were read.
    pub at: Timestamp,
}

/// Counters of connection tracking, of all processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConntrackCounters {
    /// Entries that could not be inserted: another had their place, and the packet was dropped.
    pub insert_failed: u64,
    /// Packets dropped, those among them; the others because the table was full.
    pub drop: u64,
    /// Entries given up for new ones.
    pub early_drop: u64,
}

/// Where a fact about Kubernetes came from, worst first.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// /proc, as last resort.
    #[default]
    Proc,
    /// kubelet's and the runtime's directories.
    NodeFiles,
    /// The container runtime's socket.
    Cri,
    /// The kubelet's own list.
    Kubelet,
    /// The Kubernetes API.
    Api,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// UID as in cgroup paths (for static pods the config hash).
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Node it runs on.
    pub node: Option<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// Addresses of its node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_ips: Vec<IpAddr>,
    /// Shares the node's network namespace.
    pub host_network: bool,
    /// `dnsPolicy`.
    pub dns_policy: Option<String>,
    /// `dnsConfig.searches`.
    pub dns_searches: Vec<String>,
    /// `dnsConfig` was told; else `dns_searches` says nothing by being empty.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dns_config_known: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Owner as `Kind/name`, the top one known.
    pub owner: Option<String>,
    /// Containers.
    pub containers: Vec<Container>,
    /// Where this came from.
    pub origin: Origin,
    /// `creationTimestamp` as the API writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// All containers ended for good: its addresses may be another's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub finished: bool,
    /// It is gone.
    pub deleted: bool,
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Name in the pod.
    pub name: String,
    /// Runtime id, 64 hex digits, without the `containerd://` in front.
    pub id: Option<String>,
}

/// A port of a Service or EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Port {
    /// Name, possibly empty.
    pub name: String,
    /// `TCP`, `UDP`, `SCTP`.
    pub protocol: String,
    /// Number.
    pub port: u16,
    /// Number on every node's addresses (`nodePort`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Virtual addresses; empty when headless.
    pub cluster_ips: Vec<IpAddr>,
    /// `externalIPs` and those of its load balancer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<IpAddr>,
    /// `externalName`: it is an alias of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    /// Ports.
    pub ports: Vec<Port>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// It is gone.
    pub deleted: bool,
}

/// Part of a Service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointSlice {
    /// Namespace.
    pub namespace: String,
    /// Name of the slice.
    pub name: String,
    /// Service (label `kubernetes.io/service-name`).
    pub service: Option<String>,
    /// Ports of the endpoints.
    pub ports: Vec<Port>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// It is gone.
    pub deleted: bool,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// `conditions.ready`; absent means ready.
    pub ready: Option<bool>,
    /// `conditions.serving`: ready, whether terminating or not; absent means as `ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// `conditions.terminating`; absent means it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
    /// Pod behind it, as `namespace/name`.
    pub pod: Option<String>,
    /// Its UID.
    pub pod_uid: Option<String>,
    /// Node it is on.
    pub node: Option<String>,
}
