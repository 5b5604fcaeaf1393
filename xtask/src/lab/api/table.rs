//! Lists as the tables that `kubectl get` asks the server for.

use serde_json::{Value, json};

use super::request::Kind;
use crate::lab::objects::Object;

/// A column: its head, whether only `-o wide` shows it, and the field.
type Column = (&'static str, bool, fn(&Object) -> String);

const PODS: &[Column] = &[
    ("Ready", false, |_| "1/1".to_owned()),
    ("Status", false, |pod| pod.field("/status/phase").to_owned()),
    ("Restarts", false, |_| "0".to_owned()),
    ("Age", false, age),
    ("IP", true, |pod| pod.field("/status/podIP").to_owned()),
    ("Node", true, |pod| pod.field("/spec/nodeName").to_owned()),
    ("QoS", true, |pod| pod.field("/status/qosClass").to_owned()),
];

const SERVICES: &[Column] = &[
    ("Type", false, |service| service.field("/spec/type").to_owned()),
    ("Cluster-IP", false, |service| service.field("/spec/clusterIP").to_owned()),
    ("External-IP", false, |_| "<none>".to_owned()),
    ("Port(s)", false, |service| joined(service, "/spec/ports", port)),
    ("Age", false, age),
];

const NODES: &[Column] = &[
    ("Status", false, |_| "Ready".to_owned()),
    ("Internal-IP", true, |node| node.field("/status/addresses/0/address").to_owned()),
];

const SLICES: &[Column] = &[
    ("AddressType", false, |slice| slice.field("/addressType").to_owned()),
    ("Ports", false, |slice| joined(slice, "/ports", port)),
    ("Endpoints", false, |slice| {
        joined(slice, "/endpoints", |end| text(end.pointer("/addresses/0")))
    }),
    ("Age", false, age),
];

/// The objects as a Table; in a watch only the first has the columns' heads.
pub(super) fn of(kind: &Kind, version: u64, objects: &[&Object], with_heads: bool) -> Value {
    let columns = match kind.plural {
        "pods" => PODS,
        "services" => SERVICES,
        "nodes" => NODES,
        "endpointslices" => SLICES,
        _ => &[],
    };
    let mut heads = vec![
        json!({ "name": "Name", "type": "string", "format": "name", "description": "", "priority": 0 }),
    ];
    heads.extend(columns.iter().map(|(name, wide, _)| {
        json!({ "name": name, "type": "string", "format": "", "description": "", "priority": u8::from(*wide) })
    }));
    let rows = objects.iter().map(|object| {
        let mut cells = vec![object.field("/metadata/name").to_owned()];
        cells.extend(columns.iter().map(|(_, _, cell)| cell(object)));
        let metadata = object.body.get("metadata");
        let partial = json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        });
        json!({ "cells": cells, "object": partial })
    });
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1",
        "metadata": { "resourceVersion": version.to_string() },
        "columnDefinitions": if with_heads { heads } else { Vec::new() }, "rows": rows.collect::<Vec<_>>(),
    })
}

fn age(object: &Object) -> String {
    let made: Option<jiff::Timestamp> = object.field("/metadata/creationTimestamp").parse().ok();
    let seconds = made.map(|made| jiff::Timestamp::now().as_second() - made.as_second());
    match seconds {
        Some(seconds @ 0..=119) => format!("{seconds}s"),
        Some(seconds @ 120..=7199) => format!("{}m", seconds / 60),
        Some(seconds @ 7200..=172_799) => format!("{}h", seconds / 3600),
        Some(seconds) if seconds > 0 => format!("{}d", seconds / 86_400),
        _ => "<unknown>".to_owned(),
    }
}

fn joined(object: &Object, pointer: &str, one: fn(&Value) -> String) -> String {
    let items = object.body.pointer(pointer).and_then(Value::as_array);
    let words: Vec<String> = items.into_iter().flatten().map(one).collect();
    if words.is_empty() { "<unset>".to_owned() } else { words.join(",") }
}

fn port(port: &Value) -> String {
    format!("{}/{}", text(port.get("port")), text(port.get("protocol")))
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    }
}
