//! Kubernetes objects as context records: only the fields that say who is who.

use std::net::IpAddr;

use super::api::slim::{EndpointSlice, Meta, Pod, PodStatus, Service};
use crate::context;

/// The UID as in cgroup paths: of a static pod the hash, not that of its mirror.
pub(super) fn uid(pod: &Pod) -> &str {
    uid_of(&pod.metadata)
}

/// The same from a pod's metadata.
pub(super) fn uid_of(meta: &Meta) -> &str {
    let hash = meta.annotations.as_ref().and_then(|all| all.config_hash.as_ref());
    hash.or(meta.uid.as_ref()).map_or("", String::as_str)
}

/// A pod.
pub(super) fn pod(pod: &Pod) -> context::Pod {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let ips = status.and_then(|status| status.pod_ips.as_ref());
    let mut addresses: Vec<IpAddr> =
        ips.into_iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
    if addresses.is_empty() {
        addresses.extend(status.and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok()));
    }
    let searches = spec.and_then(|spec| spec.dns_config.as_ref()?.searches.clone());
    let phase = status.and_then(|status| status.phase.as_deref());
    context::Pod {
        uid: uid(pod).to_owned(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        node: spec.and_then(|spec| spec.node_name.clone()),
        ips: addresses,
        host_ips: status.map(host_ips).unwrap_or_default(),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or_default(),
        dns_policy: spec.and_then(|spec| spec.dns_policy.clone()),
        dns_searches: searches.unwrap_or_default(),
        dns_config_known: spec.is_some(),
        labels: meta.labels.clone().unwrap_or_default(),
        owner: owner(pod),
        containers: containers(pod),
        origin: context::Origin::Api,
        created: meta.creation_timestamp.clone(),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        deleted: false,
    }
}

/// The node's own addresses; before Kubernetes 1.28 there is one.
fn host_ips(status: &PodStatus) -> Vec<IpAddr> {
    let all = status.host_ips.iter().flatten().map(|at| &at.ip).chain(&status.host_ip);
    let mut ips: Vec<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    ips.sort_unstable();
    ips.dedup();
    ips
}

/// `Kind/name` of the controller; of a ReplicaSet's the Deployment it is named after.
fn owner(pod: &Pod) -> Option<String> {
    let mut references = pod.metadata.owner_references.iter().flatten();
    let reference = references.find(|reference| reference.controller == Some(true))?;
    let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    let deployment = hash.and_then(|hash| reference.name.strip_suffix(hash)?.strip_suffix('-'));
    match deployment.filter(|_| reference.kind == "ReplicaSet") {
        Some(name) => Some(format!("Deployment/{name}")),
        None => Some(format!("{}/{}", reference.kind, reference.name)),
    }
}

fn containers(pod: &Pod) -> Vec<context::Container> {
    let Some(status) = pod.status.as_ref() else { return Vec::new() };
    [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ]
    .into_iter()
    .flatten()
    .flatten()
    .map(|status| context::Container {
        name: status.name.clone(),
        id: status
            .container_id
            .as_ref()
            .and_then(|id| id.split_once("://"))
            .map(|(_, id)| id.into()),
    })
    .collect()
}

/// A Service.
pub(super) fn service(service: &Service) -> context::Service {
    let meta = &service.metadata;
    let spec = service.spec.as_ref();
    let all = spec.and_then(|spec| spec.cluster_ips.clone());
    let one = spec.and_then(|spec| spec.cluster_ip.clone());
    let ips = all.filter(|ips| !ips.is_empty()).unwrap_or_else(|| one.into_iter().collect());
    let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|at| at.ingress.as_ref()).into_iter().flatten();
    let external = spec.and_then(|spec| spec.external_ips.as_ref()).into_iter().flatten();
    let external = external.chain(ingress.filter_map(|at| at.ip.as_ref()));
    context::Service {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        cluster_ips: ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        external_ips: external.filter_map(|ip| ip.parse().ok()).collect(),
        external_name: spec.and_then(|spec| spec.external_name.clone()),
        ports: ports
            .filter_map(|at| {
                let node_port = at.node_port.and_then(|port| u16::try_from(port).ok());
                let port = port(at.name.as_deref(), at.protocol.as_deref(), at.port)?;
                Some(context::Port { node_port: node_port.filter(|port| *port != 0), ..port })
            })
            .collect(),
        labels: meta.labels.clone().unwrap_or_default(),
        deleted: false,
    }
}

/// An EndpointSlice.
pub(super) fn slice(slice: &EndpointSlice) -> context::EndpointSlice {
    let meta = &slice.metadata;
    let labels = meta.labels.as_ref();
    let ports = slice.ports.iter().flatten();
    let endpoints = slice.endpoints.iter().map(|endpoint| {
        let target = endpoint.target_ref.as_ref().filter(|at| at.kind.as_deref() == Some("Pod"));
        let pod =
            target.and_then(|at| Some(format!("{}/{}", at.namespace.as_ref()?, at.name.as_ref()?)));
        context::Endpoint {
            addresses: endpoint.addresses.iter().filter_map(|ip| ip.parse().ok()).collect(),
            ready: endpoint.conditions.as_ref().and_then(|at| at.ready),
            serving: endpoint.conditions.as_ref().and_then(|at| at.serving),
            terminating: endpoint.conditions.as_ref().and_then(|at| at.terminating),
            pod,
            pod_uid: target.and_then(|at| at.uid.clone()),
            node: endpoint.node_name.clone(),
        }
    });
    context::EndpointSlice {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        service: labels.and_then(|all| all.get("kubernetes.io/service-name")).cloned(),
        ports: ports
            .filter_map(|at| port(at.name.as_deref(), at.protocol.as_deref(), at.port?))
            .collect(),
        endpoints: endpoints.collect(),
        deleted: false,
    }
}

fn port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<context::Port> {
    Some(context::Port {
        name: name.unwrap_or_default().to_owned(),
        protocol: protocol.unwrap_or("TCP").to_owned(),
        port: u16::try_from(number).ok()?,
        node_port: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn static_pods_go_by_their_hash() {
        let value = json!({ "metadata": {
            "name": "etcd", "namespace": "kube-system", "uid": "mirror",
            "annotations": { "kubernetes.io/config.hash": "aa7be809be48ec01ab43fd4f1ca22e9e" },
        }});
        assert_eq!(
            pod(&serde_json::from_value(value).unwrap()).uid,
            "aa7be809be48ec01ab43fd4f1ca22e9e"
        );
    }

    #[test]
    fn deployments_own_their_replica_sets_pods() {
        let value = json!({ "metadata": {
            "name": "web-7f9c-x", "labels": { "pod-template-hash": "7f9c" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7f9c",
                "uid": "u", "controller": true }],
        }, "status": { "podIPs": [{ "ip": "10.0.0.1" }], "containerStatuses": [{
            "name": "web", "containerID": "containerd://ab", "image": "", "imageID": "",
            "ready": true, "restartCount": 0 }] } });
        let pod = pod(&serde_json::from_value(value).unwrap());
        assert_eq!(pod.owner.as_deref(), Some("Deployment/web"));
        assert_eq!(pod.containers[0].id.as_deref(), Some("ab"));
        assert_eq!(pod.ips.len(), 1);
    }

    #[test]
    fn ways_to_a_service_and_states_of_its_endpoints() {
        let value = json!({ "metadata": { "name": "web" }, "spec": { "clusterIP": "10.3.0.2",
            "externalIPs": ["203.0.113.7"], "externalName": "db.example.com", "ports": [
                { "port": 80, "protocol": "TCP", "nodePort": 30080 }, { "port": 81, "nodePort": 0 }] },
            "status": { "loadBalancer": { "ingress": [{ "ip": "198.51.100.1" }, { "hostname": "x" }] } } });
        let service = service(&serde_json::from_value(value).unwrap());
        let ips: Vec<String> = service.external_ips.iter().map(IpAddr::to_string).collect();
        assert_eq!(ips, ["203.0.113.7", "198.51.100.1"]);
        assert_eq!(service.external_name.as_deref(), Some("db.example.com"));
        let ports: Vec<_> = service.ports.iter().map(|port| port.node_port).collect();
        assert_eq!(ports, [Some(30_080), None]);
        let value = json!({ "metadata": { "name": "web-x" }, "endpoints": [{ "addresses": ["10.0.0.5"],
            "conditions": { "ready": false, "serving": true, "terminating": true } }] });
        let slice = slice(&serde_json::from_value(value).unwrap());
        let one = &slice.endpoints[0];
        assert_eq!(
            (one.ready, one.serving, one.terminating),
            (Some(false), Some(true), Some(true))
        );
    }

    #[test]
    fn what_a_pod_says_of_its_node_and_its_end() {
        let value = json!({ "metadata": { "name": "job", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "dnsConfig": { "searches": ["own.example"] } },
            "status": { "phase": "Succeeded", "podIP": "10.0.0.5", "hostIP": "192.0.2.1",
                "hostIPs": [{ "ip": "192.0.2.1" }, { "ip": "fd00::1" }] } });
        let pod = pod(&serde_json::from_value(value).unwrap());
        assert_eq!(pod.host_ips.len(), 2);
        assert!(pod.finished && pod.dns_config_known);
        assert_eq!(pod.created.as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!(pod.dns_searches, ["own.example"]);
    }

    #[test]
    fn headless_services_have_no_address() {
        let value = json!({ "metadata": { "name": "s" }, "spec": { "clusterIP": "None",
            "clusterIPs": ["None"], "ports": [{ "port": 80 }] } });
        let service = service(&serde_json::from_value(value).unwrap());
        assert!(service.cluster_ips.is_empty());
        assert_eq!(service.ports[0].protocol, "TCP");
    }
}
