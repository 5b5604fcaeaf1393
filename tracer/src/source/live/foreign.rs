//! Bytes of strangers straight into the parsers of this source, which nothing outside it can name:
//! for the fuzz targets and the suite. No program calls it; it asks nobody and opens nothing.

use serde::Serialize;

use super::api::{foreign, slim};
use super::kubernetes::Fact;
use super::{convert, cri, kubelet, kubelet_config, node_files};
use crate::cgroup_path;
use crate::context::{Kubelet, Pod};
use crate::record::{Record, RecordKind, Timestamp};

/// Kinds of objects that are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `pods`.
    Pods,
    /// `services`.
    Services,
    /// `endpointslices`.
    EndpointSlices,
}

/// A record as the ring buffer holds it, its times moved by `offset_ns`.
pub fn ring(raw: &[u8], offset_ns: i64) -> Option<Record> {
    let mut record = convert::record(raw).ok()?;
    convert::to_unix(&mut record, offset_ns);
    Some(record)
}

/// Whether a record of the small ring says something to the agent.
pub fn lifecycle(raw: &[u8]) -> bool {
    convert::lifecycle(raw).is_some()
}

/// What the lines of a watch say, their bytes coming `piece` at a time.
pub fn watch(resource: Resource, bytes: &[u8], piece: usize) -> Vec<Record> {
    records(match resource {
        Resource::Pods => foreign::watch::<slim::Pod>(bytes, piece),
        Resource::Services => foreign::watch::<slim::Service>(bytes, piece),
        Resource::EndpointSlices => foreign::watch::<slim::EndpointSlice>(bytes, piece),
    })
}

/// What a page of a list says, its bytes coming `piece` at a time.
pub fn list(resource: Resource, bytes: &[u8], piece: usize) -> Vec<Record> {
    records(match resource {
        Resource::Pods => foreign::list::<slim::Pod>(bytes, piece),
        Resource::Services => foreign::list::<slim::Service>(bytes, piece),
        Resource::EndpointSlices => foreign::list::<slim::EndpointSlice>(bytes, piece),
    })
}

/// What the kubelet's list says.
pub fn kubelet(bytes: &[u8]) -> Vec<Record> {
    kubelet::pods(bytes)
        .unwrap_or_default()
        .pods
        .iter()
        .map(|pod| context(RecordKind::Pod, pod))
        .collect()
}

/// What a runtime's answers say: to ListPodSandbox, ListContainers and PodSandboxStatus.
pub fn runtime(sandboxes: &[u8], containers: &[u8], status: &[u8]) -> Vec<Record> {
    let pods = cri::decoded(sandboxes, containers, status).map(|answer| answer.pods);
    pods.unwrap_or_default().iter().map(|pod| context(RecordKind::Pod, pod)).collect()
}

/// What a kubelet's options or configuration say.
pub fn kubelet_config(text: &str) -> Kubelet {
    kubelet_config::told_by(text)
}

/// What the name of a folder of logs says.
pub fn log_folder(name: &str) -> Option<Pod> {
    node_files::pod(name)
}

/// Pod UID and container id in a cgroup's path.
pub fn cgroup_path(path: &str) -> (Option<String>, Option<String>) {
    let facts = cgroup_path::parse(path);
    (facts.pod, facts.container)
}

fn records(facts: Vec<Fact>) -> Vec<Record> {
    let record = |fact| match fact {
        Fact::Pod(pod) => Some(context(RecordKind::Pod, &pod)),
        Fact::Service(service) => Some(context(RecordKind::Service, &service)),
        Fact::EndpointSlice(slice) => Some(context(RecordKind::EndpointSlice, &slice)),
        _ => None,
    };
    facts.into_iter().filter_map(record).collect()
}

fn context(kind: RecordKind, fact: &impl Serialize) -> Record {
    Record::bare(0, Timestamp(0), kind, serde_json::to_vec(fact).unwrap_or_default())
}
