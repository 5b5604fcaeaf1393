//! The container runtime's own interface (CRI, gRPC over a Unix socket): which sandboxes and
//! containers it has. Asks only; what is read is bounded and checked. The few messages are written
//! by hand after the field numbers of runtime.v1 (v1alpha2 has the same).

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use super::plain;
use crate::context::{Container, Origin, Pod};

/// A runtime that does not answer within this time is left alone for a while.
pub(super) const TIME: Duration = Duration::from_secs(2);
/// Longest answer read, in bytes.
const ANSWER_MAX: usize = 16 << 20;
/// Most sandboxes and containers taken over.
const ITEMS_MAX: usize = 10_000;
/// Most sandboxes whose addresses are asked for in one round.
const ADDRESSES_MAX: usize = 500;
/// The versions of the interface, newest first.
const VERSIONS: [&str; 2] = ["runtime.v1", "runtime.v1alpha2"];
/// `SANDBOX_READY`.
const READY: i32 = 0;
/// `NamespaceMode::NODE`.
const NODE: i32 = 2;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) uid: String,
    #[prost(string, tag = "3")]
    pub(super) namespace: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PodSandbox {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(message, optional, tag = "2")]
    pub(super) metadata: Option<PodSandboxMetadata>,
    #[prost(int32, tag = "3")]
    pub(super) state: i32,
    #[prost(map = "string, string", tag = "5")]
    pub(super) labels: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Sandboxes {
    #[prost(message, repeated, tag = "1")]
    pub(super) items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RuntimeContainer {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(string, tag = "2")]
    pub(super) sandbox: String,
    #[prost(message, optional, tag = "3")]
    pub(super) metadata: Option<ContainerMetadata>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Containers {
    #[prost(message, repeated, tag = "1")]
    pub(super) items: Vec<RuntimeContainer>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<SandboxStatus>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<Network>,
    #[prost(message, optional, tag = "6")]
    linux: Option<Linux>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Network {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    more: Vec<PodIp>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Linux {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespaces>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Namespaces {
    #[prost(message, optional, tag = "2")]
    options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
}

/// What the runtime has.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Pods with their containers, also ended ones.
    pub(super) pods: Vec<Pod>,
    /// Ids of the sandboxes: containers that have no name.
    pub(super) sandboxes: Vec<String>,
    /// Sandboxes and containers that are none, or beyond [`ITEMS_MAX`].
    pub(super) left_out: u64,
}

/// Asks the runtime behind `socket` for all it has. Addresses are asked for only of pods that
/// `addresses` wants. Takes at most [`TIME`].
pub(super) async fn list(
    socket: &Path,
    addresses: impl Fn(&str) -> bool,
) -> anyhow::Result<Answer> {
    let work = async {
        let mut runtime = Runtime::connect(socket).await?;
        let sandboxes: Sandboxes = runtime.ask("ListPodSandbox", Nothing {}).await?;
        let containers: Containers = runtime.ask("ListContainers", Nothing {}).await?;
        let (mut answer, ids) = understood(sandboxes, containers);
        let wanted = answer.pods.iter_mut().filter(|pod| addresses(&pod.uid));
        for pod in wanted.take(ADDRESSES_MAX) {
            let Some(id) = ids.get(&pod.uid).cloned() else { continue };
            // It may be gone by now.
            if let Ok(status) = runtime.ask("PodSandboxStatus", StatusRequest { id }).await {
                add_addresses(pod, &status);
            }
        }
        Ok(answer)
    };
    tokio::time::timeout(TIME, work).await.context("the container runtime does not answer")?
}

struct Runtime {
    grpc: Grpc<Channel>,
    version: usize,
}

impl Runtime {
    async fn connect(socket: &Path) -> anyhow::Result<Self> {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        });
        // The address is never used: the connector knows the way.
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connector).await?;
        let grpc = Grpc::new(channel).max_decoding_message_size(ANSWER_MAX);
        Ok(Self { grpc, version: 0 })
    }

    async fn ask<Q, A>(&mut self, method: &str, question: Q) -> anyhow::Result<A>
    where
        Q: prost::Message + Clone + 'static,
        A: prost::Message + Default + 'static,
    {
        loop {
            self.grpc.ready().await?;
            let version = VERSIONS.get(self.version).copied().unwrap_or(VERSIONS[0]);
            let path: PathAndQuery = format!("/{version}.RuntimeService/{method}").parse()?;
            let codec = ProstCodec::<Q, A>::default();
            match self.grpc.unary(Request::new(question.clone()), path, codec).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status)
                    if status.code() == Code::Unimplemented
                        && self.version + 1 < VERSIONS.len() =>
                {
                    self.version += 1;
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
}

/// The answer in our words, and the id of the ready sandbox of each pod.
fn understood(sandboxes: Sandboxes, containers: Containers) -> (Answer, HashMap<String, String>) {
    let beyond = |count: usize| count.saturating_sub(ITEMS_MAX) as u64;
    let left_out = beyond(sandboxes.items.len()) + beyond(containers.items.len());
    let mut answer = Answer { left_out, ..Answer::default() };
    let (mut pods, mut ready) = (HashMap::<String, usize>::new(), HashMap::new());
    let mut of_sandbox = HashMap::new();
    for sandbox in sandboxes.items.into_iter().take(ITEMS_MAX) {
        let meta = sandbox.metadata.unwrap_or_default();
        let uid = meta.uid.to_ascii_lowercase();
        let good = plain::uid(&uid) && plain::name(&meta.namespace) && plain::name(&meta.name);
        if !good || !plain::id(&sandbox.id) {
            answer.left_out += 1;
            continue;
        }
        if sandbox.state == READY {
            ready.insert(uid.clone(), sandbox.id.clone());
        }
        let at = *pods.entry(uid.clone()).or_insert_with(|| {
            answer.pods.push(Pod {
                uid,
                namespace: meta.namespace,
                name: meta.name,
                labels: labels(sandbox.labels),
                origin: Origin::Cri,
                ..Pod::default()
            });
            answer.pods.len() - 1
        });
        of_sandbox.insert(sandbox.id.clone(), at);
        answer.sandboxes.push(sandbox.id);
    }
    for container in containers.items.into_iter().take(ITEMS_MAX) {
        let name = container.metadata.map(|meta| meta.name).unwrap_or_default();
        if !plain::name(&name) || !plain::id(&container.id) {
            answer.left_out += 1;
            continue;
        }
        let pod = of_sandbox.get(&container.sandbox).and_then(|at| answer.pods.get_mut(*at));
        if let Some(pod) = pod {
            pod.containers.push(Container { name, id: Some(container.id) });
        }
    }
    (answer, ready)
}

/// What the bytes of three answers say: of ListPodSandbox, ListContainers and PodSandboxStatus.
pub(super) fn decoded(
    sandboxes: &[u8],
    containers: &[u8],
    status: &[u8],
) -> Result<Answer, prost::DecodeError> {
    let (sandboxes, containers) = (Sandboxes::decode(sandboxes)?, Containers::decode(containers)?);
    let status = StatusResponse::decode(status)?;
    let (mut answer, _) = understood(sandboxes, containers);
    answer.pods.iter_mut().for_each(|pod| add_addresses(pod, &status));
    Ok(answer)
}

/// The user's labels; kubelet's own say what is known already.
fn labels(all: HashMap<String, String>) -> BTreeMap<String, String> {
    let own = |(key, value): &(String, String)| {
        !key.starts_with("io.kubernetes.") && plain::label(key) && plain::label(value)
    };
    all.into_iter().filter(own).take(plain::LABELS_MAX).collect()
}

fn add_addresses(pod: &mut Pod, status: &StatusResponse) {
    let Some(status) = &status.status else { return };
    let options = status.linux.as_ref().and_then(|l| l.namespaces.as_ref()?.options.as_ref());
    pod.host_network = options.is_some_and(|options| options.network == NODE);
    let Some(network) = &status.network else { return };
    let more = network.more.iter().map(|ip| ip.ip.as_str());
    pod.ips = std::iter::once(network.ip.as_str())
        .chain(more)
        .filter_map(|ip| ip.parse::<IpAddr>().ok())
        .take(4)
        .collect();
}
