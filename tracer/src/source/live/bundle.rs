//! OCI bundles on the node: what the runtime wrote about a container before its first process ran.
//! Only the annotation with the container's name in its pod is read.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Longest config.json looked at.
const SIZE_MAX: u64 = 1 << 20;

/// Where containerd (also k3s') and CRI-O keep them: before and after the container's id.
const PLACES: [(&str, &str); 4] = [
    ("run/containerd/io.containerd.runtime.v2.task/k8s.io", "config.json"),
    ("run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io", "config.json"),
    ("run/containers/storage/overlay-containers", "userdata/config.json"),
    ("var/lib/containers/storage/overlay-containers", "userdata/config.json"),
];

/// Annotations that carry the name: containerd's, CRI-O's.
const NAMES: [&str; 2] = ["io.kubernetes.cri.container-name", "io.kubernetes.container.name"];

/// The node's bundles.
#[derive(Clone, Debug)]
pub(super) struct Bundles(PathBuf);

impl Bundles {
    /// Below the node's root file system.
    pub(super) fn new(host_root: &Path) -> Self {
        Self(host_root.to_owned())
    }

    /// A container's name in its pod, by its runtime id (64 hex digits).
    pub(super) fn container_name(&self, id: &str) -> Option<String> {
        PLACES.iter().find_map(|(before, after)| {
            let file = fs::File::open(self.0.join(before).join(id).join(after)).ok()?;
            let mut text = Vec::new();
            file.take(SIZE_MAX).read_to_end(&mut text).ok()?;
            let config: serde_json::Value = serde_json::from_slice(&text).ok()?;
            let annotations = config.get("annotations")?;
            NAMES.iter().find_map(|name| Some(annotations.get(name)?.as_str()?.to_owned()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_both_runtimes() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let containerd = "run/containerd/io.containerd.runtime.v2.task/k8s.io";
        write(
            &format!("{containerd}/aa/config.json"),
            r#"{"annotations":{"io.kubernetes.cri.container-name":"app"}}"#,
        );
        write(
            "var/lib/containers/storage/overlay-containers/bb/userdata/config.json",
            r#"{"annotations":{"io.kubernetes.container.name":"web"}}"#,
        );
        write(&format!("{containerd}/cc/config.json"), "not json");
        let bundles = Bundles::new(root.path());
        assert_eq!(bundles.container_name("aa").as_deref(), Some("app"));
        assert_eq!(bundles.container_name("bb").as_deref(), Some("web"));
        assert_eq!(bundles.container_name("cc"), None);
        assert_eq!(bundles.container_name("dd"), None);
    }
}
