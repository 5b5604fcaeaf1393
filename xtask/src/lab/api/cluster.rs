//! A made-up cluster of any size, with objects as large as real ones. Pure.

use serde_json::{Value, json};

use crate::lab::objects::Object;

/// How large.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pods in all.
    pub pods: usize,
    /// Of them, on [`NODE`].
    pub here: usize,
    /// Services, with one EndpointSlice each.
    pub services: usize,
    /// Endpoints in all slices.
    pub endpoints: usize,
}

/// The node with `here` pods.
pub const NODE: &str = "node-here";

/// All objects, with [`NODE`].
pub fn objects(size: &Size) -> Vec<Object> {
    objects_on(size, NODE)
}

/// All objects, with a node of this name.
pub fn objects_on(size: &Size, node: &str) -> Vec<Object> {
    let mut all: Vec<Object> =
        (0..size.pods).map(|n| pod(n, if n < size.here { node } else { "node-else" })).collect();
    for number in 0..size.services {
        all.push(Object { resource: "services", body: service(number) });
        let share = size.endpoints / size.services;
        let first = number * share;
        all.push(Object { resource: "endpointslices", body: slice(number, first..first + share) });
    }
    all
}

fn uid(kind: u8, number: usize) -> String {
    format!("{kind:08x}-1111-4222-8333-{number:012x}")
}

fn pod_name(number: usize) -> String {
    format!("checkout-service-7c9d8b6f5d-{number:05}")
}

fn ip(number: usize) -> String {
    format!("10.{}.{}.{}", 100 + number / 65536, number / 256 % 256, number % 256)
}

/// A pod of two containers, with what a real one carries along.
pub fn pod(number: usize, node: &str) -> Object {
    let name = pod_name(number);
    let env: Vec<Value> = (0..22)
        .map(
            |n| json!({ "name": format!("SETTING_{n}"), "value": format!("value-of-setting-{n}") }),
        )
        .collect();
    let fields: Value = (0..60)
        .map(|n| {
            (
                format!("k:{{\"name\":\"SETTING_{n}\"}}"),
                json!({ ".": {}, "f:name": {}, "f:value": {} }),
            )
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    let container = |name: &str| {
        json!({ "name": name, "image": format!("registry.invalid/shop/{name}:1.20.0"), "env": env,
            "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } },
            "terminationMessagePath": "/dev/termination-log", "imagePullPolicy": "IfNotPresent" })
    };
    let state = |name: &str, kind: u8| {
        json!({ "name": name, "ready": true, "restartCount": 0, "imageID": "", "lastState": {},
            "image": format!("registry.invalid/shop/{name}:1.20.0"),
            "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
            "containerID": format!("containerd://{:064x}", number * 2 + kind as usize) })
    };
    let conditions: Vec<Value> = ["Initialized", "Ready", "ContainersReady", "PodScheduled"]
        .iter()
        .map(|kind| json!({ "type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-01-01T00:00:00Z" }))
        .collect();
    let body = json!({
        "metadata": { "name": name, "namespace": "load", "uid": uid(1, number),
            "generateName": "checkout-service-7c9d8b6f5d-",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "app.kubernetes.io/name": "checkout-service", "pod-template-hash": "7c9d8b6f5d",
                "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/version": "1.20.0" },
            "annotations": { "example.com/checksum": "4d51c4b63f1e83df59b6562741bb242a799a04d3313844266016c655c4c4ddbe" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": uid(9, 1),
                "name": "checkout-service-7c9d8b6f5d", "controller": true }],
            "managedFields": [{ "manager": "kubelet", "operation": "Update", "fieldsV1": fields }] },
        "spec": { "containers": [container("web"), container("proxy")], "nodeName": node,
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler" },
        "status": { "phase": "Running", "conditions": conditions, "podIP": ip(number),
            "podIPs": [{ "ip": ip(number) }], "hostIP": "192.0.2.10", "qosClass": "Burstable",
            "containerStatuses": [state("web", 0), state("proxy", 1)] },
    });
    Object { resource: "pods", body }
}

fn service(number: usize) -> Value {
    let address = format!("10.96.{}.{}", number / 250, 1 + number % 250);
    json!({
        "metadata": { "name": format!("service-{number}"), "namespace": "load", "uid": uid(2, number),
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": { "app": format!("service-{number}") } },
        "spec": { "clusterIP": address, "clusterIPs": [address], "type": "ClusterIP",
            "selector": { "app": format!("service-{number}") },
            "ports": [{ "name": "http", "protocol": "TCP", "port": 80, "targetPort": 8080 }] },
        "status": { "loadBalancer": {} },
    })
}

fn slice(number: usize, endpoints: std::ops::Range<usize>) -> Value {
    let endpoints: Vec<Value> = endpoints
        .map(|n| {
            json!({ "addresses": [ip(n)], "nodeName": "node-else",
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "targetRef": { "kind": "Pod", "namespace": "load", "name": pod_name(n), "uid": uid(1, n) } })
        })
        .collect();
    json!({
        "metadata": { "name": format!("service-{number}-x7k2d"), "namespace": "load", "uid": uid(3, number),
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": { "kubernetes.io/service-name": format!("service-{number}") } },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
    })
}
