//! Objects of the API are foreign: what is longer or more than Kubernetes allows is cut or left out,
//! and counted; an object without a plausible name is refused.

use std::collections::BTreeMap;

use super::slim::Meta;
use crate::context;
use crate::source::live::plain;

const NAMESPACE_MAX: usize = 63;
const NAME_MAX: usize = 253;
const UID_MAX: usize = 128;
/// Prefix, slash and name.
const LABEL_KEY_MAX: usize = 253 + 1 + 63;
const LABEL_VALUE_MAX: usize = 63;
const LABELS_MAX: usize = 128;
const IPS_MAX: usize = 16;
const SEARCHES_MAX: usize = 32;
const CONTAINERS_MAX: usize = 256;
const PORTS_MAX: usize = 256;
/// The API allows 1000 endpoints in a slice.
const ENDPOINTS_MAX: usize = 1000;
/// kube-proxy uses the first only.
const ENDPOINT_ADDRESSES_MAX: usize = 4;

/// How much was cut, or `None`: not an object that Kubernetes would have accepted.
pub(in crate::source::live) type Cut = Option<u64>;

fn graphic(text: &str, max: usize) -> bool {
    text.len() <= max && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
}

/// As Kubernetes names things: they stand in selectors, lines, and commands that users copy.
fn names(namespace: &str, name: &str) -> bool {
    let space = namespace.is_empty() || plain::name(namespace);
    space && namespace.len() <= NAMESPACE_MAX && plain::name(name)
}

/// Namespace and name of an object, if Kubernetes would have accepted them.
pub(in crate::source::live) fn names_of(meta: &Meta) -> Option<(String, String)> {
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let name = meta.name.as_deref().unwrap_or_default();
    names(namespace, name).then(|| (namespace.to_owned(), name.to_owned()))
}

fn shorten<T>(items: &mut Vec<T>, max: usize) -> u64 {
    let over = items.len().saturating_sub(max);
    items.truncate(max);
    items.shrink_to_fit();
    over as u64
}

fn blank(text: &mut Option<String>, fits: impl Fn(&str) -> bool) -> u64 {
    let bad = text.as_deref().is_some_and(|text| !fits(text));
    if bad {
        *text = None;
    }
    u64::from(bad)
}

fn keep<T>(items: &mut Vec<T>, fits: impl FnMut(&T) -> bool) -> u64 {
    let before = items.len();
    items.retain(fits);
    (before - items.len()) as u64
}

fn labels(labels: &mut BTreeMap<String, String>) -> u64 {
    let before = labels.len();
    let prefixed = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    labels.retain(|key, value| {
        key.len() <= LABEL_KEY_MAX && prefixed(key) && graphic(value, LABEL_VALUE_MAX)
    });
    while labels.len() > LABELS_MAX {
        labels.pop_last();
    }
    (before - labels.len()) as u64
}

/// A pod.
pub(in crate::source::live) fn pod(pod: &mut context::Pod) -> Cut {
    if !names(&pod.namespace, &pod.name) || !graphic(&pod.uid, UID_MAX) {
        return None;
    }
    let mut cut = labels(&mut pod.labels);
    cut += blank(&mut pod.node, plain::name);
    cut += blank(&mut pod.dns_policy, |text| graphic(text, 63));
    let owner = |(kind, name): (&str, &str)| graphic(kind, 63) && graphic(name, NAME_MAX);
    cut += blank(&mut pod.owner, |text| text.split_once('/').is_some_and(owner));
    cut += blank(&mut pod.created, |text| graphic(text, 40));
    cut += shorten(&mut pod.ips, IPS_MAX) + shorten(&mut pod.host_ips, IPS_MAX);
    cut += keep(&mut pod.dns_searches, |text| graphic(text, NAME_MAX));
    cut += shorten(&mut pod.dns_searches, SEARCHES_MAX);
    cut += keep(&mut pod.containers, |at| plain::name(&at.name));
    cut += shorten(&mut pod.containers, CONTAINERS_MAX);
    for container in &mut pod.containers {
        cut += blank(&mut container.id, |text| graphic(text, UID_MAX));
    }
    Some(cut)
}

fn ports(ports: &mut Vec<context::Port>) -> u64 {
    keep(ports, |at| graphic(&at.name, 63) && graphic(&at.protocol, 16)) + shorten(ports, PORTS_MAX)
}

/// A Service.
pub(in crate::source::live) fn service(service: &mut context::Service) -> Cut {
    if !names(&service.namespace, &service.name) {
        return None;
    }
    let mut cut = labels(&mut service.labels) + ports(&mut service.ports);
    cut += blank(&mut service.external_name, |text| graphic(text, NAME_MAX));
    cut += shorten(&mut service.external_ips, IPS_MAX);
    Some(cut + shorten(&mut service.cluster_ips, IPS_MAX))
}

/// An EndpointSlice.
pub(in crate::source::live) fn slice(slice: &mut context::EndpointSlice) -> Cut {
    if !names(&slice.namespace, &slice.name) {
        return None;
    }
    let mut cut = blank(&mut slice.service, |text| graphic(text, NAME_MAX));
    cut += ports(&mut slice.ports) + shorten(&mut slice.endpoints, ENDPOINTS_MAX);
    let path = |text: &str| text.split_once('/').is_some_and(|(space, name)| names(space, name));
    for endpoint in &mut slice.endpoints {
        cut += shorten(&mut endpoint.addresses, ENDPOINT_ADDRESSES_MAX);
        cut += blank(&mut endpoint.pod, path);
        cut += blank(&mut endpoint.pod_uid, |text| graphic(text, UID_MAX));
        cut += blank(&mut endpoint.node, plain::name);
    }
    Some(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_labels_are_left_out_and_counted() {
        let mut labels: BTreeMap<String, String> =
            (0..200).map(|number| (format!("k{number}"), "v".into())).collect();
        labels.insert("big".into(), "x".repeat(1 << 20));
        labels.insert("bell".into(), "\x07".into());
        let name = "web".to_owned();
        let mut found = context::Pod { name, labels, ..context::Pod::default() };
        assert_eq!(pod(&mut found), Some(74));
        assert_eq!(found.labels.len(), LABELS_MAX);
        assert!(!found.labels.contains_key("big"));
    }

    #[test]
    fn control_bytes_in_a_name_make_no_object() {
        for name in ["", "a\x1b[31m", "a/b", "a;b$(c)", &"x".repeat(254)] {
            let mut found = context::Service { name: name.into(), ..context::Service::default() };
            assert_eq!(service(&mut found), None, "{name:?}");
        }
    }

    #[test]
    fn a_slice_keeps_a_thousand_endpoints() {
        let endpoint = context::Endpoint {
            pod: Some("no-slash".into()),
            node: Some("n\n".into()),
            ..context::Endpoint::default()
        };
        let mut found = context::EndpointSlice {
            name: "web-x".into(),
            endpoints: vec![endpoint; 1500],
            ..context::EndpointSlice::default()
        };
        assert_eq!(slice(&mut found), Some(500 + 2000));
        assert!(found.endpoints.iter().all(|at| at.pod.is_none() && at.node.is_none()));
    }
}
