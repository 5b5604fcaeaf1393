//! Questions to the Kubernetes API that targets need answered once: the pods of a selector, what
//! stands behind an object, names. Follows nothing.

use std::time::Duration;

use anyhow::bail;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Client;
use kube::api::ListParams;
use kube::core::Request;
use kube::core::params::GetParams;
use serde_json::Value;

use super::api::slim::Pod as ApiPod;
use super::kubernetes::Cluster;
use super::objects;
use super::selector::Selector;
use super::workload::Kind;
use crate::context::Pod;

/// Objects asked for at a time.
const PAGE: u32 = 250;
/// Most pages read.
const PAGES_MAX: usize = 40;

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
    let mut params = ListParams::default();
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        params = params.labels(&selector.to_string());
    }
    let path = path(Kind::Pod.group(), Kind::Pod.plural(), namespace);
    let mut pods = Vec::new();
    let each = |item: Value| {
        let ended = matches!(text(&item, "/status/phase"), Some("Succeeded" | "Failed"));
        let pod = serde_json::from_value(item).ok().filter(|_| !ended);
        pods.extend(pod.map(|pod: ApiPod| objects::pod(&pod)));
    };
    cluster.wait_for(within, list(cluster.client(), &path, params, each))?;
    Ok(pods)
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
            return behind_service(client, &found, namespace, name).await;
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
    client: Client,
    found: &Value,
    namespace: &str,
    name: &str,
) -> anyhow::Result<Behind> {
    if text(found, "/spec/type") == Some("ExternalName") {
        let host = text(found, "/spec/externalName").unwrap_or_default();
        return Ok(Behind::External(super::convert::escape(host.as_bytes())));
    }
    let labels = found.pointer("/spec/selector").and_then(Value::as_object);
    if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
        let pair =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        return Ok(Behind::Labels(Selector::of_labels(labels.iter().filter_map(pair).collect())));
    }
    let path = path("discovery.k8s.io", "endpointslices", Some(namespace));
    let params = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
    let mut uids = Vec::new();
    let each = |slice: Value| {
        let endpoints = slice.pointer("/endpoints").and_then(Value::as_array);
        let uid = |endpoint: &Value| Some(text(endpoint, "/targetRef/uid")?.to_owned());
        uids.extend(endpoints.into_iter().flatten().filter_map(uid));
    };
    list(client, &path, params, each).await?;
    Ok(Behind::Slices(uids))
}

/// Namespaces and names of all objects of a kind, for finding similar ones; none without an answer.
pub(super) fn names(cluster: &Cluster, kind: Kind, within: Duration) -> Vec<(String, String)> {
    let path = path(kind.group(), kind.plural(), None);
    let mut names = Vec::new();
    let each = |item: Value| {
        let part = |pointer| text(&item, pointer).unwrap_or_default().to_owned();
        names.push((part("/metadata/namespace"), part("/metadata/name")));
    };
    let answer = list(cluster.client(), &path, ListParams::default(), each);
    match cluster.wait_for(within, answer) {
        Ok(()) => names,
        Err(_) => Vec::new(),
    }
}

async fn get(
    client: &Client,
    kind: Kind,
    namespace: &str,
    name: &str,
) -> anyhow::Result<Option<Value>> {
    let path = path(kind.group(), kind.plural(), Some(namespace));
    match client.request(Request::new(path).get(name, &GetParams::default())?).await {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn list(
    client: Client,
    path: &str,
    params: ListParams,
    mut each: impl FnMut(Value),
) -> anyhow::Result<()> {
    let mut params = params.limit(PAGE);
    for _ in 0..PAGES_MAX {
        let mut page: Value = client.request(Request::new(path).list(&params)?).await?;
        if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
            items.into_iter().for_each(&mut each);
        }
        match text(&page, "/metadata/continue").filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(token),
            None => break,
        }
    }
    Ok(())
}

fn path(group: &str, plural: &str, namespace: Option<&str>) -> String {
    let root = if group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{group}/v1") };
    match namespace {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}
