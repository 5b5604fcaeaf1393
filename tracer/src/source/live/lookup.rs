//! Questions to the Kubernetes API that targets need answered once: the pods of a selector, what
//! stands behind an object, names. Follows nothing.

use std::time::Duration;

use anyhow::bail;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::api::slim::{EndpointSlice, Named, Pod as ApiPod};
use super::api::{self, Failure, Place};
use super::kubernetes::{Cluster, pages};
use super::objects;
use super::selector::Selector;
use super::workload::Kind;
use crate::context::Pod;
use crate::text::visible;

/// Most endpoints of one Service looked at.
const UIDS_MAX: usize = 65_536;

/// Of a pod, whether it has ended.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Phased {
    status: Phase,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Phase {
    phase: String,
}

/// What stands behind an object.
pub(super) enum Behind {
    /// The pods with these labels.
    Labels(Selector),
    /// The pods with these UIDs: a Service without selector.
    Slices(Vec<String>),
    /// No pods but another host's name.
    External(String),
    /// There is no such object.
    Nothing,
}

/// Pods by labels, on all nodes; those that have ended are left out.
pub(super) fn pods(
    cluster: &Cluster,
    namespace: Option<&str>,
    selector: Option<&Selector>,
    within: Duration,
) -> anyhow::Result<Vec<Pod>> {
    let mut target = target(Kind::Pod, namespace);
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        target += &format!("labelSelector={}&", api::escaped(&selector.to_string()));
    }
    let mut pods = Vec::new();
    let each = |item: Box<RawValue>| {
        pods.extend(running(item.get()));
        true
    };
    let client = cluster.client();
    cluster.wait_for(within, async { Ok(pages(&client, &target, each).await?) })?;
    Ok(pods)
}

/// The pod, unless it has ended or is none that Kubernetes would have accepted.
fn running(item: &str) -> Option<Pod> {
    let Phased { status } = serde_json::from_str(item).unwrap_or_default();
    if matches!(status.phase.as_str(), "Succeeded" | "Failed") {
        return None;
    }
    let mut pod = objects::pod(&serde_json::from_str::<ApiPod>(item).ok()?);
    api::bounded_pod(&mut pod)?;
    Some(pod)
}

/// What stands behind an object of this kind, namespace and name.
pub(super) fn behind(
    cluster: &Cluster,
    (kind, namespace, name): (Kind, &str, &str),
    within: Duration,
) -> anyhow::Result<Behind> {
    let client = cluster.client();
    cluster.wait_for(within, async {
        let Some(found) = get(&client, kind, namespace, name).await? else {
            return Ok(Behind::Nothing);
        };
        if kind == Kind::Service {
            return behind_service(&client, &found, namespace, name).await;
        }
        let selector = found.pointer("/spec/selector").cloned().unwrap_or_default();
        let selector: LabelSelector = serde_json::from_value(selector).unwrap_or_default();
        let selector = Selector::from(kube::core::Selector::try_from(selector)?);
        if selector.is_empty() {
            bail!("{}/{name} has no selector", kind.short());
        }
        Ok(Behind::Labels(selector))
    })
}

async fn behind_service(
    client: &Client,
    found: &Value,
    namespace: &str,
    name: &str,
) -> anyhow::Result<Behind> {
    if text(found, "/spec/type") == Some("ExternalName") {
        let host = text(found, "/spec/externalName").unwrap_or_default();
        return Ok(Behind::External(visible(host)));
    }
    let labels = found.pointer("/spec/selector").and_then(Value::as_object);
    if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
        let pair =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        return Ok(Behind::Labels(Selector::of_labels(labels.iter().filter_map(pair).collect())));
    }
    let place = Place { namespace: Some(namespace.to_owned()), fields: None };
    let slices = api::target("discovery.k8s.io", "endpointslices", &place);
    let label = api::escaped(&format!("kubernetes.io/service-name={name}"));
    let mut uids = Vec::new();
    let each = |slice: EndpointSlice| {
        let mut slice = objects::slice(&slice);
        if api::bounded_slice(&mut slice).is_some() {
            uids.extend(slice.endpoints.into_iter().filter_map(|at| at.pod_uid));
        }
        uids.len() < UIDS_MAX
    };
    pages(client, &format!("{slices}labelSelector={label}&"), each).await?;
    Ok(Behind::Slices(uids))
}

/// Namespaces and names of all objects of a kind, for finding similar ones; none without an answer.
pub(super) fn names(cluster: &Cluster, kind: Kind, within: Duration) -> Vec<(String, String)> {
    let (client, target) = (cluster.client(), target(kind, None));
    let mut names = Vec::new();
    let each = |object: Named| {
        names.extend(api::names_of(&object.metadata));
        true
    };
    match cluster.wait_for(within, async { Ok(pages(&client, &target, each).await?) }) {
        Ok(()) => names,
        Err(_) => Vec::new(),
    }
}

async fn get(
    client: &Client,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> Result<Option<Value>, Failure> {
    let place = Place { namespace: Some(namespace.to_owned()), fields: None };
    let plural = format!("{}/{}", kind.plural(), api::escaped(name));
    api::object(client, &api::target(kind.group(), &plural, &place)).await
}

fn target(kind: Kind, namespace: Option<&str>) -> String {
    let place = Place { namespace: namespace.map(str::to_owned), fields: None };
    api::target(kind.group(), kind.plural(), &place)
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_ended_or_are_none_are_left_out() {
        let item = |name: &str, phase: &str| {
            let meta = serde_json::json!({ "name": name, "namespace": "shop", "uid": "u" });
            serde_json::json!({ "metadata": meta, "status": { "phase": phase } }).to_string()
        };
        assert_eq!(running(&item("web", "Running")).map(|pod| pod.name).as_deref(), Some("web"));
        assert!(running(&item("web", "Failed")).is_none());
        assert!(running(&item("we\x1b[2Jb", "Running")).is_none());
        assert!(running("7").is_none());
    }
}
