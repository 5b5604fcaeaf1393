//! The kinds of objects that own pods, for the endpoint; what they hold is in `lab::workloads`.

use super::request::Kind;

const FIELDS: &[&str] = &["metadata.name", "metadata.namespace"];

const fn kind(
    group: &'static str,
    (plural, singular, name): (&'static str, &'static str, &'static str),
    short: &'static [&'static str],
) -> Kind {
    Kind { group, plural, singular, name, short, namespaced: true, fields: FIELDS }
}

/// Owners of pods; Jobs are missing: what svctrace's account may not read.
pub(super) const KINDS: [Kind; 4] = [
    kind("apps", ("deployments", "deployment", "Deployment"), &["deploy"]),
    kind("apps", ("replicasets", "replicaset", "ReplicaSet"), &["rs"]),
    kind("apps", ("statefulsets", "statefulset", "StatefulSet"), &["sts"]),
    kind("apps", ("daemonsets", "daemonset", "DaemonSet"), &["ds"]),
];
