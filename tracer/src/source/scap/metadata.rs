//! Containers and Kubernetes objects that the writer put into the file as JSON, to context. Nothing of
//! a container's environment is read.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::out::Out;
use crate::context::{Container, Origin, Pod, Port, Service};
use crate::record::RecordKind;

/// Event types that tell of the machine or the cluster: written by the writer itself, with no time
/// that means anything.
pub(super) const CONTAINER: u16 = 228;
pub(super) const KUBERNETES: u16 = 260;
const MESOS: u16 = 270;
pub(super) const CONTAINER_JSON: u16 = 272;
const NOTIFICATION: u16 = 280;
const INFRASTRUCTURE: u16 = 286;
pub(super) const CONTAINER_JSON_2: u16 = 324;
pub(super) const ASYNC: u16 = 402;

/// One of those.
pub(super) fn is_meta(event: u16) -> bool {
    matches!(
        event,
        CONTAINER
            | KUBERNETES
            | MESOS
            | CONTAINER_JSON
            | NOTIFICATION
            | INFRASTRUCTURE
            | CONTAINER_JSON_2
            | ASYNC
    )
}

/// Name of the container that holds a pod's network.
const SANDBOX: &str = "POD";
/// Digits of a container id that a writer keeps.
const SHORT: usize = 12;
const CONTAINERS_MAX: usize = 16_384;
/// Longer JSON is nobody's container or cluster, nor are longer names.
const JSON_MAX: usize = 1 << 20;
const NAME_MAX: usize = 253;

#[derive(Deserialize)]
struct ContainerEvent {
    container: ContainerJson,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerJson {
    id: String,
    full_id: String,
    name: String,
    ip: String,
    labels: Option<BTreeMap<String, Value>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct KubernetesEvent<'a> {
    kind: String,
    #[serde(rename = "type")]
    change: String,
    /// One by one: as objects they take many times the room of their text.
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

/// The fields of all kinds that matter here.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Item {
    name: String,
    namespace: String,
    uid: String,
    labels: Option<BTreeMap<String, Value>>,
    node_name: Option<String>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    container_statuses: Option<Vec<Status>>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    ports: Option<Vec<PortJson>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    name: String,
    #[serde(rename = "containerID")]
    container_id: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PortJson {
    name: String,
    protocol: String,
    port: u16,
}

/// A container that belongs to a pod.
#[derive(Clone, Debug)]
struct Known {
    pod: Pod,
    name: String,
}

/// Ids and names of containers met so far.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    /// By the first digits of the id; told once the whole id is known.
    waiting: HashMap<String, Known>,
    whole: HashMap<String, String>,
}

impl Metadata {
    /// A cgroup path named this container.
    pub(super) fn container(&mut self, id: &str, out: &mut Out) {
        let Some(short) = id.get(..SHORT) else { return };
        if self.whole.len() < CONTAINERS_MAX && !self.whole.contains_key(short) {
            self.whole.insert(short.to_owned(), id.to_owned());
        }
        if let Some(known) = self.waiting.remove(short) {
            tell(known, id, out);
        }
    }

    /// An event with a container's JSON.
    pub(super) fn container_json(&mut self, json: &[u8], out: &mut Out) {
        let Some(event) = parsed::<ContainerEvent>(json) else { return };
        let container = event.container;
        let known = by_labels(&container).or_else(|| by_name(&container));
        let Some(known) = known.filter(|known| known.is_plausible(&container.id)) else { return };
        let whole = (!container.full_id.is_empty()).then_some(&container.full_id);
        match whole.or_else(|| self.whole.get(&container.id)) {
            Some(id) => tell(known, id, out),
            None if self.waiting.len() < CONTAINERS_MAX => {
                self.waiting.insert(container.id, known);
            }
            None => {}
        }
    }

    /// An event of the time before there was JSON: id, name.
    pub(super) fn container_named(&mut self, id: &[u8], name: &[u8], out: &mut Out) {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let container =
            ContainerJson { id: text(id), name: text(name), ..ContainerJson::default() };
        let known = by_name(&container).filter(|known| known.is_plausible(&container.id));
        let Some(known) = known else { return };
        match self.whole.get(&container.id) {
            Some(id) => tell(known, id, out),
            None if self.waiting.len() < CONTAINERS_MAX => {
                self.waiting.insert(container.id, known);
            }
            None => {}
        }
    }
}

impl Known {
    /// No longer than such names can be.
    fn is_plausible(&self, id: &str) -> bool {
        let pod = &self.pod;
        [id, &pod.uid, &pod.namespace, &pod.name, &self.name].iter().all(|t| t.len() <= NAME_MAX)
    }
}

fn parsed<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Option<T> {
    serde_json::from_slice(json.get(..JSON_MAX).map_or(json, |_| &[])).ok()
}

/// The container's pod is known, and so is its whole id.
fn tell(known: Known, id: &str, out: &mut Out) {
    let mut pod = known.pod;
    if known.name != SANDBOX {
        pod.containers = vec![Container { name: known.name, id: Some(id.to_owned()) }];
    }
    out.context(RecordKind::Pod, &pod);
}

fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified())
}

/// Labels that kubelet gives, since Kubernetes 1.3 or so.
fn by_labels(container: &ContainerJson) -> Option<Known> {
    let labels = container.labels.as_ref()?;
    let label = |name: &str| labels.get(name)?.as_str().map(str::to_owned);
    Some(Known {
        pod: Pod {
            uid: label("io.kubernetes.pod.uid")?,
            namespace: label("io.kubernetes.pod.namespace")?,
            name: label("io.kubernetes.pod.name")?,
            ips: address(&container.ip).into_iter().collect(),
            origin: Origin::Cri,
            ..Pod::default()
        },
        // A sandbox has none.
        name: label("io.kubernetes.container.name").unwrap_or_else(|| SANDBOX.to_owned()),
    })
}

/// `k8s_CONTAINER.HASH_POD_NAMESPACE_UID_…`.
fn by_name(container: &ContainerJson) -> Option<Known> {
    let mut parts = container.name.strip_prefix("k8s_")?.split('_');
    let name = parts.next()?.split('.').next()?.to_owned();
    let (pod, namespace, uid) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Known {
        pod: Pod {
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            name: pod.to_owned(),
            ips: address(&container.ip).into_iter().collect(),
            origin: Origin::Cri,
            ..Pod::default()
        },
        name,
    })
}

/// An event with Kubernetes objects.
pub(super) fn kubernetes_json(json: &[u8], out: &mut Out) {
    let Some(event) = parsed::<KubernetesEvent<'_>>(json) else { return };
    let deleted = event.change == "DELETED";
    if event.change == "ERROR" {
        return;
    }
    for item in event.items.unwrap_or_default() {
        let item = serde_json::from_str::<Item>(item.get()).unwrap_or_default();
        if item.name.is_empty() {
            continue; // no object is without a name
        }
        match event.kind.as_str() {
            "Pod" => out.context(RecordKind::Pod, &pod(item, deleted)),
            "Service" => out.context(RecordKind::Service, &service(item, deleted)),
            _ => {}
        }
    }
}

fn texts(labels: Option<BTreeMap<String, Value>>) -> BTreeMap<String, String> {
    let text = |(key, value)| match value {
        Value::String(text) => Some((key, text)),
        _ => None,
    };
    labels.unwrap_or_default().into_iter().filter_map(text).collect()
}

fn pod(item: Item, deleted: bool) -> Pod {
    let status = |status: Status| Container {
        id: status.container_id.split_once("://").map(|(_, id)| id.to_owned()),
        name: status.name,
    };
    Pod {
        uid: item.uid,
        namespace: item.namespace,
        name: item.name,
        node: item.node_name,
        host_network: item.pod_ip.is_some() && item.pod_ip == item.host_ip,
        ips: item.pod_ip.as_deref().and_then(address).into_iter().collect(),
        labels: texts(item.labels),
        containers: item.container_statuses.unwrap_or_default().into_iter().map(status).collect(),
        origin: Origin::Api,
        deleted,
        ..Pod::default()
    }
}

fn service(item: Item, deleted: bool) -> Service {
    let port = |port: PortJson| Port {
        name: port.name,
        protocol: port.protocol,
        port: port.port,
        node_port: None,
    };
    Service {
        namespace: item.namespace,
        name: item.name,
        cluster_ips: item.cluster_ip.as_deref().and_then(address).into_iter().collect(),
        ports: item.ports.unwrap_or_default().into_iter().map(port).collect(),
        labels: texts(item.labels),
        deleted,
        ..Service::default()
    }
}
