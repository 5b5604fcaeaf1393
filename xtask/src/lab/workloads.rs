//! What owns the lab's pods, as the API shows it, and the pods that run on another node.
//! Pure: a world in, JSON out.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::objects::Object;
use super::state::World;

/// The node that is not this machine.
pub const OTHER_NODE: &str = "another-node";
/// Pods there: name, address, label `app`, uid as the EndpointSlices have it.
const OTHER_PODS: [(&str, &str, &str, &str); 2] = [
    (
        "elsewhere-5d9c7b6f4-r8w2m",
        "10.244.2.40",
        "elsewhere",
        "5c0a0500-7e1d-4b3f-9c2a-000000000001",
    ),
    ("spread-6cc4d9f77b-hq5zt", "10.244.2.41", "spread", "5c0a0500-7e1d-4b3f-9c2a-000000000002"),
];
/// Label of a Deployment's pods with the end of their ReplicaSet's name.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// Deployments, ReplicaSets, and the other node's pods.
pub(crate) fn all(world: &World) -> Vec<Object> {
    let mut labels: BTreeMap<(&str, String), BTreeMap<String, String>> = BTreeMap::new();
    for pod in &world.pods {
        if let Some(owner) = &pod.owner {
            labels.insert((&pod.namespace, owner.clone()), pod.labels.clone());
        }
    }
    for (name, _, app, _) in OTHER_PODS {
        let owner = replica_set(name);
        let hash = owner.rsplit('-').next().unwrap_or_default().to_owned();
        let its = [("app".to_owned(), app.to_owned()), (TEMPLATE_HASH.to_owned(), hash)];
        labels.insert(("critical-app", owner), its.into());
    }
    let mut objects = Vec::new();
    let mut deployments = BTreeSet::new();
    for ((namespace, name), labels) in &labels {
        objects.push(owner("replicasets", (world, namespace, name), labels));
        let Some((deployment, _)) = name.rsplit_once('-') else { continue };
        if deployments.insert((*namespace, deployment)) {
            let mut labels = labels.clone();
            labels.remove(TEMPLATE_HASH);
            objects.push(owner("deployments", (world, namespace, deployment), &labels));
        }
    }
    objects.extend(OTHER_PODS.iter().map(|pod| other_pod(world, *pod)));
    objects
}

/// The owner in a generated pod name.
fn replica_set(pod: &str) -> String {
    pod.rsplit_once('-').map_or(pod, |(owner, _)| owner).to_owned()
}

fn owner(
    resource: &'static str,
    (world, namespace, name): (&World, &str, &str),
    labels: &BTreeMap<String, String>,
) -> Object {
    let body = json!({
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("uid-of-{resource}-{name}"),
            "creationTimestamp": world.started, "labels": labels,
        },
        "spec": {
            "replicas": 1, "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": { "containers": [] },
            },
        },
        "status": {},
    });
    Object { resource, body }
}

fn other_pod(world: &World, (name, ip, app, uid): (&str, &str, &str, &str)) -> Object {
    let owner = replica_set(name);
    let hash = owner.rsplit('-').next().unwrap_or_default();
    let body: Value = json!({
        "metadata": {
            "name": name, "namespace": "critical-app", "uid": uid,
            "creationTimestamp": world.started,
            "labels": { "app": app, TEMPLATE_HASH: hash },
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner,
                "uid": format!("uid-of-replicasets-{owner}"), "controller": true,
            }],
        },
        "spec": {
            "containers": [{ "name": app, "image": "registry.invalid/lab/http:1" }],
            "nodeName": OTHER_NODE, "dnsPolicy": "ClusterFirst",
        },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }] },
    });
    Object { resource: "pods", body }
}
