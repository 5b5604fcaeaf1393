//! The Kubernetes objects that match the lab: the same uids, addresses and container ids.
//! Pure: a world in, JSON out.

use serde_json::{Value, json};

use super::net::NODE_IP;
use super::pods::{Pod, Role};
use super::services::{Backing, SERVICES, Service};
use super::state::World;

/// One object and where it is found.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The plural of its kind, as in paths.
    pub resource: &'static str,
    /// Without kind and apiVersion, which items of a list do not carry.
    pub body: Value,
}

impl Object {
    pub(crate) fn field(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// What identifies it among its kind.
    pub(crate) fn key(&self) -> (&'static str, String, String) {
        let namespace = self.field("/metadata/namespace").to_owned();
        (self.resource, namespace, self.field("/metadata/name").to_owned())
    }
}

/// Every object of the lab.
pub(crate) fn all(world: &World) -> Vec<Object> {
    let mut objects = vec![Object { resource: "nodes", body: node(world) }];
    for name in ["critical-app", "default", "kube-system"] {
        objects.push(Object { resource: "namespaces", body: namespace(world, name) });
    }
    objects.extend(world.pods.iter().map(|p| Object { resource: "pods", body: pod(world, p) }));
    for service in &SERVICES {
        objects.push(Object { resource: "services", body: service_body(world, service) });
        objects.push(Object { resource: "endpointslices", body: slice(world, service) });
    }
    objects.extend(super::workloads::all(world));
    objects
}

fn uid(kind: u8, number: usize) -> String {
    format!("5c0a{kind:02x}00-7e1d-4b3f-9c2a-{number:012x}")
}

fn node(world: &World) -> Value {
    json!({
        "metadata": {
            "name": world.node, "uid": uid(1, 1), "creationTimestamp": world.started,
            "labels": { "kubernetes.io/hostname": world.node, "kubernetes.io/os": "linux" },
        },
        "spec": { "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"] },
        "status": {
            "addresses": [
                { "type": "InternalIP", "address": NODE_IP },
                { "type": "Hostname", "address": world.node },
            ],
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady",
                "lastHeartbeatTime": world.started, "lastTransitionTime": world.started }],
            "nodeInfo": {
                "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "",
                "osImage": "svctrace lab", "containerRuntimeVersion": "containerd://lab",
                "kubeletVersion": "v1.33.0", "kubeProxyVersion": "", "operatingSystem": "linux",
                "architecture": "amd64",
            },
        },
    })
}

fn namespace(world: &World, name: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "uid": uid(2, name.len()), "creationTimestamp": world.started,
            "labels": { "kubernetes.io/metadata.name": name },
        },
        "spec": { "finalizers": ["kubernetes"] },
        "status": { "phase": "Active" },
    })
}

fn pod(world: &World, pod: &Pod) -> Value {
    let mut metadata = json!({
        "name": pod.name, "namespace": pod.namespace, "uid": pod.uid,
        "creationTimestamp": pod.started, "labels": pod.labels,
    });
    if let Some(owner) = &pod.owner {
        metadata["generateName"] = json!(format!("{owner}-"));
        metadata["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": uid(3, owner.len()),
            "controller": true, "blockOwnerDeletion": true,
        }]);
    }
    let policy = if pod.role == Role::Resolver { "Default" } else { "ClusterFirst" };
    let ready = |kind: &str| json!({ "type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": pod.started });
    let image = format!("registry.invalid/lab/{}:1", pod.container);
    let ips: Vec<Value> = [Some(&pod.ip), pod.ipv6.as_ref()]
        .into_iter()
        .flatten()
        .map(|ip| json!({ "ip": ip }))
        .collect();
    json!({
        "metadata": metadata,
        "spec": {
            "containers": [{
                "name": pod.container, "image": image, "resources": resources(pod),
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File", "imagePullPolicy": "IfNotPresent",
            }],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": policy,
            "nodeName": world.node, "securityContext": {}, "schedulerName": "default-scheduler",
            "enableServiceLinks": true, "priority": 0, "preemptionPolicy": "PreemptLowerPriority",
        },
        "status": {
            "phase": "Running",
            "conditions": [ready("PodReadyToStartContainers"), ready("Initialized"),
                ready("Ready"), ready("ContainersReady"), ready("PodScheduled")],
            "hostIP": NODE_IP, "hostIPs": [{ "ip": NODE_IP }],
            "podIP": pod.ip, "podIPs": ips,
            "startTime": pod.started,
            "containerStatuses": [{
                "name": pod.container, "state": { "running": { "startedAt": pod.started } },
                "lastState": {}, "ready": true, "restartCount": 0, "image": image, "imageID": "",
                "containerID": format!("containerd://{}", pod.container_id), "started": true,
            }],
            "qosClass": pod.qos.class(),
        },
    })
}

fn resources(pod: &Pod) -> Value {
    let amount = json!({ "cpu": "100m", "memory": "64Mi" });
    match pod.qos {
        super::Qos::BestEffort => json!({}),
        super::Qos::Burstable => json!({ "requests": amount }),
        super::Qos::Guaranteed => json!({ "limits": amount, "requests": amount }),
    }
}

fn service_body(world: &World, service: &Service) -> Value {
    let ports = service.ports.iter().map(|port| {
        json!({ "name": port.name, "protocol": port.protocol.upper(), "port": port.port, "targetPort": port.target })
    });
    let policy = if matches!(service.backing, Backing::NotLocal) { "Local" } else { "Cluster" };
    let mut body = json!({
        "metadata": {
            "name": service.name, "namespace": service.namespace, "uid": service_uid(service),
            "creationTimestamp": world.started, "labels": {},
        },
        "spec": {
            "ports": ports.collect::<Vec<_>>(), "clusterIP": service.address,
            "clusterIPs": [service.address], "type": "ClusterIP", "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": policy,
        },
        "status": { "loadBalancer": {} },
    });
    if let Some((key, value)) = service.selector {
        body["spec"]["selector"] = json!({ key: value });
    }
    if service.name == "kube-dns" {
        body["metadata"]["labels"] =
            json!({ "k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS" });
    }
    body
}

fn service_uid(service: &Service) -> String {
    let number = SERVICES.iter().position(|other| other.address == service.address);
    uid(4, number.unwrap_or_default())
}

fn slice(world: &World, service: &Service) -> Value {
    let hosts: &[u8] = match service.backing {
        Backing::Hosts(hosts) => hosts,
        Backing::None => &[],
        // A pod of another node, as kube-proxy with a local policy has no use for it.
        Backing::NotLocal => &[],
    };
    let endpoints = hosts.iter().map(|host| endpoint(world, &format!("10.244.1.{host}")));
    let mut endpoints: Vec<Value> = endpoints.collect();
    if matches!(service.backing, Backing::NotLocal) {
        endpoints.push(json!({
            "addresses": ["10.244.2.40"], "nodeName": "another-node",
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "targetRef": { "kind": "Pod", "namespace": service.namespace,
                "name": "elsewhere-5d9c7b6f4-r8w2m", "uid": uid(5, 1) },
        }));
    }
    let ports = service.ports.iter().map(
        |port| json!({ "name": port.name, "protocol": port.protocol.upper(), "port": port.target }),
    );
    json!({
        "metadata": {
            "name": format!("{}-7xk2d", service.name), "generateName": format!("{}-", service.name),
            "namespace": service.namespace, "uid": service_uid(service).replacen("5c0a04", "5c0a06", 1),
            "creationTimestamp": world.started,
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service.name,
            },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Service", "name": service.name,
                "uid": service_uid(service), "controller": true, "blockOwnerDeletion": true }],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports.collect::<Vec<_>>(),
    })
}

fn endpoint(world: &World, ip: &str) -> Value {
    let mut endpoint = json!({
        "addresses": [ip], "conditions": { "ready": true, "serving": true, "terminating": false },
    });
    if let Some(pod) = world.pods.iter().find(|pod| pod.ip == ip) {
        endpoint["nodeName"] = json!(world.node);
        endpoint["targetRef"] = json!({
            "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid,
        });
    }
    endpoint
}
