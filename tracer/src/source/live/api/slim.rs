//! Pods, Services and EndpointSlices with the fields that say who is who; everything else is dropped
//! while it is parsed. Fields have the shapes of the API's own types. Checks nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// No list inside an object is longer. In memory an element can take many times the room of its text,
/// so what comes behind is read over.
const ELEMENTS_MAX: usize = 4096;

/// The first elements of a list, or `null`.
fn first<'de, D, T>(from: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct First<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for First<T> {
        type Value = Option<Vec<T>>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a list or null")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut first = Vec::new();
            while first.len() < ELEMENTS_MAX {
                let Some(element) = list.next_element()? else { return Ok(Some(first)) };
                first.push(element);
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(Some(first))
        }
    }

    from.deserialize_any(First(PhantomData))
}

/// `null` where the API means "none".
fn or_empty<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(first(from)?.unwrap_or_default())
}

/// `metadata`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::source::live) struct Meta {
    pub(in crate::source::live) name: Option<String>,
    pub(in crate::source::live) namespace: Option<String>,
    pub(in crate::source::live) uid: Option<String>,
    pub(in crate::source::live) resource_version: Option<String>,
    pub(in crate::source::live) creation_timestamp: Option<String>,
    pub(in crate::source::live) labels: Option<BTreeMap<String, String>>,
    pub(in crate::source::live) annotations: Option<Annotations>,
    #[serde(default, deserialize_with = "first")]
    pub(in crate::source::live) owner_references: Option<Vec<OwnerReference>>,
}

/// The annotations that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct Annotations {
    /// Static pods: the UID that their cgroups carry, instead of the mirror pod's own.
    #[serde(rename = "kubernetes.io/config.hash")]
    pub(in crate::source::live) config_hash: Option<String>,
    /// On the bookmark that ends a streamed list.
    #[serde(rename = "k8s.io/initial-events-end")]
    pub(in crate::source::live) initial_events_end: Option<String>,
}

/// Who made an object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::source::live) struct OwnerReference {
    pub(in crate::source::live) kind: String,
    pub(in crate::source::live) name: String,
    pub(in crate::source::live) controller: Option<bool>,
}

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct Pod {
    #[serde(default)]
    pub(in crate::source::live) metadata: Meta,
    pub(in crate::source::live) spec: Option<PodSpec>,
    pub(in crate::source::live) status: Option<PodStatus>,
}

/// What was asked for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::source::live) struct PodSpec {
    pub(in crate::source::live) node_name: Option<String>,
    pub(in crate::source::live) host_network: Option<bool>,
    pub(in crate::source::live) dns_policy: Option<String>,
    pub(in crate::source::live) dns_config: Option<DnsConfig>,
}

/// `dnsConfig`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct DnsConfig {
    #[serde(default, deserialize_with = "first")]
    pub(in crate::source::live) searches: Option<Vec<String>>,
}

/// What is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::source::live) struct PodStatus {
    pub(in crate::source::live) phase: Option<String>,
    #[serde(rename = "hostIP")]
    pub(in crate::source::live) host_ip: Option<String>,
    #[serde(rename = "hostIPs", default, deserialize_with = "first")]
    pub(in crate::source::live) host_ips: Option<Vec<PodIp>>,
    #[serde(rename = "podIP")]
    pub(in crate::source::live) pod_ip: Option<String>,
    #[serde(rename = "podIPs", default, deserialize_with = "first")]
    pub(in crate::source::live) pod_ips: Option<Vec<PodIp>>,
    #[serde(default, deserialize_with = "first")]
    pub(in crate::source::live) init_container_statuses: Option<Vec<ContainerStatus>>,
    #[serde(default, deserialize_with = "first")]
    pub(in crate::source::live) container_statuses: Option<Vec<ContainerStatus>>,
    #[serde(default, deserialize_with = "first")]
    pub(in crate::source::live) ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

/// An address of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::source::live) struct PodIp {
    pub(in crate::source::live) ip: String,
}

/// A container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::source::live) struct ContainerStatus {
    pub(in crate::source::live) name: String,
    #[serde(rename = "containerID")]
    pub(in crate::source::live) container_id: Option<String>,
}

/// A Service.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct Service {
    #[serde(default)]
    pub(in crate::source::live) metadata: Meta,
    pub(in crate::source::live) spec: Option<ServiceSpec>,
    pub(in crate::source::live) status: Option<ServiceStatus>,
}

/// How it is reached.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::source::live) struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    pub(in crate::source::live) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs", default, deserialize_with = "first")]
    pub(in crate::source::live) cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs", default, deserialize_with = "first")]
    pub(in crate::source::live) external_ips: Option<Vec<String>>,
    pub(in crate::source::live) external_name: Option<String>,
    #[serde(default, deserialize_with = "first")]
    pub(in crate::source::live) ports: Option<Vec<ServicePort>>,
}

/// What a Service was given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::source::live) struct ServiceStatus {
    pub(in crate::source::live) load_balancer: Option<LoadBalancer>,
}

/// The balancer in front of it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct LoadBalancer {
    #[serde(default, deserialize_with = "first")]
    pub(in crate::source::live) ingress: Option<Vec<Ingress>>,
}

/// An address of it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct Ingress {
    pub(in crate::source::live) ip: Option<String>,
}

/// A port of it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(in crate::source::live) struct ServicePort {
    pub(in crate::source::live) node_port: Option<i32>,
    pub(in crate::source::live) name: Option<String>,
    pub(in crate::source::live) protocol: Option<String>,
    pub(in crate::source::live) port: i32,
}

/// Part of a Service's endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct EndpointSlice {
    #[serde(default)]
    pub(in crate::source::live) metadata: Meta,
    #[serde(default, deserialize_with = "or_empty")]
    pub(in crate::source::live) endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "first")]
    pub(in crate::source::live) ports: Option<Vec<EndpointPort>>,
}

/// One endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::source::live) struct Endpoint {
    #[serde(default, deserialize_with = "or_empty")]
    pub(in crate::source::live) addresses: Vec<String>,
    pub(in crate::source::live) conditions: Option<EndpointConditions>,
    pub(in crate::source::live) target_ref: Option<ObjectReference>,
    pub(in crate::source::live) node_name: Option<String>,
}

/// Its state.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct EndpointConditions {
    pub(in crate::source::live) ready: Option<bool>,
    pub(in crate::source::live) serving: Option<bool>,
    pub(in crate::source::live) terminating: Option<bool>,
}

/// What is behind it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct ObjectReference {
    pub(in crate::source::live) kind: Option<String>,
    pub(in crate::source::live) namespace: Option<String>,
    pub(in crate::source::live) name: Option<String>,
    pub(in crate::source::live) uid: Option<String>,
}

/// A port of the endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct EndpointPort {
    pub(in crate::source::live) name: Option<String>,
    pub(in crate::source::live) protocol: Option<String>,
    pub(in crate::source::live) port: Option<i32>,
}

/// Any object, when only its names matter.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct Named {
    #[serde(default)]
    pub(in crate::source::live) metadata: Meta,
}

/// A pod's names and place.
#[derive(Clone, Debug, Default, Deserialize)]
pub(in crate::source::live) struct Placed {
    #[serde(default)]
    pub(in crate::source::live) metadata: Meta,
    pub(in crate::source::live) spec: Option<PlacedSpec>,
}

/// Its place.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::source::live) struct PlacedSpec {
    pub(in crate::source::live) node_name: Option<String>,
}
