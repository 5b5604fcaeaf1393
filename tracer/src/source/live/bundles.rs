//! The runtimes' bundles: the folder of each container holds a config.json whose annotations name
//! pod and container, written before its first process starts. Of the file only those are read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::plain;
use crate::context::{Container, Origin, Pod};

/// Where runtimes keep bundles, with the id at `{}`: containerd, k3s and RKE2, k0s, microk8s, CRI-O.
const PLACES: [(&str, &str); 6] = [
    ("run/containerd/io.containerd.runtime.v2.task/k8s.io", "config.json"),
    ("run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io", "config.json"),
    ("run/k0s/containerd/io.containerd.runtime.v2.task/k8s.io", "config.json"),
    ("var/snap/microk8s/common/run/containerd/io.containerd.runtime.v2.task/k8s.io", "config.json"),
    ("run/containers/storage/overlay-containers", "userdata/config.json"),
    ("var/lib/containers/storage/overlay-containers", "userdata/config.json"),
];
/// Longest config.json read.
const CONFIG_MAX: u64 = 4 << 20;

/// What a bundle says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bundle {
    /// The pod; with the container unless it is the sandbox.
    pub(super) pod: Pod,
    /// It is the sandbox ("pause") and has no name.
    pub(super) sandbox: bool,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// The folders that exist below the node's root.
pub(super) fn places(host_root: &Path) -> Vec<(PathBuf, &'static str)> {
    let all = PLACES.iter().map(|(place, file)| (host_root.join(place), *file));
    all.filter(|(place, _)| place.is_dir()).collect()
}

/// What the bundle of container `id` says, if there is one.
pub(super) fn find(places: &[(PathBuf, &'static str)], id: &str) -> Option<Bundle> {
    if !plain::id(id) {
        return None;
    }
    places.iter().find_map(|(place, file)| {
        let mut bytes = Vec::new();
        let file = File::open(place.join(id).join(file)).ok()?;
        file.take(CONFIG_MAX).read_to_end(&mut bytes).ok()?;
        bundle(&bytes, id)
    })
}

/// The name in its pod of container `id`, as its bundle says.
pub(super) fn container_name(host_root: &Path, id: &str) -> Option<String> {
    let found = find(&places(host_root), id)?;
    found.pod.containers.into_iter().next().map(|container| container.name)
}

fn bundle(bytes: &[u8], id: &str) -> Option<Bundle> {
    let config: Config = serde_json::from_slice(bytes).ok()?;
    // containerd's name first, then CRI-O's.
    let get = |keys: [&str; 2]| keys.iter().find_map(|key| config.annotations.get(*key)).cloned();
    let uid = get(["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"])?;
    let namespace = get(["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"])?;
    let name = get(["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"])?;
    let kind = get(["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"]);
    let container = get(["io.kubernetes.cri.container-name", "io.kubernetes.container.name"]);
    if !(plain::uid(&uid) && plain::name(&namespace) && plain::name(&name)) {
        return None;
    }
    let sandbox = kind.as_deref() == Some("sandbox");
    let container = container.filter(|name| !sandbox && plain::name(name));
    let containers =
        container.map(|name| Container { name, id: Some(id.to_owned()) }).into_iter().collect();
    let origin = Origin::NodeFiles;
    Some(Bundle {
        pod: Pod { uid, namespace, name, containers, origin, ..Pod::default() },
        sandbox,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "4d2e7b1a-9c3f-4e5d-8a6b-1c2d3e4f5a6b";

    #[test]
    fn annotations_of_both_runtimes() {
        let root = tempfile::tempdir().unwrap();
        assert!(places(root.path()).is_empty());
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let write = |place: usize, id: &str, text: &str| {
            let file = root.path().join(PLACES[place].0).join(id).join(PLACES[place].1);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        let containerd = format!(
            r#"{{"process":{{"env":["SECRET=1"]}},"annotations":{{
            "io.kubernetes.cri.sandbox-uid":"{UID}","io.kubernetes.cri.sandbox-name":"client-0",
            "io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.container-name":"app"}}}}"#
        );
        write(0, &a, &containerd);
        let crio = format!(
            r#"{{"annotations":{{"io.kubernetes.pod.uid":"{UID}","io.kubernetes.pod.name":"client-0",
            "io.kubernetes.pod.namespace":"shop","io.kubernetes.cri-o.ContainerType":"sandbox",
            "io.kubernetes.container.name":"POD"}}}}"#
        );
        write(4, &b, &crio);
        let places = places(root.path());
        let found = find(&places, &a).unwrap();
        assert!(!found.sandbox);
        assert_eq!(found.pod.containers, [Container { name: "app".into(), id: Some(a) }]);
        let found = find(&places, &b).unwrap();
        assert!(found.sandbox && found.pod.containers.is_empty());
        assert_eq!((found.pod.namespace.as_str(), found.pod.name.as_str()), ("shop", "client-0"));
        assert!(find(&places, "../../x").is_none());
        assert!(bundle(b"{", "x").is_none());
        assert!(bundle(containerd.replace("shop", "a b").as_bytes(), "x").is_none());
    }
}
