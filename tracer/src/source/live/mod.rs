//! The live source: probes, agent and context of this host become records.
//!
//! Two processes: the agent (privileged: attaches, reads /proc, follows pods) and the pipeline
//! (reads the ring buffer through a descriptor it was given, gets context records from the agent).

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use crate::sandbox::Mode;

/// What to trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Pods, those of now and those to come.
    Pods {
        /// Where.
        namespace: Namespace,
        /// Which.
        which: Which,
    },
    /// A container by runtime id, or a prefix of it.
    Container(String),
    /// A cgroup, absolute or below the cgroup2 mount.
    Cgroup(PathBuf),
    /// A process.
    Pid(u32),
    /// A command to run, from its first instruction.
    Command(Vec<OsString>),
}

/// Where pods are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// That of the kubeconfig's context, else `default`.
    Default,
    /// This one.
    Named(String),
    /// Everywhere.
    All,
}

/// Which pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The one of this name, or those of an object.
    Named(Kind, String),
    /// With these labels.
    Labels(Selector),
    /// Every one on this node.
    All,
}

/// How to trace.
#[derive(Clone, Debug)]
pub struct Options {
    /// What; several at once.
    pub targets: Vec<Target>,
    /// Of the pods only these containers: names, or runtime ids or prefixes of them; empty: all.
    pub containers: Vec<String>,
    /// Trace the cluster's resolver on this node along.
    pub resolver: bool,
    /// Attach the system-call tracepoints.
    pub syscalls: bool,
    /// Bytes of the ring buffer, a power of two.
    pub ring_bytes: u32,
    /// Ports that mean DNS.
    pub dns_ports: Vec<u16>,
    /// Most bytes of a DNS packet to keep.
    pub snap_len: u32,
    /// kubeconfig to use instead of the usual places.
    pub kubeconfig: Option<PathBuf>,
    /// Context in it.
    pub context: Option<String>,
    /// Use no Kubernetes API.
    pub no_api: bool,
    /// Where the node's file system is, for an agent in a container.
    pub host_root: PathBuf,
    /// Wait for a pod that does not exist yet.
    pub wait: bool,
    /// Look at what comes to the targets' network namespaces.
    pub wire: bool,
    /// Stop after this time.
    pub duration: Option<Duration>,
    /// Print the probes' own log.
    pub probe_log: bool,
    /// Tell the arguments of commands.
    pub keep_payload: bool,
    /// Rights to give up.
    pub sandbox: Mode,
}

mod agent;
mod api;
mod bounded;
mod bundles;
mod cgroups;
mod clock;
mod command;
mod conntrack;
mod convert;
mod cri;
mod following;
#[doc(hidden)]
pub mod foreign;
mod guesses;
mod invoker;
mod kubeconfig;
mod kubelet;
mod kubelet_config;
mod kubernetes;
mod link;
mod lookup;
mod merge;
mod names;
mod node_files;
mod objects;
mod pipeline_process;
mod plain;
mod preconditions;
pub mod probes;
mod processes;
mod resolv_conf;
mod resolver;
mod rights;
mod ring;
mod runtime_sockets;
mod selection;
mod selector;
pub mod selftest;
mod session;
mod sockets;
mod targets;
mod wire;
pub mod workload;

pub use agent::agent;
pub use invoker::owner;
pub use ring::{Ending, receive};
pub use selector::Selector;
pub use workload::Kind;

/// From now on memory is taken page by page: huge pages, which the allocator asks for, would double what
/// is resident on a node that may be short of it. What is refused only costs memory.
fn spare_memory() {
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Gives the kernel back what the allocator keeps of the start, when objects were parsed and programs
/// loaded: ten times what is needed from then on.
fn return_memory() {
    // SAFETY: it takes and gives no pointers, and may be called at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
