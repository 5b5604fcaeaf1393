//! Pods as the node's own directories name them: kubelet's log folders and hosts files. Needs no
//! API and no credentials; knows only pods of this node.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::context::{Container, Origin, Pod};

/// Most pods read; kubelet allows some hundreds on a node.
const PODS_MAX: usize = 10_000;

/// The node's directories.
#[derive(Clone, Debug)]
pub(super) struct NodeFiles {
    logs: PathBuf,
    links: PathBuf,
    pods: PathBuf,
}

impl NodeFiles {
    /// Below the node's root file system.
    pub(super) fn new(host_root: &Path) -> Self {
        Self {
            logs: host_root.join("var/log/pods"),
            links: host_root.join("var/log/containers"),
            pods: host_root.join("var/lib/kubelet/pods"),
        }
    }

    /// Whether kubelet's log folder exists at all.
    pub(super) fn exist(&self) -> bool {
        self.logs.is_dir()
    }

    /// Names and UIDs of all pods with a log folder; cheap enough to be asked often.
    pub(super) fn names(&self) -> Vec<Pod> {
        let entries = fs::read_dir(&self.logs).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| pod(entry.file_name().to_str()?));
        names.take(PODS_MAX).collect()
    }

    /// All that the directories say about all pods.
    pub(super) fn all(&self) -> Vec<Pod> {
        let ids = self.container_ids();
        let mut pods = self.names();
        for pod in &mut pods {
            self.complete(pod, &ids);
        }
        pods
    }

    /// All that the directories say about one pod of [`Self::names`].
    pub(super) fn details(&self, mut pod: Pod) -> Pod {
        self.complete(&mut pod, &self.container_ids());
        pod
    }

    /// A container's name in its pod, by its runtime id.
    pub(super) fn container_name(&self, id: &str) -> Option<String> {
        let mut all = self.container_ids().into_iter();
        all.find(|(.., at)| at == id).map(|(_, _, name, _)| name)
    }

    fn complete(&self, pod: &mut Pod, ids: &[(String, String, String, String)]) {
        let folder = self.logs.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid));
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            let id = ids
                .iter()
                .find(|(p, n, c, _)| (p, n, c) == (&pod.name, &pod.namespace, &name))
                .map(|(.., id)| id.clone());
            pod.containers.push(Container { name, id });
        }
        let hosts = fs::read_to_string(self.pods.join(&pod.uid).join("etc-hosts"));
        pod.ips = hosts.ok().and_then(|text| pod_address(&text, &pod.name)).into_iter().collect();
    }

    /// Pod, namespace, container name and id of each link `<pod>_<ns>_<container>-<id>.log`.
    fn container_ids(&self) -> Vec<(String, String, String, String)> {
        let entries = fs::read_dir(&self.links).into_iter().flatten().flatten();
        entries.filter_map(|entry| container_link(entry.file_name().to_str()?)).collect()
    }
}

/// `<namespace>_<pod>_<uid>`; `_` can occur in none of the three.
fn pod(folder: &str) -> Option<Pod> {
    let mut parts = folder.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    let plain = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
    };
    (parts.next().is_none() && [namespace, name, uid].into_iter().all(plain)).then(|| Pod {
        uid: uid.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        origin: Origin::NodeFiles,
        ..Pod::default()
    })
}

fn container_link(link: &str) -> Option<(String, String, String, String)> {
    let mut parts = link.strip_suffix(".log")?.split('_');
    let (pod, namespace, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (container, id) = rest.rsplit_once('-')?;
    (id.len() == 64).then(|| (pod.into(), namespace.into(), container.into(), id.into()))
}

/// The pod's address: the line of its hosts file that ends in its name.
fn pod_address(hosts: &str, pod: &str) -> Option<IpAddr> {
    hosts.lines().rev().find_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word == pod).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "b3a7000000000000000000000000000000000000000000000000000000000001";

    #[test]
    fn reads_kubelets_folders() {
        let root = tempfile::tempdir().unwrap();
        let logs = root.path().join("var/log/pods");
        fs::create_dir_all(logs.join("shop_client-0_0a1b2c3d-1111-2222-3333-444455556666/app"))
            .unwrap();
        fs::create_dir_all(logs.join("not a pod")).unwrap();
        let links = root.path().join("var/log/containers");
        fs::create_dir_all(&links).unwrap();
        fs::write(links.join(format!("client-0_shop_app-{CID}.log")), "").unwrap();
        let pod = root.path().join("var/lib/kubelet/pods/0a1b2c3d-1111-2222-3333-444455556666");
        fs::create_dir_all(&pod).unwrap();
        fs::write(pod.join("etc-hosts"), "127.0.0.1 localhost\n10.244.1.10\tclient-0\n").unwrap();
        let pods = NodeFiles::new(root.path()).all();
        assert_eq!(pods.len(), 1);
        assert_eq!((pods[0].namespace.as_str(), pods[0].name.as_str()), ("shop", "client-0"));
        assert_eq!(pods[0].ips, ["10.244.1.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(pods[0].containers, [Container { name: "app".into(), id: Some(CID.into()) }]);
    }
}
